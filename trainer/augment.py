"""The door to the augmentations, named as torchvision names them.

from trainer.augment import Normalize, RandomHorizontalFlip, Resize
from trainer.loader import Loader

augment = (Resize((64, 64)), RandomHorizontalFlip(), Normalize())
for batch in Loader("builds/celeba-rarest4", split="train", batch_size=256, augment=augment):
    logits = model(batch.images)
"""

from trainer.loading.augment import (
    Augmentation,
    CenterCrop,
    CenterResizedCrop,
    ColorJitter,
    GaussianBlur,
    Normalize,
    Pad,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Resize,
    TrivialAugmentWide,
)

__all__ = [
    "Augmentation",
    "CenterCrop",
    "CenterResizedCrop",
    "ColorJitter",
    "GaussianBlur",
    "Normalize",
    "Pad",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "Resize",
    "TrivialAugmentWide",
]
