"""Dataset descriptions: what is known about a dataset somebody else published, loaded from manifests/<dataset>.toml."""

import difflib
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from rich.table import Table

from facepack import terminal
from facepack.errors import JobError, UsageError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
ATTRIBUTE_VALUES = {"-1": "0", "0": "0", "1": "1"}

_CLOSED = ConfigDict(extra="forbid")  # an unknown field is a typing error: say so


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Label:
    """One label column of a dataset.

    `column` is its published name where that differs; `values` maps published values to ours, and where it is given,
    any other value is an error of that row.
    """

    kind: Literal["attribute", "category", "age", "identity", "number"]
    about: str = ""
    column: str = ""
    values: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class TableFile:
    """One label file; `{split}` and the like in `path` become columns, and so do the groups of `extract` in the key.

    Files after the first are joined to it: their `key` to its column `on` (its key, unless given). Without an optional
    one, its `labels` are not known.
    """

    path: str
    format: Literal["csv", "spaces", "json"]
    key: str
    columns: tuple[str, ...] = ()
    count_line: bool = False
    optional: bool = False
    labels: tuple[str, ...] = ()
    extract: Pattern = ""
    on: str = ""
    rename: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class TableIndex:
    """Rows named by label files. `images` gives per image set the places where the image of a row may lie."""

    kind: Literal["table"]
    about: str
    tables: tuple[TableFile, ...] = Field(min_length=1)
    images: dict[str, tuple[str, ...]] = Field(min_length=1)
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class PathPattern:
    """A form of image path; named groups become columns, `set` adds constant ones."""

    pattern: Pattern
    set: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class LeftOut:
    """Image files that are there but no part of the dataset, and why."""

    pattern: Pattern
    why: str


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class PathIndex:
    """Rows named by the paths of the images themselves."""

    kind: Literal["paths"]
    about: str
    patterns: tuple[PathPattern, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class SplitRule:
    """Where the official split stands; `valid_percent` of its train rows become valid where the publisher has none."""

    column: str
    values: dict[str, Split] = Field(default_factory=dict)
    valid_percent: float = Field(default=0.0, ge=0, lt=100)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Example:
    """Files as published, and what must be read from them: the test of a description."""

    files: dict[str, str]
    rows: tuple[dict[str, str | int | float], ...]
    unparsed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Description:
    """All that facepack knows about one dataset; the schema is explained in manifests/README.md."""

    name: str
    title: str
    num_images: int = Field(ge=0)
    homepage: str
    terms: str
    obtain: str
    citation: str
    index: tuple[Annotated[TableIndex | PathIndex, Field(discriminator="kind")], ...] = Field(min_length=1)
    labels: dict[str, Label] = Field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    split: SplitRule | None = None
    archives: dict[str, str] = Field(default_factory=dict)
    """Archives in the source that are read in place, each as if unpacked into a folder ("" for where it lies)."""
    duplicates: bool = False
    default_classes: str = ""
    examples: tuple[Example, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_agree(self) -> "Description":
        """Check that fields which name each other do."""
        if clash := set(self.labels) & set(self.attributes):
            raise ValueError(f"both in labels and attributes: {', '.join(sorted(clash))}")
        for number, index in enumerate(self.index):
            of_tables = [name for table in getattr(index, "tables", ()) for name in table.labels]
            if unknown := {*index.lacks, *of_tables} - set(self.labels):
                raise ValueError(f"index.{number}: no such label: {', '.join(sorted(unknown))}")
        return self

    @property
    def all_labels(self) -> dict[str, Label]:
        """Label columns in the order of the manifest: the attributes, then the others."""
        attribute = Label(kind="attribute", values=ATTRIBUTE_VALUES)
        return dict.fromkeys(self.attributes, attribute) | self.labels

    def labels_of(self, kind: str) -> list[str]:
        """Names of the label columns of one kind, in order."""
        return [name for name, label in self.all_labels.items() if label.kind == kind]

    @property
    def image_sets(self) -> list[str]:
        """Names that `--images` takes: the sets of images that the label files name."""
        names = [name for index in self.index if isinstance(index, TableIndex) for name in index.images]
        return list(dict.fromkeys(names))


def manifests_folder() -> Path:
    """The folder of the dataset descriptions: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "manifests"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "manifests"


def names() -> list[str]:
    """Names of all known datasets, found by looking."""
    return sorted(path.stem for path in manifests_folder().glob("*.toml"))


def parse(path: Path) -> Description:
    """Read one description; `JobError` names the file and the first field that is wrong."""
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        description = TypeAdapter(Description).validate_python(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "description"
        raise JobError(f"{path}: field {field}: {first['msg']}") from error
    if description.name != path.stem:
        raise JobError(f"{path}: field name: is {description.name!r}, the file is called {path.stem!r}")
    return description


@cache
def load(name: str) -> Description:
    """The description of a dataset; an unknown name is a `UsageError` that offers the nearest ones."""
    if name not in names():
        near = difflib.get_close_matches(name.lower(), names(), n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names())}"
        raise UsageError(f"unknown dataset {name!r}: {hint}")
    return parse(manifests_folder() / f"{name}.toml")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the descriptions as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """List the known datasets: images, labels, terms, how to get them.

    Example: facepack datasets
    """
    with terminal.errors_as_lines(debug=debug):
        descriptions = [load(name) for name in names()]
        if as_json:
            terminal.out.print_json(TypeAdapter(list[Description]).dump_json(descriptions).decode())
            return
        table = Table("name", "images", "labels", "terms", "how to get it", header_style="bold")
        for one in descriptions:
            attributes = [f"{len(one.attributes)} attributes"] if one.attributes else []
            labels = ", ".join([*attributes, *one.labels])
            table.add_row(one.name, f"{one.num_images:,}" if one.num_images else "", labels, one.terms, one.obtain)
        terminal.out.print(table)
