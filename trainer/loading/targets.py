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

ATTRIBUTES = "attributes"
CLASS = "class"


@dataclass(frozen=True)
class Target:
    """One target: a number (or a row of numbers) per sample, and what the numbers mean.

    Classes, categories and bins are int64 indices into `names`; attributes, all at once, float32
    (num_samples, num_names) of 0 and 1; other columns int64 or float32 as they are.
    """

    values: npt.NDArray[Any]
    names: tuple[str, ...] = ()


def target(
    name: str, columns: ManifestColumns, *, rows: npt.NDArray[np.int64], class_names: Sequence[str] = ()
) -> Target:
    """Read a target of some rows: `class`, `attributes`, a column, or `COLUMN:1-4,5-27,28-` for bins of a number.

    Classes are numbered in the order of `class_names`; categories over the whole manifest, so that they agree between
    splits. Raises `FieldError` for a column that is not there, or that one of the rows has no value in, and
    `UsageError` for bins that are none.
    """
    column_name, _, bins = name.partition(":")
    if name == ATTRIBUTES:
        return _attributes(columns, rows)
    if column_name not in (CLASS, *columns.labels):
        advice = f"the build has no such column; {nearest(column_name, [ATTRIBUTES, CLASS, *columns.labels])}"
        raise FieldError("targets", name, advice)
    column = columns.read([column_name], rows=rows)[column_name]
    if column_name == CLASS:
        if not class_names:
            raise FieldError("targets", name, "the build has no classes; choose another target, such as a label column")
        return _codes(name, column, class_names)
    if bins:
        return _binned(name, _numbers(name, column), bins)
    if pa.types.is_string(column.type):
        categories = columns.read([column_name])[column_name].drop_null().unique().to_pylist()
        return _codes(name, column, sorted(categories))
    values = _numbers(name, column)
    return Target(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def _attributes(columns: ManifestColumns, rows: npt.NDArray[np.int64]) -> Target:
    names = tuple(name for name in columns.labels if columns.schema.field(name).type == pa.int8())
    if not names:
        raise FieldError("targets", ATTRIBUTES, "the build has none")
    table = columns.read(names, rows=rows)
    values = np.stack([_numbers(name, table[name]).astype(np.float32) for name in names], axis=1)
    return Target(values, names)


def _codes(name: str, column: pa.ChunkedArray, names: Sequence[str]) -> Target:
    """The place of each value among names."""
    codes = pc.index_in(column, value_set=pa.array(names, pa.string()))
    if codes.null_count:
        raise FieldError("targets", name, f"{codes.null_count:,} samples have none of {', '.join(names[:5])}")
    return Target(np.asarray(codes.to_numpy(), np.int64), tuple(names))


def _numbers(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if column.null_count:
        raise FieldError("targets", name, f"{column.null_count:,} samples have no value; leave them out with rows=")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise FieldError("targets", name, "not a number")
    return np.asarray(column.to_numpy())


def _binned(name: str, values: npt.NDArray[Any], text: str) -> Target:
    """The number of the bin of each value."""
    bins = Bins.of(text, field="targets", value=name)
    codes = bins.codes(values)
    if (codes < 0).any():
        missing = int((codes < 0).sum())
        advice = f"{missing:,} samples are in no bin, such as {values[codes < 0][0]:g}"
        raise FieldError("targets", name, advice)
    return Target(codes.astype(np.int64), bins.names)
