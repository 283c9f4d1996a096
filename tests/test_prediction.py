"""prediction: a photo is treated as the images that the run learnt from, and has a problem where it cannot be."""

import json
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make, tiny, train
from PIL import Image

from facepack.align import Box
from facepack.drawn import synthetic
from facepack.errors import UsageError
from facepack.image import decode
from facepack.manifest import Status
from trainer import contact_sheet, prediction_files, runs
from trainer.photos import Named, Photo, Unreadable
from trainer.prediction import Prediction, Predictor
from trainer.results.attributes import AttributeResults
from trainer.results.classes import ClassResults
from trainer.results.numbers import NumberResults
from trainer.task import Number


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def run(request: pytest.FixtureRequest, celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on whole photos."""
    folder = tmp_path_factory.mktemp("predict")
    make(celeba, folder / "build", split="60/20/20", encoding=request.param)
    return train(folder / "build", folder / "run", tiny(epochs=1, calibrate=False))


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on faces cut out of uncropped photos, its build and its source."""
    folder = tmp_path_factory.mktemp("wild")
    synthetic.draw("utkface", folder / "utkface", num_images=120)
    make(
        folder / "utkface",
        folder / "build",
        dataset="utkface",
        classes="",
        align="crop",
        margin="20%",
        split="60/20/20",
    )
    task = Number("age", middle=35.0, scale=10.0)
    train(folder / "build", folder / "run", tiny(epochs=1, task=task, balanced=False))
    return folder


def packed_rows(build: Path) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(build / "manifest.parquet").to_pylist() if row["status"] == "packed"]


def test_photo_gets_the_very_prediction_that_its_packed_image_got(celeba: Path, run: Path) -> None:
    sources = {row["key"]: row["source"] for row in packed_rows(run.parent / "build")}
    predictor = Predictor(run, device="cpu")
    names = runs.read(run).names
    for row in pq.read_table(run / runs.PREDICTIONS_FILE).to_pylist()[:8]:
        (predicted,) = predictor(celeba / sources[row["key"]])
        expected = dict(zip(names, row["probabilities"], strict=True))
        assert predicted.probabilities == pytest.approx(expected, abs=2e-6)
        assert next(iter(predicted.probabilities)) == row["prediction"], "the likeliest first"
        assert (predicted.box, predicted.number, predicted.problem) == (None, None, "")


def test_paths_bytes_images_and_arrays_get_the_same_prediction(celeba: Path, run: Path) -> None:
    path = sorted((celeba / "img_align_celeba").iterdir())[0]
    pixels = np.ascontiguousarray(decode(path.read_bytes())[:, :, ::-1])
    predictor = Predictor(str(run), device="cpu")
    photos: list[Photo] = [path, str(path), path.read_bytes(), Image.fromarray(pixels), pixels]
    predictions = predictor(photos)
    assert [predicted.photo for predicted in predictions] == [str(path), str(path), "photo 3", "photo 4", "photo 5"]
    assert {predicted.run for predicted in predictions} == {"run"}
    for predicted in predictions[:3]:
        assert predicted.probabilities == predictions[0].probabilities
    assert predictions[3].probabilities == predictions[4].probabilities
    # Files are decoded at a reduced scale, as they were in the build.
    assert predictions[4].probabilities == pytest.approx(predictions[0].probabilities, abs=0.01)
    assert predictor(pixels)[0].photo == "photo 1", "one alone, too"
    assert len(predictor(np.stack([pixels, pixels]))) == 2
    assert predictor(photo for photo in [path]) == predictor(path)


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (7, "int"),
        ([7], "int"),
    ],
)
def test_what_is_no_photo_is_refused(run: Path, photo: Any, told: str) -> None:
    with pytest.raises(UsageError, match=rf"photo: {told}; expected a path, bytes, a PIL image, or a uint8 RGB array"):
        Predictor(run, device="cpu")(photo)


def test_face_is_cut_out_as_the_build_did(wild: Path) -> None:
    rows = {row["key"]: row for row in packed_rows(wild / "build")}
    predictor = Predictor(wild / "run", device="cpu")
    for row in pq.read_table(wild / "run" / runs.PREDICTIONS_FILE).to_pylist()[:8]:
        (predicted,) = predictor(wild / "utkface" / rows[row["key"]]["source"])
        assert predicted.number == pytest.approx(row["prediction"], abs=1e-3)
        assert predicted.box == pytest.approx(rows[row["key"]]["box"], abs=0.1)
        assert predicted.probabilities == {}


