"""Resuming: what a place holds already, whether it is of the same build, and which of its shards are finished."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facepack import card, manifest, node_log, plan_file
from facepack.configuration import Configuration, configuration_of
from facepack.errors import JobError
from facepack.lock import BUILD
from facepack.manifest import SHARD_FILE, Status
from facepack.shard import ShardResult, ShardTask
from facepack.source import Source
from facepack.storage import Store


def check_place(store: Store, configuration: Configuration) -> None:
    """Refuse a place that holds another build, or something else."""
    names = store.list()
    recorded = _recorded(store, names)
    if recorded is None:
        if (
            names and BUILD.lock_file not in names
        ):  # with a lock they are those of a build killed before its first shard
            raise JobError(f"{store.location}: holds other files, such as {names[0]}; choose another --out")
        return
    there, versions = recorded
    differences = configuration.differences(there)
    differences += [
        f"{name}: {versions.get(name)} there, {here} here"
        for name, here in manifest.versions().items()
        if versions.get(name) != here
    ]
    if differences:
        raise JobError(f"{store.location}: holds another build ({'; '.join(differences)}); choose another --out")


def check_images(store: Store, keys: pa.ChunkedArray) -> None:
    """Refuse a complete build that has not one image in common with these: it was made from something else."""
    if {manifest.BUILD_FILE, manifest.MANIFEST_FILE} <= set(store.list()):
        there = manifest.read_table(store, manifest.MANIFEST_FILE, columns=["key"])["key"]
        there = manifest.photo_keys(there)
        if not pc.any(pc.is_in(keys, value_set=there.combine_chunks())).as_py():
            raise JobError(f"{store.location}: holds a build of other images; choose another --out")


def _recorded(store: Store, names: list[str]) -> tuple[Configuration, dict[str, str]] | None:
    """Configuration and versions of what is in a place already: of the whole build, or of its first finished shard."""
    if manifest.BUILD_FILE in names:
        made = manifest.read_build(store.location)
        return made.configuration, made.versions
    for name in names:
        if SHARD_FILE.fullmatch(name) and name.endswith(".parquet"):
            metadata = _shard_metadata(store, name)
            if "configuration" in metadata:
                return configuration_of(metadata["configuration"], where=name), metadata["versions"]
    return None


def _shard_metadata(store: Store, name: str) -> dict[str, Any]:
    """The metadata of a shard's table; nothing for a table that is damaged or not ours."""
    content = store.read(name)
    try:
        return manifest.metadata_of(pq.read_schema(pa.BufferReader(content)))
    except (pa.ArrowInvalid, OSError):
        return {}


def finished(store: Store, tasks: list[ShardTask], *, source: Source, force: bool) -> dict[str, ShardResult]:
    """Results of the shards that need not be made again, by name."""
    names = set(store.list())
    results = {}
    for task in tasks:
        if f"{task.name}.parquet" in names:
            result = _finished_shard(store, task, names)
            if result is not None and not (_has_rejects(result) and (force or _has_changed(store, result, source))):
                results[task.name] = result
    return results


def _finished_shard(store: Store, task: ShardTask, names: set[str]) -> ShardResult | None:
    """The result of a shard whose files are all there and whole; its table is read to the end."""
    try:
        result = ShardResult.from_metadata(_shard_metadata(store, f"{task.name}.parquet"))
        manifest.read_table(store, f"{task.name}.parquet")
    except (KeyError, TypeError, JobError):
        return None
    if result.digest != task.digest:
        return None
    tar, index = f"{task.name}.tar", f"{task.name}.idx"
    if not result.record.num_samples:
        return result if not {tar, index} & names else None
    if not {tar, index} <= names or store.size(tar) != result.record.num_bytes:
        return None
    return result if store.read(index).count(b"\n") == result.record.num_samples + 1 else None


def _has_rejects(result: ShardResult) -> bool:
    return not set(result.statuses) <= {Status.PACKED}


def _has_changed(store: Store, result: ShardResult, source: Source) -> bool:
    """True where the file of a rejected image is not what it was when it was rejected."""
    table = manifest.read_table(store, result.record.name.replace(".tar", ".parquet"))
    rows = table.filter(pc.field("status") != Status.PACKED).select(["source", "source_sha256"]).to_pylist()
    return any(_digest(source, row["source"]) != row["source_sha256"] for row in rows)


def _digest(source: Source, path: str) -> str | None:
    try:
        return hashlib.sha256(source.read(path)).hexdigest()
    except OSError:
        return None


def strays(store: Store, tasks: list[ShardTask]) -> list[str]:
    """Shard files that the plan does not have, as after a change of the source."""
    planned = {task.name for task in tasks}
    return [name for name in store.list() if SHARD_FILE.fullmatch(name) and name.rpartition(".")[0] not in planned]


def delete_unfinished(store: Store) -> None:
    """Remove shard files without the table that is written last, so that what is left is known to be ours."""
    names = store.list()
    done = {name.rpartition(".")[0] for name in names if name.endswith(".parquet")}
    for name in names:
        if SHARD_FILE.fullmatch(name) and name.rpartition(".")[0] not in done:
            store.delete(name)


def delete_unpacked(store: Store) -> None:
    """Remove what a build that packed nothing has written, so that its place is free for any other."""
    names = store.list()
    ours = [name for name in names if SHARD_FILE.fullmatch(name)]
    if not any(name.endswith(".tar") for name in ours):
        for name in {*ours, manifest.MANIFEST_FILE, node_log.NAME, *card.NAMES} & set(names):
            store.delete(name)
        plan_file.delete(store)
