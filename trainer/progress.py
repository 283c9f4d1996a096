"""Progress: what a person sees of a training run while it lasts."""

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from facepack import terminal

_LINE_EVERY_S = 15.0


class TrainingProgress:
    """A bar over all steps on a terminal, a line every fifteen seconds elsewhere; and a line per epoch on both."""

    def __init__(self, *, num_steps: int, done: int, shown: bool) -> None:
        """Begin with `done` of `num_steps`; nothing is printed where not `shown`: on ranks but the first."""
        self._num_steps, self._done, self._first, self._shown = num_steps, done, done, shown
        self._begun = self._last_line = time.monotonic()
        self._num_images = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "TrainingProgress":
        if self._shown and terminal.err.is_terminal:
            columns = (
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %  loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} images/s"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=terminal.err, transient=True)
            self._task = self._bar.add_task(
                "", total=self._num_steps, completed=self._done, epoch=0, loss=0.0, rate=0.0
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, *, epoch: int, loss: float, num_images: int) -> None:
        """Count a step over so many images."""
        self._done += 1
        self._num_images += num_images
        now = time.monotonic()
        rate = self._num_images / max(now - self._begun, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, epoch=epoch + 1, loss=loss, rate=rate)
        elif self._shown and now - self._last_line > _LINE_EVERY_S:
            self._last_line = now
            left_s = (self._num_steps - self._done) * (now - self._begun) / (self._done - self._first)
            done = f"step {self._done:,} of {self._num_steps:,}"
            terminal.note(f"{done}, loss {loss:.4f}, {rate:,.0f} images/s, {left_s:,.0f} s left")

    def line(self, text: str) -> None:
        """Say how an epoch went."""
        if self._shown:
            terminal.note(text)
