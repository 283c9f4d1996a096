"""The wheel is complete: it has its metadata, installs into an empty environment and knows its datasets."""

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import facepack
from facepack.description import dataset_names

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_version_is_the_same_everywhere() -> None:
    assert facepack.__version__ == PROJECT["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^version: (.+)$", citation) == [PROJECT["version"]]
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_versions_of_python_are_the_same_everywhere() -> None:
    minors = [name.rpartition(".")[2] for name in PROJECT["classifiers"] if " :: 3." in name]
    assert PROJECT["requires-python"] == f">=3.{minors[0]},<3.{int(minors[-1]) + 1}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {minors[0]}) <= sys.version_info < (3, {int(minors[-1]) + 1})" in makefile
    assert all(f"python3.{minor} " in makefile for minor in minors)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_installs_without_the_tools_of_development_and_lists_datasets(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = HeaderParser().parsestr(archive.read(metadata).decode())
    assert about["Author"] == "facepack contributors"
    assert about["License-Expression"] == "MIT"
    assert {"Operating System :: POSIX :: Linux", "Typing :: Typed"} <= set(about.get_all("Classifier", []))
    assert {"facepack/py.typed", "trainer/py.typed"} <= set(names)
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
