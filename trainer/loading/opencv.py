"""OpenCV: what augmentations do to an image on the CPU; pixels are uint8 HWC, RGB."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

Pixels = npt.NDArray[np.uint8]
"""Pixels of an image, uint8 (height, width, 3), RGB."""

_JPEG = b"\xff\xd8\xff"
_LEVELS = np.arange(256, dtype=np.float32)


def decoded(content: npt.NDArray[np.uint8], *, least_hw: Sequence[float] | None = None) -> Pixels:
    """The pixels of an encoded image (uint8 (num_bytes,)), as it is stored; `ValueError` where it is damaged.

    With `least_hw` a JPEG may come at a half, a quarter or an eighth, of at least this height and width: libjpeg-turbo
    leaves out what only finer pixels need, a third of the time at a half.
    """
    if content[:3].tobytes() == _JPEG:
        scale = {} if least_hw is None else _scale(content, least_hw)
        return simplejpeg.decode_jpeg(content.data, colorspace="RGB", **scale)  # type: ignore[no-any-return]
    image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("not a whole image")
    return image  # type: ignore[return-value]


def _scale(content: npt.NDArray[np.uint8], least_hw: Sequence[float]) -> dict[str, int]:
    """The smallest scale at which both sides are long enough, as simplejpeg takes it."""
    height, width = simplejpeg.decode_jpeg_header(content.data)[:2]
    for factor in (8, 4, 2):
        if height // factor >= least_hw[0] and width // factor >= least_hw[1]:
            return {"min_height": -(-height // factor), "min_width": -(-width // factor), "min_factor": factor}
    return {}


def resized(image: Pixels, size_hw: Sequence[int]) -> Pixels:
    """Bilinear with antialiasing, as torchvision's. Where nothing shrinks OpenCV does that in a third of the time.

    The result may be a view of planes (3, height, width): see `interleaved`.
    """
    height, width = size_hw
    if image.shape[0] <= height and image.shape[1] <= width:
        if image.shape[:2] == (height, width):
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
    # Of bytes in this order the kernel makes no copy, which torch would share out among threads.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    shrunk = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return shrunk[0].permute(1, 2, 0).numpy()


def planes(image: Pixels) -> Sequence[npt.NDArray[np.uint8]]:
    """Red, green and blue apart, uint8 (height, width) each."""
    if image.strides[2] > image.strides[0]:  # a view of planes
        return image[:, :, 0], image[:, :, 1], image[:, :, 2]
    return cv2.split(image)  # type: ignore[return-value]


def interleaved(image: Pixels) -> Pixels:
    """Pixels side by side, as OpenCV works on them."""
    return cv2.merge(planes(image)) if image.strides[2] > image.strides[0] else image  # type: ignore[return-value]


def flipped(image: Pixels) -> Pixels:
    """Left and right exchanged."""
    return cv2.flip(interleaved(image), 1)  # type: ignore[return-value]


def warped(image: Pixels, matrix: Sequence[Sequence[float]], *, fill: float) -> Pixels:
    """Each pixel from where a matrix (2, 3) says, to the nearest one; what comes from outside is `fill`.

    The matrix is that of DALI and torchvision, for which the first pixel's middle lies at 0.5, 0.5.
    """
    height, width = image.shape[:2]
    moved = np.array(matrix, np.float64)
    moved[:, 2] += moved[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV has it at 0, 0
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    settings = {"flags": flags, "borderMode": cv2.BORDER_CONSTANT, "borderValue": (fill,) * 3}
    return cv2.warpAffine(interleaved(image), moved, (width, height), **settings)  # type: ignore[call-overload,no-any-return]


def padded(image: Pixels, sides: tuple[int, int, int, int], *, fill: float | tuple[float, ...]) -> Pixels:
    """With borders at left, top, right and bottom."""
    left, top, right, bottom = sides
    value = fill if isinstance(fill, tuple) else (fill,) * 3
    return cv2.copyMakeBorder(  # type: ignore[return-value]
        interleaved(image), top, bottom, left, right, cv2.BORDER_CONSTANT, value=value
    )


def grey(image: Pixels) -> Pixels:
    """Grey in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(interleaved(image), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def blurred(image: Pixels, size_wh: tuple[int, int], *, sigma: float) -> Pixels:
    """Blurred by a Gaussian kernel; borders are mirrored."""
    across, down = (cv2.getGaussianKernel(side, sigma) for side in size_wh)
    return cv2.sepFilter2D(  # type: ignore[return-value]
        interleaved(image), -1, across, down, borderType=cv2.BORDER_REFLECT_101
    )


def hue_turned(image: Pixels, part: float) -> Pixels:
    """The hue moved by a part of its circle, which has 256 places."""
    hsv = cv2.cvtColor(interleaved(image), cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(part * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)  # type: ignore[return-value]


class Levels:
    """Levels of an image moved by v -> slope v + shift, again and again, limited to 0..255 each time.

    Nothing is done to the pixels as long as no limit is reached: the moves are one.
    """

    def __init__(self, image: Pixels) -> None:
        self.image = interleaved(image)
        self.slope, self.shift = 1.0, 0.0
        """The move that is still to be done, which keeps within the limits."""
        self._ends: tuple[float, float] | None = None

    def mean(self, weights: Sequence[float]) -> float:
        """The weighted sum of the means of the channels."""
        means = cv2.mean(self.image)
        return self.slope * sum(map(float.__mul__, weights, means[:3])) + self.shift * sum(weights)

    def move(self, slope: float, shift: float = 0.0) -> None:
        """Move the levels."""
        if self._ends is None:
            self._ends = float(self.image.min()), float(self.image.max())
        slope, shift = slope * self.slope, slope * self.shift + shift
        ends = [slope * end + shift for end in self._ends]
        self.slope, self.shift = slope, shift
        if min(ends) < 0 or max(ends) > 255:
            self.done()

    def mix(self, matrix: Sequence[Sequence[float]]) -> None:
        """Mix the channels by a matrix (3, 3)."""
        mixing = np.array(matrix)
        moved = np.column_stack([mixing * self.slope, mixing.sum(axis=1) * self.shift])
        self.image = cv2.transform(self.image, moved)  # type: ignore[assignment]
        self.slope, self.shift, self._ends = 1.0, 0.0, None

    def done(self) -> Pixels:
        """The pixels, with all moves done."""
        if (self.slope, self.shift) != (1.0, 0.0):
            table = np.rint(np.clip(self.slope * _LEVELS + self.shift, 0, 255)).astype(np.uint8)
            self.image = cv2.LUT(self.image, table)  # type: ignore[assignment]
            self.slope, self.shift, self._ends = 1.0, 0.0, None
        return self.image


def normalising_tables(mean: Sequence[float], std: Sequence[float]) -> list[npt.NDArray[np.float32]]:
    """For each channel what becomes of its levels, float32 (256,); mean and std are per channel in 0..1."""
    return [
        ((np.arange(256) / 255 - middle) / spread).astype(np.float32) for middle, spread in zip(mean, std, strict=True)
    ]


def normalise(
    image: Pixels, tables: Sequence[npt.NDArray[np.float32]], *, flip: bool, out: npt.NDArray[np.float32]
) -> None:
    """Write an image as float32 (3, height, width) into `out`, by `normalising_tables`, flipped if need be."""
    is_apart = image.strides[2] > image.strides[0]
    if flip and not is_apart:
        image = flipped(image)
    for plane, table, plane_out in zip(planes(image), tables, out, strict=True):
        cv2.LUT(cv2.flip(plane, 1) if flip and is_apart else plane, table, dst=plane_out)


def sharpened(image: Pixels, smooth: npt.NDArray[np.float32], *, factor: float) -> Pixels:
    """Away from (a factor above 1) or towards what a kernel (3, 3) makes of an image; its border stays as it is."""
    image = interleaved(image)
    inner = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, smooth), 1 - factor, 0)
    out = image.copy()
    out[1:-1, 1:-1] = inner[1:-1, 1:-1]
    return out


