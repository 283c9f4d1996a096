"""Rows of a manifest, a row group at a time, so that no more of them are in memory than are looked at."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from threading import Lock
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from facepack import manifest
from facepack.errors import JobError
from facepack.hashing import Hashes
from facepack.manifest import KEY_LENGTH
from facepack.storage import Store

_NUM_KEPT = 2
"""Row groups that are kept: those of the shard that is looked at, which may lie in two."""


class ManifestRows(AbstractContextManager["ManifestRows"]):
    """The manifest of a place; `JobError` where it is damaged, `FileNotFoundError` where there is none."""

    def __init__(self, store: Store) -> None:
        self._where = f"{store.location}/{manifest.MANIFEST_FILE}"
        self._opened: IO[bytes] = store.open(manifest.MANIFEST_FILE)
        try:
            self._file = pq.ParquetFile(self._opened)
        except (pa.ArrowInvalid, OSError) as error:
            self._opened.close()
            raise JobError(f"{self._where}: damaged: {error}") from error
        self.schema: pa.Schema = self._file.schema_arrow
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._kept: dict[int, pa.Table] = {}
        self._lock = Lock()

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._opened.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, or some columns of them, in several tables."""
        for group in range(len(self._starts) - 1):
            yield self._group(group, columns)

    def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """Rows by their numbers, which are ascending."""
        parts = [self.schema.empty_table()]
        for group in np.unique(np.searchsorted(self._starts, rows, side="right") - 1).tolist():
            start, stop = self._starts[group], self._starts[group + 1]
            parts.append(self._kept_group(group).take(rows[(rows >= start) & (rows < stop)] - start))
        return pa.concat_tables(parts)

    def _kept_group(self, group: int) -> pa.Table:
        with self._lock:
            if group not in self._kept:
                while len(self._kept) >= _NUM_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[group] = self._group(group, None)
            return self._kept[group]

    def _group(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise JobError(f"{self._where}: damaged: {error}") from error


class RowIndex:
    """Where the rows of a shard, and those of a photo, are in a manifest."""

    def __init__(self, rows: ManifestRows) -> None:
        keys, shards = [np.zeros(0, np.uint64)], []
        for part in rows.parts(["key", "shard"]):
            keys.append(photo_numbers(part["key"]))
            shards.append(part["shard"].combine_chunks().dictionary_encode())
        numbers = np.concatenate(keys)
        self._order = np.argsort(numbers, kind="stable")
        self._keys = numbers[self._order]
        encoded = pa.chunked_array(shards, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
        names = encoded.chunk(0).dictionary.to_pylist() if len(encoded) else []
        of_chunks = [np.asarray(chunk.indices.fill_null(-1)) for chunk in encoded.chunks]
        codes = np.concatenate([np.zeros(0, np.int32), *of_chunks])
        self.shards: dict[str, npt.NDArray[np.int64]] = {}
        """The numbers of the rows of each shard."""
        by_shard = np.argsort(codes, kind="stable")
        stops = np.searchsorted(codes[by_shard], np.arange(-1, len(names)), side="right")
        for name, (start, stop) in zip(names, pairwise(stops.tolist()), strict=True):
            self.shards[name] = by_shard[start:stop]

    def of_photos(self, keys: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """The numbers of all rows of the photos that some keys are of."""
        numbers = np.unique(photo_numbers(keys))
        starts, stops = (np.searchsorted(self._keys, numbers, side=side) for side in ("left", "right"))
        rows = [self._order[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return np.sort(np.concatenate([self._order[:0], *rows]))


def photo_numbers(keys: pa.ChunkedArray) -> Hashes:
    """The keys of photos, from keys of samples, as numbers; `ValueError` where one is no key."""
    texts = "".join(manifest.photo_keys(keys).drop_null().to_pylist())
    if len(texts) != KEY_LENGTH * len(keys):
        raise ValueError("a key is too short")
    return np.frombuffer(bytes.fromhex(texts), ">u8").astype(np.uint64)
