"""The promises of a build, each on real bytes; those that workers could break on a real Ray, too."""

import getpass
import hashlib
import json
import platform
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import digests, make

from facepack import image, manifest
from facepack.builder import Place, build, planned
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from facepack.errors import FieldError, JobError
from facepack.manifest import Status, read_build
from facepack.ray_driver import GROUP_IMAGES, in_groups
from facepack.ray_options import RayOptions
from facepack.storage import Store
from facepack.verification import verify
from facepack.workers import SilentProgress


def table_of(build: Path) -> pa.Table:
    return manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)


def statuses(build: Path) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in table_of(build)["status"].value_counts().to_pylist()}


@pytest.fixture(scope="module")
def reference(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build in one process, without Ray, that all others must equal."""
    out = tmp_path_factory.mktemp("reference") / "build"
    make(celeba, out)
    return out


@pytest.fixture
def spoilt(celeba: Path, tmp_path: Path) -> Path:
    """A CelebA in which every kind of bad file occurs once, or twice, among the images of the four classes."""
    source = tmp_path / "spoilt"
    shutil.copytree(celeba, source)
    make(source, tmp_path / "whole")
    chosen = sorted(table_of(tmp_path / "whole")["source"].to_pylist())
    sound = (source / chosen[0]).read_bytes()
    (source / chosen[1]).unlink()
    (source / chosen[2]).write_bytes(sound[: len(sound) // 2])
    (source / chosen[3]).write_text("version https://example.org/pointer")
    (source / chosen[4]).write_bytes(b"")
    (source / chosen[5]).write_bytes(image.encode_jpeg(np.zeros((3, 200, 3), np.uint8), quality=90))
    broken = bytearray(sound)
    at = broken.index(b"\xff\xc4")
    broken[at + 4 : at + 24] = b"\xff" * 20
    (source / chosen[6]).write_bytes(broken)
    header = sound.index(b"\xff\xc0")
    large = bytearray(sound)
    large[header + 5 : header + 9] = (30_000).to_bytes(2) * 2
    (source / chosen[7]).write_bytes(large)
    (source / chosen[8]).unlink()
    (source / chosen[8]).mkdir()
    return source


# Promise 1


def test_every_chosen_source_has_one_row_and_one_status(spoilt: Path, tmp_path: Path) -> None:
    whole = table_of(tmp_path / "whole")
    made = make(spoilt, tmp_path / "build").build
    table = table_of(tmp_path / "build")
    assert sorted(table["source"].to_pylist()) == sorted(whole["source"].to_pylist())
    assert len(set(table["key"].to_pylist())) == len(whole)
    assert statuses(tmp_path / "build") == {
        Status.PACKED: len(whole) - 8,
        Status.MISSING: 2,
        Status.TRUNCATED: 1,
        Status.NOT_AN_IMAGE: 2,
        Status.TOO_SMALL: 1,
        Status.UNREADABLE: 1,
        Status.TOO_LARGE: 1,
    }
    assert manifest.total(made.counts) == len(whole)
    rejected = table.filter(pc.not_equal(table["status"], Status.PACKED))
    assert rejected["shard"].null_count == len(rejected)


def test_key_is_that_of_dataset_and_path(reference: Path) -> None:
    for row in table_of(reference).to_pylist():
        assert row["key"] == hashlib.sha256(f"celeba/{row['source']}".encode()).hexdigest()[:16]


def test_image_that_shares_its_bytes_with_another_is_a_duplicate(tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "src", num_images=30)
    photos = sorted((tmp_path / "src").rglob("*.jpg"))
    before = statuses_of_utkface(tmp_path, "before")
    twin = photos[0].with_name("99_0_0_20170110000000000.jpg.chip.jpg")
    shutil.copy(photos[0], twin)
    after = statuses_of_utkface(tmp_path, "after")
    assert after[Status.DUPLICATE] == before.get(Status.DUPLICATE, 0) + 1
    assert after[Status.PACKED] == before[Status.PACKED]


def statuses_of_utkface(folder: Path, name: str) -> dict[str, int]:
    make(folder / "src", folder / name, dataset="utkface", classes="")
    return statuses(folder / name)


# Promise 2


@pytest.mark.parametrize(
    "workers", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_any_number_of_workers_gives_the_same_bytes(
    celeba: Path, tmp_path: Path, reference: Path, workers: int
) -> None:
    make(celeba, tmp_path / "build", workers=workers)
    assert digests(tmp_path / "build") == digests(reference)


@pytest.mark.slow
def test_bad_files_give_the_same_bytes_on_ray(spoilt: Path, tmp_path: Path) -> None:
    make(spoilt, tmp_path / "one")
    made = make(spoilt, tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert manifest.total(made.build.counts, statuses=[Status.NOT_AN_IMAGE]) == 2


@pytest.mark.slow
def test_what_a_ray_worker_cannot_write_ends_the_build(celeba: Path, tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "build"
    (out / "train-00001.tar").mkdir(parents=True)
    with pytest.raises(OSError, match=r"train-00001\.tar"):
        make(celeba, out, workers=2)
    assert not (out / "build.json").exists()
    (out / "train-00001.tar").rmdir()
    make(celeba, out, workers=2)
    assert digests(out) == digests(reference)


def test_zip_gives_the_same_bytes_as_the_folder(celeba: Path, tmp_path: Path, reference: Path) -> None:
    archive = tmp_path / "celeba.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(celeba.rglob("*"), reverse=True):
            opened.write(path, path.relative_to(celeba))
    make(archive, tmp_path / "build")
    assert digests(tmp_path / "build") == digests(reference)


def test_images_left_in_their_archive_give_the_same_bytes(celeba: Path, tmp_path: Path, reference: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in celeba.glob("*.txt"):
        shutil.copy(path, source)
    shutil.make_archive(str(source / "img_align_celeba"), "zip", celeba, "img_align_celeba")
    make(source, tmp_path / "build")
    assert digests(tmp_path / "build") == digests(reference)


def test_nothing_in_a_build_tells_when_where_or_by_whom(reference: Path, celeba: Path) -> None:
    for path in reference.iterdir():
        content = path.read_bytes()
        for word in (str(celeba), str(reference), f'"{platform.node()}"', f'"{getpass.getuser()}"'):
            assert word.encode() not in content, f"{word} in {path.name}"


# Promise 4


def test_build_that_is_complete_is_left_alone(celeba: Path, tmp_path: Path) -> None:
    out = tmp_path / "build"
    make(celeba, out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert make(celeba, out).num_images == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times


@pytest.mark.parametrize("lost", ["train-00001.tar", "train-00001.idx", "train-00001.parquet"])
def test_only_the_shard_that_lost_a_file_is_made_again(
    celeba: Path, tmp_path: Path, reference: Path, lost: str
) -> None:
    out = tmp_path / "build"
    shutil.copytree(reference, out)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if path.stem != "train-00001"}
    (out / lost).unlink()
    (out / "build.json").unlink()
    outcome = make(celeba, out)
    assert outcome.num_images <= 40
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if path.stem != "train-00001"} == kept
    assert digests(out) == digests(reference)


def test_rejected_images_are_tried_again_when_their_source_changed(spoilt: Path, tmp_path: Path) -> None:
    out = tmp_path / "build"
    make(spoilt, out)
    rejected = [row for row in table_of(out).to_pylist() if row["status"] == Status.TRUNCATED]
    again = make(spoilt, out)
    assert again.num_images == 0
    (spoilt / rejected[0]["source"]).write_bytes((spoilt / table_of(out)["source"][0].as_py()).read_bytes())
    mended = make(spoilt, out)
    assert 0 < mended.num_images <= 40
    assert Status.TRUNCATED not in statuses(out)
    make(spoilt, tmp_path / "anew")
    assert digests(out) == digests(tmp_path / "anew")


def test_missing_images_that_came_are_packed(spoilt: Path, celeba: Path, tmp_path: Path) -> None:
    out = tmp_path / "build"
    make(spoilt, out)
    for row in table_of(out).to_pylist():
        if row["status"] == Status.MISSING:
            path = spoilt / row["source"]
            if path.is_dir():
                path.rmdir()
            shutil.copy(celeba / row["source"], path)
    make(spoilt, out)
    assert Status.MISSING not in statuses(out)
    make(spoilt, tmp_path / "anew")
    assert digests(out) == digests(tmp_path / "anew")


def test_force_tries_every_rejected_image_again(spoilt: Path, tmp_path: Path) -> None:
    make(spoilt, tmp_path / "build")
    before = digests(tmp_path / "build")
    assert make(spoilt, tmp_path / "build", force=True).num_images > 0
    assert digests(tmp_path / "build") == before


def test_changed_labels_change_the_build(celeba: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "build"
    shutil.copytree(celeba, source)
    make(source, out)
    (source / "identity_CelebA.txt").write_text(
        (source / "identity_CelebA.txt").read_text().replace("000001.jpg ", "000001.jpg 77")
    )
    make(source, out)
    make(source, tmp_path / "anew")
    assert digests(out) == digests(tmp_path / "anew")


def test_changed_label_of_a_missing_image_changes_the_manifest(celeba: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "build"
    shutil.copytree(celeba, source)
    make(source, out, classes="")
    (source / "img_align_celeba" / "000007.jpg").unlink()
    make(source, out, classes="")
    path = source / "identity_CelebA.txt"
    path.write_text(path.read_text().replace("000007.jpg ", "000007.jpg 7"))
    assert make(source, out, classes="").num_images == 0
    make(source, tmp_path / "anew", classes="")
    assert digests(out) == digests(tmp_path / "anew")


def test_damaged_table_of_a_shard_is_made_again(celeba: Path, tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "build"
    shutil.copytree(reference, out)
    (out / "build.json").unlink()
    for name, keep in (("train-00000.parquet", 100), ("train-00001.idx", 50)):
        (out / name).write_bytes((out / name).read_bytes()[:keep])
    assert 0 < make(celeba, out).num_images <= 80
    assert digests(out) == digests(reference)


# Promise 5


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"size": "48"}, "size: 32 there, 48 here"),
        ({"classes": "rarest3"}, "classes: rarest4 there, rarest3 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"encoding": "raw"}, "encoding: jpeg there, raw here"),
    ],
)
def test_other_configuration_is_refused_and_nothing_touched(
    celeba: Path, tmp_path: Path, reference: Path, choice: dict[str, Any], expected: str
) -> None:
    whole, partial = tmp_path / "whole", tmp_path / "partial"
    for out in (whole, partial):
        shutil.copytree(reference, out)
    (partial / "build.json").unlink()
    (partial / "manifest.parquet").unlink()
    for out in (whole, partial):
        before = digests(out)
        with pytest.raises(JobError, match=expected):
            make(celeba, out, **choice)
        assert digests(out) == before


def test_shards_of_somebody_else_are_refused_and_not_touched(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "train-extras").mkdir()
    for name in ("train-00000.tar", "train-00099.tar", "train-data.parquet", "train-extras/x.tar"):
        (tmp_path / name).write_bytes(b"theirs")
    before = digests(tmp_path)
    with pytest.raises(JobError, match="holds other files"):
        make(celeba, tmp_path)
    assert digests(tmp_path) == before


def test_folder_with_other_files_is_refused_and_nothing_touched(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(JobError, match=r"holds other files, such as thesis\.txt"):
        make(celeba, tmp_path)
    assert digests(tmp_path).keys() == {"thesis.txt"}


# Promise 7


def test_identity_split_keeps_people_apart_and_leaks_are_counted(
    celeba: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(celeba, tmp_path / "apart", split="identity")
    assert "more than one split" not in caplog.text
    assert leaking(tmp_path / "apart") == 0
    make(celeba, tmp_path / "mixed", split="80/10/10")
    number = leaking(tmp_path / "mixed")
    assert number > 0
    assert f"{number:,} people are in more than one split" in caplog.text


def leaking(build: Path) -> int:
    splits: dict[int, set[str]] = {}
    for row in table_of(build).to_pylist():
        splits.setdefault(row["identity"], set()).add(row["split"])
    return sum(len(names) > 1 for names in splits.values())


# Promise 8


def test_samples_are_stored_in_shuffled_order(reference: Path) -> None:
    table = table_of(reference)
    train = table.filter(pc.equal(table["split"], "train"))
    numbers = np.array([int(Path(source).stem) for source in train["source"].to_pylist()])
    ranks = numbers.argsort().argsort()
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.2
    classes = train["class"].to_pylist()
    changes = sum(first != second for first, second in pairwise(classes))
    assert changes > len(classes) / 2


# What a build says of itself


def test_build_json_says_what_was_built(reference: Path) -> None:
    made = manifest.read_build(str(reference))
    table = table_of(reference)
    assert made.class_names == ["Bald", "Mustache", "Gray_Hair", "Pale_Skin"]
    assert made.counts == manifest.count(table)
    assert [shard.num_samples for shard in made.shards] == [
        len(table.filter(pc.equal(table["shard"], shard.name))) for shard in made.shards
    ]
    for shard in made.shards:
        content = (reference / shard.name).read_bytes()
        assert (shard.num_bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest.metadata_of(table)["class_names"] == made.class_names
    assert made.versions.keys() == {
        "dlib-bin",
        "facepack",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "pillow-heif",
        "pyarrow",
        "simplejpeg",
    }


def test_mean_and_std_are_those_of_the_train_split(celeba: Path, tmp_path: Path) -> None:
    made = make(celeba, tmp_path / "build", encoding="raw").build
    table = table_of(tmp_path / "build")
    pixels = []
    for row in table.filter(pc.equal(table["split"], "train")).to_pylist():
        content = (tmp_path / "build" / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        pixels.append(image.decode_raw(content).reshape(-1, 3) / 255)
    rows = np.concatenate(pixels)
    assert np.allclose(made.mean or [], rows.mean(0), atol=1e-6)
    assert np.allclose(made.std or [], rows.std(0), atol=1e-6)


def test_columns_have_the_types_of_the_contract(reference: Path) -> None:
    schema = table_of(reference).schema
    for field in manifest.OWN_COLUMNS:
        assert schema.field(field.name).type == field.type
    assert schema.field("Bald").type == pa.int8()
    assert schema.field("identity").type == pa.int32()


def test_sound_jpeg_keeps_its_bytes_where_nothing_is_to_change(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", size="keep")
    for row in table_of(tmp_path / "build").to_pylist():
        assert row["sha256"] == row["source_sha256"]
        assert (row["width"], row["height"]) == (178, 218)


def test_one_size_written_in_two_ways_is_one_configuration(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", size="32x32", limit=20)
    assert make(celeba, tmp_path / "build", size="32", limit=20).num_images == 0


def test_relative_places_mean_the_same_to_workers_elsewhere(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("build")
    monkeypatch.chdir(celeba)
    store.make()
    store.write("x", b"here")
    assert (tmp_path / "build" / "x").read_bytes() == b"here"


def test_size_may_differ_in_width_and_height(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", size="40x24", limit=20)
    table = table_of(tmp_path / "build")
    assert set(table["width"].to_pylist()) == {40}
    assert set(table["height"].to_pylist()) == {24}
    assert len(table) == 20


# Bad input


@pytest.mark.parametrize("spoil", ["gone", "bad"])
def test_class_without_a_photo_is_named_and_the_others_are_packed(
    celeba: Path, tmp_path: Path, reference: Path, caplog: pytest.LogCaptureFixture, spoil: str
) -> None:
    source, out = tmp_path / "source", tmp_path / "build"
    shutil.copytree(celeba, source)
    of_class = [row["source"] for row in table_of(reference).to_pylist() if row["class"] == "Mustache"]
    for path in of_class:
        (source / path).unlink()
        if spoil == "bad":
            (source / path).write_text("no image")
    status = {"gone": "missing", "bad": "not_an_image"}[spoil]
    made = make(source, out).build
    line = f"1 of 4 classes have no packed photo: Mustache ({len(of_class)} {status})"
    assert line in caplog.messages
    assert made.class_names == read_build(str(reference)).class_names
    assert manifest.total(made.counts, class_name="Mustache") == len(of_class)
    assert verify(out).problems == ()
    before = digests(out)
    caplog.clear()
    assert make(source, out).num_images == 0
    assert line in caplog.messages
    with pytest.raises(JobError, match=r"holds another build \(classes: rarest4 there, rarest3 here\)"):
        make(source, out, classes="rarest3")
    assert digests(out) == before


def test_limit_that_leaves_a_class_out_says_so(celeba: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make(celeba, tmp_path / "build", limit=2).build
    assert len(made.class_names) == 4
    empty = [name for name in made.class_names if not manifest.total(made.counts, class_name=name)]
    first = ", ".join(f"{name} (no rows)" for name in empty)
    assert f"{len(empty)} of 4 classes have no packed photo: {first}" in caplog.messages


def test_build_that_packs_nothing_counts_the_reasons_and_leaves_its_place_free(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "src" / f"class{number}" / "a.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no image" * number)
    with pytest.raises(JobError, match=r"none of 3 images can be packed: 3 not_an_image$"):
        make(tmp_path / "src", tmp_path / "build", dataset="folder", classes="")
    assert digests(tmp_path / "build") == {}
    path.write_bytes(image.encode_jpeg(np.zeros((32, 32, 3), np.uint8), quality=90))
    made = make(tmp_path / "src", tmp_path / "build", dataset="folder", classes="", size="16").build
    assert manifest.total(made.counts, statuses=[Status.PACKED]) == 1


def test_build_that_stops_before_anything_is_packed_leaves_its_place_free(celeba: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "build"
    shutil.copytree(celeba, source)
    for photo in (source / "img_align_celeba").iterdir():
        photo.write_bytes(b"no image")

    class Stopped(SilentProgress):
        def advance(self, num_images: int, num_rejects: int) -> None:
            if num_images == num_rejects and any(out.glob("*.parquet")):
                raise KeyboardInterrupt

    configuration = Configuration.of("celeba", classes="rarest4", size=32, samples_per_shard=10)
    with pytest.raises(KeyboardInterrupt):
        build(configuration, place=Place(str(source), str(out), workers=0), progress=Stopped())
    assert digests(out) == {}
    assert make(celeba, out, size="16").num_images > 0


def test_least_number_of_rows_of_a_class_is_recorded_with_what_it_leaves_out(
    celeba: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: Path
) -> None:
    counts = read_build(str(reference)).counts
    sizes = {name: manifest.total(counts, class_name=name) for name in read_build(str(reference)).class_names}
    smallest = min(sizes, key=sizes.__getitem__)
    least = sizes[smallest] + 1
    kept = [name for name in sizes if sizes[name] >= least]
    made = make(celeba, tmp_path / "build", min_per_class=least).build
    left_out = sum(size for size in sizes.values() if size < least)
    assert made.class_names == kept
    assert made.left_out[f"of a class of fewer than {least} rows"] == left_out
    assert any(smallest in line and f"fewer than {least} rows" in line for line in caplog.messages)
    assert verify(tmp_path / "build").problems == ()


def test_build_of_other_photos_is_not_overwritten(tmp_path: Path) -> None:
    """Builds of two folders have the same configuration, and by default the same place."""
    for name in ("family", "friends"):
        (tmp_path / name / "me").mkdir(parents=True)
        for number in range(3):
            pixels = np.full((40, 40, 3), 60 * number, np.uint8)
            (tmp_path / name / "me" / f"{name}{number}.jpg").write_bytes(image.encode_jpeg(pixels, quality=90))
    out = tmp_path / "build"
    make(tmp_path / "family", out, dataset="folder", classes="")
    before = digests(out)
    with pytest.raises(JobError, match="holds a build of other images; choose another --out"):
        make(tmp_path / "friends", out, dataset="folder", classes="")
    assert digests(out) == before
    (tmp_path / "family" / "me" / "family0.jpg").unlink()
    assert make(tmp_path / "family", out, dataset="folder", classes="").num_images == 2


class TakenOver(SilentProgress):
    """Somebody else takes a place over while the second shard is packed."""

    def __init__(self, out: Path, theirs: list[Path]) -> None:
        super().__init__()
        self.out, self.theirs, self.num_calls = out, theirs, 0

    def advance(self, num_images: int, num_rejects: int) -> None:
        super().advance(num_images, num_rejects)
        self.num_calls += 1
        if self.num_calls == 2:
            (self.out / "build.lock").write_text('{"token": "another"}')
            for path in self.theirs:
                path.write_bytes(b"theirs")


def test_build_that_lost_its_place_leaves_alone_what_is_there(celeba: Path, tmp_path: Path) -> None:
    """As after a long sleep of this machine: whoever took over has unfinished files of its own."""
    out = tmp_path / "build"
    theirs = [out / ".train-00000.tar.0123abcd.partial", out / "train-00002.tar"]
    configuration = Configuration.of("celeba", classes="rarest4", size=32, samples_per_shard=40)
    with pytest.raises(JobError, match="another build took this place over"):
        build(configuration, place=Place(str(celeba), str(out), workers=0), progress=TakenOver(out, theirs))
    assert [path.read_bytes() for path in theirs] == [b"theirs"] * 2
    assert not (out / "build.json").exists()


class Counted(SilentProgress):
    """Remembers all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def expect(self, num_images: int) -> None:
        self.calls.append(("expect", num_images))

    def advance(self, num_images: int, num_rejects: int) -> None:
        super().advance(num_images, num_rejects)
        self.calls += [("done", num_images), ("rejected", num_rejects)]


def test_progress_hears_of_every_image(spoilt: Path, tmp_path: Path) -> None:
    progress = Counted()
    configuration = Configuration.of("celeba", classes="rarest4", size=32, samples_per_shard=40)
    place = Place(str(spoilt), str(tmp_path / "build"), workers=0)
    outcome = build(configuration, place=place, progress=progress)
    totals = {kind: sum(number for name, number in progress.calls if name == kind) for kind in ("done", "rejected")}
    assert progress.calls[0] == ("expect", outcome.num_images)
    missing = manifest.total(outcome.build.counts, statuses=[Status.MISSING])
    rejected = manifest.total(outcome.build.counts) - manifest.total(outcome.build.counts, statuses=[Status.PACKED])
    assert totals == {"done": outcome.num_images, "rejected": rejected - missing}
    assert 0 < outcome.packing_s == progress.seconds


def test_library_prints_nothing_and_logs_what_is_not_as_expected(
    celeba: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="facepack"):
        make(celeba, tmp_path / "build", split="80/10/10")
    assert capfd.readouterr() == ("", "")
    levels = {(record.name, record.levelname) for record in caplog.records}
    assert levels == {("facepack", "INFO"), ("facepack", "WARNING")}
    assert "rows are of no chosen class and left out" in caplog.text


def test_build_of_which_nothing_can_be_packed_leaves_no_folder_of_its_own(tmp_path: Path) -> None:
    source, theirs = tmp_path / "source", tmp_path / "theirs"
    source.mkdir()
    theirs.mkdir()
    for number in range(10):
        (source / f"{number}.jpg").write_text("no image")
    for out in (tmp_path / "builds" / "mine", theirs):
        with pytest.raises(JobError, match="none of 10 images can be packed"):
            make(source, out, dataset="folder", classes="none")
    assert not (tmp_path / "builds").exists()
    assert list(theirs.iterdir()) == []


def test_plan_alone_writes_nothing(celeba: Path, tmp_path: Path) -> None:
    configuration = Configuration.of("celeba", classes="rarest4", size=32, samples_per_shard=40)
    place = Place(str(celeba), str(tmp_path / "build"))
    prepared = planned(configuration, place=place)
    assert not (tmp_path / "build").exists()
    outcome = build(configuration, place=Place(place.src, place.out, workers=0))
    assert len(prepared.plan.table) == manifest.total(outcome.build.counts)
    assert outcome.build.plan_digest == prepared.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers -1: expected 0"),
        ({"workers": 0, "ray": RayOptions("auto")}, "ray_address auto: workers 0 packs in this process"),
    ],
)
def test_place_that_cannot_be_names_its_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Place("source", "out", **options)


