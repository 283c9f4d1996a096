"""Colour: augmentations that change what pixels are, named as in torchvision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError
from trainer.loading import opencv
from trainer.loading.augmentation import GREY, NUM_TRIES, Parameters, RandomNumbers, Sizes, like, pair, random_corner
from trainer.loading.opencv import Pixels


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by a factor in 1 - x .. 1 + x, hue by a part of the circle in -x .. x.

    A pair gives the range itself. They are applied in this order; torchvision takes a random one.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    is_random = True
    is_pointwise = True

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """The factors of each image; saturation as a matrix over its channels."""
        factors: Parameters = {}
        for name in ("brightness", "contrast", "saturation", "hue"):
            spread = getattr(self, name)
            if not spread:
                continue
            middle, least = (0.0, -0.5) if name == "hue" else (1.0, 0.0)
            low, high = spread if isinstance(spread, tuple) else (max(least, middle - spread), middle + spread)
            factors[name] = random.uniform(name, low=low, high=high, plain=middle).astype(np.float32)
        if "saturation" in factors:
            factor = factors["saturation"][:, None, None]
            factors["saturation"] = factor * np.eye(3, dtype=np.float32) + (1 - factor) * np.array(GREY, np.float32)
        return factors, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """Arithmetic on float32 in 0..255, limited to that range after each step as torchvision does."""
        from nvidia.dali import fn, types
        from nvidia.dali import math as dali_math

        def limited(values: Any) -> Any:
            return dali_math.clamp(values, 0.0, 255.0)

        images = fn.cast(images, dtype=types.FLOAT)
        if "brightness" in parameters:
            images = limited(images * like(parameters["brightness"], images))
        if "contrast" in parameters:
            factor = like(parameters["contrast"], images)
            means = fn.reductions.mean(images, axes=[0, 1])  # per channel, float32 (3,)
            grey = fn.reductions.sum(means * like(types.Constant(np.array(GREY, np.float32)), images))
            images = limited(images * factor + grey * (1.0 - factor))
        if "saturation" in parameters:
            images = limited(fn.coord_transform(images, M=parameters["saturation"]))
        if "hue" in parameters:
            images = limited(_turned(images, like(parameters["hue"], images)))
        return fn.reinterpret(images, layout="HWC")

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """One pass over the pixels where no limit is reached between the steps, and one for hue."""
        levels = opencv.Levels(image)
        if "brightness" in parameters:
            levels.move(parameters["brightness"])
        if "contrast" in parameters:
            factor = parameters["contrast"]
            levels.move(factor, (1 - factor) * levels.mean(GREY))
        if "saturation" in parameters:
            levels.mix(parameters["saturation"])
        image = levels.done()
        return opencv.hue_turned(image, parameters["hue"]) if "hue" in parameters else image


@dataclass(frozen=True)
class Normalize:
    """Less the mean, over the standard deviation, per channel RGB in 0..1; without values those of the build.

    It ends a list, and makes the images float32 NCHW; a list without it gives uint8 NHWC.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    is_random = False
    is_pointwise = True

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Nothing that changes from image to image."""
        return {}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """The pipeline does it last, together with a flip."""
        return images

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return image


def _turned(images: Any, hue: Any) -> Any:
    """The hue moved on the circle of HSV (Smith 1978): f(n) = v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6."""
    from nvidia.dali import fn, types
    from nvidia.dali import math as dali_math

    red, green, blue = (images[:, :, channel] for channel in range(3))
    value = dali_math.max(dali_math.max(red, green), blue)
    chroma = value - dali_math.min(dali_math.min(red, green), blue)
    over = 1.0 / dali_math.max(chroma, 1e-6)

    def where(condition: Any) -> Any:
        return fn.cast(condition, dtype=types.FLOAT)

    is_red = where(value == red)
    is_green = (1.0 - is_red) * where(value == green)
    is_blue = (1.0 - is_red) * (1.0 - is_green)
    angle = (
        is_red * ((green - blue) * over)
        + is_green * ((blue - red) * over + 2.0)
        + is_blue * ((red - green) * over + 4.0)
        + hue * 6.0
    )
    channels = []
    for number in (5.0, 3.0, 1.0):
        k = angle + number
        k = k - 6.0 * dali_math.floor(k / 6.0)
        channels.append(value - chroma * dali_math.max(0.0, dali_math.min(dali_math.min(k, 4.0 - k), 1.0)))
    return fn.stack(*channels, axis=2)


@dataclass(frozen=True)
class RandomGrayscale:
    """Grey with probability `p`, in three equal channels."""

    p: float = 0.1
    is_random = True
    is_pointwise = True

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """A matrix over the channels."""
        is_grey = random.uniform("grey", plain=1.0) < self.p
        matrices = np.where(is_grey[:, None, None], np.array([GREY] * 3, np.float32), np.eye(3, dtype=np.float32))
        return {"matrix": matrices}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """The matrix."""
        from nvidia.dali import fn

        return fn.reinterpret(fn.coord_transform(images, M=parameters["matrix"]), layout="HWC")

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """OpenCV's grey, whose weights are the same to three digits."""
        return image if parameters["matrix"][0][0] == 1 else opencv.grey(image)


