"""Files of doubts: all scores as Parquet, and the list of photos that `facepack build --leave-out` takes."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa

from facepack import manifest
from facepack.leave_out import left_out_rows, read_leave_out
from facepack.storage import Store

TABLE_FILE, LIST_FILE, PAGE_FILE = "doubts.parquet", "leave-out.csv", "doubts.html"
_HEADER = ("image", "given", "likely", "doubt", "key")
_BETWEEN = "; "


def write(folder: Path, table: pa.Table) -> list[str]:
    """Write doubts.parquet and leave-out.csv; gives the paths that a list cannot name, which are left away.

    `table` is that of `Doubts`, with a column source. The list has a line per photo with a doubtful label, the most
    doubtful first. Without any there is no list, for a build would refuse an empty one.
    """
    store = Store(str(folder))
    store.make()
    manifest.write_table(store, TABLE_FILE, table=table)
    (folder / LIST_FILE).unlink(missing_ok=True)
    lines = _lines(table.filter(table["is_doubtful"]))
    if not lines:
        return []
    store.write(LIST_FILE, _csv(lines))
    return _not_named(folder / LIST_FILE, lines, store=store)


def _lines(doubtful: pa.Table) -> dict[str, list[Any]]:
    """The line of each photo by its path: its doubtful labels side by side, as attributes may have several."""
    lines: dict[str, list[Any]] = {}
    columns = (doubtful[name].to_pylist() for name in ("source", "given", "likely", "doubt", "key"))
    for source, given, likely, doubt, key in zip(*columns, strict=True):
        words = [value if isinstance(value, str) else f"{value:g}" for value in (given, likely)]
        if source in lines:
            line = lines[source]
            line[1], line[2] = f"{line[1]}{_BETWEEN}{words[0]}", f"{line[2]}{_BETWEEN}{words[1]}"
        else:
            lines[source] = [source, *words, f"{doubt:.4f}", key]
    return lines


def _csv(lines: dict[str, list[Any]]) -> bytes:
    """Every field in quotes, so that no name looks like a comment."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(lines.values())
    return text.getvalue().encode("utf-8", "backslashreplace")


def _not_named(path: Path, lines: dict[str, list[Any]], *, store: Store) -> list[str]:
    """Read the list as a build does; write it anew without the photos that it would miss, and give those."""
    sources = list(lines)
    rows = set(left_out_rows(read_leave_out(str(path)), sources, keys=[]).rows)
    missed = [source for row, source in enumerate(sources) if row not in rows]
    if missed:
        kept = {source: line for source, line in lines.items() if source not in missed}
        path.unlink()
        if kept:
            store.write(path.name, _csv(kept))
    return missed
