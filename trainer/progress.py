"""Progress: what a person sees of a training run while it lasts."""

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from facepack import terminal
from trainer.stopping import Row
from trainer.watching import EpochEnd, RunStart, StepEnd, Watcher

LINE_EVERY_S = 15.0


class TrainingProgress(Watcher):
    """A bar over all steps on a terminal, a line every fifteen seconds elsewhere; and a line per epoch on both."""

    def __init__(self, *, line_every_s: float = LINE_EVERY_S) -> None:
        self._line_every_s = line_every_s
        self._start: RunStart | None = None
        self._begun = self._last_line = 0.0
        self._num_images = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def begin(self, start: RunStart) -> None:
        """Show the bar; nothing is shown on ranks but the first."""
        self._start = start if start.is_first_rank else None
        self._begun = self._last_line = time.monotonic()
        self._num_images = 0
        if self._start is not None and terminal.err.is_terminal:
            columns = (
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %  loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} images/s"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=terminal.err, transient=True)
            self._task = self._bar.add_task(
                "", total=start.num_steps, completed=start.step, epoch=0, loss=0.0, rate=0.0
            )
            self._bar.start()

    def after_step(self, end: StepEnd) -> None:
        """Count a step."""
        if self._start is None:
            return
        self._num_images += end.num_images
        now = time.monotonic()
        rate = self._num_images / max(now - self._begun, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=end.step, epoch=end.epoch + 1, loss=end.loss, rate=rate)
        elif now - self._last_line > self._line_every_s:
            self._last_line = now
            start = self._start
            left_s = (start.num_steps - end.step) * (now - self._begun) / (end.step - start.step)
            done = f"step {end.step:,} of {start.num_steps:,}"
            terminal.note(f"{done}, loss {end.loss:.4f}, {rate:,.0f} images/s, {left_s:,.0f} s left")

    def after_epoch(self, end: EpochEnd) -> None:
        """A line on an epoch, with a star where it is the best so far."""
        if self._start is not None:
            score = self._start.run.recipe.task.score
            terminal.note(epoch_line(end, num_epochs=self._start.num_epochs, score=score))

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def epoch_line(end: EpochEnd, *, num_epochs: int, score: str) -> str:
    """One line on an epoch: losses and scores of its splits, and its speed."""
    row, times = end.row, end.times
    parts = [f"epoch {row['epoch'] + 1:>3.0f} of {num_epochs}"]
    parts += [_split(split, row, score) for split in ("train", "valid") if f"{split}_loss" in row]
    waiting = 100 * times["wait_s"] / max(times["train_s"], 1e-9)
    parts.append(f"{times['images_per_s']:,.0f} images/s, {waiting:.1f} % waiting")
    return ", ".join(parts) + (" *" if end.is_best else "")


def _split(split: str, row: Row, score: str) -> str:
    name = f"{split}_{score}"
    limits = f" ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})" if f"{name}_low" in row else ""
    return f"{split} loss {row[f'{split}_loss']:.4f} {score.replace('_', ' ')} {row[name]:.4f}{limits}"
