"""One's own photos in folders of any kind: with classes or without, deep, and with the usual words for splits."""

from pathlib import Path

import pytest
from conftest import make

from facepack.configuration import Configuration
from facepack.description import load_dataset
from facepack.index import Index, index_dataset
from facepack.manifest import read_build
from facepack.prepare import prepare_build
from facepack.source import Source, open_source
from facepack.storage import Store
from facepack.table_rows import ARCHIVES, NO_IMAGES


def read(*paths: str) -> Index:
    """The rows of one's own photos with these paths."""
    return index_dataset(load_dataset("folder"), Source(Store("nowhere"), frozenset(paths)))


def rows(*paths: str) -> dict[str, tuple[str | None, str | None]]:
    """Class and split by path."""
    table = read(*paths).table.to_pylist()
    return {row["source"]: (row["folder"], row["official_split"]) for row in table}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"),
        ("TRAINING", "train"),
        ("train_set", "train"),
        ("trainset", "train"),
        ("Val", "valid"),
        ("Validation", "valid"),
        ("valid images", "valid"),
        ("dev", "valid"),
        ("Testing", "test"),
        ("test-data", "test"),
        ("eval", "test"),
    ],
)
def test_usual_words_for_splits(name: str, split: str) -> None:
    paths = ["train/ann/1.jpg", f"{name}/ann/2.jpg"]
    assert rows(*paths) == {paths[0]: ("ann", "train"), paths[1]: ("ann", split)}


def test_words_for_splits_are_classes_where_nothing_is_for_training() -> None:
    paths = ["ann/1.jpg", "val/2.jpg", "dev/3.jpg"]
    assert rows(*paths) == {"ann/1.jpg": ("ann", None), "val/2.jpg": ("val", None), "dev/3.jpg": ("dev", None)}


def test_test_alone_is_a_split() -> None:
    assert rows("test/ann/1.jpg", "test/bob/1.jpg") == {
        "test/ann/1.jpg": ("ann", "test"),
        "test/bob/1.jpg": ("bob", "test"),
    }


def test_deeper_folders_belong_to_the_class() -> None:
    assert rows("ann/s1/1.jpg", "ann/s2/a/2.jpg", "bob/3.jpg") == {
        "ann/s1/1.jpg": ("ann", None),
        "ann/s2/a/2.jpg": ("ann", None),
        "bob/3.jpg": ("bob", None),
    }
    assert rows("ann/s1/1.jpg") == {"ann/s1/1.jpg": ("ann", None)}


@pytest.mark.parametrize("around", ["photos/", "lfw-deepfunneled/lfw-deepfunneled/", "a/b/c/"])
def test_folders_around_all_others_are_passed_through(around: str) -> None:
    found = read(f"{around}ann/1.jpg", f"{around}bob/1.jpg")
    assert found.table["folder"].to_pylist() == ["ann", "bob"]
    assert found.notes == (f"all folders are in {around}, which is passed over",)
    assert rows(f"{around}Train/ann/1.jpg", f"{around}cover.jpg") == {
        f"{around}Train/ann/1.jpg": ("ann", "train"),
        f"{around}cover.jpg": (None, None),
    }


def draw(folder: Path, *names: str) -> None:
    """Photos of different grey as .pgm, whatever their names end."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"P5 16 16 255\n" + bytes([10 * number] * 256))


def test_flat_photos_are_packed_without_classes_and_all_else_is_counted(tmp_path: Path) -> None:
    draw(tmp_path / "src", "1.pgm", "2.jpg_large", "3", "4.ppm")
    for name in ("notes.txt", "more.zip", "song", "@eaDir/5.jpg"):
        (tmp_path / "src" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "src" / name).write_bytes(b"no image")
    make(tmp_path / "src", tmp_path / "out", dataset="folder", classes="", size="keep")
    made = read_build(str(tmp_path / "out"))
    assert made.class_names == []
    assert sum(record.num_samples for record in made.shards) == 4
    hidden = "hidden, or of the system"
    assert made.left_out == {NO_IMAGES: 2, ARCHIVES: 1, hidden: 1}
    assert made.left_out_examples == {
        NO_IMAGES: ["notes.txt", "song"],
        ARCHIVES: ["more.zip"],
        hidden: ["@eaDir/5.jpg"],
    }


def test_loose_photos_beside_classes_are_left_out_by_name_or_packed_without_classes(tmp_path: Path) -> None:
    draw(tmp_path, "ann/1.pgm", "bob/2.pgm", "loose.pgm")
    prepared = prepare_build(Configuration.of("folder"), src=str(tmp_path))
    assert len(prepared.plan.table) == 2
    line = "1 of 3 rows are of no chosen class and left out, such as loose.pgm; --classes none takes all"
    assert line in prepared.plan.notes
    assert prepared.left_out == {"of no chosen class": 1}
    prepared = prepare_build(Configuration.of("folder", classes="none"), src=str(tmp_path))
    assert (len(prepared.plan.table), prepared.plan.class_names) == (3, ())


def test_paths_of_a_source_are_those_of_its_folder(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.pgm")
    assert open_source(str(tmp_path)).paths == ["a/1.pgm"]
