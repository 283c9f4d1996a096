"""Indexing: one row per image that the label files, or the paths of the images, name."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import (
    ATTRIBUTE_VALUES,
    Description,
    Form,
    Label,
    OpenIndex,
    ParquetIndex,
    PathIndex,
    SplitRule,
)
from facepack.errors import FieldError, JobError
from facepack.face_labels import published_faces
from facepack.label_file import PLACE
from facepack.label_values import MAX_AGE_YEARS, as_whole, looked_up
from facepack.leave_out import LeaveOut, left_out_rows
from facepack.listing import Passed, merged
from facepack.matching import beside
from facepack.names import is_ascending
from facepack.open_rows import OwnTable, read_open_rows
from facepack.parquet_rows import read_parquet_rows
from facepack.path_rows import read_path_rows
from facepack.published_rows import LabelFileError, NotThereError, PublishedRows, filtered, non_empty, text_of
from facepack.source import Source
from facepack.table_rows import read_table_rows

NUM_EXAMPLES = 5
"""How many files are named for each reason."""
TYPES = {
    "attribute": pa.int8(),
    "category": pa.string(),
    "age": pa.float32(),
    "identity": pa.int32(),
    "number": pa.float32(),
}


@dataclass(frozen=True)
class Index:
    """The rows of a dataset.

    `table` has the columns source (path of the image), official_split (train, valid, test or null), and every label of
    the description (attributes int8 0/1, ages float32 years, identities int32, numbers float32, categories string).
    `unparsed` names each row that could not be read, with the reason; `passed` holds all other files of the source but
    label files and archives that were opened, by the reason why they are no rows.
    """

    table: pa.Table
    description: Description
    """That of the dataset, with the labels that the source has where it leaves them open."""
    unparsed: tuple[str, ...] = ()
    passed: Passed = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines on what is not as published, or not as the label files have it."""
    unclear: tuple[str, ...] = ()
    """Columns of which each could be the classes."""

    @property
    def left_out(self) -> dict[str, int]:
        """How many files are no rows, by reason."""
        return {why: len(paths) for why, paths in self.passed.items()}

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first of the files that are no rows, by reason."""
        return {why: list(paths[:NUM_EXAMPLES]) for why, paths in self.passed.items()}


def index_dataset(
    description: Description,
    source: Source,
    *,
    images: str = "",
    leave_out: LeaveOut | None = None,
    own: OwnTable | None = None,
) -> Index:
    """Read the sample table of a dataset, without the images that `leave_out` names; `own` is a table of labels.

    `images` chooses one of the description's image sets (its first by default). Raises `JobError` where label files or
    columns are missing, `FieldError` for an unknown image set, `UsageError` for a name in `leave_out` that several
    images have.
    """
    if images and images not in description.image_sets:
        names = ", ".join(description.image_sets) or "none"
        raise FieldError("images", images, f"{description.name} has no such image set; it has: {names}")
    try:
        raw = _without(leave_out or LeaveOut(), _read_raw(_Wanted(description, images, own), source))
        description = _with_found(description, raw)
        table, untyped = _labelled(description, raw)
    except LabelFileError as error:
        raise JobError(f"{source.location}/{error}") from error
    unparsed = (*raw.unparsed, *untyped)
    if len(table) == 0:
        first = f"; the first of {len(unparsed):,} bad rows: {unparsed[0]}" if unparsed else ""
        raise JobError(f"{source.location}: {raw.where or 'it'} names no image that can be used{first}")
    notes = raw.notes
    if description.split is not None and description.split.column not in raw.columns and raw.absent:
        notes += (f"no official split here, for there is no {' or '.join(raw.absent)}",)
    unclear = raw.columns_mean.unclear if raw.columns_mean else ()
    return Index(table, description, unparsed, merged(raw.passed, source.passed), notes, unclear)


def _with_found(description: Description, raw: PublishedRows) -> Description:
    """The description with the labels that were found, where it leaves them open."""
    if raw.columns_mean is None:
        return description
    return replace(
        description,
        labels=raw.columns_mean.labels,
        attributes=raw.columns_mean.attributes,
        default_classes=raw.columns_mean.default_classes,
    )


def _without(leave_out: LeaveOut, raw: PublishedRows) -> PublishedRows:
    """The rows without those that a list of one's own names."""
    if not leave_out.names:
        return raw
    sources = raw.source.fill_null("").to_pylist()
    named = left_out_rows(leave_out, sources, keys=[] if raw.keys is None else raw.keys.to_pylist())
    mask = np.ones(len(sources), bool)
    mask[named.rows] = False
    passed = merged(raw.passed, {f"listed in {leave_out.file}": [sources[row] for row in named.rows]})
    return replace(filtered(raw, pa.array(mask)), passed=passed, notes=raw.notes + named.notes)


