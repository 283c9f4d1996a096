"""Labelled faces: cut out where their publisher says they are, without any detector."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack.align import Box, Face, crop
from facepack.choices import Margin
from facepack.configuration import Configuration
from facepack.image import BadImageError, Pixels
from facepack.manifest import PUBLISHED_BOX, PUBLISHED_LANDMARKS, Status

Cut = Callable[[Pixels], Face]
"""Cuts the face out of a photo (uint8 BGR HWC); raises `BadImageError`."""

NEEDED = {"crop": PUBLISHED_BOX, "chip": PUBLISHED_LANDMARKS}
"""The column by which an alignment cuts."""

CHIP_FRAME = np.array(
    [
        (0.2273300, 0.2213958),
        (0.7528140, 0.2212327),
        (0.4901270, 0.5156250),
        (0.2541490, 0.7802330),
        (0.7261040, 0.7802330),
    ]
)
"""Where dlib's chips have the middles of the eyes, the tip of the nose and the corners of the mouth: those of its mean
face, the eyes between the corners of its five-point chip. Parts of the side of a chip without padding, (5, 2)."""

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
    frame = (CHIP_FRAME + margin.value) / (2 * margin.value + 1) * size_wh.width_px
    all_points = np.array([points or [np.nan] * frame.size for _, points in published]).reshape(-1, *frame.shape)
    matrices = similarities(all_points, frame)
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
        is_share = self.margin.unit == "share"
        margin_px = self.margin.value * max(box.width, box.height) if is_share else self.margin.value
        cropped_hwc, is_padded = crop(image_hwc, box=box, margin_px=margin_px)
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
        return Face(warped(image_hwc, self.matrix, side_px=self.chip_px), self.box, self.landmarks, False)


def _is_mirrored(landmarks: tuple[float, ...]) -> bool:
    """True where left and right are not those of a viewer, so that no turning brings the points into place."""
    (x0, y0, x1, y1), (x3, y3, x4, y4) = landmarks[:4], landmarks[6:]
    return (x1 - x0) * (y3 + y4 - y0 - y1) < (y1 - y0) * (x3 + x4 - x0 - x1)


def similarities(points: Floats, frame: Floats) -> Floats:
    """The matrices (num_rows, 2, 3) that turn, scale and move points (num_rows, num_points, 2) nearest to a frame.

    Least squares (Umeyama 1991, without reflection); in the plane a rotation with scale is one complex number. Without
    meaning where all points of a row are the same.
    """
    source, target = (array[..., 0] + 1j * array[..., 1] for array in (points, frame))
    centred = source - source.mean(axis=-1, keepdims=True)
    extent = (np.abs(centred) ** 2).sum(axis=-1)
    turn = (centred.conj() * (target - target.mean())).sum(axis=-1) / np.where(extent > 0, extent, 1)
    move = target.mean() - turn * source.mean(axis=-1)
    rows = np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])
    return np.ascontiguousarray(rows.transpose(2, 0, 1))


def warped(image_hwc: Pixels, matrix: Floats, *, side_px: int) -> Pixels:
    """A square of a photo (uint8 BGR HWC) by a similarity, black beyond its border, as dlib's chips.

    A face that is to shrink is first reduced by averaging areas, so that no pixel is passed over.
    """
    if float(np.hypot(matrix[0, 0], matrix[1, 0])) < 1:
        image_hwc, matrix = _reduced(image_hwc, matrix, side_px)
    if not image_hwc.size:
        return np.zeros((side_px, side_px, 3), np.uint8)
    # With a fourth channel OpenCV takes two thirds of the time.
    with_fourth: Pixels = cv2.cvtColor(image_hwc, cv2.COLOR_BGR2BGRA)  # type: ignore[assignment]
    square = cv2.warpAffine(with_fourth, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return cv2.cvtColor(square, cv2.COLOR_BGRA2BGR)  # type: ignore[return-value]


def _reduced(image_hwc: Pixels, matrix: Floats, side_px: int) -> tuple[Pixels, Floats]:
    """The part of a photo that the square shows, at about the scale of the square, and the matrix for it."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    corners = np.array([(x, y) for x in (0, side_px) for y in (0, side_px)], float)
    shown = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    border = 2 / scale
    left, top = (max(0, int(edge - border)) for edge in shown.min(axis=0))
    right, bottom = (int(edge + border) + 1 for edge in shown.max(axis=0))
    part_hwc = image_hwc[top : max(top, bottom), left : max(left, right)]
    height, width = part_hwc.shape[:2]
    if not part_hwc.size:
        return part_hwc, matrix
    small_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small_hwc = cv2.resize(part_hwc, small_wh, interpolation=cv2.INTER_AREA)
    across, down = width / small_wh[0], height / small_wh[1]
    # The middle of pixel i of the small image is (i + 1/2) * across - 1/2 of the part.
    back = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5], [0, 0, 1]])
    return small_hwc, matrix @ back  # type: ignore[return-value]
