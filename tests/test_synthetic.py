"""Drawn datasets: the same bytes each time, the layout of the publishers, attributes that can be seen."""

import collections
import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import digests
from numpy.typing import NDArray

from facepack.description import load_dataset
from facepack.drawn import drawing, synthetic
from facepack.errors import UsageError
from facepack.index import index_dataset
from facepack.source import open_source

RAREST = ["Bald", "Mustache", "Gray_Hair", "Pale_Skin"]


def draw(name: str, folder: Path, *, num_images: int = 40, seed: int = 0) -> Path:
    synthetic.draw(name, folder, num_images=num_images, seed=seed)
    return folder


def size_wh(path: Path) -> tuple[int, int]:
    """Width and height of an image that decodes."""
    image_hwc = cv2.imread(str(path))
    assert image_hwc is not None, path
    return image_hwc.shape[1], image_hwc.shape[0]


def patch(traits: list[str], number: int, *, v: float) -> NDArray[np.float64]:
    """Mean RGB of a small square at height v, in face units, in the middle of a drawn face."""
    face = drawing.person(np.random.default_rng(number), traits)
    rng = np.random.default_rng([1, number])
    image_hwc = drawing.photograph(face, rng, size_wh=(178, 218), middle_px=(89, 108), unit_px=48)
    y, x = round(108 + 48 * v), 89
    mean: NDArray[np.float64] = image_hwc[y - 4 : y + 5, x - 4 : x + 5].reshape(-1, 3).mean(axis=0)
    return mean


@pytest.mark.parametrize("name", sorted(synthetic.DATASETS))
def test_two_drawings_have_the_same_bytes_and_another_seed_has_others(tmp_path: Path, name: str) -> None:
    first = digests(draw(name, tmp_path / "first", num_images=24))
    assert first == digests(draw(name, tmp_path / "second", num_images=24))
    assert first != digests(draw(name, tmp_path / "third", num_images=24, seed=1))


def test_unknown_dataset_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'celebra'.* celeba"):
        synthetic.draw("celebra", tmp_path, num_images=1)


def test_celeba_label_files_have_the_published_bytes(tmp_path: Path) -> None:
    folder = draw("celeba", tmp_path)
    content = (folder / "list_attr_celeba.txt").read_bytes().decode("ascii")
    count, header, *rows, end = content.split("\r\n")
    assert (count, end, len(rows)) == ("40", "", 40)
    assert header == " ".join(load_dataset("celeba").attributes) + " "
    assert all(re.fullmatch(rf"{number:06d}\.jpg( -1|  1){{40}}", row) for number, row in enumerate(rows, 1))
    for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
        lines = (folder / name).read_bytes().decode("ascii").split("\r\n")
        assert all(re.fullmatch(rf"{number:06d}\.jpg \d+", line) for number, line in enumerate(lines[:-1], 1))
        assert (len(lines), lines[-1]) == (41, "")
    images = sorted((folder / "img_align_celeba").iterdir())
    assert [path.name for path in images] == [f"{number:06d}.jpg" for number in range(1, 41)]
    assert {size_wh(path) for path in images} == {(178, 218)}


def test_celeba_partitions_follow_each_other_and_share_nobody(tmp_path: Path) -> None:
    folder = draw("celeba", tmp_path, num_images=200)
    parts = [int(line.split()[1]) for line in (folder / "list_eval_partition.txt").read_text().splitlines()]
    people = [line.split()[1] for line in (folder / "identity_CelebA.txt").read_text().splitlines()]
    assert parts == sorted(parts)
    assert collections.Counter(parts) == {0: 160, 1: 20, 2: 20}
    assert len(set(zip(people, parts, strict=True))) == len(set(people)) == 40


@pytest.mark.parametrize("num_images", [200, 333, 2000])
def test_celeba_rarest_four_have_exact_counts(num_images: int) -> None:
    labels = synthetic.celeba_labels(num_images, 0)
    counts = dict(zip(load_dataset("celeba").attributes, labels.sum(axis=0).tolist(), strict=True))
    expected = {200: [24, 26, 28, 30], 333: [40, 43, 47, 50], 2000: [240, 260, 280, 300]}[num_images]
    assert [counts[name] for name in RAREST] == expected


