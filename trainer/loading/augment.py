"""Augment: what happens to images on their way to a batch; names and parameters mean what they mean in torchvision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError
from trainer.loading import draws, opencv
from trainer.loading.opencv import Pixels

Sizes = npt.NDArray[np.int64]
"""Height and width of each image of a batch in pixels, int64 (batch, 2): the order of torchvision and of `size_hw`."""

Parameters = dict[str, npt.NDArray[Any]]
"""What an augmentation needs to know of each image of a batch, by name; the first axis is the batch."""

GREY = (0.2989, 0.587, 0.114)
_NUM_RATIO_TRIES = 10


class RandomNumbers(NamedTuple):
    """Random numbers of one augmentation for one batch: they depend on seed, epoch and place in the epoch alone."""

    seed: int
    epoch: int
    step: int
    """The place of the augmentation in the list."""
    places: npt.NDArray[np.int64]
    """The place of each image in the order of the epoch, int64 (batch,); negative where an image stays plain."""

    @property
    def is_plain(self) -> npt.NDArray[np.bool_]:
        """True for images that nothing random is done to, bool (batch,)."""
        return self.places < 0

    def uniform(
        self, purpose: str, *, low: float = 0.0, high: float = 1.0, plain: float | None = None
    ) -> npt.NDArray[np.float64]:
        """A number per image in [low, high), float64 (batch,); `plain` for plain images, by default the middle."""
        key = draws.key(self.seed, self.epoch, self.step, purpose)
        drawn = low + (high - low) * draws.uniform(self.places, key)
        return np.where(self.is_plain, (low + high) / 2 if plain is None else plain, drawn)

    def integer(self, purpose: str, *, below: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A number per image in 0 .. below - 1, int64 (batch,)."""
        return np.minimum((self.uniform(purpose) * below).astype(np.int64), below - 1)


class Augmentation(Protocol):
    """One step: `parameters` computes in numpy what it needs for a batch; DALI or OpenCV does it.

    `graph` adds it to a DALI pipeline, `pixels` does it to one image on the CPU: the same within a level on average.
    """

    @property
    def is_random(self) -> bool:
        """False where the same image always gives the same result, which can be kept."""

    @property
    def is_pointwise(self) -> bool:
        """True where a pixel stays where it is, so that a flip may as well come after it."""

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Parameters of images of these sizes, and the sizes after the step; `FieldError` where it does not fit."""

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """The DALI operators, on images HWC, with DALI's nodes of the parameters."""

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """One image, uint8 (height, width, 3), with its own parameters as numbers and lists."""


@dataclass(frozen=True)
class Resize:
    """To (height, width), or with one number the shorter side to it; bilinear with antialiasing."""

    size: int | tuple[int, int]
    is_random = False
    is_pointwise = False

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """The size of each image."""
        if isinstance(self.size, tuple):
            after_hw = np.broadcast_to(np.array(self.size, np.int64), sizes_hw.shape)
        else:  # torchvision rounds the longer side down
            after_hw = sizes_hw * self.size // sizes_hw.min(axis=1, keepdims=True)
        return {"size_hw": after_hw.astype(np.float32)}, after_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A triangular filter, as torchvision's."""
        return _resized(images, parameters["size_hw"])

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.resized(image, _whole(parameters["size_hw"]))


@dataclass(frozen=True)
class CenterCrop:
    """The middle (height, width), or square, of each image."""

    size: int | tuple[int, int]
    is_random = False
    is_pointwise = False

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Top and left as torchvision rounds them: half to even."""
        after_hw = _checked_crop("CenterCrop", self.size, sizes_hw)
        return _slice(np.rint((sizes_hw - after_hw) / 2.0), after_hw), after_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A slice."""
        return _sliced(images, parameters)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """A slice."""
        return _part(image, parameters)


