"""Faces are found, cut out where the published methods cut them, and every photo without one says why."""

import importlib.util
import io
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from conftest import digests, make
from PIL import Image

from facepack import align, image, manifest
from facepack.align import Aligner, Box
from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from facepack.drawn.drawing import person, photograph, rng_of
from facepack.errors import JobError, UsageError
from facepack.hashing import sha256_of
from facepack.manifest import Status
from facepack.storage import Store
from facepack.verification import verify

TEMPLATE = np.array(
    [
        *[(0.8595674595992, 0.2134981538014), (0.6460604764104, 0.2289674387677)],
        *[(0.1205750620789, 0.2137274526848), (0.3340850613712, 0.2290642403242)],
        (0.4901123135679, 0.6277975316475),
    ]
)
"""Corners of the eyes and bottom of the nose in a chip without padding, as dlib's get_face_chip_details has them."""

MODELS = Path(str(getattr(importlib.util.find_spec("face_recognition_models"), "origin", ""))).parent / "models"


def portraits(*places: tuple[float, float, float], size_wh: tuple[int, int] = (400, 300)) -> npt.NDArray[np.uint8]:
    """One photo with drawn faces, each with the middle and half the width of its face in px: uint8 BGR HWC."""
    width = size_wh[0] // len(places)
    strips = []
    for number, (x, y, unit) in enumerate(places):
        rng = rng_of(number, "portrait")
        face = person(rng, ["Smiling"])
        strips.append(photograph(face, rng, size_wh=(width, size_wh[1]), middle_px=(x, y), unit_px=unit))
    return np.ascontiguousarray(np.hstack(strips)[:, :, ::-1])


def grey(image_hwc: npt.NDArray[np.uint8]) -> Any:
    return cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY)


def table_of(build: Path) -> pa.Table:
    return manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)


def statuses(build: Path) -> dict[str, str]:
    """Status per source, without its folder."""
    rows = table_of(build).select(["source", "status"]).to_pylist()
    return {row["source"].rpartition("/")[2]: row["status"] for row in rows}


# Detecting


def test_face_is_found_where_it_is() -> None:
    (box,) = align.find(grey(portraits((200, 150, 60))))
    assert abs((box.x0 + box.x1) / 2 - 200) < 15
    assert abs((box.y0 + box.y1) / 2 - 150) < 30
    assert 90 < box.width < 150


def test_every_face_of_a_group_is_found() -> None:
    assert len(align.find(grey(portraits((150, 150, 60), (150, 150, 60), (150, 150, 60), size_wh=(900, 300))))) == 3


