"""Policies: augmentations that choose among many operations for each image, named as in torchvision."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError
from trainer.loading import opencv
from trainer.loading.augment_geometry import affine, warped
from trainer.loading.augmentation import GREY, Parameters, RandomNumbers, Sizes, like
from trainer.loading.opencv import Pixels

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""The operations of both policies, by torchvision's names."""
_CODES = {name: code for code, name in enumerate(OPERATIONS)}
_NUM_GEOMETRIC = _CODES["Rotate"] + 1
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
"""The kernel of Pillow's SMOOTH, from which sharpness goes away."""


@dataclass(frozen=True)
class RandAugment:
    """So many operations after each other, each of one strength (Cubuk et al. 2020, "RandAugment").

    `magnitude` is a place among `num_magnitude_bins` strengths; what comes from outside is `fill`.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    fill: float = 0.0
    is_random = True
    is_pointwise = False

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude < self.num_magnitude_bins:
            advice = f"expected 0 to {self.num_magnitude_bins - 1}"
            raise FieldError("augment", f"RandAugment(magnitude={self.magnitude})", advice)
        if self.num_ops < 1:
            raise FieldError("augment", f"RandAugment(num_ops={self.num_ops})", "expected at least 1")

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Operation and strength of each image, for each of the operations."""
        share = self.magnitude / max(1, self.num_magnitude_bins - 1)
        parameters: Parameters = {}
        for number in range(self.num_ops):
            shares = np.full(len(sizes_hw), share)
            parameters |= _drawn(random, sizes_hw, shares, number=number, is_wide=False)
        return parameters, sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """All operations in turn; those that an image does not have change nothing in it."""
        for number in range(self.num_ops):
            images = _graph(images, parameters, number=number, fill=self.fill)
        return images

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """The operations of this image."""
        for number in range(self.num_ops):
            image = _pixels(image, parameters, number=number, fill=self.fill)
        return image


@dataclass(frozen=True)
class TrivialAugmentWide:
    """One operation of random strength (Müller and Hutter 2021, "TrivialAugment", its wide space)."""

    num_magnitude_bins: int = 31
    fill: float = 0.0
    is_random = True
    is_pointwise = False

    def __post_init__(self) -> None:
        if self.num_magnitude_bins < 2:
            name = f"TrivialAugmentWide(num_magnitude_bins={self.num_magnitude_bins})"
            raise FieldError("augment", name, "expected at least 2")

    def parameters(self, random: RandomNumbers, sizes_hw: Sizes) -> tuple[Parameters, Sizes]:
        """Operation and strength of each image."""
        bins = random.integer("magnitude", below=np.full(len(sizes_hw), self.num_magnitude_bins))
        shares = bins / (self.num_magnitude_bins - 1)
        return _drawn(random, sizes_hw, shares, number=0, is_wide=True), sizes_hw

    def graph(self, images: Any, parameters: dict[str, Any]) -> Any:
        """All operations in turn; those that an image does not have change nothing in it."""
        return _graph(images, parameters, number=0, fill=self.fill)

    def pixels(self, image: Pixels, parameters: dict[str, Any]) -> Pixels:
        """The operation of this image."""
        return _pixels(image, parameters, number=0, fill=self.fill)


def _drawn(
    random: RandomNumbers, sizes_hw: Sizes, shares: npt.NDArray[np.float64], *, number: int, is_wide: bool
) -> Parameters:
    """An operation for each image, at a share (0 to 1) of its greatest strength, as torchvision has it.

    `code` is the place in `OPERATIONS`, `matrix` what moves its pixels, `strength` what else an operation takes.
    """
    batch = len(sizes_hw)
    codes = random.integer(f"operation {number}", below=np.full(batch, len(OPERATIONS)))
    codes = np.where(random.is_plain, 0, codes)
    sign = np.where(random.uniform(f"sign {number}") < 0.5, -1.0, 1.0)
    matrices = _matrices(codes, sizes_hw, shares * sign, is_wide=is_wide)
    strength = np.zeros(batch)
    is_blend = np.isin(codes, [_CODES[name] for name in ("Brightness", "Color", "Contrast", "Sharpness")])
    strength = np.where(is_blend, 1 + sign * shares * (0.99 if is_wide else 0.9), strength)
    strength = np.where(codes == _CODES["Posterize"], 8 - np.rint(shares * (6 if is_wide else 4)), strength)
    strength = np.where(codes == _CODES["Solarize"], 255 * (1 - shares), strength)
    values = {"code": codes.astype(np.int32), "matrix": matrices, "strength": strength.astype(np.float32)}
    return {f"{name} {number}": value for name, value in values.items()}


