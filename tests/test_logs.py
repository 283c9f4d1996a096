"""logs and progress: what can be followed while a run lasts, without a network."""

from pathlib import Path

import pytest
from conftest import make, tiny, train

from facepack import terminal
from trainer import runs
from trainer.progress import TrainingProgress
from trainer.watching import EpochEnd, RunStart, StepEnd


@pytest.mark.slow
def test_weights_and_biases_follow_a_run_without_a_network(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    make(celeba, tmp_path / "build", split="60/20/20")
    train(tmp_path / "build", tmp_path / "run", tiny(), wandb=True)
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    assert b"epoch/valid_loss" in content
    assert b"small_resnet" in content, "its configuration is the recipe"


def start_of(folder: Path, *, is_first_rank: bool) -> RunStart:
    """A run of four steps, of which two are done."""
    return RunStart(
        run=runs.read(folder),
        folder=folder,
        step=2,
        num_steps=4,
        num_epochs=2,
        log_every=1,
        last_row=None,
        is_first_rank=is_first_rank,
    )


STEP = StepEnd(step=3, epoch=1, loss=0.5, lr=0.01, num_images=64)
EPOCH = EpochEnd(
    step=4,
    row={"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.75, "valid_loss": 0.25, "valid_accuracy": 1.0},
    times={"images_per_s": 1234.4, "train_s": 2.0, "wait_s": 0.5},
    is_best=True,
)


@pytest.fixture(scope="module")
def run_folder(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("logs")
    make(celeba, folder / "build", split="60/20/20")
    return train(folder / "build", folder / "run", tiny(epochs=1))


def test_progress_is_plain_lines_where_there_is_no_terminal(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = TrainingProgress(line_every_s=-1.0)
    assert not terminal.err.is_terminal
    progress.begin(start_of(run_folder, is_first_rank=True))
    progress.after_step(STEP)
    progress.after_epoch(EPOCH)
    progress.end()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("step 3 of 4, loss 0.5000, ")
    assert first.endswith(" s left")
    assert last == (
        "epoch   2 of 2, train loss 0.5000 accuracy 0.7500, valid loss 0.2500 accuracy 1.0000, "
        "1,234 images/s, 25.0 % waiting *"
    )


def test_other_ranks_print_nothing(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(line_every_s=-1.0)
    progress.begin(start_of(run_folder, is_first_rank=False))
    progress.after_step(STEP)
    progress.after_epoch(EPOCH)
    progress.end()
    assert capsys.readouterr().err == ""


def test_training_prints_nothing_by_itself(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(run_folder.parent / "build", run_folder.parent / "quiet", tiny(epochs=1))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
