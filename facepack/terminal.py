"""What a person sees of a command: log lines, progress, and one clear line for an error."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from facepack.errors import FieldError, JobError, UsageError

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


def show_error(message: str) -> None:
    """The one line that ends a command."""
    err.print(Text.assemble(("error: ", "red"), message))


@contextmanager
def errors_as_lines(*, debug: bool) -> Iterator[None]:
    """Run a command: show what the library logs, and end with one line and an exit code for what a user can mend.

    `UsageError` exits with 2; `JobError`, `OSError` and an interrupt with 1. With `debug` errors are raised.
    """
    try:
        with _logged_lines():
            yield
    except FieldError as error:
        _fail(error, error.as_option, code=2, debug=debug)
    except UsageError as error:
        _fail(error, f"{error}", code=2, debug=debug)
    except JobError as error:
        _fail(error, f"{error}", code=1, debug=debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(error, f"{where}{error.strerror or error}", code=1, debug=debug)
    except KeyboardInterrupt:
        err.print("interrupted: what is finished is kept; the same command goes on from there")
        raise typer.Exit(1) from None


def _fail(error: Exception, message: str, *, code: int, debug: bool) -> None:
    if debug:
        raise error
    show_error(message)
    raise typer.Exit(code)


class _LogLines(logging.Handler):
    """Shows records of the library's logger: information as a plain line, warnings as such."""

    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else note)(record.getMessage())


@contextmanager
def _logged_lines() -> Iterator[None]:
    """Show what the logger "facepack" gets, and nothing twice where somebody else listens as well."""
    logger, handler = logging.getLogger("facepack"), _LogLines()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def silenced_libraries() -> Iterator[None]:
    """Keep off the terminal what C libraries print about damaged images, and Ray about itself; our own lines go on.

    It redirects standard error of the whole process, so only commands may use it.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", buffering=1) as saved, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        err.file = saved
        try:
            yield
        finally:
            err.file = None  # type: ignore[assignment] # back to standard error, wherever that is now
            os.dup2(saved.fileno(), 2)


# Progress


class Meter:
    """How far some work is: bars on a terminal, a line every few seconds elsewhere.

        with Meter(BarColumn(), TimeRemainingColumn()) as meter:
            task = meter.add("packing", total=1000)
            meter.update(task, line=lambda: "1 of 1,000", advance=1)

    `columns` are rich's; fields that they show are given to `add` and `update` by name. Threads may share a meter.
    Nothing is shown where not `shown`: on ranks but the first. The bars disappear at the end, unless one `stays`.
    """

    def __init__(
        self, *columns: ProgressColumn, line_every_s: float = 10.0, shown: bool = True, stays: bool = False
    ) -> None:
        self._columns, self._line_every_s, self._shown, self._stays = columns, line_every_s, shown, stays
        self._last_line = time.monotonic()
        self._lock = threading.Lock()
        self._bars: Progress | None = None

    def __enter__(self) -> Self:
        if self._shown and err.is_terminal:
            self._bars = Progress(*self._columns, console=err, transient=not self._stays)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def add(self, name: str, *, total: float | None, **fields: Any) -> TaskID:
        """One more bar, for `update`."""
        return TaskID(0) if self._bars is None else self._bars.add_task(name, total=total, **fields)

    def update(self, task: TaskID, *, line: Callable[[], str], **changes: Any) -> None:
        """Move a bar by `advance` or to `completed`, or print `line` where there are no bars and it is time for one."""
        if self._bars is not None:
            self._bars.update(task, **changes)
            return
        with self._lock:
            now = time.monotonic()
            is_due = self._shown and now - self._last_line > self._line_every_s
            if is_due:
                self._last_line = now
        if is_due:
            note(line())


class ImageProgress:
    """Counts images while they are packed: done, rejected, and how many a second."""

    def __init__(self, total: int | None = None) -> None:
        """`total` may come later, with `begin`."""
        self._total = total
        self._done = self._rejects = 0
        self._begun = self._last = time.time()
        self._has_begun = False
        self._task = TaskID(0)
        self._meter = Meter(
            TextColumn("packing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} images/s, {task.fields[rejects]:,} rejects"),
            TimeRemainingColumn(),
        )

    def __enter__(self) -> Self:
        self._meter.__enter__()
        self._task = self._meter.add("", total=self._total, rate=0.0, rejects=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.__exit__()

    def expect(self, num_images: int) -> None:
        """Set the number of images to pack, once it is known."""
        self._total = num_images
        self._meter.update(self._task, line=self._line, total=num_images)

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
        self._meter.update(self._task, line=self._line, advance=num_images, rate=self.rate, rejects=self._rejects)

    def _line(self) -> str:
        left = ""
        if self._total is not None:
            left = f", {(self._total - self._done) / max(self.rate, 1e-9):,.0f} s left"
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self._done:,}{of} images, {self.rate:,.0f} images/s, {self._rejects:,} rejects{left}"


class SampleProgress:
    """Counts samples while they are verified."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._task = TaskID(0)
        self._meter = Meter(TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    def __enter__(self) -> Self:
        self._meter.__enter__()
        self._task = self._meter.add("", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.__exit__()

    def expect(self, num_samples: int) -> None:
        """Set the number of samples."""
        self._total = num_samples
        self._meter.update(self._task, line=self._line, total=num_samples)

    def advance(self, num_samples: int) -> None:
        """Count samples that are checked."""
        self._done += num_samples
        self._meter.update(self._task, line=self._line, advance=num_samples)

    def _line(self) -> str:
        return f"{self._done:,} of {self._total:,} samples"


class ByteProgress:
    """Counts bytes while files are downloaded, per file and in all; several threads at once."""

    def __init__(self) -> None:
        self._num_bytes, self._begun = 0, time.monotonic()
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._all = TaskID(0)
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self._meter = Meter(*columns, stays=True)

    def __enter__(self) -> Self:
        self._meter.__enter__()
        self._all = self._meter.add("in all", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.__exit__()

    def file(self, name: str, num_bytes: int) -> Callable[[int], None]:
        """The function that counts the bytes of one file; `num_bytes` is its size, 0 where that is unknown."""
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._meter.add(name, total=num_bytes or None)
            task = self._tasks[name]

        def advance(number: int) -> None:
            with self._lock:
                self._num_bytes += number
            self._meter.update(task, line=lambda: self._line(name), advance=number)
            self._meter.update(self._all, line=lambda: self._line(name), advance=number)

        return advance

    def _line(self, name: str) -> str:
        rate = self._num_bytes / max(time.monotonic() - self._begun, 1e-9) / 1e6
        return f"{name}: {self._num_bytes / 1e6:,.1f} MB in all, {rate:,.1f} MB/s"
