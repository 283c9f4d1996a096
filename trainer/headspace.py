"""Headspace: how much longer the steps of a recipe take when the loader feeds them than on one batch in memory."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from facepack.errors import UsageError
from facepack.storage import is_url
from trainer import devices, layers, models, optim
from trainer.data import Data
from trainer.layers import Size
from trainer.loading.loader import Loader
from trainer.recipe import Recipe

Pair = tuple[torch.Tensor, torch.Tensor]
"""Images, float32 (batch, 3, height, width), and their targets."""

_TURNS = 3
_FEWEST_STEPS = 4
_WARM_STEPS = 3
_NOTICEABLE = 1.05
_NUM_FIRST_EPOCHS = 2


@dataclass(frozen=True)
class Headspace:
    """Seconds of a training step: on one batch that is in memory, and fed by the loader."""

    recipe: str
    resident_s: float
    fed_s: float
    batch_size: int
    num_steps: int
    """Steps that each was measured on."""

    @property
    def ratio(self) -> float:
        """Time of an epoch that the loader feeds, over the same without a loader; 1 where loading costs nothing."""
        return self.fed_s / self.resident_s

    def summary(self) -> str:
        """One line: what a step takes, and whether loading holds it back."""
        rate = self.batch_size / self.fed_s
        takes = (
            f"A training step of {self.recipe} takes {1000 * self.fed_s:,.1f} ms fed by the loader, "
            f"{1000 * self.resident_s:,.1f} ms on one batch in memory: {self.ratio:.2f}, {rate:,.0f} images/s; "
        )
        if self.ratio <= _NOTICEABLE:
            return takes + "faster loading would not train faster."
        return takes + f"loading costs {100 * (self.ratio - 1):.0f} %."


class Steps:
    """The training steps of a recipe, on batches from anywhere: forward, loss, backward, optimizer."""

    def __init__(self, recipe: Recipe, *, names: Sequence[str], size_hw: Size, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self._recipe, self._device = recipe, torch.device(device)
        network = models.network(recipe.network, num_outputs=recipe.task.num_outputs(tuple(names)), size_hw=size_hw)
        if isinstance(network, models.FitAtOnce):
            raise UsageError(f"{recipe.network} is fitted at once: it has no steps to measure")
        layers.freeze(network, recipe.start.freeze)
        self._network: nn.Module = network.to(self._device).to(memory_format=torch.channels_last)
        layers.set_training(self._network)
        self._optimizer = optim.optimizer(recipe.optimizer, self._network)
        self._is_mixed = devices.precision_of(recipe, self._device.type) != "32-true"

    def epoch(self, batches: Iterable[Pair]) -> float:
        """Seconds that the steps on these batches take, with what it takes to get the batches."""
        begun = time.perf_counter()
        for images, targets in batches:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_mixed):
                outputs = self._network(images.contiguous(memory_format=torch.channels_last))
            loss = self._recipe.task.scored.losses(outputs.float(), targets).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - begun


def measure_headspace(
    name: str, recipe: Recipe, loader_of: Callable[[int], Loader], *, device: str = "cpu", seconds: float = 15.0
) -> Headspace:
    """Measure a recipe's steps in about so many seconds, taking turns.

    `loader_of(num)` gives a loader over at most `num` images, in the recipe's batches and with its target. The first
    epoch, in which images are decoded, does not count. Raises `UsageError` for a recipe that is fitted at once.
    """
    target = recipe.task.target
    with loader_of(recipe.batch_size) as loader:
        batch = next(iter(loader))
        names, size_hw = loader.targets[target].names, loader.size_hw
        resident = (batch.images.clone(), batch.targets[target].clone())
    steps = Steps(recipe, names=names, size_hw=size_hw, device=device)
    steps.epoch([resident])
    step_s = steps.epoch([resident] * _WARM_STEPS) / _WARM_STEPS
    num_steps = max(_FEWEST_STEPS, int(seconds / (2 * _TURNS * step_s)))
    times: list[tuple[float, float]] = []
    with loader_of(num_steps * recipe.batch_size) as loader:
        num_steps = len(loader)
        for _ in loader:
            pass
        for _ in range(_TURNS):
            fed_s = steps.epoch((each.images, each.targets[target]) for each in loader)
            times.append((steps.epoch([resident] * num_steps), fed_s))
    resident_s, fed_s = min(times, key=lambda pair: abs(pair[1] / pair[0] - statistics.median(f / r for r, f in times)))
    return Headspace(name, resident_s / num_steps, fed_s / num_steps, recipe.batch_size, num_steps)


def waiting_line(wait_share: float, *, epoch: int, data: Data, cache: str) -> str:
    """What to know of a run that waits for data for this share of its epoch, 0..1; empty where that is little or late.

    `epoch` counts from 0; `cache` is where the loader keeps decoded images.
    """
    if wait_share <= _NOTICEABLE - 1 or epoch >= _NUM_FIRST_EPOCHS:
        return ""
    is_encoded = data.build.configuration.encoding != "raw"
    if epoch == 0 and cache != "none":
        from_far = "fetched, " if any(is_url(place) for place in data.locations) else ""
        cause = f"images are {from_far}decoded and kept in this first epoch; the next ones take them from memory"
    elif cache == "none" and is_encoded:
        cause = "images are decoded in each epoch: build them at the --size that is trained on, or with --encoding raw"
    else:
        cause = "augmentation takes longer than the steps: train on fewer pixels, or with fewer augmentations"
    percent, where = round(100 * wait_share), data.locations[0]
    return f"waited for data for {percent} % of the epoch: {cause}; facepack bench {where} measures each part"
