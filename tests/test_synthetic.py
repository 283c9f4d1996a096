"""Drawn datasets look as published on disk, can be drawn again, and show what their labels say."""

from pathlib import Path

import numpy as np
import pytest
from conftest import digests

from facepack import dataset, drawing, image, synthetic
from facepack.errors import UsageError
from facepack.index import index
from facepack.storage import open_source


@pytest.mark.parametrize("name", sorted(synthetic.DATASETS))
def test_every_description_reads_what_is_drawn(tmp_path: Path, name: str) -> None:
    synthetic.draw(name, tmp_path, num_images=44)
    description = dataset.load(name)
    found = index(description, open_source(str(tmp_path)))
    extra = {"utkface": 2}.get(name, 0)  # two files stand there twice
    assert len(found.table) == 44 + extra
    assert len(found.unparsed) == {"utkface": 2}.get(name, 0)
    assert bool(found.left_out) == (name == "simpsons")
    unknown = {"appa_real": {"gender", "race", "makeup", "time", "happiness"}, "fairface": {"race"}}.get(name, set())
    for label in set(description.all_labels) - unknown:
        assert found.table[label].null_count == 0


@pytest.mark.parametrize("name", sorted(synthetic.DATASETS))
def test_drawing_again_gives_the_same_files_and_another_seed_does_not(tmp_path: Path, name: str) -> None:
    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        synthetic.draw(name, tmp_path / folder, num_images=20, seed=seed)
    assert digests(tmp_path / "first") == digests(tmp_path / "again")
    assert digests(tmp_path / "first") != digests(tmp_path / "other")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_images", [200, 1000, 2000])
def test_rarest_four_attributes_are_those_of_the_real_celeba(num_images: int, seed: int) -> None:
    names = dataset.load("celeba").attributes
    counts = synthetic.celeba_labels(num_images, seed).sum(axis=0)
    ascending = [names[number] for number in np.argsort(counts, kind="stable")[:4]]
    assert ascending == ["Bald", "Mustache", "Gray_Hair", "Pale_Skin"]


def test_celeba_labels_are_written_as_the_official_files(tmp_path: Path) -> None:
    synthetic.draw("celeba", tmp_path, num_images=12)
    lines = (tmp_path / "list_attr_celeba.txt").read_bytes().decode().split("\r\n")
    assert lines[0] == "12"
    assert lines[1] == " ".join(dataset.load("celeba").attributes) + " "
    assert lines[2].startswith("000001.jpg ")
    assert set(lines[2][10:]) <= set(" -1")
    assert len(lines[2]) == len("000001.jpg") + 40 * 3
    assert (tmp_path / "list_eval_partition.txt").read_bytes().startswith(b"000001.jpg 0\r\n000002.jpg 0\r\n")
    content = (tmp_path / "img_align_celeba" / "000012.jpg").read_bytes()
    assert image.decode(content).shape == (218, 178, 3)


def test_no_person_is_in_two_partitions(tmp_path: Path) -> None:
    synthetic.draw("celeba", tmp_path, num_images=200)
    table = index(dataset.load("celeba"), open_source(str(tmp_path))).table
    pairs = table.group_by("identity").aggregate([("official_split", "count_distinct")])
    assert set(pairs["official_split_count_distinct"].to_pylist()) == {1}
    assert set(table["official_split"].to_pylist()) == {"train", "valid", "test"}


def test_cacd_names_have_accents_apostrophes_and_hyphens() -> None:
    whole = "".join(synthetic.CACD_NAMES)
    assert "'" in whole
    assert "-" in whole
    assert not whole.isascii()


def test_pale_skin_is_paler_than_any_other_in_any_light() -> None:
    def cheek(traits: list[str], number: int) -> float:
        face = synthetic.portrait(drawing.rng_of(3, "cheek", number), traits)
        return float(face[105:115, 75:103].mean())

    pale = [cheek(["Pale_Skin"], number) for number in range(40)]
    other = [cheek([], number) for number in range(40)]
    assert np.mean(pale) - np.mean(other) > 50
    assert np.sort(pale)[4] > np.sort(other)[35]


def test_hair_of_another_colour_shows_in_the_picture() -> None:
    def crown(trait: str, number: int) -> float:
        face = synthetic.portrait(drawing.rng_of(4, "crown", number), [trait])
        return float(face[32:44, 70:108].mean())

    gray, black = ([crown(trait, number) for number in range(20)] for trait in ("Gray_Hair", "Black_Hair"))
    assert min(gray) > max(black)


def test_unknown_dataset_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean celeba"):
        synthetic.draw("celebs", tmp_path, num_images=1)
