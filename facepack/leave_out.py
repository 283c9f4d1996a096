"""Leaving out: images that a list of a user's own names are no part of a build."""

import csv
import hashlib
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facepack.errors import UsageError
from facepack.label_text import delimiter_of, utf8

_HEADERS = frozenset(
    ["img_name", "image", "image_id", "image_path", "file", "file_name", "filename", "name", "path", "source"]
)
_NUM_NAMED = 3


@dataclass(frozen=True)
class LeaveOut:
    """Names of images that are left out, each with its line, and the file that lists them."""

    file: str = ""
    names: tuple[tuple[int, str], ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of the names in order; empty without a file."""
        text = "\n".join(sorted({name for _, name in self.names}))
        return hashlib.sha256(text.encode()).hexdigest() if self.file else ""


@dataclass(frozen=True)
class LeftOutRows:
    """The numbers of the rows that are left out, and a line on names that no row has."""

    rows: list[int]
    notes: tuple[str, ...] = ()


def read_leave_out(file: str) -> LeaveOut:
    """Read a list of images: a name on each line, or the first column of a table; lines with # are comments.

    Raises `UsageError` where there is no such file, or nothing in it.
    """
    if not file:
        return LeaveOut()
    try:
        text = utf8(Path(file).read_bytes()).decode("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"leave_out {file}: {error.strerror}") from error
    names: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first = next(csv.reader([line], delimiter=delimiter_of(line), skipinitialspace=True))[0].strip()
        if first and not (not names and first.casefold() in _HEADERS):
            names.append((number, _plain(first)))
    if not names:
        raise UsageError(f"leave_out {file}: names no image; expected a name on each line")
    return LeaveOut(file, tuple(names))


def left_out_rows(leave_out: LeaveOut, sources: Sequence[str], *, keys: Sequence[str | None]) -> LeftOutRows:
    """The rows of the names, each a path, the end of one, or what the label file calls it (`keys`, which may be empty).

    Raises `UsageError` for a name that several images have.
    """
    by_path = {path: row for row, path in enumerate(sources)}
    by_end: dict[str, list[int]] = {}
    for row, path in enumerate(sources):
        by_end.setdefault(posixpath.basename(path), []).append(row)
    by_key: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        by_key.setdefault(key or "", []).append(row)
    rows, unknown = set(), []
    for line, name in leave_out.names:
        if name in by_path:
            rows.add(by_path[name])
            continue
        of_end = [row for row in by_end.get(posixpath.basename(name), ()) if sources[row].endswith(f"/{name}")]
        of_name = sorted({*of_end, *by_key.get(name, ())})
        if len(of_name) > 1:
            named = ", ".join(sources[row] for row in of_name[:_NUM_NAMED])
            advice = f"{name} is the name of {len(of_name):,} images, such as {named}; give more of the path"
            raise UsageError(f"leave_out {leave_out.file}: line {line:,}: {advice}")
        rows.update(of_name)
        if not of_name:
            unknown.append(f"{name} (line {line:,})")
    more = f" and {len(unknown) - _NUM_NAMED:,} more" if len(unknown) > _NUM_NAMED else ""
    note = f"{leave_out.file} names what is not there: {', '.join(unknown[:_NUM_NAMED])}{more}"
    return LeftOutRows(sorted(rows), (note,) if unknown else ())


def _plain(name: str) -> str:
    return posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
