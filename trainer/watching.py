"""Watching: what a training run reports while it lasts, to progress, logs and whoever else follows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.loading.loader import Batch
from trainer.runs import Run
from trainer.stopping import Row


@dataclass(frozen=True)
class RunStart:
    """A run that begins, or goes on."""

    run: Run
    folder: Path
    step: int
    """Steps that are done already."""
    num_steps: int
    num_epochs: int
    log_every: int
    """Steps between looks at the loss that logs take."""
    last_row: Row | None
    """The last epoch that is done already."""
    is_first_rank: bool


@dataclass(frozen=True)
class StepEnd:
    """A step that is done."""

    step: int
    """How many are done, this one included."""
    epoch: int
    """From 0."""
    loss: float
    """Mean loss of the last batch that was looked at: of this one on a CPU, of one up to 50 steps ago on a GPU."""
    lr: float
    num_images: int
    """Over all ranks."""


@dataclass(frozen=True)
class EpochEnd:
    """An epoch that is trained, validated and saved."""

    step: int
    row: Row
    """As in metrics.csv."""
    times: Row
    """As in times.csv."""
    is_best: bool


class Watcher(Protocol):
    """What follows a run; a subclass defines the methods that it needs. All are called on every rank."""

    def begin(self, start: RunStart) -> None:  # noqa: ARG002
        """Called once, before the first step."""
        return

    def before_step(self, step: int, batch: Batch) -> None:  # noqa: ARG002
        """Called with the number of steps that are done, and the batch that comes next."""
        return

    def after_step(self, end: StepEnd) -> None:  # noqa: ARG002
        """Called after each step."""
        return

    def after_epoch(self, end: EpochEnd) -> None:  # noqa: ARG002
        """Called once an epoch is in last.ckpt and metrics.csv."""
        return

    def end(self) -> None:
        """Called once, also where a run is stopped or fails."""
        return


class Watchers(Watcher):
    """Passes everything on to several watchers, in order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def begin(self, start: RunStart) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.begin(start)

    def before_step(self, step: int, batch: Batch) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.before_step(step, batch)

    def after_step(self, end: StepEnd) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.after_step(end)

    def after_epoch(self, end: EpochEnd) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.after_epoch(end)

    def end(self) -> None:
        """Pass it on."""
        for watcher in self._watchers:
            watcher.end()
