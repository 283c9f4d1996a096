"""facts and suitability: what there is in a build, and what of it is refused or warned of before training starts."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import make, tiny, train

from facepack.errors import UsageError
from trainer import facts, suitability
from trainer.facts import Facts
from trainer.loading.augment import Resize
from trainer.pretraining import pretraining_of
from trainer.recipe import IMAGENET
from trainer.task import Attributes, Classes, Number

SPLITS = ["train"] * 20 + ["valid"] * 4 + ["test"] * 4


def build_of(*, splits: list[str] = SPLITS, class_names: tuple[str, ...] = (), **columns: Any) -> Facts:
    """The facts of a manifest with these columns, and one image more that was rejected."""
    num = len(splits)
    own = {
        "source": [f"{number}.jpg" for number in range(num)],
        "split": splits,
        "status": ["packed"] * num,
        "width": [48] * num,
        "height": [64] * num,
    }
    rejected = {"source": ["bad.jpg"], "split": ["train"], "status": ["missing"], "width": [0], "height": [0]}
    schema = pa.schema(
        [("source", pa.string()), ("split", pa.string()), ("status", pa.string())]
        + [("width", pa.int32()), ("height", pa.int32())]
        + [(name, values.type) for name, values in columns.items()]
    )
    none = {name: [None] for name in columns}
    tables = [pa.table(own | columns, schema=schema), pa.table(rejected | none, schema=schema)]
    return Facts(pa.concat_tables(tables), class_names)


def test_facts_are_those_of_packed_images() -> None:
    smile = pa.array([1, 0] * 14, pa.int8())
    age = pa.array([float(number) for number in range(28)], pa.float32())
    build = build_of(
        smile=smile, age=age, mood=pa.array(["glad", "sad"] * 14), who=pa.array([f"{n}" for n in range(28)])
    )
    assert build.num == {"train": 20, "valid": 4, "test": 4}
    assert build.sizes_hw.tolist() == [[64, 48]]
    assert (build.attributes, build.numbers, build.categories) == (["smile"], ["age"], ["mood"])
    target = build.target("age")
    assert (target.kind, target.low, target.high, target.mean) == ("number", 0.0, 19.0, 9.5)
    assert target.std == pytest.approx(math.sqrt((20**2 - 1) / 12))
    assert build.target("mood").counts == {name: {"train": 10, "valid": 2, "test": 2} for name in ("glad", "sad")}
    assert build.target("attributes").counts == {"smile": {"train": 10, "valid": 2, "test": 2}}
    bins = build.target("age:0-9,10-")
    assert bins.counts == {"0-9": {"train": 10}, "10-": {"train": 10, "valid": 4, "test": 4}}
    with pytest.raises(UsageError, match="target moods: the build has no such column; did you mean mood"):
        build.target("moods")


@pytest.mark.parametrize(
    ("column", "recipe", "text"),
    [
        (
            pa.array([float("nan"), None, *map(float, range(26))], pa.float32()),
            tiny(task=Number(target="x")),
            "target x: 2 of 28 images have no value (2 in train): 0.jpg, 1.jpg; build again with --leave-out",
        ),
        (
            pa.array([*map(float, range(26)), None, None], pa.float32()),
            tiny(task=Number(target="x")),
            "(2 in test): 26.jpg, 27.jpg;",
        ),
        (
            pa.array([None] * 9 + ["a", "b"] + [None] * 17, pa.string()),
            tiny(task=Classes(target="x")),
            "26 of 28 images have no value (18 in train, 4 in valid, 4 in test): 0.jpg, 1.jpg, 2.jpg and 23 more;",
        ),
        (
            pa.array([7.0] * 28, pa.float32()),
            tiny(task=Number(target="x")),
            "all 20 images to learn from are of 7: there is nothing to learn",
        ),
        (
            pa.array(["a"] * 20 + ["b"] * 8),
            tiny(task=Classes(target="x")),
            "all 20 images to learn from are of one class, a: there is nothing to tell apart",
        ),
        (
            pa.array([1] * 28, pa.int8()),
            tiny(task=Attributes()),
            "all 20 images to learn from are alike in every attribute",
        ),
        (
            pa.array([None] + [1] * 27, pa.int8()),
            tiny(task=Attributes()),
            "target attributes: 1 of 28 images have no value (1 in train): 0.jpg;",
        ),
        (
            pa.array([*map(float, range(28))], pa.float32()),
            tiny(task=Classes(target="x:1-40")),
            "target x:1-40: 1 of 28 images have no value (1 in train): 0.jpg;",
        ),
    ],
)
def test_what_cannot_be_learnt_is_refused_by_name(column: pa.Array, recipe: Any, text: str) -> None:
    with pytest.raises(UsageError) as raised:
        suitability.of(recipe, build_of(x=column))
    assert text in str(raised.value)


def test_images_of_several_sizes_are_refused_where_they_stay_so() -> None:
    build = build_of(x=pa.array(["a", "b"] * 14))
    widths = pa.array([30, *[48] * 28], pa.int32())
    build = Facts(build.table.set_column(build.table.column_names.index("width"), "width", widths), ())
    recipe = tiny(task=Classes(target="x"))
    with pytest.raises(UsageError, match=r"of 2 sizes, such as 30x64 and 48x64 pixels, and a batch takes one: build"):
        suitability.of(recipe, build)
    resized = (Resize((64, 48)), *recipe.augment)
    assert suitability.of(replace(recipe, augment=resized, eval_augment=resized), build) == []


def test_classes_that_are_in_some_splits_alone_are_warned_of() -> None:
    column = pa.array(["a"] * 10 + ["b"] * 9 + ["c"] + ["a"] * 4 + ["b", "d", "d", "d"])
    lines = suitability.of(tiny(task=Classes(target="x")), build_of(x=column))
    assert lines == [
        "not in train, so that all 3 images of it in valid and test count as wrong: d",
        "in train alone, so that nobody will know how right it is: c",
        "fewer than 10 images in train, which hardly is enough to learn from: b (9), c (1)",
    ]


@pytest.mark.parametrize(
    ("splits", "text"),
    [
        (["train"] * 28, "no valid and no test split: nothing will be scored"),
        (["train"] * 24 + ["test"] * 4, "no valid split: the last epoch"),
        (["train"] * 24 + ["valid"] * 4, "no test split: the scores are those of valid"),
    ],
)
def test_splits_that_are_missed_are_warned_of(splits: list[str], text: str) -> None:
    (line,) = suitability.of(tiny(task=Classes(target="x")), build_of(splits=splits, x=pa.array(["a", "b"] * 14)))
    assert line.startswith(text)


def test_attributes_that_all_images_have_are_warned_of() -> None:
    columns = {"on": pa.array([1, 0] * 14, pa.int8()), "never": pa.array([0] * 28, pa.int8())}
    assert suitability.of(tiny(task=Attributes()), build_of(**columns)) == [
        "the same in all images to learn from, so that nothing is learnt of it: never"
    ]


def test_weights_that_want_other_images_are_warned_of() -> None:
    recipe = tiny(network="resnet18()", weights="IMAGENET1K_V1")
    lines = suitability.of_weights(recipe, size_hw=(64, 64))
    assert "were trained on images of 224x224 pixels, these are 64x64" in lines[0]
    assert "Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))" in lines[1]
    own = tiny(network="resnet18()", weights="IMAGENET1K_V1", augment=(IMAGENET,), eval_augment=(IMAGENET,))
    assert suitability.of_weights(own, size_hw=(224, 224)) == []
    assert suitability.of_weights(tiny(), size_hw=(8, 8)) == []


def test_what_weights_expect_is_known_of_torchvision_and_timm_alone() -> None:
    known = pretraining_of("torchvision:vit_b_16", "DEFAULT")
    assert known is not None
    assert (known.side_px, known.takes_others, known.mean) == (224, False, (0.485, 0.456, 0.406))
    assert pretraining_of("small_resnet()", "weights.pt") is None
    assert pretraining_of("mine.networks:small", "weights.pt") is None
    pytest.importorskip("timm")
    known = pretraining_of("timm:tf_efficientnet_lite0", "some/file.pth")
    assert known is not None
    assert (known.mean, known.std, known.side_px, known.takes_others) == ((0.5,) * 3, (0.5,) * 3, 224, True)


def test_doubts_come_before_any_step_and_refusals_leave_nothing_behind(
    celeba: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(celeba, tmp_path / "build", split="100/0/0")
    train(tmp_path / "build", tmp_path / "run", tiny(epochs=1))
    assert "no valid and no test split: nothing will be scored" in caplog.text
    with pytest.raises(UsageError, match="no such column"):
        train(tmp_path / "build", tmp_path / "other", tiny(task=Number(target="height_cm")))
    assert not (tmp_path / "other").exists()
    assert facts.read([str(tmp_path / "build")]).num == facts.read([str(tmp_path / "build")]).num
