"""losses, class_weights and sampling: values worked out by hand, and what cannot be refused."""

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know
from conftest import make, tiny, train
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from facepack.errors import UsageError
from facepack.manifest import read_table
from facepack.storage import Store
from trainer import checkpoint, class_weights, devices, runs, sampling
from trainer.loading.columns import ManifestColumns
from trainer.loading.loader import Batch
from trainer.loading.targets import Target
from trainer.task import Attributes, Classes, TwoClasses
from trainer.watching import Watcher

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -3.0]])


class CtrlC(Watcher):
    """Presses Ctrl-C before the last of some steps."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def before_step(self, step: int, batch: Batch) -> None:  # noqa: ARG002
        """Press it once all steps but one are done."""
        if step + 1 == self._num_steps:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of drawn faces."""
    out = tmp_path_factory.mktemp("losses") / "build"
    make(celeba, out, split="60/20/20")
    return out


def test_focal_loss_counts_less_what_is_right_already() -> None:
    targets = torch.tensor([0, 2])
    true = LOGITS.softmax(dim=1)[torch.arange(2), targets]
    expected = -((1 - true) ** 2) * true.log()
    assert torch.allclose(Classes(loss="focal").losses(LOGITS, targets), expected)
    plain = Classes(loss="focal", focal_gamma=0.0).losses(LOGITS, targets)
    assert torch.allclose(plain, F.cross_entropy(LOGITS, targets, reduction="none"))
    weighted = Classes(loss="focal", class_weights=(3.0, 1.0, 0.5)).losses(LOGITS, targets)
    assert torch.allclose(weighted, expected * torch.tensor([3.0, 0.5]))
    assert Classes(loss="focal", label_smoothing=0.1, class_weights=(1.0,)).scored == Classes()


