"""Whatever is changed in a build, verify names it."""

import dataclasses
import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import make

from facepack import manifest
from facepack.errors import JobError
from facepack.storage import Store
from facepack.verification import verify


@pytest.fixture(scope="module")
def built(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verified") / "build"
    make(celeba, out, split="identity")
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "build")
    return tmp_path / "build"


def rewrite(build: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the manifest and nothing else."""
    path = build / "manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def replaced(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    column = pa.array(values, table.schema.field(name).type)
    return table.set_column(table.column_names.index(name), name, column)


def edit_json(build: Path, **fields: object) -> None:
    content = json.loads((build / "build.json").read_text())
    (build / "build.json").write_text(json.dumps(content | fields))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def row_of(build: Path, number: int = 0) -> dict[str, object]:
    rows: list[dict[str, object]] = manifest.read_table(Store(str(build)), "manifest.parquet").to_pylist()
    return rows[number]


def check_names(build: Path, *expected: str, deep: bool = False) -> None:
    """The problems that verify finds, each naming one of these, and all of these named."""
    problems = verify(str(build), deep=deep).problems
    for text in expected:
        assert any(text in problem for problem in problems), (text, problems)
    assert all(any(text in problem for text in expected) for problem in problems), problems


@pytest.mark.parametrize("choices", [{}, {"encoding": "raw"}, {"size": "keep"}, {"classes": ""}, {"split": "official"}])
def test_sound_build_has_no_problem(celeba: Path, tmp_path: Path, choices: dict[str, Any]) -> None:
    made = make(celeba, tmp_path / "build", **choices).build
    report = verify(str(tmp_path / "build"), deep=True)
    assert report.problems == ()
    assert report.num_samples == manifest.total(made.counts, statuses=["packed"]) > 0
    assert report.num_shards == len(made.shards)


def test_no_complete_build_is_one_clear_error(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no build\.json, so no complete build"):
        verify(str(tmp_path / "absent"))
    (copy / "manifest.parquet").unlink()
    with pytest.raises(JobError, match=r"no manifest\.parquet"):
        verify(str(copy))
    (copy / "build.json").write_text("{")
    with pytest.raises(JobError, match="not valid: Invalid JSON"):
        verify(str(copy))
    (copy / "build.json").write_text("{}")
    with pytest.raises(JobError, match="field dataset: Field required"):
        verify(str(copy))


def test_changed_pixel_bytes(copy: Path) -> None:
    row = row_of(copy)
    flip(copy / str(row["shard"]), int(str(row["offset"])) + 300)
    check_names(copy, f"{row['shard']}: sha256 is", f"{row['key']}: the image's sha256 is not")


def test_changed_label_in_the_tar(copy: Path) -> None:
    row = row_of(copy)
    path = copy / str(row["shard"])
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"Bald":1', b'"Bald":0', 1))
    check_names(copy, "sha256 is", "label Bald is 0 in the tar, 1 in the manifest")


def test_shard_cut_off(copy: Path) -> None:
    path = copy / str(row_of(copy)["shard"])
    path.write_bytes(path.read_bytes()[:3000])
    check_names(copy, "3,000 bytes, build.json has", "sha256 is", "not a sound tar")


@pytest.mark.parametrize("suffix", ["tar", "idx", "parquet"])
def test_missing_file(copy: Path, suffix: str) -> None:
    (copy / f"train-00001.{suffix}").unlink()
    check_names(copy, f"train-00001.{suffix}: cannot be read")


def test_shard_that_nobody_named(copy: Path) -> None:
    shutil.copy(copy / "train-00000.tar", copy / "train-00099.tar")
    check_names(copy, "train-00099.tar: not in build.json")


def test_shard_that_was_exchanged_for_another(copy: Path) -> None:
    first, second = (copy / f"train-0000{number}.tar" for number in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    check_names(copy, "train-00000", "train-00001")


def test_changed_index(copy: Path) -> None:
    path = copy / "train-00000.idx"
    path.write_text(path.read_text().replace("jpg 512 ", "jpg 1024 ", 1))
    check_names(copy, "train-00000.idx: line 2 is 'jpg 1024 ")


def test_changed_shard_table(copy: Path) -> None:
    path = copy / "train-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(replaced(table, "Bald", 0, 1 - table["Bald"][0].as_py()), path)
    check_names(copy, "train-00000.parquet: its rows are not those of the manifest")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("key", "0123456789abcdef", "key 0123456789abcdef is not that of the source"),
        ("source", "elsewhere.jpg", "is not that of the source"),
        ("status", "lost", "unknown status 'lost'"),
        ("status", None, "1 rows without status"),
        ("key", None, "1 rows without key"),
        ("split", "extra", "unknown split extra"),
        ("class", "Wearing_Hat", "classes that build.json does not name: Wearing_Hat"),
        ("offset", 1024, "offset and size are (1024, "),
        ("size", 17, "offset and size are (512, 17) in the manifest, (512, "),
        ("sha256", "0" * 64, "the image's sha256 is not that of the manifest"),
        ("width", 33, "the image is 32x32, the manifest has 33x32"),
        ("height", 33, "the image is 32x32, the manifest has 32x33"),
        ("position", 5, "positions in the manifest are not 0, 1, 2"),
        ("source_sha256", None, "1 packed rows without source_sha256"),
        ("identity", 123456, "label identity is"),
        ("shard", "train-00077.tar", "rows in train-00077.tar, which build.json does not name"),
    ],
)
def test_changed_cell_of_the_manifest(copy: Path, column: str, value: object, expected: str) -> None:
    rewrite(copy, lambda table: replaced(table, column, 0, value))
    problems = verify(str(copy), deep=True).problems
    assert any(expected in problem for problem in problems), problems


def test_row_twice_and_row_lost(copy: Path) -> None:
    rewrite(copy, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert any("1 keys stand in more than one row" in problem for problem in verify(str(copy)).problems)
    rewrite(copy, lambda table: table.slice(2))
    assert any("counts disagree with the manifest" in problem for problem in verify(str(copy)).problems)


def test_missing_column(copy: Path) -> None:
    rewrite(copy, lambda table: table.drop_columns(["sha256"]))
    check_names(copy, "manifest: no column sha256")


def test_person_in_two_splits_in_spite_of_the_promise(copy: Path) -> None:
    table = pq.read_table(copy / "manifest.parquet")
    person = table["identity"][0].as_py()
    elsewhere = next(i for i, split in enumerate(table["split"].to_pylist()) if split != table["split"][0].as_py())
    rewrite(copy, lambda table: replaced(table, "identity", elsewhere, person))
    problems = verify(str(copy)).problems
    assert f"manifest: identity {person} is in more than one split" in problems


def test_samples_not_in_shuffled_order(celeba: Path, copy: Path, tmp_path: Path) -> None:
    other = make(celeba, tmp_path / "other", split="identity", seed=5).build
    edit_json(copy, configuration=dataclasses.asdict(other.configuration), digest=other.digest)
    table, metadata = pq.read_table(copy / "manifest.parquet"), pq.read_schema(tmp_path / "other" / "manifest.parquet")
    pq.write_table(table.replace_schema_metadata(metadata.metadata), copy / "manifest.parquet")
    problems = verify(str(copy)).problems
    assert any("train-00000.tar: the samples are not in their shuffled order" in problem for problem in problems)
    assert any("train-00000.parquet: made with another configuration" in problem for problem in problems)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"digest": "0"}, "build.json: digest is 0"),
        ({"dataset": "cacd"}, "metadata dataset is 'celeba', build.json has 'cacd'"),
        ({"counts": {}}, "counts disagree with the manifest: train is None"),
        ({"mean": [0.1, 0.2, 0.3]}, "build.json: mean is [0.1, 0.2, 0.3]"),
        ({"mean": None}, "build.json: mean and std are None"),
        ({"class_names": ["Mustache", "Bald", "Gray_Hair", "Pale_Skin"]}, "metadata class_names is ['Bald', "),
        ({"versions": {}}, "build.json: versions of nothing"),
        ({"versions": dict.fromkeys(manifest.DECIDES_BYTES, "0")}, "made with another configuration or other versions"),
    ],
)
def test_changed_build_json(copy: Path, fields: dict[str, object], expected: str) -> None:
    edit_json(copy, **fields)
    problems = verify(str(copy), deep=True).problems
    assert any(expected in problem for problem in problems), problems


def test_image_that_cannot_be_decoded_is_found_by_decoding(copy: Path) -> None:
    row = row_of(copy)
    path, at, size = copy / str(row["shard"]), int(str(row["offset"])), int(str(row["size"]))
    content = bytearray(path.read_bytes())
    content[at : at + size] = bytes(size)
    path.write_bytes(content)
    digest = hashlib.sha256(bytes(size)).hexdigest()
    rewrite(copy, lambda table: replaced(table, "sha256", 0, digest))
    expected = f"{row['shard']}: {row['key']}: the image cannot be decoded: not_an_image"
    assert expected not in verify(str(copy)).problems
    assert expected in verify(str(copy), deep=True).problems


@pytest.mark.parametrize("member", [b"[]", b"null", b"3", b'"text"', b"{", b"\xff\xfe"])
def test_labels_in_the_tar_that_are_no_object(copy: Path, member: bytes) -> None:
    row = row_of(copy)
    path = copy / str(row["shard"])
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        info = tar.getmember(f"{row['key']}.json")
    whole = member + b" " * (info.size - len(member))
    path.write_bytes(content[: info.offset_data] + whole + content[info.offset_data + info.size :])
    assert any("the labels in the tar are" in problem for problem in verify(str(copy)).problems)


def test_shards_of_build_json_once_each_and_in_order(copy: Path) -> None:
    shards = json.loads((copy / "build.json").read_text())["shards"]
    for wrong in ([*shards, shards[0]], shards[::-1]):
        edit_json(copy, shards=wrong)
        check_names(copy, "build.json: the shards are not there once each, in order")


@pytest.mark.parametrize(
    "name", ["hello.txt", "train-09999.parquet", "train-09999.idx", ".train-00000.tar.1234abcd.partial"]
)
def test_file_that_does_not_belong_there(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")
    check_names(copy, f"{name}: ")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"class_names": None}, "field class_names"),
        ({"shards": [{"name": "train-00000.tar", "num_samples": 1, "num_bytes": "12", "sha256": ""}]}, "num_bytes"),
        ({"mean": "x"}, "field mean"),
        ({"configuration": {"dataset": "celeba", "size": "foo"}}, "field configuration"),
    ],
)
def test_build_json_of_another_form_is_one_clear_error(copy: Path, fields: dict[str, Any], expected: str) -> None:
    edit_json(copy, **fields)
    with pytest.raises(JobError, match=expected):
        verify(str(copy))


def test_rejected_row_that_names_a_shard(celeba: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "build"
    shutil.copytree(celeba, source)
    make(source, tmp_path / "whole")
    (source / str(row_of(tmp_path / "whole")["source"])).unlink()
    make(source, out)
    table = pq.read_table(out / "manifest.parquet")
    rejected = pc.index(table["status"], "missing").as_py()
    rewrite(out, lambda table: replaced(table, "shard", rejected, "train-00000.tar"))
    assert any("1 rejected rows name a shard" in problem for problem in verify(str(out)).problems)


def test_number_of_padded_crops_is_that_of_the_shards(copy: Path) -> None:
    edit_json(copy, num_padded=7)
    check_names(copy, "build.json: num_padded is 7, the sum over the shards' tables 0")
