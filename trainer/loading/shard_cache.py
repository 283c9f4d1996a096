"""Shard cache: a folder of bounded size for fetched shards, shared by any number of processes."""

import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facepack.errors import JobError
from facepack.manifest import ShardRecord
from trainer.loading.file_locks import FileLocks, Lock, modified_ns
from trainer.loading.shard_file import ShardFile

OWN_FOLDER = "facepack-shards"
"""The folder inside a cache folder in which everything happens."""
PARTIAL_SUFFIX = ".partial"
_OWN_NAME = re.compile(r"[0-9a-f]{64}\.(tar|partial)")
_LOCK_FILE = ".lock"
_POLL_S = 0.02
_REFRESH_S = 1.0


class DamagedShardError(Exception):
    """The bytes that came are not those that build.json names."""


class CacheWaitError(JobError):
    """What was waited for did not come, or never can; to try again is of no use."""


class ShardCache:
    """A folder of shards under their checksums, shared by any number of processes, never above its limit.

    Everything lies in a folder of its own inside the folder that was given, by builds. Files with other names than
    those of shards are neither counted nor removed.

    A shard is written under a temporary name of its full size from the start, so that every process counts it; the
    writer holds a lock on it, which ends with its process, so that what a killed one left is recognised and removed.
    """

    def __init__(
        self, folder: Path, *, build: str, limit_bytes: int, spans_builds: bool = False, wait_s: float = 300
    ) -> None:
        """Make the folder where it is not there; `OSError` where that cannot be.

        The limit is that of the shards of `build`, a name for its folder, or with `spans_builds` of those of all. No
        wait for others takes longer than `wait_s` without a sign of life from them.
        """
        self.limit_bytes, self._wait_s = limit_bytes, wait_s
        self._all, self._spans_builds = folder / OWN_FOLDER, spans_builds
        self._folder = self._all / build
        self._folder.mkdir(parents=True, exist_ok=True)
        self._locks = FileLocks(self._all, stale_s=min(wait_s, 60))

    def path(self, record: ShardRecord) -> Path:
        """The file of a shard once it is fetched."""
        return self._folder / f"{record.sha256}.tar"

    def get(self, record: ShardRecord, stream: Callable[[], Iterator[bytes]], *, stopped: threading.Event) -> ShardFile:
        """A shard, opened: fetched by `stream` first where it is not here, by one process alone.

        Raises `DamagedShardError` where something else came, `CacheWaitError` where another process neither ends nor
        goes on, `OSError` where the disk is full or `stopped` was set, and what `stream` raises.
        """
        if record.num_bytes > self.limit_bytes:
            raise CacheWaitError(f"{record.name}: {record.num_bytes:,} bytes, the cache holds {self.limit_bytes:,}")
        wait = _Wait(stopped, self._wait_s)
        while (content := _opened(self.path(record), record)) is None:
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the cache
            partial = self.path(record).with_suffix(PARTIAL_SUFFIX)
            lock = self._locks.try_lock(partial)
            if lock is None:
                wait.once(modified_ns(partial), f"{partial}, which another process fetches", "end it")
                continue
            try:
                self._fetch(record, _watched(stream, lock, stopped), stopped)
            finally:
                lock.release()
        return content

    def _fetch(self, record: ShardRecord, pieces: Iterator[bytes], stopped: threading.Event) -> None:
        """Fetch a shard under its temporary name, on which we have the lock, and give it its own."""
        final = self.path(record)
        partial = final.with_suffix(PARTIAL_SUFFIX)
        try:
            if _opened(final, record) is None:  # otherwise it was finished before we had the lock
                self._make_room(record.num_bytes, partial, stopped)
                _write(partial, record, pieces)
                with self._locked(stopped):  # processes that add up the folder see it under one of its names
                    partial.rename(final)
                return  # by now the temporary name may be another process's
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        partial.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int, partial: Path, stopped: threading.Event) -> None:
        """Reserve the size of a shard, removing those used longest ago; waits while others hold all there is."""
        wait = _Wait(stopped, self._wait_s)
        while True:
            with self._locked(stopped):
                self._remove_abandoned(partial)
                sizes = {path: status.st_size for path, status in self._own().items()}
                free = self.limit_bytes - sum(sizes.values()) + sizes.get(partial, 0)
                shards = [path for path in sizes if path.suffix == ".tar"]
                for path in sorted(shards, key=modified_ns):
                    if free >= num_bytes:
                        break
                    path.unlink(missing_ok=True)  # processes that have it open keep it
                    free += sizes[path]
                if free >= num_bytes:
                    os.truncate(partial, num_bytes)
                    return
            others = {path: (status.st_size, status.st_mtime_ns) for path, status in self._own().items()}
            others.pop(partial, None)
            what = f"room for {num_bytes:,} bytes in {self._all}, of whose {self.limit_bytes:,} other processes fetch "
            what += f"{len(others):,} shards"
            wait.once(others, what, "raise cache_bytes, or end them")

    def _remove_abandoned(self, partial: Path) -> None:
        """Remove temporary files that no process writes any more, while nobody else can take them up."""
        for path in self._own():
            if path.suffix == PARTIAL_SUFFIX and path != partial:
                lock = self._locks.try_lock_existing(path)
                if lock is not None:
                    path.unlink(missing_ok=True)
                    lock.release()

    def _own(self) -> dict[Path, os.stat_result]:
        """The files that count, and that may be removed."""
        files = {}
        for path in self._all.glob("*/*") if self._spans_builds else self._folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.lstat()
                if _OWN_NAME.fullmatch(path.name) and stat.S_ISREG(status.st_mode):
                    files[path] = status
        return files

    @contextmanager
    def _locked(self, stopped: threading.Event) -> Iterator[None]:
        path, wait = self._all / _LOCK_FILE, _Wait(stopped, self._wait_s, poll_s=0.002)
        while (lock := self._locks.try_lock(path)) is None:
            wait.once(None, f"the lock {path}", "end the process that holds it, or remove it")
        try:
            yield
        finally:
            lock.release()


