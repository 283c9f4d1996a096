"""Planning: keys, splits, limits and shards are pure functions of paths and seed, whatever the order of the rows."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.configuration import Configuration
from facepack.description import SPLITS, load_dataset
from facepack.errors import FieldError, JobError, UsageError
from facepack.index import index_dataset
from facepack.label import Labelled, assign_classes
from facepack.plan import NO_SPLIT, Plan, make_plan, rows_with_split, stored_order
from facepack.prepare import prepare_build
from facepack.source import Source, open_source
from facepack.storage import Store

SIZES = {"cats": 103, "dogs": 41, "owls": 7}


def sample_table(
    sources: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    identities: Sequence[int | None] | None = None,
    official: Sequence[str | None] | None = None,
) -> pa.Table:
    """The rows that planning is given: what it does not need is null."""
    nothing = [None] * len(sources)
    return pa.table(
        {
            "source": pa.array(sources, pa.string()),
            "official_split": pa.array(official or nothing, pa.string()),
            "identity": pa.array(identities or nothing, pa.int32()),
            "class": pa.array(classes or nothing, pa.string()),
        }
    )


def files(number: int) -> list[str]:
    return [f"{row:04d}.jpg" for row in range(number)]


def planned(table: pa.Table, *, name: str = "cacd", present: Iterable[str] | None = None, **choices: object) -> Plan:
    """Plan rows of which all files (or those of `present`) are there; nothing is read from them."""
    there = frozenset(table["source"].to_pylist() if present is None else present)
    class_names = tuple(sorted(set(table["class"].drop_null().to_pylist())))
    configuration = Configuration.of(name, **choices)  # type: ignore[arg-type]
    return make_plan(
        load_dataset(name),
        Labelled(rows_with_split(load_dataset(name), table, configuration=configuration).table, class_names, ()),
        source=Source(Store("nowhere"), there),
        configuration=configuration,
    )


def planned_paths(name: str, paths: Iterable[str], **choices: object) -> Plan:
    """Index, label and plan a dataset whose rows are named by paths."""
    description = load_dataset(name)
    source = Source(Store("nowhere"), frozenset(paths))
    configuration = Configuration.of(name, **choices)  # type: ignore[arg-type]
    labelled = assign_classes(description, index_dataset(description, source).table, configuration=configuration)
    return make_plan(description, labelled, source=source, configuration=configuration)


def pets(sizes: dict[str, int] = SIZES) -> pa.Table:
    classes = [name for name, number in sizes.items() for _ in range(number)]
    return sample_table([f"{name}/{row}.jpg" for row, name in enumerate(classes)], classes=classes)


def counts_of(found: Plan, *columns: str) -> dict[object, int]:
    """Number of rows per value of a column, or per tuple of values."""
    values = [found.table[name].to_pylist() for name in columns]
    return dict(Counter(values[0] if len(values) == 1 else zip(*values, strict=True)))


def column(found: Plan, name: str) -> list[object]:
    values: list[object] = found.table[name].to_pylist()
    return values


# Keys


def test_key_is_the_start_of_the_hash_of_dataset_and_path() -> None:
    sources = ["CACD2000/14_Elijah_O'Moore_0003.jpg", "CACD2000/53_Zoë_Núñez-Smith_0016.jpg", "a b/1.jpg"]
    found = planned(sample_table(sources))
    keys = dict(zip(column(found, "source"), column(found, "key"), strict=True))
    assert keys == {path: hashlib.sha256(f"cacd/{path}".encode()).hexdigest()[:16] for path in sources}


def test_key_that_starts_with_zeros_keeps_its_sixteen_digits() -> None:
    sources = files(3000)
    keys = set(column(planned(sample_table(sources)), "key"))
    assert keys == {hashlib.sha256(f"cacd/{path}".encode()).hexdigest()[:16] for path in sources}
    assert any(str(key).startswith("00") for key in keys)


def test_equal_keys_are_refused() -> None:
    with pytest.raises(JobError, match="cacd: two images have the same key"):
        planned(sample_table(["1.jpg", "2.jpg", "1.jpg"]))


# Order


def test_order_is_shuffled() -> None:
    sources = column(planned(sample_table(files(500)), split="100/0/0"), "source")
    assert sorted(map(str, sources)) == files(500)
    places = [int(str(path)[:4]) for path in sources]
    assert abs(np.corrcoef(places, np.arange(500))[0, 1]) < 0.15
    assert sum(abs(a - b) == 1 for a, b in pairwise(places)) < 10


def number_by_hand(path: str, seed: int) -> int:
    """The finaliser of splitmix64 in plain integers."""
    key = int(hashlib.sha256(f"cacd/{path}".encode()).hexdigest()[:16], 16)
    mixed = key ^ int.from_bytes(hashlib.sha256(f"order/{seed}".encode()).digest()[:8], "little")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> shift) * factor % 2**64
    return mixed ^ mixed >> 31


def test_order_of_a_seed_never_changes() -> None:
    """Check the order itself: builds of today and of next year must hold the same bytes."""
    orders = {seed: column(planned(sample_table(files(8)), split="100/0/0", seed=seed), "source") for seed in (0, 13)}
    assert orders == {seed: sorted(files(8), key=lambda path: number_by_hand(path, seed)) for seed in (0, 13)}
    assert orders[0] == [f"{row:04d}.jpg" for row in (1, 6, 3, 4, 0, 7, 2, 5)]


def test_other_seed_gives_another_order_and_other_splits() -> None:
    table = sample_table(files(100))
    orders = {tuple(column(planned(table, split="100/0/0", seed=seed), "source")) for seed in range(10)}
    assert len(orders) == 10
    test_sets = set()
    for seed in range(10):
        found = planned(table, split="80/10/10", seed=seed)
        test_sets.add(frozenset(found.table.filter(pc.equal(found.table["split"], "test"))["key"].to_pylist()))
    assert len(test_sets) == 10


def test_order_of_two_images_does_not_depend_on_the_others() -> None:
    whole = column(planned(sample_table(files(60)), split="100/0/0"), "source")
    some = files(60)[::3]
    assert column(planned(sample_table(some), split="100/0/0"), "source") == [path for path in whole if path in some]


def test_stored_order_sorts_keys_as_the_plan_does() -> None:
    found = planned(sample_table(files(50)), split="100/0/0", seed=4)
    keys = [str(key) for key in column(found, "key")]
    numbers = stored_order(keys, seed=4)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 50


@given(
    order=st.permutations(range(36)),
    choices=st.sampled_from(
        [
            {"split": "80/10/10"},
            {"split": "0.5/0.3/0.2", "limit_per_class": 7},
            {"split": "identity", "limit": 20},
            {"split": "identity:60/20/20", "samples_per_shard": 5},
            {"split": "official", "limit_per_class": 3, "limit": 7},
        ]
    ),
    seed=st.integers(0, 5),
)
def test_plan_does_not_depend_on_the_order_of_the_rows(order: list[int], choices: dict[str, Any], seed: int) -> None:
    table = sample_table(
        files(36),
        classes=[f"class {row % 3}" for row in range(36)],
        identities=[row * row % 11 for row in range(36)],
        official=[SPLITS[row % 5 % 3] for row in range(36)],
    )
    present = files(30)
    expected = planned(table, present=present, seed=seed, **choices)
    found = planned(table.take(order), present=present, seed=seed, **choices)
    assert found.table.equals(expected.table)
    assert found == expected


# Splits by fractions


def rounded(number: int, share: float) -> int:
    return int(number * share + 0.5)


@pytest.mark.parametrize(
    ("split", "shares"), [("80/10/10", (0.1, 0.1)), ("64/16/20", (0.16, 0.2)), ("50/0/50", (0, 0.5))]
)
def test_fractions_are_exact_in_every_class(split: str, shares: tuple[float, float]) -> None:
    found = planned(pets(), split=split)
    expected: dict[object, int] = {}
    for name, number in SIZES.items():
        valid, test = (rounded(number, share) for share in shares)
        expected |= {(name, "train"): number - valid - test, (name, "valid"): valid, (name, "test"): test}
    assert counts_of(found, "class", "split") == {key: number for key, number in expected.items() if number}
    assert found.split == split


def test_split_by_index_takes_the_first_rows_of_each_class() -> None:
    found = planned(pets({"cats": 200, "dogs": 10}), split="index:60/20/20")
    for name, number in (("cats", 200), ("dogs", 10)):
        numbers = {f"{name}/{row}.jpg": row for row in range(210)}
        rows = zip(column(found, "source"), column(found, "split"), strict=True)
        splits = [split for _, split in sorted((numbers[path], split) for path, split in rows if path in numbers)]
        assert splits == ["train"] * (number * 3 // 5) + ["valid"] * (number // 5) + ["test"] * (number // 5)


def test_fractions_in_percent_and_in_shares_are_the_same() -> None:
    percent, shares = planned(pets(), split="60/20/20"), planned(pets(), split="0.6/0.2/0.2")
    assert percent.table.equals(shares.table)


@pytest.mark.parametrize("kind", ["", "index:", "identity:"])
@pytest.mark.parametrize(("split", "name"), [("100/0/0", "train"), ("0/100/0", "valid"), ("0/0/1", "test")])
def test_all_rows_can_go_to_one_split(kind: str, split: str, name: str) -> None:
    sources = files(30)
    table = sample_table(sources, classes=["a", "b", "b"] * 10, identities=[row // 4 for row in range(30)])
    assert counts_of(planned(table, split=kind + split), "split") == {name: 30}


def test_split_without_train_keeps_its_two_shares() -> None:
    assert counts_of(planned(pets(), split="0/50/50"), "split").keys() == {"valid", "test"}


@pytest.mark.parametrize(
    ("split", "total"),
    [("80/30/10", "120"), ("0/0/0", "0"), ("identity:8/1/1", "10"), ("0.8/0.1/0.2", "1.1"), ("index:60/20/19", "99")],
)
def test_shares_that_do_not_add_up_are_wrong_usage(split: str, total: str) -> None:
    with pytest.raises(FieldError, match=rf"^split {split}: the shares add up to {total}, expected 100 \(or 1\)"):
        planned(pets(), split=split)


def test_thirds_add_up() -> None:
    assert counts_of(planned(sample_table(files(30)), split="33.3/33.3/33.3"), "split") == dict.fromkeys(SPLITS, 10)


@given(number=st.integers(1, 400), cuts=st.tuples(st.integers(0, 100), st.integers(0, 100)))
def test_any_fractions_are_met_within_rounding(number: int, cuts: tuple[int, int]) -> None:
    weights = min(cuts), abs(cuts[0] - cuts[1]), 100 - max(cuts)
    found = planned(sample_table(files(number)), split="/".join(map(str, weights)))
    counts = counts_of(found, "split")
    assert sum(counts.values()) == number
    for name, weight, slack in zip(SPLITS, weights, (1.0, 0.5, 0.5), strict=True):
        assert abs(counts.get(name, 0) - number * weight / sum(weights)) <= slack + 1e-9


@pytest.mark.parametrize(
    "split",
    ["80/20", "80/10/10/0", "random", "80/10/x", "-1/1/1", "80:10:10", "official:80/10/10", "80//20", "/"],
)
def test_split_that_makes_no_sense_is_wrong_usage(split: str) -> None:
    with pytest.raises(UsageError, match=f"^split {split}: expected official, identity or TRAIN/VALID/TEST"):
        planned(pets(), split=split)


@pytest.mark.parametrize("fractions", ["80/20", "half"])
def test_fractions_of_an_identity_split_are_checked(fractions: str) -> None:
    table = sample_table(files(4), identities=[0, 1, 2, 3])
    with pytest.raises(
        UsageError, match=f"^split identity:{fractions}: expected official, identity or TRAIN/VALID/TEST"
    ):
        planned(table, split=f"identity:{fractions}")


# Duplicates


def test_duplicate_names_the_source_that_it_repeats_and_contradictions_are_told(tmp_path: Path) -> None:
    files_ = {
        "ann/1.jpg": b"same",
        "ann/2.jpg": b"same",
        "bob/1.jpg": b"else",
        "zed/1.jpg": b"same",
        "zed/2.jpg": b"else",
    }
    source = tmp_path / "src"
    for path, content in files_.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    found = prepare_build(Configuration.of("folder"), src=str(source))
    rows = found.plan.table.filter(pc.is_valid(found.plan.table["duplicate_of"]))
    assert dict(zip(rows["source"].to_pylist(), rows["duplicate_of"].to_pylist(), strict=True)) == {
        "ann/2.jpg": "ann/1.jpg",
        "zed/1.jpg": "ann/1.jpg",
        "zed/2.jpg": "bob/1.jpg",
    }
    assert set(rows["status"].to_pylist()) == {"duplicate"}
    assert found.warnings == (
        "2 files have the bytes of another but other labels; the latter is taken: "
        "zed/1.jpg and ann/1.jpg, zed/2.jpg and bob/1.jpg",
    )


# The official split


@pytest.mark.parametrize("split", ["", "official"])
def test_rows_without_a_split_are_left_out_and_named_and_all_others_keep_theirs(split: str) -> None:
    official = [*["train", "test", "valid"] * 3, None, None, None, None]
    table = sample_table(files(13), official=official)
    configuration = Configuration.of("cacd", split=split)
    found = rows_with_split(load_dataset("cacd"), table, configuration=configuration)
    assert found.left_out == {NO_SPLIT: 4}
    assert found.warnings == (
        "4 of 13 rows are in no split of cacd and left out: 0009.jpg, 0010.jpg, 0011.jpg and 1 more; "
        "--split 80/10/10 would split all rows anew",
    )
    plan = planned(table, split=split)
    assert plan.split == "official"
    assert dict(zip(column(plan, "source"), column(plan, "split"), strict=True)) == dict(
        zip(files(9), official[:9], strict=True)
    )


@pytest.mark.parametrize("split", ["50/25/25", "identity", "index:80/10/10"])
def test_another_split_takes_the_rows_without_a_published_one(split: str) -> None:
    table = sample_table(files(4), official=["train", "test", None, "valid"], identities=[1, 2, 3, 4])
    found = rows_with_split(load_dataset("cacd"), table, configuration=Configuration.of("cacd", split=split))
    assert (found.table, found.left_out, found.warnings) == (table, {}, ())


def test_rows_without_identity_are_named_where_the_split_is_therefore_not_by_identity() -> None:
    table = sample_table(files(3), identities=[4, None, 5])
    found = rows_with_split(load_dataset("cacd"), table, configuration=Configuration.of("cacd"))
    assert found.table == table
    assert found.warnings == ("1 of 3 rows have no identity, such as 0001.jpg: the split is not by identity",)


def test_stray_folder_adds_no_class_and_moves_no_photo(tmp_path: Path) -> None:
    paths = [
        f"{split}/{name}/{n}.jpg" for split in ("train", "val", "test") for name in ("ann", "bob") for n in range(3)
    ]
    for path in (*paths, "samples/demo.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    found = prepare_build(Configuration.of("folder"), src=str(tmp_path))
    split_of = {"train": "train", "val": "valid", "test": "test"}
    assert found.plan.class_names == ("ann", "bob")
    assert found.left_out == {NO_SPLIT: 1}
    assert {row["source"]: row["split"] for row in found.plan.table.select(["source", "split"]).to_pylist()} == {
        path: split_of[path.split("/")[0]] for path in paths
    }


def test_official_split_is_taken_as_published() -> None:
    official = ["train", "test", "valid", "train", "test", "train"]
    found = planned(sample_table(files(6), official=official), split="official")
    assert dict(zip(column(found, "source"), column(found, "split"), strict=True)) == dict(
        zip(files(6), official, strict=True)
    )


def test_share_of_train_becomes_valid_where_nobody_published_one() -> None:
    """Check Simpsons: 20 % of its training folder, and its test folder untouched."""
    train = [f"simpsons_dataset/{name}/pic_{n:04d}.jpg" for name in ("bart_simpson", "moe_szyslak") for n in range(50)]
    test = [f"kaggle_simpson_testset/bart_simpson_{n}.jpg" for n in range(13)]
    found = planned_paths("simpsons", [*train, *test])
    assert found.split == "official"
    assert counts_of(found, "split") == {"train": 80, "valid": 20, "test": 13}
    splits = dict(zip(column(found, "source"), column(found, "split"), strict=True))
    assert {splits[path] for path in test} == {"test"}
    other = planned_paths("simpsons", [*train, *test], seed=1)
    assert counts_of(other, "split") == {"train": 80, "valid": 20, "test": 13}
    assert dict(zip(column(other, "source"), column(other, "split"), strict=True)) != splits


def test_published_valid_rows_are_enough() -> None:
    """Check that no train row becomes valid where there are valid ones."""
    table = sample_table(files(40), official=["train"] * 39 + ["valid"])
    assert counts_of(planned(table, name="simpsons", split="official"), "split") == {"train": 39, "valid": 1}


def test_default_split_is_official_then_by_identity_then_by_fractions() -> None:
    sources = files(20)
    official, people = ["train"] * 10 + ["test"] * 10, list(range(20))
    assert planned(sample_table(sources, official=official, identities=people)).split == "official"
    assert planned(sample_table(sources, official=[*official[:-1], None], identities=people)).split == "official"
    assert planned(sample_table(sources, identities=people)).split == "identity"
    assert planned(sample_table(sources, identities=[*people[:-1], None])).split == "80/10/10"


@pytest.mark.parametrize(
    ("table", "split", "error", "message"),
    [
        (
            sample_table(files(4)),
            "official",
            UsageError,
            "split official: cacd has none here; give fractions such as 80/10/10",
        ),
        (sample_table(files(4)), "identity", UsageError, "split identity: cacd names no identities here"),
        (
            sample_table(files(3), identities=[None, 3, None]),
            "identity",
            JobError,
            "split identity, but 2 rows have no identity",
        ),
    ],
)
def test_split_the_rows_cannot_have_is_refused(
    table: pa.Table, split: str, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        planned(table, split=split)


def test_dataset_without_people_has_no_identity_split() -> None:
    with pytest.raises(UsageError, match="split identity: folder names no identities here"):
        planned_paths("folder", ["cats/1.jpg", "dogs/1.jpg"], split="identity")


# Splits by identity

CROWDS = st.lists(st.integers(0, 40), min_size=1, max_size=150)


@given(people=CROWDS, seed=st.integers(0, 3), weights=st.sampled_from([(80, 10, 10), (60, 20, 20), (50, 0, 50)]))
def test_nobody_is_in_two_splits_and_shares_are_met_within_one_person(
    people: list[int], seed: int, weights: tuple[int, int, int]
) -> None:
    table = sample_table(files(len(people)), identities=people)
    found = planned(table, split=f"identity:{'/'.join(map(str, weights))}", seed=seed)
    splits_of: dict[object, set[object]] = {}
    for person, split in zip(column(found, "identity"), column(found, "split"), strict=True):
        splits_of.setdefault(person, set()).add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert found.num_leaking == 0
    largest = max(Counter(people).values())
    counts = counts_of(found, "split")
    for name, weight in zip(SPLITS, weights, strict=True):
        assert abs(counts.get(name, 0) - len(people) * weight / 100) <= largest + 1e-9


def test_identity_split_of_many_people_is_close_to_the_wish() -> None:
    table = sample_table(files(3000), identities=[row // 6 for row in range(3000)])
    counts = counts_of(planned(table, split="identity"), "split")
    assert counts == {"train": 2400, "valid": 300, "test": 300}


def test_people_are_drawn_by_the_seed() -> None:
    table = sample_table(files(200), identities=[row % 50 for row in range(200)])
    test_people = set()
    for seed in range(10):
        found = planned(table, split="identity", seed=seed)
        pairs = zip(column(found, "identity"), column(found, "split"), strict=True)
        test_people.add(frozenset(person for person, split in pairs if split == "test"))
    assert len(test_people) == 10


def test_people_in_several_splits_are_counted() -> None:
    table = sample_table(
        files(8),
        identities=[0, 0, 1, 1, 2, 3, 3, 3],
        official=["train", "valid", "train", "train", "test", "train", "valid", "test"],
    )
    assert planned(table, split="official").num_leaking == 2


def test_rows_of_unknown_people_leak_nothing() -> None:
    table = sample_table(files(4), identities=[None, None, 5, 5], official=["train", "test", "train", "train"])
    assert planned(table, split="official").num_leaking == 0
    assert planned_paths("afad", ["22/111/1.jpg", "22/111/2.jpg"], split="50/0/50").num_leaking == 0


# Limits


def test_limit_per_class_is_exact() -> None:
    found = planned(pets(), limit_per_class=20, split="100/0/0")
    assert counts_of(found, "class") == {"cats": 20, "dogs": 20, "owls": 7}
    assert found.notes == ("limits keep 47 of 151 rows", "cats: 20 of 103", "dogs: 20 of 41")


def test_limit_is_exact_and_says_what_it_cuts() -> None:
    found = planned(pets(), limit=50)
    assert len(found.table) == 50
    counts = counts_of(found, "class")
    assert found.notes == ("limits keep 50 of 151 rows", *(f"{n}: {counts.get(n, 0)} of {SIZES[n]}" for n in SIZES))


def test_limits_keep_files_that_are_there_before_those_that_are_not() -> None:
    table = pets({"cats": 60, "dogs": 60})
    there = [path for number, path in enumerate(table["source"].to_pylist()) if number % 6 == 0]
    found = planned(table, present=there, limit_per_class=8)
    assert counts_of(found, "class", "status") == {(name, None): 8 for name in ("cats", "dogs")}
    assert set(column(planned(table, present=there, limit=30), "source")) >= set(there)


def test_both_limits_hold_together() -> None:
    found = planned(pets(), limit_per_class=20, limit=30)
    assert len(found.table) == 30
    assert max(counts_of(found, "class").values()) <= 20


def test_limits_that_cut_nothing_change_nothing() -> None:
    found = planned(pets(), limit_per_class=103, limit=151)
    assert found.notes == ()
    assert found.table.equals(planned(pets()).table)


def test_limit_per_class_without_classes_is_a_limit() -> None:
    assert len(planned(sample_table(files(30)), limit_per_class=12).table) == 12


def test_smaller_limit_keeps_some_of_the_rows_of_a_larger_one() -> None:
    ten, thirty = (set(column(planned(pets(), limit_per_class=n), "key")) for n in (10, 30))
    assert (len(ten), len(thirty)) == (27, 67)
    assert ten < thirty


def test_limits_draw_at_random_by_the_seed() -> None:
    drawn = [frozenset(column(planned(sample_table(files(50)), limit=10, seed=seed), "source")) for seed in range(10)]
    assert len(set(drawn)) == 10
    assert frozenset(files(10)) not in drawn


def test_notes_of_labelling_are_kept() -> None:
    labelled = Labelled(pets(), tuple(SIZES), ("a note",))
    source = Source(Store("nowhere"), frozenset(pets()["source"].to_pylist()))
    found = make_plan(load_dataset("cacd"), labelled, source=source, configuration=Configuration.of("cacd"))
    assert found.notes == ("a note",)


# Rows known not to be packed


def test_missing_files_keep_their_row_behind_those_of_the_shards() -> None:
    found = planned(sample_table(files(40)), present=files(25), split="60/20/20", samples_per_shard=4)
    assert column(found, "status") == [None] * 25 + ["missing"] * 15
    assert set(column(found, "source")[:25]) == set(files(25))
    assert max(shard.stop for shard in found.shards) == 25
    assert counts_of(found, "split") == {"train": 24, "valid": 8, "test": 8}


def test_source_with_none_of_the_images_is_planned_without_a_shard() -> None:
    found = planned(sample_table(files(3)), present=["other.jpg"])
    assert column(found, "status") == ["missing"] * 3
    assert found.shards == ()


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def planned_folder(name: str, folder: Path, **choices: object) -> Plan:
    description = load_dataset(name)
    source = open_source(str(folder))
    configuration = Configuration.of(name, **choices)  # type: ignore[arg-type]
    labelled = assign_classes(description, index_dataset(description, source).table, configuration=configuration)
    return make_plan(description, labelled, source=source, configuration=configuration)


def test_repeated_file_is_a_duplicate_of_its_first_path(tmp_path: Path) -> None:
    contents = {"b/2.jpg": b"same", "a/1.jpg": b"same", "c/3.jpg": b"same", "a/2.jpg": b"diff", "a/3.jpg": b"longer"}
    found = planned_folder("folder", write(tmp_path, contents), split="100/0/0")
    status = dict(zip(column(found, "source"), column(found, "status"), strict=True))
    assert status == {"a/1.jpg": None, "a/2.jpg": None, "a/3.jpg": None, "b/2.jpg": "duplicate", "c/3.jpg": "duplicate"}
    assert column(found, "status")[3:] == ["duplicate"] * 2


def test_duplicates_are_kept_where_the_description_does_not_look_for_them(tmp_path: Path) -> None:
    found = planned_folder("afad", write(tmp_path, {"22/111/1.jpg": b"same", "22/112/1.jpg": b"same"}))
    assert column(found, "status") == [None, None]


def test_repeated_file_that_a_limit_leaves_out_is_no_duplicate(tmp_path: Path) -> None:
    """Check that the first path of a repeated file is looked for among the chosen rows only."""
    write(tmp_path, {"a/1.jpg": b"same", "b/1.jpg": b"same"})
    assert column(planned_folder("folder", tmp_path, limit=1, split="100/0/0"), "status") == [None]


# Shards


@given(
    number=st.integers(1, 200),
    num_missing=st.integers(0, 30),
    samples_per_shard=st.integers(1, 60),
    split=st.sampled_from(["80/10/10", "100/0/0", "34/33/33"]),
)
def test_shards_hold_every_present_row_once_in_equal_parts(
    number: int, num_missing: int, samples_per_shard: int, split: str
) -> None:
    table = sample_table(files(number + num_missing))
    found = planned(table, present=files(number), samples_per_shard=samples_per_shard, split=split)
    held = [row for shard in found.shards for row in range(shard.start, shard.stop)]
    assert held == list(range(number))
    splits = column(found, "split")
    for name in SPLITS:
        shards = [shard for shard in found.shards if shard.name.startswith(name)]
        sizes = [shard.stop - shard.start for shard in shards]
        assert [shard.name for shard in shards] == [f"{name}-{i:05d}" for i in range(len(shards))]
        assert {splits[row] for shard in shards for row in range(shard.start, shard.stop)} <= {name}
        assert len(shards) == -(-splits[:number].count(name) // samples_per_shard)
        assert not sizes or (max(sizes) <= samples_per_shard and max(sizes) - min(sizes) <= 1)


def test_shards_are_as_few_as_allowed() -> None:
    found = planned(sample_table(files(2500)), split="100/0/0", samples_per_shard=1000)
    assert [(shard.name, shard.start, shard.stop) for shard in found.shards] == [
        ("train-00000", 0, 834),
        ("train-00001", 834, 1667),
        ("train-00002", 1667, 2500),
    ]


def test_table_has_own_columns_and_then_the_labels() -> None:
    found = planned_paths("afad", ["22/111/1.jpg", "35/112/1.jpg"], classes="gender:all")
    assert found.table.column_names == ["key", "source", "split", "status", "duplicate_of", "class", "age", "gender"]
    assert found.class_names == ("male", "female")
    rows = sorted(tuple(row[name] for name in ("source", "class", "age", "gender")) for row in found.table.to_pylist())
    assert rows == [("22/111/1.jpg", "male", 22, "male"), ("35/112/1.jpg", "female", 35, "female")]


# Real label files


@pytest.mark.real
def test_real_celeba_plans(real_data: Path) -> None:
    """Check leaks and shares: CelebA's own split leaks nobody, one by fractions does, one by identity cannot."""
    folder = real_data / "celeba"
    official = planned_folder("celeba", folder, classes="rarest4")
    assert (official.split, official.num_leaking) == ("official", 0)
    assert counts_of(official, "split") == {"train": 22_060, "valid": 2913, "test": 2499}
    assert counts_of(official, "status") == {None: 1369, "missing": 26_103}
    by_identity = planned_folder("celeba", folder, classes="rarest4", split="identity")
    assert by_identity.num_leaking == 0
    fractions = planned_folder("celeba", folder, classes="rarest4", split="64/16/20", seed=13)
    assert fractions.num_leaking > 1000
    assert counts_of(fractions, "class", "split")[("Bald", "test")] == 909


@pytest.mark.real
def test_real_cacd_lists_leak_nearly_everybody(real_data: Path) -> None:
    description = load_dataset("cacd")
    table = index_dataset(description, open_source(str(real_data / "cacd"))).table
    labelled = Labelled(table.append_column("class", pa.nulls(len(table), pa.string())), (), ())
    source = Source(Store("nowhere"), frozenset(table["source"].to_pylist()))
    found = make_plan(description, labelled, source=source, configuration=Configuration.of("cacd"))
    assert (found.split, found.num_leaking) == ("official", 1989)
    assert len(found.shards) == 115 + 13 + 32


@pytest.mark.real
def test_real_utkface_duplicates(real_data: Path) -> None:
    found = planned_folder("utkface", real_data / "utkface")
    assert len(found.table) == 4888
    by_content: dict[bytes, list[str]] = {}
    for path in map(str, column(found, "source")):
        by_content.setdefault(hashlib.sha256((real_data / "utkface" / path).read_bytes()).digest(), []).append(path)
    repeated = {path for paths in by_content.values() for path in sorted(paths)[1:]}
    status = zip(column(found, "source"), column(found, "status"), strict=True)
    assert {path for path, state in status if state == "duplicate"} == repeated
    assert len(repeated) == 26
