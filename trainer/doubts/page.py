"""Page of doubts: one HTML file with the pictures of labels that look wrong, and what they are likely."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.page import rendered
from facepack.storage import Store
from trainer.doubts import files
from trainer.doubts.scored import Doubts, Joint
from trainer.results.protocol import Cell, Figure, ResultTable, percent
from trainer.runs import Run

NUM_WORST, NUM_PER_LABEL, MAX_LABELS = 48, 12, 60
_MAX_COLUMNS, _NUM_PAIRS = 12, 40
_NUM_BANDS = 10


@dataclass(frozen=True)
class Shown:
    """A doubtful label as the page shows it."""

    uri: str
    """Empty where there is no picture."""
    given: str
    given_percent: str
    """The probability of it; empty of numbers."""
    likely: str
    likely_percent: str
    off: str
    """Of numbers, how far off the label is."""
    source: str


@dataclass(frozen=True)
class Sheet:
    """Some pictures under a heading, and how many doubtful labels there are of their kind."""

    title: str
    num: int
    shown: list[Shown]


@dataclass(frozen=True)
class DoubtsPage:
    """All that the page shows."""

    title: str
    headline: list[Figure]
    facts: list[tuple[str, str]]
    notes: list[str]
    tables: list[ResultTable]
    worst: Sheet
    sheets: list[Sheet]


def rows_shown(doubts: Doubts) -> list[int]:
    """The rows of the manifest whose pictures the page needs."""
    doubtful = doubts.doubtful
    parts = [doubtful.slice(0, NUM_WORST), *(part.slice(0, NUM_PER_LABEL) for _, part in _by_label(doubtful))]
    return list(dict.fromkeys(row for part in parts for row in part["row"].to_pylist()))


def page_of(
    doubts: Doubts, run: Run, *, pictures: dict[int, str], notes: Sequence[str], facts: dict[str, str]
) -> DoubtsPage:
    """Put together what the page shows; `doubts.table` has a column source, `pictures` are by row."""
    doubtful, num = doubts.doubtful, len(doubts.table)
    build = "+".join(Path(location).name for location in run.locations)
    sheets = [
        Sheet(title, len(part), _shown(part.slice(0, NUM_PER_LABEL), pictures)) for title, part in _by_label(doubtful)
    ]
    return DoubtsPage(
        title=build,
        headline=_headline(doubts, num=num, num_doubtful=len(doubtful)),
        facts=[
            ("recipe", run.recipe_name),
            ("network", run.recipe.network),
            ("build", run.data.location),
            *facts.items(),
        ],
        notes=[*notes, *doubts.notes],
        tables=[*_joint_tables(doubts.joints), *_number_tables(doubts)],
        worst=Sheet("The most doubtful labels", len(doubtful), _shown(doubtful.slice(0, NUM_WORST), pictures)),
        sheets=sheets,
    )


def write(page: DoubtsPage, folder: Path) -> Path:
    """Write doubts.html; gives its path."""
    content = rendered(Path(__file__).with_name("page.html"), page=page, list_file=files.LIST_FILE)
    Store(str(folder)).write(files.PAGE_FILE, content.encode("utf-8", "backslashreplace"))
    return folder / files.PAGE_FILE


def _headline(doubts: Doubts, *, num: int, num_doubtful: int) -> list[Figure]:
    figures = [
        Figure("labels looked at", f"{num:,}", ""),
        Figure("look wrong", f"{num_doubtful:,}", percent(num_doubtful / max(num, 1)) + " of them"),
    ]
    if doubts.joints:
        num_wrong = sum(joint.num_wrong for joint in doubts.joints)
        figures.append(Figure("wrong by estimate", percent(num_wrong / max(num, 1)), f"{num_wrong:,.0f} labels"))
    return figures


def _by_label(doubtful: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The doubtful labels of each class or value of an attribute, the most frequent first; none of numbers."""
    if not len(doubtful) or not pa.types.is_string(doubtful["given"].type):
        return
    counts = sorted(doubtful["given"].value_counts().to_pylist(), key=lambda count: (-count["counts"], count["values"]))
    for count in counts[:MAX_LABELS]:
        yield count["values"], doubtful.filter(pc.equal(doubtful["given"], count["values"]))


