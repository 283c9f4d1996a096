"""Staging: shards as bytes at hand; remote ones are fetched whole, ahead of need, into a cache of bounded size."""

import fcntl
import hashlib
import mmap
import os
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from facepack.errors import JobError, UsageError
from facepack.manifest import ShardRecord
from facepack.storage import Store

PARTIAL_SUFFIX = ".partial"
_LOCK_FILE = ".lock"
_POLL_S = 0.02


@dataclass(frozen=True)
class StagingSettings:
    """Where fetched shards are kept, and how they are fetched."""

    cache_folder: str = ""
    """[$FACEPACK_CACHE, else ~/.cache/facepack]"""
    cache_bytes: int | None = None
    """The most that the folder ever holds, over all builds and processes. None: what the build takes. Shards in use, up
    to 32 and those on their way, may lie on the disk beside it after they were removed from the folder."""
    ahead: int = 8
    """Shards that are fetched at once, ahead of need."""
    attempts: int = 4
    """Tries per shard, with growing waits between them, before the loader gives up."""
    verify: bool = True
    """Check samples when they are first read against their sha256, but for shards just fetched, which always are."""


class Stage:
    """Gives the bytes of whole shards: a local file is mapped, a remote one fetched, checked and mapped.

    Shards are asked for in the order of `expect`, and fetched ahead of it; `get` waits for one. Raises `JobError`
    with the shard and the cause after the last attempt.
    """

    def __init__(
        self, store: Store, records: Sequence[ShardRecord], *, settings: StagingSettings, build_bytes: int = 0
    ) -> None:
        """`build_bytes` are those of all splits, who share the cache; where not given, those of the records."""
        self._store, self._records, self._settings = store, records, settings
        self._mapped: dict[int, memoryview] = {}
        self._coming: dict[int, Future[memoryview]] = {}
        self._expected: deque[int] = deque()
        self._most_coming = self._most_cached = 0
        self._checked: set[int] = set()
        self._most_mapped = _most_mapped()
        self._stopped = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._cache: Cache | None = None
        if store.is_remote:
            limit = settings.cache_bytes or build_bytes or sum(record.num_bytes for record in records)
            largest = max(records, key=lambda record: record.num_bytes)
            if largest.num_bytes > limit:
                raise UsageError(
                    f"cache_bytes {limit:,}: shard {largest.name} alone takes {largest.num_bytes:,}; give it more"
                )
            self._most_cached = limit // max(1, largest.num_bytes)
            self._cache = Cache(_folder(settings.cache_folder), limit_bytes=limit)
            self._pool = ThreadPoolExecutor(max(1, settings.ahead), thread_name_prefix="facepack-fetch")

    def expect(self, shards: Iterator[int] | Sequence[int], *, together: int = 1) -> None:
        """Name the shards that will be asked for, in order, and how many of them in any order among themselves.

        Drops what was expected before. So many are made ready that nothing is waited for while others are used, and
        that the link is never idle while the last of those needed together come.
        """
        self._expected = deque(shards)
        for shard in self._coming.keys() - set(self._expected):  # nobody will ask for it
            self._coming.pop(shard).cancel()
        ahead = max(1, self._settings.ahead)
        self._most_coming = min(together + ahead, max(ahead, self._most_cached))
        self._fetch_ahead()

    def get(self, shard: int) -> memoryview:
        """The bytes of a shard; they stay valid while somebody holds them."""
        if shard not in self._mapped:
            if self._pool is None:
                if len(self._mapped) >= self._most_mapped:
                    del self._mapped[next(iter(self._mapped))]  # the one mapped first; whoever holds it keeps it
                self._mapped[shard] = self._map(shard)
            else:
                coming = self._coming.pop(shard, None) or self._pool.submit(self._fetched, shard)
                self._mapped[shard] = coming.result()
                self._fetch_ahead()
        return self._mapped[shard]

    def is_checked(self, shard: int) -> bool:
        """True where a shard was fetched by this stage, and agreed with its checksum: its samples need no look."""
        return shard in self._checked

    def remedy(self, shard: int) -> str:
        """What to do where a shard is not what the manifest says."""
        if self._cache is None:
            return "facepack verify names all that is wrong, facepack build makes the shard again"
        return f"its copy was changed: remove {self._cache.path(self._records[shard])}"

    def keep_only(self, shards: set[int]) -> None:
        """Let go of all other shards."""
        if self._pool is not None:  # a local map costs nothing but a file descriptor
            for shard in set(self._mapped) - shards:
                del self._mapped[shard]

    def close(self) -> None:
        """Stop fetching, and wait for what is under way."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._mapped.clear()
        self._coming.clear()

    def _fetch_ahead(self) -> None:
        if self._pool is None:
            return
        while self._expected and len(self._coming) < self._most_coming:
            shard = self._expected.popleft()
            if shard not in self._mapped and shard not in self._coming:
                self._coming[shard] = self._pool.submit(self._fetched, shard)

    def _map(self, shard: int) -> memoryview:
        """A shard of a local build."""
        record = self._records[shard]
        path = self._store.path(record.name)
        assert path is not None
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != record.num_bytes:
                    raise JobError(f"{path}: {found:,} bytes, build.json says {record.num_bytes:,}; build it again")
                return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except OSError as error:
            raise JobError(f"{path}: {error.strerror or error}; the build is not whole, run facepack verify") from error

    def _fetched(self, shard: int) -> memoryview:
        """A shard of a remote build, by way of the cache."""
        assert self._cache is not None
        record, attempts = self._records[shard], max(1, self._settings.attempts)

        def stream() -> Iterator[bytes]:
            yield from self._store.stream(record.name)
            self._checked.add(shard)  # or the cache raises, and gives no shard

        for attempt in range(1, attempts + 1):
            self._checked.discard(shard)  # what the cache has may be changed since
            try:
                return self._cache.get(record, stream, stopped=self._stopped)
            except FileNotFoundError as error:
                raise JobError(f"{self._store.location}/{record.name}: the shard is gone") from error
            except (JobError, OSError, _DamagedError) as error:
                if attempt == attempts or self._stopped.wait(0.1 * 2**attempt):
                    where = f"{self._store.location}/{record.name}"
                    raise JobError(f"{where}: not fetched in {attempt} attempts: {error}") from error
        raise AssertionError


def _most_mapped() -> int:
    """Local shards to keep mapped: each holds one of the files that a process may have open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else max(1, most // 2)


class _DamagedError(Exception):
    """What came is not what build.json says."""


def _folder(given: str) -> Path:
    return Path(given or os.environ.get("FACEPACK_CACHE", "") or Path.home() / ".cache" / "facepack").absolute()


class Cache:
    """A folder of shards under their checksums, shared by any number of processes, never above its limit.

    A shard is written under a temporary name of its full size from the start, so that every process counts it; who
    writes one holds a lock on it, which ends with the process, so that what a killed one left is known and removed.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, record: ShardRecord) -> Path:
        """Where a shard is once it is here."""
        return self._folder / f"{record.sha256}.tar"

    def get(
        self, record: ShardRecord, stream: Callable[[], Iterator[bytes]], *, stopped: threading.Event
    ) -> memoryview:
        """Map a shard, after fetching it where it is not there; only one process fetches one."""
        final = self.path(record)
        partial = final.with_suffix(PARTIAL_SUFFIX)
        while True:
            found = self._mapped(final, record)
            if found is not None:
                return found
            with partial.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # waits for another process that fetches it
                if not _is(file.fileno(), partial):
                    continue  # it was finished, or given up, in the meantime
                found = self._mapped(final, record)
                try:
                    if found is not None:  # it was finished before we made a new temporary file
                        return found
                    self._make_room(record.num_bytes, partial, stopped)
                    _write(partial, record, stream, stopped)
                    with self._locked():  # who adds up what is there sees it under one of its names
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
                    path.unlink(missing_ok=True)  # who has it mapped keeps it
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


def _write(path: Path, record: ShardRecord, stream: Callable[[], Iterator[bytes]], stopped: threading.Event) -> None:
    """Fetch a shard into a file of its size, and check it."""
    sha256, num_bytes = hashlib.sha256(), 0
    with path.open("r+b") as file:
        for piece in stream():
            if stopped.is_set():
                raise OSError("stopped")
            num_bytes += len(piece)
            if num_bytes > record.num_bytes:
                raise _DamagedError(f"more than {record.num_bytes:,} bytes came")
            file.write(piece)
            sha256.update(piece)
    if num_bytes < record.num_bytes:
        raise _DamagedError(f"only {num_bytes:,} of {record.num_bytes:,} bytes came")
    if sha256.hexdigest() != record.sha256:
        raise _DamagedError(f"sha256 is {sha256.hexdigest()}, build.json says {record.sha256}")


def _is(descriptor: int, path: Path) -> bool:
    """True where an open file is still the one under its name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


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
