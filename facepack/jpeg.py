"""JPEG: decoded by libjpeg-turbo, which is heard where it complains, at full or at a reduced scale."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]

_SEGMENT = struct.Struct(">BBH")
_FRAME_SIZE = struct.Struct(">HH")
_SCAN, _END = 0xDA, b"\xff\xd9"
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
_READ_AS_COLOUR = ("YCbCr", "Gray", "RGB")


class DamagedError(Exception):
    """The decoder complains, so that some pixels are not those of the photo; the text is its complaint."""


def segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of the header: marker, first byte and the byte after the last (ITU T.81, B.1.1.4).

    Stray bytes between them, which decoders pass over, belong to none.
    """
    at = 2
    while at + 4 <= len(content):
        prefix, marker, length = _SEGMENT.unpack_from(content, at)
        if prefix != 0xFF:
            at = content.find(b"\xff", at)
            if at < 0:
                return
        elif marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            yield marker, at, at + 2
            at += 2
        else:
            yield marker, at, at + 2 + length
            if marker == _SCAN:
                return
            at += 2 + length


def frame_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from the frame header, None where the file ends before it."""
    for marker, start, _ in segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES and start + 9 <= len(content):
            height_px, width_px = _FRAME_SIZE.unpack_from(content, start + 5)
            return width_px, height_px
    return None


def has_stray_bytes(content: bytes) -> bool:
    """True where bytes lie between the segments of the header, or no scan follows it: not every decoder reads that."""
    end = 2
    for marker, start, stop in segments(content):
        if content[end:start].strip(b"\xff"):
            return True
        if marker == _SCAN:
            return False
        end = stop
    return True


class Scale(NamedTuple):
    """A scale at which libjpeg decodes: one over `factor`, and the width and height that come of it, in pixels."""

    factor: int
    width_px: int
    height_px: int


def scale_for(size_wh: tuple[int, int], *, least_wh: tuple[int, int]) -> Scale | None:
    """The smallest of a half, a quarter and an eighth with sides that are at least these; None where all fall short."""
    for factor in (8, 4, 2):
        if all(side // factor >= least for side, least in zip(size_wh, least_wh, strict=True)):
            return Scale(factor, *(-(-side // factor) for side in size_wh))
    return None


def decode(content: bytes, *, scale: Scale | None = None) -> Pixels | None:
    """Decode to uint8 BGR HWC as it is stored (EXIF orientation is not applied); None where the colours are CMYK.

    At a scale libjpeg leaves out what only finer pixels need. Raises `DamagedError` where the decoder complains of more
    than bytes that belong to nothing, or cannot decode at all.
    """
    try:
        return _decoded(content, scale)
    except ValueError as error:
        try:
            return _decoded(_tidied(content), scale)
        except ValueError:
            raise DamagedError(str(error)) from error


def _decoded(content: bytes, scale: Scale | None) -> Pixels | None:
    if simplejpeg.decode_jpeg_header(content)[2] not in _READ_AS_COLOUR:
        return None
    if scale is None:
        return simplejpeg.decode_jpeg(content, "BGR", strict=True)  # type: ignore[no-any-return]
    least = {"min_width": scale.width_px, "min_height": scale.height_px, "min_factor": scale.factor}
    return simplejpeg.decode_jpeg(content, "BGR", strict=True, **least)  # type: ignore[no-any-return]


def _tidied(content: bytes) -> bytes:
    """Without what decoders complain of but no pixel needs: stray bytes in the header, zeros before the end."""
    parts, at = [content[:2]], 2
    for _, start, stop in segments(content):
        parts.append(content[start:stop])
        at = stop
    scan, end, _ = content[at:].rpartition(_END)
    return b"".join([*parts, scan.rstrip(b"\0"), end]) if end else content
