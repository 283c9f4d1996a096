"""Colour profiles: Display P3 becomes sRGB, sRGB by whatever name stays as it is."""

import io
import struct
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageCms

from facepack import colour, image


@cache
def display_p3() -> bytes:
    """A profile with the primaries of Display P3 and a gamma of 2.2, put together by hand (ICC.1:2022)."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(map(fixed, values))

    gamma = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    name = b"desc" + bytes(4) + struct.pack(">I", 3) + b"P3" + bytes(79)
    tags = {
        b"desc": name + bytes(-len(name) % 4),
        b"cprt": b"text" + bytes(4) + b"none" + bytes(4),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    start = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for key, content in tags.items():
        table += key + struct.pack(">II", start + len(data), len(content))
        data += content
    head = struct.pack(">I", start + len(data)) + bytes(4) + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return head.ljust(128, bytes(1)) + table + data


def in_p3(rgb: tuple[int, int, int], kind: str) -> bytes:
    """An image of one colour, given in sRGB, stored in Display P3."""
    source = ImageCms.createProfile("sRGB")
    target = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    converted = ImageCms.profileToProfile(Image.new("RGB", (96, 96), rgb), source, target)
    assert converted is not None
    file = io.BytesIO()
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    converted.save(file, kind, icc_profile=display_p3(), **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("rgb", [(224, 172, 140), (200, 60, 70), (90, 160, 90)])
def test_display_p3_becomes_srgb(rgb: tuple[int, int, int], kind: str) -> None:
    content = in_p3(rgb, kind)
    stored = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[30, 30].astype(int)
    decoded = image.decode(content)[30, 30, ::-1].astype(int)
    assert np.abs(stored - rgb).max() > 4
    assert np.abs(decoded - rgb).max() <= (8 if kind == "WEBP" else 3)


def test_a_jpeg_with_another_profile_is_encoded_anew() -> None:
    assert not image.is_plain_jpeg(in_p3((224, 172, 140), "JPEG"))


def test_srgb_and_what_cannot_be_read_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (10, 200, 90)).save(file, "JPEG", icc_profile=srgb)
    assert colour.profile_of(file.getvalue()) == srgb
    assert image.is_plain_jpeg(file.getvalue())
    for profile in (b"", srgb, b"no profile"):
        assert colour.is_srgb(profile)
    pixels = np.full((4, 4, 3), 77, np.uint8)
    assert colour.to_srgb(pixels, profile=b"no profile") is pixels