@dataclass(frozen=True)
class _Wanted:
    """What is read: a dataset, one of its image sets, and a table of labels of one's own."""

    description: Description
    images: str
    own: OwnTable | None

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms of the dataset; with a table of one's own that alone."""
        forms = self.description.index
        if self.own is None or not self.own.file:
            return forms
        return tuple(form for form in forms if isinstance(form, OpenIndex))

    def read(self, form: Form, source: Source) -> PublishedRows:
        """The rows of one form; `NotThereError` where the source has another."""
        if isinstance(form, PathIndex):
            return read_path_rows(form, source, images=self.images)
        if isinstance(form, ParquetIndex):
            return read_parquet_rows(form, source, images=self.images)
        if isinstance(form, OpenIndex):
            return read_open_rows(form, source, images=self.images, own=self.own or OwnTable())
        return read_table_rows(form, source, images=self.images)


def _read_raw(wanted: _Wanted, source: Source) -> PublishedRows:
    """Rows by the first form of the dataset that is there with images, else by the first that is there."""
    description = wanted.description
    missing, refused, without_images = [], [], []
    if not wanted.forms:
        raise FieldError("labels", wanted.own.file if wanted.own else "", f"{description.name} has labels of its own")
    for form in wanted.forms:
        try:
            raw = wanted.read(form, source)
        except NotThereError as error:
            missing.append(f"{error}")
        except FieldError as error:  # this form has no such image set
            refused.append(error)
        else:
            if source.has(raw.source).any():
                return raw
            without_images.append(raw)
    if without_images:
        return without_images[0]
    if refused:
        raise refused[0]
    instead = beside(missing[0], source)
    names = ", no ".join(dict.fromkeys(missing))
    raise JobError(f"{source.location}: not {description.title} as published: no {names}; {instead}")


# From published text to typed labels


class _Typed(NamedTuple):
    """A column in its type, and the reason of each row that cannot be read, by its number."""

    values: pa.Array
    reasons: dict[int, str]


def _labelled(description: Description, raw: PublishedRows) -> tuple[pa.Table, list[str]]:
    """Typed columns of all rows that can be read, and the others by name with the first reason."""
    num_rows = len(raw.source)
    rule = description.split
    typed = {"official_split": _split(rule, raw)}
    published_of = {"official_split": rule.column if rule else ""}
    for name, label in description.all_labels.items():
        published = published_of[name] = label.column or name
        if published in raw.columns:
            typed[name] = _typed(name, label, raw.columns[published])
        elif label.optional:
            continue
        elif name in raw.lacks:
            typed[name] = _Typed(pa.nulls(num_rows, TYPES[label.kind]), {})
        else:
            names = [name for name in raw.columns if not name.startswith(PLACE)]
            raise LabelFileError(f"{raw.where}: no column {published!r}; it has {', '.join(names[:6])}")
    reasons: dict[int, str] = {}
    for name, column in typed.items():
        reasons = {row: why + _place(raw, row, published_of[name]) for row, why in column.reasons.items()} | reasons
    unnamed = _unnamed(raw.source, bad_rows=reasons.keys())
    reasons = {row: why + _place(raw, row) for row, why in unnamed.items()} | reasons
    columns = {name: column.values for name, column in typed.items()} | published_faces(description.faces, raw.columns)
    table = pa.table({"source": raw.source} | columns)
    if reasons:
        is_read = np.ones(num_rows, bool)
        is_read[list(reasons)] = False
        table = table.filter(pa.array(is_read))
    names = raw.source.take(pa.array(sorted(reasons), pa.int64())).to_pylist()
    where = f"{raw.where}: " if raw.where else ""
    return table, [f"{where}{name}: {reasons[row]}" for row, name in zip(sorted(reasons), names, strict=True)]


