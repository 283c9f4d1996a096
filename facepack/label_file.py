"""Label files: their rows as columns of text, each row with the place where it stands."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from facepack.description import TableFile
from facepack.errors import JobError
from facepack.label_text import delimiter_of, header_names, read_fields, utf8
from facepack.mat_files import read_mat

PLACE = "\0place"
"""The column with the place of each row in its file: the number of its line, or a text such as 'entry 12'."""

Rows = tuple[pa.Table, list[str]]
"""Rows of text, and a line for each row that cannot be cut into columns."""

_BLOCK_BYTES = 1 << 24
"""How much text is read at a time, which takes several times as much memory as its columns do."""
_KEYS = ("image_id", "image", "file", "filename", "file_name", "name")
"""What a header calls the names of the images, where it names them; CelebA's boxes have it, its attributes do not."""
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])')


def read_rows(table: TableFile, path: str, *, content: bytes) -> Rows:
    """Read a label file in any encoding; `JobError` names the file and what is wrong with it as a whole."""
    readers: dict[str, Callable[[TableFile, str, bytes], Rows]] = {
        "csv": _read_csv,
        "spaces": _read_spaces,
        "json": _read_json,
        "folds": _read_folds,
    }
    if table.format == "mat":
        rows, unparsed = read_mat(table, path, content)
    else:
        rows, unparsed = readers[table.format](table, path, utf8(content))
    if table.key and table.key not in rows.column_names:
        names = [name for name in rows.column_names if name != PLACE]
        raise JobError(f"{path}: no column {table.key!r}; it has {', '.join(names[:6])}")
    return rows, unparsed


def _read_csv(table: TableFile, path: str, content: bytes) -> Rows:
    """Values separated by commas, or by what else its header has, below the header line."""
    start, begin, number = 0, 0, 0
    header = ""
    while start < len(content) and not header.strip(" \t\r;,"):  # Excel may begin with a line sep=;
        begin = start
        line, start = _line(content, start)
        header = line.decode("utf-8", "replace").rstrip("\r")
        header = "" if header.startswith("sep=") else header
        number += 1
    delimiter = delimiter_of(header)
    names = list(table.columns)
    if names:  # there is no header
        start, number = begin, number - 1
    else:
        names = header_names(header, delimiter)
    return _text_table(
        path, content, names=names, key=table.key, delimiter=delimiter, start=start, first_line=number + 1
    )


def _read_spaces(table: TableFile, path: str, content: bytes) -> Rows:
    """Columns separated by one or more spaces, with CelebA's count line and header, which need not name the key."""
    content = content.strip(b" \t")
    first, after = _line(content, 0)
    stated = int(first) if table.count_line and first.strip().isdigit() else None
    start, number = (0, 1) if stated is None else (after, 2)
    names = list(table.columns)
    if not names:
        header, start = _line(content, start)
        names = header.decode("utf-8", "replace").split()
        names_key = bool(names) and (names[0] == table.key or names[0].lower() in _KEYS)
        names = [table.key, *names[names_key:]]
        number += 1
    rows, unparsed = _text_table(
        path, content, names=names, key=table.key, delimiter=" ", start=start, first_line=number
    )
    num_rows = len(rows) + len(unparsed)
    if stated is not None and stated != num_rows:
        raise JobError(f"{path}: line 1 states {stated:,} rows, there are {num_rows:,}; fetch the file again")
    return rows, unparsed


def _read_folds(table: TableFile, path: str, content: bytes) -> Rows:
    """LFW's people.txt: how many folds, then for each fold its number of rows and the rows; with a column fold."""
    rows, lines, unparsed = [], [], []
    fold = 0
    num_fields = len(table.columns)
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        if len(fields) == num_fields:
            rows.append([*fields, f"{max(fold, 1)}"])
            lines.append(number)
        elif len(fields) == 1 and fields[0].isdigit():
            fold += number > 1
        elif fields:
            unparsed.append(
                f"{path}: line {number:,}: {line[:60]!r}: {len(fields)} fields, expected {len(table.columns)}"
            )
    values = list(zip(*rows, strict=True)) or [()] * (num_fields + 1)
    columns = {name: pa.array(texts, pa.string()) for name, texts in zip([*table.columns, "fold"], values, strict=True)}
    return _with_places(pa.table(columns), np.array(lines, int)), unparsed


def _line(content: bytes, start: int) -> tuple[bytes, int]:
    """The line that begins there, and where the next one does; what comes after is not copied."""
    end = content.find(b"\n", start)
    return (content[start:], len(content)) if end < 0 else (content[start:end], end + 1)