@pytest.mark.parametrize("size_wh", [(8, 8), (8, 5000), (300, 200), (2000, 1500)])
def test_nothing_is_found_where_there_is_no_face(size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    assert align.find(np.full((height, width), 128, np.uint8)) == []


def test_box_of_a_large_photo_is_in_its_own_pixels() -> None:
    small = portraits((200, 150, 60))
    (box,) = align.find(grey(small))
    large = cv2.resize(small, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    (found,) = align.find(grey(large))  # type: ignore[arg-type]
    assert np.allclose(np.array(found) / 8, box, atol=16)  # a step of the detector


def test_small_face_is_found_in_the_second_look() -> None:
    photo = portraits((100, 75, 24), size_wh=(200, 150))
    assert not align.find_at(grey(photo), scale=1.0)
    (box,) = align.find(grey(photo))
    assert abs((box.x0 + box.x1) / 2 - 100) < 8


def test_lone_small_face_makes_us_look_for_its_neighbour() -> None:
    photo = portraits((150, 150, 40), (150, 150, 26), size_wh=(600, 300))
    assert len(align.find_at(grey(photo), scale=1.0)) == 1
    assert len(align.find(grey(photo))) == 2


# Cropping


def ramp(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Blue is the column, green the row: a pixel says where it comes from."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def test_crop_is_the_published_square() -> None:
    cropped, is_padded = align.crop(ramp(250, 250), box=Box(100, 110, 180, 180), margin_px=15)
    assert not is_padded
    assert cropped.shape == (110, 110, 3)  # 80 for the longer side, and twice 15
    assert cropped[0, 0].tolist() == [85, 85, 0]  # 100 - 15, and 145 - 40 - 15 - 5
    assert cropped[-1, -1].tolist() == [194, 194, 0]


def test_crop_over_the_border_repeats_the_border_and_keeps_the_face_in_place() -> None:
    inside, _ = align.crop(ramp(250, 250), box=Box(100, 100, 180, 180), margin_px=15)
    cropped, is_padded = align.crop(ramp(170, 250)[80:], box=Box(100, 20, 180, 100), margin_px=15)
    assert is_padded
    assert cropped.shape == inside.shape
    assert (cropped[:, :85, 0] == inside[:, :85, 0]).all()
    assert (cropped[:, 85:, 0] == 169).all()
    assert (cropped[:, :, 1] == np.clip(inside[:, :, 1], 80, None)).all()


def test_box_wholly_outside_is_no_face() -> None:
    with pytest.raises(image.BadImageError) as caught:
        align.crop(ramp(100, 100), box=Box(200, 200, 260, 260), margin_px=0)
    assert caught.value.status == Status.NO_FACE


def test_crop_larger_than_any_image_may_be_is_too_large() -> None:
    with pytest.raises(image.BadImageError) as caught:
        align.crop(ramp(2000, 2000), box=Box(0, 0, 1900, 1900), margin_px=3800)
    assert caught.value.status == Status.TOO_LARGE


def test_margin_is_written_in_one_way() -> None:
    assert Configuration.of("folder", align="crop", margin="15.0").margin == "15"
    assert Configuration.of("folder", align="chip", margin="+2.5e1%").margin == "25%"


@pytest.mark.parametrize(("margin", "side"), [("0", 1.0), ("30", 1.0 + 60), ("50%", 2.0), ("", 1.0 + 30)])
def test_margin_is_in_pixels_or_a_share_of_the_face(margin: str, side: float) -> None:
    photo = portraits((300, 220, 60), size_wh=(600, 450))
    aligner = Aligner.of(Configuration.of("folder", align="crop", margin=margin, size="keep"))
    assert aligner is not None
    face = aligner(photo)
    assert face.box is not None
    expected = face.box.width * side if margin.endswith("%") else face.box.width + side - 1
    assert face.image_hwc.shape[0] == face.image_hwc.shape[1]
    assert abs(face.image_hwc.shape[0] - expected) <= 1


def test_several_faces_are_rejected_or_the_largest_is_taken() -> None:
    photo = portraits((150, 150, 50), (150, 150, 75), size_wh=(600, 300))
    aligner = Aligner.of(Configuration.of("folder", align="crop"))
    assert aligner is not None
    with pytest.raises(image.BadImageError) as caught:
        aligner(photo)
    assert caught.value.status == Status.SEVERAL_FACES
    largest = Aligner.of(Configuration.of("folder", align="crop", on_several="largest"))
    assert largest is not None
    box = largest(photo).box
    assert box is not None
    assert box.x0 > 300


# Chips


def similarity(landmarks: list[float], *, side_px: int, padding: float) -> npt.NDArray[np.float64]:
    """The similarity, 2x3, that takes landmarks nearest to the template (Umeyama 1991, in complex numbers)."""
    points = np.array(landmarks[::2]) + 1j * np.array(landmarks[1::2])
    wanted = (TEMPLATE + padding) / (2 * padding + 1) * side_px
    goals = wanted[:, 0] + 1j * wanted[:, 1]
    centred = points - points.mean()
    turn = (np.conj(centred) @ (goals - goals.mean())) / (np.conj(centred) @ centred)
    move = goals.mean() - turn * points.mean()
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])


def distance_px(landmarks: list[float], *, side_px: int, padding: float) -> float:
    """Mean distance in pixels between the landmarks in a chip and the template."""
    warp = similarity(landmarks, side_px=side_px, padding=padding)
    placed = np.array(landmarks).reshape(-1, 2) @ warp[:, :2].T + warp[:, 2]
    return float(np.linalg.norm(placed - (TEMPLATE + padding) / (2 * padding + 1) * side_px, axis=1).mean())


@pytest.mark.parametrize("angle", [-25, 0, 20])
def test_chip_is_turned_so_that_the_eyes_are_in_place(angle: int) -> None:
    turn = cv2.getRotationMatrix2D((300, 225), angle, 1)
    photo: Any = cv2.warpAffine(portraits((300, 220, 80), size_wh=(600, 450)), turn, (600, 450))
    aligner = Aligner.of(Configuration.of("folder", align="chip", size="96"), landmarks=align.landmarks_file())
    assert aligner is not None
    face = aligner(photo)
    assert face.image_hwc.shape == (96, 96, 3)
    assert face.landmarks is not None
    assert distance_px(list(face.landmarks), side_px=96, padding=0.25) < 3  # drawn eyes are a little off
    warp = similarity(list(face.landmarks), side_px=96, padding=0.25)
    ours = cv2.warpAffine(cv2.GaussianBlur(photo, (5, 5), 0), warp, (96, 96), flags=cv2.INTER_AREA)
    assert np.abs(ours.astype(int) - cv2.GaussianBlur(face.image_hwc, (3, 3), 0)).mean() < 6


def test_landmark_model_is_found_among_the_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = align.landmarks_file()
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path))
    assert align.landmarks_file() == packaged
    (tmp_path / "models").mkdir()
    placed = tmp_path / "models" / align.LANDMARKS_FILE
    placed.symlink_to(packaged)
    assert align.landmarks_file() == placed
    assert align.landmarks_file(str(packaged)) == packaged


