"""Face labels: published boxes and landmarks, from columns of text to columns of numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack.description import FaceColumns
from facepack.manifest import PUBLISHED_BOX, PUBLISHED_COLUMNS, PUBLISHED_LANDMARKS

Floats = npt.NDArray[np.float32]


def published_faces(faces: FaceColumns | None, columns: Mapping[str, pa.ChunkedArray]) -> dict[str, pa.Array]:
    """Boxes (x0, y0, x1, y1) and landmarks (x0, y0, x1, y1, ...) of all rows in pixels of the photo, by column name.

    Null where a number is missing, a box has no extent, or all points are the same. Only those whose columns are there.
    """
    if faces is None:
        return {}
    arrays = {}
    if faces.box and columns.keys() >= set(faces.box):
        x, y, width, height = _numbers(columns, faces.box).T
        boxes = np.stack([x, y, x + width, y + height], axis=1)
        is_box = np.isfinite(boxes).all(axis=1) & (width > 0) & (height > 0)
        kind = PUBLISHED_COLUMNS.field(PUBLISHED_BOX).type
        arrays[PUBLISHED_BOX] = _lists(boxes, is_box).cast(kind)
    if faces.landmarks and columns.keys() >= set(faces.landmarks):
        points = _numbers(columns, faces.landmarks)
        is_face = np.isfinite(points).all(axis=1) & (np.ptp(points.reshape(len(points), -1, 2), axis=1) > 0).any(axis=1)
        arrays[PUBLISHED_LANDMARKS] = _lists(points, is_face)
    return arrays


def _numbers(columns: Mapping[str, pa.ChunkedArray], names: Sequence[str]) -> Floats:
    """Columns of text as float32 (num_rows, num_names), NaN for what is no number."""
    return np.stack([_column(columns[name]) for name in names], axis=1)


def _column(column: pa.ChunkedArray) -> Floats:
    """A column of text as float32 (num_rows,); each distinct text is read once."""
    parts = [np.empty(0, np.float32)]
    for chunk in column.chunks:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        values = np.array([*map(_number, encoded.dictionary.to_pylist()), np.nan], np.float32)
        parts.append(values[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return float("nan")


def _lists(values: Floats, is_valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Rows of numbers as lists, null where a row is not valid."""
    lengths = np.where(is_valid, values.shape[1], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values[is_valid].ravel(), pa.float32()), mask=pa.array(~is_valid)
    )
