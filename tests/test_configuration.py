"""A configuration takes any way to write a value, records one, and refuses the rest before a source is looked at."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make
from hypothesis import given
from hypothesis import strategies as st

from facepack.choices import AgeBins, Classes, Margin, Size, Split
from facepack.configuration import Configuration, configuration_of
from facepack.errors import FieldError, JobError, UsageError
from facepack.manifest import read_build


@pytest.mark.parametrize(
    ("field", "ways", "text"),
    [
        ("size", [64, "64", "64x64", (64, 64), [64, 64], " 64 "], "64"),
        ("size", ["64x48", (64, 48)], "64x48"),
        ("size", ["keep", "", None], "keep"),
        ("classes", ["rarest4", ["rarest4"]], "rarest4"),
        ("classes", ["Bald,Male", "Bald, Male", ["Bald", "Male"], ("Bald", "Male")], "Bald,Male"),
        ("classes", ["all,-Bald,-Male", ["all", "-Bald", "-Male"], "all, -Bald, - Male"], "all,-Bald,-Male"),
        ("classes", ["race:indian,white", "race:indian, white"], "race:indian,white"),
        ("classes", ["", None, []], ""),
        ("split", ["80/10/10", "80.0/10/10", (80, 10, 10), [80.0, 10.0, 10.0]], "80/10/10"),
        ("split", ["0.8/0.1/0.1", (0.8, 0.1, 0.1)], "0.8/0.1/0.1"),
        ("split", [(0.00001, 49.99999, 50)], "0.00001/49.99999/50"),
        ("split", ["identity", "identity:80/10/10"], "identity"),
        ("split", ["identity:60/20/20"], "identity:60/20/20"),
        ("split", ["index:80/10/10"], "index:80/10/10"),
        ("split", ["official"], "official"),
        ("age_bins", ["1-4,5-27,28-", "1-4, 5-27, 28-", ["1-4", "5-27", "28-"]], "1-4,5-27,28-"),
        ("age_bins", ["real_age:1-4"], "real_age:1-4"),
    ],
)
def test_value_is_recorded_in_one_way_however_it_is_written(field: str, ways: list[Any], text: str) -> None:
    configurations = [Configuration.of("celeba", **{field: way}) for way in ways]
    assert [getattr(configuration, field) for configuration in configurations] == [text] * len(ways)
    assert len({configuration.digest for configuration in configurations}) == 1


@pytest.mark.parametrize(("margin", "text"), [(15, "15"), ("15.0", "15"), (0, "0"), ("+2.5e1%", "25%"), ("", "15")])
def test_margin_is_recorded_in_one_way(margin: Any, text: str) -> None:
    assert Configuration.of("celeba", align="crop", margin=margin).margin == text


def test_fields_give_their_values() -> None:
    configuration = Configuration.of("celeba", size="64x48", split="index:60/20/20", classes="race:rarest2")
    assert configuration.size_wh == Size(64, 48) == (64, 48)
    assert configuration.split_rule == Split("index", (60, 20, 20))
    assert configuration.split_rule.shares == (0.6, 0.2, 0.2)
    assert configuration.class_choice == Classes("race", "rarest", number=2)
    assert configuration.age_choice is None
    by_age = Configuration.of("celeba", age_bins="real_age:1-4,5-", align="chip", margin="50%")
    assert by_age.face_margin == Margin(0.5, "share")
    assert by_age.age_choice == AgeBins.of("real_age:1-4,5-")
    assert (by_age.split_rule, by_age.class_choice) == (None, None)
    assert Classes.of("Bald,Male") == Classes("", "names", names=("Bald", "Male"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "64y"}, "size 64y: expected N, WxH (8 to 4096 pixels) or keep"),
        ({"size": 0}, "size 0: expected N, WxH"),
        ({"size": 7}, "size 7: expected N, WxH"),
        ({"size": (64, 48, 3)}, "size 64x48x3: expected N, WxH"),
        ({"size": "-64"}, "size -64: expected N, WxH"),
        ({"split": "80/20"}, "split 80/20: expected official, identity or TRAIN/VALID/TEST"),
        ({"split": (0, 1, 1)}, "split 0/1/1: the shares add up to 2, expected 100 (or 1)"),
        ({"split": "fractions:80/10/10"}, "split fractions:80/10/10: expected official"),
        ({"split": ":80/10/10"}, "split :80/10/10: expected official"),
        ({"classes": "Bald,,Male"}, "classes Bald,,Male: one of the names is empty"),
        ({"classes": ["Bald", "Bald"]}, "classes Bald,Bald: a class is named twice"),
        ({"classes": "rarest0"}, "classes rarest0: expected 1 or more"),
        ({"age_bins": "4-1"}, "age_bins 4-1: expected ascending bins"),
        ({"classes": "all", "age_bins": "1-4"}, "age_bins 1-4: names the classes, as classes all does"),
        ({"margin": 15}, "margin 15: needs align crop or chip"),
        ({"margin": 0}, "margin 0: needs align crop or chip"),
        ({"on_several": "largest"}, "on_several largest: needs align crop or chip"),
        ({"align": "cut"}, "align cut: expected none, crop or chip"),
        ({"multiple": "last"}, "multiple last: expected first or drop"),
        ({"encoding": "gif"}, "encoding gif: expected jpeg, png, webp or raw"),
        ({"encoding": "png", "quality": 90}, "quality 90: needs encoding jpeg or webp, as png keeps pixels"),
        ({"fit": "pad"}, "fit pad: needs a size"),
        ({"fit": "crop", "align": "crop"}, "fit crop: faces are cut out as squares"),
        ({"fit": "keep", "size": 64}, "fit keep: expected squash, crop or pad"),
        ({"max_pixels": 0}, "max_pixels 0: expected at least 1"),
        ({"max_pixels": 2_000_000_000}, "max_pixels 2000000000: expected at most 1,000,000,000"),
        ({"min_side": 0}, "min_side 0: expected at least 1"),
        ({"encoding": "raw", "quality": 90}, "quality 90: needs encoding jpeg"),
        ({"quality": 0}, "quality 0: expected 1 to 100"),
        ({"quality": "good"}, "quality good: expected a whole number"),
        ({"limit": 0}, "limit 0: expected at least 1"),
        ({"limit": 1.5}, "limit 1.5: expected a whole number"),
        ({"limit_per_class": -1}, "limit_per_class -1: expected at least 1"),
        ({"samples_per_shard": 0}, "samples_per_shard 0: expected at least 1"),
        ({"siez": 64}, "siez: no such option; did you mean size"),
        ({"landmarks": "0" * 64}, "landmarks: no such option"),
    ],
)
def test_value_that_cannot_be_names_its_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as error:
        Configuration.of("celeba", **options)
    assert str(error.value).startswith(message)
    name = next(iter(options)) if len(options) == 1 else message.partition(" ")[0]
    assert error.value.as_option.startswith(f"--{name.replace('_', '-')}")


def test_unknown_dataset_offers_similar_names() -> None:
    with pytest.raises(UsageError, match="celeba"):
        Configuration.of("celebb")


def test_value_that_cannot_be_is_refused_before_the_source_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"^split 80/20: expected"):
        make(tmp_path / "nowhere", tmp_path / "build", split="80/20")
    with pytest.raises(JobError, match="no such folder"):
        make(tmp_path / "nowhere", tmp_path / "build")


def test_text_that_is_not_its_one_way_is_refused_where_it_is_recorded() -> None:
    with pytest.raises(FieldError, match="size 64x64: expected '64', its one way to be written"):
        Configuration("celeba", size="64x64")


# Recorded


def test_configuration_is_read_back_as_it_was() -> None:
    configuration = Configuration.of("celeba", classes="rarest4", size=(64, 48), split=(80, 10, 10), limit=7)
    assert configuration_of(asdict(configuration), where="build.json") == configuration
    chips = replace(Configuration.of("celeba", align="chip"), landmarks="0" * 64)
    assert configuration_of(asdict(chips), where="build.json") == chips


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "64y"}, "build.json: not valid: size 64y: expected N, WxH"),
        ({"size": "64x64"}, "build.json: not valid: size 64x64: expected '64'"),
        ({"quality": "95"}, "build.json: field quality: Input should be a valid integer"),
        ({"align": "cut"}, "build.json: field align: Input should be 'none', 'crop' or 'chip'"),
        ({"limit": 0}, "build.json: not valid: limit 0: expected at least 1"),
        ({"dataset": None}, "build.json: field dataset: Input should be a valid string"),
    ],
)
def test_damaged_record_is_one_line_that_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        configuration_of(asdict(Configuration.of("celeba")) | change, where="build.json")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_build_with_a_damaged_configuration_is_refused_in_one_line(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build")
    path = tmp_path / "build" / "build.json"
    content = json.loads(path.read_text())
    content["configuration"]["split"] = "80/20"
    path.write_text(json.dumps(content))
    with pytest.raises(JobError, match=r"build\.json: field configuration: split 80/20: expected official"):
        read_build(str(tmp_path / "build"))


@given(
    size=st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
    cuts=st.tuples(st.floats(0, 100), st.floats(0, 100)),
    margin=st.floats(0, 200),
    seed=st.integers(),
)
def test_every_value_survives_its_text(
    size: tuple[int, int], cuts: tuple[float, float], margin: float, seed: int
) -> None:
    split = (min(cuts), max(cuts) - min(cuts), 100 - max(cuts))
    configuration = Configuration.of("celeba", size=size, split=split, seed=seed)
    assert configuration.size_wh == size
    assert configuration.split_rule == Split("fractions", split)
    assert Configuration.of("celeba", size=configuration.size, split=configuration.split, seed=seed) == configuration
    share = Configuration.of("celeba", align="chip", margin=f"{margin}%")
    assert share.face_margin.value == pytest.approx(margin / 100, rel=1e-5)
    assert configuration_of(asdict(share), where="here") == share
