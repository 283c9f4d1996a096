"""trainer: what `import trainer` gives, as a notebook uses it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make, tiny

import trainer
from facepack.errors import UsageError
from trainer.results.classes import ClassResults
from trainer.task import Attributes

SMALL: dict[str, Any] = {"network": "small_resnet(widths=(8,))", "epochs": 1, "batch_size": 16, "precision": "32-true"}


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "build"
    make(celeba, out, split="60/20/20")
    return out


def test_training_by_name_gives_a_finished_run_and_prints_nothing(
    build: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = trainer.train("celeba_rarest4_modern", data=build, out=tmp_path / "run", device="cpu", **SMALL)
    assert (run.folder, len(run.history), run.run.recipe_name) == (tmp_path / "run", 1, "celeba_rarest4_modern")
    results = run.results["test"]
    assert isinstance(results, ClassResults)
    assert results.num == 30
    assert (run.folder / "report.html").exists()
    network = run.network()
    assert not network.training
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert capfd.readouterr().out == ""
    again = trainer.evaluate(run.folder, device="cpu")
    assert again.results == run.results
    (predicted,) = trainer.Predictor(run.folder, device="cpu")(np.zeros((218, 178, 3), np.uint8))
    assert sum(predicted.probabilities.values()) == pytest.approx(1.0)


def test_recipes_of_ones_own_and_their_fields(build: Path, tmp_path: Path) -> None:
    run = trainer.train(tiny(epochs=3), data=build, out=tmp_path / "run", device="cpu", epochs=1, seed=4)
    assert (run.run.recipe_name, run.run.recipe.epochs, run.run.recipe.seed) == ("own", 1, 4)


def test_fields_are_values_text_or_objects_and_unknown_ones_are_refused(build: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no field 'epoch'; did you mean epochs"):
        trainer.train("celeba_rarest4", data=build, out=tmp_path / "run", device="cpu", epoch=1)
    with pytest.raises(UsageError, match="'tasks'"):
        trainer.train("celeba_rarest4", data=build, out=tmp_path / "run", device="cpu", tasks=Attributes())
    assert not (tmp_path / "run").exists()


def test_names_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, trainer; print('torch' in sys.modules, dir(trainer)); trainer.Loader; trainer.recipes.known()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("False ")
    for name in trainer.__all__:
        assert f"'{name}'" in ended.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trainer.nothing  # noqa: B018
