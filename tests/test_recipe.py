"""recipe, recipes and networks: all are found, complete, written down and read back; sizes are as published."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from facepack.errors import UsageError
from trainer import calls, layers, models, recipe, recipes
from trainer.loading.augment import Normalize, RandomCrop
from trainer.optim import SGD, Adagrad, Adam, AdamW, Drop, InverseTime, OneCycle
from trainer.recipe import Negatives, Start
from trainer.results.attributes import AttributeResults
from trainer.results.classes import ClassResults
from trainer.results.numbers import NumberResults
from trainer.stopping import LossAboveMean, Patience, ToTheEnd
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
        found[made.network, repr(made.task)] = (150, 150) if made.network == "face_descriptor()" else size
    return found


@pytest.mark.parametrize(("network", "task"), learnt())
def test_every_network_learns_from_a_batch(network: str, task: str) -> None:
    learnt_task, size_hw = calls.made(task, TASKS, what="task"), learnt()[network, task]
    is_number = not learnt_task.results.are_probabilities
    names = () if is_number else tuple("ab" if isinstance(learnt_task, TwoClasses) else "abcd")
    made = models.network(network, num_outputs=learnt_task.num_outputs(names), size_hw=size_hw)
    images = torch.rand(4, 3, *size_hw)
    given = {
        ClassResults: [0, 1, 1, 0],
        AttributeResults: [[1.0, 0.0, 1.0, 1.0]] * 4,
        NumberResults: [20.0, 30.0, 40.0, 5.0],
    }
    targets = torch.tensor(given[learnt_task.results])
    if isinstance(made, models.FitAtOnce):
        made.fit(made.features(images), targets.numpy(), seed=0)
    outputs = made(images)
    assert outputs.shape == (4, learnt_task.num_outputs(names))
    losses = learnt_task.losses(outputs, targets)
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()
    if not isinstance(made, models.FitAtOnce):
        losses.sum().backward()
        assert all(one.grad is not None and torch.isfinite(one.grad).all() for one in made.parameters())


def test_published_age_groups_are_seven_experiments_that_change_one_field_each_and_two_rivals() -> None:
    first, second = recipes.load("age_groups"), recipes.load("age_groups_batch_8")
    assert (first.batch_size, second.batch_size) == (32, 8)
    assert set(first.differences(second)) == {"batch_size"}
    changed = {
        "plain": {"augment"},
        "unfrozen": {"start.freeze"},
        "fast": {"optimizer.lr"},
        "sgd_slow": {"optimizer"},
        "sgd": {"optimizer"},
    }
    for name, fields in changed.items():
        assert set(second.differences(recipes.load(f"age_groups_{name}"))) == fields
    assert (first.stopping, first.epochs) == (LossAboveMean(rounds=10), 400)
    assert first.start == Start("vggface2", freeze="from:block8")
    assert recipes.load("age_groups_sgd").optimizer == SGD(lr=1e-4)
    for name in ("hog_svm", "lbp_mlp"):
        assert recipes.load(f"age_groups_{name}").network == f"{name}()"


def test_ages_are_as_published() -> None:
    appa, afad, cacd = (recipes.load(f"{name}_age") for name in ("appa_real", "afad", "cacd"))
    assert (appa.start.freeze, appa.optimizer, appa.epochs, appa.copies) == ("last_block", Adam(lr=1e-4), 20, 3)
    assert (afad.start.freeze, afad.batch_size, afad.network) == ("head", 128, "resnet34(dropout=0.5)")
    assert (cacd.start.freeze, cacd.optimizer, cacd.schedule) == ("none", Adam(lr=5e-4), Drop(0.1, after_epochs=8))
    assert {made.start.weights for made in (appa, afad, cacd)} == {"IMAGENET1K_V1"}
    assert all(isinstance(made.task, Number) and made.task.loss == "l1" for made in (appa, afad, cacd))


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


def test_published_transfer_learns_4353_weights() -> None:
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


def test_four_class_network_is_as_published() -> None:
    made = recipes.load("celeba_rarest4")
    assert (made.optimizer, made.schedule) == (Adagrad(lr=1e-3), InverseTime(decay=1e-5))
    assert (made.batch_size, made.epochs, made.task) == (64, 250, Classes())
    assert made.augment == made.eval_augment == (Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),)
    assert "--split 64/16/20 --seed 13" in made.build


def test_settings_change_fields_of_every_kind() -> None:
    settings = ["epochs=3", "lr=1e-2", "balanced=true", "optimizer=SGD", "augment=[RandomCrop(24), Normalize()]"]
    changed = recipes.load("celeba_rarest4", [*settings, "task=Classes(label_smoothing=0.1)"])
    assert (changed.epochs, changed.balanced, changed.optimizer) == (3, True, SGD(lr=0.01))
    assert changed.augment == (RandomCrop(24), Normalize())
    assert changed.task == Classes(label_smoothing=0.1)
    assert set(changed.differences(recipes.load("celeba_rarest4"))) == {
        *("epochs", "balanced", "optimizer", "augment", "task.label_smoothing")
    }


def test_settings_of_parts_are_changed_by_their_full_and_their_bare_names() -> None:
    changed = recipes.load("celeba_rarest4_modern", ["schedule.warmup=0.3", "optimizer.lr=0.02", "start.freeze=head"])
    assert (changed.schedule, changed.optimizer) == (OneCycle(warmup=0.3), AdamW(lr=0.02, weight_decay=0.05))
    assert changed.start == Start(freeze="head")
    bare = ["warmup=0.3", "lr=0.02", "freeze=head"]
    assert recipes.load("celeba_rarest4_modern", bare) == changed
    assert recipes.load("celeba_rarest4_modern", bare[::-1]) == changed
    for name in ("label_smoothing", "task.label_smoothing"):
        assert recipes.load("celeba_rarest4_modern", [f"{name}=0.1"]).task == Classes(label_smoothing=0.1)


def test_settings_without_a_default_that_a_call_leaves_out_stay_as_they_are() -> None:
    for text in ("optimizer=SGD", "optimizer=SGD()", "optimizer=SGD(momentum=0.0)"):
        assert recipes.load("simpsons_modern", [text]).optimizer == SGD(lr=0.01)
    both = recipes.load("simpsons_modern", ["optimizer=SGD(momentum=0.9)", "lr=0.5", "weight_decay=0.1"])
    assert both.optimizer == SGD(lr=0.5, momentum=0.9, weight_decay=0.1)
    dropping = recipes.load("simpsons_modern", ["after_epochs=3", "schedule=Drop", "factor=0.5"])
    assert dropping.schedule == Drop(factor=0.5, after_epochs=3)


def test_patience_negatives_and_weights_are_given_by_one_word() -> None:
    patient = recipes.load("simpsons_modern", ["patience=5"])
    assert patient.stopping == Patience(epochs=5, monitor="score")
    assert recipes.load("simpsons_modern", ["stopping=Patience(5)"]).stopping == Patience(epochs=5)
    assert recipes.load("age_groups", ["stopping=ToTheEnd"]).stopping == ToTheEnd()
    own = recipes.load("own_face_modern", ["negatives=s3://bucket/build", "weights=runs/mine"])
    assert own.negatives == Negatives("s3://bucket/build", times=100)
    assert own.start == Start("runs/mine")
    assert recipes.load("own_face_modern", ["negatives="]).negatives is None
    assert recipes.load("own_face_modern", ["negatives=Negatives('b')", "times=2"]).negatives == Negatives("b", times=2)
    assert recipes.load("afad_age", ["weights="]).start == Start(freeze="head")
    assert recipes.load("afad_age", ["start=Start(freeze='last_block')"]).start == Start(freeze="last_block")


def test_settings_of_a_recipe_are_those_that_differ_from_their_defaults() -> None:
    made = recipes.load("celeba_rarest4").settings()
    assert set(made) == {"build", "network", "augment", "eval_augment", "optimizer", "schedule", "epochs"}
    assert (made["optimizer"], made["schedule"]) == ("Adagrad(lr=0.001)", "InverseTime(decay=1e-05)")
    assert recipes.load("simpsons_modern").settings()["stopping"] == "ToTheEnd(monitor='score')"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("epoch=3", "no field 'epoch'; did you mean epochs"),
        ("epochs", "expected field=value"),
        ("epochs=many", "epochs=many: input should be a valid integer"),
        ("epochs=0", "epochs 0: expected more than 0"),
        ("lr=-1", "lr -1.0: expected more than 0"),
        ("lr=nan", "lr nan: expected a number"),
        ("optimizer=adamm", "optimizer 'adamm' is not known; did you mean Adam"),
        ("optimizer=sgd(lr=0.1)", "optimizer 'sgd' is not known; did you mean SGD"),
        (
            "optimizer=SGD(lr=0.1, momentun=0.9)",
            "optimizer SGD: got an unexpected keyword argument 'momentun'; it is SGD",
        ),
        ("optimizer=SGD(1, 2, 3, 4)", r"optimizer SGD: too many positional arguments; it is SGD\(lr: float"),
        ("optimizer.lr=fast", "lr=fast: input should be a valid number"),
        ("optimizer.lrr=0.1", "optimizer is Adagrad, which has no 'lrr'; did you mean optimizer.lr"),
        ("schedul.warmup=0.1", "no field 'schedul.warmup'; did you mean schedule.warmup"),
        ("warmup=0.1", r"schedule is InverseTime, which has no 'warmup'; OneCycle has it: --set 'schedule=OneCycle\("),
        ("schedule=OneCycle(warmup=1)", "warmup 1.0: expected 0 <= warmup < 1"),
        ("stopping.monitor=speed", "monitor=speed: input should be 'loss' or 'score'"),
        ("patience=0", "patience 0: expected more than 0; stopping=ToTheEnd"),
        ("times=3", "negatives Negatives: missing a required argument: 'build'"),
        ("start.backbone_lr=-1", "backbone_lr -1.0: expected at least 0"),
        ("average=1", "expected 0 <= average < 1"),
        ("task=Clases()", "did you mean Classes"),
        (
            "task=Attributes(loss='hinge')",
            "loss=hinge: input should be 'bce', 'mse', 'softmax', 'focal' or 'asymmetric'",
        ),
        ("augment=[Normalize(), RandomCrop(5)]", "Normalize must come last"),
        ("augment=[RandomCrop(5)]", "must end with Normalize"),
        ("schedule=Drop", "schedule Drop: missing a required argument: 'factor'; it is Drop"),
        ("schedule=drop", "did you mean Drop"),
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


def test_record_of_an_earlier_version_is_refused_in_one_line() -> None:
    old = {"build": "facepack build celeba", "network": "simpsons_cnn()", "optimizer": "adam", "lr": 0.001}
    reason = r"run\.json: of another version of facepack, whose recipes have 'lr'"
    with pytest.raises(UsageError, match=reason) as refused:
        recipe.from_dict(old, where="run.json")
    assert "\n" not in str(refused.value)


def test_damaged_record_of_a_recipe_is_refused() -> None:
    kept: dict[str, Any] = recipes.load("simpsons_cnn").to_dict()
    with pytest.raises(UsageError, match="not a recipe"):
        recipe.from_dict({name: value for name, value in kept.items() if name != "network"}, where="run.json")
    assert replace(recipes.load("simpsons_cnn"), seed=5).seed == 5
