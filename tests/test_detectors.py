"""Detectors: dlib's network beside HOG, alone or where HOG finds no face; what it needs, and what a build records."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from conftest import digests, make
from PIL import Image
from test_align import grey, portraits, statuses, table_of

from facepack import align, manifest, mmod
from facepack.align import Aligner
from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.errors import FieldError, JobError, UsageError
from facepack.hashing import sha256_of
from facepack.verification import verify

CHOICES: dict[str, Any] = {"dataset": "folder", "classes": "none", "split": "100/0/0", "align": "crop", "size": 48}


def frontal() -> npt.NDArray[np.uint8]:
    return portraits((60, 52, 22), size_wh=(120, 100))


def turned() -> Any:
    """A face on its side by 60 degrees, which HOG does not find."""
    turn = cv2.getRotationMatrix2D((60, 52), 60, 1)
    return cv2.warpAffine(frontal(), turn, (120, 100), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def network() -> mmod.Network:
    return mmod.Network.of(mmod.detector_file())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos = {"frontal": frontal(), "turned": turned(), "wall": np.full((60, 60, 3), 99, np.uint8)}
    for name, photo_hwc in photos.items():
        Image.fromarray(np.ascontiguousarray(photo_hwc[:, :, ::-1])).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def builds(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("builds")
    for detector in ("", "hog", "hog+cnn", "cnn"):
        make(source, folder / detector.ljust(1, "-"), detector=detector, **CHOICES)
    return folder


@pytest.mark.parametrize(
    ("detector", "of_turned"), [("hog", "no_face"), ("cnn", "packed"), ("hog+cnn", "packed"), ("-", "no_face")]
)
def test_network_finds_faces_that_hog_does_not(builds: Path, detector: str, of_turned: str) -> None:
    assert statuses(builds / detector) == {"frontal.png": "packed", "turned.png": of_turned, "wall.png": "no_face"}
    assert verify(builds / detector, deep=True).problems == ()
    recorded = manifest.read_build(str(builds / detector)).configuration
    assert recorded.detector == detector.replace("-", "hog")
    assert recorded.mmod == (sha256_of(mmod.detector_file()) if "cnn" in detector else "")


def test_network_is_a_second_look_only(builds: Path) -> None:
    boxes = {}
    for detector in ("hog", "hog+cnn", "cnn"):
        table = table_of(builds / detector)
        boxes[detector] = dict(zip(table["source"].to_pylist(), table["box"].to_pylist(), strict=True))
    assert boxes["hog+cnn"]["frontal.png"] == boxes["hog"]["frontal.png"] != boxes["cnn"]["frontal.png"]
    assert boxes["hog+cnn"]["turned.png"] == boxes["cnn"]["turned.png"]


@pytest.mark.slow
def test_bytes_are_the_same_with_workers(source: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        make(source, tmp_path / str(workers), workers=workers, detector="hog+cnn", samples_per_shard=1, **CHOICES)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")


def test_boxes_are_about_those_of_hog_in_pixels_of_the_photo(network: mmod.Network) -> None:
    (hog,) = align.find(grey(frontal()))
    (box,) = network.boxes(frontal(), scale=2)
    assert np.allclose(hog, box, atol=12)
    large_hwc: Any = cv2.resize(frontal(), None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    (of_large,) = network.boxes(large_hwc, scale=1 / 3)
    assert np.allclose(np.array(of_large) / 6, box, atol=5)


@pytest.mark.parametrize("size_wh", [(8, 8), (8, 900), (900, 8), (1, 1)])
def test_network_finds_nothing_where_nothing_is(network: mmod.Network, size_wh: tuple[int, int]) -> None:
    photo_hwc = np.full((size_wh[1], size_wh[0], 3), 128, np.uint8)
    assert align.find_by_network(network, photo_hwc, again=1.5) == []


def test_surest_face_comes_first_and_the_largest_is_taken(network: mmod.Network) -> None:
    photo_hwc = portraits((50, 50, 20), (50, 50, 28), size_wh=(200, 100))
    assert len(network.boxes(photo_hwc, scale=2)) == 2
    aligner = Aligner.of(Configuration.of("folder", align="crop", detector="cnn", on_several="largest"))
    assert aligner is not None
    first, second = aligner.boxes(photo_hwc)
    assert first.width > second.width
    assert first.x0 > 100 > second.x1
    assert aligner(photo_hwc).box == first


def test_small_faces_are_looked_at_closer(network: mmod.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmod, "LOOK_PX", 150)
    small_hwc = portraits((75, 60, 22), size_wh=(150, 120))
    assert align.find_by_network(network, small_hwc, again=1) == []
    (box,) = align.find_by_network(network, small_hwc, again=2)
    assert abs((box.x0 + box.x1) / 2 - 75) < 8
    pair_hwc = portraits((75, 60, 38), (75, 60, 27), size_wh=(300, 120))
    monkeypatch.setattr(mmod, "LOOK_PX", 300)
    assert len(network.boxes(pair_hwc, scale=1)) == 1
    assert len(align.find_by_network(network, pair_hwc, again=1)) == 2


def test_aligner_travels_to_workers_with_its_network() -> None:
    aligner = Aligner.of(Configuration.of("folder", align="crop", detector="hog+cnn"))
    arrived = pickle.loads(pickle.dumps(aligner))
    assert arrived is not aligner
    assert arrived.boxes(turned()) == aligner.boxes(turned())  # type: ignore[union-attr]


def test_chips_and_every_face_go_with_the_network(source: Path, tmp_path: Path) -> None:
    chosen = CHOICES | {"align": "chip", "template": "arcface", "on_several": "all", "detector": "cnn", "size": ""}
    make(source, tmp_path / "out", **chosen)
    rows = table_of(tmp_path / "out").to_pylist()
    assert sorted((row["source"], row["face"]) for row in rows) == [
        ("frontal.png", 1),
        ("turned.png", 1),
        ("wall.png", None),
    ]
    assert verify(tmp_path / "out", deep=True).problems == ()


# Its file


def test_missing_network_is_an_error_that_says_where_to_get_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "face_recognition_models", None)
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path / "data"))
    with pytest.raises(FieldError, match=r"detector cnn: needs mmod_.*facepack\[landmarks\]"):
        make(source, tmp_path / "out", detector="hog+cnn", **CHOICES)
    assert not (tmp_path / "out").exists()


def test_other_file_in_place_of_the_network_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / mmod.FILE).write_bytes(b"no network")
    with pytest.raises(UsageError, match="not a face detector of dlib"):
        make(source, tmp_path / "out", detector="cnn", **CHOICES)
    assert not (tmp_path / "out").exists()


def test_another_network_than_the_configuration_names_is_refused(source: Path, tmp_path: Path) -> None:
    chosen = replace(Configuration.of(detector="cnn", **CHOICES), mmod="0" * 64)
    with pytest.raises(UsageError, match="another detector"):
        build(chosen, place=Place(str(source), str(tmp_path / "out"), workers=0))


def test_build_with_another_detector_is_another_build(source: Path, builds: Path) -> None:
    with pytest.raises(JobError, match="detector: hog there, cnn here"):
        make(source, builds / "hog", detector="cnn", **CHOICES)
    assert manifest.read_build(str(builds / "hog")).configuration.detector == "hog"


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"dataset": "folder"}, "detector cnn: needs align crop or chip"),
        ({"dataset": "celeba", "align": "crop", "landmarks_from": "labels"}, "detector cnn: landmarks_from labels"),
    ],
)
def test_detector_goes_with_faces_that_are_looked_for(choices: dict[str, Any], problem: str) -> None:
    with pytest.raises(FieldError, match=problem):
        Configuration.of(detector="cnn", **choices)
