"""Augment: lists of augmentations; names and parameters mean what they mean in torchvision."""

import math
from collections.abc import Sequence

from facepack.errors import FieldError
from trainer.loading.augment_colour import ColorJitter, GaussianBlur, Normalize, RandomErasing, RandomGrayscale
from trainer.loading.augment_geometry import (
    CenterCrop,
    CenterResizedCrop,
    Pad,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Resize,
)
from trainer.loading.augment_policies import RandAugment, TrivialAugmentWide
from trainer.loading.augmentation import Augmentation, Parameters, RandomNumbers, Sizes

__all__ = [
    "Augmentation",
    "CenterCrop",
    "CenterResizedCrop",
    "ColorJitter",
    "GaussianBlur",
    "Normalize",
    "Pad",
    "Parameters",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomNumbers",
    "RandomResizedCrop",
    "RandomRotation",
    "Resize",
    "Sizes",
    "TrivialAugmentWide",
    "check_augmentations",
    "default_augmentations",
    "normalizes",
    "num_fixed",
]


def default_augmentations(split: str) -> tuple[Augmentation, ...]:
    """The augmentations of a split where none are named: normalised by the build; in train first flipped at random."""
    return (RandomHorizontalFlip(), Normalize()) if split == "train" else (Normalize(),)


def num_fixed(augmentations: Sequence[Augmentation]) -> int:
    """How many of the first steps give the same result every time, so that it can be kept."""
    for number, step in enumerate(augmentations):
        if step.is_random or isinstance(step, Normalize):
            return number
    return len(augmentations)


def normalizes(augmentations: Sequence[Augmentation]) -> Normalize | None:
    """The step that makes numbers of pixels; None where images stay uint8."""
    return next((step for step in augmentations if isinstance(step, Normalize)), None)


def _without_erasing(augmentations: Sequence[Augmentation]) -> Sequence[Augmentation]:
    """The list without what is erased at its end."""
    number = len(augmentations)
    while number and isinstance(augmentations[number - 1], RandomErasing):
        number -= 1
    return augmentations[:number]


def check_augmentations(augmentations: Sequence[Augmentation]) -> None:
    """Check a list of augmentations: `FieldError` where it normalises before its end, or a number is not finite."""
    for step in augmentations:
        if not hasattr(step, "graph"):
            raise FieldError("augment", step, "expected augmentations of trainer.augment, such as Normalize()")
    last = _without_erasing(augmentations)[-1:]
    if sum(isinstance(step, Normalize) for step in augmentations) > any(isinstance(step, Normalize) for step in last):
        raise FieldError("augment", "", "Normalize must come last, or have only RandomErasing after it")
    for step in augmentations:
        for name, value in vars(step).items():
            for number in value if isinstance(value, Sequence) else (value,):
                if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
                    raise FieldError("augment", f"{type(step).__name__}({name}={value})", "expected finite numbers")
