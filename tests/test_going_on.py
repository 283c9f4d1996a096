"""going_on: a run trained for longer is the run that was planned so long, and another one begins with its weights."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make, tiny, train

import trainer
from facepack.errors import FieldError, UsageError
from trainer import checkpoint, evaluation, going_on, runs, training
from trainer.optim import Constant, OneCycle
from trainer.recipe import Recipe
from trainer.stopping import Patience

TINY = "small_resnet(widths=(8, 16), dropout=0.2)"


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of drawn faces at 32 pixels."""
    out = tmp_path_factory.mktemp("going_on") / "build"
    make(celeba, out, split="60/20/20")
    return out


def small(**choices: Any) -> Recipe:
    """With dropout, averaged weights, random augmentation and mixing, at one learning rate."""
    return tiny(**{"network": TINY, "mixup": 0.2, "schedule": Constant(), "epochs": 4, **choices})


@pytest.fixture(scope="module")
def short(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    return train(build, tmp_path_factory.mktemp("runs") / "short", small(epochs=2), keep_every=1)


def go_on(folder: Path, *settings: str) -> None:
    run = going_on.extended(folder, settings)
    training.train(
        run.recipe_name, run.recipe, data=run.locations, out=folder, settings=training.Settings(device="cpu")
    )


def tensors(folder: Path, file: str = runs.LAST_FILE) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = checkpoint.load(folder / file)["network"]
    return content


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def test_more_epochs_end_as_a_run_that_was_planned_so_long(build: Path, short: Path, tmp_path: Path) -> None:
    shutil.copytree(short, tmp_path / "run")
    go_on(tmp_path / "run", "epochs=4")
    whole = train(build, tmp_path / "whole", small())
    assert same(tensors(tmp_path / "run"), tensors(whole))
    assert same(tensors(tmp_path / "run", runs.BEST_FILE), tensors(whole, runs.BEST_FILE))
    for file in ("metrics.csv", "scores.json", "predictions.parquet"):
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()
    run = runs.read(tmp_path / "run")
    assert run.recipe.epochs == 4
    assert run.changes == [runs.Change(2, {"epochs": "2, then 4"})]
    go_on(tmp_path / "run")  # which changes nothing
    assert json.loads((tmp_path / "run" / "run.json").read_text())["changes"] == [
        {"epoch": 2, "settings": {"epochs": "2, then 4"}}
    ]


def test_library_goes_on_as_the_command_does(short: Path, tmp_path: Path) -> None:
    shutil.copytree(short, tmp_path / "run")
    record = trainer.resume(tmp_path / "run", epochs=3, device="cpu")
    assert (len(record.history), record.run.recipe.epochs) == (3, 3)
    assert (tmp_path / "run" / runs.REPORT_FILE).exists()


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        (["lr=0.5"], r"optimizer\.lr: a run goes on with other epochs, stopping or schedule alone; .*--from .*short"),
        (["epochs=1"], r"epochs=1: .*short was trained for 2 epochs already; give more"),
        (["schedule=OneCycle()"], r"epochs=2: .*short was trained for 2 epochs already; give more"),
        (["epochs=0"], "epochs"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused_and_nothing_changed(
    short: Path, settings: list[str], refusal: str
) -> None:
    before = (short / runs.RUN_FILE).read_bytes()
    with pytest.raises(UsageError, match=refusal):
        going_on.extended(short, settings)
    assert (short / runs.RUN_FILE).read_bytes() == before


def test_run_that_patience_ended_needs_more_of_it(build: Path, tmp_path: Path) -> None:
    # Nothing is learnt, so that no epoch is better than the first.
    stopping = Patience(1, monitor="score")
    recipe = small(network="rarest4_cnn(dropout=0.0)", average=0.0, lr=1e-12, stopping=stopping, epochs=5)
    run = train(build, tmp_path / "run", recipe)
    num_epochs = len((run / runs.METRICS_FILE).read_text().splitlines()) - 1
    assert num_epochs < 5
    with pytest.raises(UsageError, match=r"Patience\(.*\) ended it after epoch \d, and would again"):
        going_on.extended(run, ["epochs=6"])
    go_on(run, "stopping=ToTheEnd()")
    assert len((run / runs.METRICS_FILE).read_text().splitlines()) == 6


def test_rate_that_jumps_is_told(build: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = train(build, tmp_path / "run", small(schedule=OneCycle(), epochs=1))
    with caplog.at_level(logging.WARNING):
        going_on.extended(run, ["epochs=2"])
    assert "the learning rate goes on at" in caplog.text
    assert "over 2 epochs" in caplog.text


def test_train_with_more_epochs_names_the_way(build: Path, short: Path) -> None:
    with pytest.raises(UsageError, match=r"; facepack train --resume .*short --set epochs=4 goes on with it"):
        train(build, short, small())
    with pytest.raises(UsageError, match=r"give another --out, or delete it$"):
        train(build, short, small(mixup=0.3))


def test_another_run_begins_with_all_weights(build: Path, short: Path, tmp_path: Path) -> None:
    run, recipe = going_on.successor(short, ["lr=1e-12", "epochs=1", "average=0"])
    assert (run.locations, recipe.optimizer.lr, recipe.start.weights) == ([str(build)], 1e-12, str(short))
    after = train(build, tmp_path / "run", recipe)
    trained = {name: value for name, value in tensors(after).items() if "weight" in name or "bias" in name}
    earlier = tensors(short, runs.BEST_FILE)
    assert all(torch.allclose(trained[name], earlier[name], atol=1e-5) for name in trained), "the head, too"


def test_another_run_of_other_classes_is_refused(celeba: Path, short: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", split="60/20/20", classes="Smiling,Male,Young,Bald")
    _, recipe = going_on.successor(short, [])
    with pytest.raises(UsageError, match="its classes are not those of"):
        train(tmp_path / "build", tmp_path / "run", recipe)


def test_checkpoints_are_kept_every_so_many_epochs(build: Path, short: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in short.glob("epoch-*.ckpt")) == ["epoch-0001.ckpt", "epoch-0002.ckpt"]
    assert same(tensors(short, "epoch-0002.ckpt"), tensors(short))
    assert not same(tensors(short, "epoch-0001.ckpt"), tensors(short))
    begun = small(weights=str(short / "epoch-0001.ckpt"), lr=1e-12, epochs=1)
    after = evaluation.load_network(
        train(build, tmp_path / "run", begun), runs.read(tmp_path / "run"), device=torch.device("cpu")
    )
    first, earlier = next(iter(after.network.state_dict().items())), tensors(short, "epoch-0001.ckpt")
    assert torch.allclose(first[1], earlier[first[0]], atol=1e-5)
    with pytest.raises(FieldError, match="keep_every -1: expected epochs"):
        training.Settings(keep_every=-1)
