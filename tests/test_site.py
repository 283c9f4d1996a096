"""The site: it is built without a warning, loads nothing from elsewhere, and its commands and examples run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from facepack.cli import app
from facepack.description import dataset_names
from facepack.drawn import synthetic

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name not in ("api.md", "design.md"))
"""Pages with commands; api.md has a test of its own."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip()
    for path in PAGES
    for kind, text in BLOCK.findall(path.read_text(encoding="utf-8"))
    if kind == "bash"
    for line in text.splitlines()
    if line.startswith("facepack ")
]
INLINE = [
    command
    for path in PAGES
    for command in re.findall(r"`(facepack [a-z]+ [^`]*[^`.])`", BLOCK.sub("", path.read_text(encoding="utf-8")))
    if "..." not in command and command.split()[1] in {each.name for each in app.registered_commands}
]
EXAMPLES = {
    path.relative_to(DOCS).as_posix(): examples
    for path in PAGES
    if (examples := [text for kind, text in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == "python"])
}
ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//|<link[^>]*stylesheet[^>]*href="(?:https?:)?//'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder


def test_site_has_a_page_for_every_verb_and_dataset_and_loads_nothing(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {f"commands/{each.name}.html" for each in app.registered_commands} <= set(pages)
    assert {f"datasets/{name}.html" for name in dataset_names()} <= set(pages)
    assert {name: found for name, text in pages.items() if (found := ELSEWHERE.findall(text))} == {}


def test_command_reference_has_every_option(site: Path) -> None:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        text = (site / "commands" / f"{name}.html").read_text(encoding="utf-8")
        options = [option for each in command.params for option in each.opts if option.startswith("--")]
        assert [option for option in options if option not in text] == []


@pytest.mark.parametrize("command", [*COMMANDS, *INLINE])
def test_commands_can_be_read(command: str) -> None:
    """Options, their types and the number of arguments; recipes and fields are looked at when a command runs."""
    group: Any = typer.main.get_command(app)
    verb, *words = shlex.split(command)[1:]
    try:
        group.commands[verb].make_context(f"facepack {verb}", words)
    except click.ClickException as error:
        raise AssertionError(error.format_message()) from error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn CelebA, and one of its photos as `me.jpg`."""
    folder = tmp_path_factory.mktemp("examples")
    synthetic.draw("celeba", folder / "data" / "celeba", num_images=300)
    (folder / "me.jpg").write_bytes(next((folder / "data").rglob("*.jpg")).read_bytes())
    return folder


def test_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all pages in the order of the navigation, as a reader goes."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FACEPACK_DATA", raising=False)
    order = re.findall(r"(\S+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert set(EXAMPLES) <= set(order)
    for page in sorted(EXAMPLES, key=order.index):
        namespace: dict[str, object] = {"__name__": "__main__"}
        for number, example in enumerate(EXAMPLES[page]):
            exec(compile(example, f"{page}, example {number + 1}", "exec"), namespace)
