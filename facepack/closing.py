"""Closing a build: its manifest as a stream of the tables of its shards, then build.json, which makes it complete."""

import logging
from collections.abc import Iterable, Iterator
from functools import partial

import pyarrow as pa

from facepack import card, manifest, plan_file, resume
from facepack.ahead import mapped_ahead
from facepack.errors import JobError
from facepack.image import Moments
from facepack.manifest import FACE, Build, Counts, Status
from facepack.plan_head import PlanHead
from facepack.shard import ShardResult
from facepack.source import Source
from facepack.storage import Store

log = logging.getLogger("facepack")

_NUM_NAMED = 5
_LOCAL_READERS, _REMOTE_READERS = 2, 16


def close(plan: PlanHead, store: Store, results: list[ShardResult], *, source: Source) -> Build:
    """Write the manifest, the files for other readers, and build.json, and remove the plan.

    Raises `JobError` where nothing is packed; the place is then left as it was found.
    """
    if not any(result.record.num_samples for result in results):
        counts = manifest.as_counts(map(manifest.counted, _tables(plan, store, results)))
        resume.delete_unpacked(store)
        reasons = _reasons(counts)
        if manifest.total(counts, statuses=[Status.NO_DECODER]):
            reasons += f" ({Status.NO_DECODER.meaning})"
        raise JobError(f"{source.location}: none of {plan.num_rows:,} images can be packed: {reasons}")
    schema = _schema(plan, store, results)
    counts = _write_manifest(plan, store, results, schema=schema)
    train = [result.moments for result in results if result.record.name.startswith("train")]
    mean_std = sum(train, Moments()).mean_std()
    made = Build(
        dataset=plan.configuration.dataset,
        configuration=plan.configuration,
        digest=plan.configuration.digest,
        versions=manifest.versions(),
        class_names=list(plan.class_names),
        counts=counts,
        mean=mean_std and mean_std[0],
        std=mean_std and mean_std[1],
        shards=[result.record for result in results if result.record.num_samples],
        unparsed=list(plan.remarks.unparsed),
        left_out=plan.remarks.left_out,
        left_out_examples=plan.remarks.left_out_examples,
        plan_digest=plan.digest,
        num_padded=sum(result.num_padded for result in results),
        num_squashed=sum(result.num_squashed for result in results),
    )
    for name, content in card.card_files(made, schema).items():
        store.write(name, content)
    store.write(manifest.BUILD_FILE, made.to_json())
    plan_file.delete(store)
    return made


# The manifest


def _schema(plan: PlanHead, store: Store, results: list[ShardResult]) -> pa.Schema:
    """The columns of the manifest, with what readers want to know of them."""
    metadata = {
        "dataset": plan.configuration.dataset,
        "configuration": plan.configuration.as_record(),
        "class_names": plan.class_names,
    }
    schema = manifest.schema(plan_file.schema_of(store), metadata)
    with_nulls = {*plan.columns_with_nulls, *manifest.MEASURED_COLUMNS.names} - {FACE}
    if plan.num_unpacked or any(set(result.statuses) - {Status.PACKED} for result in results):
        with_nulls |= set(manifest.OWN_COLUMNS.names)
    if FACE in schema.names and (plan.num_unpacked or _lacks_faces(store, results)):
        with_nulls.add(FACE)
    return manifest.with_nullable_integers(schema, with_nulls)


def _lacks_faces(store: Store, results: list[ShardResult]) -> bool:
    """Whether some photo has no face."""
    return any(table[FACE].null_count for table in _shard_tables(store, results, columns=[FACE]))


def _write_manifest(plan: PlanHead, store: Store, results: list[ShardResult], *, schema: pa.Schema) -> Counts:
    """Write all rows, with no more of them in memory than a row group has; gives their counts."""
    counted: list[pa.Table] = []

    def groups() -> Iterator[pa.Table]:
        for group in _in_groups(_tables(plan, store, results), manifest.ROWS_IN_GROUP):
            counted.append(manifest.counted(group))
            yield group.cast(schema)

    manifest.write_tables(store, manifest.MANIFEST_FILE, schema=schema, tables=groups())
    return manifest.as_counts(counted)


def _tables(plan: PlanHead, store: Store, results: list[ShardResult]) -> Iterator[pa.Table]:
    """The tables of all shards, then the rows that are in none."""
    for table in _shard_tables(store, results):
        yield table.replace_schema_metadata()
    if not plan.num_unpacked:
        return
    schema = manifest.schema(plan_file.schema_of(store))
    for rest in plan_file.unpacked_rows(store, len(plan.shards), num_rows=plan.num_unpacked):
        columns = {
            field.name: rest[field.name] if field.name in rest.column_names else pa.nulls(len(rest), field.type)
            for field in schema
        }
        yield pa.table(columns, schema=schema)


def _shard_tables(store: Store, results: list[ShardResult], *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    names = [result.record.name.replace(".tar", ".parquet") for result in results]
    read = partial(manifest.read_table, store, columns=columns)
    return mapped_ahead(read, names, num_threads=_REMOTE_READERS if store.is_remote else _LOCAL_READERS)


def _in_groups(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many; the last is shorter."""
    parts: list[pa.Table] = []
    room = num_rows
    for table in tables:
        rest = table
        while len(rest) > room:
            yield pa.concat_tables([*parts, rest.slice(0, room)])
            parts, rest, room = [], rest.slice(room), num_rows
        parts.append(rest)
        room -= len(rest)
    if parts:
        yield pa.concat_tables(parts)


# What is amiss


def warn_of_empty_classes(made: Build) -> None:
    """Name the classes of which no photo is packed, each with what became of its rows."""
    empty = [
        name for name in made.class_names if not manifest.total(made.counts, class_name=name, statuses=[Status.PACKED])
    ]
    if empty:
        first = ", ".join(f"{name} ({_reasons(made.counts, name) or 'no rows'})" for name in empty[:_NUM_NAMED])
        more = f" and {len(empty) - _NUM_NAMED:,} more" if len(empty) > _NUM_NAMED else ""
        log.warning("%s of %s classes have no packed photo: %s%s", len(empty), len(made.class_names), first, more)


def _reasons(counts: Counts, class_name: str | None = None) -> str:
    """How many rows were not packed, by status, of one class or all."""
    by_status = {status: manifest.total(counts, class_name=class_name, statuses=[status]) for status in Status}
    return ", ".join(f"{number:,} {status}" for status, number in by_status.items() if number)
