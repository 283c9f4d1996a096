"""Datasets: the table of all that are known, and one page of text on each."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter
from rich import box
from rich.table import Table

from facepack import fetching, terminal
from facepack.description import (
    Description,
    File,
    Model,
    TableIndex,
    dataset_folder,
    dataset_names,
    load_dataset,
    model_names,
    published_checksums,
)

_NON_COMMERCIAL = "non-commercial"
_MOST_LABELS = 3


def here(one: Description | Model, folder: Path) -> str:
    """Whether what is needed of a dataset is in a folder, in a few words; sizes are looked at, contents are not."""
    states = [fetching.state(file, folder, deep=False) for file in one.files if not file.optional]
    parts = [found.told for found in states if found.kind in ("part", "wrong")]
    if parts:
        return parts[0].removesuffix(" files")
    kinds = [found.kind for found in states]
    if kinds and "missing" not in kinds:
        return "complete"
    if "whole" in kinds:
        return f"{kinds.count('whole')} of {len(kinds)} files"
    extra = [fetching.state(file, folder, deep=False) for file in one.files if file.optional]
    if found := next((found for found in extra if found.kind == "whole"), None):
        return f"{found.place.name}: {found.told}"
    is_there = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    return "other files" if is_there else "no"


def _how(files: tuple[File, ...]) -> str:
    """How what is fetched by default is got, in a word or two."""
    wanted = [file for file in files if not file.optional]
    if not wanted:
        return ""
    ways = {"Google Drive": [one.drive for one in wanted], "Kaggle": [one.kaggle for one in wanted]}
    return next((way for way, given in ways.items() if any(given)), "direct" if wanted[0].urls else "by hand")


def row(name: str) -> dict[str, Any]:
    """A dataset in the table."""
    one, folder = load_dataset(name), dataset_folder(name)
    attributes = [f"{len(one.attributes)} attributes"] if one.attributes else []
    return {
        "name": name,
        "images": one.num_images,
        "labels": [*attributes, *one.labels],
        "size": one.size,
        "terms": one.terms,
        "non_commercial": _NON_COMMERCIAL in one.terms,
        "how": _how(one.files),
        "obtain": one.obtain,
        "folder": str(folder),
        "here": here(one, folder),
    }


def _page(one: Description | Model, folder: Path) -> list[str]:
    """All that is known of a dataset, or a model."""
    lines = [f"{one.title} ({one.name})", ""]
    size = getattr(one, "size", "")
    lines += [f"  {one.num_images:,} images" + (f", {size}" if size else "")] if one.num_images else []
    facts = {"home": one.homepage, "terms": one.terms, "cite": one.citation}
    lines += [f"  {name:<7} {text}" for name, text in facts.items() if text]
    lines += ["", f"Files, in {folder}"]
    for file in one.files:
        found = fetching.state(file, folder, deep=True)
        kind = f"{file.kind}, optional" if file.optional else file.kind
        lines.append(f"  {file.path} ({kind}): {found.told}")
        known = [f"{file.num_bytes:,} bytes"] if file.num_bytes else []
        known += [f"{name} {getattr(file, name)}" for name in ("md5", "sha256") if getattr(file, name)]
        known += [f"gives {file.gives}/ of {file.num_files:,} files"] if file.num_files else []
        lines += [f"    published: {', '.join(known)}"] if known else []
        lines.append(f"    from {'pieces at ' if file.pieces else ''}{file.source}")
    if isinstance(one, Model):
        return lines + (["", f"For --set weights={one.name} with the network {one.network}"] if one.network else [])
    lines += [f"  {one.obtain}"] if not one.files else []
    return [*lines, *_layout(one)]


def _layout(one: Description) -> list[str]:
    """How its files are read."""
    lines: list[str] = []
    lines += ["", "Layout, the first of these that is found"]
    for index in one.index:
        lines.append(f"  {index.about}")
        if isinstance(index, TableIndex):
            lines.append(f"    label files {', '.join(table.path for table in index.tables)}")
            lines += [f"    images {name}: {' or '.join(places)}" for name, places in index.images.items()]
        else:
            lines += [f"    {pattern.pattern}" for pattern in index.patterns]
    lines += ["", "Labels"]
    lines += [f"  {len(one.attributes)} attributes: {', '.join(one.attributes)}"] if one.attributes else []
    for name, label in one.labels.items():
        known = f": {', '.join(dict.fromkeys(label.values.values()))}" if label.values else ""
        lines.append(f"  {name} ({label.kind}) {label.about}{known}")
    lines += ["", "Split"]
    if one.split is None:
        lines.append("  none is published")
    else:
        extra = f"; {one.split.valid_percent:g} % of train become valid" if one.split.valid_percent else ""
        lines.append(f"  official, by {one.split.column}{extra}")
    if one.quirks:
        lines += ["", "To know", *(f"  {quirk}" for quirk in one.quirks)]
    return lines


def command(
    name: Annotated[str, typer.Argument(metavar="[DATASET]", help="One of them, with all that is known of it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """List the known datasets: images, labels, size, terms, how to get them, and what is here.

    Example: facepack datasets celeba
    """
    with terminal.errors_as_lines(debug=debug):
        if name:
            one = published_checksums(name)
            if as_json:
                terminal.out.print_json(TypeAdapter(type(one)).dump_json(one).decode())
            else:
                terminal.out.print("\n".join(_page(one, dataset_folder(name))), soft_wrap=True)
            return
        rows = [row(one) for one in dataset_names()]
        if as_json:
            terminal.out.print_json(data=rows)
            return
        terminal.out.print(_table(rows))
        terminal.out.print("Models, fetched alike: " + ", ".join(model_names()), soft_wrap=True)
        terminal.out.print("facepack datasets NAME tells all of one, facepack fetch NAME gets it", soft_wrap=True)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("name", "images", "labels", "size", "terms", "how", "here"):
        table.add_column(name, no_wrap=name != "labels", justify="right" if name == "images" else "left")
    for one in rows:
        images = f"{one['images']:,}" if one["images"] else ""
        more = len(one["labels"]) - _MOST_LABELS
        labels = ", ".join(one["labels"][:_MOST_LABELS]) + (f" and {more} more" if more > 0 else "")
        terms = "non-commercial" if one["non_commercial"] else one["terms"]
        table.add_row(one["name"], images, labels, one["size"], terms, one["how"], one["here"])
    return table
