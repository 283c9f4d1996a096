"""Targets: columns of the manifest as numbers to learn, so that another target needs no new build."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.bins import Bins
from facepack.errors import UsageError, nearest

ATTRIBUTES = "attributes"


@dataclass(frozen=True)
class Target:
    """One target: a number (or a row of numbers) per sample, and what the numbers mean.

    Classes and categories are int64 indices into `names`; attributes, all at once, float32 (num_samples, num_names)
    of 0 and 1; other columns int64 or float32 as they are.
    """

    values: npt.NDArray[Any]
    names: tuple[str, ...] = ()


def target(name: str, table: pa.Table, *, class_names: tuple[str, ...], whole: pa.Table | None = None) -> Target:
    """Read a target: `class`, `attributes`, a column, or `COLUMN:1-4,5-27,28-` for bins of a number.

    Categories are numbered over the `whole` manifest, where it is given, so that they agree between splits.
    Raises `UsageError` for a column that is not there, or that some sample has no value in.
    """
    column_name, _, bins = name.partition(":")
    if name == ATTRIBUTES:
        names = tuple(one for one in manifest.label_columns(table) if table.schema.field(one).type == pa.int8())
        if not names:
            raise UsageError("target attributes: the build has none")
        values = np.stack([_numbers(table, one).astype(np.float32) for one in names], axis=1)
        return Target(values, names)
    known = ["class", *manifest.label_columns(table)]
    if column_name not in known:
        raise UsageError(f"target {name}: the build has no such column; {nearest(column_name, [ATTRIBUTES, *known])}")
    if column_name == "class":
        if not class_names:
            raise UsageError("target class: the build has no classes; choose another target, such as a label column")
        return Target(_codes(table, "class", class_names), class_names)
    if bins:
        return _binned(name, _numbers(table, column_name), bins)
    if pa.types.is_string(table.schema.field(column_name).type):
        named = (table if whole is None else whole)[column_name]
        names = tuple(sorted(set(named.drop_null().unique().to_pylist())))
        return Target(_codes(table, column_name, names), names)
    values = _numbers(table, column_name)
    return Target(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def _codes(table: pa.Table, column: str, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    codes = pc.index_in(table[column], value_set=pa.array(names, pa.string()))
    if codes.null_count:
        raise UsageError(f"target {column}: {codes.null_count:,} samples have none of {', '.join(names[:5])}")
    return np.asarray(codes.to_numpy(), np.int64)


def _numbers(table: pa.Table, column: str) -> npt.NDArray[Any]:
    values = table[column]
    if values.null_count:
        raise UsageError(f"target {column}: {values.null_count:,} samples have no value; leave them out with rows=")
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise UsageError(f"target {column}: not a number")
    return np.asarray(values.to_numpy())


def _binned(name: str, values: npt.NDArray[Any], text: str) -> Target:
    """The number of the bin of each value."""
    bins = Bins.of(text, field="targets", value=name)
    codes = bins.codes(values)
    if (codes < 0).any():
        missing = int((codes < 0).sum())
        raise UsageError(f"target {name}: {missing:,} samples are in no bin, such as {values[codes < 0][0]:g}")
    return Target(codes.astype(np.int64), bins.names)
