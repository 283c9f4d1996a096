"""People are told apart by their descriptors, and keep to one split when a build goes by them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import make
from test_describing import HERE, built

from facepack import descriptors, manifest, preview
from facepack import people as people_of_build
from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.describing import describe
from facepack.drawn import synthetic
from facepack.errors import FieldError, JobError
from facepack.face_places import FaceStatus
from facepack.people import APART, apart_from_name, find_people, near_pairs, people_of, read_people
from facepack.reader import open_build
from facepack.storage import Store
from facepack.verification import verify

RNG = np.random.default_rng(0)


def faces(num_people: int, *, num_each: int, spread: float = 0.2) -> np.typing.NDArray[np.float32]:
    """Descriptors of people, as far from each other as strangers are, with several images each."""
    people = RNG.normal(size=(num_people, 1, 128)) * 0.9 / np.sqrt(2 * 128)
    images = people + RNG.normal(size=(num_people, num_each, 128)) * spread / np.sqrt(128)
    flat: np.typing.NDArray[np.float32] = images.reshape(-1, 128).astype(np.float32)
    return flat


@pytest.mark.parametrize(("num_people", "num_each"), [(300, 1), (100, 3), (12, 60), (1, 40), (1, 1), (0, 1)])
def test_people_are_told_apart_however_many_images_each_has(num_people: int, num_each: int) -> None:
    numbers = people_of(faces(num_people, num_each=num_each))
    assert numbers.tolist() == np.repeat(np.arange(num_people), num_each).tolist()


def test_person_of_most_images_is_the_first() -> None:
    values = np.concatenate([faces(3, num_each=1), faces(1, num_each=4), faces(1, num_each=2)])
    assert people_of(values).tolist() == [2, 3, 4, 0, 0, 0, 0, 1, 1]


def test_people_do_not_depend_on_how_many_rows_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = faces(40, num_each=3)
    pairs, _ = near_pairs(values)
    assert len(pairs.rows) == 40 * 3
    monkeypatch.setattr(people_of_build, "ROWS_AT_ONCE", 7)
    assert near_pairs(values)[0].rows.tolist() == pairs.rows.tolist()
    assert people_of(values).tolist() == np.repeat(np.arange(40), 3).tolist()


def test_many_connected_images_fall_apart_by_nearer_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_of_build, "MOST_TOGETHER", 8)
    values = np.concatenate([faces(1, num_each=6)] * 2 + [faces(1, num_each=6)])
    values[6:12] += 0.03  # two people that near pairs connect
    assert people_of(values).tolist()[12:] == [people_of(values)[12]] * 6


def test_photo_of_somebody_else_is_apart_from_its_name() -> None:
    values = faces(4, num_each=5)
    names = np.repeat([7, 3, -1, 9], 5)
    names[15:18] = 11  # two photos are left of 9, and three of 11
    values[2] = faces(1, num_each=1)[0]
    apart = apart_from_name(values, names)
    assert np.flatnonzero(apart > APART).tolist() == [2]
    assert np.flatnonzero(np.isnan(apart)).tolist() == [10, 11, 12, 13, 14, 18, 19]


# A build


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A build of twelve photos, described: three photos each of two people, and six of others."""
    folder = tmp_path_factory.mktemp("cacd")
    synthetic.draw("cacd", folder / "source", num_images=12)
    location = built(folder / "source", folder / "build")
    describe(location, how=HERE)
    table = manifest.read_table(Store(location), descriptors.FILE)
    people = np.concatenate([np.repeat(faces(2, num_each=1), 3, axis=0), faces(6, num_each=1)])
    column = descriptors.as_column(people, np.ones(12, bool))
    place = table.column_names.index("descriptor")
    manifest.write_table(Store(location), descriptors.FILE, table=table.set_column(place, "descriptor", column))
    return location


def test_people_of_a_build_are_in_a_table_beside_its_manifest(described: str) -> None:
    outcome = find_people(described)
    assert (outcome.num_images, outcome.num_people, outcome.num_of_several) == (12, 8, 2)
    table = read_people(described)
    assert table["person"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7]
    by_key = {row["key"]: row["source"] for row in open_build(described).table.to_pylist()}
    assert [by_key[key] for key in table["key"].to_pylist()] == table["source"].to_pylist()
    splits = dict(zip(*(open_build(described).table[name].to_pylist() for name in ("key", "split")), strict=True))
    leaking = [{splits[key] for key in table["key"].to_pylist()[start : start + 3]} for start in (0, 3)]
    assert outcome.num_leaking == sum(len(several) > 1 for several in leaking)
    assert verify(described).problems == ()