def test_shard_of_rejects_alone_leaves_no_tar(celeba: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "build"
    shutil.copytree(celeba, source)
    make(source, tmp_path / "whole")
    bad = [row for row in table_of(tmp_path / "whole").to_pylist() if row["shard"] == "train-00000.tar"]
    for row in bad:
        (source / row["source"]).write_text("no image")
    made = make(source, out).build
    assert not (out / "train-00000.tar").exists()
    assert not (out / "train-00000.idx").exists()
    assert "train-00000.tar" not in [shard.name for shard in made.shards]
    assert statuses(out)[Status.NOT_AN_IMAGE] == len(bad)
    assert make(source, out).num_images == 0


def test_json_in_the_tar_is_for_people_too(reference: Path) -> None:
    row = table_of(reference).to_pylist()[0]
    content = (reference / row["shard"]).read_bytes()
    start = content.index(f"{row['key']}.json".encode()) + 512
    labels = json.loads(content[start : content.index(b"}", start) + 1])
    assert labels["source"] == row["source"]
    assert labels["class"] == row["class"]
    assert labels["Bald"] == row["Bald"]


@pytest.mark.parametrize("dataset", sorted(synthetic.DATASETS))
def test_every_dataset_builds_as_published(tmp_path: Path, dataset: str) -> None:
    synthetic.draw(dataset, tmp_path / "source", num_images=60)
    made = make(tmp_path / "source", tmp_path / "build", dataset=dataset, classes="", split="")
    assert manifest.total(made.build.counts, statuses=[Status.PACKED]) >= 55
    assert made.build.mean is not None


def test_small_shards_go_to_workers_together_and_none_is_lost() -> None:
    def sizes_of(sizes: list[int], num_workers: int) -> list[list[int]]:
        return [[sizes[number] for number in group] for group in in_groups(sizes, num_workers=num_workers)]

    assert sizes_of([20] * 2000, 2) == [[20] * (GROUP_IMAGES // 20)] * 80
    assert sizes_of([1000, 900, 1000], 2) == [[1000], [1000], [900]]
    assert sizes_of([20] * 30, 8) == [[20]] * 30
    numbers = [number for group in in_groups([5, 700, 9, 3] * 50, num_workers=3) for number in group]
    assert sorted(numbers) == list(range(200))
