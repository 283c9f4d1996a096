"""Second look: what a worker on another machine could not read, or read, is read again by the driver."""

import hashlib
import random
import time
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.admission import Ground
from facepack.errors import JobError
from facepack.manifest import Status
from facepack.shard import ShardResult
from facepack.source import Source
from facepack.storage import Store

NUM_COMPARED = 4
"""Files of a shard that are read again and compared, others each time."""
ALWAYS_COMPARED, SHARE_OF_TIME = 20, 0.05
"""Shards of each node that are looked at in any case, and the share of its time that the driver spends on others."""
_UNREAD = [Status.MISSING, Status.UNREADABLE]


def check_unread(result: ShardResult, *, ground: Ground, node: str) -> None:
    """Raise `JobError` where a worker could not read what can be read here; its shard is to be made again."""
    if not set(result.statuses) & set(_UNREAD):
        return
    table = _table(result, ground.store)
    unread = table.filter(pc.field("status").isin(_UNREAD) & pc.field("source_sha256").is_null())
    for path in unread["source"].to_pylist():
        if _digest(ground.source, path) is not None:
            _refuse(result, ground.store, f"node {node} cannot read {path}, which is in {ground.source.location}")


class Spots:
    """Which shards are looked at: the first ones of each node, then as many as the driver has time for."""

    def __init__(self) -> None:
        self._since, self._spent_s = time.monotonic(), 0.0
        self._num_shards: Counter[str] = Counter()

    def check(self, result: ShardResult, *, ground: Ground, node: str) -> None:
        """Raise `JobError` where a worker read other bytes than are here."""
        begun = time.monotonic()
        self._num_shards[node] += 1
        is_due = self._spent_s < SHARE_OF_TIME * (begun - self._since)
        if is_due or self._num_shards[node] <= ALWAYS_COMPARED:
            check_some(result, ground=ground, node=node)
            self._spent_s += time.monotonic() - begun


def check_some(result: ShardResult, *, ground: Ground, node: str) -> None:
    """Raise `JobError` where a worker read other bytes than are here, in some files of its shard."""
    table = _table(result, ground.store)
    rows = random.SystemRandom().sample(range(len(table)), min(NUM_COMPARED, len(table)))
    for path, digest in zip(*(table[name].take(rows).to_pylist() for name in ("source", "source_sha256")), strict=True):
        if digest is not None and _digest(ground.source, path) not in (None, digest):
            _refuse(result, ground.store, f"node {node} has other bytes in {path} than are in {ground.source.location}")


def _table(result: ShardResult, store: Store) -> pa.Table:
    return manifest.read_table(store, result.record.name.replace(".tar", ".parquet"))


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
