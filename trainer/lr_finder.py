"""Learning-rate finder: the loss of steps whose learning rate grows, and the rate at which it falls most steeply."""

import csv
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import devices, layers, plots, steps
from trainer.loading.loader import Batch
from trainer.recipe import Recipe
from trainer.session import Session

FIRST_LR, LAST_LR, NUM_STEPS = 1e-6, 1.0, 150
_SMOOTHING, _DIVERGED = 0.9, 4.0
_REACH = 8
"""Steps to either side over which the loss falls: from one step to the next it is mostly noise."""
_FEWEST_STEPS = 20


@dataclass(frozen=True)
class Curve:
    """The losses of steps at growing learning rates."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> npt.NDArray[np.float64]:
        """The losses as a moving average, float64 (num_steps,)."""
        average, smoothed = 0.0, []
        for number, loss in enumerate(self.losses, start=1):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            smoothed.append(average / (1 - _SMOOTHING**number))
        return np.array(smoothed)

    @property
    def suggestion(self) -> float:
        """The rate around which the smoothed loss falls most, before it is least, over some sixteen steps."""
        smoothed = self.smoothed
        falls = smoothed[: -2 * _REACH] - smoothed[2 * _REACH :]
        last = max(int(smoothed.argmin()) - 2 * _REACH, 0)  # the last fall that ends before the least loss
        return float(self.rates[int(falls[: last + 1].argmax()) + _REACH])


def find(recipe_name: str, recipe: Recipe, *, data: str | list[str], device: str = "") -> Curve:
    """Train some 150 steps from a very low learning rate to a very high one, and forget the weights.

    All settings of the recipe hold but its schedule. It ends where the smoothed loss is four times its least (Smith,
    Cyclical Learning Rates for Training Neural Networks, WACV 2017: the learning rate range test). Raises `UsageError`
    where the recipe knows no steps, or on several ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--find-lr: in one process, without torchrun")
    fabric = devices.launched(device, recipe)
    with tempfile.TemporaryDirectory(prefix="facepack-lr-", ignore_cleanup_errors=True) as folder:
        session = Session(fabric, recipe_name, recipe, data=data, folder=Path(folder))
        if session.is_fit_at_once:
            raise UsageError(f"--find-lr: {recipe_name} is fitted at once, without a learning rate")
        try:
            session.set_up()
            return _tested(session)
        finally:
            for loader in (session.train_loader, *session.eval_loaders.values()):
                loader.close()


def _tested(session: Session) -> Curve:
    layers.set_training(session.network)
    rates: list[float] = []
    losses: list[float] = []
    growth = (LAST_LR / FIRST_LR) ** (1 / (NUM_STEPS - 1))
    for number, batch in zip(range(NUM_STEPS), _batches(session), strict=False):
        rate = FIRST_LR * growth**number
        loss, _, num = steps.take(session, batch, lr=rate).sums.tolist()
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss / max(num, 1.0))
        smoothed = Curve(tuple(rates), tuple(losses)).smoothed
        if number > _FEWEST_STEPS and smoothed[-1] > _DIVERGED * smoothed.min():
            break
    if len(rates) < _FEWEST_STEPS:
        raise JobError(f"the loss is no number after {len(rates)} steps at a learning rate of {FIRST_LR:g} and more")
    return Curve(tuple(rates), tuple(losses))


def _batches(session: Session) -> Iterator[Batch]:
    """Those of one epoch after another."""
    while True:
        yield from session.batches()
        session.state.begin_epoch()


def write(curve: Curve, place: Path) -> list[Path]:
    """Write the curve to `place`.csv and its plot to `place`.png."""
    store = Store(str(place.parent))
    store.make()
    paths = [place.with_name(f"{place.name}{suffix}") for suffix in (".csv", ".png")]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "smoothed"])
        writer.writerows(zip(curve.rates, curve.losses, curve.smoothed.tolist(), strict=True))
    plot = plots.loss_by_rate("lr", place.name, rates=curve.rates, losses=curve.losses, smoothed=curve.smoothed)
    store.write(paths[1].name, plot.png)
    return paths
