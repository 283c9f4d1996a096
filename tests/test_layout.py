"""Rules of the repository: import direction, one sentence per file, nothing left out of the README."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "facepack").glob("*.py"))
TRAINER = sorted((ROOT / "trainer").rglob("*.py"))
ORDER = [
    ["errors"],
    ["terminal", "storage", "drawing", "page"],
    ["dataset", "download", "unpack"],
    ["manifest", "index", "lock"],
    ["label", "fetch"],
    ["plan", "image", "datasets"],
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

TRAINER_ORDER = [
    ["draws", "targets", "staging", "calls", "checkpoint", "plots", "progress", "layers", "memory"],
    ["feed", "augment", "task", "models"],
    ["pipeline", "recipe", "metrics"],
    ["loader", "recipes", "optim", "stopping"],
    ["data"],
    ["run"],
    ["logs", "evaluate", "weights"],
    ["fit", "predict"],
    ["report"],
    ["experiment"],
    ["commands"],
]
SEEN_BY_TRAINER = {"errors", "manifest", "storage"}
"""All that the trainer knows of a build."""
ALSO_SEEN = {
    "progress": {"terminal"},
    "weights": {"terminal", "download", "dataset"},
    "experiment": {"terminal"},
    "fit": {"terminal", "lock"},
    "predict": {"terminal", "align", "image", "shard"},  # a photo is treated as the build treated its images
    "report": {"image", "page"},
    "commands": {"terminal"},
}
"""What some modules use of facepack beside that."""


def imported(path: Path, package: str = "facepack") -> set[str]:
    """Names of the modules of a package that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            names.add(str(node.module).split(".")[1])
    return names


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__init__"], ids=lambda path: path.stem)
def test_imports_follow_the_direction(path: Path) -> None:
    level = next(number for number, names in enumerate(ORDER) if path.stem in names)
    allowed = {name for names in ORDER[:level] for name in names}
    assert imported(path) <= allowed


def trainer_module(path: Path) -> str:
    """The module of the trainer that a file is, or belongs to."""
    return path.relative_to(ROOT / "trainer").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in TRAINER if path.parent.name != "trainer" or path.stem != "__init__"])
def test_trainer_imports_follow_the_direction_and_know_a_build_only_as_it_is_stored(path: Path) -> None:
    name = trainer_module(path)
    level = next(number for number, names in enumerate(TRAINER_ORDER) if name in names)
    assert imported(path, "trainer") <= {name, *(one for names in TRAINER_ORDER[:level] for one in names)}
    assert imported(path) <= SEEN_BY_TRAINER | ALSO_SEEN.get(name, set())
    assert "import ray" not in path.read_text(encoding="utf-8")


def test_every_module_has_its_place_in_the_order() -> None:
    assert {path.stem for path in MODULES} - {"__init__"} == {name for names in ORDER for name in names}
    found = {trainer_module(path) for path in TRAINER} - {"__init__"}
    assert found == {name for names in TRAINER_ORDER for name in names}
    assert not any(imported(path, "trainer") for path in MODULES if path.stem not in ("cli", "demo"))


@pytest.mark.parametrize("path", MODULES + TRAINER, ids=lambda path: path.stem)
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
