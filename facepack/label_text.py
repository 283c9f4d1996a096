"""Text of label files: as UTF-8, and cut into rows of fields with the lines that they stand on."""

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_LOOKED_AT_BYTES = 400
_SHOWN_CHARS = 60
DELIMITERS = (",", ";", "\t", "|")


def utf8(content: bytes) -> bytes:
    """The same text in UTF-8, without a byte order mark and with \\n at the ends of lines that had \\r alone.

    UTF-16 and UTF-32 are known by their mark, UTF-16 also by its zeros; what is not UTF-8 is taken for Windows-1252.
    """
    mark = next((mark for mark in _BOMS if content.startswith(mark)), b"")
    content = content.removeprefix(mark)
    encoding = _BOMS[mark] if mark else _guessed(content)
    if encoding != "utf-8":
        content = content.decode(encoding, "replace").encode()
    if b"\r" in content and b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    return content


def _guessed(content: bytes) -> str:
    start = content[:_LOOKED_AT_BYTES]
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if len(zeros) > 1 and zeros.count(0) > len(zeros) // 2:
            return encoding
    if content.isascii():
        return "utf-8"
    for encoding in ("utf-8", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def delimiter_of(header: str) -> str:
    """What separates the names of a header line: a comma, unless there is none but another one."""
    counts = {delimiter: header.count(delimiter) for delimiter in DELIMITERS}
    return "," if counts[","] else max(DELIMITERS, key=lambda delimiter: counts[delimiter])


def header_names(header: str, delimiter: str) -> list[str]:
    """The names of a header line; those of empty columns at its end are left away."""
    names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=delimiter != "\t"), [])
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    return names


@dataclass
class Fields:
    """Rows of fields with the numbers of their lines, and a line on each row of another width."""

    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    unparsed: list[str] = field(default_factory=list)


def read_fields(content: bytes, delimiter: str, *, num_names: int, first_line: int, where: str) -> Fields:
    """Cut text into rows of `num_names` fields; empty fields beyond are no fields. `first_line` counts from 1."""
    fields = Fields()
    text = io.StringIO(content.decode("utf-8", "replace"), newline="")
    if delimiter == " ":
        reader = csv.reader(text, delimiter=" ", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, delimiter=delimiter, skipinitialspace=delimiter != "\t")
    for line, row in _numbered(reader, first_line):
        while len(row) > num_names and not row[-1].strip():
            row.pop()
        if len(row) == num_names:
            fields.rows.append(row)
            fields.lines.append(line)
        elif any(value.strip() for value in row):
            shown = delimiter.join(row)[:_SHOWN_CHARS]
            fields.unparsed.append(f"{where}: line {line:,}: {shown!r}: {len(row)} fields, expected {num_names}")
    return fields


def _numbered(reader: "csv._reader", first_line: int) -> Iterator[tuple[int, list[str]]]:  # type: ignore[name-defined]
    """Rows with the number of the line on which each begins; one that is too long for csv is passed over."""
    while True:
        line = first_line + reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = [f"{error}"]
        yield line, row