def _place(raw: PublishedRows, row: int, column: str = "") -> str:
    """Where a value stands, as ' (line 7, column Bald)', with the file if it is not the first one; '' if unknown."""
    names = list(raw.columns)
    start = names.index(column) if column else 0
    # The columns of a file come before its places.
    place = next((name for name in names[start:] if name.startswith(PLACE)), None)
    if place is None:
        return ""
    where = raw.columns[place][row].as_py()
    if isinstance(where, int):
        where = f"{place.removeprefix(f'{PLACE} ')}, line {where}"
    parts = [where.removeprefix(f"{raw.where}, "), f"column {column}" if column else ""]
    return f" ({', '.join(filter(None, parts))})"


def _unnamed(source: pa.Array, *, bad_rows: Collection[int]) -> dict[int, str]:
    """Reasons of rows without the name of an image, or with one that an earlier good row has."""
    if is_ascending(source) or (source.null_count == 0 and pc.count_distinct(source).as_py() == len(source)):
        return {}
    reasons: dict[int, str] = {}
    seen: set[str] = set()
    for row, path in enumerate(source.to_pylist()):
        if path is None:
            reasons[row] = "no file name"
        elif path in seen:
            reasons[row] = "named twice"
        elif row not in bad_rows:
            seen.add(path)
    return reasons


def _split(rule: SplitRule | None, raw: PublishedRows) -> _Typed:
    if rule is None or rule.column not in raw.columns:
        return _Typed(pa.nulls(len(raw.source), pa.string()), {})
    values: dict[str, str] = dict(rule.values) or {"train": "train", "valid": "valid", "test": "test"}
    return _mapped(raw.columns[rule.column], lambda text: looked_up(text, values), name="split", kind=pa.string())


def _typed(name: str, label: Label, column: pa.ChunkedArray) -> _Typed:
    """One label column in its type."""
    if label.kind == "identity":
        return _identities(name, column)
    if label.kind == "category":  # an empty cell means no more than that nobody knows
        column = non_empty(column)
    if label.unknown:
        texts = text_of(column)
        column = pc.if_else(pc.is_in(texts, value_set=pa.array(label.unknown)), None, texts)
    values = label.values or (ATTRIBUTE_VALUES if label.kind == "attribute" else {})
    converters: dict[str, Callable[[str], object]] = {
        "attribute": lambda text: None if (value := looked_up(text, values)) is None else int(value),
        "category": lambda text: looked_up(text, values) if values else text,
        "age": lambda text: _number(text, largest=MAX_AGE_YEARS),
        "number": _number,
    }
    return _mapped(column, converters[label.kind], name=name, kind=TYPES[label.kind])


def _number(text: str, largest: float = float("inf")) -> float | None:
    try:
        number = float(text.replace("_", "no digit"))
    except ValueError:
        return None
    return number if 0 <= number <= largest and number != float("inf") else None


def _identities(name: str, column: pa.ChunkedArray) -> _Typed:
    """Numbers as they are; names by their rank among all names."""
    texts = sorted({as_whole(text) for text in pc.unique(text_of(column)).to_pylist() if text})
    numbers = {text: int(text) for text in texts if text.isascii() and text.isdigit() and int(text) < 2**31}
    ranks = {text: rank for rank, text in enumerate(texts)}
    known = numbers if len(numbers) == len(texts) else ranks
    return _mapped(column, lambda text: known.get(as_whole(text)), name=name, kind=pa.int32())


def _mapped(column: pa.ChunkedArray, convert: Callable[[str], object], *, name: str, kind: pa.DataType) -> _Typed:
    """Convert each distinct text once; a text that converts to None is the reason of its rows."""
    parts, reasons = [], {}
    start = 0
    for chunk in column.chunks:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        converted = [convert(text) for text in texts]
        if None in converted:
            unknown = pa.array(np.flatnonzero([value is None for value in converted]), pa.int32())
            bad = pc.is_in(encoded.indices, value_set=unknown)
            for row in np.flatnonzero(bad.to_numpy(zero_copy_only=False)):
                text = texts[encoded.indices[int(row)].as_py()]
                reasons[start + int(row)] = f"{name} is {text!r}"
        parts.append(pa.array(converted, kind).take(encoded.indices))
        start += len(chunk)
    return _Typed(pa.concat_arrays(parts) if parts else pa.array([], kind), reasons)
