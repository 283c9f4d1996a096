"""Shard cache: a folder of bounded size for fetched shards, shared by any number of processes."""

import fcntl
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from facepack.manifest import ShardRecord

PARTIAL_SUFFIX = ".partial"
_LOCK_FILE = ".lock"
_POLL_S = 0.02


class DamagedShardError(Exception):
    """The bytes that came are not those that build.json names."""


class ShardCache:
    """A folder of shards under their checksums, shared by any number of processes, never above its limit.

    A shard is written under a temporary name of its full size from the start, so that every process counts it; the
    writer holds a lock on it, which ends with its process, so that what a killed one left is recognised and removed.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        """Make the folder where it is not there; `OSError` where that cannot be."""
        self._folder, self._limit_bytes = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, record: ShardRecord) -> Path:
        """The file of a shard once it is fetched."""
        return self._folder / f"{record.sha256}.tar"

    def get(
        self, record: ShardRecord, stream: Callable[[], Iterator[bytes]], *, stopped: threading.Event
    ) -> memoryview:
        """The bytes of a shard, mapped: fetched by `stream` first where they are not here, by one process alone.

        Raises `DamagedShardError` where something else came, `OSError` where the disk is full or `stopped` was set, and
        what `stream` raises.
        """
        final = self.path(record)
        partial = final.with_suffix(PARTIAL_SUFFIX)
        while True:
            content = self._mapped(final, record)
            if content is not None:
                return content
            with partial.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # waits for another process that fetches it
                if not _is(file.fileno(), partial):
                    continue  # it was finished, or given up, in the meantime
                content = self._mapped(final, record)
                try:
                    if content is not None:  # it was finished before we made a new temporary file
                        return content
                    self._make_room(record.num_bytes, partial, stopped)
                    _write(partial, record, stream, stopped=stopped)
                    with self._locked():  # processes that add up the folder see it under one of its names
                        partial.rename(final)
                finally:
                    if _is(file.fileno(), partial):  # otherwise the name may be another process's by now
                        with self._locked():
                            partial.unlink(missing_ok=True)

    def _mapped(self, path: Path, record: ShardRecord) -> memoryview | None:
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == record.num_bytes:
                    os.utime(file.fileno())  # used last: evicted last
                    return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)  # whole when it was renamed: somebody else cut it
        return None

    def _make_room(self, num_bytes: int, partial: Path, stopped: threading.Event) -> None:
        """Reserve the size of a shard, removing those used longest ago; waits while others hold all there is."""
        while True:
            with self._locked():
                sizes = {path: _size(path) for path in self._folder.iterdir() if path.name != _LOCK_FILE}
                for path in [path for path in sizes if path.suffix == PARTIAL_SUFFIX and path != partial]:
                    if _removed_if_abandoned(path):
                        sizes[path] = 0
                free = self._limit_bytes - sum(sizes.values()) + sizes.get(partial, 0)
                shards = [path for path in sizes if path.suffix == ".tar"]
                for path in sorted(shards, key=_used_last):
                    if free >= num_bytes:
                        break
                    path.unlink(missing_ok=True)  # processes that have it mapped keep it
                    free += sizes[path]
                if free >= num_bytes:
                    os.truncate(partial, num_bytes)
                    return
            if stopped.wait(_POLL_S):
                raise OSError("stopped")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / _LOCK_FILE).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _write(path: Path, record: ShardRecord, stream: Callable[[], Iterator[bytes]], *, stopped: threading.Event) -> None:
    """Fetch a shard into a file of its size, and check it."""
    sha256, num_bytes = hashlib.sha256(), 0
    with path.open("r+b") as file:
        for piece in stream():
            if stopped.is_set():
                raise OSError("stopped")
            num_bytes += len(piece)
            if num_bytes > record.num_bytes:
                raise DamagedShardError(f"more than {record.num_bytes:,} bytes came")
            file.write(piece)
            sha256.update(piece)
    if num_bytes < record.num_bytes:
        raise DamagedShardError(f"only {num_bytes:,} of {record.num_bytes:,} bytes came")
    if sha256.hexdigest() != record.sha256:
        raise DamagedShardError(f"sha256 is {sha256.hexdigest()}, build.json names {record.sha256}")


def _is(descriptor: int, path: Path) -> bool:
    """True where an open file is still the one under its name."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _removed_if_abandoned(path: Path) -> bool:
    """Remove a temporary file that no process writes any more, while nobody else can take it up."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is(file.fileno(), path):
                return False
            path.unlink()
            return True
    except (FileNotFoundError, BlockingIOError):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _used_last(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