@dataclass(frozen=True)
class RandomCrop:
    """A (height, width), or square, part anywhere in each image."""

    size: int | tuple[int, int]
    is_random = True
    is_pointwise = False

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Top and left."""
        after_hw = _checked_crop("RandomCrop", self.size, sizes_hw)
        return _slice(_random_corner(random, sizes_hw - after_hw), after_hw), after_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A slice."""
        return _sliced(images, parameters)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """A slice."""
        return _part(image, parameters)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of random area and shape, resized to (height, width) or a square; `ratio` is width to height.

    Without a size, to the size that the image had.
    """

    size: int | tuple[int, int] | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    is_random = True
    is_pointwise = False

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """The first of ten tries that fits, else the largest middle part of an allowed shape."""
        crops_hw, is_random = self._random_crops(random, sizes_hw)
        margins_hw = sizes_hw - crops_hw
        corners = np.where(is_random[:, None], _random_corner(random, margins_hw), margins_hw // 2)
        after_hw = sizes_hw
        if self.size is not None:
            after_hw = np.broadcast_to(np.array(_pair(self.size), np.int64), sizes_hw.shape)
        return _slice(corners, crops_hw) | {"size_hw": after_hw.astype(np.float32)}, after_hw

    def _random_crops(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Sizes, npt.NDArray[np.bool_]]:
        """Sizes of the parts, and which of them are random: none of the tries fits the others."""
        height, width = sizes_hw.T
        crops_hw, is_random = self._largest_crops(sizes_hw), np.zeros(len(sizes_hw), bool)
        for number in range(_NUM_RATIO_TRIES):
            low, high = self.scale
            area = width * height * random.uniform(f"area {number}", low=low, high=high, plain=1.0)
            low, high = np.log(self.ratio)
            ratio = np.exp(random.uniform(f"ratio {number}", low=low, high=high))
            ratio = np.where(random.is_plain, width / height, ratio)
            tried = np.rint(np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1)).astype(np.int64)
            fits = (tried > 0).all(axis=1) & (tried <= sizes_hw).all(axis=1) & ~is_random
            crops_hw, is_random = np.where(fits[:, None], tried, crops_hw), is_random | fits
            if is_random.all():
                break
        return crops_hw, is_random

    def _largest_crops(self, sizes_hw: Sizes) -> Sizes:
        """The largest parts of an allowed shape."""
        height, width = sizes_hw.T
        ratio = width / height
        narrow, wide = self.ratio
        crop_width = np.where(ratio > wide, np.rint(height * wide), width)
        crop_height = np.where(ratio < narrow, np.rint(width / narrow), height)
        return np.stack([crop_height, crop_width], axis=1).astype(np.int64)

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A slice, then the filter of `Resize`."""
        return _resized(_sliced(images, parameters), parameters["size_hw"])

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.resized(_part(image, parameters), _whole(parameters["size_hw"]))


@dataclass(frozen=True)
class CenterResizedCrop:
    """The middle of each image, `share` (0 to 1) of each side, resized to the size that the image had.

    Networks that learn from random parts, which are enlarged, see things larger in training than elsewhere; with this
    they do not (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
    """

    share: float
    is_random = False
    is_pointwise = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise FieldError("augment", f"CenterResizedCrop({self.share})", "expected more than 0, and at most 1")

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Top, left and size of the part."""
        crops_hw = np.maximum(1, np.rint(sizes_hw * self.share)).astype(np.int64)
        corners = np.rint((sizes_hw - crops_hw) / 2.0)
        return _slice(corners, crops_hw) | {"size_hw": sizes_hw.astype(np.float32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A slice, then the filter of `Resize`."""
        return _resized(_sliced(images, parameters), parameters["size_hw"])

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.resized(_part(image, parameters), _whole(parameters["size_hw"]))


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Left and right exchanged with probability `p`."""

    p: float = 0.5
    is_random = True
    is_pointwise = False

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """1 where an image is flipped."""
        return {"flip": (random.uniform("flip", plain=1.0) < self.p).astype(np.int32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A flip of its own; the last one of a list is done while normalising."""
        from nvidia.dali import fn

        return fn.flip(images, horizontal=parameters["flip"], vertical=0)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.flipped(image) if parameters["flip"] else image


