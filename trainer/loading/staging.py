"""Staging: shards as bytes at hand; remote ones are fetched whole and ahead of need, by way of a cache."""

import hashlib
import os
import re
import resource
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from facepack.errors import FieldError, JobError
from facepack.manifest import ShardRecord
from facepack.storage import NO_ROOM, Store
from trainer.loading.shard_cache import CacheWaitError, DamagedShardError, ShardCache
from trainer.loading.shard_file import ShardFile


@dataclass(frozen=True)
class StagingSettings:
    """Where fetched shards are kept, and how they are fetched."""

    cache_folder: str = ""
    """Empty: $FACEPACK_CACHE, else ~/.cache/facepack. The cache keeps to facepack-shards/ in it, and touches no other
    file."""
    cache_bytes: int | None = None
    """The most that the cache ever holds, over all builds; the smallest limit of the processes that use the folder at
    once holds. None: each build may take its own size, whatever others hold. Shards in use, up to 32 and those on their
    way, may lie on the disk beside it after they were removed from the folder."""
    wait_s: float = 300
    """The longest wait for another process that fetches a shard, or holds all the room, and gives no sign of life."""
    ahead: int = 8
    """Shards that are fetched at once, ahead of need."""
    attempts: int = 4
    """Tries per shard, with growing waits between them, before the loader gives up."""
    verify: bool = True
    """Check samples when they are first read against their sha256, but for shards just fetched, which always are."""

    def __post_init__(self) -> None:
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise FieldError("cache_bytes", self.cache_bytes, "expected at least 1, or None")
        if not self.wait_s > 0:
            raise FieldError("wait_s", self.wait_s, "expected more than 0")
        for name in ("ahead", "attempts"):
            if getattr(self, name) < 1:
                raise FieldError(name, getattr(self, name), "expected at least 1")


