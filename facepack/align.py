"""Align: finds the face of a photo and cuts it out, as a square crop or as a chip with the eyes in place."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from facepack import mmod, template
from facepack.choices import MAX_PIXELS, Margin
from facepack.configuration import Configuration
from facepack.description import model_file, models_folder
from facepack.errors import FieldError, UsageError
from facepack.hashing import sha256_of
from facepack.image import BadImageError, Pixels
from facepack.manifest import Status

FIRST_LOOK_PX = 640
"""The longer side of a photo, in pixels, when faces are first looked for; larger ones are reduced to it."""

NOTHING_FOUND = 2.0
"""How much larger the second look is where the first found nothing: what the published scripts do always."""

LONE_FACE_PX, LONE_FACE = 95, 1.5
"""A face so small that its neighbours may be below the smallest the detector knows, and how much larger to look."""

LANDMARKS_FILE = "shape_predictor_5_face_landmarks.dat"
NUM_LANDMARKS = 5
_UP = 1 / 3  # of the margin: the published crop of 15 px on every side lies 5 px higher than the face


class Box(NamedTuple):
    """A rectangle in pixels of the upright photo, right and bottom exclusive; it may reach over the border."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y1 - self.y0


class Face(NamedTuple):
    """A face cut out: image_hwc (uint8 BGR); box and landmarks (x0, y0, x1, y1, ...) in pixels of the upright photo.

    Without a box it is a whole photo.
    """

    image_hwc: Pixels
    box: Box | None
    landmarks: tuple[float, ...] | None
    is_padded: bool
    """True for a crop that reaches over the border of its photo."""


# Detecting


_of_thread = threading.local()


def _detector() -> Any:
    """dlib's frontal HOG detector (Dalal and Triggs 2005; King 2015).

    One per thread, for it works without Python's lock on memory of its own.
    """
    if not hasattr(_of_thread, "detector"):
        import dlib

        _of_thread.detector = dlib.get_frontal_face_detector()
    return _of_thread.detector


def find(grey_hw: npt.NDArray[np.uint8]) -> list[Box]:
    """Find the frontal faces of a photo (uint8 HW): their boxes, the surest first.

    The detector knows faces from 80 px up, and its time grows with the number of pixels. So it looks at a photo of
    bounded size first, and at a larger one only where it found nothing, or one face that is hardly larger than 80 px.
    """
    scale = min(1.0, FIRST_LOOK_PX / max(grey_hw.shape))
    boxes = find_at(grey_hw, scale=scale)
    if not boxes:
        return find_at(grey_hw, scale=scale * NOTHING_FOUND)
    return _with_neighbours(boxes, scale, lambda closer: find_at(grey_hw, scale=closer))


def _with_neighbours(boxes: list[Box], scale: float, look: Callable[[float], list[Box]]) -> list[Box]:
    """The same boxes, or those of a closer look, where a lone face is small and has neighbours."""
    if len(boxes) == 1 and boxes[0].width * scale < LONE_FACE_PX:
        closer = look(scale * LONE_FACE)
        return closer if len(closer) > 1 else boxes
    return boxes


def find_by_network(network: mmod.Network, image_hwc: Pixels, *, again: float) -> list[Box]:
    """Find the faces of a photo (uint8 BGR HWC) by the network, the surest first.

    Where it finds none, it looks at the photo enlarged `again` times, which takes the square of that longer; at 1 it
    does not.
    """

    def look(scale: float) -> list[Box]:
        return [Box(*sides) for sides in network.boxes(image_hwc, scale=scale)]

    scale = mmod.first_scale(image_hwc)
    boxes = look(scale)
    if not boxes and again > 1:
        return look(scale * again)
    return _with_neighbours(boxes, scale, look)


