"""The wheel is complete: it installs into an empty environment and knows its datasets."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from facepack.description import dataset_names

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_installs_without_the_tools_of_development_and_lists_datasets(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {f"facepack/manifests/{name}.toml" for name in dataset_names()} <= set(names)
    assert {"facepack/py.typed", "trainer/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        str(ROOT / "constraints.txt"),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    installed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "pytest" not in installed
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "200"}
    facepack = tmp_path / "fresh" / "bin" / "facepack"
    listed = subprocess.run(
        [facepack, "datasets"], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    ).stdout
    assert all(name in listed for name in dataset_names())