def _text_table(
    path: str, content: bytes, *, names: list[str], key: str, delimiter: str, start: int, first_line: int
) -> Rows:
    """Separated values as text, dictionary-encoded but for the key; rows of another width are left out."""
    if repeated := [name for name in names if names.count(name) > 1]:
        raise JobError(f"{path}: two columns are called {repeated[0]!r}")
    types = dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string())) | ({key: pa.string()} if key else {})
    if re.search(rb"\S", memoryview(content)[start:]) is None:
        return pa.schema([*((name, types[name]) for name in names), (PLACE, pa.int32())]).empty_table(), []
    num_lines = content.count(b"\n", start) + (not content.endswith(b"\n"))
    plain = _plain_rows(content, types, delimiter=delimiter, start=start)
    if plain is not None and len(plain) == num_lines:
        return _with_places(plain, np.arange(first_line, first_line + num_lines)), []
    # Something is odd: rows of another width, lines without a row, line ends in quotes. Slow, and with line numbers.
    rest = content[start:]
    rest = _single_blanks(rest) if delimiter == " " else rest
    fields = read_fields(rest, delimiter, num_names=len(names), first_line=first_line, where=path)
    columns = list(zip(*fields.rows, strict=True)) or [() for _ in names]
    arrays = [pa.array(column, pa.string()) for column in columns]
    encoded = [array if name == key else array.dictionary_encode() for name, array in zip(names, arrays, strict=True)]
    return _with_places(pa.table(dict(zip(names, encoded, strict=True))), np.array(fields.lines, int)), fields.unparsed


def _single_blanks(rows: bytes) -> bytes:
    """Rows with single blanks between their columns, and none around them."""
    for old, new in ((b"\t", b" "), (b"  ", b" "), (b" \r\n", b"\n"), (b" \n", b"\n"), (b"\n ", b"\n")):
        while old in rows:
            rows = rows.replace(old, new)
    return rows.lstrip(b" ")


def _plain_rows(content: bytes, types: dict[str, pa.DataType], *, delimiter: str, start: int) -> pa.Table | None:
    """All rows as Arrow reads them, block by block; None where some have another width."""
    parts = []
    narrow = {name: pa.int8() for name, kind in types.items() if pa.types.is_dictionary(kind)}
    for block in _blocks(content, start, is_whole=delimiter != " " and b'"' in content):
        rows = _single_blanks(bytes(block)) if delimiter == " " else block
        table = _table_of(rows, types, delimiter=delimiter)
        if table is None:
            return None
        parts.append(_narrowed(table, narrow))
    return pa.concat_tables(parts, promote_options="permissive")


def _blocks(content: bytes, start: int, *, is_whole: bool) -> Iterator[memoryview]:
    """The rows in blocks of whole lines; with quotes, in which lines may end, in one block."""
    while start < len(content):
        end = content.find(b"\n", start + _BLOCK_BYTES) + 1
        stop = len(content) if is_whole or not end else end
        yield memoryview(content)[start:stop]
        start = stop


def _narrowed(table: pa.Table, widths: dict[str, pa.DataType]) -> pa.Table:
    """The same table, the indices of its dictionaries in the fewest bytes that all blocks so far have needed."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in widths:
            unified = column.unify_dictionaries()
            number = max((len(chunk.dictionary) for chunk in unified.chunks), default=0)
            while number > np.iinfo(widths[name].to_pandas_dtype()).max:
                widths[name] = {pa.int8(): pa.int16(), pa.int16(): pa.int32()}[widths[name]]
            column = unified.cast(pa.dictionary(widths[name], pa.string()))
        columns[name] = column
    return pa.table(columns)


def _table_of(rows: bytes | memoryview, types: dict[str, pa.DataType], *, delimiter: str) -> pa.Table | None:
    """Rows as Arrow reads them, None where some have another width."""
    try:
        return pa_csv.read_csv(
            pa.BufferReader(rows),
            read_options=pa_csv.ReadOptions(column_names=list(types), block_size=1 << 22),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char=False if delimiter == " " else '"', ignore_empty_lines=True
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=False, quoted_strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None


def _with_places(table: pa.Table, lines: Any, word: str = "line") -> pa.Table:
    """Numbers of lines as numbers: texts of 200,000 rows take a tenth of a second, and hardly any is shown."""
    numbers = pa.array(lines, pa.int32())
    return table.append_column(PLACE, numbers if word == "line" else place_texts(pa.chunked_array([numbers]), word))


def place_texts(places: pa.ChunkedArray, word: str = "line") -> pa.ChunkedArray:
    """Places as texts such as 'line 12'."""
    if not pa.types.is_integer(places.type):
        return places
    return pc.binary_join_element_wise(word, places.cast(pa.string()), " ")


def _read_json(table: TableFile, path: str, content: bytes) -> Rows:
    """A list of objects, or an object a line; every value is taken as text."""
    rows = json_rows(path, content.decode("utf-8", "replace"))
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise JobError(f"{path}: expected a list of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
    encoded = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    columns = {name: array if name == table.key else array.dictionary_encode() for name, array in encoded.items()}
    return _with_places(pa.table(columns), np.arange(1, len(rows) + 1), "entry"), []


def _json_lines(path: str, text: str) -> list[Any]:
    """The value of each line; `JobError` names the line that is none, where the first one is."""
    values: list[Any] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            if not values:
                raise
            raise JobError(f"{path}: line {number:,}: not valid JSON: {error}") from error
    return values


def json_rows(path: str, text: str) -> Any:
    """The value of a JSON text, with a comma after the last of a list if need be, or those of its lines."""
    try:
        return json.loads(text)
    except ValueError as error:
        first_error = error
    try:
        if text.lstrip().startswith("{"):
            return _json_lines(path, text)
        return json.loads(_TRAILING_COMMA.sub(lambda match: match[1] or "", text))
    except JobError:
        raise
    except ValueError:
        raise JobError(f"{path}: not valid JSON: {first_error}") from first_error
