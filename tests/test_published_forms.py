"""The forms in which LFW, FFHQ, VGGFace2, IMDB-WIKI and Adience are published and found are built and verified."""

import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import make
from PIL import Image

from facepack import manifest
from facepack.drawn import synthetic
from facepack.errors import FieldError, JobError
from facepack.manifest import Build
from facepack.storage import Store
from facepack.verification import verify


def drawn(name: str, folder: Path, num_images: int = 30) -> Path:
    synthetic.draw(name, folder, num_images=num_images)
    return folder


def built(name: str, source: Path, out: Path, **options: Any) -> Build:
    """A build that is verified."""
    outcome = make(source, out, dataset=name, classes="", **options)
    assert verify(str(out)).problems == ()
    return outcome.build


def table_of(out: Path) -> pa.Table:
    return manifest.read_table(Store(str(out)), manifest.MANIFEST_FILE)


def split_counts(out: Path) -> dict[str, int]:
    return dict(Counter(table_of(out)["split"].to_pylist()))


# LFW


def test_lfw_is_split_by_view_1_and_has_the_folds_of_view_2(tmp_path: Path) -> None:
    built("lfw", drawn("lfw", tmp_path / "s"), tmp_path / "b")
    assert split_counts(tmp_path / "b") == {"train": 21, "test": 9}
    assert sorted(set(table_of(tmp_path / "b")["fold"].to_pylist())) == [float(fold) for fold in range(1, 11)]


def test_lfw_without_lists_is_split_by_people(tmp_path: Path) -> None:
    source = drawn("lfw", tmp_path / "s") / "lfw"  # its own folder given
    built("lfw", source, tmp_path / "b")
    table = table_of(tmp_path / "b")
    assert "fold" not in table.column_names
    assert manifest.people_in_several_splits(table, "identity").num_rows == 0
    assert split_counts(tmp_path / "b")["train"] == 24


def test_image_sets_of_lfw_are_chosen_and_the_others_counted(tmp_path: Path) -> None:
    source = drawn("lfw", tmp_path / "s", 9)
    (source / "lfw-deepfunneled").mkdir()
    shutil.copytree(source / "lfw", source / "lfw-deepfunneled/lfw-deepfunneled")
    assert built("lfw", source, tmp_path / "b").left_out == {"images of another set, images deepfunneled": 9}
    made = built("lfw", source, tmp_path / "c", images="deepfunneled")
    assert made.left_out == {"images of another set, images original": 9}
    assert all("deepfunneled" in path for path in table_of(tmp_path / "c")["source"].to_pylist())
    with pytest.raises(JobError, match="in the image set funneled"):
        built("lfw", source, tmp_path / "d", images="funneled")
    with pytest.raises(FieldError, match="it has: original, funneled, deepfunneled"):
        built("lfw", source, tmp_path / "d", images="tight")


# FFHQ


def test_ffhq_is_split_by_the_number_of_an_image(tmp_path: Path) -> None:
    built("ffhq", drawn("ffhq", tmp_path / "s"), tmp_path / "b")
    for row in table_of(tmp_path / "b").to_pylist():
        assert row["split"] == ("train" if row["number"] < 60_000 else "valid")
    assert split_counts(tmp_path / "b") == {"train": 25, "valid": 5}


def test_thumbnails_and_whole_photos_of_ffhq_are_image_sets(tmp_path: Path) -> None:
    source = drawn("ffhq", tmp_path / "s", 6)
    shutil.copytree(source / "images1024x1024", source / "thumbnails128x128")
    shutil.copytree(source / "images1024x1024", source / "in-the-wild-images")
    assert built("ffhq", source, tmp_path / "b").left_out == {
        "images of another set, images thumbnails": 6,
        "images of another set, images wild": 6,
    }
    built("ffhq", source, tmp_path / "c", images="thumbnails")
    assert all(path.startswith("thumbnails") for path in table_of(tmp_path / "c")["source"].to_pylist())
    shutil.rmtree(source / "images1024x1024")
    shutil.rmtree(source / "in-the-wild-images")
    built("ffhq", source, tmp_path / "d")  # the first that is there
    assert len(table_of(tmp_path / "d")) == 6


