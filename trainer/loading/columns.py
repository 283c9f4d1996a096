"""Columns: those of a build's manifest, read as they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from facepack import manifest
from facepack.errors import JobError
from facepack.storage import Store


class ManifestColumns:
    """The manifest of a build, fetched once; only columns that are read are decompressed."""

    def __init__(self, store: Store) -> None:
        """Fetch it; `JobError` where it is not there or damaged."""
        self.location = store.location
        try:
            content = store.read(manifest.MANIFEST_FILE)
        except FileNotFoundError as error:
            raise JobError(f"{store.location}: no {manifest.MANIFEST_FILE}; run facepack verify") from error
        with self._damage_named():
            self._file: Any = pq.ParquetFile(pa.BufferReader(content))

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        return self._file.schema_arrow

    @property
    def labels(self) -> list[str]:
        """Names of the label columns."""
        return manifest.label_columns(self.schema)

    def read(self, names: Sequence[str], *, rows: npt.NDArray[np.int64] | None = None) -> pa.Table:
        """Some columns, of all rows of the manifest or of `rows`, int64 (num_rows,); `JobError` where damaged."""
        with self._damage_named():
            table = self._file.read(columns=list(names))
        return table if rows is None else table.take(pa.array(rows))

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            raise JobError(f"{self.location}/{manifest.MANIFEST_FILE}: damaged: {error}") from error
