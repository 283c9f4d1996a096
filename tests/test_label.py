"""Labelling: which class each row gets, in which order, and which rows are left out."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.configuration import Configuration
from facepack.description import Description, load_dataset
from facepack.errors import FieldError, JobError, UsageError
from facepack.index import index_dataset
from facepack.label import NO_CLASS, Labelled, assign_classes
from facepack.source import Source, open_source
from facepack.storage import Store

CELEBA = load_dataset("celeba")

# Of six images three are bald, two have a mustache and three are young; the last is nothing of it.
SIX = [{"Bald"}, {"Bald", "Mustache"}, {"Mustache", "Young"}, {"Young"}, {"Young", "Bald"}, set[str]()]


def celeba_table(images: Sequence[set[str]]) -> pa.Table:
    """A sample table of CelebA from the attributes of each image."""
    columns = {"source": pa.array([f"{row}.jpg" for row in range(len(images))])}
    for name in CELEBA.attributes:
        columns[name] = pa.array([int(name in image) for image in images], pa.int8())
    return pa.table(columns)


def ages_table(ages: Sequence[float | None]) -> pa.Table:
    """A sample table of APPA-REAL, in which everybody looks ten years older."""
    older = [None if age is None else age + 10 for age in ages]
    sources = pa.array([f"{row}.jpg" for row in range(len(ages))])
    return pa.table(
        {"source": sources, "apparent_age": pa.array(older, pa.float32()), "real_age": pa.array(ages, pa.float32())}
    )


def paths_table(name: str, paths: Sequence[str]) -> pa.Table:
    """The sample table of a dataset whose rows are named by paths."""
    return index_dataset(load_dataset(name), Source(Store("nowhere"), frozenset(paths))).table


def labelled(name: str, table: pa.Table, **choices: object) -> Labelled:
    configuration = Configuration.of(name, **choices)  # type: ignore[arg-type]
    return assign_classes(load_dataset(name), table, configuration=configuration)


def classes_of(found: Labelled) -> dict[str, str]:
    """The class of each image that was kept."""
    return dict(zip(found.table["source"].to_pylist(), found.table["class"].to_pylist(), strict=True))


# Attributes


def test_all_but_some_attributes_keep_the_order_of_all() -> None:
    everything = labelled("celeba", celeba_table(SIX), classes="all").class_names
    assert labelled("celeba", celeba_table(SIX), classes="all,-Bald,-Young").class_names == tuple(
        name for name in everything if name not in ("Bald", "Young")
    )


def test_all_but_a_name_that_is_no_class_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"^classes all,-bald: celeba has no class 'bald'; it has: "):
        labelled("celeba", celeba_table(SIX), classes="all,-bald")
    every = ",".join(f"-{name}" for name in CELEBA.attributes)
    with pytest.raises(UsageError, match=r"leaves out every class of celeba$"):
        labelled("celeba", celeba_table(SIX), classes=f"all,{every}")


def test_classes_of_too_few_rows_are_named_and_counted() -> None:
    found = labelled("celeba", celeba_table(SIX), classes="Mustache,Young,Bald", min_per_class=2)
    assert found.class_names == ("Mustache", "Young")
    assert classes_of(found) == {"1.jpg": "Mustache", "2.jpg": "Mustache", "3.jpg": "Young", "4.jpg": "Young"}
    assert found.left_out == {NO_CLASS: 1, "of a class of fewer than 2 rows": 1}
    assert found.warnings == ("class Bald: fewer than 2 rows, so left out, 1 rows in all",)


def test_least_number_that_no_class_has_is_wrong_usage() -> None:
    with pytest.raises(FieldError, match=r"^min_per_class 9: the largest class has 3 rows"):
        labelled("celeba", celeba_table(SIX), classes="Bald,Mustache,Young", min_per_class=9)
    with pytest.raises(FieldError, match=r"^min_per_class 9: no classes are chosen"):
        labelled("celeba", celeba_table(SIX), min_per_class=9)


def test_image_of_several_attributes_is_of_the_first_in_the_given_order() -> None:
    found = labelled("celeba", celeba_table(SIX), classes="Bald,Mustache,Young")
    assert found.class_names == ("Bald", "Mustache", "Young")
    assert classes_of(found) == {
        "0.jpg": "Bald",
        "1.jpg": "Bald",
        "2.jpg": "Mustache",
        "3.jpg": "Young",
        "4.jpg": "Bald",
    }
    turned = labelled("celeba", celeba_table(SIX), classes="Young, Mustache, Bald")
    assert turned.class_names == ("Young", "Mustache", "Bald")
    assert list(classes_of(turned).values()) == ["Bald", "Mustache", "Young", "Young", "Young"]


def test_image_of_several_attributes_can_be_left_out_instead() -> None:
    found = labelled("celeba", celeba_table(SIX), classes="Bald,Mustache,Young", multiple="drop")
    assert classes_of(found) == {"0.jpg": "Bald", "3.jpg": "Young"}
    assert found.class_names == ("Bald", "Mustache", "Young")
    assert found.notes == ("4 of 6 rows are of no chosen class and left out",)


def test_attribute_that_was_not_chosen_does_not_count_as_several() -> None:
    found = labelled("celeba", celeba_table(SIX), classes="Bald,Mustache", multiple="drop")
    assert classes_of(found) == {"0.jpg": "Bald", "2.jpg": "Mustache", "4.jpg": "Bald"}


def test_rows_of_no_chosen_class_are_left_out_with_their_number() -> None:
    found = labelled("celeba", celeba_table(SIX), classes="Mustache")
    assert classes_of(found) == {"1.jpg": "Mustache", "2.jpg": "Mustache"}
    assert found.notes == ("4 of 6 rows are of no chosen class and left out",)


def test_nothing_is_noted_where_every_row_has_a_class() -> None:
    found = labelled("celeba", celeba_table(SIX[:2]), classes="Bald")
    assert (len(found.table), found.notes) == (2, ())


def test_all_attributes_are_classes_in_the_order_of_the_description() -> None:
    found = labelled("celeba", celeba_table(SIX), classes="all")
    assert found.class_names == CELEBA.attributes
    assert list(classes_of(found).values()) == ["Bald", "Bald", "Mustache", "Young", "Bald"]


def test_without_classes_every_row_is_kept_and_of_no_class() -> None:
    found = labelled("celeba", celeba_table(SIX))
    assert (found.class_names, found.notes) == ((), ())
    assert found.table["class"].to_pylist() == [None] * 6


def test_label_columns_are_kept_as_they_are() -> None:
    table = celeba_table(SIX)
    found = labelled("celeba", table, classes="Bald,Mustache,Young")
    assert found.table.drop_columns("class").equals(table.slice(0, 5))


# Counted choices


def all_attributes_but(*names: str) -> set[str]:
    return set(CELEBA.attributes) - set(names)


def test_rarest_are_ascending_and_commonest_descending() -> None:
    images = [set(CELEBA.attributes), all_attributes_but("Bald"), all_attributes_but("Bald", "Young")]
    table = celeba_table([*images, all_attributes_but("Bald", "Young", "Male"), {"Goatee"}])
    assert labelled("celeba", table, classes="rarest3").class_names == ("Bald", "Young", "Male")
    assert labelled("celeba", table, classes="commonest1").class_names == ("Goatee",)
    assert labelled("celeba", table, classes="commonest40").class_names[-3:] == ("Male", "Young", "Bald")


def test_equally_rare_attributes_are_ordered_by_name() -> None:
    images = [all_attributes_but("Young", "Bald", "Male"), set(CELEBA.attributes)]
    assert labelled("celeba", celeba_table(images), classes="rarest3").class_names == ("Bald", "Male", "Young")
    by_name = tuple(sorted(all_attributes_but("Young", "Bald", "Male")))
    assert labelled("celeba", celeba_table(images), classes="commonest37").class_names == by_name


def test_random_classes_depend_on_the_seed() -> None:
    table = celeba_table([set(CELEBA.attributes)])
    choices = [labelled("celeba", table, classes="random4", seed=seed).class_names for seed in range(20)]
    assert len(set(choices)) == 20
    assert {len(set(choice)) for choice in choices} == {4}
    assert len({name for choice in choices for name in choice}) > 30
    assert choices[3] == labelled("celeba", table, classes="random4", seed=3).class_names


def test_random_classes_do_not_depend_on_rows_or_counts() -> None:
    whole = celeba_table([set(CELEBA.attributes), *SIX])
    expected = labelled("celeba", whole, classes="random4", seed=5).class_names
    assert labelled("celeba", whole.take([6, 3, 0, 1, 5, 2, 4]), classes="random4", seed=5).class_names == expected
    assert labelled("celeba", whole.slice(0, 1), classes="random4", seed=5).class_names == expected


def test_more_random_classes_are_the_fewer_and_others() -> None:
    table = celeba_table([set(CELEBA.attributes)])
    ten = labelled("celeba", table, classes="random10").class_names
    assert labelled("celeba", table, classes="random4").class_names == ten[:4]


@given(
    images=st.lists(st.sets(st.sampled_from(["Bald", "Male", "Young", "Goatee"])), min_size=1, max_size=12),
    chosen=st.permutations(["Bald", "Male", "Young"]),
)
def test_first_match_and_drop_agree_with_a_plain_loop(images: list[set[str]], chosen: list[str]) -> None:
    matches = [[name for name in chosen if name in image] for image in images]
    first = {f"{row}.jpg": names[0] for row, names in enumerate(matches) if names}
    single = {f"{row}.jpg": names[0] for row, names in enumerate(matches) if len(names) == 1}
    for multiple, expected in (("first", first), ("drop", single)):
        if expected:
            found = labelled("celeba", celeba_table(images), classes=",".join(chosen), multiple=multiple)
            assert classes_of(found) == expected
        else:
            with pytest.raises(JobError):
                labelled("celeba", celeba_table(images), classes=",".join(chosen), multiple=multiple)


# Categories

PEOPLE = [
    "28_1_3_20170109150557335.jpg",
    "29_0_0_20170109150557335.jpg",
    "30_1_3_20170109150557335.jpg",
    "31_1_2_20170109150557335.jpg",
]


def test_categories_without_order_are_classes_in_the_order_of_the_alphabet() -> None:
    folders = ["zebra", "Ant", "bee", "bee"]
    table = pa.table({"source": ["1.jpg", "2.jpg", "3.jpg", "4.jpg"], "folder": folders})
    found = labelled("folder", table)
    assert found.class_names == ("Ant", "bee", "zebra")
    assert list(classes_of(found).values()) == folders


def test_categories_with_order_are_classes_in_that_of_the_description() -> None:
    found = labelled("utkface", paths_table("utkface", PEOPLE), classes="race:all")
    assert found.class_names == ("white", "asian", "indian")
    assert list(classes_of(found).values()) == ["indian", "white", "indian", "asian"]


def test_classes_without_column_are_of_the_first_category() -> None:
    found = labelled("utkface", paths_table("utkface", PEOPLE), classes="female")
    assert found.class_names == ("female",)
    assert len(found.table) == 3


def test_listed_categories_keep_the_order_given() -> None:
    found = labelled("utkface", paths_table("utkface", PEOPLE), classes="race:indian,white")
    assert found.class_names == ("indian", "white")
    assert list(classes_of(found).values()) == ["indian", "white", "indian"]


def test_counted_categories_keep_the_order_of_the_description() -> None:
    table = paths_table("utkface", PEOPLE)
    assert labelled("utkface", table, classes="race:commonest2").class_names == ("asian", "indian")
    assert labelled("utkface", table, classes="race:rarest2").class_names == ("white", "asian")


def test_row_without_category_is_of_no_class() -> None:
    table = pa.table({"source": ["0.jpg", "1.jpg", "2.jpg"], "folder": ["cats", None, "dogs"]})
    found = labelled("folder", table, classes="all")
    assert classes_of(found) == {"0.jpg": "cats", "2.jpg": "dogs"}
    assert found.notes == ("1 of 3 rows are of no chosen class and left out",)


# Ages


def test_age_bins_hold_both_their_ends() -> None:
    table = ages_table([0, 1, 4, 5, 27, 28, 120])
    found = labelled("appa_real", table, age_bins="real_age:1-4,5-27,28-")
    assert found.class_names == ("1-4", "5-27", "28-")
    assert list(classes_of(found).items()) == [
        ("1.jpg", "1-4"),
        ("2.jpg", "1-4"),
        ("3.jpg", "5-27"),
        ("4.jpg", "5-27"),
        ("5.jpg", "28-"),
        ("6.jpg", "28-"),
    ]
    assert found.notes == ("1 of 7 rows are of no chosen class and left out",)


def test_fractional_ages_count_in_completed_years() -> None:
    table = ages_table([0.99, 4.99, 5.0, 27.9, 28.01])
    found = labelled("appa_real", table, age_bins="real_age:1-4,5-27,28-")
    assert classes_of(found) == {"1.jpg": "1-4", "2.jpg": "5-27", "3.jpg": "5-27", "4.jpg": "28-"}


def test_ages_between_bins_and_unknown_ages_are_left_out() -> None:
    found = labelled("appa_real", ages_table([0, 3, 7, None, 10]), age_bins="real_age:0-2, 10-10")
    assert classes_of(found) == {"0.jpg": "0-2", "4.jpg": "10-10"}
    assert found.notes == ("3 of 5 rows are of no chosen class and left out",)


def test_age_bins_without_column_are_of_the_first_age() -> None:
    found = labelled("appa_real", ages_table([1, 20]), age_bins="11-12,30-")
    assert list(classes_of(found).values()) == ["11-12", "30-"]


def test_age_bins_take_the_place_of_default_classes() -> None:
    table = paths_table("utkface", PEOPLE)
    assert labelled("utkface", table, age_bins="28-29,31-").class_names == ("28-29", "31-")


@pytest.mark.parametrize(
    "bins", ["1-5,5-9", "10-20,1-9", "9-1", "1-,30-40", "0-4,,5-9", "4", "-4", "1-4;5-9", "young,old", "1.5-3", "1-4,"]
)
def test_age_bins_that_overlap_descend_or_make_no_sense_are_wrong_usage(bins: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"age_bins {bins}: expected ascending bins that do not overlap")):
        labelled("appa_real", ages_table([1, 2]), age_bins=bins)


@given(
    ages=st.lists(st.floats(0, 130, width=32), min_size=1), ends=st.sets(st.integers(0, 130), min_size=2, max_size=6)
)
def test_touching_age_bins_part_all_ages(ages: list[float], ends: set[int]) -> None:
    """Check that bins which leave no gap give every age from the first on exactly the bin it lies in."""
    lows = sorted(ends)
    names = [f"{low}-{high - 1}" for low, high in pairwise(lows)] + [f"{lows[-1]}-"]
    expected = [names[sum(low <= age for low in lows) - 1] for age in ages if age >= lows[0]]
    table = pa.table({"source": [""] * len(ages), "age": pa.array(ages, pa.float32())})
    if expected:
        found = labelled("utkface", table, age_bins=",".join(names))
        assert found.table["class"].to_pylist() == expected
    else:
        with pytest.raises(JobError):
            labelled("utkface", table, age_bins=",".join(names))


# What does not exist


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("celeba", {"classes": "Bald,Beard"}, "classes Bald,Beard: celeba has no class 'Beard'; it has: 5_o_Clock"),
        ("celeba", {"classes": "bald"}, "celeba has no class 'bald'"),
        ("celeba", {"classes": "rarest"}, "celeba has no class 'rarest'"),
        ("celeba", {"classes": "rarest41"}, "classes rarest41: celeba has 40 classes, expected 1 to 40"),
        ("celeba", {"classes": "hair:all"}, "classes hair:all: celeba has no classes 'hair'; it has: none"),
        ("celeba", {"age_bins": "1-4"}, "age_bins 1-4: celeba has no ages ''; it has: none"),
        ("utkface", {"classes": "age:all"}, "utkface has no classes 'age'; it has: gender, race"),
        ("utkface", {"classes": "race:green"}, "utkface has no class 'green'; it has: asian, indian, white"),
        ("utkface", {"classes": "race:others"}, "utkface has no class 'others'; it has: asian, indian, white"),
        ("utkface", {"classes": "commonest3"}, "utkface has 2 classes, expected 1 to 2"),
        ("utkface", {"age_bins": "race:1-4"}, "utkface has no ages 'race'; it has: age"),
    ],
)
def test_what_the_dataset_does_not_have_is_wrong_usage(name: str, choices: dict[str, str], message: str) -> None:
    table = celeba_table(SIX) if name == "celeba" else paths_table("utkface", PEOPLE)
    with pytest.raises(UsageError, match=re.escape(message)):
        labelled(name, table, **choices)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("Bald,", "classes Bald,: one of the names is empty"),
        ("race:", "classes race:: one of the names is empty"),
        ("Bald,Young,Bald", "classes Bald,Young,Bald: a class is named twice"),
        ("random0", "classes random0: expected 1 or more, such as random4"),
    ],
)
def test_classes_that_make_no_sense_are_refused_before_any_label_is_read(classes: str, message: str) -> None:
    with pytest.raises(FieldError, match=re.escape(message)):
        Configuration.of("celeba", classes=classes)


def test_dataset_without_classes_says_so() -> None:
    with pytest.raises(UsageError, match="classes all: toy has no classes ''; it has: none"):
        toy = Description(
            name="toy",
            title="",
            num_images=0,
            homepage="",
            terms="",
            obtain="",
            citation="",
            index=load_dataset("folder").index,
            examples=load_dataset("folder").examples,
        )
        assign_classes(toy, pa.table({"source": ["1.jpg"]}), configuration=Configuration(dataset="toy", classes="all"))


@pytest.mark.parametrize(
    ("choices", "names"),
    [({"classes": "Goatee,Male"}, "Goatee, Male"), ({"classes": "Bald,Young", "multiple": "drop"}, "Bald, Young")],
)
def test_choice_that_keeps_no_row_ends_the_job(choices: dict[str, str], names: str) -> None:
    table = celeba_table([{"Bald", "Young"}, set[str]()])
    with pytest.raises(JobError, match=f"celeba: no row is of any of the classes {names}"):
        labelled("celeba", table, **choices)


# Real label files


@pytest.mark.real
def test_real_rarest_four_of_celeba(real_data: Path) -> None:
    """Check the numbers of the published four-class set."""
    table = index_dataset(CELEBA, open_source(str(real_data / "celeba"))).table
    found = labelled("celeba", table, classes="rarest4")
    assert found.class_names == ("Bald", "Mustache", "Gray_Hair", "Pale_Skin")
    counts = {row["values"]: row["counts"] for row in found.table["class"].value_counts().to_pylist()}
    assert counts == {"Bald": 4547, "Mustache": 7751, "Gray_Hair": 6871, "Pale_Skin": 8303}
    assert found.notes == ("175,127 of 202,599 rows are of no chosen class and left out",)