@dataclass(frozen=True)
class GaussianBlur:
    """Blurred by a kernel of so many pixels, or (width, height), of a standard deviation in `sigma`."""

    kernel_size: int | tuple[int, int]
    sigma: float | tuple[float, float] = (0.1, 2.0)
    is_random = True
    is_pointwise = True
    """A pixel does not move: the kernel is the same in a mirror."""

    def __post_init__(self) -> None:
        if any(side < 1 or side % 2 == 0 for side in pair(self.kernel_size)):
            raise FieldError("augment", f"GaussianBlur({self.kernel_size})", "expected odd sides of at least 1")
        if min(_range(self.sigma)) <= 0:
            raise FieldError("augment", f"GaussianBlur(sigma={self.sigma})", "expected more than 0")

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """The standard deviation in pixels; 0 for images that stay plain."""
        low, high = _range(self.sigma)
        return {"sigma": random.uniform("sigma", low=low, high=high, plain=0.0).astype(np.float32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """DALI's filter, which takes a deviation of 0 for one of its own choice: a tiny one changes nothing."""
        from nvidia.dali import fn
        from nvidia.dali import math as dali_math

        width, height = pair(self.kernel_size)
        sigma = dali_math.max(parameters["sigma"], 1e-3)
        return fn.gaussian_blur(images, sigma=sigma, window_size=[height, width])

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """OpenCV's filter."""
        sigma = parameters["sigma"]
        return opencv.blurred(image, pair(self.kernel_size), sigma=sigma) if sigma else image


@dataclass(frozen=True)
class RandomErasing:
    """A part of random area (share of the image) and shape (height to width) erased with probability `p`.

    Before `Normalize` a `value` (a number, or one per channel) is a level in 0..255; after it, where torchvision's
    users have it, a normalised number, and 0 the mean (Zhong et al. 2020, "Random Erasing Data Augmentation").
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | tuple[float, float, float] = 0.0
    is_random = True
    is_pointwise = False

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            advice = "expected a number, or one per channel: noise is not drawn"
            raise FieldError("augment", f"RandomErasing(value={self.value!r})", advice)

    @property
    def values(self) -> tuple[float, float, float]:
        """The value of each channel."""
        return self.value if isinstance(self.value, tuple) else (self.value,) * 3

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Top, left, height and width: the first of ten tries that fits; 0, 0 where nothing is erased."""
        height, width = sizes_hw.T
        erased_hw, is_chosen = np.zeros_like(sizes_hw), ~(random.uniform("erase", plain=1.0) < self.p)
        low, high = np.log(self.ratio)
        for number in range(NUM_TRIES):
            area = width * height * random.uniform(f"area {number}", low=self.scale[0], high=self.scale[1])
            ratio = np.exp(random.uniform(f"ratio {number}", low=low, high=high))
            tried = np.rint(np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1)).astype(np.int64)
            fits = (tried < sizes_hw).all(axis=1) & ~is_chosen
            erased_hw, is_chosen = np.where(fits[:, None], tried, erased_hw), is_chosen | fits
        corners = random_corner(random, sizes_hw - erased_hw)
        return {"corner": corners.astype(np.float32), "erased_hw": erased_hw.astype(np.float32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """DALI's erasing, of pixels HWC or of normalised ones CHW."""
        from nvidia.dali import fn

        anchor, shape = parameters["corner"], parameters["erased_hw"]
        return fn.erase(images, anchor=anchor, shape=shape, axis_names="HW", fill_value=list(self.values))

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """A copy with the part in the values."""
        image = opencv.interleaved(image).copy()
        image[self._part(parameters)] = np.rint(np.clip(self.values, 0, 255))
        return image

    def erase(self, planes: npt.NDArray[np.float32], parameters: dict[str, Any]) -> None:
        """Erase the part of normalised pixels, float32 (3, height, width), in place."""
        planes[:, *self._part(parameters)] = np.array(self.values, np.float32)[:, None, None]

    def _part(self, parameters: dict[str, Any]) -> tuple[slice, slice]:
        (top, left), (height, width) = parameters["corner"], parameters["erased_hw"]
        return slice(int(top), int(top + height)), slice(int(left), int(left + width))


def _range(spread: float | tuple[float, float]) -> tuple[float, float]:
    return spread if isinstance(spread, tuple) else (spread, spread)