class ShardStage:
    """Gives whole shards: a local file is opened, a remote one fetched, checked and opened.

    Shards are asked for in the order of `expect`, and fetched ahead of it; `get` waits for one. Raises `JobError`
    with the shard and the cause after the last attempt.
    """

    def __init__(
        self, store: Store, records: Sequence[ShardRecord], *, settings: StagingSettings, build_bytes: int = 0
    ) -> None:
        """Stage the shards of `records`, which `get` and `expect` number in this order.

        `build_bytes` are those of all splits, which share the cache; 0: those of the records. Raises `FieldError`
        where the cache is too small for a shard.
        """
        self._store, self._records, self._settings = store, records, settings
        self._opened: dict[int, ShardFile] = {}
        self._fetching: dict[int, Future[ShardFile]] = {}
        self._expected: deque[int] = deque()
        self._most_fetching = self._most_cached = 0
        self._checked: set[int] = set()
        self._most_opened = _most_opened()
        self._stopped = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._cache: ShardCache | None = None
        if store.is_remote:
            self._cache = _cache(store.location, records, settings=settings, build_bytes=build_bytes)
            largest = max(record.num_bytes for record in records)
            self._most_cached = self._cache.limit_bytes // max(1, largest)
            self._pool = ThreadPoolExecutor(settings.ahead, thread_name_prefix="facepack-fetch")

    def expect(self, shards: Iterator[int] | Sequence[int], *, together: int = 1) -> None:
        """Name the shards that `get` will want, in order; `together` of them may come in any order among themselves.

        Drops what was expected before. So many are made ready that nothing is waited for while others are used, and
        that the link is never idle while the last of those needed together come.
        """
        self._expected = deque(shards)
        for shard in self._fetching.keys() - set(self._expected):  # no longer needed
            self._fetching.pop(shard).cancel()
        ahead = self._settings.ahead
        self._most_fetching = min(together + ahead, max(ahead, self._most_cached))
        self._fetch_ahead()

    def get(self, shard: int) -> ShardFile:
        """A shard, readable as long as it is held. Raises `JobError`."""
        if shard not in self._opened:
            if self._pool is None:
                if len(self._opened) >= self._most_opened:
                    del self._opened[next(iter(self._opened))]  # the one opened first; its holders keep it
                self._opened[shard] = self._open(shard)
            else:
                fetching = self._fetching.pop(shard, None) or self._pool.submit(self._fetched, shard)
                self._opened[shard] = fetching.result()
                self._fetch_ahead()
        return self._opened[shard]

    def is_checked(self, shard: int) -> bool:
        """True where this stage fetched the shard, and its checksum was right: its samples need no check."""
        return shard in self._checked

    def remedy(self, shard: int) -> str:
        """What to do where a shard is not what the manifest says."""
        if self._cache is None:
            return "facepack verify lists all that is wrong, facepack build makes the shard again"
        return f"its copy was changed: remove {self._cache.path(self._records[shard])}"

    def keep_only(self, shards: set[int]) -> None:
        """Let go of all other shards."""
        if self._pool is not None:  # a local file costs nothing but a descriptor
            for shard in set(self._opened) - shards:
                del self._opened[shard]

    def close(self) -> None:
        """Stop fetching, and wait for what is under way."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._opened.clear()
        self._fetching.clear()

    def _fetch_ahead(self) -> None:
        if self._pool is None:
            return
        while self._expected and len(self._fetching) < self._most_fetching:
            shard = self._expected.popleft()
            if shard not in self._opened and shard not in self._fetching:
                self._fetching[shard] = self._pool.submit(self._fetched, shard)

    def _open(self, shard: int) -> ShardFile:
        """A shard of a local build."""
        record = self._records[shard]
        path = self._store.path(record.name)
        assert path is not None
        try:
            return ShardFile(path, num_bytes=record.num_bytes)
        except OSError as error:
            raise JobError(f"{path}: {error.strerror or error}; the build is not whole, run facepack verify") from error

    def _fetched(self, shard: int) -> ShardFile:
        """A shard of a remote build, by way of the cache."""
        assert self._cache is not None
        record, attempts = self._records[shard], self._settings.attempts
        where = f"{self._store.location}/{record.name}"

        def stream() -> Iterator[bytes]:
            yield from self._store.stream(record.name)
            self._checked.add(shard)  # or the cache raises, and gives no shard

        for attempt in range(1, attempts + 1):
            self._checked.discard(shard)  # what the cache has may be changed since
            try:
                return self._cache.get(record, stream, stopped=self._stopped)
            except FileNotFoundError as error:
                raise JobError(f"{where}: the shard is gone") from error
            except CacheWaitError:
                raise
            except (JobError, OSError, DamagedShardError) as error:
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    folder = self._cache.path(record).parent
                    raise JobError(
                        f"{folder}: {error.strerror}; make room, or set cache_folder or cache_bytes"
                    ) from error
                if attempt == attempts or self._stopped.wait(0.1 * 2**attempt):
                    raise JobError(f"{where}: not fetched in {attempt} attempts: {error}") from error
        raise AssertionError


def _most_opened() -> int:
    """Local shards to keep open: each holds one of the files that a process may have open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else max(1, most // 2)


def _cache(location: str, records: Sequence[ShardRecord], *, settings: StagingSettings, build_bytes: int) -> ShardCache:
    """The cache of a build, large enough for each of its shards."""
    limit = settings.cache_bytes or build_bytes or sum(record.num_bytes for record in records)
    largest = max(records, key=lambda record: record.num_bytes)
    if largest.num_bytes > limit:
        raise FieldError("cache_bytes", f"{limit:,}", f"shard {largest.name} alone takes {largest.num_bytes:,}")
    folder = cache_folder(settings.cache_folder)
    try:
        return ShardCache(
            folder,
            build=_folder_name(location),
            limit_bytes=limit,
            spans_builds=settings.cache_bytes is not None,
            wait_s=settings.wait_s,
        )
    except OSError as error:
        advice = f"{error.strerror or error}; name another with cache_folder, or in FACEPACK_CACHE"
        raise FieldError("cache_folder", folder, advice) from error


def _folder_name(location: str) -> str:
    """A name for a build's folder in the cache: of the same place always the same, and one that people recognise."""
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", location.partition("?")[0].rstrip("/").rpartition("/")[2])[:40].strip("-.")
    return f"{last or 'build'}-{hashlib.sha256(location.encode()).hexdigest()[:12]}"


def cache_folder(path: str = "") -> Path:
    """The cache folder that was chosen, or the usual one."""
    chosen = path or os.environ.get("FACEPACK_CACHE", "")
    try:
        return (Path(chosen) if chosen else Path.home() / ".cache" / "facepack").absolute()
    except RuntimeError as error:
        raise FieldError("cache_folder", "", "there is no home folder; set it, or FACEPACK_CACHE") from error
