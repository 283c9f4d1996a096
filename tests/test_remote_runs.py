"""remote_runs: a run at a URL loses nothing with the machine that it was trained on. A real S3 API over HTTP."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from conftest import make, tiny, train, use_s3

import trainer
from facepack.errors import JobError, UsageError
from facepack.lock import RUN, held
from facepack.storage import Store
from trainer import checkpoint, remote_runs, runs, training
from trainer.loading.loader import Batch
from trainer.recipe import Recipe
from trainer.watching import Watcher


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of drawn faces at 32 pixels."""
    out = tmp_path_factory.mktemp("remote_runs") / "build"
    make(celeba, out, split="60/20/20")
    return out


@pytest.fixture(scope="module")
def whole(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in a folder, never stopped."""
    return train(build, tmp_path_factory.mktemp("runs") / "whole", small())


@pytest.fixture
def place(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL for a run, and a cache of this test's own."""
    use_s3(monkeypatch, s3_server)
    monkeypatch.setenv("FACEPACK_CACHE", str(tmp_path / "cache"))
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[-60:].strip("-")
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return f"s3://{name}/runs/faces"


def small(**choices: Any) -> Recipe:
    return tiny(**{"network": "small_resnet(widths=(8, 16), dropout=0.2)", "epochs": 2, "mixup": 0.2, **choices})


def train_at(place: str, build: Path, *, watchers: Sequence[Watcher] = (), save_every_s: float = 60.0) -> None:
    where = training.Settings(device="cpu", save_every_s=save_every_s)
    training.train("tiny", small(), data=str(build), out=place, settings=where, watchers=watchers)


def weights(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    (folder / "some.ckpt").write_bytes(content)
    network: dict[str, torch.Tensor] = checkpoint.load(folder / "some.ckpt")["network"]
    return network


def check_is(place: str, whole: Path, folder: Path) -> None:
    """The run at a URL has what the run in a folder has, and no lock is left."""
    store = Store(place)
    for file in (runs.LAST_FILE, runs.BEST_FILE):
        expected = checkpoint.load(whole / file)["network"]
        there = weights(store.read(file), folder)
        assert all(torch.equal(there[name], expected[name]) for name in expected)
    for file in ("metrics.csv", "scores.json", "predictions.parquet"):
        assert store.read(file) == (whole / file).read_bytes()
    assert {path for path in store.list() if "lock" in path} == set()
    assert any(path.startswith("tensorboard/") for path in store.list())


class CtrlC(Watcher):
    """Presses Ctrl-C before a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def before_step(self, step: int, batch: Batch) -> None:  # noqa: ARG002
        """Press it."""
        if step == self._step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("step", [3, 9])
def test_another_machine_goes_on_where_a_stopped_run_was(
    build: Path, whole: Path, place: str, tmp_path: Path, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_at(place, build, watchers=[CtrlC(step)])
    assert runs.SCORES_FILE not in Store(place).list()
    shutil.rmtree(tmp_path / "cache")  # the machine is gone
    train_at(place, build)
    check_is(place, whole, tmp_path)


def test_run_that_is_killed_without_warning_loses_nothing(build: Path, whole: Path, place: str, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; import test_remote_runs as here\n"
        "class Kill(here.Watcher):\n"
        "    def before_step(self, step, batch):\n"
        "        if step == 8: os.kill(os.getpid(), 9)\n"
        "here.train_at(sys.argv[1], Path(sys.argv[2]), watchers=[Kill()], save_every_s=0.0)"
    )
    python_path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, place, str(build)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": python_path}, check=False, timeout=200)
    assert ended.returncode == -signal.SIGKILL
    (tmp_path / "some.ckpt").write_bytes(Store(place).read(runs.LAST_FILE))
    assert checkpoint.load(tmp_path / "some.ckpt")["step"] == 8
    shutil.rmtree(tmp_path / "cache")
    train_at(place, build)
    check_is(place, whole, tmp_path)


def test_two_machines_do_not_train_one_run(build: Path, place: str, tmp_path: Path) -> None:
    with held(Store(place), work=RUN), pytest.raises(JobError, match="another run is at work here"):
        train_at(place, build)
    assert [name for name in Store(place).list() if name != "run.lock"] == []


def test_other_commands_take_a_run_at_a_url(build: Path, celeba: Path, place: str, tmp_path: Path) -> None:
    record = trainer.train(small(epochs=1), data=build, out=place, device="cpu")
    assert (record.name, set(record.results)) == ("faces", {"valid", "test"})
    assert runs.REPORT_FILE in Store(place).list()
    assert remote_runs.is_run(place)
    assert not remote_runs.is_run(f"{place}/other")
    longer = trainer.resume(place, epochs=2, device="cpu")
    assert len(longer.history) == 2
    assert b"1, then 2" in Store(place).read(runs.RUN_FILE)
    (predicted,) = trainer.Predictor(place, device="cpu")(sorted((celeba / "img_align_celeba").iterdir())[0])
    assert (predicted.run, len(predicted.probabilities)) == ("faces", 4)
    trainer.evaluate(place, splits=["train"], device="cpu")
    assert b'"train"' in Store(place).read(runs.SCORES_FILE)
    trainer.export(place, kind="safetensors")
    assert {"export/model.safetensors", "export/README.md"} <= set(Store(place).list())


def test_folder_of_another_run_is_refused(build: Path, whole: Path, place: str) -> None:
    for file in (runs.RUN_FILE, runs.LAST_FILE):
        Store(place).write(file, (whole / file).read_bytes())
    told = rf"^{place}: holds another run \(optimizer.lr: 0.01 there, 0.5 here\)"
    with pytest.raises(UsageError, match=told):
        training.train("tiny", small(lr=0.5), data=str(build), out=place, settings=training.Settings(device="cpu"))
    assert Store(place).read(runs.RUN_FILE) == (whole / runs.RUN_FILE).read_bytes()
