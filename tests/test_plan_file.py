"""The plan of a build in its place: rows by the number of their group, with where their images are."""

from pathlib import Path

import pyarrow as pa
import pytest

from facepack import plan_file
from facepack.archive import Member
from facepack.errors import JobError
from facepack.parquet_images import EmbeddedImage
from facepack.source import Source
from facepack.storage import Store

SIZES = [3, 1, 2] * 50
"""Rows of 150 shards: those of several files."""


def table(num_rows: int) -> pa.Table:
    numbers = range(num_rows)
    return pa.table({"key": [f"{n:016x}" for n in numbers], "source": [f"{n}.jpg" for n in numbers], "age": numbers})


def test_rows_come_back_by_the_number_of_their_group(tmp_path: Path) -> None:
    store, rows = Store(str(tmp_path)), table(sum(SIZES) + 7)
    source = Source(store, frozenset(rows["source"].to_pylist()))
    plan_file.write_rows(store, rows, SIZES, source=source)
    assert len(list(tmp_path.iterdir())) == 3
    assert store.list() == []
    start = 0
    for number, size in enumerate(SIZES):
        part, placed = plan_file.read_rows(store, number, source=source.bare)
        assert part.equals(rows.slice(start, size))
        assert placed.paths == sorted(part["source"].to_pylist())
        start += size
    rest = pa.concat_tables(plan_file.unpacked_rows(store, len(SIZES), num_rows=7))
    assert rest.equals(rows.slice(start))
    assert plan_file.schema_of(store) == rows.schema
    plan_file.delete(store)
    assert list(tmp_path.iterdir()) == []


def test_images_in_archives_and_under_other_names_are_where_they_were(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    members: dict[str, Member | EmbeddedImage] = {
        "0.jpg": Member("a.zip", 5, 6, 7, 8, 9),
        "1.jpg": EmbeddedImage("b.parquet", "image.bytes", 2, 3),
    }
    source = Source(store, frozenset(["2.jpg", "3.jpg"]), members, {"2.jpg": "zwei\udcff.jpg"}, "given.zip")
    plan_file.write_rows(store, table(4), [4], source=source)
    rows, placed = plan_file.read_rows(store, 0, source=source.bare)
    assert rows.equals(table(4))
    assert (dict(placed.members), placed.spellings, placed.given) == (members, source.spellings, "given.zip")
    assert placed.paths == source.paths


def test_plan_that_is_gone_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(JobError, match=r"\.build\.plan-00000: the plan of the build cannot be read .*; build again"):
        plan_file.read_rows(store, 0, source=Source(store, frozenset()))
