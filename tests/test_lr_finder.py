"""Learning-rate finder: the same curve each time, a rate within it, and no trace of the weights."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import make, tiny
from typer.testing import CliRunner

from facepack.cli import app
from facepack.errors import UsageError
from trainer import lr_finder
from trainer.lr_finder import FIRST_LR, NUM_STEPS, Curve


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("lr") / "build"
    make(celeba, out)
    return str(out)


def test_curve_is_the_same_each_time_and_grows_from_step_to_step(build: str) -> None:
    first, second = (lr_finder.find("tiny", tiny(), data=build, device="cpu") for _ in range(2))
    assert first == second
    assert first.rates[0] == FIRST_LR
    assert len(first.rates) <= NUM_STEPS
    steps = np.diff(np.log(first.rates))
    assert np.allclose(steps, steps[0])
    assert first.rates[0] < first.suggestion < first.rates[-1]
    assert first.losses[0] == pytest.approx(np.log(4), rel=0.5)


def test_suggestion_is_where_the_loss_falls_most_steeply() -> None:
    rates = np.geomspace(1e-6, 1, 300)
    losses = 2 / (1 + np.exp(4 * (np.log10(rates) + 3))) + np.where(rates > 0.1, 100 * (rates - 0.1) ** 2, 0)
    suggestion = Curve(tuple(rates), tuple(losses)).suggestion
    assert 5e-4 < suggestion < 3e-3  # steepest at 1e-3; the average lags behind


def test_command_writes_table_and_plot_and_no_run(build: str, tmp_path: Path) -> None:
    words = ["train", "celeba_rarest4_modern", "--data", build, "--out", str(tmp_path / "run"), "--device", "cpu"]
    small = ["--set", "network=small_resnet(widths=(8,))", "--set", "batch_size=16", "--find-lr"]
    ended = CliRunner().invoke(app, [*words, *small])
    assert ended.exit_code == 0, ended.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-lr.csv", "run-lr.png"]
    rows = list(csv.DictReader((tmp_path / "run-lr.csv").read_text().splitlines()))
    assert list(rows[0]) == ["lr", "loss", "smoothed"]
    suggested = float(ended.output.rsplit("--set lr=", 1)[1])
    assert float(rows[0]["lr"]) <= suggested <= float(rows[-1]["lr"])


def test_what_has_no_learning_rate_is_refused(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="fitted at once"):
        lr_finder.find("hog", tiny(network="hog_svm()", average=0.0), data=build, device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        lr_finder.find("tiny", tiny(), data=build, device="cpu")
