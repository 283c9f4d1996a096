"""Rules of the code's style that can be counted: lengths, parameters, names, and what is private."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import source_tree

ROOT = Path(__file__).parents[1]
MODULES = source_tree.modules()
TREES = {name: source_tree.parsed(path) for name, path in MODULES.items()}
TESTS = sorted((ROOT / "tests").glob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))

LONG_LINES, LONGEST_LINES, NUM_LONG = 40, 70, 5
"""Lines of a function's body; how many bodies may be longer than the first, while none is longer than the second."""
PUBLIC_POSITIONAL, PRIVATE_POSITIONAL, PUBLIC_PARAMETERS = 3, 3, 6
"""Most parameters of a function that may be given by position, and in all."""
COMMANDS = ("facepack.cli", "facepack.commands", "facepack.people_commands", "trainer.commands")
"""Their functions have a parameter per option."""
SETTINGS = ("facepack.api.build", "trainer.loading.loader.Loader.__init__", "trainer.models.")
"""Functions with a keyword per setting: of a build, of the loader, of a network."""
DRAWN = "facepack.drawn."
"""Drawing takes canvas, place and colour by position, as OpenCV does."""
FOUND_BY_LOOKING = ("trainer.models.", "trainer.recipes.")
"""Packages whose functions are found by their names; nobody imports their modules."""
FORWARDED = ("forward",)
"""Methods whose parameters somebody else decides, as with all of Python's own but `__init__`."""

BANNED = {"answers", "found", "one", "said", "size_px", "solve", "story", "told"}
"""Names that say nothing of what they hold, or had another name in the field; see the words in docs/design.md."""


@dataclass(frozen=True)
class Function:
    """A function or method."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    is_public: bool
    is_method: bool

    @property
    def num_lines(self) -> int:
        """Lines after the signature."""
        return int(self.node.end_lineno or 0) - self.node.body[0].lineno + 1

    @property
    def positional(self) -> list[str]:
        """Parameters that may be given by position, without self and cls."""
        names = [argument.arg for argument in (*self.node.args.posonlyargs, *self.node.args.args)]
        is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in self.node.decorator_list)
        return names[1:] if self.is_method and not is_static else names

    @property
    def num_parameters(self) -> int:
        """All parameters, without self and cls."""
        return len(self.positional) + len(self.node.args.kwonlyargs)


def functions(name: str, tree: ast.AST, *, is_public: bool = True, is_method: bool = False) -> Iterator[Function]:
    """All functions of a module: those of public classes and modules are public, those within functions are not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            public = is_public and (not node.name.startswith("_") or node.name == "__init__")
            yield Function(f"{name}.{node.name}", node, public, is_method)
            yield from functions(f"{name}.{node.name}", node, is_public=False)
        elif isinstance(node, ast.ClassDef):
            public = is_public and not node.name.startswith("_")
            yield from functions(f"{name}.{node.name}", node, is_public=public, is_method=True)
        else:
            yield from functions(name, node, is_public=is_public, is_method=is_method)


FUNCTIONS = [function for name, tree in TREES.items() for function in functions(name, tree)]


def test_few_functions_are_long_and_none_is_very_long() -> None:
    lengths = {function.name: function.num_lines for function in FUNCTIONS if function.num_lines > LONG_LINES}
    assert [name for name, length in lengths.items() if length > LONGEST_LINES] == []
    assert len(lengths) <= NUM_LONG, lengths


def test_functions_take_few_parameters_by_position() -> None:
    many = {}
    for function in FUNCTIONS:
        name = function.node.name
        is_dictated = name in FORWARDED or (name.startswith("__") and name != "__init__")
        most = PUBLIC_POSITIONAL if function.is_public else PRIVATE_POSITIONAL
        if len(function.positional) > most and not is_dictated and not function.name.startswith((*COMMANDS, DRAWN)):
            many[function.name] = len(function.positional)
    assert many == {}


def test_public_functions_have_few_parameters() -> None:
    many = {
        function.name: function.num_parameters
        for function in FUNCTIONS
        if function.is_public and function.num_parameters > PUBLIC_PARAMETERS
        if not function.name.startswith((*COMMANDS, *SETTINGS))
    }
    assert many == {}


def test_no_module_shares_its_name_with_what_it_defines() -> None:
    shared = [
        f"{name}.{node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name.rpartition(".")[2]
        if not name.startswith(FOUND_BY_LOOKING)
    ]
    assert shared == []


def test_modules_are_imported_under_their_own_names() -> None:
    renamed = [
        f"{name}: {alias.name} as {alias.asname}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in source_tree.CAPTIONS
        for alias in node.names
        if alias.asname and f"{node.module}.{alias.name}" in MODULES
    ]
    assert [line for line in renamed if not line.endswith("commands as trainer_commands")] == []


def is_private(name: str) -> bool:
    """True of _x, not of __x__ and _."""
    return bool(re.fullmatch(r"_[^_].*", name))


def private_names(tree: ast.AST) -> set[str]:
    """Private names that a file defines: functions, classes, variables and attributes of self."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


PRIVATE = {name for tree in TREES.values() for name in private_names(tree)}
"""Private names of the product."""


@pytest.mark.parametrize(
    "path", [*MODULES.values(), *BENCHMARKS, *TESTS], ids=lambda path: str(path.relative_to(ROOT).with_suffix(""))
)
def test_no_private_name_is_used_outside_its_file(path: Path) -> None:
    tree = source_tree.parsed(path)
    own = private_names(tree)
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in source_tree.CAPTIONS:
            used |= {f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name)}
        elif isinstance(node, ast.Attribute) and node.attr in PRIVATE - own:
            used.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            texts = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            used |= {text for text in texts if text.rpartition(".")[2] in PRIVATE - own}
    assert used == set()


def test_frozen_objects_stay_frozen() -> None:
    written = [name for name, path in MODULES.items() if "object.__setattr__" in path.read_text(encoding="utf-8")]
    assert written == []


@pytest.mark.parametrize("name", MODULES)
def test_names_are_those_of_the_field(name: str) -> None:
    used = [
        f"line {getattr(node, 'lineno', 0)}: {word}"
        for node in ast.walk(TREES[name])
        for word in identifiers(node)
        if word.strip("_").casefold() in BANNED
    ]
    assert used == []


def identifiers(node: ast.AST) -> list[str]:
    """Names that a node defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.attr]
    return []


def test_published_systems_are_named_in_words_outside_their_page() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md")]
    texts = [*MODULES.values(), *MODULES["trainer"].parent.glob("*.html"), *BENCHMARKS, *TESTS, *pages]
    # S3 is an object store as well.
    coded = [str(path.relative_to(ROOT)) for path in texts if re.search(r"\bS[0124]\b", path.read_text("utf-8"))]
    assert coded == []
