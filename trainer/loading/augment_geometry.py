"""Geometry: augmentations that move pixels, named as in torchvision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError
from trainer.loading import opencv
from trainer.loading.augmentation import NUM_TRIES, Parameters, RandomNumbers, Sizes, pair, random_corner
from trainer.loading.opencv import Pixels

Numbers = npt.NDArray[np.float64]


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
        return _slice(random_corner(random, sizes_hw - after_hw), after_hw), after_hw

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
        corners = np.where(is_random[:, None], random_corner(random, margins_hw), margins_hw // 2)
        after_hw = sizes_hw
        if self.size is not None:
            after_hw = np.broadcast_to(np.array(pair(self.size), np.int64), sizes_hw.shape)
        return _slice(corners, crops_hw) | {"size_hw": after_hw.astype(np.float32)}, after_hw

    def _random_crops(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Sizes, npt.NDArray[np.bool_]]:
        """Sizes of the parts, and which of them are random: none of the tries fits the others."""
        height, width = sizes_hw.T
        crops_hw, is_random = self._largest_crops(sizes_hw), np.zeros(len(sizes_hw), bool)
        for number in range(NUM_TRIES):
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
        """Degrees, counter-clockwise, as a matrix of `affine`."""
        low, high = _both_ways(self.degrees)
        degrees = random.uniform("angle", low=low, high=high, plain=0.0)
        none = np.zeros((len(sizes_hw), 2))
        matrices = affine(sizes_hw, degrees=-degrees, moves=none, scale=np.ones(len(none)), shears=none)
        return {"matrix": matrices.astype(np.float32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """The nearest pixel, as is torchvision's default."""
        return warped(images, parameters["matrix"], fill=self.fill)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.warped(image, parameters["matrix"], fill=self.fill)


@dataclass(frozen=True)
class RandomAffine:
    """Turned, moved, scaled and sheared about the middle, to the nearest pixel; what comes from outside is `fill`.

    `degrees` and `shear` (degrees, of x or of x and y) are ranges, or a number for -number .. number; `translate` are
    the largest moves as shares of width and height; `scale` is a range of factors.
    """

    degrees: float | tuple[float, float]
    translate: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    shear: float | tuple[float, float] | tuple[float, float, float, float] | None = None
    fill: float = 0.0
    is_random = True
    is_pointwise = False

    def __post_init__(self) -> None:
        if self.translate is not None and not all(0 <= share <= 1 for share in self.translate):
            raise FieldError("augment", f"RandomAffine(translate={self.translate})", "expected shares of 0 to 1")
        if self.scale is not None and min(self.scale) <= 0:
            raise FieldError("augment", f"RandomAffine(scale={self.scale})", "expected more than 0")

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """For each image the matrix (2, 3) from pixels of the result to those that they come from."""
        shears = _both_ways(self.shear or 0.0)
        moves = np.array(self.translate or (0.0, 0.0)) * sizes_hw[:, ::-1]  # of x and y
        low, high = _both_ways(self.degrees)[:2]
        drawn = [random.uniform(f"move {axis}", low=-1.0, high=1.0, plain=0.0) for axis in "xy"]
        matrices = affine(
            sizes_hw,
            degrees=random.uniform("angle", low=low, high=high, plain=0.0),
            moves=np.rint(moves * np.stack(drawn, axis=1)),
            scale=random.uniform("scale", low=(self.scale or (1, 1))[0], high=(self.scale or (1, 1))[1], plain=1.0),
            shears=np.stack(
                [
                    random.uniform(f"shear {axis}", low=shears[2 * axis], high=shears[2 * axis + 1], plain=0.0)
                    for axis in range(len(shears) // 2)
                ]
                + [np.zeros(len(sizes_hw))] * (len(shears) == 2),
                axis=1,
            ),
        )
        return {"matrix": matrices.astype(np.float32)}, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """DALI's warp."""
        return warped(images, parameters["matrix"], fill=self.fill)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """OpenCV's warp."""
        return opencv.warped(image, parameters["matrix"], fill=self.fill)


@dataclass(frozen=True)
class Pad:
    """Borders of a width in pixels: of all sides, (left and right, top and bottom) or (left, top, right, bottom)."""

    padding: int | tuple[int, int] | tuple[int, int, int, int]
    fill: float | tuple[float, float, float] = 0.0
    is_random = False
    is_pointwise = False

    @property
    def _sides(self) -> tuple[int, int, int, int]:
        sides = self.padding if isinstance(self.padding, tuple) else (self.padding,) * 2
        return (sides * 2)[:4]

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """The image as a part that reaches over its borders."""
        left, top, right, bottom = self._sides
        after_hw = sizes_hw + np.array([top + bottom, left + right])
        return _slice(np.broadcast_to([-top, -left], sizes_hw.shape), after_hw), after_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """A slice."""
        from nvidia.dali import fn

        fill = list(self.fill) if isinstance(self.fill, tuple) else [self.fill] * 3
        return fn.slice(
            images,
            start=parameters["corner"],
            shape=parameters["crop_hw"],
            axes=(0, 1),
            out_of_bounds_policy="pad",
            fill_values=fill,
        )

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """Likewise."""
        return opencv.padded(image, self._sides, fill=self.fill)


def affine(
    sizes_hw: Sizes, *, degrees: Numbers, moves: Numbers, scale: Numbers, shears: Numbers, is_centred: bool = True
) -> Numbers:
    """Matrices (batch, 2, 3) from pixels of a result to pixels of the image that it is made of, their corners at 0, 0.

    The image is sheared by `shears` (batch, 2), degrees of x and y, turned counter-clockwise by -`degrees`, scaled, and
    moved by `moves` (batch, 2), pixels of x and y: torchvision's order. About the middle, or else the first corner.
    """
    turn, (x, y) = np.radians(degrees), np.radians(shears.T)
    a, b = np.cos(turn - y) / np.cos(y), -np.cos(turn - y) * np.tan(x) / np.cos(y) - np.sin(turn)
    c, d = np.sin(turn - y) / np.cos(y), -np.sin(turn - y) * np.tan(x) / np.cos(y) + np.cos(turn)
    linear = np.stack([np.stack([d, -b], axis=1), np.stack([-c, a], axis=1)], axis=1) / scale[:, None, None]
    middle = sizes_hw[:, ::-1] / 2.0 * is_centred
    shift = middle - np.einsum("nij,nj->ni", linear, middle + moves)
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def warped(images: Any, matrix: Any, *, fill: float) -> Any:
    """DALI's node of images warped by matrices as `affine` gives them, to the nearest pixel."""
    from nvidia.dali import fn, types

    return fn.warp_affine(images, matrix=matrix, interp_type=types.INTERP_NN, fill_value=fill, inverse_map=True)


def _both_ways(spread: float | tuple[float, ...]) -> tuple[float, ...]:
    return spread if isinstance(spread, tuple) else (-spread, spread)


def _checked_crop(name: str, size: int | tuple[int, int], sizes_hw: Sizes) -> Sizes:
    after = np.array(pair(size), np.int64)
    if (sizes_hw < after).any():
        height, width = sizes_hw[(sizes_hw < after).any(axis=1)][0]
        advice = f"an image of {width}x{height} pixels is smaller; put a Resize before it"
        raise FieldError("augment", f"{name}({size})", advice)
    return np.broadcast_to(after, sizes_hw.shape)


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
