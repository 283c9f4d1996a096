"""Quality: how sharp, bright and rich in contrast a picture is, how large its face is, and how far that is turned."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from facepack.align import Box
from facepack.configuration import Configuration
from facepack.manifest import Status

_TIP_DEPTH, _BASE_DEPTH = 0.6, 0.35
"""How far the tip and the base of a nose stand out before the eyes, in parts of the distance between the eyes."""
_DEGREE_DIGITS = 1


class Quality(NamedTuple):
    """The measures of a packed picture, by the names of their columns; None where there is no face to measure."""

    sharpness: float
    """Variance of the Laplacian of the grey picture (Pech-Pacheco et al., Diatom autofocusing, ICPR 2000)."""
    brightness: float
    """Mean of the grey picture, 0 to 255."""
    contrast: float
    """Standard deviation of the grey picture, in grey levels."""
    face_px: float | None = None
    """The longer side of the box of the face, in pixels of the photo."""
    yaw: float | None = None
    """Degrees that the face turns to the right of the picture, roughly."""
    roll: float | None = None
    """Degrees that the line of the eyes is turned clockwise."""


class Pose(NamedTuple):
    """How a face is turned, in degrees."""

    yaw: float
    roll: float


def quality_of(
    image_hwc: npt.NDArray[np.uint8],
    *,
    box: Box | None = None,
    landmarks: tuple[float, ...] | None = None,
    is_published: bool = False,
) -> Quality:
    """Measure a picture as it is packed, uint8 BGR HWC, and the face that it was cut out for.

    Box and landmarks are in pixels of the photo; published landmarks are eyes, nose and mouth, others dlib's five.
    """
    grey_hw: Any = cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(grey_hw))
    edges_hw = cv2.Laplacian(grey_hw, cv2.CV_16S)
    # A fifth of the time of meanStdDev.
    sharpness = cv2.norm(edges_hw, cv2.NORM_L2SQR) / edges_hw.size - (cv2.sumElems(edges_hw)[0] / edges_hw.size) ** 2
    pose = None if landmarks is None else pose_of(landmarks, is_published=is_published)
    face_px = None if box is None else max(box.width, box.height)
    face = None if face_px is None else _single(face_px)
    return Quality(_single(sharpness), _single(mean), _single(deviation), face, *(pose or ()))


def _single(value: float) -> float:
    """A number as the manifest has it, so that a limit taken from there holds."""
    return float(np.float32(value))


def pose_of(landmarks: tuple[float, ...], *, is_published: bool) -> Pose | None:
    """The turn of a face by five points (x0, y0, x1, y1, ...); None where its eyes are in one place.

    Published points are the left eye, the right eye and the tip of the nose as a viewer has them, then the mouth;
    others are dlib's, corners of the eyes and the base of the nose. A nose stands out before the eyes, so that it moves
    aside as the face turns (Gee and Cipolla, Determining the gaze of faces in images, 1994); how far it stands out is
    taken to be the same for everybody. Good to about ten degrees.
    """
    points = [complex(x, y) for x, y in zip(landmarks[::2], landmarks[1::2], strict=True)]
    if is_published:
        left, right, nose, depth = *points[:3], _TIP_DEPTH
    else:
        left, right, nose, depth = (points[2] + points[3]) / 2, (points[0] + points[1]) / 2, points[4], _BASE_DEPTH
    between = right - left
    if not abs(between):
        return None
    aside = ((nose - (left + right) / 2) / between).real
    yaw = math.degrees(math.atan2(aside, depth))
    roll = math.degrees(math.atan2(between.imag, between.real))
    return Pose(round(yaw, _DEGREE_DIGITS), round(roll, _DEGREE_DIGITS))


def fault_of(quality: Quality, configuration: Configuration) -> Status | None:
    """The first of a configuration's limits that a picture misses, as a status; None where it meets them all.

    What could not be measured misses no limit.
    """
    lows = {
        Status.SMALL_FACE: (quality.face_px, configuration.min_face),
        Status.TOO_DARK: (quality.brightness, configuration.min_brightness),
        Status.LOW_CONTRAST: (quality.contrast, configuration.min_contrast),
        Status.BLURRED: (quality.sharpness, configuration.min_sharpness),
    }
    highs = {
        Status.TURNED_AWAY: (quality.yaw, configuration.max_yaw),
        Status.TILTED: (quality.roll, configuration.max_roll),
        Status.TOO_BRIGHT: (quality.brightness, configuration.max_brightness),
    }
    missed = [status for status, (value, least) in lows.items() if None not in (value, least) and value < least]  # type: ignore[operator]
    missed += [status for status, (value, most) in highs.items() if None not in (value, most) and abs(value) > most]  # type: ignore[arg-type, operator]
    return min(missed, key=list(Status).index, default=None)
