"""The catalogue: all datasets that facepack knows, as a list, a table, and a page of text on each."""

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from facepack import hub
from facepack.description import (
    Description,
    File,
    Model,
    PathIndex,
    Published,
    TableIndex,
    dataset_folder,
    dataset_names,
    load_dataset,
)
from facepack.published import state_of

_NON_COMMERCIAL = "non-commercial"
_MOST_LABELS = 3


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset in the catalogue."""

    name: str
    title: str
    images: int
    """How many its publishers state; 0 where there is no number to state."""
    labels: tuple[str, ...]
    """Names of the label columns of a build: attributes, then the others."""
    size: str
    terms: str
    non_commercial: bool
    how: str
    """How its files are got: direct, Hugging Face, Google Drive, Kaggle or by hand."""
    obtain: str
    folder: str
    """Where it is looked for."""
    here: str
    """What of it is there: complete, no, or in a few words."""


def datasets() -> list[DatasetEntry]:
    """All datasets that facepack knows, by name.

    [entry.name for entry in datasets() if entry.here == "complete"]
    """
    return [_entry(load_dataset(name)) for name in dataset_names()]


def _entry(description: Description) -> DatasetEntry:
    folder = dataset_folder(description.name)
    return DatasetEntry(
        name=description.name,
        title=description.title,
        images=description.num_images,
        labels=tuple(description.all_labels),
        size=description.size,
        terms=description.terms,
        non_commercial=_NON_COMMERCIAL in description.terms,
        how=_how(description),
        obtain=description.obtain,
        folder=str(folder),
        here=what_is_here(description, folder),
    )


def what_is_here(published: Published, folder: Path) -> str:
    """Whether what is needed of a dataset is in a folder, in a few words; sizes are looked at, contents are not."""
    states = [state_of(file, folder, deep=False) for file in published.files if not file.optional]
    if (from_hub := _is_from_hub(published, folder)) is not None:
        return from_hub
    parts = [state.detail for state in states if state.kind in ("part", "wrong")]
    if parts:
        return parts[0].removesuffix(" files")
    kinds = [state.kind for state in states]
    if kinds and "missing" not in kinds:
        return "complete"
    if "whole" in kinds:
        return f"{kinds.count('whole')} of {len(kinds)} files"
    optional = [state_of(file, folder, deep=False) for file in published.files if file.optional]
    if state := next((state for state in optional if state.kind == "whole"), None):
        return f"{state.path.name}: {state.detail}"
    is_there = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    return "other files" if is_there else "no"


def _is_from_hub(published: Published, folder: Path) -> str | None:
    """What is here of what was fetched from the Hugging Face Hub; None where nothing was."""
    location = getattr(published, "hub", "")
    files = hub.recorded_files(folder, hub.Repository.of(location)) if location else ()
    if not files:
        return None
    number = sum(state_of(file, folder, deep=False).kind == "whole" for file in files)
    return "complete" if number == len(files) else f"{number} of {len(files)} files"


def _how(description: Description) -> str:
    """How what is fetched by default is got, in a word or two."""
    if description.hub:
        return "Hugging Face"
    files = description.files
    required = [file for file in files if not file.optional]
    if not required:
        return ""
    ways = {"Google Drive": [file.drive for file in required], "Kaggle": [file.kaggle for file in required]}
    return next((way for way, names in ways.items() if any(names)), "direct" if required[0].urls else "by hand")


def table(entries: list[DatasetEntry]) -> Table:
    """Datasets as a table for a terminal."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("name", "images", "labels", "size", "terms", "how", "here"):
        shown.add_column(name, no_wrap=name != "labels", justify="right" if name == "images" else "left")
    for entry in entries:
        images = f"{entry.images:,}" if entry.images else ""
        terms = "non-commercial" if entry.non_commercial else entry.terms
        shown.add_row(entry.name, images, _labels(load_dataset(entry.name)), entry.size, terms, entry.how, entry.here)
    return shown


def _labels(description: Description) -> str:
    """The first label columns by name, attributes by their number."""
    number = len(description.attributes)
    names = [*([f"{number} attributes"] if number else []), *description.labels]
    more = len(names) - _MOST_LABELS
    return ", ".join(names[:_MOST_LABELS]) + (f" and {more} more" if more > 0 else "")


# A page on one


def page(published: Published, folder: Path) -> list[str]:
    """Lines of text with all that is known of a dataset or a model, and what of it is in a folder."""
    size = getattr(published, "size", "")
    lines = [f"{published.title} ({published.name})", ""]
    if published.num_images:
        lines.append(f"  {published.num_images:,} images" + (f", {size}" if size else ""))
    facts = {"home": published.homepage, "terms": published.terms, "cite": published.citation}
    lines += [f"  {name:<7} {text}" for name, text in facts.items() if text]
    lines += ["", f"Files, in {folder}"]
    if location := getattr(published, "hub", ""):
        lines += [
            f"  Parquet files of {location} ({hub.KIND}), fetched if none of the others is here: "
            + (_is_from_hub(published, folder) or "not here")
        ]
    for file in published.files:
        lines += _file(file, folder)
    if isinstance(published, Model):
        network = published.network
        return lines + (["", f"For --set weights={published.name} with the network {network}"] if network else [])
    lines += [] if published.files else [f"  {published.obtain}"]
    return [*lines, *_layout(published), *_labels_and_split(published)]


def _file(file: File, folder: Path) -> list[str]:
    """What is known of a published file, and what is there."""
    state = state_of(file, folder, deep=True)
    kind = f"{file.kind}, optional" if file.optional else file.kind
    facts = [f"{file.num_bytes:,} bytes"] if file.num_bytes else []
    facts += [f"{name} {getattr(file, name)}" for name in ("md5", "sha256") if getattr(file, name)]
    facts += [f"gives {file.gives}/ of {file.num_files:,} files"] if file.num_files else []
    return [
        f"  {file.path} ({kind}): {state.detail}",
        *([f"    published: {', '.join(facts)}"] if facts else []),
        f"    from {'pieces at ' if file.pieces else ''}{file.source}",
    ]


def _layout(description: Description) -> list[str]:
    """How its files are read."""
    lines = ["", "Layout, the first of these that is there"]
    for index in description.index:
        lines.append(f"  {index.about}")
        if isinstance(index, TableIndex):
            lines.append(f"    label files {', '.join(table.path for table in index.tables)}")
            lines += [f"    images {name}: {' or '.join(places)}" for name, places in index.images.items()]
        elif isinstance(index, PathIndex):
            lines += [f"    {pattern.pattern}" for pattern in index.patterns]
    return lines


def _labels_and_split(description: Description) -> list[str]:
    """Its label columns, the published split, and its quirks."""
    lines = ["", "Labels"]
    if description.attributes:
        lines.append(f"  {len(description.attributes)} attributes: {', '.join(description.attributes)}")
    for name, label in description.labels.items():
        values = f": {', '.join(dict.fromkeys(label.values.values()))}" if label.values else ""
        lines.append(f"  {name} ({label.kind}) {label.about}{values}")
    lines += ["", "Split"]
    if description.split is None:
        lines.append("  none is published")
    else:
        rule = description.split
        extra = f"; {rule.valid_percent:g} % of train become valid" if rule.valid_percent else ""
        lines.append(f"  official, by {rule.column}{extra}")
    if description.quirks:
        lines += ["", "To know", *(f"  {quirk}" for quirk in description.quirks)]
    return lines
