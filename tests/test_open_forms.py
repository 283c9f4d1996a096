"""Forms whose labels no description names: WebDataset, imagefolder's metadata files, Parquet of any dataset."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import digests, make
from parquet_files import photo, write

from facepack.configuration import Configuration
from facepack.errors import FieldError, JobError
from facepack.prepare import Prepared, prepare_build
from facepack.table_rows import ARCHIVES, NO_IMAGES, UNNAMED
from facepack.verification import verify
from facepack.webdataset import DAMAGED, OTHERS


def shard(path: Path, files: Mapping[str, bytes | str | dict[str, object]]) -> Path:
    """A .tar with these files, objects as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, content in files.items():
            if isinstance(content, dict):
                content = json.dumps(content)
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def prepared(src: Path, **options: str) -> Prepared:
    return prepare_build(Configuration.of("folder", **options), src=str(src))  # type: ignore[arg-type]


def rows(src: Path, *columns: str, **options: str) -> dict[str, tuple[object, ...]]:
    """The values of some columns of each row, by the path of its image."""
    table = prepared(src, **options).plan.table.to_pylist()
    return {row["source"]: tuple(row[name] for name in columns) for row in table}


# WebDataset


def test_shards_of_webdataset_with_whole_numbers_as_classes(tmp_path: Path) -> None:
    for number in range(0, 8, 2):
        files: dict[str, bytes | str | dict[str, object]] = {}
        for n in (number, number + 1):
            files |= {f"{n:04d}.jpg": photo(n), f"{n:04d}.cls": f"{n % 2 * 10}\n"}
        shard(tmp_path / f"{'train' if number < 4 else 'val'}-{number // 2 % 2:06d}.tar", files)
    assert rows(tmp_path, "class", "split", "cls") == {
        f"{'train' if n < 4 else 'val'}-{n // 2 % 2:06d}.tar/{n:04d}.jpg": (
            f"{n % 2 * 10}",
            "train" if n < 4 else "valid",
            f"{n % 2 * 10}",
        )
        for n in range(8)
    }
    assert prepared(tmp_path).plan.class_names == ("0", "10")


def test_json_of_a_sample_becomes_columns(tmp_path: Path) -> None:
    files: dict[str, bytes | str | dict[str, object]] = {}
    for number, person in enumerate(["ann", "bob", "ann"]):
        facts = {"person": person, "age": 20.5 + number, "face": {"yaw": -1.5 * number}, "tags": ["a", "b"], "ok": True}
        files |= {f"a/{number}.jpg": photo(number), f"a/{number}.json": facts, f"a/{number}.txt": f"face {number}"}
    shard(tmp_path / "data.tar", files)
    assert rows(tmp_path / "data.tar", "person", "age", "face.yaw", "ok", "txt") == {
        "a/0.jpg": (0, 20.5, "0", 1, "face 0"),
        "a/1.jpg": (1, 21.5, "-1.5", 1, "face 1"),
        "a/2.jpg": (0, 22.5, "-3", 1, "face 2"),
    }


def test_names_as_classes_and_odd_samples_are_named(tmp_path: Path) -> None:
    shard(
        tmp_path / "a.tar",
        {
            "cat/1.jpg": photo(1),
            "cat/1.cls": "cat",
            "cat/2.v1.jpg": photo(2),
            "cat/2.v1.cls": "dog",
            "3.png": photo(3, ".png"),
            "3.seg.png": photo(4, ".png"),
            "3.cls": "cat",
            "4.cls": "cat",
            "5.jpg": photo(5),
            "5.json": '{"a": ',
            "5.cls": "dog",
            "6.jpg": photo(6),
            "6.npy": "numbers",
        },
    )
    shard(tmp_path / "photos.tar", {"1.jpg": photo(7), "2.jpg": photo(8)})
    made = prepared(tmp_path)
    assert dict(zip(made.plan.table["source"].to_pylist(), made.plan.table["class"].to_pylist(), strict=True)) == {
        "a.tar/cat/1.jpg": "cat",
        "a.tar/cat/2.v1.jpg": "dog",
        "a.tar/3.png": "cat",
    }
    assert made.index.passed == {
        OTHERS: ["a.tar/3.seg.png"],
        ARCHIVES: ["photos.tar"],
        NO_IMAGES: ["a.tar/6.npy"],
    }
    first, second = made.index.unparsed
    assert first == "a.tar/4.cls: no photo of this key"
    assert second.startswith("a.tar/5.json: not valid JSON: Expecting value")
    assert made.left_out["of no chosen class"] == 1


