"""Faces are known by the distance of their descriptors, from one photo of each person on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make, train

from facepack import image
from facepack.drawn import synthetic
from facepack.errors import UsageError
from trainer import models, recipes
from trainer.models.face_descriptor import LIMITS
from trainer.prediction import Predictor

SIZE = (150, 150)


def network(*, num_outputs: int = 3, text: str = "face_descriptor()") -> models.FitAtOnce:
    made = models.network(text, num_outputs=num_outputs, size_hw=SIZE)
    assert isinstance(made, models.FitAtOnce)
    return made


def at(*places: float) -> "np.typing.NDArray[np.float32]":
    """Descriptors on a line."""
    return np.array([[place] + [0.0] * 127 for place in places], np.float32)


def test_nearest_person_within_the_limit_is_named_and_others_are_nobody() -> None:
    known = network()
    known.fit(at(0.0, 0.1, 0.2, 1.5, 9.0), np.array([0, 0, 0, 1, 2]), seed=0)
    logits = known.predict(at(0.1, 0.1 + LIMITS[2] + 0.01, 1.4, 1.5 + LIMITS[0] - 0.01, 1.5 + LIMITS[0] + 0.01))
    assert logits.argmax(dim=1).tolist() == [0, 2, 1, 1, 2]
    assert logits.dtype == torch.float32


def test_person_without_photos_is_never_named() -> None:
    known = network()
    known.fit(at(0.0), np.array([1]), seed=0)
    assert known.predict(at(0.0, 0.3, 2.0)).argmax(dim=1).tolist() == [1, 1, 2]
    without = network(num_outputs=2, text="face_descriptor(others=False)")
    without.fit(at(0.0, 1.0), np.array([0, 1]), seed=0)
    assert without.predict(at(5.0)).argmax(dim=1).tolist() == [1]


def test_what_it_knows_is_kept_as_tensors() -> None:
    known, again = network(), network()
    known.fit(at(0.0, 1.0), np.array([0, 1]), seed=0)
    assert isinstance(known, torch.nn.Module) and isinstance(again, torch.nn.Module)
    again.load_state_dict(known.state_dict(), strict=True)
    assert torch.equal(again.predict(at(0.2, 0.9)), known.predict(at(0.2, 0.9)))


def test_descriptor_of_a_mirror_image_is_the_same() -> None:
    chips = torch.rand(2, 3, *SIZE)
    features = network().features(chips)
    assert features.shape == (2, 128)
    assert np.abs(features - network().features(chips.flip(-1))).max() < 2e-6


def test_other_images_than_chips_are_refused() -> None:
    with pytest.raises(UsageError, match=r"chips of 150x150 pixels: facepack build ... --align chip --size 150"):
        models.network("face_descriptor()", num_outputs=3, size_hw=(112, 112))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two drawn people, ten of each, lighter and darker; builds of chips of them, and of twenty others."""
    folder = tmp_path_factory.mktemp("people")
    synthetic.draw("cacd", folder / "cacd", num_images=22)
    first, second, *_ = sorted((folder / "cacd" / "CACD2000").iterdir())
    for name, photo in (("Ada", first), ("Grace", second)):
        pixels = image.decode(photo.read_bytes())
        photo.unlink()
        for number in range(10):
            lit = np.clip(pixels.astype(float) * (0.8 + 0.03 * number), 0, 255).astype(np.uint8)
            path = folder / "own" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.encode_jpeg(lit, quality=95))
    chips: dict[str, Any] = {"align": "chip", "size": "150", "classes": "", "split": "60/20/20"}
    make(folder / "own", folder / "build", dataset="folder", **chips)
    make(folder / "cacd", folder / "others", dataset="cacd", **chips)
    return folder


def test_run_names_the_people_of_a_photo(people: Path, tmp_path: Path) -> None:
    recipe = recipes.load("own_face_descriptor", [f"negatives={people / 'others'}", "negatives.times=1"])
    run = train(people / "build", tmp_path / "run", recipe)
    predictor = Predictor(run, all_faces=True, device="cpu")
    assert predictor.names["run"] == ("Ada", "Grace", "other")
    both = np.concatenate([image.decode((people / "own" / n / "5.jpg").read_bytes()) for n in ("Ada", "Grace")], axis=1)
    predictions = sorted(predictor(both[:, :, ::-1]), key=lambda prediction: prediction.box or ())
    assert [next(iter(prediction.probabilities)) for prediction in predictions] == ["Ada", "Grace"]