def test_faces_are_looked_for_on_several_threads(wild: Path) -> None:
    photos = [wild / "utkface" / row["source"] for row in packed_rows(wild / "build")[:40]]
    predictor = Predictor(wild / "run", device="cpu", batch_size=8)
    expected = [predicted for photo in photos for predicted in predictor(photo)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(predictor, [photos] * 4, timeout=100))
    for predictions in together:
        assert [predicted.box for predicted in predictions] == [predicted.box for predicted in expected]
        numbers = [predicted.number for predicted in predictions]
        assert numbers == pytest.approx([predicted.number for predicted in expected], abs=1e-3)


def two_faces(wild: Path) -> npt.NDArray[np.uint8]:
    """Two packed faces side by side, BGR."""
    rows = packed_rows(wild / "build")
    return np.hstack([decode((wild / "utkface" / row["source"]).read_bytes()) for row in rows[:2]])


def test_photo_without_a_face_or_with_several_has_a_problem(wild: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "two.png"), two_faces(wild))
    cv2.imwrite(str(tmp_path / "none.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "text.jpg").write_text("no picture")
    photos = [tmp_path / name for name in ("two.png", "none.png", "text.jpg", "absent.jpg")]
    problems = [predicted.problem for predicted in Predictor(wild / "run", device="cpu")(photos)]
    statuses = (Status.SEVERAL_FACES, Status.NO_FACE, Status.NOT_AN_IMAGE)
    assert problems == [*(status.meaning for status in statuses), "cannot be read: No such file or directory"]


def test_all_faces_of_a_photo_are_predicted(wild: Path) -> None:
    rgb = np.ascontiguousarray(two_faces(wild)[:, :, ::-1])
    predictions = Predictor(wild / "run", device="cpu", all_faces=True)(rgb)
    assert [predicted.problem for predicted in predictions] == ["", ""]
    left, right = sorted(predicted.box[0] for predicted in predictions if predicted.box is not None)
    assert right - left > 50


def test_several_runs_side_by_side(run: Path, wild: Path, celeba: Path) -> None:
    photos = sorted((celeba / "img_align_celeba").iterdir())[:2]
    predictions = Predictor([run, wild / "run"], device="cpu")(photos)
    assert [predicted.photo for predicted in predictions] == [str(photos[0])] * 2 + [str(photos[1])] * 2
    first, second = (predicted.to_dict() for predicted in predictions[:2])
    assert first["probabilities"].keys() == {"Bald", "Mustache", "Gray_Hair", "Pale_Skin"}
    assert first["number"] is None
    assert second["problem"] or second["number"] > 0
    shown = prediction_files.table(predictions)
    assert (shown.row_count, len(shown.columns)) == (2, 3)
    png = contact_sheet.png_of(predictions)
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape[0] > 400
    assert pixels.std() > 20


def test_all_faces_of_whole_photos_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="trained on whole photos"):
        Predictor(run, device="cpu", all_faces=True)


def test_device_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="device gpu: expected cpu, or cuda"):
        Predictor(run, device="gpu")


def test_runs_of_one_name_stay_apart(wild: Path, tmp_path: Path) -> None:
    shutil.copytree(wild / "run", tmp_path / "run")
    photo = wild / "utkface" / packed_rows(wild / "build")[0]["source"]
    predictions = Predictor([wild / "run", tmp_path / "run"], device="cpu")(photo)
    assert [predicted.run for predicted in predictions] == [f"{wild.name}/run", f"{tmp_path.name}/run"]


def test_predictions_in_words() -> None:
    assert NumberResults.photo_lines([("age", 0.6)]) == ["age 0.6"]
    classes = [("a", 0.6), ("b", 0.3), ("c", 0.095), ("d", 0.005)]
    assert ClassResults.photo_lines(classes) == ["a 60 %", "b 30 %", "c 10 %"]
    assert AttributeResults.photo_lines([("a", 0.9), ("b", 0.5), ("c", 0.4)]) == ["a 90 %", "b 50 %"]
    assert AttributeResults.photo_lines([("a", 0.2), ("b", 0.1)]) == ["a 20 %"], "the likeliest where there is none"


