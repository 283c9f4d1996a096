"""Folds: every packed photo is held out once, and neither a person nor the copies of a photo are divided."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from facepack.errors import UsageError
from trainer.folds import Fold, groups_of, split_by_fold


def manifest_of(num: int, **columns: list[Any]) -> pa.Table:
    """A manifest of packed photos, each of its own, two of three in train; columns may be given."""
    rows = {
        "key": [f"{number:016x}" for number in range(num)],
        "split": ["train" if number % 3 else "test" for number in range(num)],
        "status": ["packed"] * num,
        "source_sha256": [f"s{number}" for number in range(num)],
        "sha256": [f"p{number}" for number in range(num)],
        "class": ["AB"[number % 2] for number in range(num)],
    }
    return pa.table(rows | columns)


def splits(table: pa.Table, fold: str, *, seed: int = 0, people: tuple[str, ...] = ()) -> list[str]:
    """The split of each row where a fold is held out."""
    listed: list[str] = split_by_fold(table, Fold.of(fold), seed=seed, people=people)["split"].to_pylist()
    return listed


def fold_of_each(table: pa.Table, *, num_folds: int, people: tuple[str, ...] = ()) -> list[int]:
    """The one fold that holds each row."""
    parts = [splits(table, f"{number + 1}/{num_folds}", people=people) for number in range(num_folds)]
    numbers = [[number for number in range(num_folds) if parts[number][row] == "test"] for row in range(len(table))]
    assert {len(of_row) for of_row in numbers} == {1}
    return [of_row[0] for of_row in numbers]


@pytest.mark.parametrize("text", ["", "1", "0/5", "6/5", "1/1", "1/101", "a/b", "1/5/5", "-1/5", "1.0/5", "²/5"])
def test_what_is_no_fold_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected such as 2/5"):
        Fold.of(text)


def test_every_photo_is_held_out_once_and_classes_are_spread_evenly() -> None:
    table = manifest_of(100)
    folds = fold_of_each(table, num_folds=5)
    assert Counter(zip(folds, table["class"].to_pylist(), strict=True)) == {
        (fold, name): 10 for fold in range(5) for name in "AB"
    }
    assert Counter(splits(table, "2/5")) == {"test": 20, "valid": 8, "train": 72}


def test_people_are_not_divided() -> None:
    table = manifest_of(100, identity=[number // 4 for number in range(98)] + [None, None])
    folds = fold_of_each(table, num_folds=5, people=("identity", "not_there"))
    assert all(len(set(folds[4 * person : 4 * person + 4])) == 1 for person in range(24))
    assert max(Counter(folds).values()) <= 24
    for split in (splits(table, "1/5", people=("identity",)),):
        assert all(len(set(split[4 * person : 4 * person + 4])) == 1 for person in range(24))


def test_copies_of_a_photo_and_chains_of_them_are_not_divided() -> None:
    table = manifest_of(
        12,
        source_sha256=["x", "x", *(f"s{number}" for number in range(10))],
        sha256=["p0", "y", "y", *(f"p{number}" for number in range(1, 10))],
        key=[*(f"{number:016x}" for number in range(10)), f"{11:016x}-1", f"{11:016x}-2"],
    )
    groups = groups_of(table)
    assert groups[0] == groups[1] == groups[2]
    assert groups[10] == groups[11]
    assert len(set(groups.tolist())) == 9


def test_classes_that_are_people_are_divided_for_they_are_to_be_told_apart() -> None:
    names = [f"person {number % 3}" for number in range(30)]
    table = manifest_of(30, **{"class": names}, identity=[number % 3 for number in range(30)])
    folds = fold_of_each(table, num_folds=5, people=("identity",))
    assert Counter(zip(names, folds, strict=True)) == {
        (f"person {number}", fold): 2 for number in range(3) for fold in range(5)
    }


def test_folds_are_drawn_by_the_seed() -> None:
    table = manifest_of(60)
    assert splits(table, "1/3", seed=1) == splits(table, "1/3", seed=1)
    assert splits(table, "1/3", seed=1) != splits(table, "1/3", seed=2)


def test_rows_that_are_not_packed_keep_their_split() -> None:
    table = manifest_of(40, status=["missing" if number < 3 else "packed" for number in range(40)])
    assert splits(table, "1/2")[:3] == ["test", "train", "train"]


def test_too_few_photos_or_people_are_refused() -> None:
    with pytest.raises(UsageError, match="5 folds: the build has 9 people or photos"):
        splits(manifest_of(9), "1/5")
    with pytest.raises(UsageError, match="2 folds: the build has 0 people"):
        splits(manifest_of(3, status=["missing"] * 3), "1/2")
