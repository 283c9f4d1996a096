"""Folds: parts of a build, each held out once, that divide neither a person nor the copies of a photo."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.errors import UsageError
from facepack.manifest import Status
from trainer.loading import draws

MOST_FOLDS = 100
_VALID_EVERY = 10
"""One in so many of the groups that are not held out is for validation."""
_SAME_PHOTO = ("source_sha256", "sha256")
"""Columns whose equal values mean the same photo."""


@dataclass(frozen=True)
class Fold:
    """One fold of several."""

    number: int
    """From 1."""
    num_folds: int

    @classmethod
    def of(cls, text: str) -> "Fold":
        """Parse "2/5", the second of five; raises `UsageError`."""
        number, _, num_folds = text.partition("/")
        is_whole = number.isascii() and number.isdigit() and num_folds.isascii() and num_folds.isdigit()
        if not is_whole or not 2 <= int(num_folds) <= MOST_FOLDS or not 1 <= int(number) <= int(num_folds):
            raise UsageError(f"fold {text}: expected such as 2/5, the second of five, of at most {MOST_FOLDS}")
        return cls(int(number), int(num_folds))


def split_by_fold(table: pa.Table, fold: Fold, *, seed: int, people: Sequence[str] = ()) -> pa.Table:
    """The manifest with other splits for packed rows: `test` for the fold, of all others a tenth valid, the rest train.

    Groups are drawn by the seed, alike for every fold of so many: every packed row is in exactly one of them. `people`
    are columns that name people; see `groups_of`. Classes are spread evenly. Raises `UsageError` where there are too
    few groups.
    """
    is_packed = np.asarray(pc.equal(table["status"], Status.PACKED).combine_chunks(), bool)
    packed = table.filter(pa.array(is_packed))
    groups = groups_of(packed, people=people)
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    if num_groups < 2 * fold.num_folds:
        about = "people or photos that are not copies of each other"
        raise UsageError(f"{fold.num_folds} folds: the build has {num_groups:,} {about}; give fewer --folds")
    dealt = _dealt(groups, _class_codes(packed), seed=seed)
    fold_of_group = np.empty(num_groups, np.int64)
    fold_of_group[dealt] = np.arange(num_groups) % fold.num_folds + 1
    names = np.full(num_groups, "train", object)
    names[fold_of_group == fold.number] = "test"
    names[dealt[fold_of_group[dealt] != fold.number][::_VALID_EVERY]] = "valid"
    splits = np.array(table["split"].to_pylist(), object)
    splits[is_packed] = names[groups]
    return table.set_column(table.column_names.index("split"), "split", pa.array(splits.tolist(), pa.string()))


def groups_of(packed: pa.Table, *, people: Sequence[str] = ()) -> npt.NDArray[np.int64]:
    """The group of each row, int64 (num_rows,) from 0: rows share one that are of a person, or of the same photo.

    The same photo has the same bytes in the source or in the shard, or several faces. Where every class is one person,
    people are what is to be told apart, and do not make groups.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    columns = [packed[name] for name in _SAME_PHOTO] + [manifest.photo_keys(packed["key"])]
    columns += [packed[name] for name in people if name in packed.column_names and not are_classes(packed, name)]
    num_rows, num_values = len(packed), 0
    pairs = []
    for column in columns:
        encoded = column.combine_chunks().dictionary_encode()
        is_there = np.asarray(encoded.is_valid())
        codes = encoded.indices.fill_null(0).to_numpy()[is_there]
        pairs.append((np.flatnonzero(is_there), num_rows + num_values + codes))
        num_values += len(encoded.dictionary)
    rows, values = (np.concatenate(side) for side in zip(*pairs, strict=True))
    size = num_rows + num_values
    graph = coo_array((np.ones(len(rows), np.int8), (rows, values)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.unique(labels[:num_rows], return_inverse=True)[1].astype(np.int64)


def are_classes(packed: pa.Table, column: str) -> bool:
    """True where the classes are people: each class has rows of one person alone."""
    named = packed.filter(pc.and_(pc.is_valid(packed["class"]), pc.is_valid(packed[column])))
    num_classes = len(named["class"].unique())
    num_pairs = len(named.group_by(["class", column]).aggregate([]))
    return num_classes > 1 and num_pairs == num_classes


def _class_codes(packed: pa.Table) -> npt.NDArray[np.int64]:
    """The class of each row as a number; 0 where there is none."""
    encoded = packed["class"].combine_chunks().fill_null("").dictionary_encode()
    order = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), object)))
    codes: npt.NDArray[np.int64] = order[encoded.indices.to_numpy()].astype(np.int64)
    return codes


def _dealt(groups: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], *, seed: int) -> npt.NDArray[np.int64]:
    """All groups in the order in which they are dealt to folds: the largest first, class by class, else at random."""
    numbers, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    drawn = draws.hashed(numbers, draws.key(seed, "folds"))
    return np.lexsort((drawn, classes[first], -sizes))
