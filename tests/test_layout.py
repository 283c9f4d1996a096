"""Rules of the repository's layout: arrows that no import may take, and a tree in the documents that is true."""

import ast
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import source_tree

ROOT = Path(__file__).parents[1]
MODULES = source_tree.modules()
IMPORTED = {name: source_tree.imported(source_tree.parsed(path)) for name, path in MODULES.items()}

EDGE = (
    "facepack.cli",
    "facepack.__main__",
    "facepack.commands",
    "facepack.people_commands",
    "facepack.demo",
    "trainer.commands",
)
"""What a person meets; the rest is the library."""
TERMINAL = (*EDGE, "facepack.terminal", "trainer.progress")
"""What may show something on a terminal."""

FORBIDDEN = [
    ("the library does not know the trainer", ["facepack.*"], [*EDGE], ["trainer", "trainer.*"], []),
    ("training does not need Ray", ["trainer", "trainer.*"], [], ["ray", "ray.*"], []),
    (
        "the trainer knows a build only as it is stored",
        ["trainer", "trainer.*"],
        [],
        [f"facepack.{name}" for name in ("api", "builder", "label", "plan", "prepare", "resume", "workers")],
        [],
    ),
    (
        "only commands show things",
        ["*"],
        [*TERMINAL],
        ["typer", "typer.*", "rich.console", "rich.progress", "facepack.terminal"],
        [],
    ),
    ("nobody imports the commands", ["*"], [*EDGE], [*EDGE], []),
    (
        "planning reads no image",
        [f"facepack.{name}" for name in ("bins", "configuration", "hashing", "index", "label", "plan", "prepare")],
        [],
        ["cv2", "PIL", "PIL.*", "dlib", "ray", "ray.*", "facepack.align", "facepack.shard", "facepack.workers"],
        [],
    ),
    (
        "packing an image does not know the plan it is part of",
        ["facepack.image", "facepack.align", "facepack.shard"],
        [],
        [f"facepack.{name}" for name in ("builder", "index", "label", "plan", "prepare", "resume", "workers")],
        [],
    ),
    (
        "nobody who builds real data draws any",
        ["facepack.*"],
        [*EDGE, "facepack.drawn", "facepack.drawn.*"],
        ["facepack.drawn", "facepack.drawn.*"],
        [],
    ),
    (
        "loading knows nothing of training",
        ["trainer.loading", "trainer.loading.*"],
        [],
        ["trainer", "trainer.*"],
        ["trainer.loading", "trainer.loading.*", "trainer.calls", "trainer.checks"],
    ),
    (
        "the parts of a recipe know nothing of runs",
        [f"trainer.{name}" for name in ("recipe", "recipes", "recipes.*", "models", "models.*", "optim", "stopping")],
        [],
        [f"trainer.{name}" for name in ("data", "evaluation", "experiments", "report", "runs", "training")],
        [],
    ),
    (
        "training does not know its reports",
        ["trainer.training", "trainer.evaluation", "trainer.runs", "trainer.checkpoint"],
        [],
        [f"trainer.{name}" for name in ("comparison", "experiments", "plots", "prediction", "report")],
        [],
    ),
]
"""Why; who, but for whom; must not import what, but for what. Patterns of dotted names."""


def matches(name: str, patterns: list[str]) -> bool:
    """True where a name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@pytest.mark.parametrize(
    ("who", "but_who", "what", "but_what"), [rule[1:] for rule in FORBIDDEN], ids=[rule[0] for rule in FORBIDDEN]
)
def test_no_import_takes_a_forbidden_arrow(
    who: list[str], but_who: list[str], what: list[str], but_what: list[str]
) -> None:
    taken = [
        f"{name} imports {other}"
        for name in MODULES
        if matches(name, who) and not matches(name, but_who)
        for other in sorted(IMPORTED[name])
        if matches(other, what) and not matches(other, but_what)
    ]
    assert taken == []


def test_only_commands_print_or_redirect_what_others_print() -> None:
    names = {"print", "dup2", "redirect_stderr", "redirect_stdout"}
    calls = [
        f"{name}, line {node.lineno}: {ast.unparse(node.func)}"
        for name, path in MODULES.items()
        if name not in (*TERMINAL, "trainer.rivals")  # a program of its own
        for node in ast.walk(source_tree.parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names
    ]
    assert calls == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {
        name: source_tree.imported(source_tree.parsed(path), with_types=False) & set(MODULES) - {name}
        for name, path in MODULES.items()
    }
    while leaves := [name for name, others in arrows.items() if not others]:
        arrows = {name: others - set(leaves) for name, others in arrows.items() if name not in leaves}
    while roots := set(arrows) - {other for others in arrows.values() for other in others}:
        arrows = {name: others for name, others in arrows.items() if name not in roots}
    assert arrows == {}


@pytest.mark.parametrize("path", MODULES.values(), ids=list(MODULES))
def test_file_opens_with_one_sentence(path: Path) -> None:
    sentence, *rest = (ast.get_docstring(source_tree.parsed(path)) or "").split("\n")
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert not rest or rest[0] == ""


def test_tree_in_the_design_is_that_of_the_docstrings() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "source_tree.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_importing_the_command_line_imports_neither_ray_nor_torch_nor_dali() -> None:
    assert loaded_by("import facepack.cli", "ray", "torch", "nvidia") == []


def test_importing_the_library_imports_neither_torch_nor_dali() -> None:
    library = [name for name in MODULES if name.startswith("facepack") and "__main__" not in name]
    program = "; ".join(f"import {name}" for name in library if "webdataset" not in IMPORTED[name])
    assert loaded_by(program, "torch", "nvidia") == []


def test_importing_the_packages_alone_imports_none_of_their_libraries() -> None:
    assert loaded_by("import facepack, trainer", "numpy", "pyarrow", "cv2", "ray", "torch", "nvidia") == []


def loaded_by(program: str, *names: str) -> list[str]:
    """Those of some modules that a program imports."""
    program = f"{program}; import sys; print(*[name for name in {names!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return ended.stdout.split()


def test_constraints_pin_versions_and_name_no_address() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert "==" in line, line
        assert "://" not in line
        assert " @ " not in line
