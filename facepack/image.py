"""Images: bytes to pixels and back, with a reason for every file that is not a sound image."""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from facepack import colour, jpeg
from facepack.manifest import MAX_PIXELS, MIN_SIDE_PX, Status

Pixels = npt.NDArray[np.uint8]

MAX_SIDE_PX = 65_500
"""The longest side that libjpeg writes."""

_PNG_SIZE = struct.Struct(">II")
_BROKEN_HEADER = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, struct.error)
"""What Pillow raises for broken headers, by format."""
_EXIF_ORIENTATION = 0x0112
_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"


class BadImageError(Exception):
    """A file that cannot be packed, with its status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


def decode(content: bytes, *, keep_damaged: bool = False) -> Pixels:
    """Decode a whole image file to image_hwc, uint8 BGR in sRGB, upright by its EXIF orientation.

    Size is checked from the header before anything is decoded. Grey, CMYK, palette, 16-bit and transparent images
    become 8-bit BGR; of an animation the first frame is taken; pixels with a colour profile of their own become sRGB.
    A JPEG that the decoder complains of is `damaged`, unless `keep_damaged`. Raises `BadImageError`.
    """
    kind = _kind(content)
    if kind is None:
        raise BadImageError(Status.NOT_AN_IMAGE)
    size = {"jpeg": jpeg.frame_size, "png": _png_size}.get(kind, _size)(content)
    if size is None:
        raise BadImageError(Status.TRUNCATED)
    width_px, height_px = size
    if width_px * height_px > MAX_PIXELS or max(width_px, height_px) > MAX_SIDE_PX:
        raise BadImageError(Status.TOO_LARGE)
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise BadImageError(Status.TOO_SMALL)
    image_hwc = _decode_jpeg(content, keep_damaged=keep_damaged) if kind == "jpeg" else None
    if image_hwc is None:
        image_hwc = _decode_any(content, kind)
    return colour.to_srgb(image_hwc, profile=colour.profile_of(content))


def _decode_jpeg(content: bytes, *, keep_damaged: bool) -> Pixels | None:
    """Decode a JPEG and hear what the decoder complains of; None leaves it to OpenCV."""
    try:
        image_hwc = jpeg.decode(content)
    except jpeg.DamagedError:
        # A file that OpenCV does not read either is truncated or unreadable, and that says more.
        if _decode_any(content, "jpeg") is not None and not keep_damaged:
            raise BadImageError(Status.DAMAGED) from None
        return None
    return None if image_hwc is None else _upright(image_hwc, _orientation(content))


def _decode_any(content: bytes, kind: str) -> Pixels:
    """Decode with OpenCV, which turns images upright by itself."""
    try:
        image_hwc: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image_hwc = None
    if image_hwc is None:
        raise BadImageError(Status.TRUNCATED if _ends_early(kind, content) else Status.UNREADABLE)
    return image_hwc  # type: ignore[no-any-return]


def _orientation(content: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 to 8; 1 where there is none."""
    if b"Exif\0\0" not in content[:65_536]:
        return 1
    try:
        with Image.open(io.BytesIO(content)) as opened:
            orientation = opened.getexif().get(_EXIF_ORIENTATION, 1)
    except _BROKEN_HEADER:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image_hwc: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (CIPA DC-008, 4.6.4)."""
    if orientation == 1:
        return image_hwc
    if orientation in (5, 6, 7, 8):
        image_hwc = image_hwc.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image_hwc = image_hwc[::-1]
    if orientation in (2, 3, 6, 7):
        image_hwc = image_hwc[:, ::-1]
    return np.ascontiguousarray(image_hwc)


def resize(image_hwc: Pixels, *, width_px: int, height_px: int) -> Pixels:
    """Resize to exactly this size: averaging areas to shrink, linear to enlarge; the same pixels on any CPU."""
    height, width = image_hwc.shape[:2]
    if (width, height) == (width_px, height_px):
        return image_hwc
    shrinks = width_px < width or height_px < height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image_hwc, (width_px, height_px), interpolation=method)  # type: ignore[return-value]


def encode_jpeg(image_hwc: Pixels, *, quality: int) -> bytes:
    """Baseline JPEG of uint8 BGR pixels."""
    done, encoded = cv2.imencode(".jpg", image_hwc, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return encoded.tobytes()


def encode_raw(image_hwc: Pixels) -> bytes:
    """A .npy file of uint8 HWC RGB pixels, from BGR ones."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(image_hwc[:, :, ::-1]), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def decode_raw(content: bytes) -> Pixels:
    """The uint8 HWC RGB pixels of a .npy file; `ValueError` where it is something else."""
    image_hwc = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if image_hwc.dtype != np.uint8 or image_hwc.ndim != 3 or image_hwc.shape[2] != 3:
        raise ValueError(f"not uint8 HWC RGB: {image_hwc.dtype} {image_hwc.shape}")
    return image_hwc