@pytest.mark.parametrize("place", ["archive/00012.jpg", "00012.webp", "ffhq256/61000.png", "a/b/61000.jpeg"])
def test_other_copies_of_ffhq_are_read(tmp_path: Path, place: str) -> None:
    path = tmp_path / "s" / place
    path.parent.mkdir(parents=True)
    Image.new("RGB", (40, 40), (90, 120, 40)).save(path)
    built("ffhq", tmp_path / "s", tmp_path / "b")
    assert split_counts(tmp_path / "b") == {"train" if "00012" in place else "valid": 1}


# VGGFace2


def test_vggface2_has_people_names_genders_and_boxes(tmp_path: Path) -> None:
    built("vggface2", drawn("vggface2", tmp_path / "s"), tmp_path / "b")
    table = table_of(tmp_path / "b")
    assert split_counts(tmp_path / "b") == {"train": 26, "test": 4}
    assert set(table["gender"].to_pylist()) == {"female", "male"}
    assert table["name"].null_count == table["published_box"].null_count == 0
    assert table["published_box"][0].as_py() == [35, 45, 125, 145]
    assert manifest.people_in_several_splits(table, "identity").num_rows == 0


def test_faces_of_vggface2_are_cut_out_by_its_own_boxes_and_landmarks(tmp_path: Path) -> None:
    source = drawn("vggface2", tmp_path / "s", 8)
    built("vggface2", source, tmp_path / "b", align="crop", landmarks_from="labels", size=64)
    assert set(table_of(tmp_path / "b")["status"].to_pylist()) == {"packed"}
    points = "60.5,80,100.1,79,80,100,64,125,97,124"
    for split in ("train", "test"):
        keys = [f"{path.parent.name}/{path.stem}" for path in sorted((source / split).rglob("*.jpg"))]
        header = ",".join(["NAME_ID", *(f"P{number}{axis}" for number in range(1, 6) for axis in "XY")])
        lines = [header, *(f'"{key}",{points}' for key in keys)]
        (source / f"bb_landmark/loose_landmark_{split}.csv").write_text("\n".join(lines) + "\n")
    built("vggface2", source, tmp_path / "c", align="chip", landmarks_from="labels", size=112)
    assert table_of(tmp_path / "c")["landmarks"][0].as_py()[:2] == [60.5, 80]


def test_vggface2_without_its_label_files_has_people_all_the_same(tmp_path: Path) -> None:
    source = drawn("vggface2", tmp_path / "s", 8)
    (source / "identity_meta.csv").unlink()
    shutil.rmtree(source / "bb_landmark")
    built("vggface2", source, tmp_path / "b")
    table = table_of(tmp_path / "b")
    assert "published_box" not in table.column_names
    assert table["name"].null_count == 8
    assert sorted(set(table["identity"].to_pylist())) == [1, 2]


# IMDB-WIKI


def test_imdb_and_wiki_are_one_dataset(tmp_path: Path) -> None:
    built("imdb_wiki", drawn("imdb_wiki", tmp_path / "s"), tmp_path / "b")
    table = table_of(tmp_path / "b")
    assert Counter(path[:4] for path in table["source"].to_pylist()) == {"imdb": 15, "wiki": 15}
    for row in table.to_pylist():
        assert row["age"] == int(row["source"].removesuffix(".jpg")[-4:]) - 1950  # born on the first of January
    assert set(table["second_face_score"].to_pylist()) == {1.25}


@pytest.mark.parametrize("form", ["wiki_crop", "wiki", "."])
def test_each_part_is_read_alone_and_out_of_its_folder(tmp_path: Path, form: str) -> None:
    source = drawn("imdb_wiki", tmp_path / "s", 10)
    shutil.copytree(source / "wiki_crop", tmp_path / "t" / form, dirs_exist_ok=True)
    built("imdb_wiki", tmp_path / "t", tmp_path / "b")
    assert set(table_of(tmp_path / "b")["status"].to_pylist()) == {"packed"}
    assert len(table_of(tmp_path / "b")) == 5


