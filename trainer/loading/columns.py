"""Columns: those of a build's manifest, read as they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facepack import manifest
from facepack.errors import FieldError, JobError
from facepack.storage import Store

_REPEATING = ["split", "status", "shard", "class"]
"""Columns of few different values, which are read as numbers."""


class ManifestColumns:
    """The manifest of a build, fetched once; only columns that are read are decompressed."""

    def __init__(self, store: Store) -> None:
        """Open it; `JobError` where it is not there or damaged."""
        self.location = store.location
        with self._damage_named():
            self._file: Any = pq.ParquetFile(_opened(store), read_dictionary=_REPEATING)

    def __len__(self) -> int:
        """Rows of the manifest."""
        return int(self._file.metadata.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns; those that repeat are dictionaries here."""
        return self._file.schema_arrow

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        return manifest.label_columns(self.schema)

    def read(self, name: str, *, rows: npt.NDArray[np.int64] | None = None) -> pa.ChunkedArray:
        """A column, of all rows of the manifest or of `rows`, int64 (num_rows,); `JobError` where damaged."""
        with self._damage_named():
            column = self._file.read(columns=[name])[name]
        if rows is None or len(rows) == len(column):
            return column
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:  # rows ascend: here they are a slice
            return column.slice(int(rows[0]), len(rows))
        return column.take(pa.array(rows))

    def codes(
        self, name: str, values: Sequence[str], *, rows: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.int32]:
        """The place of each text of a column among `values`, int32 (num_rows,), -1 where it is none of them."""
        pieces = [np.empty(0, np.int32)]
        for chunk in self.read(name).chunks:
            if not pa.types.is_dictionary(chunk.type):
                chunk = chunk.dictionary_encode()
            places = pc.index_in(chunk.dictionary, value_set=pa.array(values, pa.string())).fill_null(-1)
            of_words = np.append(places.to_numpy(zero_copy_only=False), -1).astype(np.int32)
            pieces.append(of_words[chunk.indices.fill_null(len(of_words) - 1).to_numpy(zero_copy_only=False)])
        codes = np.concatenate(pieces)
        return codes if rows is None else codes[rows]

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            raise JobError(f"{self.location}/{manifest.MANIFEST_FILE}: damaged: {error}") from error


def _opened(store: Store) -> Any:
    """The manifest as a file of Arrow: mapped where it is local, else read whole."""
    path = store.path(manifest.MANIFEST_FILE)
    try:
        return pa.BufferReader(store.read(manifest.MANIFEST_FILE)) if path is None else pa.memory_map(str(path))
    except FileNotFoundError as error:
        raise JobError(f"{store.location}: no {manifest.MANIFEST_FILE}; run facepack verify") from error


class RowTexts:
    """Texts of a manifest's rows, such as their keys; a column is read when it is first asked for, and kept."""

    def __init__(self, store: Store) -> None:
        """Read nothing yet."""
        self._store = store
        self._columns: dict[str, pa.ChunkedArray] = {}

    def of(self, name: str, *, rows: npt.NDArray[np.int64]) -> list[str]:
        """A column of rows, int64 (num_rows,); `FieldError` for rows that the manifest has not."""
        if name not in self._columns:
            self._columns[name] = ManifestColumns(self._store).read(name)
        column = self._columns[name]
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(column):
            wrong = rows[(rows < 0) | (rows >= len(column))]
            raise FieldError("rows", wrong[0], f"{self._store.location} has rows 0 to {len(column) - 1:,}")
        texts: list[str] = column.take(pa.array(rows)).to_pylist()
        return texts
