"""Rules of the repository: import direction, one sentence per file, nothing left out of the README."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "facepack").glob("*.py"))
ORDER = [
    ["errors"],
    ["terminal", "storage", "drawing"],
    ["dataset"],
    ["manifest", "index", "lock"],
    ["label"],
    ["plan", "image"],
    ["align"],
    ["shard", "summary"],
    ["workers", "resume"],
    ["build", "verify", "synthetic"],
    ["preview"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
"""A module may import those of earlier lines."""


def imported(path: Path) -> set[str]:
    """Names of the facepack modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "facepack":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("facepack."):
            names.add(str(node.module).split(".")[1])
    return names


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__init__"], ids=lambda path: path.stem)
def test_imports_follow_the_direction(path: Path) -> None:
    level = next(number for number, names in enumerate(ORDER) if path.stem in names)
    allowed = {name for names in ORDER[:level] for name in names}
    assert imported(path) <= allowed


def test_every_module_has_its_place_in_the_order() -> None:
    assert {path.stem for path in MODULES} - {"__init__"} == {name for names in ORDER for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_file_opens_with_one_sentence_that_the_readme_repeats(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    sentence = docstring.split("\n")[0]
    assert sentence.endswith(".")
    if not path.stem.startswith("__"):
        assert f"{path.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_importing_the_command_line_imports_neither_ray_nor_torch_nor_dali() -> None:
    program = (
        "import sys; import facepack.cli; print([name for name in ('ray', 'torch', 'nvidia') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_constraints_pin_versions_and_name_no_address() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert "==" in line, line
        assert "://" not in line
        assert " @ " not in line