def masked(image: Pixels, *, mask: int) -> Pixels:
    """The bits of a mask, of each level."""
    return interleaved(image) & np.uint8(mask)


def solarized(image: Pixels, *, threshold: float) -> Pixels:
    """Levels from a threshold on turned into their opposites."""
    table = np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS).astype(np.uint8)
    return cv2.LUT(interleaved(image), table)  # type: ignore[return-value]


def stretched(image: Pixels) -> Pixels:
    """Each channel from its least and greatest level to 0 and 255."""
    tables = []
    for plane in planes(image):
        least, most = float(plane.min()), float(plane.max())
        moved = (_LEVELS - least) * (255 / (most - least)) if most > least else _LEVELS
        tables.append(np.clip(moved, 0, 255).astype(np.uint8))
    return cv2.LUT(interleaved(image), np.stack(tables, axis=1)[None])  # type: ignore[return-value]


def equalized(image: Pixels) -> Pixels:
    """Each channel with all levels about equally often, as torchvision has it for images of many pixels.

    OpenCV leaves the least level out of the count, torchvision the greatest: hence the negative.
    """
    negative = [cv2.equalizeHist(cv2.bitwise_not(np.ascontiguousarray(plane))) for plane in planes(image)]
    return cv2.bitwise_not(cv2.merge(negative))  # type: ignore[return-value]
