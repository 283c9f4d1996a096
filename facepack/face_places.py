"""Face places: where the face of a packed image is, so that dlib's chip of it can be described."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from facepack import align, template
from facepack.align import Box
from facepack.configuration import Configuration
from facepack.descriptor_network import CHIP_MARGIN, CHIP_PX
from facepack.image import Pixels

FEWEST_FOR_USUAL = 8
"""Faces that have to be found in a shard before their place is taken for the usual one."""
MOST_SPREAD = 0.08
"""How far the sides of half of the boxes may lie from their median, as a part of the image, to be called usual."""

Floats = npt.NDArray[np.float64]


class FaceStatus(StrEnum):
    """How the face of a packed image was found, if it was."""

    KNOWN = "known"
    DETECTED = "detected"
    LARGEST = "largest"
    USUAL = "usual"
    NO_FACE = "no_face"

    @property
    def meaning(self) -> str:
        """What it means, for people."""
        return _MEANINGS[self]


_MEANINGS = {
    FaceStatus.KNOWN: "the build has cut the face out, so its place is known",
    FaceStatus.DETECTED: "the detector sees one face",
    FaceStatus.LARGEST: "the detector sees several faces; the largest is described",
    FaceStatus.USUAL: "the detector sees none; described where other images have it, as these are aligned",
    FaceStatus.NO_FACE: "the detector sees no face: not described",
}


class Place(NamedTuple):
    """The face of an image: how it was found, its box, and the five points of dlib's model (5, 2), in its pixels."""

    status: FaceStatus
    box: Box | None = None
    landmarks: Floats | None = None


@dataclass(frozen=True)
class FaceFinder:
    """Finds the face of each packed image of a build by its configuration; pickled, it goes to other processes."""

    configuration: Configuration
    predictor: Any
    """dlib's five-point shape predictor (Kazemi and Sullivan 2014)."""

    def __call__(self, image_hwc: Pixels, cut_box: Box | None) -> Place:
        """The face of a packed image (uint8 BGR HWC); `cut_box` is the box of the manifest, in pixels of the photo."""
        configuration = self.configuration
        side_px = image_hwc.shape[1]
        if configuration.align == "chip":
            margin = configuration.face_margin.value
            landmarks = template.of_model(configuration.template, side_px=side_px, margin=margin)
            return Place(FaceStatus.KNOWN, None, landmarks)
        if cut_box is not None and configuration.align == "crop" and configuration.landmarks_from == "model":
            return self.at(image_hwc, self._in_crop(cut_box, side_px), FaceStatus.KNOWN)
        boxes = align.find(cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY))  # type: ignore[arg-type]
        if not boxes:
            return Place(FaceStatus.NO_FACE)
        largest = max(boxes, key=lambda box: box.width * box.height)
        return self.at(image_hwc, largest, FaceStatus.DETECTED if len(boxes) == 1 else FaceStatus.LARGEST)

    def at(self, image_hwc: Pixels, box: Box, status: FaceStatus) -> Place:
        """The face in a box of a packed image."""
        import dlib

        x0, y0, x1, y1 = (round(side) for side in box)
        rectangle = dlib.rectangle(x0, y0, x1 - 1, y1 - 1)
        shape = self.predictor(cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY), rectangle)
        return Place(status, box, np.array([(point.x, point.y) for point in shape.parts()], float))

    def _in_crop(self, box: Box, side_px: int) -> Box:
        """The box of the photo in the square that was cut around it."""
        margin_px = align.crop_margin_px(box, self.configuration.face_margin)
        left, top, right, _ = align.crop_square(box, margin_px=margin_px)
        scale = side_px / (right - left)
        return Box(*(scale * (side - start) for side, start in zip(box, (left, top, left, top), strict=True)))


def chip_of(image_hwc: Pixels, landmarks: Floats) -> Pixels:
    """dlib's chip of a face, uint8 RGB (150, 150, 3), from an image (uint8 BGR HWC) and its five landmarks."""
    frame = template.of_model("dlib", side_px=CHIP_PX, margin=CHIP_MARGIN)
    matrix = template.similarities(landmarks[None], frame)[0]
    return np.ascontiguousarray(template.warped(image_hwc, matrix, side_px=CHIP_PX)[:, :, ::-1])


def usual_box(places: Sequence[tuple[Place, tuple[int, int]]]) -> Box | None:
    """Where most images have the face, in parts of their width and height; None where that differs, or few have one.

    Each place comes with the (width, height) of its image. Published images are often aligned: the face is in the same
    place in all of them, and a detector misses some.
    """
    boxes = np.array(
        [np.array(place.box) / (*size_wh, *size_wh) for place, size_wh in places if place.status == FaceStatus.DETECTED]
    ).reshape(-1, 4)
    if len(boxes) < FEWEST_FOR_USUAL:
        return None
    median = np.median(boxes, axis=0)
    spread = np.median(np.abs(boxes - median), axis=0)
    return Box(*median.tolist()) if spread.max() <= MOST_SPREAD else None
