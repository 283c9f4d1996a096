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
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Resize,
)

__all__ = [
    "Augmentation",
    "CenterCrop",
    "CenterResizedCrop",
    "ColorJitter",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "Resize",
]