def decode_packed(content: bytes, *, encoding: str) -> Pixels:
    """The pixels of a sample as a shard holds it, uint8 BGR HWC; `encoding` is that of the build, jpeg or raw."""
    return np.ascontiguousarray(decode_raw(content)[:, :, ::-1]) if encoding == "raw" else decode(content)


def is_plain_jpeg(content: bytes) -> bool:
    """True for a JPEG that every reader shows alike, so that its bytes can be kept: grey or YCbCr, stored upright."""
    if _kind(content) != "jpeg" or jpeg.has_stray_bytes(content) or not colour.is_srgb(colour.profile_of(content)):
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.mode in ("L", "RGB") and image.getexif().get(_EXIF_ORIENTATION, 1) == 1
    except _BROKEN_HEADER:
        return False


@dataclass(frozen=True)
class Moments:
    """Exact sums over the pixels of some images, per channel RGB: they add up in any order to the same mean and std."""

    num_pixels: int = 0
    sums: tuple[int, int, int] = (0, 0, 0)
    squares: tuple[int, int, int] = (0, 0, 0)

    def __add__(self, other: "Moments") -> "Moments":
        red, green, blue = (a + b for a, b in zip(self.sums, other.sums, strict=True))
        red2, green2, blue2 = (a + b for a, b in zip(self.squares, other.squares, strict=True))
        return Moments(self.num_pixels + other.num_pixels, (red, green, blue), (red2, green2, blue2))

    def mean_std(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation per channel in 0..1, None without a pixel."""
        if not self.num_pixels:
            return None
        means = [total / self.num_pixels for total in self.sums]
        variances = [square / self.num_pixels - mean**2 for square, mean in zip(self.squares, means, strict=True)]
        return [round(mean / 255, 8) for mean in means], [round(max(v, 0.0) ** 0.5 / 255, 8) for v in variances]


class MomentsCounter:
    """Adds up exact sums and sums of squares over the pixels of uint8 BGR images, per channel RGB."""

    def __init__(self) -> None:
        self._num_pixels: list[int] = []
        self._means_stds: list[Any] = []

    def add(self, image_hwc: Pixels) -> None:
        """Count one image."""
        self._num_pixels.append(image_hwc.shape[0] * image_hwc.shape[1])
        # With a fourth channel OpenCV adds up several pixels at once.
        self._means_stds.append(cv2.meanStdDev(cv2.cvtColor(image_hwc, cv2.COLOR_BGR2BGRA)))

    def total(self) -> Moments:
        """The sums over all images counted so far."""
        if not self._num_pixels:
            return Moments()
        num_pixels = np.array(self._num_pixels)[:, None]
        means, stds = np.array(self._means_stds)[:, :, 2::-1, 0].transpose(1, 0, 2)
        # OpenCV adds up integers and divides last, so that rounding gives the integers back.
        sums = np.rint(means * num_pixels).astype(np.int64).sum(axis=0)
        squares = np.rint((stds**2 + means**2) * num_pixels).astype(np.int64).sum(axis=0)
        return Moments(int(num_pixels.sum()), tuple(sums.tolist()), tuple(squares.tolist()))


def _kind(content: bytes) -> str | None:
    """The file format by its first bytes, None for anything that is not an image we read."""
    if content[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if content[:4] in (b"GIF8", b"II*\0", b"MM\0*") or (content[:2] == b"BM" and content[6:10] == bytes(4)):
        return "other"
    if (content[:4], content[8:12]) == (b"RIFF", b"WEBP") or content[4:12] == b"ftypavif":
        return "other"
    if content[:1] == b"P" and content[1:2] in b"123456" and content[2:3].isspace():  # Netpbm: .pgm, .ppm, ...
        return "other"
    return None


def _png_size(content: bytes) -> tuple[int, int] | None:
    """Width and height from the IHDR chunk, which comes first; None where it ends before."""
    return _PNG_SIZE.unpack_from(content, 16) if len(content) >= 24 else None


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height from the header of any other format; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return image.size
    except Image.DecompressionBombError:
        raise BadImageError(Status.TOO_LARGE) from None
    except _BROKEN_HEADER:
        return None


def _ends_early(kind: str, content: bytes) -> bool:
    """True where a file that begins as an image has no proper end."""
    if kind == "jpeg":
        return _JPEG_END not in content[-1024:]
    return kind == "png" and _PNG_END not in content[-1024:]