def _shown(doubtful: pa.Table, pictures: dict[int, str]) -> list[Shown]:
    return [_shown_label(row, pictures.get(row["row"], "")) for row in doubtful.to_pylist()]


def _shown_label(row: dict[str, Any], uri: str) -> Shown:
    if isinstance(row["given"], str):
        given, likely = (f"{100 * row[f'{name}_probability']:.0f} %" for name in ("given", "likely"))
        return Shown(uri, row["given"], given, row["likely"], likely, off="", source=row["source"])
    off = f"off by {row['doubt']:.1f} times the usual {row['spread']:.1f}"
    return Shown(uri, f"{row['given']:g}", "", f"{row['likely']:.1f}", "", off=off, source=row["source"])


# Tables


def _joint_tables(joints: Sequence[Joint]) -> Iterator[ResultTable]:
    """The confident joint: of classes as a matrix or its largest parts, of attributes a row each."""
    if len(joints) == 1 and len(joints[0].names) > _MAX_COLUMNS:
        yield _pairs_table(joints[0])
    elif len(joints) == 1:
        yield _matrix_table(joints[0])
    elif joints:
        yield _attributes_table(joints)


_MEANING = (
    "Confident means: the probability reaches the mean probability of that class among the photos labelled so. "
    "Photos that are confidently of no class are not counted."
)


def _matrix_table(joint: Joint) -> ResultTable:
    title = "Confident joint: photos by label, and what they confidently are"
    rows = tuple(
        (Cell(name), *(Cell(f"{number:,}") for number in counts))
        for name, counts in zip(joint.names, joint.counts, strict=True)
    )
    return ResultTable(title, ("labelled", *joint.names), rows, _MEANING)


def _pairs_table(joint: Joint) -> ResultTable:
    off = joint.counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:_NUM_PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    rows = tuple((Cell(joint.names[i]), Cell(joint.names[j]), Cell(f"{off[i, j]:,}")) for i, j in pairs)
    num_hidden = int((off > 0).sum()) - len(rows)
    note = _MEANING + (f" {num_hidden:,} more pairs are not shown." if num_hidden else "")
    return ResultTable("Confident joint, its largest parts", ("labelled", "confidently", "photos"), rows, note)


def _attributes_table(joints: Sequence[Joint]) -> ResultTable:
    columns = ("attribute", "not, confidently not", "not, confidently so", "so, confidently not", "so, confidently so")
    rows = tuple(
        (
            Cell(joint.title),
            *(Cell(f"{number:,}") for number in joint.counts.ravel()),
            Cell(percent(joint.num_wrong / max(joint.num_labels, 1))),
        )
        for joint in joints
    )
    title = "Confident joint: labels of each attribute, and what the photos confidently are"
    return ResultTable(title, (*columns, "wrong by estimate"), rows, _MEANING)


def _number_tables(doubts: Doubts) -> Iterator[ResultTable]:
    """Of numbers: the local spread and the doubtful ones by tenths of the predictions."""
    if doubts.joints or not len(doubts.table):
        return
    likely = doubts.table["likely"].to_numpy()
    bands = np.array_split(np.argsort(likely, kind="stable"), min(_NUM_BANDS, len(likely)))
    rows = []
    for band in bands:
        part = doubts.table.take(pa.array(band))
        low, high = part["likely"].to_numpy()[[0, -1]]
        num_doubtful = pc.sum(part["is_doubtful"]).as_py()
        spread = np.median(part["spread"].to_numpy())
        rows.append(
            (Cell(f"{low:.1f} to {high:.1f}"), Cell(f"{len(part):,}"), Cell(f"{spread:.1f}"), Cell(f"{num_doubtful:,}"))
        )
    note = "The spread is that of the labels around the predictions of the 101 photos with the nearest predictions."
    yield ResultTable("Local spread", ("likely", "labels", "spread", "look wrong"), tuple(rows), note)
