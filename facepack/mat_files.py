"""MAT files: a structure of MATLAB as a table of text."""

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack.description import TableFile
from facepack.errors import JobError

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_mat(table: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """The fields of a structure as columns of text: those in `table.columns`, or all that have as many values.

    `table.variable` names it, by default the one structure that is there. A file of MATLAB 7.3 becomes a line on what
    to do, and no rows. Raises `JobError` for a damaged file, and without SciPy.
    """
    if _HDF5 in content[:1024] or b"MATLAB 7.3" in content[:128]:
        names = {table.key, *table.columns}
        return pa.table({name: pa.array([], pa.string()) for name in sorted(names)}), [
            f"{path}: a MAT file of MATLAB 7.3 (HDF5), which is not read; save it again with -v7"
        ]
    fields = _structure(table, path, content)
    wanted = list(dict.fromkeys((table.key, *table.columns))) if table.columns else list(fields)
    if absent := [name for name in wanted if name not in fields]:
        raise JobError(f"{path}: no field {absent[0]!r}; it has {', '.join(fields)}")
    columns = {name: _texts(fields[name]) for name in wanted}
    if table.columns == ():
        columns = {name: texts for name, texts in columns.items() if len(texts) == len(columns.get(table.key, ()))}
    lengths = {name: len(texts) for name, texts in columns.items()}
    if len(set(lengths.values())) > 1:
        raise JobError(f"{path}: fields of different lengths: {', '.join(f'{n} {k:,}' for n, k in lengths.items())}")
    if table.age_from:
        taken, born = table.age_from
        columns["age"] = _ages(fields[taken], fields[born])
    return pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()}), []


def _structure(table: TableFile, path: str, content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The fields of a structure by name, each as a flat array of its values."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise JobError(f"{path}: MAT files are read by SciPy: pip install 'facepack[mat]'") from error
    try:
        variables = loadmat(io.BytesIO(content), squeeze_me=False, struct_as_record=True)
    except Exception as error:  # SciPy raises almost anything for a damaged file
        raise JobError(f"{path}: not a sound MAT file: {error or type(error).__name__}; fetch it again") from error
    structures = {name: value for name, value in variables.items() if getattr(value, "dtype", None) is not None}
    structures = {name: value for name, value in structures.items() if value.dtype.names and value.size == 1}
    name = table.variable or next(iter(structures), "")
    if name not in structures:
        raise JobError(f"{path}: no structure {name!r}; it has {', '.join(structures) or 'none'}")
    record = structures[name].flat[0]
    return {field: np.ravel(record[field]) for field in structures[name].dtype.names}


def _texts(values: npt.NDArray[Any]) -> list[str | None]:
    """Every value as text: texts as they are, numbers without needless digits, None for NaN and what is empty."""
    if values.dtype.kind not in "biuf":
        return [_text(value) for value in values]
    return [_number_text(number) for number in values.astype(float).tolist()]


def _text(value: Any) -> str | None:
    if isinstance(value, str):  # by far the most
        return value.strip() or None
    while isinstance(value, np.ndarray):
        if value.size != 1:
            return None
        value = value.flat[0]
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bytes) or not np.isscalar(value):
        return None
    return _number_text(float(value))  # type: ignore[arg-type]


def _number_text(number: float) -> str | None:
    if math.isnan(number):
        return None
    return f"{int(number)}" if number.is_integer() else f"{number!r}"


def _ages(taken: npt.NDArray[Any], born: npt.NDArray[Any]) -> list[str | None]:
    """Completed years in the middle of the year that a photo was taken, of people born on a MATLAB serial date.

    The rule of IMDB-WIKI's publishers (Rothe, Timofte, Van Gool 2015): a photo is of the first of July.
    """
    days = born.astype(float)
    is_date = np.isfinite(days) & (days >= 1) & (days < 1e6) & np.isfinite(taken.astype(float))
    dates = np.datetime64("0000-01-01") + (np.where(is_date, days, 1).astype(np.int64) - 1)
    years = dates.astype("datetime64[Y]")
    after_june = dates > years + np.timedelta64(6, "M").astype("timedelta64[M]")
    ages = np.where(is_date, taken, 0).astype(int) - (years.astype(int) + 1970) - after_june
    return [f"{age}" if is_known else None for age, is_known in zip(ages, is_date, strict=True)]