def test_published_tar_is_read_in_place(tmp_path: Path) -> None:
    source = drawn("imdb_wiki", tmp_path / "s", 10)
    (tmp_path / "t").mkdir()
    with tarfile.open(tmp_path / "t/imdb_crop.tar", "w") as archive:
        archive.add(source / "imdb_crop", "imdb_crop")
    built("imdb_wiki", tmp_path / "t", tmp_path / "b")
    assert table_of(tmp_path / "b")["status"].to_pylist() == ["packed"] * 5


def test_rows_without_an_age_or_a_face_are_counted(tmp_path: Path) -> None:
    source = drawn("imdb_wiki", tmp_path / "s", 20)
    from scipy.io import loadmat, savemat  # as whoever mends the file would

    fields = loadmat(source / "imdb_crop/imdb.mat")["imdb"][0, 0]
    columns = {name: fields[name].copy() for name in fields.dtype.names}
    columns["dob"][0, 0] = 0
    columns["dob"][0, 1] = float("nan")
    columns["photo_taken"][0, 2] = 1700
    columns["photo_taken"][0, 3] = 2051
    columns["face_score"][0, 4] = -float("inf")
    columns["gender"][0, 5] = float("nan")
    savemat(source / "imdb_crop/imdb.mat", {"imdb": columns})
    made = built("imdb_wiki", source, tmp_path / "b")
    assert made.left_out == {"no age from 0 to 100": 4, "no face was detected (face_score -inf)": 1}
    assert table_of(tmp_path / "b")["gender"].null_count == 1
    assert len(table_of(tmp_path / "b")) == 15


def test_without_scipy_the_error_tells_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = drawn("imdb_wiki", tmp_path / "s", 4)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(JobError, match=r"imdb\.mat: MAT files are read by SciPy: pip install 'facepack\[mat\]'"):
        built("imdb_wiki", source, tmp_path / "b")


# Adience


def test_folds_of_adience_are_its_split(tmp_path: Path) -> None:
    built("adience", drawn("adience", tmp_path / "s", 40), tmp_path / "b")
    table = table_of(tmp_path / "b")
    for row in table.to_pylist():
        assert row["split"] == ("train", "train", "train", "valid", "test")[int(row["fold"])]
    assert split_counts(tmp_path / "b") == {"train": 24, "valid": 8, "test": 8}
    assert manifest.people_in_several_splits(table, "identity").num_rows == 0
    assert "25-32" in table["age_group"].to_pylist()
    assert "35" in table["age_group"].to_pylist()


def test_classes_of_adience_are_named_without_commas(tmp_path: Path) -> None:
    source = drawn("adience", tmp_path / "s", 40)
    make(source, tmp_path / "b", dataset="adience", classes="age_group:0-2,60-100")
    assert Counter(table_of(tmp_path / "b")["class"].to_pylist()) == {"0-2": 5, "60-100": 4}


def test_aligned_faces_of_adience_are_another_image_set(tmp_path: Path) -> None:
    source = drawn("adience", tmp_path / "s/AdienceBenchmark", 10)
    for path in (source / "faces").rglob("*.jpg"):
        aligned = source / "aligned" / path.parent.name / path.name.replace("coarse_tilt", "landmark")
        aligned.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, aligned)
    built("adience", tmp_path / "s", tmp_path / "b", images="aligned")
    table = table_of(tmp_path / "b")
    assert table["status"].to_pylist() == ["packed"] * 10
    assert all("aligned/" in path for path in table["source"].to_pylist())


def test_frontal_lists_of_adience_add_no_rows(tmp_path: Path) -> None:
    source = drawn("adience", tmp_path / "s", 10)
    shutil.copy(source / "fold_0_data.txt", source / "fold_frontal_0_data.txt")
    built("adience", source, tmp_path / "b")
    assert len(table_of(tmp_path / "b")) == 10
