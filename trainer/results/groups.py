"""Groups: the score of a split by categories of its samples, such as gender, race, decade of age or dataset."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from trainer import metrics
from trainer.metrics import Floats, Interval
from trainer.results.protocol import Cell, ResultTable

FEWEST = 20
"""Samples from which on a group counts for the gap."""
_MOST_GROUPS = 24
_UNKNOWN = "unknown"
_DECADE = 10
_NUM_SHOWN = 8
_NO_CATEGORIES = {
    *manifest.OWN_COLUMNS.names,
    *manifest.MEASURED_COLUMNS.names,
    *manifest.PUBLISHED_COLUMNS.names,
    manifest.FACE,
} - {"class"}


@dataclass(frozen=True)
class Group:
    """The score of the samples that share a value."""

    name: str
    num: int
    score: float
    interval: Interval
    """95 %."""


@dataclass(frozen=True)
class Category:
    """The groups that a column of the manifest makes."""

    name: str
    groups: tuple[Group, ...]
    gap: float
    """Between the best and the worst group of at least `FEWEST` samples; 0 for less than two such groups."""


def columns_of(table: pa.Table, *, besides: str) -> dict[str, pa.Array]:
    """The columns of a manifest that make groups, as texts (num_rows,); not that which is learnt.

    Strings are taken as they are, attributes as having them or not, ages by decades.
    """
    columns, learnt = {}, [choice.removesuffix(":middle") for choice in besides.split("|")]
    for name in table.column_names:
        if name in _NO_CATEGORIES or name in learnt:
            continue
        texts = _texts(name, table[name])
        if texts is not None and 1 < len(texts.drop_null().unique()) <= _MOST_GROUPS:
            columns[name] = texts
    return columns


def _texts(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    if pa.types.is_int8(kind) or pa.types.is_boolean(kind):
        return pc.if_else(column.cast(pa.bool_()), name, f"not {name}")
    if pa.types.is_floating(kind) and "age" in name.split("_"):
        decade = pc.multiply(pc.floor(pc.divide(column.cast(pa.float64()), _DECADE)), _DECADE).cast(pa.int64())
        return pc.binary_join_element_wise(
            decade.cast(pa.string()), pc.add(decade, _DECADE - 1).cast(pa.string()), " to "
        )
    return None


def by_category(scores: Floats, columns: Mapping[str, pa.Array]) -> tuple[Category, ...]:
    """The scores (num,) of samples by the values of each column (num,), the largest gap first."""
    categories = []
    for name, texts in columns.items():
        encoded = pc.fill_null(texts, _UNKNOWN).combine_chunks().dictionary_encode()
        if len(encoded.dictionary) < 2:
            continue
        codes = encoded.indices.to_numpy()
        groups = [_group(value, scores[codes == code]) for code, value in enumerate(encoded.dictionary.to_pylist())]
        categories.append(Category(name, tuple(sorted(groups, key=_order)), _gap(groups)))
    return tuple(sorted(categories, key=lambda category: -category.gap))


def _order(group: Group) -> tuple[bool, int, str]:
    """By name, numbers by size, unknown ones last."""
    first = group.name.partition(" ")[0]
    return group.name == _UNKNOWN, int(first) if first.lstrip("-").isdecimal() else 0, group.name


def _group(name: str, scores: Floats) -> Group:
    return Group(name, len(scores), float(np.mean(scores)), metrics.interval(scores))


def _gap(groups: list[Group]) -> float:
    scores = [group.score for group in groups if group.num >= FEWEST and group.name != _UNKNOWN]
    return max(scores) - min(scores) if len(scores) > 1 else 0.0


def tables(categories: tuple[Category, ...], *, split: str, score: str) -> list[ResultTable]:
    """A table for the page: each group of the categories with the largest gaps."""
    score = score.replace("_", " ")
    is_share = score == "accuracy"
    rows = [
        (
            Cell(category.name if first else ""),
            Cell(group.name),
            Cell(f"{group.num:,}"),
            Cell(_text(group.score, is_share), bar=group.score if is_share else None),
            Cell(f"{_text(group.interval[0], is_share)} to {_text(group.interval[1], is_share)}"),
            Cell(_text(category.gap, is_share) if first else ""),
        )
        for category in categories[:_NUM_SHOWN]
        for first, group in ((group is category.groups[0], group) for group in category.groups)
    ]
    if not rows:
        return []
    hidden = len(categories) - _NUM_SHOWN
    note = f"The gap is between the best and the worst group of at least {FEWEST} images."
    note += f" scores.json has {hidden:,} more categories, with smaller gaps." if hidden > 0 else ""
    unit = " %" if is_share else ""
    columns = ("category", "group", "images", f"{score}{unit}", "95 %", f"gap{unit}")
    return [ResultTable(f"By group on {split}, the largest gap first", columns, tuple(rows), note)]


def _text(value: float, is_share: bool) -> str:
    return f"{100 * value:.1f}" if is_share else f"{value:.2f}"
