"""shadow: another package called trainer is refused in one line that says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facepack import shadow

ROOT = Path(__file__).parents[1]


def facepack_with(folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", "facepack", "recipes"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["trainer.py", "trainer/__init__.py"])
def test_another_trainer_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise RuntimeError('it must not even be imported')\n")
    ended = facepack_with(tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: 'trainer' is {(tmp_path / name).resolve()}, which hides facepack's own {ROOT / 'trainer'}: rename it, "
        "start Python from another folder, or take its folder out of PYTHONPATH\n"
    )


def test_our_own_trainer_is_taken() -> None:
    shadow.check_trainer()
    assert (ROOT / "trainer" / "__init__.py").exists()
