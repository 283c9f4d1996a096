"""Graphs: a list of augmentations, cut where its results stop being the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError
from trainer.loading.augment import (
    Augmentation,
    Parameters,
    RandomNumbers,
    Sizes,
    check_augmentations,
    normalizes,
    num_fixed,
)
from trainer.loading.samples import Samples

_ANY_SIZE_PX = 1 << 20


@dataclass(frozen=True)
class Graph:
    """What a pipeline does to images."""

    augmentations: tuple[Augmentation, ...]
    first_step: int
    """The place in the loader's list of the first of these: random numbers go by it."""
    is_encoded: bool
    """True where images come as encoded bytes, False where they come as pixels."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Per channel RGB in 0..1; used where the list normalises."""

    @property
    def normalizes(self) -> bool:
        """True for float32 NCHW, False for uint8 NHWC."""
        return normalizes(self.augmentations) is not None

    @property
    def changes_nothing(self) -> bool:
        """True where images leave as they came: pixels, without an augmentation."""
        return not self.is_encoded and not self.augmentations

    def parameters(
        self, *, seed: int, epoch: int, places: npt.NDArray[np.int64], sizes_hw: Sizes
    ) -> tuple[Parameters, Sizes]:
        """Parameters of all steps for a batch, named "STEP NAME", and the sizes at the end.

        `places` int64 (batch,) are those in the order of the epoch, negative where an image stays plain; `sizes_hw`
        int64 (batch, 2) are height and width in pixels. Raises `FieldError` where a step does not fit the sizes.
        """
        parameters: Parameters = {}
        for step, augmentation in enumerate(self.augmentations, start=self.first_step):
            values, sizes_hw = augmentation.parameters(RandomNumbers(seed, epoch, step, places), sizes_hw)
            parameters |= {f"{step} {name}": np.ascontiguousarray(value) for name, value in values.items()}
        return parameters, sizes_hw

    def sizes_after(self, sizes_hw: Sizes) -> Sizes:
        """Height and width of images of these sizes after all steps, int64 (batch, 2)."""
        return self.parameters(seed=0, epoch=0, places=np.zeros(len(sizes_hw), np.int64), sizes_hw=sizes_hw)[1]

    def parameter_names(self) -> list[str]:
        """Names of the parameters in order."""
        sizes_hw = np.full((1, 2), _ANY_SIZE_PX)
        return list(self.parameters(seed=0, epoch=0, places=np.zeros(1, np.int64), sizes_hw=sizes_hw)[0])


@dataclass(frozen=True)
class AugmentationGraphs:
    """The graphs of a list of augmentations: its fixed beginning, its random rest, and both at once."""

    fixed: Graph
    """From what is in the shards to what can be kept."""
    random: Graph
    """From what is kept to what is in a batch."""
    whole: Graph
    """From what is in the shards to what is in a batch, where nothing is kept."""
    kept_size_hw: tuple[int, int] | None
    """Height and width of what can be kept, in pixels; None where images differ in size."""
    size_hw: tuple[int, int]
    """Height and width of the images of a batch, in pixels."""

    @classmethod
    def of(
        cls,
        augmentations: Sequence[Augmentation],
        samples: Samples,
    ) -> "AugmentationGraphs":
        """Cut a list for samples, whose channel statistics are used where `Normalize` has none of its own.

        Raises `FieldError` for a list that makes no sense, and where images would differ in size within a batch.
        """
        check_augmentations(augmentations)
        steps, first_random = tuple(augmentations), num_fixed(augmentations)
        statistics = _channel_statistics(steps, samples)
        fixed = Graph(steps[:first_random], 0, not samples.is_raw)
        random = Graph(steps[first_random:], first_random, False, *statistics)
        fixed_sizes = np.unique(fixed.sizes_after(samples.distinct_sizes_hw), axis=0)
        final_sizes = np.unique(random.sizes_after(fixed_sizes), axis=0)
        if len(final_sizes) > 1:
            advice = "the images differ in size, and so would a batch: add Resize((height, width))"
            raise FieldError("augment", "", advice)
        return cls(
            fixed=fixed,
            random=random,
            whole=Graph(steps, 0, not samples.is_raw, *statistics),
            kept_size_hw=_pair(fixed_sizes[0]) if len(fixed_sizes) == 1 else None,
            size_hw=_pair(final_sizes[0]),
        )


def _channel_statistics(
    steps: tuple[Augmentation, ...], samples: Samples
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of a list that normalises, those of `Normalize` first; empty where it does not."""
    if (step := normalizes(steps)) is None:
        return (), ()
    mean, std = tuple(step.mean or samples.mean), tuple(step.std or samples.std)
    if len(mean) != 3 or len(std) != 3:
        advice = "the build has no train split, hence no mean and std: give three of each"
        raise FieldError("augment", "Normalize", advice)
    if min(std) <= 0:
        raise FieldError("augment", f"Normalize(std={std})", "expected more than 0")
    return mean, std


def _pair(size_hw: npt.NDArray[np.int64]) -> tuple[int, int]:
    height, width = size_hw.tolist()
    return height, width
