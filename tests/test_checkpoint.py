"""checkpoint: whole or not there, and never more than tensors and plain values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from facepack.errors import JobError
from trainer import checkpoint

CONTENT = {"network": {"weight": torch.arange(6.0)}, "epoch": 3, "history": [{"loss": 0.5}], "thresholds": None}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.ckpt", CONTENT)
    kept = checkpoint.load(tmp_path / "last.ckpt")
    assert torch.equal(kept["network"]["weight"], torch.arange(6.0))
    assert {name: kept[name] for name in ("epoch", "history", "thresholds")} == {
        "epoch": 3,
        "history": [{"loss": 0.5}],
        "thresholds": None,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.ckpt", CONTENT)
    program = """
import resource, signal, sys, torch
from pathlib import Path
from facepack import terminal
from trainer import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the kernel refuses as it does on a full disk
with terminal.errors_as_lines(debug=False):
    checkpoint.save(Path(sys.argv[1]), {"weight": torch.zeros(1_000_000)})
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "last.ckpt")], capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "last.ckpt" in ended.stderr
    assert "too large" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoint.load(tmp_path / "last.ckpt")["epoch"] == 3


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -200])
def test_checkpoint_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    checkpoint.save(tmp_path / "last.ckpt", CONTENT)
    content = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(content[:cut])
    with pytest.raises(JobError, match=r"last\.ckpt: (damaged|refused)") as refused:
        checkpoint.load(tmp_path / "last.ckpt")
    assert "\n" not in str(refused.value)


def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(JobError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "list.ckpt")
    with pytest.raises(JobError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.ckpt")