def test_prediction_as_json_has_it() -> None:
    predicted = Prediction(
        "me.jpg", "run", Box(1.04, 2.0, 3.0, 4.0), probabilities={"a": 0.12345678}, lines=("a 12 %",)
    )
    assert json.loads(json.dumps(predicted.to_dict())) == {
        "photo": "me.jpg",
        "run": "run",
        "box": [1.0, 2, 3, 4],
        "probabilities": {"a": 0.123457},
        "number": None,
        "problem": None,
    }


def numbers_of(predictions: list[Prediction]) -> list[list[float]]:
    """Probabilities in the order of their names, photo by photo."""
    return [[value for _, value in sorted(predicted.probabilities.items())] for predicted in predictions]


def test_batches_of_any_size_give_the_same_in_the_order_of_the_photos(celeba: Path, run: Path) -> None:
    photos: list[Photo] = [*sorted((celeba / "img_align_celeba").iterdir())[:11], b"no picture", "absent.jpg"]
    expected = [predicted for photo in photos for predicted in Predictor(run, device="cpu", batch_size=1)(photo)]
    for batch_size in (2, 5, 64):
        predictions = Predictor(run, device="cpu", batch_size=batch_size)(photos)
        assert [predicted.photo for predicted in predictions[:11]] == [str(photo) for photo in photos[:11]]
        assert [predicted.problem for predicted in predictions] == [predicted.problem for predicted in expected]
        assert np.allclose(numbers_of(predictions[:11]), numbers_of(expected[:11]), atol=1e-6)
    with pytest.raises(UsageError, match="batch_size 0: expected 1 or more"):
        Predictor(run, device="cpu", batch_size=0)


def test_batches_side_by_side_give_what_one_after_the_other_gives_to_the_last_digit(celeba: Path, run: Path) -> None:
    photos = sorted((celeba / "img_align_celeba").iterdir())[:40]
    before = torch.get_num_threads()
    predictor = Predictor(run, device="cpu", batch_size=4)
    assert torch.get_num_threads() == before, "a setting of the whole process stays as it is"
    streamed = predictor(photos)
    alone = [prediction for start in range(0, 40, 4) for prediction in predictor(photos[start : start + 4])]
    assert [prediction.photo for prediction in streamed] == [f"{photo}" for photo in photos]
    assert streamed == alone


def test_threads_share_a_predictor(celeba: Path, run: Path) -> None:
    photos = sorted((celeba / "img_align_celeba").iterdir())[:24]
    predictor = Predictor(run, device="cpu", batch_size=4)
    expected = numbers_of(predictor(photos))
    with ThreadPoolExecutor(8) as threads:
        alone = list(threads.map(predictor, photos, timeout=60))
        together = list(threads.map(predictor, [photos] * 8, timeout=60))
    assert np.allclose([numbers_of(predictions)[0] for predictions in alone], expected, atol=1e-6)
    for predictions in together:
        assert np.allclose(numbers_of(predictions), expected, atol=1e-6)


def test_another_process_loads_a_predictor_anew(celeba: Path, run: Path) -> None:
    photos = sorted((celeba / "img_align_celeba").iterdir())[:6]
    predictor = Predictor(run, device="cpu")
    assert len(pickle.dumps(predictor)) < 1000, "its runs are named, not sent"
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        predictions = processes.submit(predictor, photos).result(timeout=120)
    assert np.allclose(numbers_of(predictions), numbers_of(predictor(photos)), atol=1e-6)


def test_photos_without_end_are_predicted_as_they_come(celeba: Path, run: Path) -> None:
    content = sorted((celeba / "img_align_celeba").iterdir())[0].read_bytes()
    taken: list[int] = []

    def camera() -> Iterator[Photo]:
        for number in count():
            taken.append(number)
            yield Named(f"frame {number}", content)

    predictions = list(islice(Predictor(run, device="cpu", batch_size=4).iterate(camera()), 10))
    assert [predicted.photo for predicted in predictions] == [f"frame {number}" for number in range(10)]
    assert len(taken) <= (5 + torch.get_num_threads()) * 4, "a few batches are read ahead"


def test_pixels_that_are_too_small_have_the_problem_of_a_file(run: Path) -> None:
    photos: list[Photo] = [np.zeros((3, 3, 3), np.uint8), Unreadable("clip.mp4", "no video that can be read")]
    small, unreadable = Predictor(run, device="cpu")(photos)
    assert small.problem == Status.TOO_SMALL.meaning
    assert (unreadable.photo, unreadable.problem) == ("clip.mp4", "no video that can be read")
