"""Labelled faces: cut out where their publisher says they are, without any detector."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack import template
from facepack.align import Box, Face, crop, crop_margin_px
from facepack.choices import Margin
from facepack.configuration import Configuration
from facepack.image import BadImageError, Pixels
from facepack.manifest import PUBLISHED_BOX, PUBLISHED_LANDMARKS, Status

Cut = Callable[[Pixels], Face]
"""Cuts the face out of a photo (uint8 BGR HWC); raises `BadImageError`."""

NEEDED = {"crop": PUBLISHED_BOX, "chip": PUBLISHED_LANDMARKS}
"""The column by which an alignment cuts."""

_OUTSIDE = 0.1
"""How far a point may lie outside, as a part of the photo's side: faces reach over borders."""
_SMALLEST_PX = 1.0

Floats = npt.NDArray[np.float64]


def cuts(table: pa.Table, configuration: Configuration) -> Iterator[Cut]:
    """What cuts out the face of each row, by the published box (crop) or landmarks (chip) in the table."""
    boxes, landmarks = (
        table[name].to_pylist() if name in table.column_names else [None] * len(table)
        for name in (PUBLISHED_BOX, PUBLISHED_LANDMARKS)
    )
    published = [(box and Box(*box), points and tuple(points)) for box, points in zip(boxes, landmarks, strict=True)]
    margin, size_wh = configuration.face_margin, configuration.size_wh
    if configuration.align == "crop" or size_wh is None:
        return (LabelledCrop(box, points, margin) for box, points in published)
    frame = template.of_labels(configuration.template, side_px=size_wh.width_px, margin=margin.value)
    all_points = np.array([points or [np.nan] * frame.size for _, points in published]).reshape(-1, *frame.shape)
    matrices = template.similarities(all_points, frame)
    return (
        LabelledChip(box, points, matrix, size_wh.width_px)
        for (box, points), matrix in zip(published, matrices, strict=True)
    )


@dataclass(frozen=True)
class LabelledCrop:
    """Cuts out a square around the published box."""

    box: Box | None
    landmarks: tuple[float, ...] | None
    margin: Margin

    def __call__(self, image_hwc: Pixels) -> Face:
        """Cut it out of its photo (uint8 BGR HWC); `BadImageError` where the box fits no face of this photo."""
        height, width = image_hwc.shape[:2]
        box = self.box
        if box is None or min(box.width, box.height) < _SMALLEST_PX:
            raise BadImageError(Status.NO_LABELLED_FACE)
        if not (0 <= (box.x0 + box.x1) / 2 <= width and 0 <= (box.y0 + box.y1) / 2 <= height):
            raise BadImageError(Status.NO_LABELLED_FACE)
        cropped_hwc, is_padded = crop(image_hwc, box=box, margin_px=crop_margin_px(box, self.margin))
        return Face(cropped_hwc, box, self.landmarks, is_padded)


@dataclass(frozen=True)
class LabelledChip:
    """Cuts out a chip with the published landmarks in place, by the matrix (2, 3) from photo to chip."""

    box: Box | None
    landmarks: tuple[float, ...] | None
    matrix: Floats
    chip_px: int

    def __call__(self, image_hwc: Pixels) -> Face:
        """Cut it out of its photo (uint8 BGR HWC); `BadImageError` where the landmarks fit no face of this photo."""
        if self.landmarks is None:
            raise BadImageError(Status.NO_LABELLED_FACE)
        height, width = image_hwc.shape[:2]
        columns, rows = self.landmarks[::2], self.landmarks[1::2]
        left, right, top, bottom = min(columns), max(columns), min(rows), max(rows)
        beyond = max(-left / width, right / width - 1, -top / height, bottom / height - 1)
        if beyond > _OUTSIDE or max(right - left, bottom - top) < _SMALLEST_PX or _is_mirrored(self.landmarks):
            raise BadImageError(Status.NO_LABELLED_FACE)
        return Face(template.warped(image_hwc, self.matrix, side_px=self.chip_px), self.box, self.landmarks, False)


def _is_mirrored(landmarks: tuple[float, ...]) -> bool:
    """True where left and right are not those of a viewer, so that no turning brings the points into place."""
    (x0, y0, x1, y1), (x3, y3, x4, y4) = landmarks[:4], landmarks[6:]
    return (x1 - x0) * (y3 + y4 - y0 - y1) < (y1 - y0) * (x3 + x4 - x0 - x1)
