"""Every packed image is described once, whatever interrupts it and wherever it runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import digests, make, use_s3

from facepack import describing, descriptors, lock, manifest
from facepack.align import Box, landmarks_file, predictor_of
from facepack.configuration import Configuration
from facepack.describing import How, describe
from facepack.drawn import synthetic
from facepack.errors import JobError
from facepack.face_places import FaceFinder, FaceStatus, Place, chip_of, usual_box
from facepack.reader import open_build
from facepack.storage import Store
from facepack.verification import verify
from facepack.workers import SilentProgress

HERE = How(workers=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn CACD of 12 photos."""
    folder = tmp_path_factory.mktemp("cacd")
    synthetic.draw("cacd", folder, num_images=12)
    return folder


def built(source: Path, out: Path | str, **choices: Any) -> str:
    choices = {"dataset": "cacd", "classes": "", "size": "keep", "samples_per_shard": 4, **choices}
    make(source, out, **choices)
    return str(out)


@pytest.fixture(scope="module")
def build(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A described build of several shards, not to be changed."""
    location = built(source, tmp_path_factory.mktemp("build") / "cacd")
    describe(location, how=HERE)
    return location


def table_of(location: str) -> pa.Table:
    return manifest.read_table(Store(location), descriptors.FILE)


def test_every_packed_image_has_a_row_in_the_order_of_the_shards(build: str) -> None:
    table, opened = table_of(build), open_build(build)
    assert table.schema.field("descriptor").type == pa.list_(pa.float32(), 128)
    assert sorted(table["key"].to_pylist()) == sorted(opened.packed.table["key"].to_pylist())
    assert opened.verify().problems == ()
    described = descriptors.read_descriptors(build)
    assert described.faces == {"detected": 12}
    assert described.values.shape == (12, 128)
    assert np.array_equal(described.values, np.round(described.values * 4096) / 4096)


def test_same_command_again_does_nothing(build: str) -> None:
    before = digests(Path(build))
    outcome = describe(build, how=HERE)
    assert (outcome.faces, outcome.num_images) == ({"detected": 12}, 0)
    assert digests(Path(build)) == before


class Interrupt(SilentProgress):
    """Ctrl-C after the second shard."""

    num_done = 0

    def advance(self, num_images: int, num_rejects: int) -> None:  # noqa: ARG002 - of the protocol
        self.num_done += 1
        if self.num_done == 2:
            raise KeyboardInterrupt


def test_interrupted_run_goes_on_where_it_was(source: Path, build: str, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build")
    with pytest.raises(KeyboardInterrupt):
        describe(location, how=HERE, progress=Interrupt())
    outcome = describe(location, how=HERE)
    assert outcome.num_kept_shards == 2
    assert 0 < outcome.num_images < 12
    assert digests(Path(location)) == digests(Path(build))


def test_part_of_another_shard_is_not_taken(source: Path, build: str, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build")
    with pytest.raises(KeyboardInterrupt):
        describe(location, how=HERE, progress=Interrupt())
    first, second, *_ = sorted(Path(location).glob(".describe.*"))
    first.write_bytes(second.read_bytes())
    second.write_bytes(b"torn")
    assert describe(location, how=HERE).num_kept_shards == 0
    assert digests(Path(location)) == digests(Path(build))


def test_build_on_s3_is_described_to_the_same_bytes(
    source: Path, build: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3_server)
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="describing")
    location = built(source, "s3://describing/build")
    describe(location, how=HERE)
    assert Store(location).read(descriptors.FILE) == Path(build, descriptors.FILE).read_bytes()
    assert not [name for name in Store(location).listing().passed.get("hidden", ()) if "describe" in name]


@pytest.mark.slow
def test_workers_on_ray_give_the_same_descriptors(source: Path, build: str, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build")
    assert describe(location, how=How(workers=2)).faces == {"detected": 12}
    here, there = (descriptors.as_matrix(table_of(place)["descriptor"]) for place in (build, location))
    assert np.abs(here - there).max() <= descriptors.STEP  # another number of threads may round otherwise
    assert table_of(build)["key"] == table_of(location)["key"]


def test_second_run_at_once_is_refused(source: Path, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build")
    with (
        lock.held(Store(location), work=lock.DESCRIBE),
        pytest.raises(JobError, match="another describe is at work here"),
    ):
        describe(location, how=HERE)


def test_damaged_shard_is_named(source: Path, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build")
    shard = Path(location, "train-00000.tar")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(JobError, match=r"train-00000.tar: not as build.json has it; facepack verify"):
        describe(location, how=HERE)


def test_descriptors_of_another_build_are_named(source: Path, build: str, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build", seed=1)
    with pytest.raises(JobError, match=f"no {descriptors.FILE}; facepack describe {re.escape(location)} writes it"):
        descriptors.read_descriptors(location)
    Store(location).write(descriptors.FILE, Path(build, descriptors.FILE).read_bytes())
    fault = f"{descriptors.FILE}: of other images than are in the build now"
    with pytest.raises(JobError, match=fault):
        descriptors.read_descriptors(location)
    assert [problem.startswith(fault) for problem in verify(location).problems] == [True]
    assert describe(location, how=HERE).num_images == 12


def test_command_prints_what_was_found(build: str) -> None:
    command = [sys.executable, "-m", "facepack", "describe", build, "--workers", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "        12 detected: the detector sees one face",
        f"{build}: described already, nothing to do",
    ]


# Where the face is


@pytest.mark.parametrize(
    "choices", [{"align": "crop"}, {"align": "crop", "margin": "50%", "size": "96"}, {"align": "chip"}]
)
def test_faces_that_the_build_cut_out_are_described_as_in_the_photo(
    source: Path, build: str, tmp_path: Path, choices: dict[str, str]
) -> None:
    location = built(source, tmp_path / "build", **{"size": "", **choices})
    assert set(describe(location, how=HERE).faces) == {FaceStatus.KNOWN}
    of_photos, of_cuts = descriptors.read_descriptors(build), descriptors.read_descriptors(location)
    rows = pc.index_in(of_cuts.keys, value_set=of_photos.keys).to_numpy()
    distances = np.linalg.norm(of_photos.values[rows, None] - of_cuts.values[None], axis=2)
    own = np.diagonal(distances)
    assert np.median(own) < 0.25
    assert np.median(own) < np.median(distances)


def test_chip_of_a_chip_is_the_chip_itself(source: Path, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build", align="chip", size="150")
    finder = FaceFinder(open_build(location).info.configuration, predictor_of(landmarks_file()))
    image_rgb = open_build(location).image(0)
    place = finder(np.ascontiguousarray(image_rgb[:, :, ::-1]), None)
    assert place.landmarks is not None
    assert np.abs(chip_of(image_rgb[:, :, ::-1], place.landmarks).astype(int) - image_rgb).max() <= 1


def test_missed_face_of_an_aligned_image_is_where_the_others_have_it(source: Path, tmp_path: Path) -> None:
    location = built(source, tmp_path / "build", samples_per_shard=100, split="100/0/0")
    task = describing.Task(open_build(location).info.shards[0], Store(location), open_build(location).info, "")
    describer = describing.Describer(_Missing())
    result = describing.described_shard(task, describer)
    assert result.faces == {"detected": 11, "usual": 1}


class _Missing(FaceFinder):
    """Finds every face but the first."""

    def __init__(self) -> None:
        super().__init__(Configuration.of("cacd"), predictor_of(landmarks_file()))
        self.seen: list[int] = []

    def __call__(self, image_hwc: "np.typing.NDArray[np.uint8]", cut_box: Box | None) -> Place:
        self.seen.append(1)
        return Place(FaceStatus.NO_FACE) if len(self.seen) == 1 else super().__call__(image_hwc, cut_box)


def test_usual_place_needs_several_faces_in_one_place() -> None:
    box = (20.0, 30.0, 60.0, 70.0)
    found = [(Place(FaceStatus.DETECTED, Box(*box)), (100, 200))] * 8
    assert usual_box(found) == (0.2, 0.15, 0.6, 0.35)
    assert usual_box(found[1:]) is None
    assert usual_box([(Place(FaceStatus.NO_FACE), (100, 200))] * 20) is None
    elsewhere = [
        (Place(FaceStatus.DETECTED, Box(side, side, 2 * side, 2 * side)), (100, 100)) for side in range(10, 40)
    ]
    assert usual_box(elsewhere) is None
