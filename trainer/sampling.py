"""Sampling: how often each image of a build is drawn in training, as a weight per row of its manifest."""

import io
import logging
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from facepack.errors import FieldError, UsageError, nearest
from facepack.storage import Store
from trainer.loading.columns import ManifestColumns
from trainer.loading.targets import target
from trainer.recipe import Recipe

log = logging.getLogger("facepack.trainer")

Weights = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_KEYS, _WEIGHT = ("key", "source"), "weight"
"""Columns of a table of weights: one of the first, and the other."""


def row_weights(
    recipe: Recipe, columns: ManifestColumns, *, rows: Rows, class_names: tuple[str, ...] = ()
) -> Weights | None:
    """The weights that a recipe gives `rows` of a manifest, float64 (num_rows of the manifest,), 0 elsewhere.

    None where it draws every image once, or every class equally often. Raises `UsageError` for columns and tables that
    are not there, or have no weight for one of the rows.
    """
    if recipe.balanced_by:
        values = _balanced(recipe.balanced_by, columns, rows=rows, class_names=class_names)
    elif recipe.drawn_by in columns.labels:
        values = _of_column(recipe.drawn_by, columns, rows=rows)
    elif recipe.drawn_by:
        values = _of_table(recipe.drawn_by, columns, rows=rows)
    else:
        return None
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise UsageError(f"drawn_by {recipe.drawn_by}: expected numbers, at least 0, and one more than that")
    weights = np.zeros(len(columns))
    weights[rows] = values
    return weights


def _balanced(text: str, columns: ManifestColumns, *, rows: Rows, class_names: tuple[str, ...]) -> Weights:
    """One over the number of images that have the same values."""
    names = [text] if text in columns.labels else [name.strip() for name in text.split("+")]
    codes = np.stack([_codes(name, columns, rows=rows, class_names=class_names) for name in names], axis=1)
    _, groups, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    log.info("balanced_by %s: %d groups, of %s to %s images", text, len(counts), f"{min(counts):,}", f"{max(counts):,}")
    return np.asarray(1 / counts[groups.reshape(-1)])


def _codes(name: str, columns: ManifestColumns, *, rows: Rows, class_names: tuple[str, ...]) -> Rows:
    """A whole number for each value."""
    try:
        read = target(name, columns, rows=rows, class_names=class_names)
    except FieldError as error:
        raise UsageError(f"balanced_by: {f'{error}'.removeprefix(f'{error.field} ')}") from error
    if read.values.ndim > 1:
        raise UsageError(f"balanced_by {name}: several values; name attributes, such as Male+Young")
    if read.values.dtype.kind == "f":
        raise UsageError(f"balanced_by {name}: a number; give bins, such as {name}:0-19,20-39,40-")
    return read.values.astype(np.int64)


def _of_column(name: str, columns: ManifestColumns, *, rows: Rows) -> Weights:
    """A column of numbers."""
    column = columns.read(name, rows=rows)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise UsageError(f"drawn_by {name}: no numbers; to draw its values equally often give balanced_by={name}")
    if column.null_count:
        raise UsageError(f"drawn_by {name}: {column.null_count:,} of {len(rows):,} images have no value")
    return np.asarray(column.to_numpy(), np.float64)


def _of_table(place: str, columns: ManifestColumns, *, rows: Rows) -> Weights:
    """The weights of a table by key or source; images that it leaves out are named, rows without an image counted."""
    if PurePosixPath(place).suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"drawn_by {place}: no column of the build; {nearest(place, columns.labels)}, or a .csv file")
    table = _read(place)
    name = next((name for name in _KEYS if name in table.column_names), "")
    if not name or _WEIGHT not in table.column_names:
        listed = ", ".join(table.column_names)
        raise UsageError(f"drawn_by {place}: expected columns key (or source) and weight, not {listed}")
    keys = pc.cast(table[name], pa.string())
    if (num := len(keys) - len(keys.unique())) > 0:
        raise UsageError(f"drawn_by {place}: {num:,} rows of a {name} that stands there twice")
    wanted = columns.read(name, rows=rows)
    places = pc.index_in(pc.cast(wanted, pa.string()), value_set=keys.combine_chunks())
    if missing := places.null_count:
        first = wanted.filter(pc.is_null(places))[0]
        raise UsageError(f"drawn_by {place}: {missing:,} of {len(rows):,} images have no weight; the first is {first}")
    if num := len(keys) - len(rows):
        log.info("drawn_by %s: %s rows are of no image in training", place, f"{num:,}")
    try:
        weights = pc.cast(table[_WEIGHT], pa.float64()).take(places)
    except pa.ArrowInvalid as error:
        raise UsageError(f"drawn_by {place}: weight: {error}") from error
    return np.asarray(pc.fill_null(weights, np.nan).to_numpy())


def _read(place: str) -> Any:
    folder, _, name = place.rpartition("/")
    try:
        content = io.BytesIO(Store(folder or ".").read(name))
        return pq.read_table(content) if name.endswith(".parquet") else pyarrow.csv.read_csv(content)
    except FileNotFoundError as error:
        raise UsageError(f"drawn_by {place}: neither a file nor a column of the build") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"drawn_by {place}: damaged, or no table ({f'{error}'.splitlines()[0]})") from error