@dataclass(frozen=True)
class RandomRotation:
    """Turned about the middle by up to so many degrees, or by (from, to); what comes from outside is `fill`."""

    degrees: float | tuple[float, float]
    fill: float = 0.0
    is_random = True
    is_pointwise = False

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Degrees, counter-clockwise."""
        low, high = self.degrees if isinstance(self.degrees, tuple) else (-self.degrees, self.degrees)
        return {"angle": random.uniform("angle", low=low, high=high, plain=0.0).astype(np.float32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """The nearest pixel, as is torchvision's default."""
        from nvidia.dali import fn, types

        settings = {"keep_size": True, "fill_value": self.fill, "interp_type": types.INTERP_NN}
        return fn.rotate(images, angle=parameters["angle"], **settings)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.rotated(image, degrees=parameters["angle"], fill=self.fill)


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
            images = limited(images * _like(parameters["brightness"], images))
        if "contrast" in parameters:
            factor = _like(parameters["contrast"], images)
            means = fn.reductions.mean(images, axes=[0, 1])  # per channel, float32 (3,)
            grey = fn.reductions.sum(means * _like(types.Constant(np.array(GREY, np.float32)), images))
            images = limited(images * factor + grey * (1.0 - factor))
        if "saturation" in parameters:
            images = limited(fn.coord_transform(images, M=parameters["saturation"]))
        if "hue" in parameters:
            images = limited(_turned(images, _like(parameters["hue"], images)))
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


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _checked_crop(name: str, size: int | tuple[int, int], sizes_hw: Sizes) -> Sizes:
    after = np.array(_pair(size), np.int64)
    if (sizes_hw < after).any():
        height, width = sizes_hw[(sizes_hw < after).any(axis=1)][0]
        advice = f"an image of {width}x{height} pixels is smaller; put a Resize before it"
        raise FieldError("augment", f"{name}({size})", advice)
    return np.broadcast_to(after, sizes_hw.shape)


def _random_corner(random: RandomNumbers, margins_hw: Sizes) -> Sizes:
    """Top and left at random, within the margins."""
    top, left = (random.integer(name, below=margins_hw[:, axis] + 1) for axis, name in enumerate(("top", "left")))
    return np.stack([top, left], axis=1)


def _slice(corners: npt.NDArray[Any], crops_hw: Sizes) -> Parameters:
    """Top and left, height and width: the order of DALI's axes."""
    return {"corner": corners.astype(np.int32), "crop_hw": crops_hw.astype(np.int32)}


def _sliced(images: Any, parameters: dict[str, Any]) -> Any:
    from nvidia.dali import fn

    return fn.slice(images, start=parameters["corner"], shape=parameters["crop_hw"], axes=(0, 1))


def _resized(images: Any, size_hw: Any) -> Any:
    from nvidia.dali import fn, types

    return fn.resize(images, size=size_hw, interp_type=types.INTERP_LINEAR, antialias=True)


def _part(image: Pixels, parameters: dict[str, Any]) -> Pixels:
    """The part that `_slice` says, a view."""
    (top, left), (height, width) = parameters["corner"], parameters["crop_hw"]
    return image[top : top + height, left : left + width]


def _whole(size_hw: Sequence[float]) -> tuple[int, int]:
    height, width = size_hw
    return int(height), int(width)


def _is_on_gpu(images: Any) -> bool:
    return getattr(images, "device", "cpu") == "gpu"


def _like(value: Any, images: Any) -> Any:
    """A number per image on the device of the images."""
    return value.gpu() if _is_on_gpu(images) and hasattr(value, "gpu") else value


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


def default_augmentations(split: str) -> tuple[Augmentation, ...]:
    """The augmentations of a split where none are named: normalised by the build; in train first flipped at random."""
    return (RandomHorizontalFlip(), Normalize()) if split == "train" else (Normalize(),)


def num_fixed(augmentations: Sequence[Augmentation]) -> int:
    """How many of the first steps give the same result every time, so that it can be kept."""
    for number, step in enumerate(augmentations):
        if step.is_random or isinstance(step, Normalize):
            return number
    return len(augmentations)


def check_augmentations(augmentations: Sequence[Augmentation]) -> None:
    """Check a list of augmentations: `FieldError` where it normalises before its end, or a number is not finite."""
    for step in augmentations:
        if not hasattr(step, "graph"):
            raise FieldError("augment", step, "expected augmentations of trainer.augment, such as Normalize()")
    if any(isinstance(step, Normalize) for step in augmentations[:-1]):
        raise FieldError("augment", "", "Normalize must come last")
    for step in augmentations:
        for name, value in vars(step).items():
            for number in value if isinstance(value, Sequence) else (value,):
                if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
                    raise FieldError("augment", f"{type(step).__name__}({name}={value})", "expected finite numbers")
