"""Configurations: options become values when they are made, and are written in one way."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.builder import Place, build
from facepack.configuration import Configuration, configuration_of
from facepack.drawn import synthetic
from facepack.errors import FieldError, JobError, UsageError
from trainer.loader import Loader


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({"size": 64}, "size", "64"),
        ({"size": "64x64"}, "size", "64"),
        ({"size": (96, 112)}, "size", "96x112"),
        ({"size": "keep"}, "size", "keep"),
        ({}, "size", "keep"),
        ({"align": "crop"}, "size", "120"),
        ({"align": "chip"}, "margin", "25%"),
        ({"align": "crop", "margin": 15.0}, "margin", "15"),
        ({"classes": ["Bald", "Male"]}, "classes", "Bald,Male"),
        ({"split": (80, 10, 10)}, "split", "80/10/10"),
        ({"age_bins": ["1-4", "5-"]}, "age_bins", "1-4,5-"),
    ],
)
def test_a_choice_is_written_in_one_way(options: dict[str, Any], field: str, text: str) -> None:
    assert getattr(Configuration.of("celeba", **options), field) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "64y"}, "size 64y: expected N, WxH"),
        ({"size": 7}, "size 7: expected N, WxH"),
        ({"split": "80/20"}, "split 80/20: expected official"),
        ({"classes": "Bald,Bald"}, "classes Bald,Bald: a class is named twice"),
        ({"classes": "all", "age_bins": "1-"}, "classes all: age bins name the classes, too"),
        ({"encoding": "png"}, "encoding png: expected jpeg or raw"),
        ({"align": "chip", "margin": 15}, "margin 15: the margin of a chip is a part of the face"),
        ({"align": "crop", "size": "96x112"}, "size 96x112: faces are cut out as squares, such as 96"),
        ({"margin": 15}, "margin: needs align crop or chip"),
        ({"limit": 0}, "limit 0: expected at least 1"),
    ],
)
def test_a_value_that_cannot_be_names_its_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as caught:
        Configuration.of("celeba", **options)
    assert f"{caught.value}".startswith(message)
    assert caught.value.as_option == f"--{f'{caught.value}'.replace('_', '-', 1 if 'age_bins' in message else 0)}"


def test_an_unknown_option_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="sise: no such option; did you mean size"):
        Configuration.of("celeba", sise=64)


def test_a_wrong_split_is_reported_before_the_source_is_looked_at() -> None:
    with pytest.raises(FieldError, match="split 80/20"):
        build(Configuration.of("celeba", split="80/20"), place=Place("no-such-folder", "out", workers=0))


@pytest.mark.parametrize("bins", ["1-10,5-20", "5-9,1-4", "4-1", "young"])
def test_build_and_loader_refuse_the_same_bins(bins: str, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=f"{bins}: expected ascending bins that do not overlap"):
        Configuration.of("utkface", age_bins=bins)
    out = str(tmp_path / "build")
    synthetic.draw("utkface", tmp_path / "faces", num_images=12)
    build(Configuration.of("utkface", size=32), place=Place(str(tmp_path / "faces"), out, workers=0))
    with pytest.raises(FieldError, match=f"age:{bins}: expected ascending bins that do not overlap"):
        Loader(out, split="train", batch_size=4, targets=(f"age:{bins}",))


@given(st.integers(8, 4096), st.integers(8, 4096))
def test_sizes_are_width_first(width: int, height: int) -> None:
    assert Configuration.of("celeba", size=f"{width}x{height}").size_wh == (width, height)


def test_a_record_written_otherwise_is_refused_by_field() -> None:
    recorded = json.loads(json.dumps(vars(Configuration.of("celeba", size=64))))
    fields = {name: value for name, value in recorded.items() if name in Configuration.__dataclass_fields__}
    assert configuration_of(fields, where="build.json") == Configuration.of("celeba", size=64)
    with pytest.raises(JobError, match=r"build\.json: .*size 64x64: expected it written as 64"):
        configuration_of(fields | {"size": "64x64"}, where="build.json")