def test_missing_landmark_model_is_an_error_that_says_where_to_get_it(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "face_recognition_models", None)
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path / "data"))
    with pytest.raises(UsageError, match=r"facepack fetch landmarks puts it into .*--landmarks"):
        make(celeba, tmp_path / "build", align="chip")
    with pytest.raises(UsageError, match=r"nowhere\.dat: no such file"):
        align.landmarks_file("nowhere.dat")
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("file", "reason"),
    [("shape_predictor_68_face_landmarks.dat", "a model of 68 landmarks, expected 5"), ("", "not a landmark model")],
)
def test_wrong_landmark_model_is_refused(tmp_path: Path, file: str, reason: str) -> None:
    path = MODELS / file
    if not file:
        path = tmp_path / "cut.dat"
        path.write_bytes((MODELS / align.LANDMARKS_FILE).read_bytes()[:100_000])
    with pytest.raises(UsageError, match=reason):
        Aligner.of(Configuration.of("folder", align="chip"), landmarks=path)


# Configuration


@pytest.mark.parametrize(
    ("kind", "size", "margin"), [("none", "keep", ""), ("crop", "120", "15"), ("chip", "112", "25%")]
)
def test_size_and_margin_are_those_published_unless_given(kind: Any, size: str, margin: str) -> None:
    configuration = Configuration.of("folder", align=kind)
    assert (configuration.size, configuration.margin) == (size, margin)
    assert configuration.digest == Configuration.of("folder", align=kind, size=size, margin=margin).digest


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"align": "none", "margin": "15"}, "margin 15: needs align"),
        ({"align": "none", "on_several": "largest"}, "on_several largest: needs align"),
        ({"align": "crop", "margin": "wide"}, "margin wide: expected pixels"),
        ({"align": "crop", "margin": "-3"}, "margin -3: expected pixels"),
        ({"align": "crop", "margin": "5%%"}, "margin 5%%: expected pixels"),
        ({"align": "crop", "margin": "nan"}, "margin nan: expected pixels"),
        ({"align": "chip", "margin": "15"}, "margin 15: the margin of a chip"),
        ({"align": "chip", "size": "keep"}, "size keep: a chip"),
        ({"align": "crop", "size": "64x48"}, "size 64x48: faces are cut out as squares"),
    ],
)
def test_what_does_not_go_together_is_refused(choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Configuration.of("folder", **choices)


# Whole builds


@pytest.fixture(scope="module")
def cacd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn CACD of 40 photos, one of them without a face and one with two."""
    folder = tmp_path_factory.mktemp("cacd")
    synthetic.draw("cacd", folder, num_images=40)
    first, second, *_ = sorted((folder / "CACD2000").iterdir())
    first.write_bytes(image.encode_jpeg(np.full((250, 250, 3), 90, np.uint8), quality=90))
    second.write_bytes(image.encode_jpeg(portraits((100, 125, 50), (100, 125, 50), size_wh=(400, 250)), quality=90))
    return folder


@pytest.mark.parametrize(("kind", "many"), [("crop", 1), ("chip", 4)])
def test_aligned_build_is_the_same_with_any_number_of_workers(cacd: Path, tmp_path: Path, kind: str, many: int) -> None:
    choices: dict[str, Any] = {"dataset": "cacd", "classes": "", "size": "64", "samples_per_shard": 8, "align": kind}
    for workers in (0, many):
        make(cacd, tmp_path / str(workers), workers=workers, **choices)
    assert digests(tmp_path / "0") == digests(tmp_path / str(many))
    assert verify(str(tmp_path / "0"), deep=True).problems == ()
    table = table_of(tmp_path / "0")
    found = sorted(statuses(tmp_path / "0").items())
    assert [status for _, status in found[:2]] == [Status.NO_FACE, Status.SEVERAL_FACES]
    assert {status for _, status in found[2:]} == {Status.PACKED}
    for row in table.to_pylist():
        is_packed = row["status"] == Status.PACKED
        assert (row["box"] is not None) == is_packed
        assert (row["landmarks"] is not None) == (is_packed and kind == "chip")
        if is_packed:
            assert (row["width"], row["height"]) == (64, 64)
            x0, y0, x1, y1 = row["box"]
            assert 0 < (x0 + x1) / 2 < 250 > (y0 + y1) / 2 > 0
            assert x1 - x0 > 40 < y1 - y0


def test_crops_over_the_border_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "somebody"
    folder.mkdir(parents=True)
    photo = portraits((300, 200, 60), size_wh=(600, 400))
    (box,) = align.find(grey(photo))
    left = int(box.x0) - 5
    for name, pixels in (("whole", photo), ("cut", photo[:, left:])):
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    made = make(tmp_path / "photos", tmp_path / "build", dataset="folder", classes="", size="", align="crop")
    assert made.build.num_padded == 1
    table = table_of(tmp_path / "build")
    assert set(table["width"].to_pylist()) == {120}
    assert verify(str(tmp_path / "build"), deep=True).problems == ()


def test_another_landmark_model_is_another_build(cacd: Path, tmp_path: Path) -> None:
    choices: dict[str, Any] = {"dataset": "cacd", "classes": "", "size": "32", "align": "chip", "limit": 4}
    made = make(cacd, tmp_path / "build", **choices)
    assert made.build.configuration.landmarks == sha256_of(align.landmarks_file())
    other = replace(made.build.configuration, landmarks="0" * 64)
    with pytest.raises(UsageError, match="another landmark model"):
        build(other, place=Place(str(cacd), str(tmp_path / "build"), workers=0))
    with pytest.raises(JobError, match="align: chip there, crop here"):
        make(cacd, tmp_path / "build", **{**choices, "align": "crop"})


def test_verify_names_what_is_wrong_with_boxes_and_landmarks(cacd: Path, tmp_path: Path) -> None:
    make(cacd, tmp_path / "build", dataset="cacd", classes="", size="32", align="chip", limit=9)
    store, table = Store(str(tmp_path / "build")), table_of(tmp_path / "build")
    rows = table.to_pylist()
    at = next(number for number, row in enumerate(rows) if row["status"] == Status.PACKED)
    for column, value, problem in (
        ("box", None, "manifest: 1 packed rows without box"),
        ("landmarks", None, "manifest: 1 packed rows without landmarks"),
        ("landmarks", [1.0, 2.0], "manifest: landmarks that are not 5 points"),
    ):
        changed = pa.Table.from_pylist([*rows[:at], rows[at] | {column: value}, *rows[at + 1 :]], schema=table.schema)
        manifest.write_table(store, manifest.MANIFEST_FILE, table=changed)
        assert problem in verify(str(tmp_path / "build")).problems


def files_of_every_kind() -> dict[str, tuple[bytes, str]]:
    """Files of every kind that comes in the wild, with their status; the sound ones show the same drawn face."""
    pixels = portraits((150, 125, 55), size_wh=(300, 250))
    picture = Image.fromarray(pixels[:, :, ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6

    def encoded(one: Image.Image, form: str, **settings: Any) -> bytes:
        file = io.BytesIO()
        one.save(file, form, **settings)
        return file.getvalue()

    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    jpeg = encoded(picture, "JPEG", quality=95)
    damaged = bytearray(jpeg)
    at = damaged.index(b"\xff\xc4")
    damaged[at + 4 : at + 24] = b"\xff" * 20
    deep: Any = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1]
    return {
        "plain.jpg": (jpeg, Status.PACKED),
        "cmyk.jpg": (encoded(picture.convert("CMYK"), "JPEG", quality=95), Status.PACKED),
        "deep.png": (deep.tobytes(), Status.PACKED),
        "transparent.png": (encoded(picture.convert("RGBA"), "PNG"), Status.PACKED),
        "palette.png": (encoded(picture.quantize(256), "PNG"), Status.PACKED),
        "turned.jpg": (encoded(picture.rotate(90, expand=True), "JPEG", quality=95, exif=exif), Status.PACKED),
        "animated.gif": (
            encoded(picture, "GIF", save_all=True, append_images=[picture.rotate(180)], duration=50),
            Status.PACKED,
        ),
        "damaged.jpg": (bytes(damaged), Status.UNREADABLE),
        "cut.jpg": (jpeg[: len(jpeg) // 2], Status.TRUNCATED),
        "empty.jpg": (b"", Status.NOT_AN_IMAGE),
        "dot.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), Status.TOO_SMALL),
        "huge.png": (huge, Status.TOO_LARGE),
        "blank.png": (encoded(Image.new("RGB", (300, 250), "gray"), "PNG"), Status.NO_FACE),
    }


@pytest.mark.parametrize("kind", ["crop", "chip"])
def test_file_of_every_kind_gets_the_right_face_or_the_right_status(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "photos" / "somebody"
    folder.mkdir(parents=True)
    files = files_of_every_kind()
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    out = tmp_path / "build"
    make(tmp_path / "photos", out, dataset="folder", classes="", size="64", align=kind, encoding="raw", split="100/0/0")
    assert statuses(out) == {name: status for name, (_, status) in files.items()}
    store, faces, boxes = Store(str(out)), {}, {}
    for row in table_of(out).to_pylist():
        if row["status"] == Status.PACKED:
            content = store.read_range(row["shard"], start=row["offset"], length=row["size"])
            name = row["source"].rpartition("/")[2]
            faces[name], boxes[name] = image.decode_raw(content).astype(int), row["box"]
    for name, face in faces.items():
        # Other colours move the box by a step of the detector's 8 px cells, at most.
        assert np.abs(np.array(boxes[name]) - boxes["plain.jpg"]).max() <= 9, name
        assert np.abs(face - faces["plain.jpg"]).mean() < (30 if name == "cmyk.jpg" else 20), name


# Real photos


@pytest.mark.real
def test_detector_is_no_worse_than_the_published_way(real_data: Path) -> None:
    found: dict[str, list[int]] = {}
    for path in sorted((real_data / "detect").glob("*/*")):
        found.setdefault(path.parent.name, []).append(len(align.find(grey(image.decode(path.read_bytes())))))
    assert found["zero"].count(0) == len(found["zero"]) == 25
    assert found["one"].count(1) == len(found["one"]) == 69
    assert sum(number > 1 for number in found["several"]) == len(found["several"]) == 10


@pytest.mark.real
def test_eyes_are_at_the_same_place_in_every_chip_of_real_photos(real_data: Path, tmp_path: Path) -> None:
    choices: dict[str, Any] = {"images": "wild", "classes": "", "size": "112", "align": "chip", "encoding": "raw"}
    make(real_data / "celeba", tmp_path / "build", **choices)
    assert verify(str(tmp_path / "build"), deep=True).problems == ()
    table = table_of(tmp_path / "build")
    packed = [row for row in table.to_pylist() if row["status"] == Status.PACKED]
    assert len(packed) > 370
    distances = [distance_px(row["landmarks"], side_px=112, padding=0.25) for row in packed]
    assert np.mean(distances) < 2
    source, store, wrong = real_data / "celeba", Store(str(tmp_path / "build")), 0
    for row in packed[:40]:
        photo = cv2.GaussianBlur(image.decode((source / row["source"]).read_bytes()), (3, 3), 0)
        warp = similarity(row["landmarks"], side_px=112, padding=0.25)
        ours = cv2.warpAffine(photo, warp, (112, 112))[:, :, ::-1].astype(int)
        chip = image.decode_raw(store.read_range(row["shard"], start=row["offset"], length=row["size"]))
        wrong += bool(np.abs(ours - chip).mean() > 10)
    assert wrong <= 2  # faces much larger than the chip, which dlib averages and this test does not


@pytest.mark.real
def test_cacd_layout_of_real_photos_is_cropped(real_data: Path, tmp_path: Path) -> None:
    people = sorted((real_data / "utkface" / "crop_part1").iterdir())
    for number, path in enumerate(people[:200]):
        target = tmp_path / "source" / "CACD2000" / f"30_Person_{number // 20:04d}_{number % 20 + 1:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    made = make(tmp_path / "source", tmp_path / "build", dataset="cacd", classes="", size="", align="crop")
    assert verify(str(tmp_path / "build"), deep=True).problems == ()
    counts = manifest.total(made.build.counts, statuses=[Status.PACKED])
    assert counts > 120
    assert made.build.num_padded > 0
