"""Images: bytes to pixels and back, with a reason for every file that is not a sound image."""

import io
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facepack import colour, headers, jpeg
from facepack.choices import MAX_PIXELS, MIN_SIDE_PX, MOST_PIXELS
from facepack.manifest import Status

Pixels = npt.NDArray[np.uint8]

MAX_SIDE_PX = 65_500
"""The longest side that libjpeg writes."""

SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp", "raw": "npy"}
"""Suffix of a packed image by encoding."""
LONGEST_SIDES_PX = {"jpeg": MAX_SIDE_PX, "png": MAX_SIDE_PX, "webp": 16_383, "raw": MAX_SIDE_PX}
"""The longest side that is packed, by encoding."""

_PNG_SIZE = struct.Struct(">II")
_BY_PILLOW = ("AVIF", "HEIF", "JPEG2000")
_JPEG_END = b"\xff\xd9"
_J2K_START = b"\xff\x4f"
_PNG_END = b"IEND\xaeB`\x82"
_LYING = (5, 6, 7, 8)
"""EXIF orientations in which width and height are exchanged."""


class BadImageError(Exception):
    """A file that cannot be packed, with its status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


def decode(
    content: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side_px: int = MIN_SIDE_PX,
    keep_damaged: bool = False,
    least_size_wh: tuple[int, int] | None = None,
) -> Pixels:
    """Decode a whole image file to image_hwc, uint8 BGR in sRGB, upright by its EXIF orientation.

    Size is checked from the header before anything is decoded. Grey, CMYK, palette, 16-bit and transparent images
    become 8-bit BGR; of an animation the first frame is taken, of a HEIC the primary image; pixels with a colour
    profile of their own become sRGB. A JPEG that the decoder complains of is `damaged`, unless `keep_damaged`. With
    `least_size_wh` a JPEG may come at a half, a quarter or an eighth, with sides that are at least these: libjpeg then
    leaves out what only finer pixels need. Raises `BadImageError`.
    """
    kind = headers.format_of(content)
    if kind is None:
        raise BadImageError(Status.NOT_AN_IMAGE)
    if not headers.can_open(kind):
        raise BadImageError(Status.NO_DECODER)
    size = {"JPEG": jpeg.frame_size, "PNG": _png_size}.get(kind, _size)(content)
    if size is None:
        raise BadImageError(Status.TRUNCATED if kind != "TIFF" or _ends_early(kind, content) else Status.UNREADABLE)
    check_size(size, max_pixels, min_side_px=min_side_px)
    image_hwc = None
    if kind == "JPEG":
        image_hwc = _decode_jpeg(content, size, least_wh=least_size_wh, keep_damaged=keep_damaged)
    if image_hwc is None:
        image_hwc = _decode_any(content, kind)
    return colour.to_srgb(image_hwc, profile=colour.profile_of(content))


def check_size(size_wh: tuple[int, int], max_pixels: int, *, min_side_px: int) -> None:
    """Raise `BadImageError` for an image (width, height in pixels) that is too large or too small."""
    width_px, height_px = size_wh
    if width_px * height_px > max_pixels or max(width_px, height_px) > MAX_SIDE_PX:
        raise BadImageError(Status.TOO_LARGE)
    if min(width_px, height_px) < min_side_px:
        raise BadImageError(Status.TOO_SMALL)


def _decode_jpeg(
    content: bytes, size_wh: tuple[int, int], *, least_wh: tuple[int, int] | None, keep_damaged: bool
) -> Pixels | None:
    """Decode a JPEG and hear what the decoder complains of; None leaves it to OpenCV."""
    orientation = headers.orientation_of(content) if b"Exif\0\0" in content[:65_536] else 1
    if least_wh is not None and orientation in _LYING:
        least_wh = least_wh[1], least_wh[0]
    scale = None if least_wh is None else jpeg.scale_for(size_wh, least_wh=least_wh)
    try:
        image_hwc = jpeg.decode(content, scale=scale)
    except jpeg.DamagedError:
        # A file that OpenCV does not read either is truncated or unreadable, and that says more.
        if _decode_any(content, "JPEG") is not None and not keep_damaged:
            raise BadImageError(Status.DAMAGED) from None
        return None
    return None if image_hwc is None else _upright(image_hwc, orientation)


def _decode_any(content: bytes, kind: str) -> Pixels:
    """Decode with OpenCV, which turns images upright by itself, or with Pillow what OpenCV turns wrongly or not."""
    if kind in _BY_PILLOW:
        return _decode_by_pillow(content, kind)
    try:
        image_hwc: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image_hwc = None
    if image_hwc is None:
        raise BadImageError(Status.TRUNCATED if _ends_early(kind, content) else Status.UNREADABLE)
    return image_hwc  # type: ignore[no-any-return]


def _decode_by_pillow(content: bytes, kind: str) -> Pixels:
    """Decode the first (of HEIF the primary) image of a file to uint8 BGR HWC."""
    try:
        with headers.opened(content) as opened:
            orientation = headers.stated_orientation(opened)
            opened.load()
            if opened.mode.startswith("I;16"):
                eight_bit_hw = (np.asarray(opened) >> 8).astype(np.uint8)
                image_hwc = np.repeat(eight_bit_hw[:, :, None], 3, axis=2)
            else:
                image_hwc = np.asarray(opened.convert("RGB"))[:, :, ::-1]
    except headers.BROKEN_HEADER:
        raise BadImageError(Status.TRUNCATED if _ends_early(kind, content) else Status.UNREADABLE) from None
    return _upright(np.ascontiguousarray(image_hwc), orientation)


def _upright(image_hwc: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (CIPA DC-008, 4.6.4)."""
    if orientation == 1:
        return image_hwc
    if orientation in _LYING:
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


