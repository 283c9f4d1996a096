"""Augmentation: what a step on the way to a batch is, and the random numbers that it draws."""

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from trainer.loading import draws
from trainer.loading.opencv import Pixels

Sizes = npt.NDArray[np.int64]
"""Height and width of each image of a batch in pixels, int64 (batch, 2): the order of torchvision and of `size_hw`."""

Parameters = dict[str, npt.NDArray[Any]]
"""What an augmentation needs to know of each image of a batch, by name; the first axis is the batch."""

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey level."""
NUM_TRIES = 10
"""How often a part of random area and shape is drawn until it fits."""


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


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def is_on_gpu(images: Any) -> bool:
    return getattr(images, "device", "cpu") == "gpu"


def like(value: Any, images: Any) -> Any:
    """A number per image on the device of the images."""
    return value.gpu() if is_on_gpu(images) and hasattr(value, "gpu") else value


def random_corner(random: RandomNumbers, margins_hw: Sizes) -> Sizes:
    """Top and left at random, within the margins."""
    top, left = (random.integer(name, below=margins_hw[:, axis] + 1) for axis, name in enumerate(("top", "left")))
    return np.stack([top, left], axis=1)
