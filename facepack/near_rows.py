"""Near rows: rows of a manifest whose packed pictures are near-duplicates, and the splits that they stand in."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import SPLITS
from facepack.manifest_checks import Rows
from facepack.near_duplicates import Numbers, Pairs, groups_of, pairs_within

_COLUMNS = ("source", "split", "shard", "offset", "size", "phash")


@dataclass(frozen=True)
class NearRows:
    """Packed rows that have a perceptual hash, and the pairs of near-duplicates among them."""

    table: pa.Table
    """Columns source, split, shard, offset, size and phash."""
    pairs: Pairs
    """By numbers of rows of `table`."""
    num_without: int
    """Packed rows without a hash: pictures with hardly anything in them."""

    @cached_property
    def in_two_splits(self) -> npt.NDArray[np.bool_]:
        """Per one of `pairs` whether its pictures are in two splits."""
        is_apart: npt.NDArray[np.bool_] = self._splits[self.pairs.first] != self._splits[self.pairs.second]
        return is_apart

    @cached_property
    def groups(self) -> Numbers:
        """Per row the number of the first one of its group."""
        return groups_of(self.pairs, number=len(self.table))

    @cached_property
    def group_sizes(self) -> Numbers:
        """Pictures in each group of two or more."""
        sizes: Numbers = np.bincount(self.groups, minlength=1)
        return sizes[sizes > 1]

    @cached_property
    def num_of_splits(self) -> Numbers:
        """Number of pairs by the splits of their pictures, (3, 3) with the earlier split first.

        Here each of several pictures of one and the same hash counts, with all that the first of them is paired with.
        """
        _, codes = np.unique(self.table["phash"].to_numpy(), return_inverse=True)
        counts = np.zeros((int(codes.max(initial=-1)) + 1, len(SPLITS)), np.int64)
        np.add.at(counts, (codes, self._splits), 1)
        left, right = codes[self.pairs.first], codes[self.pairs.second]
        is_other = left != right
        across = counts[left[is_other]].T @ counts[right[is_other]]
        numbers: Numbers = np.triu(across) + np.tril(across, -1).T + np.triu(counts.T @ counts, 1)
        within = (counts * (counts - 1) // 2).sum(axis=0)
        return numbers + np.diag(within)

    @property
    def num_pairs(self) -> int:
        """Number of all pairs."""
        return int(self.num_of_splits.sum())

    @property
    def num_in_two_splits(self) -> int:
        """Number of pairs whose pictures are in two splits."""
        return int(np.triu(self.num_of_splits, 1).sum())

    @property
    def per_splits(self) -> dict[str, int]:
        """Number of pairs by the two splits that they stand in."""
        pairs = combinations(range(len(SPLITS)), 2)
        numbers = {(a, b): int(self.num_of_splits[a, b]) for a, b in pairs}
        return {f"{SPLITS[a]} and {SPLITS[b]}": number for (a, b), number in numbers.items() if number}

    @cached_property
    def _splits(self) -> Numbers:
        codes: Numbers = np.asarray(pc.index_in(self.table["split"], value_set=pa.array(SPLITS)), np.int64)
        return codes


def near_rows(rows: Rows) -> NearRows | None:
    """The near-duplicates of a manifest; None where it is older than the column of hashes."""
    if "phash" not in rows.schema.names:
        return None
    parts = [pa.table({name: pa.array([], rows.schema.field(name).type) for name in _COLUMNS})]
    num_packed = 0
    for part in rows.parts(_COLUMNS):
        num_packed += len(part) - part["shard"].null_count
        parts.append(part.filter(pc.is_valid(part["phash"])))
    table = pa.concat_tables([part.replace_schema_metadata() for part in parts])
    return NearRows(table, pairs_within(table["phash"].to_numpy()), num_packed - len(table))


def check_near_rows(rows: Rows) -> Iterator[str]:
    """A line where near-duplicates are in two splits: a test over them flatters, but no promise is broken."""
    near = near_rows(rows)
    if near is None or not near.in_two_splits.any():
        return
    first = int(np.flatnonzero(near.in_two_splits)[near.pairs.distance[near.in_two_splits].argmin()])
    names = [near.table["source"][int(ends[first])].as_py() for ends in (near.pairs.first, near.pairs.second)]
    numbers = ", ".join(f"{number:,} {splits}" for splits, number in near.per_splits.items())
    yield (
        f"{near.num_in_two_splits:,} pairs of near-duplicates are in two splits ({numbers}), such as "
        f"{' and '.join(names)}; facepack preview shows them"
    )
