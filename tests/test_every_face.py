"""--on-several all: every face of a photo is a sample, with a key and a number of its own, in its photo's split."""

import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import digests, make
from PIL import Image
from test_align import portraits

from facepack import image, manifest
from facepack.errors import FieldError, JobError
from facepack.manifest import Status
from facepack.manifest_checks import TableRows, check_faces, check_manifest
from facepack.reader import open_build
from facepack.storage import Store
from facepack.verification import verify
from trainer.loader import Loader

CHOICES: dict[str, Any] = {
    "dataset": "folder",
    "classes": "",
    "split": "60/20/20",
    "align": "crop",
    "size": 48,
    "on_several": "all",
    "samples_per_shard": 4,
}
NUM_FACES = {"group": 3, "pair": 2, "portrait": 1, "wall": 0}
SIZES = [(150, 150, 60), (150, 150, 75), (150, 150, 50)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of drawn photos of three, two, one and no face; a duplicate; what is no image."""
    folder = tmp_path_factory.mktemp("crowd")
    for place in ("a", "b"):
        (folder / place).mkdir()
        for name, number in NUM_FACES.items():
            photo_hwc = portraits(*SIZES[:number], size_wh=(300 * number, 300)) if number else np.full((90, 90, 3), 99)
            photo_hwc = photo_hwc.astype(np.uint8)
            photo_hwc[:5, :5] = 10 * (place == "a")
            Image.fromarray(np.ascontiguousarray(photo_hwc[:, :, ::-1])).save(folder / place / f"{name}.png")
    (folder / "b" / "same.png").write_bytes((folder / "b" / "pair.png").read_bytes())
    (folder / "b" / "text.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    make(source, out, **CHOICES)
    return out


def rows_of(build: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE).to_pylist()
    return rows


def test_every_face_has_a_row_and_whatever_has_none_keeps_one(made: Path) -> None:
    rows = rows_of(made)
    numbers: dict[str, list[Any]] = {}
    for row in rows:
        numbers.setdefault(row["source"], []).append((row["face"], row["status"]))
    for place in ("a", "b"):
        for name, number in NUM_FACES.items():
            faces: list[tuple[Any, Status]] = [(face, Status.PACKED) for face in range(1, number + 1)]
            assert sorted(numbers[f"{place}/{name}.png"]) == (faces or [(None, Status.NO_FACE)])
    assert numbers["b/same.png"] == [(None, Status.DUPLICATE)]
    assert numbers["b/text.png"] == [(None, Status.NOT_AN_IMAGE)]
    assert len(rows) == 2 * (3 + 2 + 1 + 1) + 2
    assert verify(made, deep=True).problems == ()


def test_faces_are_numbered_from_the_largest_and_lie_in_one_split(made: Path) -> None:
    for name in ("a/group.png", "b/group.png", "a/pair.png", "b/pair.png"):
        rows = sorted((row for row in rows_of(made) if row["source"] == name), key=lambda row: row["face"])
        areas = [(row["box"][2] - row["box"][0]) * (row["box"][3] - row["box"][1]) for row in rows]
        assert areas == sorted(areas, reverse=True)
        assert len({(row["split"], row["shard"], row["class"]) for row in rows}) == 1
        assert len({row["key"].partition("-")[0] for row in rows}) == 1
        assert [row["key"][16:] for row in rows] == [f"-{row['face']}" for row in rows]
        assert len({row["sha256"] for row in rows}) == len(rows)
        assert len({row["source_sha256"] for row in rows}) == 1


def test_largest_face_is_the_first_of_all(source: Path, made: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", **CHOICES | {"on_several": "largest"})
    assert "face" not in rows_of(tmp_path / "out")[0]
    largest = {row["source"]: row["sha256"] for row in rows_of(tmp_path / "out")}
    firsts = {row["source"]: row["sha256"] for row in rows_of(made) if row["face"] in (None, 1)}
    assert firsts == largest


def test_samples_say_which_face_they_are(made: Path) -> None:
    texts = {}
    for path in sorted(made.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers()[1::2]:
                file = tar.extractfile(member)
                assert file is not None
                texts[member.name] = json.loads(file.read())
    assert len(texts) == 12
    for name, text in texts.items():
        assert name == f"{text['key']}.json"
        assert list(text)[:3] == ["key", "face", "source"]
        assert text["key"].endswith(f"-{text['face']}")
        assert text["class"] in ("a", "b")


def test_card_says_that_rows_are_faces(source: Path, made: Path, tmp_path: Path) -> None:
    assert "one row per\nface, packed or not" in (made / "README.md").read_text()
    make(source, tmp_path / "out", **CHOICES | {"on_several": "reject"})
    assert "one row per\nsource, packed or not" in (tmp_path / "out" / "README.md").read_text()


def test_loader_and_other_readers_take_every_face(made: Path, tmp_path: Path) -> None:
    keys: list[str] = []
    for split in ("train", "valid", "test"):
        if list(made.glob(f"{split}-*.tar")):
            with Loader(str(made), split=split, batch_size=4, augment=()) as loader:
                for batch in loader:
                    assert batch.images.shape[1:] == (48, 48, 3)
                    keys += loader.keys(batch.rows)
    packed = open_build(str(made)).packed
    assert sorted(keys) == sorted(packed.table["key"].to_pylist())
    query = f"SELECT source, max(face) FROM '{made}/manifest.parquet' WHERE face IS NOT NULL GROUP BY 1 ORDER BY 1"
    numbers = duckdb.execute(query).fetchall()
    assert numbers == [(f"{place}/{name}.png", NUM_FACES[name]) for place in "ab" for name in sorted(NUM_FACES)[:3]]


def test_hugging_face_datasets_open_it(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path))
    faces = [sample["json"]["face"] for split in loaded.values() for sample in split]
    assert sorted(faces) == [1] * 6 + [2] * 4 + [3] * 2


# Resume


def test_it_is_complete_and_goes_on_after_a_stop(source: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(source, out, **CHOICES)
    assert make(source, out, **CHOICES).num_images == 0
    for name in ("build.json", "manifest.parquet", "train-00000.parquet"):
        (out / name).unlink()
    assert 0 < make(source, out, **CHOICES).num_images < 9
    assert digests(out) == digests(made)
    (out / "build.json").unlink()
    make(source, out, **CHOICES)
    assert digests(out) == digests(made)


def test_photo_that_changed_is_packed_with_its_faces(source: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "group.png").write_bytes((source / "a" / "group.png").read_bytes())
    (folder / "a" / "late.png").write_text("not yet")
    choices = CHOICES | {"split": "100/0/0"}
    make(folder, out, **choices)
    assert [row["status"] for row in rows_of(out)].count("packed") == 3
    (folder / "a" / "late.png").write_bytes((source / "a" / "pair.png").read_bytes())
    make(folder, out, **choices)
    assert [row["status"] for row in rows_of(out)].count("packed") == 5
    assert verify(out).problems == ()


def test_build_of_other_photos_is_refused(source: Path, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "in"
    (other / "c").mkdir(parents=True)
    (other / "c" / "x.png").write_bytes((source / "a" / "pair.png").read_bytes())
    with pytest.raises(JobError, match="other images"):
        make(other, made, **CHOICES)


@pytest.mark.slow
def test_bytes_are_the_same_with_workers(source: Path, made: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", workers=2, **CHOICES)
    assert digests(tmp_path / "out") == digests(made)


# One face of several that cannot be packed


def test_face_that_cannot_be_packed_has_a_row_of_its_own(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "pair.png").write_bytes((source / "a" / "pair.png").read_bytes())
    with pytest.MonkeyPatch.context() as limit:
        limit.setattr("facepack.align.MAX_PIXELS", 145 * 145)
        make(folder, tmp_path / "out", **CHOICES | {"size": "keep", "margin": "5"})
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["face"])
    assert [(row["face"], row["status"]) for row in rows] == [(1, Status.TOO_LARGE), (2, Status.PACKED)]
    assert len({row["key"] for row in rows}) == 2
    assert verify(tmp_path / "out", deep=True).problems == ()


# Verification


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"face": 2, "key": "-2"}, "keys stand in more than one row"),
        ({"face": 5, "key": "-5"}, "its faces are not 1 to 5"),
        ({"face": 7}, "is not that of the source"),
        ({"split": "test"}, "its faces are in several splits"),
    ],
)
def test_faces_are_verified(made: Path, change: dict[str, Any], problem: str) -> None:
    build = manifest.read_build(str(made))
    table = manifest.read_table(Store(str(made)), manifest.MANIFEST_FILE)
    rows = table.to_pylist()
    row = next(row for row in rows if row["face"] == 1 and "group" in row["source"] and row["split"] != "test")
    row |= change | ({"key": row["key"][:16] + change["key"]} if "key" in change else {})
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    problems = [*check_manifest(build, TableRows(changed)), *check_faces(build, TableRows(changed))]
    assert any(problem in text for text in problems), problems


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"align": "none", "size": "keep"}, "on_several all: needs align crop or chip"),
        ({"dataset": "celeba", "landmarks_from": "labels"}, "on_several all: needs a detector"),
    ],
)
def test_all_needs_a_detector(source: Path, tmp_path: Path, choices: dict[str, Any], problem: str) -> None:
    with pytest.raises(FieldError, match=problem):
        make(source, tmp_path / "out", **CHOICES | choices)


def test_chips_of_every_face(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", **CHOICES | {"align": "chip", "template": "arcface", "size": ""})
    build = open_build(str(tmp_path / "out")).packed
    assert len(build.table) == 12
    assert {build.image(row).shape for row in range(12)} == {(112, 112, 3)}
    assert verify(tmp_path / "out", deep=True).problems == ()
    assert image.decode(build.bytes(0)).shape == (112, 112, 3)
