"""Headers: the format of an image file by its first bytes, and what Pillow reads before any pixel is decoded."""

import io
import re
import struct
import warnings
from functools import cache
from typing import Any

from PIL import Image, features

BROKEN_HEADER = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, IndexError, struct.error)
"""What Pillow raises for broken headers, by format."""
EXIF_ORIENTATION = 0x0112

_MAGIC = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8"),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "BMP": re.compile(rb"BM.{4}\0{4}", re.DOTALL),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "PPM": re.compile(rb"P[1-6]\s"),
    "JPEG2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
}
"""How files begin, by Pillow's name of their format."""

_AV1, _HEVC = {b"avif", b"avis"}, re.compile(rb"(?:mif1|msf1|hei[cxms]|hev[cxms])")
_BOX = struct.Struct(">I4s")


def format_of(content: bytes) -> str | None:
    """Pillow's name of a file's format by its first bytes, None for anything that is not an image we read."""
    if content[4:8] == b"ftyp":
        return _iso_format(content)
    return next((name for name, magic in _MAGIC.items() if magic.match(content)), None)


def _iso_format(content: bytes) -> str | None:
    """AVIF or HEIF by the brands of a file (ISO/IEC 23008-12, 10), which are the same boxes around other codecs."""
    length = min(int.from_bytes(content[:4], "big"), 1024)
    brands = [content[8:12], *(content[at : at + 4] for at in range(16, length, 4))]
    if brands[0] in _AV1:
        return "AVIF"
    if not _HEVC.fullmatch(brands[0]):
        return None
    return "AVIF" if brands[0] in (b"mif1", b"msf1") and _AV1.intersection(brands) else "HEIF"


def has_all_boxes(content: bytes) -> bool:
    """False where a file made of boxes (AVIF, HEIF, JP2) ends before the last of them does."""
    at = 0
    while at < len(content):
        if at + 8 > len(content):
            return False
        length, _ = _BOX.unpack_from(content, at)
        if length == 1:
            length = int.from_bytes(content[at + 8 : at + 16], "big")
        if length == 0:  # up to the end
            return True
        if length < 8:
            return False
        at += length
    return at == len(content)


def can_open(name: str) -> bool:
    """Whether a format can be read here: HEIF needs pillow-heif, AVIF and JPEG 2000 a Pillow that was built with it."""
    if name == "HEIF":
        return heif_file() is not None
    feature = {"AVIF": "avif", "JPEG2000": "jpg_2000"}.get(name)
    return feature is None or bool(features.check(feature))


@cache
def heif_file() -> Any:
    """What opens HEIC for Pillow, None where pillow-heif is not installed; Pillow's own list stays as it is."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile


def opened(content: bytes) -> Image.Image:
    """An image file of a known format as Pillow opens it, of whatever size; raises one of `BROKEN_HEADER`.

    `Image.open` refuses more than 179 million pixels, which a phone's photo has; here who decodes sets the limit.
    """
    name = format_of(content)
    if name not in Image.OPEN:
        Image.init()
    if name is None or not can_open(name):
        raise ValueError(f"Pillow opens no {name}")
    open_file = heif_file() if name == "HEIF" else Image.OPEN[name][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_file(io.BytesIO(content), "")


def orientation_of(content: bytes) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where there is none."""
    try:
        with opened(content) as image:
            return stated_orientation(image)
    except BROKEN_HEADER:
        return 1


def stated_orientation(image: Image.Image) -> int:
    """How the pixels of an open image lie, 1 to 8: by EXIF, but for AVIF by its irot and imir, which Pillow puts there.

    XMP repeats what EXIF says, and is not asked. The pixels of HEIF come upright.
    """
    if image.format == "HEIF":
        return 1
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1