def squash_of(image_hwc: Pixels, *, width_px: int, height_px: int) -> float:
    """By how much resizing to this size changes width against height, as a factor of at least 1."""
    height, width = image_hwc.shape[:2]
    factor: float = width_px * height / (height_px * width)
    return max(factor, 1 / factor)


def cut_to_shape(image_hwc: Pixels, *, width_px: int, height_px: int) -> Pixels:
    """The middle of an image, as large as can be, in the shape (width to height) of a size."""
    height, width = image_hwc.shape[:2]
    inner_width = min(width, max(1, round(height * width_px / height_px)))
    inner_height = min(height, max(1, round(width * height_px / width_px)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return np.ascontiguousarray(image_hwc[top : top + inner_height, left : left + inner_width])


def resize_padded(image_hwc: Pixels, *, width_px: int, height_px: int) -> Pixels:
    """Resize to the largest that fits into a size without a change of shape, in the middle of black."""
    height, width = image_hwc.shape[:2]
    inner_width = min(width_px, max(1, round(width * height_px / height)))
    inner_height = min(height_px, max(1, round(height * width_px / width)))
    left, top = (width_px - inner_width) // 2, (height_px - inner_height) // 2
    padded_hwc = np.zeros((height_px, width_px, 3), np.uint8)
    inner_hwc = resize(image_hwc, width_px=inner_width, height_px=inner_height)
    padded_hwc[top : top + inner_height, left : left + inner_width] = inner_hwc
    return padded_hwc


def encode(image_hwc: Pixels, *, encoding: str, quality: int) -> bytes:
    """Encode uint8 BGR pixels as a build's encoding has it; `quality` is that of jpeg and webp.

    Raises `BadImageError` for a side that the format cannot hold.
    """
    if max(image_hwc.shape[:2]) > LONGEST_SIDES_PX[encoding]:
        raise BadImageError(Status.TOO_LARGE)
    if encoding == "raw":
        return encode_raw(image_hwc)
    if encoding == "jpeg":
        return encode_jpeg(image_hwc, quality=quality)
    settings = [cv2.IMWRITE_WEBP_QUALITY, quality] if encoding == "webp" else []  # up to 100 it is lossy
    done, encoded = cv2.imencode(f".{encoding}", image_hwc, settings)
    assert done
    return encoded.tobytes()


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
    """The pixels of a sample as a shard holds it, uint8 BGR HWC; `encoding` is that of the build."""
    if encoding == "raw":
        return np.ascontiguousarray(decode_raw(content)[:, :, ::-1])
    return decode(content, max_pixels=MOST_PIXELS, min_side_px=1)


def is_plain_jpeg(content: bytes) -> bool:
    """True for a JPEG that every reader shows alike, so that its bytes can be kept: grey or YCbCr, stored upright."""
    if (
        headers.format_of(content) != "JPEG"
        or jpeg.has_stray_bytes(content)
        or not colour.is_srgb(colour.profile_of(content))
    ):
        return False
    try:
        with headers.opened(content) as image:
            return image.mode in ("L", "RGB") and image.getexif().get(headers.EXIF_ORIENTATION, 1) == 1
    except headers.BROKEN_HEADER:
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


def _png_size(content: bytes) -> tuple[int, int] | None:
    """Width and height from the IHDR chunk, which comes first; None where it ends before."""
    return _PNG_SIZE.unpack_from(content, 16) if len(content) >= 24 else None


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height from the header of any other format; None where it cannot be read."""
    try:
        with headers.opened(content) as image:
            return image.size
    except headers.BROKEN_HEADER:
        return None


def _ends_early(kind: str, content: bytes) -> bool:
    """True where a file that begins as an image has no proper end."""
    if kind == "JPEG":
        return _JPEG_END not in content[-1024:]
    if kind in _BY_PILLOW and content[:2] != _J2K_START:
        return not headers.has_all_boxes(content)
    if kind == "JPEG2000":
        return not content.endswith(_JPEG_END)
    if kind == "TIFF":
        (directory,) = struct.unpack_from("<I" if content[:2] == b"II" else ">I", content.ljust(8, b"\xff"), 4)
        return bool(directory + 2 > len(content))
    return kind == "PNG" and _PNG_END not in content[-1024:]
