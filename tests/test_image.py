"""Every kind of image file gets the right pixels or the right status."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facepack import image
from facepack.image import Moments
from facepack.manifest import Status


def photo(width: int = 60, height: int = 40) -> Image.Image:
    """A smooth picture: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=2).astype(np.uint8))


def encoded(picture: Image.Image, form: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **settings)
    return file.getvalue()


def status_of(content: bytes) -> Status:
    with pytest.raises(image.BadImageError) as caught:
        image.decode(content)
    return caught.value.status


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), "JPEG", exif=exif, quality=95)


def huge_png() -> bytes:
    """A header that promises 30,000 x 30,000 pixels, and nothing behind it."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def huge_jpeg() -> bytes:
    content = bytearray(encoded(photo(), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(content)


SOUND: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(photo(), "JPEG", quality=95),
    "progressive jpeg": lambda: encoded(photo(), "JPEG", quality=95, progressive=True),
    "cmyk jpeg": lambda: encoded(photo().convert("CMYK"), "JPEG", quality=95),
    "png": lambda: encoded(photo(), "PNG"),
    "transparent png": lambda: encoded(photo().convert("RGBA"), "PNG"),
    "webp": lambda: encoded(photo(), "WEBP", quality=95),
    "bmp": lambda: encoded(photo(), "BMP"),
    "tiff": lambda: encoded(photo(), "TIFF"),
    "avif": lambda: encoded(photo(), "AVIF", quality=95),
    "jpeg with rubbish behind it": lambda: encoded(photo(), "JPEG", quality=95) + b"rubbish" * 50,
    "animated gif": lambda: encoded(photo(), "GIF", save_all=True, append_images=[photo().rotate(180)]),
    "palette png": lambda: encoded(photo().quantize(256), "PNG"),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_image_of_any_kind_gives_its_pixels(kind: str) -> None:
    pixels = image.decode(SOUND[kind]())
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    difference = np.abs(pixels[:, :, ::-1].astype(int) - np.asarray(photo()).astype(int))
    assert difference.mean() < 12


def test_grey_and_16_bit_images_become_8_bit_colour() -> None:
    grey = image.decode(encoded(photo().convert("L"), "JPEG", quality=95))
    assert grey.shape == (40, 60, 3)
    assert (grey[:, :, 0] == grey[:, :, 2]).all()
    ramp = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
    deep = image.decode(encoded(Image.fromarray(ramp), "PNG"))
    assert np.abs(deep[:, :, 0].astype(int) - ramp // 256).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    operations = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # to Pillow's Transpose members
    upright = photo() if orientation == 1 else photo().transpose(Image.Transpose(operations[orientation]))
    pixels = image.decode(oriented(orientation))[:, :, ::-1].astype(int)
    assert pixels.shape == np.asarray(upright).shape
    assert np.abs(pixels - np.asarray(upright).astype(int)).mean() < 4


@pytest.mark.parametrize("kept", [3, 100, 0.5, 0.95, -2])
def test_cut_off_jpeg_is_truncated(kept: float) -> None:
    content = encoded(photo(), "JPEG")
    end = int(kept * len(content)) if isinstance(kept, float) else kept
    assert status_of(content[:end]) == Status.TRUNCATED


@pytest.mark.parametrize("segment", [b"\xff\xe0", b"\xff\xc0"])
def test_stray_bytes_between_segments_of_a_jpeg_are_passed_over(segment: bytes) -> None:
    sound = encoded(photo(), "JPEG", quality=95)
    at = sound.index(segment) + 2
    end = at + int.from_bytes(sound[at : at + 2])
    stray = sound[:end] + b"\0\1stray" + sound[end:]
    assert np.array_equal(image.decode(stray), image.decode(sound))
    assert image.is_plain_jpeg(sound)
    assert not image.is_plain_jpeg(stray), "DALI reads no such file: it is encoded anew"


def test_cut_off_png_is_truncated() -> None:
    content = encoded(photo(), "PNG")
    assert status_of(content[: len(content) // 2]) == Status.TRUNCATED
    assert status_of(content[:12]) == Status.TRUNCATED


@pytest.mark.parametrize("form", ["GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_cut_off_image_of_another_kind_is_rejected(form: str) -> None:
    content = encoded(photo(), form)
    assert status_of(content[: len(content) // 2]) in (Status.TRUNCATED, Status.UNREADABLE)


@pytest.mark.parametrize("content", [b"", b"version https://example.org/pointer\n", b"<html></html>", b"\0" * 4096])
def test_anything_else_is_not_an_image(content: bytes) -> None:
    assert status_of(content) == Status.NOT_AN_IMAGE


def test_jpeg_whole_but_spoilt_in_its_tables_is_unreadable() -> None:
    content = bytearray(encoded(photo(), "JPEG"))
    at = content.index(b"\xff\xc4")  # the first Huffman table
    content[at + 4 : at + 24] = b"\xff" * 20
    assert status_of(bytes(content)) == Status.UNREADABLE


@pytest.mark.parametrize("content", [huge_png(), huge_jpeg()], ids=["png", "jpeg"])
def test_too_large_is_known_from_the_header(content: bytes) -> None:
    assert status_of(content) == Status.TOO_LARGE


def test_side_that_no_jpeg_can_have_is_too_large() -> None:
    assert status_of(encoded(Image.new("RGB", (70_000, 8)), "PNG")) == Status.TOO_LARGE


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_tiny_image_is_too_small(size: tuple[int, int]) -> None:
    assert status_of(encoded(photo(*size), "PNG")) == Status.TOO_SMALL
    assert status_of(encoded(photo(*size), "JPEG")) == Status.TOO_SMALL


@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"]), st.data())
@settings(max_examples=300)
def test_damaged_image_of_any_kind_is_decoded_or_rejected_and_stops_nothing(form: str, data: st.DataObject) -> None:
    content = bytearray(encoded(photo(), form))
    places = st.integers(0, min(len(content), 200) - 1)
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        content[at] = value
    try:
        assert image.decode(bytes(content)).dtype == np.uint8
    except image.BadImageError as error:
        assert error.status in Status
    assert image.is_plain_jpeg(bytes(content)) in (True, False)


def test_resize_gives_exactly_the_size() -> None:
    pixels = image.decode(SOUND["png"]())
    assert image.resize(pixels, width_px=16, height_px=20).shape == (20, 16, 3)
    assert image.resize(pixels, width_px=128, height_px=96).shape == (96, 128, 3)
    assert image.resize(pixels, width_px=60, height_px=40) is pixels


def test_resize_and_jpeg_give_the_same_bytes_on_a_cpu_without_vector_extensions() -> None:
    """Check that promise 2 holds across machines: the same program with OpenCV's and libjpeg's fast paths off."""
    program = (
        "import hashlib, numpy as np; from facepack import image\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)\n"
        "pixels = image.decode(image.encode_jpeg(pixels, quality=90))\n"
        "sizes = [(64, 64), (112, 96), (177, 300), (400, 400)]\n"
        "small = [image.resize(pixels, width_px=w, height_px=h) for w, h in sizes]\n"
        "print(hashlib.sha256(b''.join(image.encode_jpeg(one, quality=95) for one in small)).hexdigest())\n"
    )
    plain = {"OPENCV_CPU_DISABLE": "AVX512_SKX,AVX2,FP16,AVX", "JSIMD_FORCENONE": "1"}
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | extra, capture_output=True, text=True, check=True
        ).stdout
        for extra in ({}, plain)
    }
    assert len(digests) == 1


def test_raw_keeps_every_pixel_as_rgb() -> None:
    pixels = image.decode(SOUND["png"]())
    content = image.encode_raw(pixels)
    assert (image.decode_raw(content) == pixels[:, :, ::-1]).all()
    assert (np.load(io.BytesIO(content)) == np.asarray(photo())).all()


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), "u1")]
)
def test_raw_of_another_shape_or_type_is_refused(array: np.ndarray[Any, Any]) -> None:
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(ValueError, match="not uint8 HWC RGB"):
        image.decode_raw(file.getvalue())


def test_only_upright_grey_or_colour_jpeg_is_plain() -> None:
    assert image.is_plain_jpeg(SOUND["jpeg"]())
    assert image.is_plain_jpeg(SOUND["progressive jpeg"]())
    assert image.is_plain_jpeg(encoded(photo().convert("L"), "JPEG"))
    assert image.is_plain_jpeg(oriented(1))
    assert not image.is_plain_jpeg(oriented(6))
    assert not image.is_plain_jpeg(SOUND["cmyk jpeg"]())
    assert not image.is_plain_jpeg(SOUND["png"]())


def test_moments_are_the_exact_sums() -> None:
    rng = np.random.default_rng(1)
    counter = image.MomentsCounter()
    whole = []
    for height, width in ((8, 8), (218, 178), (1000, 999)):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        counter.add(pixels)
        whole.append(pixels.reshape(-1, 3)[:, ::-1].astype(np.int64))
    rows = np.concatenate(whole)
    expected = Moments(len(rows), tuple(rows.sum(0).tolist()), tuple((rows**2).sum(0).tolist()))
    assert counter.total() == expected
    mean_std = counter.total().mean_std()
    assert mean_std is not None
    assert np.allclose(mean_std[0], rows.mean(0) / 255, atol=1e-7)
    assert np.allclose(mean_std[1], rows.std(0) / 255, atol=1e-7)


def test_moments_of_no_image_have_no_mean() -> None:
    assert image.MomentsCounter().total() == Moments()
    assert Moments().mean_std() is None


def test_decoding_is_that_of_opencv() -> None:
    content = SOUND["jpeg"]()
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert (image.decode(content) == expected).all()
