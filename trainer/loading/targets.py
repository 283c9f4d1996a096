"""Targets: columns of the manifest as numbers to learn, so that another target needs no new build."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.bins import Bins
from facepack.errors import FieldError, nearest
from trainer.loading.columns import ManifestColumns
from trainer.loading.ranges import Ranges

ATTRIBUTES = "attributes"
CLASS = "class"
MIDDLE = "middle"
POINTS = {"box": 4, "landmarks": 10, "published_box": 4, "published_landmarks": 10}
"""Columns of several numbers per sample, and how many."""


@dataclass(frozen=True)
class Target:
    """One target: a number (or a row of numbers) per sample, and what the numbers mean.

    Classes, categories and bins are int64 indices into `names`; attributes, all at once, float32
    (num_samples, num_names) of 0 and 1; boxes and landmarks float32 (num_samples, 4) and (num_samples, 10), in pixels
    of the upright photo; other columns int64 or float32 as they are.
    """

    values: npt.NDArray[Any]
    names: tuple[str, ...] = ()


def target(
    name: str, columns: ManifestColumns, *, rows: npt.NDArray[np.int64], class_names: Sequence[str] = ()
) -> Target:
    """Read a target of some rows: `class`, `attributes`, `box`, `landmarks`, a column, or bins of a number.

    Bins are written COLUMN:1-4,5-27,28-, of a number or of a category of ranges such as 20-29; COLUMN:middle is the
    number in the middle of its range. Of FIRST|SECOND it is the first that the build has. Classes are numbered in the
    order of `class_names`; categories over the whole manifest, so that they agree between splits. Raises `FieldError`
    for a column that is not there, or that one of the rows has no value in, and for bins that are none.
    """
    points = [name for name in POINTS if name in columns.schema.names]
    known = [CLASS, *points, *columns.labels]
    name = first_there(name, [ATTRIBUTES, *known])
    column_name, colon, bins = name.partition(":")
    if name == ATTRIBUTES:
        return _attributes(columns, rows)
    if column_name not in known:
        advice = f"the build has no such column; {nearest(column_name, [ATTRIBUTES, *known])}"
        raise FieldError("targets", name, advice)
    if colon and pa.types.is_string(columns.schema.field(column_name).type):
        return _of_ranges(name, columns, rows)
    if colon:
        return _binned(name, _numbers(name, columns.read(column_name, rows=rows)), bins)
    if column_name in POINTS:
        return _points(name, columns.read(column_name, rows=rows))
    if column_name == CLASS:
        if not class_names:
            raise FieldError("targets", name, "the build has no classes; choose another target, such as a label column")
        return _coded(name, columns.codes(name, class_names, rows=rows), class_names)
    if pa.types.is_string(columns.schema.field(name).type):
        categories = sorted(columns.read(name).drop_null().unique().to_pylist())
        return _coded(name, columns.codes(name, categories, rows=rows), categories)
    values = _numbers(name, columns.read(name, rows=rows))
    return Target(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def first_there(name: str, known: Sequence[str]) -> str:
    """Of FIRST|SECOND the first whose column is known; where none is, all of it."""
    choices = [choice.strip() for choice in name.split("|")]
    return next((choice for choice in choices if choice.partition(":")[0] in known), name)


def attribute_names(columns: ManifestColumns) -> tuple[str, ...]:
    """Names of the label columns that hold attributes."""
    return tuple(name for name in columns.labels if columns.schema.field(name).type == pa.int8())


def _attributes(columns: ManifestColumns, rows: npt.NDArray[np.int64]) -> Target:
    names = attribute_names(columns)
    if not names:
        raise FieldError("targets", ATTRIBUTES, "the build has none")
    values = np.empty((len(rows), len(names)), np.float32)
    for number, name in enumerate(names):
        values[:, number] = _numbers(name, columns.read(name, rows=rows))
    return Target(values, names)


def _coded(name: str, codes: npt.NDArray[np.int32], names: Sequence[str]) -> Target:
    """The place of each value among names."""
    if num_others := int((codes < 0).sum()):
        raise FieldError("targets", name, f"{num_others:,} samples have none of {', '.join(names[:5])}")
    return Target(codes.astype(np.int64), tuple(names))


def _points(name: str, column: pa.ChunkedArray) -> Target:
    """Several numbers per sample, the same for all."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    if num_without := int((lengths != POINTS[name]).sum()):
        advice = f"{num_without:,} of {len(column):,} samples have none of {POINTS[name]} numbers"
        raise FieldError("targets", name, f"{advice}; build with --align crop or chip, or leave them out with rows=")
    numbers = pa.chunked_array([chunk.flatten() for chunk in column.chunks], pa.float32())
    return Target(_numbers(name, numbers).reshape(-1, POINTS[name]).astype(np.float32))


def _numbers(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise FieldError("targets", name, "not a number")
    num_missing = column.null_count
    if not num_missing and pa.types.is_floating(column.type):
        num_missing = int((~np.isfinite(column.to_numpy())).sum())
    if num_missing:
        raise FieldError("targets", name, f"{num_missing:,} samples have no value; leave them out with rows=")
    return np.asarray(column.to_numpy())


def _of_ranges(name: str, columns: ManifestColumns, rows: npt.NDArray[np.int64]) -> Target:
    """A category of ranges as numbers, or in bins that hold its ranges whole."""
    column_name, _, text = name.partition(":")
    ranges = Ranges.of(columns.read(column_name).drop_null().unique().to_pylist())
    if ranges is None:
        raise FieldError("targets", name, f"{column_name} is neither a number nor ranges of one, such as 20-29 and 70+")
    codes = _coded(column_name, columns.codes(column_name, ranges.names, rows=rows), ranges.names).values
    if text == MIDDLE:
        return Target(ranges.middles[codes])
    bins = Bins.of(text, field="targets", value=name)
    of_range = ranges.codes_in(bins)
    if (missing := of_range[codes] < 0).any():
        first = ranges.names[codes[missing][0]]
        raise FieldError("targets", name, f"{int(missing.sum()):,} samples are of no whole bin, such as {first}")
    return Target(of_range[codes], bins.names)


def _binned(name: str, values: npt.NDArray[Any], text: str) -> Target:
    """The number of the bin of each value."""
    bins = Bins.of(text, field="targets", value=name)
    codes = bins.codes(values)
    if (codes < 0).any():
        missing = int((codes < 0).sum())
        advice = f"{missing:,} samples are in no bin, such as {values[codes < 0][0]:g}"
        raise FieldError("targets", name, advice)
    return Target(codes.astype(np.int64), bins.names)