class _Wait:
    """A wait for other processes, which ends when nothing has changed for too long."""

    def __init__(self, stopped: threading.Event, limit_s: float, *, poll_s: float = _POLL_S) -> None:
        self._stopped, self._limit_s, self._poll_s = stopped, limit_s, poll_s
        self._state: object = None
        self._since = time.monotonic()

    def once(self, state: object, what: str, advice: str) -> None:
        """Wait for a moment. Raises `CacheWaitError` where `state` is the same for too long, `OSError` when stopped."""
        if state != self._state:
            self._state, self._since = state, time.monotonic()
        elif time.monotonic() - self._since > self._limit_s:
            raise CacheWaitError(f"waited {self._limit_s:g} s for {what}, and nothing moved; {advice}")
        if self._stopped.wait(self._poll_s):
            raise OSError("stopped")


def _opened(path: Path, record: ShardRecord) -> ShardFile | None:
    try:
        content = ShardFile(path, num_bytes=record.num_bytes)
    except FileNotFoundError:
        return None
    except JobError:
        path.unlink(missing_ok=True)  # whole when it was renamed: somebody else cut it
        return None
    with suppress(OSError):  # a file of another user
        os.utime(path)  # used last: evicted last
    return content


def _watched(stream: Callable[[], Iterator[bytes]], lock: Lock, stopped: threading.Event) -> Iterator[bytes]:
    """The pieces of a stream, until `stopped` is set; shows the others that it goes on."""
    refreshed = time.monotonic()
    for piece in stream():
        if stopped.is_set():
            raise OSError("stopped")
        if time.monotonic() - refreshed > _REFRESH_S:
            refreshed = time.monotonic()
            lock.refresh()
        yield piece


def _write(path: Path, record: ShardRecord, pieces: Iterator[bytes]) -> None:
    """Fetch a shard into a file of its size, and check it."""
    sha256, num_bytes = hashlib.sha256(), 0
    with path.open("r+b") as file:
        for piece in pieces:
            num_bytes += len(piece)
            if num_bytes > record.num_bytes:
                raise DamagedShardError(f"more than {record.num_bytes:,} bytes came")
            file.write(piece)
            sha256.update(piece)
    if num_bytes < record.num_bytes:
        raise DamagedShardError(f"only {num_bytes:,} of {record.num_bytes:,} bytes came")
    if sha256.hexdigest() != record.sha256:
        raise DamagedShardError(f"sha256 is {sha256.hexdigest()}, build.json names {record.sha256}")
