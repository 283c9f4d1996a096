"""Pages of the site that are made: commands from the command line, datasets from their descriptions, results, files.

A hook of mkdocs (mkdocs.yml). Links to files of the repository that are no pages become their names.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from facepack.cli import app
from facepack.description import Description, dataset_names, load_dataset

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "results/index.md": "benchmarks/README.md",
    "datasets/your-own.md": "manifests/README.md",
}
"""Pages that are files elsewhere in the repository."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the names of the made pages where the navigation has their folders."""
    made = {"datasets/": _datasets_nav(), "commands/": _commands_nav(), "results/": _results_nav()}
    config.nav = _filled(config.nav, made)
    return config


def _filled(item: Any, made: dict[str, list[Any]]) -> Any:
    if isinstance(item, list):
        return [_filled(part, made) for part in item]
    if isinstance(item, dict):
        return {name: _filled(part, made) for name, part in item.items()}
    return made.get(item, item)


def _datasets_nav() -> list[Any]:
    names = [{load_dataset(name).title: f"datasets/{name}.md"} for name in dataset_names()]
    return ["datasets/index.md", *names, {"One of your own": "datasets/your-own.md"}]


def _commands_nav() -> list[Any]:
    return ["commands/index.md", *({name: f"commands/{name}.md"} for name in _commands())]


def _results_nav() -> list[Any]:
    return [{"All": "results/index.md"}, *({_title(path): f"results/{path.name}"} for path in _results())]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    pages = _dataset_pages() | _command_pages()
    pages |= {page: (ROOT / file).read_text(encoding="utf-8") for page, file in FILES.items()}
    pages |= {f"results/{path.name}": path.read_text(encoding="utf-8") for path in _results()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    for picture in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links to files of the repository to their pages; of those without one, only the name is left."""
    here = page.file.src_uri
    source = FILES.get(here) or (f"benchmarks/{here}" if here.startswith("results/") else f"docs/{here}")

    def led(match: re.Match[str]) -> str:
        text, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match.group()
        path, _, anchor = target.partition("#")
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        to = _page_of(inside)
        if to is None or files.get_file_from_path(to) is None:
            return text
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(here))}{'#' + anchor if anchor else ''})"

    return _LINK.sub(led, markdown)


def _page_of(path: str) -> str | None:
    """The page that a file of the repository is."""
    for page, file in FILES.items():
        if path in (file, posixpath.dirname(file) or None):
            return page
    if path.startswith("benchmarks/results/"):
        return path.removeprefix("benchmarks/")
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else None


# Results


def _results() -> list[Path]:
    return sorted(RESULTS.glob("*.md"))


def _title(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else path.stem.replace("_", " ").capitalize()


# Commands


def _commands() -> dict[str, click.Command]:
    group = typer.main.get_command(app)
    return dict(group.commands)  # type: ignore[attr-defined]


def _command_pages() -> dict[str, str]:
    lines = ["# Commands", "", "| command | what it does |", "| --- | --- |"]
    pages = {}
    for name, command in _commands().items():
        about = (command.help or "").strip()
        lines.append(f"| [`facepack {name}`]({name}.md) | {about.partition(chr(10))[0]} |")
        pages[f"commands/{name}.md"] = _command_page(name, command)
    return {"commands/index.md": "\n".join(lines) + "\n", **pages}


def _command_page(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"facepack {name}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"# facepack {name}", "", *_help(command.help or ""), "", f"    {' '.join(usage.split())}", ""]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [
        each for each in command.params if each.param_type_name == "option" and not getattr(each, "hidden", False)
    ]
    for title, parameters in (("Arguments", arguments), ("Options", options)):
        if parameters:
            lines += [
                f"## {title}",
                "",
                "| | |",
                "| --- | --- |",
                *(_parameter(each, context) for each in parameters),
                "",
            ]
    return "\n".join(lines)


def _help(text: str) -> list[str]:
    """The help of a command: its paragraphs, and its example as one."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(paragraph.split())
        lines += [joined.replace("Example: ", "    ", 1) if joined.startswith("Example: ") else joined, ""]
    return lines


def _parameter(parameter: click.Parameter, context: click.Context) -> str:
    record = parameter.get_help_record(context)
    names, about = record if record else (parameter.name or "", getattr(parameter, "help", "") or "")
    return f"| `{names}` | {about} |".replace("\n", " ")


# Datasets


def _dataset_pages() -> dict[str, str]:
    lines = ["# Datasets", "", "| name | dataset | images | terms |", "| --- | --- | ---: | --- |"]
    pages = {}
    for name in dataset_names():
        described = load_dataset(name)
        number = f"{described.num_images:,}" if described.num_images else ""
        lines.append(f"| [`{name}`]({name}.md) | {described.title} | {number} | {described.terms} |")
        pages[f"datasets/{name}.md"] = _dataset_page(described)
    return {"datasets/index.md": "\n".join(lines) + "\n", **pages}


def _dataset_page(described: Description) -> str:
    facts = {
        "images": f"{described.num_images:,}" if described.num_images else "",
        "size": described.size,
        "home page": f"<{described.homepage}>" if described.homepage else "",
        "terms": described.terms,
        "to cite": described.citation,
        "how to get it": described.obtain,
    }
    lines = [f"# {described.title}", "", "| fact | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    lines += ["", f"    facepack fetch {described.name}", f"    facepack build {described.name}", ""]
    if described.quirks:
        lines += ["## To know", "", *(f"- {quirk}" for quirk in described.quirks), ""]
    lines += ["## Layout", "", "The first of these that is there is read:", ""]
    lines += [f"- {index.about}" for index in described.index]
    lines += ["", "## Labels", ""]
    if described.attributes:
        lines += [
            f"{len(described.attributes)} attributes: {', '.join(f'`{each}`' for each in described.attributes)}.",
            "",
        ]
    if described.labels:
        lines += ["| label | kind | what it is |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {label.kind} | {label.about} |" for name, label in described.labels.items()]
    split = "none is published" if described.split is None else f"published, in the column `{described.split.column}`"
    return "\n".join([*lines, "", "## Split", "", f"{split[0].upper()}{split[1:]}.", ""])
