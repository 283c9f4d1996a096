"""exporting: a file gives what its run gives, where facepack is not, and says what it needs to be used."""

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make, tiny, train
from PIL import Image

from facepack.drawn import synthetic
from facepack.errors import FieldError, UsageError
from trainer import evaluation, exporting, runs
from trainer.recipe import UNIT
from trainer.task import Attributes, Number

KINDS = ("onnx", "safetensors", "torch-export")


@pytest.fixture(scope="module")
def run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated run whose predictions are averaged with those of mirror images."""
    folder = tmp_path_factory.mktemp("export")
    make(celeba, folder / "build", split="60/20/20", classes="none", size="32x40")
    recipe = tiny(epochs=1, task=Attributes(), balanced=False, flip_at_test=True)
    return train(folder / "build", folder / "run", recipe)


@pytest.mark.parametrize("kind", KINDS)
def test_file_gives_what_the_run_gives(run: Path, kind: str, tmp_path: Path) -> None:
    exported = exporting.export(run, kind=kind, out=tmp_path / f"file{exporting.SUFFIXES[kind]}")
    assert exported.comparison.num_photos > 32
    assert exported.comparison.largest_of_predictions < 1e-5
    assert exported.path.stat().st_size > 1000
    metadata = exported.metadata
    assert json.loads(metadata["names"]) == list(runs.read(run).names)
    assert json.loads(metadata["size"]) == [32, 40]
    assert len(json.loads(metadata["mean"])) == len(json.loads(metadata["std"])) == 3
    assert len(json.loads(metadata["thresholds"])) == len(json.loads(metadata["names"])) == 40
    assert json.loads(metadata["crop"])["align"] == "none"
    assert json.loads(metadata["compared"])["num_photos"] == exported.comparison.num_photos


@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
def test_example_of_the_card_runs_without_facepack(run: Path, celeba: Path, kind: str, tmp_path: Path) -> None:
    exported = exporting.export(run, kind=kind, out=tmp_path / f"file{exporting.SUFFIXES[kind]}")
    shutil.copy(sorted((celeba / "img_align_celeba").iterdir())[0], tmp_path / "photo.jpg")
    card = exported.card.read_text()
    code = "\n".join(re.findall(r"^    (.*)$|^$", card.partition("## Use")[2].partition("The file was")[0], re.M))
    blocked = "import sys; sys.modules.update(facepack=None, trainer=None)\n"
    ended = subprocess.run(
        [sys.executable, "-I", "-c", blocked + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    predicted = ast.literal_eval(ended.stdout)
    loaded = runs.read(run)
    assert list(predicted) == list(loaded.names)
    trained = evaluation.load_network(run, loaded, device=torch.device("cpu"))
    mean, std = loaded.statistics.mean, loaded.statistics.std
    with Image.open(tmp_path / "photo.jpg") as opened:
        resized = opened.convert("RGB").resize((32, 40), Image.Resampling.BILINEAR)
    pixels = (np.asarray(resized, np.float32) / 255 - mean) / std
    images = torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1)[None].copy())
    logits = evaluation.forward(trained.network, images, run=loaded) / trained.temperature
    assert list(predicted.values()) == pytest.approx(loaded.recipe.task.predictions(logits)[0].tolist(), abs=1e-5)


def test_card_says_what_it_was_trained_on_and_how_right_it_is(run: Path, tmp_path: Path) -> None:
    card = exporting.export(run, kind="safetensors", out=tmp_path / "a.safetensors").card.read_text()
    assert "Predicts 5_o_Clock_Shadow, Arched_Eyebrows," in card
    assert "CelebA" in card
    assert "terms of the photos" in card
    assert re.search(r"\| test \| \d+ \| ", card)
    assert "32x40 pixels" in card


def test_safetensors_hold_the_weights_under_their_own_names(run: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    exported = exporting.export(run, kind="safetensors", out=tmp_path / "a.safetensors")
    with safe_open(exported.path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        assert file.metadata() == exported.metadata
    expected = evaluation.load_network(run, runs.read(run), device=torch.device("cpu")).network.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_number_is_exported_in_its_unit(celeba: Path, tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "utkface", num_images=80)
    make(tmp_path / "utkface", tmp_path / "build", dataset="utkface", classes="", split="60/20/20")
    recipe = tiny(epochs=1, task=Number("age", middle=35.0, scale=10.0), balanced=False, calibrate=False)
    folder = train(tmp_path / "build", tmp_path / "run", recipe)
    exported = exporting.export(folder)
    assert exported.path == folder / "export" / "model.onnx"
    assert exported.comparison.largest_of_predictions < 1e-3
    assert json.loads(exported.metadata["names"]) == []
    (tmp_path / "build").rename(tmp_path / "moved")
    assert exporting.export(folder, kind="torch-export").comparison.num_photos == 0, "its build is gone"
    compared = exporting.export(folder, kind="torch-export", data=str(tmp_path / "moved")).comparison
    assert compared.num_photos > 10


def test_what_cannot_be_exported_is_refused(run: Path, celeba: Path, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="format tflite: expected onnx, safetensors, torch-export"):
        exporting.export(run, kind="tflite")
    make(celeba, tmp_path / "build", split="60/20/20", limit=120)
    recipe = tiny("celeba_rarest4_modern", network="hog_svm()", weights="", mixup=0.0, average=0.0, calibrate=False)
    recipe = replace(recipe, augment=(UNIT,), eval_augment=(UNIT,))
    folder = train(tmp_path / "build", tmp_path / "svm", recipe)
    with pytest.raises(UsageError, match="is fitted by scikit-learn, and is no network to export"):
        exporting.export(folder)