def test_asymmetric_loss_forgives_what_is_surely_not_there() -> None:
    task = Attributes("asymmetric", gamma_pos=1.0, gamma_neg=2.0, margin=0.2, pos_weight=(1.0, 5.0, 1.0))
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    p = LOGITS.double().sigmoid()
    shifted = (p - 0.2).clamp(min=0)
    present, absent = -(1 - p) * p.log() * torch.tensor([1.0, 5.0, 1.0]), -(shifted**2) * (1 - shifted).log()
    expected = torch.where(targets == 1, present, absent).mean(dim=1).float()
    assert torch.allclose(task.losses(LOGITS, targets), expected)
    assert task.losses(torch.tensor([[-9.0, -9.0, -9.0]]), targets[1:]).item() == 0.0
    focal = Attributes("focal", focal_gamma=0.0).losses(LOGITS, targets)
    assert torch.allclose(focal, Attributes().losses(LOGITS, targets))
    one = TwoClasses(loss="focal", class_weights=(1.0, 2.0)).losses(torch.tensor([[0.0]]), torch.tensor([1]))
    assert one.item() == pytest.approx(2 * 0.25 * math.log(2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_for_the_surest_logits(gamma: float) -> None:
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    classes = Classes(loss="focal", focal_gamma=gamma).losses(logits, torch.tensor([0, 0]))
    task = Attributes("asymmetric", gamma_pos=gamma, gamma_neg=gamma, margin=0.05)
    attributes = task.losses(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    (classes.sum() + attributes.sum()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_weights_are_numbers_out_of_the_training_counts() -> None:
    train_classes = Target(np.array([0] * 6 + [1] * 2), ("a", "b", "none"))
    task = class_weights.resolved(Classes(class_weights="balanced"), train_classes)
    assert task == Classes(class_weights=(0.666667, 2.0, 1.0))
    named = class_weights.resolved(Classes(class_weights="b=3"), train_classes)
    assert named == Classes(class_weights=(1.0, 3.0, 1.0))
    first = class_weights.effective(np.array([6, 2]), 0.0)
    assert first.tolist() == [1.0, 1.0], "every class has one sample's worth"
    values = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.float32)
    attributes = class_weights.resolved(Attributes(pos_weight="balanced"), Target(values, ("a", "b")))
    assert attributes == Attributes(pos_weight=(3.0, 1.0)), "of what is never there nothing is weighted"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("balance", "did you mean balanced"),
        ("1,2", "2 numbers; expected 3"),
        ("c=2", "class_weights c: not among what is learnt"),
        ("a=x", "expected balanced, effective or numbers"),
        ("-1,1,1", "at least 0"),
        ("effective(2)", "expected 0 <= beta < 1"),
    ],
)
def test_weights_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        class_weights.resolved(Classes(class_weights=text), Target(np.array([0, 1]), ("a", "b", "d")))


def weights_of(build: Path, **choices: Any) -> tuple[Any, Any]:
    """The weights that a recipe gives the training rows of a build, and the rows."""
    table = read_table(Store(str(build)), "manifest.parquet")
    rows = np.flatnonzero((table["split"].to_numpy() == "train") & (table["status"].to_numpy() == "packed"))
    columns = ManifestColumns(Store(str(build)))
    weights = sampling.row_weights(tiny(**choices), columns, rows=rows, class_names=("Bald",))
    assert weights is not None
    return weights[rows], rows


def test_both_values_of_an_attribute_come_equally_often(build: Path) -> None:
    male = ManifestColumns(Store(str(build))).read("Male").to_numpy()
    weights, rows = weights_of(build, balanced_by="Male", balanced=False)
    assert weights[male[rows] == 1].sum() == pytest.approx(1.0)
    assert weights[male[rows] == 0].sum() == pytest.approx(1.0)
    both, _ = weights_of(build, balanced_by="Male+Young", balanced=False)
    assert both.sum() == pytest.approx(4.0), "one for each combination"


def test_own_weights_come_from_a_table(build: Path, tmp_path: Path) -> None:
    keys = ManifestColumns(Store(str(build))).read("key").to_pylist()
    file = tmp_path / "weights.csv"
    file.write_text("key,weight\n" + "".join(f"{key},{number % 3}\n" for number, key in enumerate(keys)))
    weights, rows = weights_of(build, drawn_by=str(file), balanced=False)
    assert weights.tolist() == (rows % 3).tolist()
    file.write_text(f"key,weight\n{keys[0]},1\n")
    with pytest.raises(UsageError, match=r"\d+ of \d+ images have no weight"):
        weights_of(build, drawn_by=str(file), balanced=False)
    with pytest.raises(UsageError, match="balanced_by and drawn_by: images are drawn in one way"):
        tiny(balanced=False, balanced_by="Male", drawn_by="x.csv")


def test_batch_in_parts_gives_the_step_of_the_whole_batch(build: Path, tmp_path: Path) -> None:
    still: dict[str, Any] = {
        "network": "simpsons_cnn(dropout=0.0)",
        "mixup": 0.0,
        "epochs": 1,
        "average": 0.0,
        "lr": 0.0001,
    }
    recipe = tiny(**still, augment=tiny().eval_augment, class_weights="balanced")
    train(build, tmp_path / "whole", recipe)
    train(build, tmp_path / "parts", recipe.changed(["accumulate=4"]))
    losses = [(tmp_path / name / runs.METRICS_FILE).read_text().splitlines()[1] for name in ("whole", "parts")]
    whole, parts = (list(map(float, line.split(","))) for line in losses)
    assert parts == pytest.approx(whole, rel=1e-3)
    task = runs.read(tmp_path / "whole").recipe.task
    assert isinstance(task, Classes)
    assert len(task.class_weights) == 4


def test_float16_is_refused_on_a_cpu(build: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision=16-mixed: float16 needs a GPU"):
        train(build, tmp_path / "run", tiny(precision="16-mixed"))


def test_compiling_without_a_compiler_is_refused(build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"compile=true: torch.compile needs the compiler no-such-compiler"):
        train(build, tmp_path / "run", tiny(compile=True))


@pytest.mark.parametrize("is_float16", [False, True])
def test_stopped_run_in_parts_goes_on_as_if_never_stopped(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_float16: bool
) -> None:
    if is_float16:  # its scaled loss on a CPU, which the command refuses for being slow

        def launched(*_: object) -> Fabric:
            return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu"))

        monkeypatch.setattr(devices, "launched", launched)
    recipe = tiny(balanced=False, balanced_by="Male", accumulate=3, epochs=1, clip_norm=1.0)
    train(build, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(build, tmp_path / "run", recipe, watchers=[CtrlC(3)])
    train(build, tmp_path / "run", recipe)
    whole, again = (checkpoint.load(tmp_path / name / runs.LAST_FILE) for name in ("whole", "run"))
    assert again["scaler"] == whole["scaler"]
    assert bool(whole["scaler"]) == is_float16
    assert all(torch.equal(value, again["network"][name]) for name, value in whole["network"].items())
