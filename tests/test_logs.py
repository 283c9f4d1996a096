"""logs and progress: what can be followed while a run lasts, without a network."""

from pathlib import Path

import pytest
from conftest import make, tiny, train

from facepack import terminal
from trainer.progress import TrainingProgress


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


def test_progress_is_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.progress._LINE_EVERY_S", -1.0)
    assert not terminal.err.is_terminal
    with TrainingProgress(num_steps=4, done=2, shown=True) as progress:
        progress.advance(epoch=1, loss=0.5, num_images=64)
        progress.line("epoch 2 is done")
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("step 3 of 4, loss 0.5000, ")
    assert first.endswith(" s left")
    assert last == "epoch 2 is done"


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.progress._LINE_EVERY_S", -1.0)
    with TrainingProgress(num_steps=4, done=0, shown=False) as progress:
        progress.advance(epoch=0, loss=0.5, num_images=64)
        progress.line("epoch 1 is done")
    assert capsys.readouterr().err == ""
