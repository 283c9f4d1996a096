"""Second look: what a worker on another machine could not read, or read, is read again by the driver."""

import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.admission import Ground
from facepack.ahead import mapped_ahead
from facepack.errors import JobError
from facepack.manifest import Status
from facepack.shard import ShardResult
from facepack.sighting import Sighting, differing
from facepack.source import Source
from facepack.storage import Store

NUM_COMPARED = 4
"""Files of a shard that are read again and compared, others each time."""
ALWAYS_COMPARED, SHARE_OF_TIME = 20, 0.05
"""Shards of each node that are looked at in any case, and the share of its time that the driver spends on others."""
_NUM_READERS = 4
_UNREAD = [Status.MISSING, Status.UNREADABLE]

log = logging.getLogger("facepack")


class SecondLook:
    """Looks at what each node packed, and raises `JobError` where it read other bytes than are here.

    Files that the node saw with another size or time are all read again; of other shards some files are, of the first
    ones of each node, then as the driver has time.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._since, self._spent_s = time.monotonic(), 0.0
        self._num_shards: Counter[str] = Counter()
        self._copies: set[str] = set()
        """Nodes whose files have other times."""

    def check(self, result: ShardResult, seen: Sighting, *, node: str) -> None:
        """Look at a shard, and at how its node saw the files of its images."""
        begun = time.monotonic()
        self._num_shards[node] += 1
        is_due = self._spent_s < SHARE_OF_TIME * (begun - self._since)
        if others := differing(seen, self._ground.source.store):
            self._check_all(result, others, node=node)
        if is_due or self._num_shards[node] <= ALWAYS_COMPARED:
            check_some(result, ground=self._ground, node=node)
            self._spent_s += time.monotonic() - begun

    def _check_all(self, result: ShardResult, files: set[str], *, node: str) -> None:
        """Compare all images of a shard that lie in these files."""
        source = self._ground.source
        if node not in self._copies:
            self._copies.add(node)
            message = "node %s has a copy of %s with other times or sizes: all that it reads is compared"
            log.info(message, node, source.location)
        table = _table(result, self._ground.store)
        is_theirs = [source.file_of(path) in files for path in table["source"].to_pylist()]
        _compare(result, table.filter(pa.array(is_theirs)), ground=self._ground, node=node)


def check_unread(result: ShardResult, *, ground: Ground, node: str) -> None:
    """Raise `JobError` where a worker could not read what can be read here; its shard is to be made again."""
    if not set(result.statuses) & set(_UNREAD):
        return
    table = _table(result, ground.store)
    unread = table.filter(pc.field("status").isin(_UNREAD) & pc.field("source_sha256").is_null())
    for path in unread["source"].to_pylist():
        if _digest(ground.source, path) is not None:
            _refuse(result, ground.store, f"node {node} cannot read {path}, which is in {ground.source.location}")


def check_some(result: ShardResult, *, ground: Ground, node: str) -> None:
    """Raise `JobError` where a worker read other bytes than are here, in some files of its shard."""
    table = _table(result, ground.store)
    rows = random.SystemRandom().sample(range(len(table)), min(NUM_COMPARED, len(table)))
    _compare(result, table.take(rows), ground=ground, node=node)


def _compare(result: ShardResult, rows: pa.Table, *, ground: Ground, node: str) -> None:
    """Raise `JobError` where one of these rows of a shard was read otherwise than it is here."""
    paths, digests = (rows[name].to_pylist() for name in ("source", "source_sha256"))
    for path, there, here in zip(paths, digests, _digests(ground.source, paths), strict=True):
        if there is not None and here not in (None, there):
            _refuse(result, ground.store, f"node {node} has other bytes in {path} than are in {ground.source.location}")


def _table(result: ShardResult, store: Store) -> pa.Table:
    return manifest.read_table(store, result.record.name.replace(".tar", ".parquet"))


def _digests(source: Source, paths: Iterable[str]) -> Iterable[str | None]:
    return mapped_ahead(partial(_digest, source), paths, num_threads=_NUM_READERS)


def _digest(source: Source, path: str) -> str | None:
    try:
        return hashlib.sha256(source.read(path)).hexdigest()
    except OSError:
        return None


def _refuse(result: ShardResult, store: Store, fault: str) -> None:
    """Take a shard's table away, without which it is not finished, and name the node."""
    name = result.record.name
    store.delete(name.replace(".tar", ".parquet"))
    advice = "every node needs the driver's source (docs/cluster.md); mend it and run the same command again"
    raise JobError(f"{fault}; {name} is not kept, other finished shards are: {advice}")