def test_tar_without_sidecars_stays_an_archive(tmp_path: Path) -> None:
    shard(tmp_path / "ann.tar", {"1.jpg": photo(1), "2.jpg": photo(2), "readme.txt": "photos"})
    with pytest.raises(JobError, match=r"unpack ann\.tar"):
        prepared(tmp_path)
    assert rows(tmp_path / "ann.tar", "class") == {"1.jpg": (None,), "2.jpg": (None,)}


def test_damaged_shards_are_counted_as_such(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        shard(tmp_path / name, {"a.jpg": photo(1), "a.cls": "1", "b.jpg": photo(2), "b.cls": "2"})
    (tmp_path / "train-1.tar").write_bytes((tmp_path / "train-1.tar").read_bytes()[:700])
    made = prepared(tmp_path)
    assert made.plan.table["source"].to_pylist() == ["train-0.tar/b.jpg", "train-0.tar/a.jpg"]
    assert made.index.passed == {DAMAGED: ["train-1.tar"]}


def test_a_picture_beside_shards_does_not_close_them(tmp_path: Path) -> None:
    shard(
        imagefolder(tmp_path, "cover.png") / "data.tar",
        {"a.jpg": photo(1), "a.cls": "x", "b.jpg": photo(2), "b.cls": "y"},
    )
    assert rows(tmp_path, "class") == {"data.tar/a.jpg": ("x",), "data.tar/b.jpg": ("y",)}
    assert prepared(tmp_path).index.passed == {UNNAMED: ["cover.png"]}
    imagefolder(tmp_path, "1.jpg", "2.jpg")
    assert rows(tmp_path, "class") == {"cover.png": (None,), "1.jpg": (None,), "2.jpg": (None,)}


# imagefolder


def imagefolder(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo(number))
    return folder


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_metadata_files_beside_photos(tmp_path: Path, kind: str) -> None:
    folder = imagefolder(tmp_path, "1.jpg", "2.jpg", "sub/3.jpg", "4.jpg")
    facts = [("1.jpg", "glad", 31), ("2.jpg", "sad", 40), ("sub/3.jpg", "glad", 7)]
    columns = dict(zip(("file_name", "mood", "age"), zip(*facts, strict=True), strict=True))
    if kind == "parquet":
        write(folder / "metadata.parquet", {name: list(values) for name, values in columns.items()})
    elif kind == "jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in facts]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    else:
        separator = "," if kind == "csv" else "\t"
        lines = [separator.join(map(str, row)) for row in [tuple(columns), *facts]]
        (folder / f"metadata.{kind}").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert rows(folder, "class", "mood", "age") == {
        "1.jpg": ("glad", "glad", 31),
        "2.jpg": ("sad", "sad", 40),
        "sub/3.jpg": ("glad", "glad", 7),
    }
    assert prepared(folder).index.passed == {UNNAMED: ["4.jpg"]}


def test_metadata_of_each_split(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "train/a.jpg", "train/b.jpg", "test/a.jpg")
    (folder / "train/metadata.csv").write_text("image_file_name,mask_file_name,label\na.jpg,m.jpg,x\nb.jpg,m.jpg,y\n")
    (folder / "test/metadata.jsonl").write_text('{"file_name": "a.jpg", "label": "x", "text": "hm"}\n')
    assert rows(folder, "class", "split", "text") == {
        "train/a.jpg": ("x", "train", None),
        "train/b.jpg": ("y", "train", None),
        "test/a.jpg": ("x", "test", "hm"),
    }


def test_metadata_that_names_no_class_leaves_it_to_the_folders(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "train/ann/1.jpg", "train/bob/1.jpg")
    (folder / "metadata.csv").write_text("file_name,caption\ntrain/ann/1.jpg,one\ntrain/bob/1.jpg,two\n")
    assert rows(folder, "class", "split", "caption") == {
        "train/ann/1.jpg": ("ann", "train", "one"),
        "train/bob/1.jpg": ("bob", "train", "two"),
    }


def test_files_called_metadata_without_names_of_files_are_none(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "ann/1.jpg", "bob/1.jpg")
    (folder / "metadata.csv").write_text("camera,year\nleica,1954\n")
    assert rows(folder, "class") == {"ann/1.jpg": ("ann",), "bob/1.jpg": ("bob",)}
    assert prepared(folder).index.passed == {NO_IMAGES: ["metadata.csv"]}


def test_lines_that_are_no_json_are_named(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "1.jpg")
    (folder / "metadata.jsonl").write_text('{"file_name": "1.jpg"}\n{"file_name": \n')
    with pytest.raises(JobError, match=r"metadata.jsonl: line 2: not valid JSON: Expecting value"):
        prepared(folder)


# Parquet


def test_any_dataset_in_parquet_files(tmp_path: Path) -> None:
    images = [{"bytes": photo(n), "path": f"{n}.jpg"} for n in range(4)]
    features = {"label": {"_type": "ClassLabel", "names": ["glad", "sad"]}}
    columns = {"image": images, "label": [0, 1, 1, -1], "box": [[1, 2]] * 4, "face": [{"age": 3}] * 4}
    write(tmp_path / "data/train-00000-of-00001.parquet", columns, features=features)
    made = prepared(tmp_path)
    assert made.plan.class_names == ("glad", "sad")
    assert made.plan.table["label"].to_pylist().count("sad") == 2
    assert set(made.plan.table["split"].to_pylist()) == {"train"}
    assert made.left_out == {"of no chosen class": 1}
    assert set(made.plan.table["face.age"].to_pylist()) == {3}


def test_several_columns_that_could_be_the_class_are_listed(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (folder / "metadata.csv").write_text("file_name,mood,hat\n1.jpg,glad,yes?\n2.jpg,sad,none?\n3.jpg,sad,yes?\n")
    with pytest.raises(FieldError, match="each of the columns mood, hat could be the class; give COLUMN:all, or none"):
        prepared(folder)
    assert rows(folder, "class", classes="hat:all")["2.jpg"] == ("none?",)
    assert rows(folder, "class", "mood", classes="none")["2.jpg"] == (None, "sad")


def test_names_of_own_columns_are_other_labels(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    lines = ["file_name,class,width,a:b,smile", "1.jpg,10,5,x,1", "2.jpg,9,5,y,0", "3.jpg,10,6,z,"]
    (folder / "metadata.csv").write_text("\n".join(lines))
    assert rows(folder, "class", "label_class", "label_width", "a_b", "smile") == {
        "1.jpg": ("10", "10", 5, "x", 1),
        "2.jpg": ("9", "9", 5, "y", 0),
        "3.jpg": ("10", "10", 6, "z", None),
    }
    assert prepared(folder).plan.class_names == ("9", "10")


def test_columns_of_attributes_are_classes_as_celebas_are(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (folder / "metadata.csv").write_text("file_name,Bald,Male\n1.jpg,-1,1\n2.jpg,1,1\n3.jpg,-1,-1\n")
    made = prepared(folder, classes="rarest1")
    assert made.description.attributes == ("Bald", "Male")
    assert made.plan.class_names == ("Bald",)
    assert pa.types.is_int8(made.plan.table.schema.field("Male").type)


def test_images_that_come_again_in_parquet_files_are_duplicates(tmp_path: Path) -> None:
    for part, numbers in enumerate(([0, 1, 2], [1, 3, 0])):
        images = [{"bytes": photo(n), "path": None} for n in numbers]
        write(tmp_path / f"{part}.parquet", {"image": images, "label": ["a", "b", "c"]}, rows=2)
    made = prepared(tmp_path)
    repeated = [row["source"] for row in made.plan.table.to_pylist() if row["status"] == "duplicate"]
    assert sorted(repeated) == ["1.parquet/000000", "1.parquet/000002"]
    assert made.warnings == (
        "2 files have the bytes of another but other labels; the latter is taken: "
        "1.parquet/000002 and 0.parquet/000000, 1.parquet/000000 and 0.parquet/000001",
    )


@pytest.mark.parametrize("form", ["shards", "parquet"])
@pytest.mark.parametrize("others", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_bytes_are_the_same_with_any_number_of_workers(tmp_path: Path, form: str, others: int) -> None:
    source = tmp_path / "source"
    if form == "shards":
        for part in range(2):
            numbers = range(10 * part, 10 * part + 10)
            photos = {f"{n}.jpg": photo(n) for n in numbers}
            shard(source / f"train-{part}.tar", photos | {f"{n}.cls": f"{n % 2}" for n in numbers})
    else:
        images = [{"bytes": photo(n), "path": None} for n in range(20)]
        write(source / "0.parquet", {"image": images, "label": [f"{n % 2}" for n in range(20)]}, rows=7)
    sums = []
    for place, workers in (("a", 0), ("b", others)):
        out = tmp_path / place
        make(source, out, workers=workers, dataset="folder", classes="", size="keep", samples_per_shard=6)
        assert verify(str(out), deep=True).problems == ()
        sums.append({name: sha for name, sha in digests(out).items() if name.endswith((".tar", ".idx"))})
    assert len(sums[0]) > 4
    assert sums[0] == sums[1]
