"""Rivals: the same images loaded by torchvision or webdataset, in a process of their own, for `facepack bench`."""

import io
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from trainer.loading import augment


def transform(steps: list[augment.Augmentation], *, mean: list[float], std: list[float]) -> tuple[Any, list[str]]:
    """torchvision's transforms with the meaning of these augmentations, and a note on each that it does not have."""
    from torchvision.transforms import v2

    chosen: list[Any] = []
    erasing: list[Any] = []  # torchvision does it to tensors alone
    notes: list[str] = []
    for step in steps:
        match step:
            case augment.Resize():
                chosen.append(v2.Resize(step.size, antialias=True))
            case augment.CenterCrop():
                chosen.append(v2.CenterCrop(step.size))
            case augment.RandomCrop():
                chosen.append(v2.RandomCrop(step.size))
            case augment.RandomResizedCrop():
                chosen.append(_RandomResizedCrop(step))
            case augment.RandomHorizontalFlip():
                chosen.append(v2.RandomHorizontalFlip(step.p))
            case augment.RandomRotation():
                chosen.append(v2.RandomRotation(step.degrees))
            case augment.ColorJitter():
                chosen.append(v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue))
            case augment.Pad():
                chosen.append(v2.Pad(_listed(step.padding), step.fill))
            case augment.RandomAffine():
                chosen.append(v2.RandomAffine(_listed(step.degrees), step.translate, step.scale, _listed(step.shear)))
            case augment.RandomGrayscale():
                chosen.append(v2.RandomGrayscale(step.p))
            case augment.GaussianBlur():
                chosen.append(v2.GaussianBlur(_listed(step.kernel_size), _listed(step.sigma)))
            case augment.RandAugment():
                chosen.append(v2.RandAugment(step.num_ops, step.magnitude, step.num_magnitude_bins))
            case augment.TrivialAugmentWide():
                chosen.append(v2.TrivialAugmentWide(step.num_magnitude_bins))
            case augment.RandomErasing():
                erasing.append(v2.RandomErasing(step.p, step.scale, step.ratio, _listed(step.value)))
            case augment.Normalize():
                mean, std = list(step.mean or mean), list(step.std or std)
            case _:
                notes.append(f"{type(step).__name__} has no match in torchvision and was left out there.")
    chosen += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), *erasing]
    return v2.Compose(chosen), notes


def _listed(value: Any) -> Any:
    """Tuples as lists, which torchvision takes everywhere."""
    return list(value) if isinstance(value, tuple) else value


class _RandomResizedCrop:
    """torchvision's, to the size of the image where no size is given."""

    def __init__(self, step: augment.RandomResizedCrop) -> None:
        self._step = step

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms import v2

        size = self._step.size or (image.height, image.width)
        return v2.RandomResizedCrop(size, self._step.scale, self._step.ratio, antialias=True)(image)


def opened(path: str) -> Any:
    """An image file, or the pixels of a raw sample, as Pillow has it."""
    from PIL import Image

    if path.endswith(".npy"):
        return Image.fromarray(np.load(path))
    with Path(path).open("rb") as file:
        return Image.open(file).convert("RGB")


def torchvision_batches(job: dict[str, Any], steps: Any) -> Iterable[Any]:
    """Batches as torchvision's documentation has them: a folder, a worker per core, shuffled."""
    from torchvision.datasets import DatasetFolder

    folder = DatasetFolder(job["files"], opened, extensions=(".jpg", ".npy", ".png", ".webp"), transform=steps)
    workers = job["workers"]
    return DataLoader(
        folder, batch_size=job["batch_size"], shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def webdataset_batches(job: dict[str, Any], steps: Any) -> Iterable[Any]:
    """Batches as webdataset's documentation has them: shards shuffled over workers, a buffer of 1,000 samples."""
    import webdataset
    from PIL import Image

    def image_of(sample: dict[str, Any]) -> tuple[Any]:
        packed = next(sample[suffix] for suffix in ("jpg", "npy", "png", "webp") if suffix in sample)
        if isinstance(packed, bytes):  # webdataset decodes no WebP
            packed = Image.open(io.BytesIO(packed)).convert("RGB")
        return (steps(Image.fromarray(packed) if isinstance(packed, np.ndarray) else packed),)

    workers = min(job["workers"], len(job["tars"]))
    samples = webdataset.WebDataset(job["tars"], shardshuffle=100).shuffle(1000).decode("pil").map(image_of)
    batches: Iterable[Any] = webdataset.WebLoader(
        samples.batched(job["batch_size"]), batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    return batches


BATCHES = {"torchvision": torchvision_batches, "webdataset": webdataset_batches}


def measured(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """Images per second once the workers are at work, over `job["seconds"]` in all: two fifths of it to get going."""
    from trainer.recipe import augmentations_of

    augmentations = augmentations_of(job["augment"])
    steps, notes = transform(list(augmentations), mean=job["mean"], std=job["std"])
    started = time.perf_counter()
    sizes = _batch_sizes(BATCHES[name](job, steps))
    while time.perf_counter() - started < 0.4 * job["seconds"]:
        next(sizes)
    begun, num = time.perf_counter(), 0
    while time.perf_counter() - started < job["seconds"]:
        num += next(sizes)
    return {"images_per_s": num / (time.perf_counter() - begun), "num_images": num, "notes": notes}


def _batch_sizes(batches: Iterable[Any]) -> Iterator[int]:
    """The number of images in each batch, epoch after epoch."""
    while True:
        for batch in batches:
            yield len(batch[0] if isinstance(batch, list | tuple) else batch)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], json.load(sys.stdin))))  # noqa: T201 - the answer of this process
