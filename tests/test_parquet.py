"""Parquet files with embedded images as a source: names, labels, splits and photos come out as they went in."""

import hashlib
import re
from pathlib import Path
from typing import Any

import parquet_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make
from parquet_files import ATTRIBUTES, photo, write, write_celeba

from facepack import parquet_images
from facepack.builder import Outcome
from facepack.description import load_dataset
from facepack.errors import FieldError, JobError
from facepack.index import index_dataset
from facepack.manifest import read_table
from facepack.parquet_images import EmbeddedImage
from facepack.prepare import source_of
from facepack.storage import Store
from facepack.verification import verify


def manifest_of(outcome: Outcome) -> list[dict[str, Any]]:
    return list(read_table(Store(outcome.location), "manifest.parquet").to_pylist())


def test_celeba_of_the_hub_is_indexed_with_its_people_attributes_and_splits(tmp_path: Path) -> None:
    description = load_dataset("celeba")
    source = source_of(description, str(write_celeba(tmp_path)))
    table = index_dataset(description, source).table
    assert table["source"].to_pylist() == [
        f"data/{file}.parquet/{number:06d}.jpg"
        for file, numbers in (
            ("test-00000-of-00001", range(70, 80)),
            ("train-00000-of-00002", range(30)),
            ("train-00001-of-00002", range(30, 60)),
            ("valid-00000-of-00001", range(60, 70)),
        )
        for number in numbers
    ]
    assert table["official_split"].to_pylist() == ["test"] * 10 + ["train"] * 60 + ["valid"] * 10
    numbers = [int(path[-10:-4]) for path in table["source"].to_pylist()]
    assert table["identity"].to_pylist() == [number // 4 + 1 for number in numbers]
    for code, name in enumerate(ATTRIBUTES):
        assert table[name].to_pylist() == [int(number % 40 == code) for number in numbers]


def test_no_image_is_read_before_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = pq.ParquetFile.read

    def noted(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
        read.append(columns)
        return original(file, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", noted)
    description = load_dataset("celeba")
    index_dataset(description, source_of(description, str(write_celeba(tmp_path))))
    leaves = {leaf for columns in read for leaf in columns}
    assert leaves == {"image.path", "celeb_id", *ATTRIBUTES}


def test_build_holds_the_photos_as_they_are_and_is_the_same_with_workers(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "hub")
    outcome = make(folder, tmp_path / "here", classes="", size="keep")
    assert {row["status"] for row in manifest_of(outcome)} == {"packed"}
    assert {row["source"]: row["sha256"] for row in manifest_of(outcome)} == {
        row["source"]: hashlib.sha256(photo(int(row["source"][-10:-4]))).hexdigest() for row in manifest_of(outcome)
    }
    assert verify(outcome.location, deep=True).problems == ()
    make(folder, tmp_path / "ray", classes="", size="keep", workers=2)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "ray" / path.name).read_bytes(), path.name


def test_shard_reads_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []  # of images, which are read column by column; the plan is read whole
    original = pq.ParquetFile.read_row_group

    def noted(file: pq.ParquetFile, i: int, columns: list[str] | None = None) -> pa.Table:
        if columns is not None:
            groups.append((i, columns))
        return original(file, i, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    make(write_celeba(tmp_path / "hub"), tmp_path / "out", classes="", samples_per_shard=1000)
    assert len(groups) == 8
    assert {tuple(columns) for _, columns in groups} == {("image.bytes",)}


@pytest.mark.parametrize("with_path", [True, False])
def test_names_that_repeat_or_are_not_there_give_way_to_rows(tmp_path: Path, with_path: bool) -> None:
    column = parquet_files.images([7, 7, 8], with_path=with_path)
    write(tmp_path / "a.parquet", {"image": column})
    names = list(parquet_images.embedded_images(Store(str(tmp_path)), ["a.parquet"]))
    expected = (
        ["000000-000007.jpg", "000001-000007.jpg", "000002-000008.jpg"] if with_path else ["000000", "000001", "000002"]
    )
    assert names == [f"a.parquet/{name}" for name in expected]


def test_row_without_bytes_is_missing_and_a_damaged_row_group_unreadable(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "hub", train=40)
    path = folder / "data" / "train-00000-of-00002.parquet"
    columns = parquet_files.celeba_columns(range(20))
    columns["image"] = pa.concat_arrays([parquet_files.images(range(19)), pa.array([None], parquet_files.IMAGE)])
    write(path, columns)
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    rows = {row["source"]: row["status"] for row in manifest_of(make(folder, tmp_path / "out", classes=""))}
    of_file = [status for source, status in sorted(rows.items()) if "train-00000" in source]
    assert of_file == ["unreadable"] * 10 + ["packed"] * 9 + ["missing"]


def test_damaged_file_and_columns_that_disagree_are_named(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path)
    description = load_dataset("celeba")
    path = folder / "data" / "valid-00000-of-00001.parquet"
    columns = parquet_files.celeba_columns(range(60, 70))
    del columns["Bald"]
    write(path, columns)
    with pytest.raises(JobError, match=r"valid-00000-of-00001.parquet: no column 'Bald', which other files have"):
        index_dataset(description, source_of(description, str(folder)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(JobError, match=rf"{re.escape(str(path))}: a damaged Parquet file"):
        source_of(description, str(folder))


def test_images_are_read_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": parquet_files.images(range(25))})
    places = list(parquet_images.embedded_images(Store(str(tmp_path)), ["a.parquet"]).values())
    order = [24, 0, 13, 0, 7]
    contents = list(parquet_images.read_in_order(Store(str(tmp_path)), [places[number] for number in order]))
    assert contents == [photo(number) for number in order]
    nowhere = EmbeddedImage("gone.parquet", "image.bytes", 0, 0)
    (error,) = parquet_images.read_in_order(Store(str(tmp_path)), [nowhere])
    assert isinstance(error, OSError)


def test_other_set_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="images wild: not with the Parquet files of the Hugging Face Hub"):
        make(write_celeba(tmp_path / "hub"), tmp_path / "out", classes="", images="wild")
