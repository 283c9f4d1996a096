"""Templates of chips: eyes, nose and mouth lie where ArcFace or dlib has them, by labels or by dlib's five points."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from conftest import make
from test_align import grey, portraits
from test_labelled_faces import FACE, rows_of, write_landmarks

from facepack import align, image, template
from facepack.align import Aligner
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from facepack.errors import FieldError
from facepack.labelled_faces import cuts
from facepack.reader import open_build
from facepack.verification import verify

ARCFACE_112 = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]


def dots(points: Any, size_wh: tuple[int, int]) -> Any:
    """A black photo with a white dot at each point."""
    photo_hwc = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x, y in points:
        cv2.circle(photo_hwc, (round(x * 16), round(y * 16)), 6 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return photo_hwc


def middles(chip_hwc: Any) -> Any:
    """The middles of the dots in a chip, from top to bottom."""
    _, _, _, places = cv2.connectedComponentsWithStats((chip_hwc[:, :, 0] > 80).astype(np.uint8))
    return places[1:]


@pytest.mark.parametrize("angle", [0, -35, 90, 180])
@pytest.mark.parametrize(("size", "margin"), [(112, ""), (224, ""), (112, "25%"), (96, "10%")])
def test_published_landmarks_come_to_where_arcface_has_them(angle: int, size: int, margin: str) -> None:
    turn = cv2.getRotationMatrix2D((56, 56), angle, 2.5) + np.array([(0, 0, 200), (0, 0, 150)])
    points = np.array(ARCFACE_112) @ turn[:, :2].T + turn[:, 2]
    chosen = Configuration.of(
        "celeba", align="chip", landmarks_from="labels", template="arcface", size=size, margin=margin
    )
    (cut,) = cuts(pa.table({"published_landmarks": [points.ravel().tolist()]}), chosen)
    chip_hwc = cut(dots(points, (520, 420))).image_hwc
    assert chip_hwc.shape == (size, size, 3)
    share = float(margin.rstrip("%") or 0) / 100
    expected = (np.array(ARCFACE_112) / 112 + share) / (1 + 2 * share) * size
    places = middles(chip_hwc)
    distances = np.linalg.norm(places[:, None] - expected[None], axis=2).min(axis=0)
    assert len(places) == 5
    assert distances.max() < 0.6, "in pixels of the chip"


@pytest.mark.parametrize("angle", [-25, 0, 20])
def test_points_of_dlib_s_model_come_to_the_eyes_of_arcface(angle: int) -> None:
    turn = cv2.getRotationMatrix2D((300, 225), angle, 1)
    photo_hwc: Any = cv2.warpAffine(portraits((300, 220, 80), size_wh=(600, 450)), turn, (600, 450))
    chosen = Configuration.of("folder", align="chip", template="arcface")
    assert (chosen.size, chosen.margin) == ("112", "0%")
    aligner = Aligner.of(chosen, landmarks=align.landmarks_file())
    assert aligner is not None
    face = aligner(photo_hwc)
    assert face.image_hwc.shape == (112, 112, 3)
    assert face.landmarks is not None
    matrix = template.arcface_of_model(face.landmarks, side_px=112, margin=0)
    corners = np.array(face.landmarks).reshape(5, 2) @ matrix[:, :2].T + matrix[:, 2]
    right, left = corners[:2].mean(axis=0), corners[2:4].mean(axis=0)
    assert np.abs(np.array([left, right]) - ARCFACE_112[:2]).max() < 3
    assert abs(corners[4, 0] - 56) < 3
    assert 76 < corners[4, 1] < 85, "the base of the nose is below its tip"


def test_base_of_the_nose_is_where_the_mean_face_has_it() -> None:
    corners = ((0.86, 0.2134), (0.6461, 0.229), (0.1206, 0.2137), (0.3341, 0.2291), (0.4901, 0.6278))
    points = tuple(1000 * side for point in corners for side in point)
    matrix = template.arcface_of_model(points, side_px=112, margin=0)
    placed = np.array(corners) * 1000 @ matrix[:, :2].T + matrix[:, 2]
    assert placed[2:4].mean(axis=0) == pytest.approx(ARCFACE_112[0], abs=0.8)
    assert placed[:2].mean(axis=0) == pytest.approx(ARCFACE_112[1], abs=0.8)
    assert placed[4] == pytest.approx((56.07, 80.48), abs=1.2)


def test_templates_are_those_published() -> None:
    assert np.allclose(template.of_labels("arcface", side_px=112, margin=0), ARCFACE_112)
    assert np.allclose(template.of_labels("dlib", side_px=100, margin=0)[2], (49.0127, 51.5625))
    assert np.allclose(template.of_labels("arcface", side_px=112, margin=0.5) * 2 - 56, ARCFACE_112)


def test_build_of_arcface_chips_by_labels_and_by_model(tmp_path: Path) -> None:
    source = tmp_path / "celeba"
    synthetic.draw("celeba", source, num_images=12)
    names = sorted(path.name for path in (source / "img_align_celeba").iterdir())
    write_landmarks(source / "list_landmarks_align_celeba.txt", dict.fromkeys(names, FACE))
    chosen: dict[str, Any] = {"align": "chip", "template": "arcface", "size": "", "classes": ""}
    make(source, tmp_path / "labels", landmarks_from="labels", **chosen)
    make(source, tmp_path / "model", **chosen)
    for name in ("labels", "model"):
        assert verify(tmp_path / name, deep=True).problems == ()
        build = open_build(str(tmp_path / name))
        assert build.info.configuration.template == "arcface"
        assert {build.packed.image(row).shape for row in range(len(build.packed.table))} == {(112, 112, 3)}
    row = rows_of(tmp_path / "labels")[names[0]]
    photo_hwc = image.decode((source / "img_align_celeba" / names[0]).read_bytes())
    matrix = template.similarities(FACE[None], np.array(ARCFACE_112))[0]
    expected = template.warped(photo_hwc, matrix, side_px=112)
    build = open_build(str(tmp_path / "labels")).packed
    packed = build.image(build.table["key"].to_pylist().index(row["key"]))
    assert np.abs(packed[:, :, ::-1].astype(int) - expected).mean() < 3, "but for JPEG"


def test_photo_of_which_the_face_reaches_over_the_border_is_black_there() -> None:
    photo_hwc = portraits((300, 220, 80), size_wh=(600, 450))
    (box,) = align.find(grey(photo_hwc))
    near_hwc = np.ascontiguousarray(photo_hwc[:, int(box.x0) + 10 :])
    aligner = Aligner.of(
        Configuration.of("folder", align="chip", template="arcface", margin="60%"), landmarks=align.landmarks_file()
    )
    assert aligner is not None
    try:
        chip_hwc = aligner.cut(near_hwc, box._replace(x0=-10, x1=box.x1 - box.x0 - 10)).image_hwc
    except image.BadImageError:
        pytest.fail("a face at the border is still a face")
    assert not chip_hwc[:, 0].any()
    assert chip_hwc[56].any()


@pytest.mark.parametrize("align_", ["none", "crop"])
def test_template_needs_chips(align_: Any) -> None:
    with pytest.raises(FieldError, match="template arcface: needs align chip"):
        Configuration.of("celeba", align=align_, template="arcface")
