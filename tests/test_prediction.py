"""predict: a photo is treated as the images that the run learnt from, and says so where it cannot be."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make, tiny, train

from facepack.drawn import synthetic
from facepack.errors import JobError, UsageError
from facepack.image import decode
from trainer import prediction, runs
from trainer.prediction import Predictor
from trainer.task import Number

CPU = torch.device("cpu")


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


def test_photo_gets_the_very_answer_that_its_packed_image_got(celeba: Path, run: Path) -> None:
    build = run.parent / "build"
    sources = {row["key"]: row["source"] for row in pq.read_table(build / "manifest.parquet").to_pylist()}
    predictor = Predictor(run, device=CPU)
    names = runs.read(run).names
    for row in pq.read_table(run / runs.PREDICTIONS_FILE).to_pylist()[:8]:
        (answer,) = predictor(celeba / sources[row["key"]])
        expected = dict(zip(names, row["probabilities"], strict=True))
        assert dict(answer.said) == pytest.approx(expected, abs=2e-6)
        assert answer.said[0][0] == row["prediction"]
        assert answer.box is None


def test_face_is_cut_out_as_the_build_did(wild: Path) -> None:
    rows = pq.read_table(wild / "build" / "manifest.parquet").to_pylist()
    known = {row["key"]: row for row in rows}
    predictor = Predictor(wild / "run", device=CPU)
    for row in pq.read_table(wild / "run" / runs.PREDICTIONS_FILE).to_pylist()[:8]:
        (answer,) = predictor(wild / "utkface" / known[row["key"]]["source"])
        assert dict(answer.said)["age"] == pytest.approx(row["prediction"], abs=1e-3)
        assert answer.box == pytest.approx(known[row["key"]]["box"], abs=0.1)


def two_faces(wild: Path) -> np.ndarray:
    """Two packed faces side by side."""
    rows = [row for row in pq.read_table(wild / "build" / "manifest.parquet").to_pylist() if row["status"] == "packed"]
    return np.hstack([decode((wild / "utkface" / row["source"]).read_bytes()) for row in rows[:2]])


def test_photo_without_a_face_or_with_several_is_said_so(wild: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "two.png"), two_faces(wild))
    cv2.imwrite(str(tmp_path / "none.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "text.jpg").write_text("no picture")
    names = ["two.png", "none.png", "text.jpg"]
    answers = prediction.predict([wild / "run"], [tmp_path / name for name in names], device=CPU)
    assert [answer.lines for answer in answers] == [
        ["several faces; --all-faces takes each"],
        ["no face found"],
        ["not an image"],
    ]
    every = prediction.predict([wild / "run"], [tmp_path / "two.png"], device=CPU, all_faces=True)
    assert len(every) == 2
    assert all(not answer.problem and answer.box is not None for answer in every)
    left, right = sorted(answer.box[0] for answer in every if answer.box is not None)
    assert right - left > 50
    with pytest.raises(JobError, match="none of 3 photos could be predicted"):
        prediction.show(answers, as_json=False)


def test_several_runs_side_by_side(run: Path, wild: Path, celeba: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = sorted((celeba / "img_align_celeba").iterdir())[:2]
    answers = prediction.predict([run, wild / "run"], photos, device=CPU)
    assert [answer.photo for answer in answers] == [photos[0], photos[0], photos[1], photos[1]]
    prediction.show(answers, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told[0]["said"].keys() == {"Bald", "Mustache", "Gray_Hair", "Pale_Skin"}
    assert told[1]["problem"] or "age" in told[1]["said"]
    png = prediction.picture(answers)
    shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape[0] > 400
    assert shown.std() > 20


def test_all_faces_of_whole_photos_is_refused(run: Path, celeba: Path) -> None:
    with pytest.raises(UsageError, match="trained on whole photos"):
        prediction.predict([run], [celeba / "img_align_celeba" / "000001.jpg"], device=CPU, all_faces=True)


def test_folders_give_their_images_and_empty_ones_an_error(celeba: Path, tmp_path: Path) -> None:
    assert len(prediction.photos_of([str(celeba / "img_align_celeba")])) == 300
    with pytest.raises(UsageError, match="no image in this folder"):
        prediction.photos_of([str(tmp_path)])
    with pytest.raises(UsageError, match=r"nobody\.jpg: no such photo"):
        prediction.photos_of([str(tmp_path / "nobody.jpg")])


def test_runs_of_one_name_stay_apart_and_ages_below_one_are_no_shares(wild: Path, tmp_path: Path) -> None:
    shutil.copytree(wild / "run", tmp_path / "run")
    photo = wild / "utkface" / pq.read_table(wild / "build" / "manifest.parquet")["source"][0].as_py()
    answers = prediction.predict([wild / "run", tmp_path / "run"], [photo], device=CPU)
    assert len({answer.run for answer in answers}) == 2
    assert prediction.Answer(photo, "run", said=(("age", 0.6),), is_number=True).lines == ["age 0.6"]
    assert prediction.Answer(photo, "run", said=(("Bald", 0.6),)).lines == ["Bald 60 %"]
