"""Label formats: label files of forms that few publishers use, as tables of text."""

import csv
import io

import pyarrow as pa

from facepack.description import TableFile


def read_loose(_: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """Comma-separated values with blanks after commas, and commas at the ends of lines, as VGGFace2's people have."""
    return _table(csv.reader(io.StringIO(_decoded(content)), skipinitialspace=True), path)


def read_tabs(_: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """Values separated by single tabs below a header line; blanks belong to them, as in Adience's (25, 32)."""
    return _table(csv.reader(io.StringIO(_decoded(content)), delimiter="\t", quoting=csv.QUOTE_NONE), path)


def read_folds(table: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """LFW's people.txt: how many folds, then for each fold its number of rows and the rows; with a column fold."""
    rows, unparsed = [], []
    fold = 0
    for number, line in enumerate(_decoded(content).splitlines()):
        fields = line.split()
        if len(fields) == len(table.columns):
            rows.append([*fields, f"{max(fold, 1)}"])
        elif len(fields) == 1 and fields[0].isdigit():
            fold += number > 0
        elif fields:
            unparsed.append(f"{path}: {line[:60]!r}: {len(fields)} fields, expected {len(table.columns)}")
    return _columns([*table.columns, "fold"], rows), unparsed


def _decoded(content: bytes) -> str:
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")


def _table(lines: "csv._reader", path: str) -> tuple[pa.Table, list[str]]:  # type: ignore[name-defined]
    """Rows below a header; what is empty beyond the header's last name is no field."""
    names: list[str] = []
    rows, unparsed = [], []
    for line in lines:
        fields = [field.strip() for field in line]
        if not any(fields):
            continue
        if not names:
            names = _without_empty_end(fields, 1)
            continue
        fields = _without_empty_end(fields, len(names))
        if len(fields) == len(names):
            rows.append(fields)
        else:
            text = ",".join(fields)[:60]
            unparsed.append(f"{path}: {text!r}: {len(fields)} fields, expected {len(names)}")
    return _columns(names, rows), unparsed


def _without_empty_end(fields: list[str], shortest: int) -> list[str]:
    while len(fields) > shortest and not fields[-1]:
        fields = fields[:-1]
    return fields


def _columns(names: list[str], rows: list[list[str]]) -> pa.Table:
    values = list(zip(*rows, strict=True)) or [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, values, strict=True)})
