"""Rows of a manifest: a group at a time they are those of the whole table, and found by shard and photo."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from facepack import manifest
from facepack.errors import JobError
from facepack.manifest_rows import ManifestRows, RowIndex
from facepack.storage import Store


@pytest.fixture
def table() -> pa.Table:
    """A hundred rows of two faces a photo, in shards that alternate, every tenth in none."""
    rows = range(100)
    keys = [f"{row // 2:016x}-{row % 2 + 1}" for row in rows]
    return pa.table({"key": keys, "shard": [None if row % 10 == 9 else f"train-{row % 3}.tar" for row in rows]})


def test_rows_are_found_by_shard_and_by_photo(table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROWS_IN_GROUP", 30)
    manifest.write_table(Store(str(tmp_path)), manifest.MANIFEST_FILE, table=table)
    with ManifestRows(Store(str(tmp_path))) as rows:
        assert len(rows) == 100
        assert [len(part) for part in rows.parts(["key"])] == [30, 30, 30, 10]
        assert pa.concat_tables(rows.parts()).equals(table)
        some = np.array([0, 29, 30, 31, 99])
        assert rows.take(some).equals(table.take(some))
        index = RowIndex(rows)
        assert index.shards.keys() == {"train-0.tar", "train-1.tar", "train-2.tar"}
        for number in range(3):
            expected = [row for row in range(100) if row % 3 == number and row % 10 != 9]
            assert index.shards[f"train-{number}.tar"].tolist() == expected
        assert index.of_photos(table["key"].take([7, 6, 80])).tolist() == [6, 7, 80, 81]


def test_damaged_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / manifest.MANIFEST_FILE).write_bytes(b"PAR1 no more")
    with pytest.raises(JobError, match=r"manifest\.parquet: damaged: "):
        ManifestRows(Store(str(tmp_path)))
