"""training: what a run learns, keeps and reports; stopped anywhere it goes on as if it never stopped."""

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import hear_interrupts, make, tiny, train
from hypothesis import given
from hypothesis import strategies as st

from facepack.errors import JobError, UsageError
from trainer import checkpoint, models, optim, recipes, runs, training
from trainer.loading.loader import Batch
from trainer.optim import SGD, Adam, Constant, Drop, InverseTime, OneCycle, Schedule
from trainer.recipe import Recipe
from trainer.task import Classes
from trainer.watching import EpochEnd, RunStart, StepEnd, Watcher

PYTHONPATH = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
"""Of child processes, so that they find these tests and the same checkout."""
TINY = "small_resnet(widths=(8, 16), dropout=0.2)"


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of drawn faces at 32 pixels."""
    out = tmp_path_factory.mktemp("fit") / "build"
    make(celeba, out, split="60/20/20")
    return out


def small(**choices: Any) -> Recipe:
    """With dropout, averaged weights, random augmentation and mixing."""
    return tiny(**{"network": TINY, "epochs": 3, "mixup": 0.2, **choices})


def weights(folder: Path, file: str = runs.LAST_FILE) -> dict[str, torch.Tensor]:
    """Everything that was learnt."""
    kept = checkpoint.load(folder / file)
    found = {f"network {name}": value for name, value in kept["network"].items()}
    return found | {f"averaged {name}": value for name, value in (kept.get("averaged") or {}).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """True where all tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class CtrlC(Watcher):
    """Presses Ctrl-C before the last of some steps."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def before_step(self, step: int, batch: Batch) -> None:  # noqa: ARG002
        """Press it once all steps but one are done."""
        if step + 1 == self._num_steps:
            signal.raise_signal(signal.SIGINT)


class Rows(Watcher):
    """Notes the rows of every step."""

    def __init__(self) -> None:
        self.of_steps: dict[int, list[int]] = {}

    def before_step(self, step: int, batch: Batch) -> None:
        """Note them, sorted."""
        self.of_steps[step] = sorted(batch.rows[batch.mask].tolist())


class Events(Watcher):
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.start: RunStart | None = None
        self.names: list[str] = []
        self.steps: list[StepEnd] = []
        self.epochs: list[EpochEnd] = []

    def begin(self, start: RunStart) -> None:
        """Note it."""
        self.start = start
        self.names.append("begin")

    def before_step(self, step: int, batch: Batch) -> None:  # noqa: ARG002
        """Note it."""
        self.names.append("before")

    def after_step(self, end: StepEnd) -> None:
        """Note it."""
        self.names.append("after")
        self.steps.append(end)

    def after_epoch(self, end: EpochEnd) -> None:
        """Note it."""
        self.names.append("epoch")
        self.epochs.append(end)

    def end(self) -> None:
        """Note it."""
        self.names.append("end")


@pytest.fixture(scope="module")
def whole(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    return train(build, tmp_path_factory.mktemp("runs") / "whole", small())


def test_run_leaves_all_that_it_promises(whole: Path) -> None:
    expected = {"run.json", "metrics.csv", "times.csv", "last.ckpt", "best.ckpt", "scores.json", "predictions.parquet"}
    assert {path.name for path in whole.iterdir()} == expected | {"tensorboard"}
    with (whole / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(0 < float(row["valid_loss"]) < 10 and 0 <= float(row["train_accuracy"]) <= 1 for row in rows)
    scores = json.loads((whole / "scores.json").read_text())
    assert set(scores["splits"]) == {"valid", "test"}
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    assert scores["epoch"] == int(best["epoch"])
    run = runs.read(whole)
    assert run.names == ("Bald", "Mustache", "Gray_Hair", "Pale_Skin")
    assert run.recipe == small()


def test_tensorboard_holds_every_epoch(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("epoch/valid_loss")) == 3
    assert len(events.Scalars("step/loss")) > 10


def test_watchers_are_called_around_each_step_and_after_each_epoch(build: Path, tmp_path: Path) -> None:
    events, again = Events(), Events()
    recipe = small(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(build, tmp_path / "run", recipe, watchers=[CtrlC(8), events])
    epoch = ["before", "after"] * 6 + ["epoch"]
    assert events.names == ["begin", *epoch, *["before", "after"] * 2, "end"], "also where it is stopped"
    assert [(end.step, end.epoch) for end in events.steps[5:7]] == [(6, 0), (7, 1)]
    train(build, tmp_path / "run", recipe, watchers=[again])
    assert again.names == ["begin", *["before", "after"] * 4, "epoch", "end"]
    assert again.start is not None
    assert (again.start.step, again.start.num_steps, again.start.num_epochs) == (8, 12, 2)
    assert again.start.last_row == events.epochs[0].row
    losses = [float(row["valid_loss"]) for row in metrics_of(tmp_path / "run")]
    assert losses == [end.row["valid_loss"] for end in (*events.epochs, *again.epochs)]


@pytest.mark.parametrize("stop", [4, 13, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 6, 7, 18))])
def test_stopped_anywhere_it_ends_with_the_same_weights_bit_for_bit(
    build: Path, whole: Path, tmp_path: Path, stop: int
) -> None:
    assert checkpoint.load(whole / runs.LAST_FILE)["step"] == 3 * 6
    with pytest.raises(KeyboardInterrupt):
        train(build, tmp_path / "run", small(), watchers=[CtrlC(stop)])
    assert checkpoint.load(tmp_path / "run" / runs.LAST_FILE)["step"] == stop
    train(build, tmp_path / "run", small())
    assert same(weights(tmp_path / "run"), weights(whole))
    assert same(weights(tmp_path / "run", runs.BEST_FILE), weights(whole, runs.BEST_FILE))
    for file in ("metrics.csv", "scores.json", "predictions.parquet"):
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow  # a quick sibling is the one above
def test_killed_without_warning_again_and_again_it_ends_with_the_same_weights(
    build: Path, whole: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; import test_training as here;"
        "here.train(Path(sys.argv[1]), Path(sys.argv[2]), here.small(), save_every_s=0.0)"
    )
    command = [sys.executable, "-c", program, str(build), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    rng = np.random.default_rng(0)
    for kill in (True, True, False):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        last = tmp_path / "run" / runs.LAST_FILE
        before = last.stat().st_mtime_ns if last.exists() else 0
        while kill and process.poll() is None:
            time.sleep(0.05 + 0.2 * rng.random())
            if last.exists() and last.stat().st_mtime_ns != before:
                process.kill()
                break
        process.wait(timeout=120)
    assert same(weights(tmp_path / "run"), weights(whole))
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_interrupt_keeps_the_step_it_was_at(build: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facepack", "train", "celeba_rarest4", "--data", str(build)]
    command += ["--out", str(tmp_path / "run"), "--set", "epochs=500", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    while not (tmp_path / "run" / runs.BEST_FILE).exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert checkpoint.load(tmp_path / "run" / runs.LAST_FILE)["step"] > 0
    assert not list((tmp_path / "run").glob("*.lock"))


RANKS = """
import os, sys
from pathlib import Path
import test_training as here
from conftest import train

