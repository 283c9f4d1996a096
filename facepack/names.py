"""Names: the paths of very many files, sorted, in an Arrow array in place of as many Python objects."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ROWS_AT_ONCE = 1 << 16
"""How many rows are Python objects at a time, where they have to be."""

_FEW = 1000
"""Names that are looked up one after another; for more of them a table of all is made."""
Texts: TypeAlias = "pa.Array | pa.ChunkedArray"


class Names(Collection[str]):
    """Sorted names, each once."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array
        self._last: Texts | None = None
        self._rows_of_last = np.empty(0, np.int32)

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Any names, in any order."""
        if isinstance(names, Names):
            return names
        array = pa.array(names if isinstance(names, Sequence) else list(names), pa.string())
        if not is_ascending(array):
            array = array.take(pc.array_sort_indices(array))
        return cls(array if is_ascending(array) else pc.unique(array))

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.array), ROWS_AT_ONCE):
            yield from self.array.slice(start, ROWS_AT_ONCE).to_pylist()

    def __contains__(self, name: object) -> bool:
        return self._row_of(name) >= 0

    def _row_of(self, name: object) -> int:
        start, stop = 0, len(self.array)
        while start < stop and isinstance(name, str):
            middle = (start + stop) // 2
            if (other := self.array[middle].as_py()) == name:
                return middle
            start, stop = (middle + 1, stop) if other < name else (start, middle)
        return -1

    def rows_of(self, names: Texts) -> npt.NDArray[np.integer]:
        """The place of each of many names, -1 where it is not there; those asked for last are kept."""
        if self._last is None or not _is_same(self._last, names):
            if len(names) < _FEW:
                return np.array([self._row_of(name) for name in names.to_pylist()], np.int64)
            rows = pc.index_in(names, value_set=self.array).fill_null(-1)
            self._rows_of_last, self._last = np.asarray(rows, np.int32), names
        return self._rows_of_last

    def has(self, names: Texts) -> npt.NDArray[np.bool_]:
        """Whether each of many names is there."""
        is_there: npt.NDArray[np.bool_] = self.rows_of(names) >= 0
        return is_there

    def without(self, names: Texts) -> pa.Array:
        """Those that are not among others, in order."""
        is_other = np.zeros(len(self.array), bool)
        rows = self.rows_of(names)
        is_other[rows[rows >= 0]] = True
        return self.array.filter(pa.array(~is_other))


def is_ascending(texts: Texts) -> bool:
    """Whether each text comes after the one before, so that none is there twice."""
    chunks = [texts] if isinstance(texts, pa.Array) else [chunk for chunk in texts.chunks if len(chunk)]
    if any(chunk.null_count for chunk in chunks):
        return False
    pairs = pairwise(chunks)
    return all(first[-1].as_py() < second[0].as_py() for first, second in pairs) and all(
        pc.all(pc.less(chunk[:-1], chunk[1:])).as_py() is not False for chunk in chunks
    )


def _is_same(texts: Texts, others: Texts) -> bool:
    """Whether both are the same memory."""
    return _memory(texts) == _memory(others)


def _memory(texts: Texts) -> list[tuple[int, int, list[int]]]:
    chunks = [texts] if isinstance(texts, pa.Array) else texts.chunks
    return [(chunk.offset, len(chunk), [each.address for each in chunk.buffers() if each]) for chunk in chunks]