def _matrices(
    codes: npt.NDArray[np.int64], sizes_hw: Sizes, shares: npt.NDArray[np.float64], *, is_wide: bool
) -> npt.NDArray[np.float32]:
    """The matrices (batch, 2, 3) of the operations that move pixels; of the others, those that move nothing."""

    def where(name: str, values: Any) -> Any:
        return np.where(codes == _CODES[name], values, 0.0)

    height, width = sizes_hw.T
    slant = np.degrees(np.arctan(shares * (0.99 if is_wide else 0.3)))
    shears = np.stack([where("ShearX", slant), where("ShearY", slant)], axis=1)
    most_x, most_y = (32.0, 32.0) if is_wide else (150 / 331 * width, 150 / 331 * height)
    moves = [where("TranslateX", np.trunc(shares * most_x)), where("TranslateY", np.trunc(shares * most_y))]
    degrees = where("Rotate", shares * (135.0 if is_wide else 30.0))
    choices: dict[str, Any] = {"moves": np.stack(moves, axis=1), "scale": np.ones(len(codes)), "shears": shears}
    middle = affine(sizes_hw, degrees=-degrees, **choices)
    corner = affine(sizes_hw, degrees=-degrees, **choices, is_centred=False)  # about which torchvision shears
    return np.where((codes == _CODES["Rotate"])[:, None, None], middle, corner).astype(np.float32)


# One image, by OpenCV


def _pixels(image: Pixels, parameters: dict[str, Any], *, number: int, fill: float) -> Pixels:
    code, strength = parameters[f"code {number}"], parameters[f"strength {number}"]
    if code == 0:
        return image
    if code < _NUM_GEOMETRIC:
        return opencv.warped(image, parameters[f"matrix {number}"], fill=fill)
    match OPERATIONS[code]:
        case "Brightness":
            levels = opencv.Levels(image)
            levels.move(strength)
            return levels.done()
        case "Contrast":
            levels = opencv.Levels(image)
            levels.move(strength, (1 - strength) * levels.mean(GREY))
            return levels.done()
        case "Color":
            levels = opencv.Levels(image)
            levels.mix(strength * np.eye(3) + (1 - strength) * np.array([GREY] * 3))
            return levels.image
        case "Sharpness":
            return opencv.sharpened(image, _SMOOTH, factor=strength)
        case "Posterize":
            return opencv.masked(image, mask=_mask(strength))
        case "Solarize":
            return opencv.solarized(image, threshold=strength)
        case "AutoContrast":
            return opencv.stretched(image)
        case _:
            return opencv.equalized(image)


def _mask(bits: float) -> int:
    """The bits that are kept of a level."""
    return 256 - (1 << (8 - int(bits)))


# A batch, by DALI


def _graph(images: Any, parameters: dict[str, Any], *, number: int, fill: float) -> Any:
    """Each operation on all images; for an image that has another one its strength is that of no change."""
    from nvidia.dali import fn, types
    from nvidia.dali import math as dali_math

    code, strength = (like(parameters[f"{name} {number}"], images) for name in ("code", "strength"))

    def has(name: str) -> Any:
        """1 for images of an operation, else 0."""
        return fn.cast(code == _CODES[name], dtype=types.FLOAT)

    def factor(name: str) -> Any:
        """The factor of an operation that blends, 1 for images of others."""
        return 1.0 + has(name) * (strength - 1.0)

    def levels(values: Any) -> Any:
        """Whole levels of 0..255."""
        limited = dali_math.clamp(values, 0.0, 255.0)
        return fn.reinterpret(fn.cast(limited, dtype=types.UINT8), layout="HWC")

    images = levels(fn.cast(images, dtype=types.FLOAT))
    images = warped(images, parameters[f"matrix {number}"], fill=fill)
    weights = like(types.Constant(np.array(GREY, np.float32)), images)
    grey = fn.reductions.sum(fn.reductions.mean(fn.cast(images, dtype=types.FLOAT), axes=[0, 1]) * weights)
    images = levels(images * factor("Brightness"))
    images = levels(images * factor("Contrast") + grey * (1.0 - factor("Contrast")))
    greys = fn.reductions.sum(images * weights, axes=[2], keep_dims=True)
    images = levels(images * factor("Color") + greys * (1.0 - factor("Color")))
    smooth = fn.cast(fn.filter(images, _SMOOTH), dtype=types.FLOAT)
    images = levels(images * factor("Sharpness") + smooth * (1.0 - factor("Sharpness")))
    step = 1.0 + has("Posterize") * (dali_math.pow(2.0, 8.0 - strength) - 1.0)
    images = levels(dali_math.floor(images / step) * step)
    is_bright = has("Solarize") * fn.cast(images >= strength, dtype=types.FLOAT)
    images = levels(images + is_bright * (255.0 - 2.0 * images))
    least = fn.cast(fn.reductions.min(images, axes=[0, 1]), dtype=types.FLOAT)
    most = fn.cast(fn.reductions.max(images, axes=[0, 1]), dtype=types.FLOAT)
    stretch = has("AutoContrast") * fn.cast(most > least, dtype=types.FLOAT)
    stretched = (images - least) * (255.0 / dali_math.max(most - least, 1.0))
    images = levels(images + stretch * (stretched - images))
    # DALI, as OpenCV, leaves the least level out of the count, torchvision the greatest.
    equalized = 255.0 - fn.equalize(fn.cast(255 - images, dtype=types.UINT8))
    return levels(images + has("Equalize") * (equalized - images))
