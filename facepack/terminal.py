"""What a person sees of a command: progress, tables, and one clear line for an error."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from facepack.errors import JobError, UsageError

_LINE_EVERY_S = 10.0

# Names and paths are printed as they are: "[bold]" in one is no markup, ":x:" no picture.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def warn(message: str) -> None:
    """One yellow line."""
    err.print(Text.assemble(("warning: ", "yellow"), message))


def note(message: str) -> None:
    """One plain line on what is going on."""
    err.print(message)


def wrong(message: str) -> None:
    """One line on what is not as it should be."""
    err.print(Text.assemble(("wrong: ", "red"), message))


@contextmanager
def errors_as_lines(*, debug: bool) -> Iterator[None]:
    """End the command with one line and the right exit code for every error that a user can mend."""
    try:
        yield
    except UsageError as error:
        _fail(error, code=2, debug=debug)
    except JobError as error:
        _fail(error, code=1, debug=debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(JobError(f"{where}{error.strerror or error}"), code=1, debug=debug, cause=error)
    except KeyboardInterrupt:
        err.print("interrupted: what is finished is kept; the same command goes on from there")
        raise typer.Exit(1) from None


def _fail(error: Exception, *, code: int, debug: bool, cause: Exception | None = None) -> None:
    if debug:
        raise cause or error
    err.print(Text.assemble(("error: ", "red"), str(error)))
    raise typer.Exit(code)


@contextmanager
def silenced_libraries() -> Iterator[None]:
    """Keep off the terminal what C libraries print about damaged images, and Ray about itself; our own lines go on."""
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", buffering=1) as kept, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        err.file = kept
        try:
            yield
        finally:
            err.file = None  # type: ignore[assignment] # back to standard error, wherever that is now
            os.dup2(kept.fileno(), 2)


class ImageProgress:
    """Counts images: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._rejects = 0
        self._begun = self._last = self._last_line = time.time()
        self._has_begun = False
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "ImageProgress":
        if err.is_terminal:
            columns = (
                TextColumn("packing"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:,.0f} images/s, {task.fields[rejects]:,} rejects"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=err, transient=True)
            self._task = self._bar.add_task("", total=self._total, rate=0.0, rejects=0)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, at: float) -> None:
        """Count time only from when the first worker began, not while workers were being started (Unix seconds)."""
        self._begun = min(self._begun, at) if self._has_begun else at
        self._has_begun = True

    @property
    def seconds(self) -> float:
        """How long packing took, up to the last image that is done."""
        return self._last - self._begun

    @property
    def rate(self) -> float:
        """Images per second so far."""
        return self._done / max(self.seconds, 1e-9)

    def advance(self, num_images: int, num_rejects: int) -> None:
        """Count images that are done, and rejects among them."""
        self._last = time.time()
        self._done += num_images
        self._rejects += num_rejects
        if self._bar is not None:
            self._bar.update(self._task, advance=num_images, rate=self.rate, rejects=self._rejects)
        elif self._last - self._last_line > _LINE_EVERY_S:
            self._last_line = self._last
            left_s = (self._total - self._done) / max(self.rate, 1e-9)
            note(
                f"{self._done:,} of {self._total:,} images, {self.rate:,.0f} images/s, "
                f"{self._rejects:,} rejects, {left_s:,.0f} s left"
            )
