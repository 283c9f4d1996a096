"""Any table: a table of a user's own, of any usual format, as columns of text."""

import io
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facepack.column_text import as_text, is_plain
from facepack.description import TableFile
from facepack.errors import JobError
from facepack.json_columns import columns_of, flat
from facepack.label_file import PLACE, json_rows, place_texts, read_rows
from facepack.label_text import DELIMITERS, delimiter_of, header_names, utf8
from facepack.parquet_images import class_names_of
from facepack.published_rows import Columns
from facepack.signature import IMAGE_SUFFIXES
from facepack.table_rows import plain_column

KEY, VALUE = "file", "label"
"""Columns of a JSON object of labels by file, and of columns without names: of the first of them."""


class AnyTable(NamedTuple):
    """Columns of text, with the places of the rows in column PLACE; rows that cannot be cut; names of numbers."""

    columns: Columns
    unparsed: list[str]
    class_names: Mapping[str, tuple[str, ...]] = {}
    not_taken: tuple[str, ...] = ()
    """Columns that are no labels, with their types."""


def read_any_table(path: str, content: bytes) -> AnyTable:
    """Read a CSV with any delimiter, columns with blanks between them, JSON (lines), or Parquet.

    Raises `JobError` for anything else, and where the file is damaged.
    """
    if content.startswith(b"PAR1"):
        return _read_parquet(path, content)
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise JobError(f"{path}: an Excel file or archive; save the table as CSV")
    text = utf8(content)
    if b"\0" in text:
        raise JobError(f"{path}: no table of text; expected CSV, TSV, JSON, JSON lines or Parquet")
    if text.lstrip()[:1] in (b"{", b"["):
        return _read_json(path, text.decode("utf-8", "replace"))
    first = next((line for line in io.BytesIO(text) if line.strip(b" \t\r\n;,")), b"").decode("utf-8", "replace")
    rows, unparsed = read_rows(_format_of(path, first.strip("\r\n")), path, content=content)
    columns: Columns = {name: plain_column(_encoded(rows[name])) for name in rows.column_names if name != PLACE}
    columns[PLACE] = rows[PLACE]
    return AnyTable(_placed(columns, path), unparsed)


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _format_of(path: str, first: str) -> TableFile:
    """How a text table is written, by its first line; a line with the name of an image is no header."""
    is_delimited = first.startswith("sep=") or any(delimiter in first for delimiter in DELIMITERS)
    if not is_delimited and " " in first.strip():
        names = _invented(first.split())
        return TableFile(path=path, format="spaces", key=names[0] if names else first.split()[0], columns=names)
    if first.strip().isdigit():  # as CelebA's files begin
        return TableFile(path=path, format="spaces", key="image", count_line=True)
    return TableFile(path=path, format="csv", key="", columns=_invented(header_names(first, delimiter_of(first))))


def _invented(fields: list[str]) -> tuple[str, ...]:
    """Names for columns without any; nothing where the first line has names."""
    if not any(name.lower().endswith(IMAGE_SUFFIXES) for name in fields):
        return ()
    if len(fields) == 2:
        return (KEY, VALUE) if fields[0].lower().endswith(IMAGE_SUFFIXES) else (VALUE, KEY)
    return tuple(f"column {number}" for number in range(1, len(fields) + 1))


def _placed(columns: Columns, path: str) -> Columns:
    """The columns, with that of the places last and with the name of the file."""
    places = pc.binary_join_element_wise(path, place_texts(columns.pop(PLACE)), ", ")
    return columns | {PLACE: places}


def _read_json(path: str, text: str) -> AnyTable:
    """A list of objects, an object a line, or one object of labels (or objects) by file."""
    value = json_rows(path, text)
    word = "entry"
    if isinstance(value, dict) and path.lower().endswith(("jsonl", "ndjson")):  # of a line
        value = [value]
    elif isinstance(value, dict):
        items = {name: item if isinstance(item, dict) else {VALUE: item} for name, item in value.items()}
        value = [{KEY: name} | item for name, item in items.items()]
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise JobError(f"{path}: expected a list of objects, an object a line, or an object of labels by file")
    rows = [flat(row) for row in value]
    names = dict.fromkeys(name for row in value for name in row)
    columns = columns_of(rows)
    places = [f"{path}, {word} {number}" for number in range(1, len(rows) + 1)]
    lists = [f"{name} (a list)" for name in names if any(isinstance(row.get(name), list) for row in value)]
    lists = [text for text in lists if text.rpartition(" (")[0] not in columns]
    return AnyTable(columns | {PLACE: pa.chunked_array([pa.array(places, pa.string())])}, [], {}, tuple(lists))


def _read_parquet(path: str, content: bytes) -> AnyTable:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise JobError(f"{path}: a damaged Parquet file ({f'{error}'.splitlines()[0]}); get it again") from error
    columns, not_taken = label_columns(table)
    places = pa.array([f"{path}, row {number}" for number in range(1, len(table) + 1)], pa.string())
    names = {name: names for name, names in class_names_of(table.schema).items() if name in columns}
    return AnyTable(columns | {PLACE: pa.chunked_array([places])}, [], names, not_taken)


def label_columns(table: pa.Table) -> tuple[Columns, tuple[str, ...]]:
    """The columns of a table that can be labels as text, those in structs by their path; and the others by type."""
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    columns = {
        column.name: plain_column(as_text(table[column.name])) for column in table.schema if is_plain(column.type)
    }
    others = tuple(f"{column.name} ({column.type})" for column in table.schema if not is_plain(column.type))
    return columns, others