def test_cacd_has_twenty_photos_a_person_over_ten_years(tmp_path: Path) -> None:
    names = [path.name for path in draw("cacd", tmp_path, num_images=140).joinpath("CACD2000").iterdir()]
    parts = [re.fullmatch(r"(\d+)_(.+)_(\d{4})\.jpg", name) for name in names]
    ages: dict[str, list[int]] = {}
    for part in parts:
        assert part
        ages.setdefault(part[2], []).append(int(part[1]))
    assert [len(photos) for photos in ages.values()] == [20] * 7
    assert {max(photos) - min(photos) for photos in ages.values()} == {9}
    assert min(map(min, ages.values())) >= 14
    assert max(map(max, ages.values())) <= 62
    for kind in ("'", "-", r"[^\x00-\x7f]", r"^[^_]+$"):
        assert any(re.search(kind, name) for name in ages), kind


def test_afad_has_base_names_that_both_sexes_use(tmp_path: Path) -> None:
    paths = list(draw("afad", tmp_path, num_images=60).rglob("*.jpg"))
    assert len(paths) == 60
    relative = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert all(re.fullmatch(r"AFAD-Full/(1[5-9]|[23]\d|40)/11[12]/\d+-0\.jpg", name) for name in relative)
    assert len({path.name for path in paths}) == 30


def test_appa_real_numbers_run_on_over_the_splits(tmp_path: Path) -> None:
    release = draw("appa_real", tmp_path, num_images=50) / "appa-real-release"
    names = []
    for split, count in (("train", 27), ("valid", 10), ("test", 13)):
        with (release / f"gt_avg_{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age"]
        names += [row["file_name"] for row in rows]
        assert len(rows) == count
        faces = {f"{row['file_name']}_face.jpg" for row in rows}
        assert {path.name for path in (release / split).iterdir()} == faces | {row["file_name"] for row in rows}
    assert names == [f"{number:06d}.jpg" for number in range(50)]


def test_simpsons_have_unequal_characters_a_stray_copy_and_a_flat_test_folder(tmp_path: Path) -> None:
    folder = draw("simpsons", tmp_path, num_images=200)
    train, stray = folder / "simpsons_dataset", folder / "simpsons_dataset" / "simpsons_dataset"
    counts = {path.name: len(list(path.iterdir())) for path in train.iterdir() if path != stray}
    test = [path.name for path in (folder / "kaggle_simpson_testset").iterdir()]
    assert set(counts) == set(synthetic.CHARACTERS)
    assert (sum(counts.values()), len(test)) == (180, 20)
    assert len(set(counts.values())) > 4
    assert all(re.fullmatch(r"[a-z_]+_\d+\.jpg", name) for name in test)
    original = digests(train)
    copies = digests(stray)
    assert copies
    assert all(original[name] == digest for name, digest in copies.items())
    assert len({size_wh(path) for path in train.glob("*/*.jpg")}) > 100


def test_utkface_has_repeated_files_and_bad_names_on_top(tmp_path: Path) -> None:
    files = digests(draw("utkface", tmp_path, num_images=40))
    good = [name for name in files if re.fullmatch(r"UTKFace/\d+_[01]_[0-4]_\d{17}\.jpg\.chip\.jpg", name)]
    bad = [name for name in files if re.fullmatch(r"UTKFace/61_1_\d{17}\.jpg\.chip\.jpg", name)]
    assert (len(good), len(bad), len(files)) == (42, 2, 44)
    assert len(set(files.values())) == 40
    assert {size_wh(tmp_path / name) for name in files} == {(200, 200)}


def test_fairface_lists_its_photos_with_age_group_and_sex(tmp_path: Path) -> None:
    rows = json.loads((draw("fairface", tmp_path, num_images=18) / "ground_truth.json").read_text())
    assert [list(row) for row in rows] == [["id", "filename", "age", "gender"]] * 18
    assert collections.Counter(row["age"] for row in rows) == dict.fromkeys(synthetic.AGE_GROUPS, 2)
    assert collections.Counter(row["gender"] for row in rows) == {"Male": 9, "Female": 9}
    assert {size_wh(tmp_path / row["filename"]) for row in rows} == {(448, 448)}


def test_folder_has_two_classes_in_three_splits(tmp_path: Path) -> None:
    paths = draw("folder", tmp_path, num_images=50).rglob("*.jpg")
    counts = collections.Counter(path.relative_to(tmp_path).parts[:2] for path in paths)
    classes = sorted({name for _, name in counts})
    assert len(classes) == 2
    sizes = {"train": 15, "valid": 5, "test": 5}
    assert counts == {(split, name): size for split, size in sizes.items() for name in classes}


