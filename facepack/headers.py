"""Headers: the format of an image file by its first bytes, and what Pillow reads before any pixel is decoded."""

import io
import re
import struct
import warnings

from PIL import Image

BROKEN_HEADER = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, IndexError, struct.error)
"""What Pillow raises for broken headers, by format."""
EXIF_ORIENTATION = 0x0112

_MAGIC = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8"),
    "TIFF": re.compile(rb"II\*\0|MM\0\*"),
    "BMP": re.compile(rb"BM.{4}\0{4}", re.DOTALL),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "PPM": re.compile(rb"P[1-6]\s"),
    "AVIF": re.compile(rb".{4}ftypavif", re.DOTALL),
}
"""How files begin, by Pillow's name of their format."""


def format_of(content: bytes) -> str | None:
    """Pillow's name of a file's format by its first bytes, None for anything that is not an image we read."""
    return next((name for name, magic in _MAGIC.items() if magic.match(content)), None)


def opened(content: bytes) -> Image.Image:
    """An image file of a known format as Pillow opens it, of whatever size; raises one of `BROKEN_HEADER`.

    `Image.open` refuses more than 179 million pixels, which a phone's photo has; here who decodes sets the limit.
    """
    name = format_of(content)
    if name not in Image.OPEN:
        Image.init()
    if name not in Image.OPEN:  # no image, or an AVIF for a Pillow that reads none
        raise ValueError(f"Pillow opens no {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.OPEN[name][0](io.BytesIO(content), "")


def orientation_of(content: bytes) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where there is none."""
    try:
        with opened(content) as image:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN_HEADER:
        return 1
    return orientation if orientation in range(1, 9) else 1
