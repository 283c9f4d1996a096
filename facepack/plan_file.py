"""The plan of a build in its place: hidden Parquet files with a row group per shard, which is read by its number."""

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from facepack.errors import JobError
from facepack.listing import HIDDEN
from facepack.source import Source
from facepack.storage import Store

FILE = re.compile(r"\.build\.plan(?:-\d{5,})?")
"""Names of the files of a plan: hidden, and without a suffix, so that no reader of builds takes them for its own."""
HEAD_FILE = ".build.plan"
GROUPS_PER_FILE = 64
"""Row groups in a file: the footer of a file is read for each of them."""
UNPACKED_ROWS = 1 << 18
"""Rows in a row group of rows that are in no shard."""
_STORED = ".stored"
"""The column with where images lie whose paths are not the names of their files."""
_PLAIN = ("key", "source")


def write_rows(store: Store, table: pa.Table, sizes: list[int], *, source: Source) -> None:
    """Write the rows of a plan: so many in each row group, then those that are in no shard."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    num_packed = starts.pop()
    groups = [(start, size) for start, size in zip(starts, sizes, strict=True)]
    groups += [(start, UNPACKED_ROWS) for start in range(num_packed, len(table), UNPACKED_ROWS)]
    for number in range(0, len(groups), GROUPS_PER_FILE):
        parts = (table.slice(*group) for group in groups[number : number + GROUPS_PER_FILE])
        _write_file(store, _name(number // GROUPS_PER_FILE), parts=(_with_stored(part, source) for part in parts))


def _write_file(store: Store, name: str, *, parts: Iterator[pa.Table]) -> None:
    first = next(parts)
    repeating = [column for column in first.column_names if column not in _PLAIN]
    with (
        store.writer(name) as file,
        pq.ParquetWriter(
            file, first.schema, compression="lz4", use_dictionary=repeating, write_statistics=False
        ) as writer,
    ):
        for part in (first, *parts):
            writer.write_table(part, row_group_size=max(1, len(part)))


def _with_stored(rows: pa.Table, source: Source) -> pa.Table:
    """The rows with where their images lie, where the source does not have all of them as files of their paths."""
    if source.is_plain:
        return rows
    return rows.append_column(_STORED, pa.array(source.places(rows["source"].to_pylist()), pa.string()))


def read_rows(store: Store, number: int, *, source: Source) -> tuple[pa.Table, Source]:
    """The rows of a row group, and the source with their images; `JobError` where the plan cannot be read.

    `source` is that of the build, with or without files.
    """
    rows = _read_group(store, number)
    paths = rows["source"].to_pylist()
    if _STORED not in rows.column_names:
        return rows, source.placed(paths, [None] * len(paths))
    return rows.drop_columns([_STORED]), source.placed(paths, rows[_STORED].to_pylist())


def unpacked_rows(store: Store, num_shards: int, *, num_rows: int) -> Iterator[pa.Table]:
    """The rows that are in no shard, in order."""
    for group in range(-(-num_rows // UNPACKED_ROWS)):
        rows = _read_group(store, num_shards + group)
        yield rows.select([name for name in rows.column_names if name != _STORED])


def _read_group(store: Store, number: int) -> pa.Table:
    name = _name(number // GROUPS_PER_FILE)
    try:
        with store.open(name) as file:
            return pq.ParquetFile(file).read_row_group(number % GROUPS_PER_FILE)
    except (OSError, pa.ArrowInvalid) as error:
        why = f"{error}".splitlines()[0]
        raise JobError(f"{store.location}/{name}: the plan of the build cannot be read ({why}); build again") from error


def schema_of(store: Store) -> pa.Schema:
    """The columns of a plan."""
    with store.open(_name(0)) as file:
        schema = pq.read_schema(file)
    return pa.schema([field for field in schema if field.name != _STORED])


def delete(store: Store) -> None:
    """Remove the plan of a place."""
    for name in store.listing().passed.get(HIDDEN, ()):
        if FILE.fullmatch(name):
            store.delete(name)


def _name(number: int) -> str:
    return f"{HEAD_FILE}-{number:05d}"


def columns_with_nulls(table: pa.Table) -> list[str]:
    """Names of the columns with a null."""
    return [name for name in table.column_names if table[name].null_count]