def find_at(grey_hw: npt.NDArray[np.uint8], *, scale: float) -> list[Box]:
    """Look once, at a photo scaled by a factor; the boxes are in pixels of the photo itself."""
    height, width = grey_hw.shape
    scaled_height, scaled_width = max(1, round(height * scale)), max(1, round(width * scale))
    if (scaled_width, scaled_height) != (width, height):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        grey_hw = cv2.resize(grey_hw, (scaled_width, scaled_height), interpolation=method)  # type: ignore[assignment]
    across, down = width / scaled_width, height / scaled_height
    return [
        Box(box.left() * across, box.top() * down, (box.right() + 1) * across, (box.bottom() + 1) * down)
        for box in _detector()(grey_hw, 0)
    ]


# Cutting out


@dataclass(frozen=True)
class Aligner:
    """Cuts the face out of a photo by a configuration; each worker has a copy."""

    kind: Literal["crop", "chip"]
    chip_px: int
    """Side of a chip, which dlib scales as it cuts; a crop has the pixels of the photo, to be resized when packed."""
    margin: Margin
    on_several: Literal["reject", "largest", "all"] = "reject"
    template: Literal["dlib", "arcface"] = "dlib"
    detector: Literal["hog", "cnn", "hog+cnn"] = "hog"
    network: mmod.Network | None = None
    """For the detectors with cnn only."""
    predictor: Any = None
    """dlib's five-point shape predictor (Kazemi and Sullivan 2014); for chips only."""

    @classmethod
    def of(cls, configuration: Configuration, *, landmarks: Path | None = None) -> "Aligner | None":
        """The aligner of a configuration, None where no face is looked for; chips need the landmark model's file."""
        if configuration.align == "none" or configuration.landmarks_from == "labels":
            return None
        chip_px = 0 if configuration.size_wh is None else configuration.size_wh.width_px
        return cls(
            configuration.align,
            chip_px,
            configuration.face_margin,
            configuration.on_several,
            configuration.template,
            configuration.detector,
            None if configuration.detector == "hog" else mmod.Network.of(network_file(configuration)),
            None if landmarks is None else predictor_of(landmarks),
        )

    def __call__(self, image_hwc: Pixels) -> Face:
        """Cut out the one face of a photo (uint8 BGR HWC); `BadImageError` where there is none, or several."""
        boxes = self.boxes(image_hwc)
        if len(boxes) > 1 and self.on_several == "reject":
            raise BadImageError(Status.SEVERAL_FACES)
        return self.cut(image_hwc, boxes[0])

    def boxes(self, image_hwc: Pixels) -> list[Box]:
        """All faces of a photo (uint8 BGR HWC), the largest first; `BadImageError` where there is none."""
        grey_hw: Any = cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY)
        boxes = [] if self.detector == "cnn" else find(grey_hw)
        if not boxes and self.network is not None:
            again = NOTHING_FOUND if self.detector == "cnn" else 1.0  # HOG has looked twice already
            boxes = find_by_network(self.network, image_hwc, again=again)
        if not boxes:
            raise BadImageError(Status.NO_FACE)
        return sorted(boxes, key=lambda box: -box.width * box.height)

    def cut(self, image_hwc: Pixels, box: Box) -> Face:
        """Cut out the face in a box that `boxes` gave."""
        if self.kind == "chip":
            return self._chip(image_hwc, box)
        margin_px = crop_margin_px(box, self.margin)
        cropped_hwc, is_padded = crop(image_hwc, box=box, margin_px=margin_px)
        return Face(cropped_hwc, box, None, is_padded)

    def _chip(self, image_hwc: Pixels, box: Box) -> Face:
        import dlib

        grey_hw = cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY)
        x0, y0, x1, y1 = (round(side) for side in box)
        shape = self.predictor(grey_hw, dlib.rectangle(x0, y0, x1 - 1, y1 - 1))
        points = tuple(float(side) for point in shape.parts() for side in (point.x, point.y))
        if self.template == "arcface":
            matrix = template.arcface_of_model(points, side_px=self.chip_px, margin=self.margin.value)
            return Face(template.warped(image_hwc, matrix, side_px=self.chip_px), box, points, False)
        chip_hwc = dlib.get_face_chip(image_hwc, shape, size=self.chip_px, padding=self.margin.value)
        return Face(chip_hwc, box, points, False)


