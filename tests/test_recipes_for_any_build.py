"""classifier, attributes, ordinal, regressor: what they make of a build, and which of them fits it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import make
from test_facts import build_of
from typer.testing import CliRunner

import trainer
from facepack.cli import app
from facepack.drawn import synthetic
from facepack.errors import UsageError
from trainer import choosing, recipe, recipes, runs
from trainer.facts import Facts
from trainer.loading.augment import CenterResizedCrop, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize
from trainer.optim import AdamW
from trainer.recipe import IMAGENET
from trainer.task import Attributes, Classes, Number, Ordinal

SMALL = ("network=small_resnet(widths=(8,))", "epochs=1", "precision=32-true")


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("any") / "faces"
    make(celeba, out, split="60/20/20")
    return out


def sized(num: int, *, side_px: int = 64, **columns: Any) -> Facts:
    """Facts of so many images to train on, of two classes."""
    one = build_of(splits=["train"] * num, class_names=("a", "b"), **{"class": pa.array(["a", "b"] * (num // 2))})
    sides = pa.array([side_px] * (num + 1), pa.int32())
    table = one.table.set_column(3, "width", sides).set_column(4, "height", sides)
    return replace(one, table=table)


def test_steps_batches_and_networks_grow_with_the_images() -> None:
    made = {num: recipes.load("classifier", facts=sized(num)) for num in (100, 1000, 30_000, 1_000_000)}
    steps = {num: one.epochs * -(-num // one.batch_size) for num, one in made.items()}
    assert {num: (one.epochs, one.batch_size) for num, one in made.items()} == {
        100: (150, 32),
        1000: (36, 32),
        30_000: (36, 64),
        1_000_000: (10, 256),
    }
    assert steps == {100: 600, 1000: 1152, 30_000: 16_884, 1_000_000: 39_070}
    assert [one.optimizer.lr for one in made.values()] == [0.01, 0.01, 0.01414, 0.02]
    assert ["depth=2" in one.network for one in made.values()] == [False, False, False, True]
    assert [one.average for one in made.values()] == [0.99, 0.99132, 0.99941, 0.9995]


def test_network_and_augmentation_follow_from_the_size() -> None:
    made = {side: recipes.load("classifier", facts=sized(100, side_px=side)) for side in (16, 32, 64, 128, 400)}
    assert [one.network.partition(", places")[0] for one in made.values()] == [
        "small_resnet(widths=(32, 64, 128), stem_stride=1",
        "small_resnet(widths=(32, 64, 128, 256), stem_stride=1",
        *["small_resnet(widths=(32, 64, 128, 256), stem_stride=2"] * 3,
    ]
    assert made[64].augment == (
        RandomResizedCrop(scale=(0.6, 1.0), ratio=(0.9, 1.1)),
        RandomHorizontalFlip(),
        Normalize(),
    )
    assert made[400].eval_augment == (Resize((128, 128)), CenterResizedCrop(0.9), Normalize())


def test_classes_that_differ_much_in_number_come_equally_often_and_sides_are_not_mirrored() -> None:
    column = pa.array(["left_hand"] * 90 + ["right_hand"] * 10)
    build = build_of(splits=["train"] * 100, class_names=("left_hand", "right_hand"), **{"class": column})
    made = recipes.load("classifier", facts=build)
    assert (made.balanced, made.flip_at_test) == (True, False)
    assert not any(isinstance(step, RandomHorizontalFlip) for step in made.augment)
    plain = recipes.load("classifier", facts=sized(100))
    assert (plain.balanced, plain.flip_at_test) == (False, True)


def test_weights_of_others_bring_their_normalisation_and_gentle_training() -> None:
    settings = ["network=resnet18()", "weights=IMAGENET1K_V1"]
    made = recipes.load("classifier", settings, facts=sized(1000))
    assert made.augment[0] == Resize((112, 112))
    assert (made.augment[-1], made.eval_augment[-1]) == (IMAGENET, IMAGENET)
    assert (made.optimizer, made.start.backbone_lr, made.epochs) == (AdamW(lr=1e-3, weight_decay=0.05), 0.3, 12)
    assert recipes.load("classifier", [*settings, "freeze=head"], facts=sized(1000)).optimizer.lr == 3e-3
    fixed = recipes.load("classifier", ["network=torchvision:vit_b_16()", "weights=DEFAULT"], facts=sized(1000))
    assert fixed.eval_augment[0] == Resize((224, 224))
    own = recipes.load("classifier", [*settings, "eval_augment=[Normalize()]"], facts=sized(1000))
    assert own.eval_augment == (Normalize(),)
    other = recipes.load("classifier", ["network=resnet18()"], facts=sized(1000))
    assert (other.optimizer.lr, other.augment[-1], other.start.weights) == (1e-3, Normalize(), "")


def test_tasks_follow_from_the_labels() -> None:
    numbers = pa.array([float(number) for number in range(28)], pa.float32())
    columns = {"age": numbers, "price": pa.array(np.arange(28) * 1e4, pa.float32())}
    build = build_of(smile=pa.array([1, 0] * 14, pa.int8()), mood=pa.array(["glad", "sad"] * 14), **columns)
    assert recipes.load("ordinal", facts=build).task == Ordinal(low=0, high=19)
    assert recipes.load("regressor", facts=build).task == Number(middle=9.5, scale=5.766)
    assert recipes.load("attributes", facts=build).task == Attributes()
    assert recipes.load("classifier", facts=build).task == Classes(target="mood", label_smoothing=0.05)
    assert [(option.name, option.target) for option in choosing.options(build)] == [
        ("ordinal", "age"),
        ("regressor", "price"),
        ("attributes", "attributes"),
        ("classifier", "mood"),
    ]
    binned = recipes.load("classifier", ["target=age:0-9,10-"], facts=build)
    assert binned.task == Classes(target="age:0-9,10-", label_smoothing=0.05)
    for name, settings, text in [
        ("ordinal", ["target=price"], "price is 0 to 190000 in train"),
        ("ordinal", ["target=mood"], "target mood is a category, not a number; take classifier"),
        ("classifier", ["target=age"], "target age is a number; give bins"),
        ("classifier", ["target=ages"], "did you mean age"),
        ("regressor", ["targets=age"], "no field 'targets'"),
    ]:
        with pytest.raises(UsageError, match=text):
            recipes.load(name, settings, facts=build)
    with pytest.raises(UsageError, match="attributes: the build has none; it has classes"):
        recipes.load("attributes", facts=sized(10))
    with pytest.raises(UsageError, match="it follows from a build"):
        recipes.load("classifier")


@pytest.mark.parametrize("name", recipes.for_any_build())
def test_recipes_for_any_build_are_written_down_in_full(name: str) -> None:
    columns = {"age": pa.array([*map(float, range(28))], pa.float32()), "smile": pa.array([1, 0] * 14, pa.int8())}
    made = recipes.load(name, facts=build_of(mood=pa.array(["glad", "sad"] * 14), **columns))
    assert recipe.from_dict(made.to_dict(), where="run.json") == made
    assert (recipes.for_any_build()[name].__doc__ or "").split("\n")[0].endswith(".")


def test_build_alone_gets_a_recipe_and_goes_on_without_training_twice(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", str(build), "--device", "cpu", *(part for text in SMALL for part in ("--set", text))]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "recipe classifier, for the build has 4 classes; it could be attributes, too" in first.output
    assert "classifier of class (Bald, Mustache, Gray_Hair, Pale_Skin; " in first.output
    folder = Path("runs/faces")
    before = (folder / runs.BEST_FILE).read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    resumed = CliRunner().invoke(app, ["train", "--resume", str(folder), "--device", "cpu"])
    assert resumed.exit_code == 0, resumed.output
    assert (folder / runs.BEST_FILE).read_bytes() == before
    assert len((folder / runs.METRICS_FILE).read_text().splitlines()) == 2
    kept = runs.read(folder)
    assert (kept.recipe_name, kept.recipe.epochs) == ("classifier", 1)
    evaluated = CliRunner().invoke(app, ["evaluate", str(folder), "--device", "cpu"])
    assert evaluated.exit_code == 0, evaluated.output


def test_library_takes_a_build_alone_and_mixed_ones(build: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(text.split("=", 1) for text in SMALL)
    run = trainer.train(build, out=tmp_path / "run", device="cpu", **settings)
    assert (run.run.recipe_name, run.run.names) == ("classifier", ("Bald", "Mustache", "Gray_Hair", "Pale_Skin"))
    mixed = trainer.train("attributes", data=[build, build], out=tmp_path / "mixed", device="cpu", **settings)
    assert (mixed.run.recipe_name, len(mixed.run.names)) == ("attributes", 40)
    with pytest.raises(UsageError, match=r"is a build: leave out --data"):
        trainer.train(build, data=build)
    with pytest.raises(UsageError, match="give BUILD alone, RECIPE and --data BUILD"):
        trainer.train()


def test_experiments_take_recipes_for_any_build(tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "utkface", num_images=60)
    make(tmp_path / "utkface", tmp_path / "build", dataset="utkface", classes="", split="60/20/20")
    arguments = [
        "experiment",
        "ordinal",
        "regressor",
        "--data",
        str(tmp_path / "build"),
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += [part for text in SMALL for part in ("--set", text)]
    ended = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert ended.exit_code == 0, ended.output
    rows = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["run", "ordinal", "regressor"]


def test_command_lists_them_first_and_shows_them_for_a_build(build: Path) -> None:
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in listed[:4]] == ["classifier", "attributes", "ordinal", "regressor"]
    alone = CliRunner().invoke(app, ["recipes", "classifier"]).output
    assert "facepack recipes classifier --data BUILD" in alone
    shown = CliRunner().invoke(app, ["recipes", "classifier", "--data", str(build)]).output
    assert "small_resnet(widths=(32, 64, 128, 256), stem_stride=1, places=4, dropout=0.5)" in shown