build, out, recipe, stop = sys.argv[1:]
rank, rows = os.environ["RANK"], here.Rows()
stopping = [here.CtrlC(int(stop))] if rank == "1" else []  # one rank alone is interrupted
try:
    train(Path(build), Path(out), getattr(here, recipe)(), watchers=[rows, *stopping])
except KeyboardInterrupt:
    print("stopped")
lines = [f"{step} {' '.join(map(str, numbers))}\\n" for step, numbers in rows.of_steps.items()]
Path(f"{out}-rank{rank}.rows").write_text("".join(lines))
"""


def two_ranks(build: Path, out: Path, recipe: str, *, stop: int = 0) -> str:
    """Train on two ranks that torchrun starts; gives what they print."""
    (out.parent / "ranks.py").write_text(RANKS)
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += [str(out.parent / "ranks.py"), str(build), str(out), recipe, str(stop)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def rows_of_steps(files: list[Path]) -> dict[int, list[int]]:
    """Rows of every step, of all ranks together."""
    found: dict[int, list[int]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            step, *rows = map(int, line.split())
            found[step] = sorted(found.get(step, []) + rows)
    return found


@pytest.mark.slow
def test_two_ranks_see_the_batches_and_have_the_losses_of_one(build: Path, tmp_path: Path) -> None:
    two_ranks(build, tmp_path / "two", "plain")
    rows = Rows()
    train(build, tmp_path / "one", plain(), watchers=[rows])
    assert rows_of_steps(sorted(tmp_path.glob("two-rank*.rows"))) == rows.of_steps
    one, two = (metrics_of(tmp_path / name) for name in ("one", "two"))
    for row, other in zip(one, two, strict=True):
        for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=2e-4), name
    figures = [json.loads((tmp_path / name / "scores.json").read_text())["splits"]["test"] for name in ("one", "two")]
    assert figures[0]["num"] == figures[1]["num"]
    assert figures[0]["accuracy"] == pytest.approx(figures[1]["accuracy"], abs=0.021)


@pytest.mark.slow
def test_two_ranks_of_which_one_is_stopped_stop_together_and_go_on(build: Path, tmp_path: Path) -> None:
    two_ranks(build, tmp_path / "whole", "small")
    assert two_ranks(build, tmp_path / "run", "small", stop=8).count("stopped") == 2
    two_ranks(build, tmp_path / "run", "small")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def metrics_of(run: Path) -> list[dict[str, str]]:
    """metrics.csv."""
    with (run / runs.METRICS_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def plain() -> Recipe:
    """Nothing that depends on how many ranks share a batch: no dropout, no batch norm, no mixing."""
    still: dict[str, Any] = {"network": "simpsons_cnn(dropout=0.0)", "augment": small().eval_augment, "mixup": 0.0}
    return small(**still, optimizer=Adam(lr=1e-3), lr=1e-3, epochs=2)


def test_same_command_again_does_nothing_more(build: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    train(build, tmp_path / "run", small())
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    assert same(weights(tmp_path / "run"), weights(whole))


def test_folder_with_another_run_is_refused_and_kept(build: Path, whole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    with pytest.raises(
        UsageError, match=r"holds another run \(optimizer.lr: 0.01 there, 0.5 here\); give another --out"
    ):
        train(build, whole, small(lr=0.5))
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_loss_that_is_no_number_stops_with_step_rate_and_keys(build: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"loss is (nan|inf) at step \d+ \(epoch \d+, learning rate 1e\+20\)") as stopped:
        train(build, tmp_path / "run", small(optimizer=SGD(lr=1e20), schedule=Constant(), lr=1e20))
    keys = re.findall(r"[0-9a-f]{16}", str(stopped.value))
    assert 1 <= len(keys) <= 16
    assert not (tmp_path / "run" / "run.lock").exists()


def test_checkpoint_with_code_is_refused_and_not_run(build: Path, whole: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    shutil.copytree(whole, tmp_path / "run")
    torch.save({"network": Malicious()}, tmp_path / "run" / runs.LAST_FILE)
    with pytest.raises(JobError, match="refused: it holds code"):
        train(build, tmp_path / "run", small())
    (tmp_path / "run" / runs.LAST_FILE).write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(JobError, match="refused: it holds code"):
        train(build, tmp_path / "run", small())
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nonsense"])
def test_damaged_checkpoint_is_one_clear_line(build: Path, whole: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / runs.LAST_FILE).write_bytes(content)
    with pytest.raises(JobError, match=r"last\.ckpt: (damaged|refused)"):
        train(build, tmp_path / "run", small())


def test_build_without_valid_and_test_trains_and_keeps_the_last_epoch(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", split="100/0/0")
    train(tmp_path / "build", tmp_path / "run", small(epochs=2))
    assert checkpoint.load(tmp_path / "run" / runs.BEST_FILE)["epoch"] == 1
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["splits"] == {}


SCHEDULES = (Constant(), InverseTime(decay=1e-3), Drop(factor=1e-3, after_epochs=1), OneCycle())


@given(st.integers(0, 10_000), st.sampled_from(SCHEDULES))
def test_learning_rate_stays_within_its_bounds(step: int, schedule: Schedule) -> None:
    rate = small(lr=0.1, schedule=schedule).learning_rate(step=step, num_steps=10_000)
    assert 0 <= rate <= 0.1 + 1e-12
    if isinstance(schedule, InverseTime):
        assert rate == pytest.approx(0.1 / (1 + 1e-3 * step))


def test_rate_drops_when_its_epochs_are_over() -> None:
    recipe = small(lr=0.1, schedule=Drop(factor=0.1, after_epochs=2), epochs=5)
    rates = [recipe.learning_rate(step=step, num_steps=50) for step in range(50)]
    assert rates == [0.1] * 20 + [pytest.approx(0.01)] * 30


def test_layers_before_the_head_have_their_share_of_the_rate() -> None:
    network = models.network("resnet18()", num_outputs=3, size_hw=(64, 64))
    optimizer = optim.optimizer(small().optimizer, network, backbone_lr=0.1)
    optim.set_learning_rate(optimizer, 0.5)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in network.named_parameters():
        assert rates[id(weight)] == pytest.approx(0.5 if name.startswith("fc.") else 0.05), name
    assert {len(group["params"]) for group in optim.optimizer(small().optimizer, network).param_groups} == {21, 41}


def test_adagrad_is_that_of_keras() -> None:
    recipe = recipes.load("celeba_rarest4")
    weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    network = torch.nn.ParameterList([weight])
    optimizer = optim.optimizer(recipe.optimizer, network)
    accumulator, expected = 0.1, 1.0
    for step, gradient in enumerate([0.5, -2.0, 0.25]):
        weight.grad = torch.tensor([[gradient]])
        rate = recipe.learning_rate(step=step, num_steps=3)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        accumulator += gradient**2
        expected -= (1e-3 / (1 + 1e-5 * step)) * gradient / (accumulator**0.5 + 1e-7)
    assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_smoothed_labels_are_learnt_by_but_not_scored_by() -> None:
    task, outputs = Classes(label_smoothing=0.1), torch.tensor([[20.0, -20.0]])
    target = torch.tensor([0])
    assert task.losses(outputs, target).item() > 1
    assert task.scored.losses(outputs, target).item() < 1e-6


def test_run_gives_its_layers_and_frozen_ones_stay(build: Path, whole: Path, tmp_path: Path) -> None:
    recipe = small(weights=str(whole), freeze="head", average=0.0, epochs=2)
    train(build, tmp_path / "run", recipe)
    before, after = weights(whole, runs.BEST_FILE), weights(tmp_path / "run")
    features = [name for name in after if name.startswith("network features.")]
    assert features
    assert all(torch.equal(before[name], after[name]) for name in features), "batch norm, too"
    assert not torch.equal(before["network head.1.weight"], after["network head.1.weight"])
    run = runs.read(tmp_path / "run")
    assert run.num_learning == 16 * 4 + 4
    with pytest.raises(UsageError, match=r"not of small_resnet.*; give the network they are of with"):
        train(build, tmp_path / "other", replace(recipe, network="small_resnet(widths=(8, 32))"))


def test_network_that_is_not_known_offers_its_neighbours() -> None:
    with pytest.raises(UsageError, match="did you mean simpsons_cnn"):
        models.network("simpson_cnn()", num_outputs=3, size_hw=(64, 64))


@pytest.mark.gpu
def test_gpu_learns_what_the_cpu_learns_and_answers_photos_alike(
    build: Path, celeba: Path, tmp_path: Path, whole: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    from trainer.prediction import Predictor

    for precision in ("32-true", "auto"):
        out = tmp_path / precision
        training.train(
            "tiny", small(precision=precision), data=str(build), out=out, settings=training.Settings(device="cuda")
        )
        ours, theirs = metrics_of(out), metrics_of(whole)
        assert float(ours[0]["train_loss"]) == pytest.approx(float(theirs[0]["train_loss"]), rel=0.1)
        row = pq.read_table(out / runs.PREDICTIONS_FILE).to_pylist()[0]
        source = pq.read_table(build / "manifest.parquet")["source"][row["row"]].as_py()
        (answer,) = Predictor(out, device=torch.device("cuda"))(celeba / source)
        expected = dict(zip(runs.read(out).names, row["probabilities"], strict=True))
        assert answer.probabilities == pytest.approx(expected, abs=0.02)
        times = [float(one) for one in (out / runs.TIMES_FILE).read_text().splitlines()[1].split(",")[1:]]
        assert all(one >= 0 for one in times)
