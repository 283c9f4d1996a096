"""Colour: pixels of photos with a colour profile of their own (Display P3, Adobe RGB) become sRGB."""

import io
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from facepack import headers

Pixels = npt.NDArray[np.uint8]

_ICC_MARKER = b"ICC_PROFILE\0"
_APP2, _SCAN = 0xE2, 0xDA
_NOTICEABLE = 2
"""Levels of 255 by which a profile must differ from sRGB somewhere to be another one."""


def profile_of(content: bytes) -> bytes:
    """The ICC profile that an image file carries, empty without one; the file need not be sound."""
    if content[:3] == b"\xff\xd8\xff":
        return _jpeg_profile(content)
    # Only these formats carry one; a look at a header costs as much as decoding a small image.
    if content[:8] == b"\x89PNG\r\n\x1a\n" and b"iCCP" not in content[:4096]:
        return b""
    if b"jP  " in content[:12]:
        return _jp2_profile(content)
    if content[:4] == b"RIFF" and b"ICCP" not in content[:64]:
        return b""
    try:
        with headers.opened(content) as image:
            return image.info.get("icc_profile") or b""
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, decoding it tells
        return b""


def _jpeg_profile(content: bytes) -> bytes:
    """The parts of a profile out of the APP2 segments, in their order (ICC.1:2022, annex B.4)."""
    if _ICC_MARKER not in content:
        return b""
    parts: dict[int, bytes] = {}
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != _SCAN:
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + length]
        if content[at + 1] == _APP2 and segment.startswith(_ICC_MARKER):
            parts[segment[len(_ICC_MARKER)]] = segment[len(_ICC_MARKER) + 2 :]
        at += 2 + length
    return b"".join(parts[number] for number in sorted(parts))


def _jp2_profile(content: bytes) -> bytes:
    """The profile in the colour box of a JPEG 2000 file, where its method is a profile (ISO/IEC 15444-1, I.5.3.3)."""
    at = content.find(b"colr\2", 0, 1 << 16)
    if at < 4:
        return b""
    return content[at + 7 : at - 4 + int.from_bytes(content[at - 4 : at], "big")]


def is_srgb(profile: bytes) -> bool:
    """True where nothing needs to change: no profile, sRGB by whatever name, or one that cannot be read."""
    return not profile or _transform(profile) is None


def to_srgb(image_hwc: Pixels, *, profile: bytes) -> Pixels:
    """Pixels (uint8 BGR HWC) that are meant in an RGB or grey profile, as sRGB; relative colorimetric (littleCMS)."""
    transform = _transform(profile)
    if transform is None:
        return image_hwc
    apply, mode = transform
    if mode == "L":
        image = Image.fromarray(np.ascontiguousarray(image_hwc[:, :, 1]))
    else:
        image = Image.fromarray(cv2.cvtColor(image_hwc, cv2.COLOR_BGR2RGB))
    converted: Any = np.asarray(apply(image))
    return np.ascontiguousarray(converted[:, :, ::-1])


@lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[Any, str] | None:
    """What converts images of a mode from a profile to sRGB; None where that changes nothing, or it cannot be read."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB ": "RGB", "GRAY": "L"}.get(source.profile.xcolor_space)
        if mode is None:
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
    except (OSError, ImageCms.PyCMSError):
        return None

    def apply(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None
        return converted

    before, after = _samples(mode), np.asarray(apply(Image.fromarray(_samples(mode)))).astype(int)
    plain = np.repeat(before[:, :, None], 3, axis=2) if mode == "L" else before
    return (apply, mode) if np.abs(after - plain).max() > _NOTICEABLE else None


def _samples(mode: str) -> Pixels:
    """Colours all over the cube, or greys."""
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    if mode == "L":
        return levels[None]
    red, green, blue = np.meshgrid(levels, levels, levels)
    return np.stack([red, green, blue], axis=-1).reshape(64, 64, 3)
