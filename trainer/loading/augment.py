"""Augment: what is done to images on their way, with the meaning that torchvision gives to names and parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from facepack.errors import UsageError
from trainer.loading import draws

Sizes = npt.NDArray[np.int64]
"""Width and height of each image of a batch in pixels, int64 (batch, 2)."""

Inputs = dict[str, npt.NDArray[Any]]
"""What an augmentation needs to know of each image of a batch; the first axis is the batch."""

GREY = (0.2989, 0.587, 0.114)
_RATIO_TRIES = 10


class Draw(NamedTuple):
    """Random numbers of one augmentation in one batch: they depend on seed, epoch and place in the epoch alone."""

    seed: int
    epoch: int
    step: int
    """The place of the augmentation in the list."""
    numbers: npt.NDArray[np.int64]
    """The place of each image in the order of the epoch; negative where an image stays plain."""

    @property
    def is_plain(self) -> npt.NDArray[np.bool_]:
        """True for images that nothing random is done to."""
        return self.numbers < 0

    def uniform(
        self, what: str, low: float = 0.0, high: float = 1.0, *, plain: float | None = None
    ) -> npt.NDArray[np.float64]:
        """One number per image in [low, high); `plain` for plain images, by default the middle."""
        key = draws.key(self.seed, self.epoch, self.step, what)
        drawn = low + (high - low) * draws.uniform(self.numbers, key)
        return np.where(self.is_plain, (low + high) / 2 if plain is None else plain, drawn)

    def integer(self, what: str, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """One number per image in 0 .. number - 1."""
        return np.minimum((self.uniform(what) * number).astype(np.int64), number - 1)


class Augmentation(Protocol):
    """One step. `inputs` gives what it needs for a batch and the sizes after it; `graph` adds it to a DALI pipeline."""

    @property
    def is_random(self) -> bool:
        """False where the same image always gives the same result, which can be kept."""

    @property
    def is_pointwise(self) -> bool:
        """True where a pixel stays where it is, so that a flip may as well come after it."""

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Random parameters of a batch."""

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """The DALI operators, on images HWC."""


@dataclass(frozen=True)
class Resize:
    """To (height, width), or with one number the shorter side to it; bilinear with antialiasing."""

    size: int | tuple[int, int]
    is_random = False
    is_pointwise = False

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """The size of each image."""
        if isinstance(self.size, tuple):
            after = np.broadcast_to(np.array([self.size[1], self.size[0]], np.int64), sizes.shape)
        else:  # torchvision rounds the longer side down
            after = sizes * self.size // sizes.min(axis=1, keepdims=True)
        return {"size": after[:, ::-1].astype(np.float32)}, after

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """A triangular filter, as torchvision's."""
        return _resized(images, inputs["size"])


