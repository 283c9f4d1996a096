"""Quality: measures of pictures and faces have the values that can be reckoned by hand."""

import math

import cv2
import numpy as np
import pytest

from facepack.align import Box
from facepack.quality import pose_of, quality_of


def test_measures_of_a_chequered_picture_are_those_reckoned_by_hand() -> None:
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 100 + 50).astype(np.uint8)
    quality = quality_of(np.repeat(board[:, :, None], 3, axis=2), box=Box(10, 20, 40, 60))
    assert (quality.brightness, quality.contrast) == (100, 50)
    assert quality.sharpness == 400**2  # each neighbour differs by 100, with opposite signs around light and dark
    assert (quality.face_px, quality.yaw, quality.roll) == (40, None, None)
    flat = quality_of(np.full((5, 1, 3), 7, np.uint8))
    assert flat == (0, 7, 0, None, None, None)


def test_a_blurred_picture_is_less_sharp() -> None:
    noise_hwc = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    grey_hw = cv2.cvtColor(noise_hwc, cv2.COLOR_BGR2GRAY)
    assert quality_of(noise_hwc).sharpness == pytest.approx(float(cv2.Laplacian(grey_hw, cv2.CV_64F).var()))
    assert quality_of(cv2.blur(noise_hwc, (3, 3))).sharpness < quality_of(noise_hwc).sharpness / 10  # type: ignore[arg-type]


def _turned(points: list[complex], degrees: float) -> tuple[float, ...]:
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    return tuple(side for point in points for side in ((point * turn).real, (point * turn).imag))


@pytest.mark.parametrize("degrees", [0, 17, -30])
def test_roll_is_the_turn_of_the_eyes_and_yaw_that_of_the_nose(degrees: float) -> None:
    published = [0 + 0j, 40 + 0j, 20 + 25j, 5 + 50j, 35 + 50j]
    assert pose_of(_turned(published, degrees), is_published=True) == (0, degrees)
    published[2] += 40 * 0.6 * math.tan(math.radians(20))
    assert pose_of(_turned(published, degrees), is_published=True) == (20, degrees)
    of_model = [50 + 0j, 30 + 0j, -10 + 0j, 10 + 0j, 20 + 25j - 40 * 0.35 * math.tan(math.radians(10))]
    assert pose_of(_turned(of_model, degrees), is_published=False) == (-10, degrees)


def test_eyes_in_one_place_have_no_pose() -> None:
    assert pose_of((1.0,) * 10, is_published=True) is None
