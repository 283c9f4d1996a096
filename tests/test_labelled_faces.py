"""Faces are cut out where their publisher says they are, without a detector; rows without a usable place say why."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from conftest import digests, make, tiny, train

from facepack import image, manifest, preview
from facepack.align import Box, crop
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from facepack.errors import FieldError
from facepack.labelled_faces import cuts
from facepack.storage import Store
from facepack.template import DLIB, similarities
from facepack.verification import verify
from trainer.loading.columns import ManifestColumns
from trainer.loading.targets import target

NAMES = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
FACE = np.array([(69, 109), (106, 113), (77, 142), (73, 152), (108, 154)], float)
WILD_FACE = FACE + np.array([50, 30])
CHIP: dict[str, Any] = {"align": "chip", "landmarks_from": "labels", "size": 112, "classes": ""}
CROP: dict[str, Any] = CHIP | {"align": "crop", "size": "keep", "images": "wild", "encoding": "raw"}


def table_of(build: Path) -> pa.Table:
    return manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)


def rows_of(build: Path) -> dict[str, dict[str, Any]]:
    """Rows of the manifest by the name of their file."""
    return {row["source"].rpartition("/")[2]: row for row in table_of(build).to_pylist()}


def write_table(path: Path, header: str, rows: dict[str, Any]) -> None:
    """Rows of numbers as CelebA's label files have them."""
    lines = [str(len(rows)), header, *(f"{name}  {' '.join(map(str, row))}" for name, row in rows.items())]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def write_landmarks(path: Path, rows: dict[str, Any]) -> None:
    write_table(path, f"{NAMES} ", {name: [f"{number:g}" for number in np.ravel(row)] for name, row in rows.items()})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn CelebA of 20 images with landmarks of the aligned set, and the wild one with its own and boxes."""
    folder = tmp_path_factory.mktemp("labelled")
    synthetic.draw("celeba", folder, num_images=20)
    names = [path.name for path in sorted((folder / "img_align_celeba").iterdir())]
    write_landmarks(folder / "list_landmarks_align_celeba.txt", {name: FACE + k for k, name in enumerate(names)})
    (folder / "img_celeba").mkdir()
    for name in names:
        photo_hwc = image.decode((folder / "img_align_celeba" / name).read_bytes())
        wider_hwc = cv2.copyMakeBorder(photo_hwc, 30, 40, 50, 60, cv2.BORDER_REPLICATE)
        cv2.imwrite(str(folder / "img_celeba" / name), wider_hwc)
    write_landmarks(folder / "list_landmarks_celeba.txt", dict.fromkeys(names, WILD_FACE))
    boxes = {name: (95, 71, 100 + k, 120) for k, name in enumerate(names)}
    write_table(folder / "list_bbox_celeba.txt", "image_id x_1 y_1 width height", boxes)
    return folder


# In the manifest


def test_manifest_has_the_landmarks_of_the_aligned_photos_and_no_boxes(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "b", classes="")
    table = table_of(tmp_path / "b")
    assert "published_box" not in table.column_names
    rows = rows_of(tmp_path / "b")
    assert rows["000001.jpg"]["published_landmarks"] == FACE.ravel().tolist()
    assert rows["000007.jpg"]["published_landmarks"] == (FACE + 6).ravel().tolist()
    assert table["landmarks"].null_count == table["box"].null_count == len(table) == 20
    assert verify(str(tmp_path / "b")).problems == ()


def test_manifest_has_the_landmarks_and_boxes_of_the_wild_photos(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "b", classes="", images="wild")
    row = rows_of(tmp_path / "b")["000003.jpg"]
    assert row["published_landmarks"] == WILD_FACE.ravel().tolist()
    assert row["published_box"] == [95, 71, 95 + 102, 71 + 120]
    assert manifest.label_columns(table_of(tmp_path / "b"))[-1] == "identity"


def test_labels_of_faces_change_no_shard_of_a_build_that_does_not_cut_by_them(source: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt", "img_align_celeba"):
        (bare / name).symlink_to(source / name)
    make(source, tmp_path / "with", classes="")
    make(bare, tmp_path / "without", classes="")
    assert manifest.PUBLISHED_LANDMARKS not in table_of(tmp_path / "without").column_names
    shards = [
        {name: digest for name, digest in digests(tmp_path / build).items() if name.endswith((".tar", ".idx"))}
        for build in ("with", "without")
    ]
    assert shards[0] == shards[1]
    assert len(shards[0]) == 4


def test_published_places_are_targets_to_learn(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "b", classes="", images="wild")
    columns = ManifestColumns(Store(str(tmp_path / "b")))
    assert target("published_landmarks", columns, rows=np.arange(4)).values.shape == (4, 10)
    assert target("published_box", columns, rows=np.arange(4)).values[0, :2].tolist() == [95, 71]


def test_files_in_their_published_folder_and_as_csv_are_read_alike(source: Path, tmp_path: Path) -> None:
    names = [f"{number:06d}.jpg" for number in range(1, 21)]
    for number, folder in enumerate((tmp_path / "anno", tmp_path / "csv")):
        folder.mkdir()
        (folder / "img_align_celeba").symlink_to(source / "img_align_celeba")
        if number:
            attributes = (source / "list_attr_celeba.txt").read_text().splitlines()[1:]
            lines = [" ".join(["image_id", attributes[0]]), *attributes[1:]]
            text = "".join(",".join(line.split()) + "\n" for line in lines)
            (folder / "list_attr_celeba.csv").write_text(text)
            partition = (source / "list_eval_partition.txt").read_text().replace(" ", ",")
            (folder / "list_eval_partition.csv").write_text(f"image_id,partition\n{partition}")
            faces = "".join(f"{name},{','.join(f'{v:g}' for v in FACE.ravel())}\n" for name in names)
            (folder / "list_landmarks_align_celeba.csv").write_text(f"image_id,{NAMES.replace(' ', ',')}\n{faces}")
        else:
            for place, name in (("Anno", "list_attr_celeba.txt"), ("Eval", "list_eval_partition.txt")):
                (folder / place).mkdir()
                (folder / place / name).symlink_to(source / name)
            write_landmarks(folder / "Anno/list_landmarks_align_celeba.txt", dict.fromkeys(names, FACE))
        make(folder, tmp_path / f"b{number}", **CHIP)
        assert rows_of(tmp_path / f"b{number}")["000011.jpg"]["landmarks"] == FACE.ravel().tolist()


# Chips


def test_chip_has_the_published_points_in_the_places_of_dlibs_chips() -> None:
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    for scale in (40, 90, 400):  # enlarged, about the same, much reduced
        points = DLIB @ turn * scale + 200
        photo_hwc = np.zeros((1000, 1000, 3), np.uint8)
        for x, y in points:
            cv2.circle(photo_hwc, (round(x * 16), round(y * 16)), round(scale * 16 / 30), (255,) * 3, -1, shift=4)
        table = pa.table({manifest.PUBLISHED_LANDMARKS: [points.ravel().tolist()]})
        (cut,) = cuts(table, Configuration.of("celeba", align="chip", landmarks_from="labels", size=120, margin="25%"))
        chip_hwc = cut(photo_hwc).image_hwc
        _, _, _, centres = cv2.connectedComponentsWithStats((chip_hwc[:, :, 0] > 100).astype(np.uint8))
        expected = (DLIB + 0.25) / 1.5 * 120
        for point in expected:
            assert np.abs(centres[1:] - point).max(axis=1).min() < 0.6, (scale, point, centres)


def test_similarity_is_the_nearest_rotation_and_scale() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 5, 2))
    matrices = similarities(points, DLIB)
    for matrix, row in zip(matrices, points, strict=True):
        centred, target_ = row - row.mean(0), DLIB - DLIB.mean(0)
        u, s, vt = np.linalg.svd(target_.T @ centred)
        sign = np.diag([1, np.sign(np.linalg.det(u @ vt))])
        expected = u @ sign @ vt * (s * np.diag(sign)).sum() / (centred**2).sum()  # Umeyama 1991, equations 40 to 42
        assert np.allclose(matrix[:, :2], expected)
        assert np.allclose(matrix[:, :2] @ row.mean(0) + matrix[:, 2], DLIB.mean(0))


def test_chips_need_no_dlib(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['dlib'] = None; import facepack;"
        f"facepack.build('celeba', src={str(source)!r}, out={str(tmp_path / 'b')!r}, workers=0, "
        "align='chip', landmarks_from='labels')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert set(table_of(tmp_path / "b")["status"].to_pylist()) == {"packed"}
    assert verify(str(tmp_path / "b")).problems == ()
    assert manifest.read_build(str(tmp_path / "b")).configuration.landmarks == ""


def test_rows_of_no_usable_landmarks_are_counted(source: Path, tmp_path: Path) -> None:
    places: dict[str, Any] = {f"{number:06d}.jpg": FACE for number in range(1, 21)}
    places["000001.jpg"] = np.zeros(10)
    places["000002.jpg"] = np.full((5, 2), 50)
    places["000003.jpg"] = FACE + 500
    places["000004.jpg"] = FACE - 300
    places["000005.jpg"] = np.where(np.arange(10) == 3, 9999, FACE.ravel())
    places["000006.jpg"] = [np.nan] * 10
    del places["000007.jpg"]
    places["000008.jpg"] = FACE[[1, 0, 2, 4, 3]]  # left and right as the person has them
    places["000009.jpg"] = [218, 178] - FACE  # upside down, which turning mends
    (tmp_path / "s").mkdir()
    for path in source.iterdir():
        (tmp_path / "s" / path.name).symlink_to(path)
    (tmp_path / "s/list_landmarks_align_celeba.txt").unlink()
    write_landmarks(tmp_path / "s/list_landmarks_align_celeba.txt", places)
    outcome = make(tmp_path / "s", tmp_path / "b", **CHIP)
    rows = rows_of(tmp_path / "b")
    bad = sorted(name for name, row in rows.items() if row["status"] == "no_labelled_face")
    assert bad == [f"{number:06d}.jpg" for number in range(1, 9)]
    assert manifest.total(outcome.build.counts, statuses=["no_labelled_face"]) == 8
    assert [name for name, row in rows.items() if row["published_landmarks"] is None] and len(rows) == 20
    assert verify(str(tmp_path / "b")).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        f"{NAMES}\nROWS",
        f"20\nimage_id {NAMES} \nROWS",
        f"{NAMES}\nROWS999999.jpg 1 2 3 4 5 6 7 8 9 10\n",
        f"20\r\n{NAMES}\r\nTABS",
    ],
)
def test_copies_of_landmarks_are_read_whether_or_not_they_count_or_name_the_images(
    source: Path, tmp_path: Path, text: str
) -> None:
    rows = [f"{number:06d}.jpg {' '.join(f'{v:g}' for v in FACE.ravel())}" for number in range(20, 0, -1)]
    text = text.replace("ROWS", "".join(f"{row}\n" for row in rows))
    text = text.replace("TABS", "".join(row.replace(" ", "\t") + "\r\n" for row in rows))
    (tmp_path / "s").mkdir()
    for path in source.iterdir():
        (tmp_path / "s" / path.name).symlink_to(path)
    (tmp_path / "s/list_landmarks_align_celeba.txt").unlink()
    (tmp_path / "s/list_landmarks_align_celeba.txt").write_bytes(text.encode())
    make(tmp_path / "s", tmp_path / "b", **CHIP)
    assert table_of(tmp_path / "b")["landmarks"].to_pylist() == [FACE.ravel().tolist()] * 20


def test_page_marks_the_published_landmarks(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "b", **CHIP)
    assert len(preview.of_build(str(tmp_path / "b"), src=str(source)).faces) > 0


@pytest.mark.slow
def test_trained_network_looks_for_the_faces_of_new_photos_itself(source: Path, tmp_path: Path) -> None:
    from trainer.prediction import Predictor

    make(source, tmp_path / "b", **CHIP | {"size": 32})
    run = train(tmp_path / "b", tmp_path / "run", tiny("celeba_attributes_modern"))
    (predicted,) = Predictor(run, device="cpu")(source / "img_align_celeba/000001.jpg")
    assert predicted.problem == ""
    assert predicted.box is not None


# Crops


def test_crop_is_that_of_the_published_box(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "b", **CROP)
    row = rows_of(tmp_path / "b")["000005.jpg"]
    content = (tmp_path / "b" / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
    photo_hwc = image.decode((source / "img_celeba/000005.jpg").read_bytes())
    expected_hwc, _ = crop(photo_hwc, box=Box(95, 71, 95 + 104, 71 + 120), margin_px=15)
    assert np.array_equal(image.decode_packed(content, encoding="raw"), expected_hwc)
    assert row["box"] == row["published_box"] == [95, 71, 199, 191]
    assert verify(str(tmp_path / "b")).problems == ()


def test_rows_of_no_usable_box_are_counted(source: Path, tmp_path: Path) -> None:
    boxes: dict[str, Any] = {f"{number:06d}.jpg": (95, 71, 100, 120) for number in range(1, 21)}
    boxes |= {"000001.jpg": (0, 0, 0, 0), "000002.jpg": (9, 9, -5, 40), "000003.jpg": (900, 900, 50, 50)}
    boxes |= {"000004.jpg": ("none",) * 4, "000005.jpg": (-20, -10, 150, 150)}
    (tmp_path / "s").mkdir()
    for path in source.iterdir():
        (tmp_path / "s" / path.name).symlink_to(path)
    (tmp_path / "s/list_bbox_celeba.txt").unlink()
    write_table(tmp_path / "s/list_bbox_celeba.txt", "image_id x_1 y_1 width height", boxes)
    outcome = make(tmp_path / "s", tmp_path / "b", **CROP)
    bad = sorted(name for name, row in rows_of(tmp_path / "b").items() if row["status"] == "no_labelled_face")
    assert bad == [f"{number:06d}.jpg" for number in range(1, 5)]
    assert outcome.build.num_padded == 1
    assert verify(str(tmp_path / "b")).problems == ()


# What does not go together


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"align": "none"}, "needs align crop or chip"),
        ({"align": "chip", "on_several": "largest"}, "labels name one face"),
        ({"align": "crop", "landmarks_from": "detector"}, "expected model or labels"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError, match=words):
        Configuration.of("celeba", **({"landmarks_from": "labels"} | options))


def test_labels_that_are_not_there_are_refused_before_the_work(source: Path, celeba: Path, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="celeba has no boxes of the image set aligned here; facepack fetch celeba --"):
        make(source, tmp_path / "b", **CROP | {"images": ""})
    with pytest.raises(FieldError, match="celeba has no landmarks of the image set aligned here"):
        make(celeba, tmp_path / "b", **CHIP)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "b0", **CHIP, samples_per_shard=5)
    make(source, tmp_path / "b2", **CHIP, samples_per_shard=5, workers=2)
    assert digests(tmp_path / "b0") == digests(tmp_path / "b2")