@dataclass(frozen=True)
class CenterCrop:
    """The middle (height, width), or square, of each image."""

    size: int | tuple[int, int]
    is_random = False
    is_pointwise = False

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Top and left as torchvision rounds them: half to even."""
        after = _checked_crop(self.size, sizes, "CenterCrop")
        start = np.rint((sizes - after) / 2.0).astype(np.int32)
        return _slice(start, after), after

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """A slice."""
        return _sliced(images, inputs)


@dataclass(frozen=True)
class RandomCrop:
    """A (height, width), or square, part anywhere in each image."""

    size: int | tuple[int, int]
    is_random = True
    is_pointwise = False

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Top and left."""
        after = _checked_crop(self.size, sizes, "RandomCrop")
        left = draw.integer("left", sizes[:, 0] - after[:, 0] + 1)
        top = draw.integer("top", sizes[:, 1] - after[:, 1] + 1)
        return _slice(np.stack([left, top], axis=1), after), after

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """A slice."""
        return _sliced(images, inputs)


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

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """The first of ten tries that fits, else the largest middle part of an allowed shape."""
        width, height = sizes[:, 0], sizes[:, 1]
        part, found = self._fallback(sizes), np.zeros(len(sizes), bool)
        for number in range(_RATIO_TRIES):
            area = width * height * draw.uniform(f"area {number}", *self.scale, plain=1.0)
            ratio = np.exp(draw.uniform(f"ratio {number}", *np.log(self.ratio)))
            ratio = np.where(draw.is_plain, width / height, ratio)
            tried = np.rint(np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1)).astype(np.int64)
            fits = (tried > 0).all(axis=1) & (tried <= sizes).all(axis=1) & ~found
            part, found = np.where(fits[:, None], tried, part), found | fits
            if found.all():
                break
        left = np.where(found, draw.integer("left", width - part[:, 0] + 1), (width - part[:, 0]) // 2)
        top = np.where(found, draw.integer("top", height - part[:, 1] + 1), (height - part[:, 1]) // 2)
        after = sizes
        if self.size is not None:
            after = np.broadcast_to(np.array(_pair(self.size)[::-1], np.int64), sizes.shape)
        inputs = _slice(np.stack([left, top], axis=1), part)
        return inputs | {"size": after[:, ::-1].astype(np.float32)}, after

    def _fallback(self, sizes: Sizes) -> Sizes:
        width, height = sizes[:, 0], sizes[:, 1]
        ratio = width / height
        narrow, wide = self.ratio
        part_width = np.where(ratio > wide, np.rint(height * wide), width)
        part_height = np.where(ratio < narrow, np.rint(width / narrow), height)
        return np.stack([part_width, part_height], axis=1).astype(np.int64)

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """A slice, then the filter of `Resize`; on a CPU OpenCV does what only enlarges, in an eighth of the time."""
        if self.size is None and not _is_on_gpu(images):
            return _enlarged(images, inputs)
        return _resized(_sliced(images, inputs), inputs["size"])


@dataclass(frozen=True)
class CenterResizedCrop:
    """The middle of each image, so large a share of each side, resized to the size that the image had.

    Networks that learn from random parts, which are enlarged, see things larger in training than elsewhere; with this
    they do not (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
    """

    share: float
    is_random = False
    is_pointwise = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"CenterResizedCrop({self.share}): expected more than 0, and at most 1")

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Top, left and size of the part."""
        part = np.maximum(1, np.rint(sizes * self.share)).astype(np.int64)
        inputs = _slice(np.rint((sizes - part) / 2.0), part)
        return inputs | {"size": sizes[:, ::-1].astype(np.float32)}, sizes

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """A slice, then the filter of `Resize`."""
        return _resized(_sliced(images, inputs), inputs["size"])


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Left and right exchanged with probability p."""

    p: float = 0.5
    is_random = True
    is_pointwise = False

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """1 where an image is flipped."""
        return {"flip": (draw.uniform("flip", plain=1.0) < self.p).astype(np.int32)}, sizes

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """A flip of its own; the last one of a list is done while normalising."""
        from nvidia.dali import fn

        return fn.flip(images, horizontal=inputs["flip"], vertical=0)


@dataclass(frozen=True)
class RandomRotation:
    """Turned about the middle by up to so many degrees, or by (from, to); what comes from outside is `fill`."""

    degrees: float | tuple[float, float]
    fill: float = 0.0
    is_random = True
    is_pointwise = False

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Degrees, counter-clockwise."""
        low, high = self.degrees if isinstance(self.degrees, tuple) else (-self.degrees, self.degrees)
        return {"angle": draw.uniform("angle", low, high, plain=0.0).astype(np.float32)}, sizes

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """The nearest pixel, as is torchvision's default."""
        from nvidia.dali import fn, types

        settings = {"keep_size": True, "fill_value": self.fill, "interp_type": types.INTERP_NN}
        return fn.rotate(images, angle=inputs["angle"], **settings)


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

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """The factors of each image; saturation as a matrix over its channels."""
        found: Inputs = {}
        for name in ("brightness", "contrast", "saturation", "hue"):
            given = getattr(self, name)
            if not given:
                continue
            middle, least = (0.0, -0.5) if name == "hue" else (1.0, 0.0)
            low, high = given if isinstance(given, tuple) else (max(least, middle - given), middle + given)
            found[name] = draw.uniform(name, low, high, plain=middle).astype(np.float32)
        if "saturation" in found:
            factor = found["saturation"][:, None, None]
            found["saturation"] = factor * np.eye(3, dtype=np.float32) + (1 - factor) * np.array(GREY, np.float32)
        return found, sizes

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """Arithmetic on float32 in 0..255, limited to that range after each step as torchvision does."""
        from nvidia.dali import fn, types
        from nvidia.dali import math as dali_math

        def limited(values: Any) -> Any:
            return dali_math.clamp(values, 0.0, 255.0)

        images = fn.cast(images, dtype=types.FLOAT)
        if "brightness" in inputs:
            images = limited(images * _like(inputs["brightness"], images))
        if "contrast" in inputs:
            factor = _like(inputs["contrast"], images)
            means = fn.reductions.mean(images, axes=[0, 1])  # per channel, float32 (3,)
            grey = fn.reductions.sum(means * _like(types.Constant(np.array(GREY, np.float32)), images))
            images = limited(images * factor + grey * (1.0 - factor))
        if "saturation" in inputs:
            images = limited(fn.coord_transform(images, M=inputs["saturation"]))
        if "hue" in inputs:
            images = limited(_turned(images, _like(inputs["hue"], images)))
        return fn.reinterpret(images, layout="HWC")


@dataclass(frozen=True)
class Normalize:
    """Less the mean, over the standard deviation, per channel RGB in 0..1; without values those of the build.

    It ends a list, and makes the images float32 NCHW; a list without it gives uint8 NHWC.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    is_random = False
    is_pointwise = True

    def inputs(self, draw: Draw, sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Nothing that changes from image to image."""
        return {}, sizes

    def graph(self, images: Any, inputs: dict[str, Any]) -> Any:
        """The pipeline does it last, together with a flip."""
        return images


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _checked_crop(size: int | tuple[int, int], sizes: Sizes, name: str) -> Sizes:
    after = np.array(_pair(size)[::-1], np.int64)
    if (sizes < after).any():
        width, height = sizes[(sizes < after).any(axis=1)][0]
        raise UsageError(f"{name}({size}): an image of {width}x{height} pixels is smaller; put a Resize before it")
    return np.broadcast_to(after, sizes.shape)


def _slice(start: npt.NDArray[Any], part: Sizes) -> Inputs:
    """Start and size in the order of DALI's axes: height, width."""
    return {"start": start[:, ::-1].astype(np.int32), "part": part[:, ::-1].astype(np.int32)}


def _sliced(images: Any, inputs: dict[str, Any]) -> Any:
    from nvidia.dali import fn

    return fn.slice(images, start=inputs["start"], shape=inputs["part"], axes=(0, 1))


def _resized(images: Any, size: Any) -> Any:
    from nvidia.dali import fn, types

    return fn.resize(images, size=size, interp_type=types.INTERP_LINEAR, antialias=True)


def _enlarged(images: Any, inputs: dict[str, Any]) -> Any:
    from nvidia.dali import fn

    arguments = [inputs[name] for name in ("start", "part", "size")]
    return fn.python_function(images, *arguments, function=_with_opencv, batch_processing=True, output_layouts="HWC")


def _with_opencv(*batch: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Parts of images enlarged: bilinear, since antialiasing changes only what is made smaller.

    A batch is images, and for each start, part and size as `_slice` and `Resize` give them.
    """
    found = []
    numbers = [np.stack(one).astype(int).tolist() for one in batch[1:]]
    for image, (top, left), (height, width), size in zip(batch[0], *numbers, strict=True):
        cut = image[top : top + height, left : left + width]
        found.append(cv2.resize(cut, size[::-1], interpolation=cv2.INTER_LINEAR))
    return found


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


def default(*, is_train: bool) -> tuple[Augmentation, ...]:
    """Normalised by the build's own statistics; in train also flipped at random."""
    return (RandomHorizontalFlip(), Normalize()) if is_train else (Normalize(),)


def fixed_part(augmentations: Sequence[Augmentation]) -> int:
    """How many of the first steps are the same every time, so that their result can be kept."""
    for number, step in enumerate(augmentations):
        if step.is_random or isinstance(step, Normalize):
            return number
    return len(augmentations)


def check(augmentations: Sequence[Augmentation]) -> None:
    """Refuse a list that does not end where it normalises."""
    for step in augmentations[:-1]:
        if isinstance(step, Normalize):
            raise UsageError("augment: Normalize must come last")
    for step in augmentations:
        for name, value in vars(step).items():
            for number in value if isinstance(value, Sequence) else (value,):
                if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
                    raise UsageError(f"augment: {type(step).__name__}: {name} is {value}")
