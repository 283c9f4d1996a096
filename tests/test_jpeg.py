"""JPEG decoding: the same pixels as OpenCV, complaints that are heard, and what is harmless."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from facepack import image, jpeg
from facepack.image import BadImageError
from facepack.manifest import Status


def pixels(height: int = 200, width: int = 200) -> Any:
    """A pattern with noise, uint8 RGB HWC."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([128 + 80 * np.sin(x / 9 + c) + 40 * np.cos(y / 7 * c) for c in (1, 2, 3)], 2)
    return (waves + rng.normal(0, 6, waves.shape)).clip(0, 255).astype(np.uint8)


def encoded(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "JPEG", **({"quality": 90} | options))
    return file.getvalue()


SOUND = encoded()
MIDDLE = len(SOUND) // 2


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 30}, {"optimize": True}]
)
def test_pixels_are_those_of_opencv(options: dict[str, Any]) -> None:
    content = encoded(**options)
    expected: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(image.decode(content), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_opencv_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels(120, 80)).save(file, "JPEG", exif=exif)
    expected: Any = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(image.decode(file.getvalue()), expected)


@pytest.mark.parametrize(
    "content",
    [
        SOUND[: len(SOUND) * 6 // 10] + b"\xff\xd9",
        SOUND[:MIDDLE] + bytes(1024) + SOUND[MIDDLE + 1024 :],
        SOUND[:MIDDLE] + np.random.default_rng(1).bytes(1024) + SOUND[MIDDLE + 1024 :],
        SOUND.replace(b"\n", b"\r\n"),
    ],
    ids=["cut, then an end", "a hole of zeros", "noise", "copied as text"],
)
def test_files_with_wrong_pixels_are_damaged_and_can_be_kept(content: bytes) -> None:
    with pytest.raises(BadImageError) as caught:
        image.decode(content)
    assert caught.value.status == Status.DAMAGED
    assert image.decode(content, keep_damaged=True).shape[2] == 3


@pytest.mark.parametrize(
    "content",
    [
        SOUND + b"hello",
        SOUND[:-2] + bytes(5) + SOUND[-2:],
        SOUND[:20] + b"xyz" + SOUND[20:],
    ],
    ids=["bytes after the end", "zeros before the end", "bytes between segments"],
)
def test_what_no_pixel_needs_is_harmless(content: bytes) -> None:
    assert np.array_equal(image.decode(content), image.decode(SOUND))


def test_a_file_that_ends_early_is_truncated() -> None:
    with pytest.raises(BadImageError) as caught:
        image.decode(SOUND[:MIDDLE])
    assert caught.value.status == Status.TRUNCATED


@pytest.mark.parametrize(("least", "expected"), [((201, 10), 200), ((100, 100), 100), ((51, 20), 100), ((25, 25), 25)])
def test_a_reduced_scale_is_the_smallest_that_is_large_enough(least: tuple[int, int], expected: int) -> None:
    image_hwc = jpeg.decode(SOUND, scale=jpeg.scale_for((200, 200), least_wh=least))
    assert image_hwc is not None
    assert image_hwc.shape == (expected, expected, 3)
