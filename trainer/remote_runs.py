"""Remote runs: runs in an object store, worked on in a copy on this machine, every file of which is put there whole."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from facepack.errors import FieldError, JobError, UsageError
from facepack.lock import RUN, held
from facepack.storage import Store, is_url
from trainer import ranks, runs
from trainer.loading import staging

_COPIES = "facepack-runs"
"""The folder of the copies within the cache."""


@dataclass(frozen=True)
class Place:
    """Where a run is worked on."""

    folder: Path
    put: Callable[[], None]
    """Puts what has changed to where the run is kept; nothing to do for a run in a folder."""


@contextmanager
def opened(location: str | Path, *, is_first_here: bool) -> Iterator[Place]:
    """The folder that a run is trained in: the location itself, or for a URL a fresh copy of what is there.

    A URL is held for the length of the block, so that no other machine works on the same run. The copy is made by the
    first process of each machine. Raises `JobError` where somebody else is at work there.
    """
    if not is_url(f"{location}"):
        yield Place(Path(location).absolute(), lambda: None)
        return
    copy = _Copy(f"{location}", purpose="trained")
    if not ranks.is_first_rank():
        if is_first_here:
            copy.fetch()
        ranks.wait_for_all()
        yield Place(copy.folder, lambda: None)
        return
    with held(copy.store, work=RUN) as holder:
        copy.fetch()
        ranks.wait_for_all()

        def put() -> None:
            holder.check()
            copy.put()

        with _errors_with_url(copy):
            yield Place(copy.folder, put)


@contextmanager
def changed(location: str | Path) -> Iterator[Path]:
    """The folder of a run, or a copy for a URL, whose changes are put there at the end."""
    if not is_url(f"{location}"):
        yield Path(location)
        return
    copy = _Copy(f"{location}", purpose="read")
    copy.fetch()
    with _errors_with_url(copy):
        yield copy.folder
    copy.put()


def folder_of(location: str | Path) -> Path:
    """The folder of a run to read from, or for a URL a copy."""
    with changed(location) as folder:
        return folder


def is_run(location: str) -> bool:
    """True for the folder or the URL of a run."""
    if not is_url(location):
        return Path(location, runs.RUN_FILE).is_file()
    try:
        return Store(location).size(runs.RUN_FILE) > 0
    except FileNotFoundError:
        return False


@contextmanager
def _errors_with_url(copy: "_Copy") -> Iterator[None]:
    """Name the URL in errors that name the copy, which nobody has to know."""
    try:
        yield
    except (UsageError, JobError) as error:
        text = f"{error}"
        if f"{copy.folder}" not in text or isinstance(error, FieldError):
            raise
        kind = UsageError if isinstance(error, UsageError) else JobError
        raise kind(text.replace(f"{copy.folder}", copy.store.location)) from error


class _Copy:
    """A copy of a run on this machine, and what of it is known to be as it is at its URL."""

    def __init__(self, location: str, *, purpose: str) -> None:
        self.store = Store(location)
        digest = hashlib.sha256(self.store.location.encode()).hexdigest()[:12]
        name = self.store.location.rstrip("/").rpartition("/")[2]
        # Copies to read and one that is trained in stay apart; the last part names the run in tables and pages.
        self.folder = staging.cache_folder() / _COPIES / f"{digest}-{purpose}" / name
        self._known: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Make the copy what is there, without the checkpoints that were kept; `JobError` where nobody can say."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in self.store.list() if not name.startswith((RUN.lock_file, runs.KEPT_PREFIX))]
        for name in self._files().keys() - set(names):
            (self.folder / name).unlink(missing_ok=True)
        for name in names:
            parent = self.folder / Path(name).parent
            parent.mkdir(parents=True, exist_ok=True)
            try:
                Store(str(parent)).write(Path(name).name, self.store.read(name))
            except FileNotFoundError:  # it was replaced, as by somebody who trains there
                raise JobError(f"{self.store.location}: changed while it was read; try again") from None
        self._known = self._files()

    def put(self) -> None:
        """Put every changed file, last.ckpt after all others: it stands for what went before."""
        files = self._files()
        names = [name for name in files if files[name] != self._known.get(name)]
        for name in sorted(names, key=lambda name: (name == runs.LAST_FILE, name)):
            self.store.write(name, (self.folder / name).read_bytes())
            self._known[name] = files[name]

    def _files(self) -> dict[str, tuple[int, int]]:
        """Time and size of each file but locks and unfinished ones."""
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        names = {f"{path.relative_to(self.folder)}": path.stat() for path in paths if path.name != RUN.lock_file}
        return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in names.items()}