def crop_margin_px(box: Box, margin: Margin) -> float:
    """The margin around the face in a box, in pixels of its photo."""
    return margin.value * max(box.width, box.height) if margin.unit == "share" else margin.value


def crop_square(box: Box, *, margin_px: float) -> tuple[int, int, int, int]:
    """The square that a crop shows of its photo, in pixels: left, top, right and bottom (exclusive)."""
    side = max(box.width, box.height) + 2 * margin_px
    left = round((box.x0 + box.x1 - side) / 2)
    top = round((box.y0 + box.y1 - side) / 2 - margin_px * _UP)
    return left, top, left + max(1, round(side)), top + max(1, round(side))


def crop(image_hwc: Pixels, *, box: Box, margin_px: float) -> tuple[Pixels, bool]:
    """The published square crop of CACD, at the pixels of the photo: uint8 BGR HWC, and whether it had to be padded.

    The shorter side of the box is widened to the longer one, the margin is added on every side, and the square moves up
    by a third of it. Where it reaches over the border, the pixels of the border are repeated, so that scale and
    place of the face are those of every other crop; the published script failed on these photos.
    """
    height, width = image_hwc.shape[:2]
    left, top, right, bottom = crop_square(box, margin_px=margin_px)
    if (right - left) * (bottom - top) > MAX_PIXELS:  # a wide margin around a face that fills a large photo
        raise BadImageError(Status.TOO_LARGE)
    inner_hwc = image_hwc[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if not inner_hwc.size:  # a box wholly outside
        raise BadImageError(Status.NO_FACE)
    outside = [max(0, over) for over in (-top, bottom - height, -left, right - width)]
    if not any(outside):
        return np.ascontiguousarray(inner_hwc), False
    above, below, before, behind = outside
    padded_hwc: Any = cv2.copyMakeBorder(inner_hwc, above, below, before, behind, cv2.BORDER_REPLICATE)
    return padded_hwc, True


# The models


def network_file(configuration: Configuration) -> Path:
    """The file of the detector with cnn; `UsageError` where it is another than a configuration names."""
    file = mmod.detector_file()
    if configuration.mmod not in ("", digest := sha256_of(file)):
        raise UsageError(f"{file}: another detector (sha256 {digest}) than the configuration names")
    return file


def landmarks_file(path: str = "") -> Path:
    """Find the file of the landmark model: at a path, among the data, or in the package face_recognition_models.

    Raises `FieldError` with where to get it.
    """
    if path:
        if not Path(path).is_file():
            raise FieldError("landmarks", path, f"no such file; {_how_to_get()}")
        return Path(path)
    file = model_file(LANDMARKS_FILE)
    if file is not None:
        return file
    raise FieldError("align", "chip", f"needs dlib's landmark model; {_how_to_get()}")


def _how_to_get() -> str:
    return (
        f"facepack fetch landmarks puts it into {models_folder()}; "
        "or pip install 'facepack[landmarks]', or give the file with --landmarks"
    )


def predictor_of(landmarks: Path) -> Any:
    """dlib's five-point shape predictor from its file; `UsageError` where it is another one."""
    import dlib

    try:
        predictor = dlib.shape_predictor(str(landmarks))
        num_points = predictor(np.zeros((100, 100), np.uint8), dlib.rectangle(10, 10, 90, 90)).num_parts
    except RuntimeError as error:
        raise UsageError(f"{landmarks}: not a landmark model of dlib; {_how_to_get()}") from error
    if num_points != NUM_LANDMARKS:
        raise UsageError(f"{landmarks}: a model of {num_points} landmarks, expected {NUM_LANDMARKS}; {_how_to_get()}")
    return predictor