def test_bald_head_is_skin_where_others_have_hair() -> None:
    for number in range(20):
        bald, hairy = ["Male", "Bald", "Black_Hair"], ["Male", "Black_Hair"]
        assert patch(bald, number, v=-1.1).mean() > 60, number
        assert patch(hairy, number, v=-1.1).mean() < 60, number


def test_mustache_is_darker_than_the_lip_it_covers() -> None:
    for number in range(20):
        with_it, without = (patch(["Male", "Black_Hair", *more], number, v=0.77) for more in (["Mustache"], []))
        assert with_it.mean() < 0.8 * without.mean(), number


def test_pale_skin_is_brighter_in_every_channel_than_any_other_skin() -> None:
    pale = [patch(["Black_Hair", "Pale_Skin"], number, v=-0.45).min() for number in range(30)]
    others = [patch(["Black_Hair"], number, v=-0.45).min() for number in range(30)]
    assert min(pale) > max(others)


def test_gray_hair_has_no_colour_and_is_bright() -> None:
    for number in range(20):
        crown = patch(["Male", "Gray_Hair"], number, v=-1.1)
        assert np.ptp(crown) < 40, number
        assert crown.mean() > 110, number


@pytest.mark.parametrize("num_images", [50, 200, 257, 1000])
def test_celeba_rarest_four_are_in_order_and_clearly_rarer_than_the_rest(num_images: int) -> None:
    names = load_dataset("celeba").attributes
    for seed in range(30):
        counts = dict(zip(names, synthetic.celeba_labels(num_images, seed).sum(axis=0).tolist(), strict=True))
        rare = [counts.pop(name) for name in RAREST]
        assert rare == sorted(set(rare)), seed
        assert min(counts.values()) >= max(0.18 * num_images, rare[-1] + 1), seed


def test_celeba_labels_do_not_contradict_each_other() -> None:
    labels = dict(zip(load_dataset("celeba").attributes, synthetic.celeba_labels(500, 0).T, strict=True))
    colours = sum(labels[name].astype(int) for name in drawing.HAIR_RGB)
    assert np.max(colours) == 1
    assert not (labels["Wearing_Hat"] & (labels["Bald"] | labels["Gray_Hair"])).any()
    assert not ((labels["Bald"] | labels["Mustache"]) & ~labels["Male"]).any()
    assert sum(np.add.reduce([labels[name].astype(int) for name in RAREST]) == 2) == 15


def test_person_keeps_face_and_colours_over_the_years() -> None:
    young, older = (
        synthetic.somebody(np.random.default_rng(5), age_years=age, male=True, smiling=age > 30) for age in (25, 35)
    )
    kept = ("hair", "hair_rgb", "skin_rgb", "eye_rgb", "jaw", "eyes", "nose", "mouth")
    assert [getattr(young, name) for name in kept] == [getattr(older, name) for name in kept]


@pytest.mark.parametrize("name", sorted(synthetic.DATASETS))
def test_every_description_reads_what_is_drawn(tmp_path: Path, name: str) -> None:
    synthetic.draw(name, tmp_path, num_images=44)
    description = load_dataset(name)
    found = index_dataset(description, open_source(str(tmp_path)))
    extra = {"utkface": 2}.get(name, 0)  # two files stand there twice
    assert len(found.table) == 44 + extra
    assert len(found.unparsed) == {"utkface": 2}.get(name, 0)
    sets = {"appa_real": {"images of another set, images face": 44}}
    assert bool(found.left_out) if name == "simpsons" else found.left_out == sets.get(name, {})
    unknown = {"appa_real": {"gender", "race", "makeup", "time", "happiness"}, "fairface": {"race"}}.get(name, set())
    unknown |= {label for label, facts in description.labels.items() if facts.optional and name == "cacd"}
    for label in set(description.all_labels) - unknown:
        assert found.table[label].null_count == 0


def test_drawing_that_was_interrupted_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert synthetic.num_drawn(tmp_path) == 0
    write, left = synthetic.write, iter(range(3))

    def interrupted(path: Path, image_hwc: NDArray[np.uint8]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(path, image_hwc)

    monkeypatch.setattr(synthetic, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw("celeba", tmp_path / "celeba")
    assert synthetic.num_drawn(tmp_path / "celeba") == 0
    monkeypatch.undo()
    assert synthetic.num_drawn(draw("celeba", tmp_path / "celeba")) == 40
