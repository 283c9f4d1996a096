"""recipe, recipes and networks: all are found, complete, written down and read back; sizes are as published."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from facepack.errors import UsageError
from trainer import calls, layers, models, recipe, recipes
from trainer.loading.augment import Normalize, RandomCrop
from trainer.results.attributes import AttributeResults
from trainer.results.classes import ClassResults
from trainer.results.numbers import NumberResults
from trainer.task import TASKS, Classes, Number, TwoClasses

NAMES = sorted(recipes.known())


def num_weights(network: torch.nn.Module, *, learning: bool = False) -> int:
    """Parameters of a network."""
    return sum(one.numel() for one in network.parameters() if one.requires_grad or not learning)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is_and_is_read_back_as_it_was(name: str) -> None:
    make = recipes.known()[name]
    assert make.__doc__ and len(make.__doc__.split("\n")[0]) <= 110
    made = make()
    kept = json.loads(json.dumps(made.to_dict()))
    assert recipe.from_dict(kept, where="run.json") == made
    assert made.build.startswith("facepack build ")


def learnt() -> dict[tuple[str, str], tuple[int, int]]:
    """Every network and task of a recipe, once each, with a size of its images."""
    found = {}
    for name in NAMES:
        made = recipes.load(name)
        large = {"celeba_attributes": (192, 192), "own_face": (192, 192), "age_groups": (160, 160)}
        size = next(
            (size for start, size in large.items() if name.startswith(start) and "modern" not in name), (80, 80)
        )
        found[made.network, repr(made.task)] = size
    return found


@pytest.mark.parametrize(("network", "task"), learnt())
def test_every_network_learns_from_a_batch(network: str, task: str) -> None:
    wanted, size_hw = calls.made(task, TASKS, what="task"), learnt()[network, task]
    names = () if not wanted.results.are_probabilities else tuple("ab" if isinstance(wanted, TwoClasses) else "abcd")
    made = models.network(network, num_outputs=wanted.num_outputs(names), size_hw=size_hw)
    images = torch.rand(4, 3, *size_hw)
    given = {
        ClassResults: [0, 1, 1, 0],
        AttributeResults: [[1.0, 0.0, 1.0, 1.0]] * 4,
        NumberResults: [20.0, 30.0, 4.0, 5.0],
    }
    targets = torch.tensor(given[wanted.results])
    if isinstance(made, models.FitAtOnce):
        made.fit(made.features(images), targets.numpy(), seed=0)
    outputs = made(images)
    assert outputs.shape == (4, wanted.num_outputs(names))
    losses = wanted.losses(outputs, targets)
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()
    if not isinstance(made, models.FitAtOnce):
        losses.sum().backward()
        assert all(one.grad is not None and torch.isfinite(one.grad).all() for one in made.parameters())


def test_s1_has_seven_experiments_that_change_two_fields_at_most_and_two_rivals() -> None:
    first, second = recipes.load("age_groups"), recipes.load("age_groups_batch_8")
    assert (first.batch_size, second.batch_size) == (32, 8)
    assert set(first.differences(second)) == {"batch_size"}
    changed = {
        "plain": {"augment"},
        "unfrozen": {"freeze"},
        "fast": {"lr"},
        "sgd_slow": {"optimizer", "lr"},
        "sgd": {"optimizer"},
    }
    for name, fields in changed.items():
        assert set(second.differences(recipes.load(f"age_groups_{name}"))) == fields
    assert (first.stop, first.monitor, first.epochs, first.freeze) == ("above_mean", "loss", 400, "from:block8")
    for name in ("hog_svm", "lbp_mlp"):
        assert recipes.load(f"age_groups_{name}").network == f"{name}()"


def test_s2_is_as_published() -> None:
    appa, afad, cacd = (recipes.load(f"{name}_age") for name in ("appa_real", "afad", "cacd"))
    assert (appa.freeze, appa.lr, appa.epochs, appa.copies) == ("last_block", 1e-4, 20, 3)
    assert (afad.freeze, afad.batch_size, afad.network) == ("head", 128, "resnet34(dropout=0.5)")
    assert (cacd.freeze, cacd.lr, cacd.schedule, cacd.drop_after) == ("none", 5e-4, "drop", 8)
    assert {one.weights for one in (appa, afad, cacd)} == {"IMAGENET1K_V1"}
    assert all(isinstance(one.task, Number) and one.task.loss == "l1" for one in (appa, afad, cacd))


@pytest.mark.parametrize(
    ("text", "num_outputs", "size", "expected"),
    [
        ("simpsons_cnn()", 18, 64, 2_941_742),
        ("attributes_cnn()", 40, 192, 56_520),
        ("rarest4_cnn()", 4, 64, 896 + (32 * 32 * 32 * 32 + 32) + (32 * 4 + 4)),
        ("fully_connected()", 18, 64, (3 * 64 * 64 + 1) * 512 + 513 * 256 + 257 * 18),
    ],
)
def test_published_networks_have_the_published_number_of_weights(
    text: str, num_outputs: int, size: int, expected: int
) -> None:
    assert num_weights(models.network(text, num_outputs=num_outputs, size_hw=(size, size))) == expected


def test_transfer_of_s4_learns_4353_weights() -> None:
    network = models.network("attributes_cnn()", num_outputs=1, size_hw=(192, 192))
    layers.freeze(network, "head")
    assert num_weights(network, learning=True) == 4_353


def test_published_networks_begin_as_keras_does() -> None:
    torch.manual_seed(0)
    network = models.network("simpsons_cnn()", num_outputs=18, size_hw=(64, 64))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert 0.97 * limit < layer.weight.abs().max().item() <= limit
            assert layer.bias.abs().max().item() == 0


@pytest.mark.parametrize("text", ["simpsons_cnn()", "attributes_cnn()"])
def test_images_too_small_for_a_network_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="too small"):
        models.network(text, num_outputs=4, size_hw=(16, 16))


def test_s0_is_as_published() -> None:
    made = recipes.load("celeba_rarest4")
    assert (made.optimizer, made.lr, made.schedule, made.lr_decay) == ("adagrad", 1e-3, "inverse_time", 1e-5)
    assert (made.batch_size, made.epochs, made.task) == (64, 250, Classes())
    assert made.augment == made.eval_augment == (Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),)
    assert "--split 64/16/20 --seed 13" in made.build


def test_settings_change_fields_of_every_kind() -> None:
    settings = ["epochs=3", "lr=1e-2", "balanced=true", "optimizer=sgd", "augment=[RandomCrop(24), Normalize()]"]
    changed = recipes.load("celeba_rarest4", [*settings, "task=Classes(label_smoothing=0.1)"])
    assert (changed.epochs, changed.lr, changed.balanced, changed.optimizer) == (3, 0.01, True, "sgd")
    assert changed.augment == (RandomCrop(24), Normalize())
    assert changed.task == Classes(label_smoothing=0.1)
    assert set(changed.differences(recipes.load("celeba_rarest4"))) == {
        *("epochs", "lr", "balanced", "optimizer", "augment", "task")
    }


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("epoch=3", "no field 'epoch'; did you mean epochs"),
        ("epochs", "expected field=value"),
        ("epochs=many", "epochs=many: input should be a valid integer"),
        ("epochs=0", "epochs 0: expected more than 0"),
        ("lr=-1", "lr -1.0: expected more than 0"),
        ("lr=nan", "lr nan: expected a number"),
        ("optimizer=adamm", "optimizer=adamm: input should be 'adam', 'adamw', 'sgd' or 'adagrad'"),
        ("average=1", "expected 0 <= average < 1"),
        ("task=Clases()", "did you mean Classes"),
        ("task=Attributes(loss='hinge')", "expected bce, mse or softmax"),
        ("augment=[Normalize(), RandomCrop(5)]", "Normalize must come last"),
        ("augment=[RandomCrop(5)]", "must end with Normalize"),
        ("schedule=drop", "schedule=drop: to what, and when"),
        ("freeze=features", "freeze=features: expected none, head, last_block or from:<layer>"),
    ],
)
def test_wrong_settings_name_the_field(setting: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        recipes.load("celeba_rarest4", [setting])
    assert "\n" not in str(refused.value)


def test_recipe_that_is_not_known_offers_its_neighbours() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*simpsons_cnn"):
        recipes.load("simpson_cnn")


def test_damaged_record_of_a_recipe_is_refused() -> None:
    kept: dict[str, Any] = recipes.load("simpsons_cnn").to_dict()
    with pytest.raises(UsageError, match="not a recipe"):
        recipe.from_dict({name: value for name, value in kept.items() if name != "network"}, where="run.json")
    assert replace(recipes.load("simpsons_cnn"), seed=5).seed == 5