def test_build_by_people_keeps_them_in_one_split(described: str, tmp_path: Path) -> None:
    find_people(described)
    source = str(Path(described).parent / "source")
    place = Place(source, str(tmp_path / "build"), workers=0, people=f"{described}/{people_of_build.FILE}")
    made = build(Configuration.of("cacd", split="identity:34/33/33"), place=place).build
    table = open_build(place.out).table
    splits = {person: set() for person in range(8)}  # type: dict[int, set[str]]
    for row in table.to_pylist():
        splits[row["person"]].add(row["split"])
    assert all(len(of_person) == 1 for of_person in splits.values())
    assert len(made.counts) > 1
    assert made.configuration.people
    assert verify(place.out).problems == ()
    again = build(Configuration.of("cacd", split="identity:34/33/33"), place=place)
    assert again.num_images == 0


def test_image_without_a_person_is_taken_for_one_of_its_own(described: str, tmp_path: Path) -> None:
    find_people(described)
    table = read_people(described).slice(0, 10)
    manifest.write_table(Store(str(tmp_path)), "some.parquet", table=table)
    source = str(Path(described).parent / "source")
    place = Place(source, str(tmp_path / "build"), workers=0, people=str(tmp_path / "some.parquet"))
    build(Configuration.of("cacd", split="identity"), place=place)
    people = open_build(place.out).table["person"].to_pylist()
    assert sorted(people) == [0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7]


def test_another_table_of_people_is_another_build(described: str, tmp_path: Path) -> None:
    find_people(described)
    source, file = str(Path(described).parent / "source"), tmp_path / "people.parquet"
    manifest.write_table(Store(str(tmp_path)), file.name, table=read_people(described))
    place = Place(source, str(tmp_path / "build"), workers=0, people=str(file))
    build(Configuration.of("cacd", split="identity"), place=place)
    manifest.write_table(Store(str(tmp_path)), file.name, table=read_people(described).slice(1))
    with pytest.raises(JobError, match=r"people: [0-9a-f]{64} there, [0-9a-f]{64} here"):
        build(Configuration.of("cacd", split="identity"), place=place)
    with pytest.raises(FieldError, match=r"expected the people.parquet that facepack people writes"):
        build(Configuration.of("cacd"), place=Place(source, place.out, people=f"{described}/nothing.parquet"))


def test_preview_shows_people_in_several_splits_side_by_side(described: str) -> None:
    outcome = find_people(described)
    page = preview.of_build(described)
    section = page.people
    assert section is not None
    assert (section.num_images, section.num_people, section.num_leaking) == (12, 8, outcome.num_leaking)
    assert section.faces == [(12, FaceStatus.DETECTED.meaning)]
    assert [len(group.pictures) for group in section.leaking] == [3] * outcome.num_leaking
    assert section.num_apart == outcome.num_apart
    assert f"In more than one split: {outcome.num_leaking}" in preview.html(page)


def test_preview_of_a_build_without_people_has_no_section(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", limit=10)
    assert preview.of_build(str(tmp_path / "build")).people is None


def test_build_that_is_not_described_is_refused(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", limit=10)
    with pytest.raises(JobError, match=r"no descriptors.parquet; facepack describe"):
        find_people(str(tmp_path / "build"))
    with pytest.raises(JobError, match=r"no people.parquet; facepack people"):
        read_people(str(tmp_path / "build"))


def test_people_of_another_build_are_named(described: str, tmp_path: Path) -> None:
    find_people(described)
    location = built(Path(described).parent / "source", tmp_path / "build", seed=1)
    Store(location).write(people_of_build.FILE, Path(described, people_of_build.FILE).read_bytes())
    with pytest.raises(JobError, match=r"people.parquet: of other images than are in the build now"):
        read_people(location)
    metadata = json.loads(pa.parquet.read_schema(Path(location, people_of_build.FILE)).metadata[b"facepack"])
    assert metadata["near"] == people_of_build.NEAR
