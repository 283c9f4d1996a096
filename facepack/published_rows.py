"""Published rows: what is read of images and their labels before the labels have types."""

import string
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import Label
from facepack.errors import JobError
from facepack.listing import Passed

Columns = dict[str, pa.ChunkedArray]


@dataclass(frozen=True)
class PublishedRows:
    """Rows as published: text columns, the path of the image, and the rows that could not even be cut into columns."""

    columns: Columns
    source: pa.Array
    where: str
    unparsed: list[str]
    lacks: tuple[str, ...]
    passed: Passed
    """Files that are no rows, by reason."""
    notes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    """Label files that are not there, of those that need not be."""
    keys: pa.ChunkedArray | None = None
    """What the label files call the images."""
    columns_mean: "FoundLabels | None" = None
    """What the columns are, where the description leaves that open."""


@dataclass(frozen=True)
class FoundLabels:
    """What columns are that no description explains: labels by name, and the column of the classes."""

    labels: dict[str, Label]
    attributes: tuple[str, ...] = ()
    default_classes: str = ""
    unclear: tuple[str, ...] = ()
    """Columns of which each could be the classes."""


class LabelFileError(JobError):
    """What is wrong with a label file, which the message begins with."""


class NotThereError(Exception):
    """The source does not have this form of the dataset; the message names what is missing."""


def filtered(raw: PublishedRows, mask: pa.Array) -> PublishedRows:
    """The rows where a bool array is true."""
    columns = {name: column.filter(mask) for name, column in raw.columns.items()}
    keys = None if raw.keys is None else raw.keys.filter(mask)
    return replace(raw, columns=columns, source=raw.source.filter(mask), keys=keys)


def filled(prefix: str, template: str, columns: Columns) -> pa.Array:
    """A template with the values of each row; null where a value is null or empty."""
    parts: list[pa.ChunkedArray | str] = [prefix]
    for text, name, _, _ in string.Formatter().parse(template):
        parts += [text] if text else []
        parts += [non_empty(columns[name])] if name else []
    joined = pc.binary_join_element_wise(*parts, "")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def text_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as text, without a dictionary."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def non_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text with null for empty."""
    text = text_of(column)
    is_empty = pc.equal(text, "")
    return pc.if_else(is_empty, None, text) if pc.any(is_empty).as_py() else text
