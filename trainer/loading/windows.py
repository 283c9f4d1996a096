"""Windows: how many shards of a local build are shuffled together where the settings leave it open."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from facepack.manifest import ShardRecord
from trainer.loading.decoded import CONTROL_GROUPS

FEWEST_SHARDS = 16


def local_window(records: Sequence[ShardRecord], *, memory_bytes: int) -> int | None:
    """Shards that are shuffled together; None: all, where they take at most half of the memory.

    Where they take more, every page would be read from disk again and again. So many are taken, a power of two, that
    they fit in a quarter of the memory, at least 16: each shard is then read once. The limit of the memory counts, not
    what of it is free at the moment, so that all ranks, and a run that goes on, take as many.
    """
    num_bytes = sum(record.num_bytes for record in records)
    if num_bytes <= memory_bytes // 2:
        return None
    fitting = max(1, memory_bytes // 4 * len(records) // num_bytes)
    return max(FEWEST_SHARDS, 1 << (fitting.bit_length() - 1))


def memory_limit() -> int:
    """Bytes of memory that this machine, or the container, has."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    limit = int(lines["MemTotal"].split()[0]) * 1024
    for group in CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # "max" is no limit
            limit = min(limit, int((group.folder / group.limit).read_text()))
    return limit
