"""task and metrics: losses, what outputs say, and figures against values worked out by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from facepack.errors import UsageError
from trainer import calls, metrics
from trainer.task import TASKS, Attributes, Classes, Distribution, Number, Ordinal, Task, TwoClasses


def test_two_classes_speak_for_the_second() -> None:
    task, outputs = TwoClasses(), torch.tensor([[2.0], [-1.0]])
    said = task.predictions(outputs)
    assert said[:, 1].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))])
    assert task.scores(said, torch.tensor([1, 1])).tolist() == [1.0, 0.0]
    assert task.losses(outputs, torch.tensor([1, 0])).tolist() == pytest.approx(
        [math.log(1 + math.exp(-2)), 0.31326167]
    )
    with pytest.raises(UsageError, match="two classes, but there are 3"):
        task.num_outputs(("a", "b", "c"))


def test_losses_of_attributes() -> None:
    outputs, targets = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    third = 1 / (1 + math.exp(-3))
    assert Attributes("bce").losses(outputs, targets).item() == pytest.approx((math.log(2) - math.log(third)) / 2)
    assert Attributes("mse").losses(outputs, targets).item() == pytest.approx((0.25 + (1 - third) ** 2) / 2)
    over = math.log(1 + math.exp(3))
    assert Attributes("softmax").losses(outputs, targets).item() == pytest.approx(over + over - 3)
    assert Attributes().scores(torch.tensor([[0.6, 0.4]]), targets).item() == 0.5


def test_number_counts_from_its_middle() -> None:
    task = Number("age", loss="l1", middle=30.0, scale=10.0)
    outputs = torch.tensor([[0.5]])
    assert task.predictions(outputs).item() == 35.0
    assert task.losses(outputs, torch.tensor([40])).item() == 5.0
    assert Number("age", loss="mse").losses(outputs, torch.tensor([1.5])).item() == 1.0
    with pytest.raises(UsageError, match="not a number"):
        task.num_outputs(("young", "old"))


def test_distribution_says_its_mean_and_learns_a_bell_curve() -> None:
    task = Distribution(low=10, high=14, deviation=1.0, l1=2.0)
    assert task.num_outputs(()) == 5
    shares = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])
    assert task.predictions(shares.log()).tolist() == [[pytest.approx(12.0)]]
    bell = np.exp(-0.5 * (np.arange(10, 15) - 11.5) ** 2)
    bell /= bell.sum()
    expected = -(bell * np.log(shares[0].numpy())).sum() + 2 * 0.5
    assert task.losses(shares.log(), torch.tensor([11.5])).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UsageError, match="not a number"):
        task.num_outputs(("young", "old"))


def test_distribution_without_deviation_is_classification_with_an_expected_value() -> None:
    task, outputs = Distribution(low=0, high=3, deviation=0.0, l1=0.0), torch.tensor([[0.5, 1.0, -1.0, 0.0]])
    classes = torch.nn.functional.cross_entropy(outputs, torch.tensor([2]))
    assert task.losses(outputs, torch.tensor([2])).item() == pytest.approx(classes.item())
    far = torch.nn.functional.cross_entropy(outputs, torch.tensor([3]))
    assert task.losses(outputs, torch.tensor([90])).item() == pytest.approx(far.item()), "outside is the nearest"
    between = task.losses(outputs, torch.tensor([2.25])).item()
    assert between == pytest.approx(0.75 * classes.item() + 0.25 * far.item())


def test_ordinal_counts_the_thresholds_that_are_passed() -> None:
    task = Ordinal(low=5, high=8)
    assert task.num_outputs(()) == 3
    assert task.predictions(torch.tensor([[20.0, 20.0, -20.0]])).item() == pytest.approx(7.0)
    outputs = torch.tensor([[1.0, -1.0, 2.0]])
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))
    assert task.losses(outputs, torch.tensor([6])).item() == pytest.approx(expected)
    whole = [task.losses(outputs, torch.tensor([age])).item() for age in (6, 7)]
    assert task.losses(outputs, torch.tensor([6.5])).item() == pytest.approx(sum(whole) / 2), "half above 6"
    assert task.losses(outputs, torch.tensor([3])).item() == task.losses(outputs, torch.tensor([5])).item()


@pytest.mark.parametrize("task", [Distribution(low=0, high=90), Ordinal(low=0, high=90)])
def test_ages_are_learnt_to_the_year(task: Task) -> None:
    torch.manual_seed(0)
    ages = torch.tensor([3.0, 40.0, 41.0, 77.5])
    outputs = torch.zeros(4, task.num_outputs(()), requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        task.losses(outputs, ages).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert task.scores(task.predictions(outputs), ages).max() < 0.5


@pytest.mark.parametrize("text", ["Distribution(low=5, high=5)", "Distribution(deviation=-1.0)", "Ordinal(high=0)"])
def test_ages_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected low < high"):
        calls.made(text, TASKS, what="task")


def scored(task: Task, said: list[list[float]], targets: Sequence[Any], names: str = "") -> dict[str, Any]:
    given = np.array(said, np.float32)
    return metrics.scores(task, given, np.array(targets), losses=np.ones(len(said)), names=tuple(names))


def test_figures_of_classes() -> None:
    said = [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7]]
    figures = scored(Classes(), said, [0, 0, 1, 1], "abc")
    assert figures["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert (figures["accuracy"], figures["majority"], figures["balanced_accuracy"]) == (0.5, 0.5, 0.5)
    rows = {row["name"]: row for row in figures["per_class"]}
    assert rows["a"] == {"name": "a", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert rows["c"]["support"] == 0
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 0.5) / 2), "a class without samples does not count"


def test_calibration_error_is_zero_where_sureness_is_accuracy() -> None:
    is_right = np.array([True, True, True, False])
    assert metrics.calibration_error(np.full(4, 0.75), is_right) == pytest.approx(0.0)
    assert metrics.calibration_error(np.full(4, 1.0), is_right) == pytest.approx(0.25)


def test_figures_of_attributes_and_their_thresholds() -> None:
    said, targets = [[0.9, 0.2], [0.6, 0.3], [0.4, 0.1], [0.1, 0.1]], [[1, 1], [1, 1], [1, 0], [0, 0]]
    thresholds = metrics.best_thresholds(np.array(said), np.array(targets))
    assert 0.1 < thresholds[0] < 0.4
    assert 0.1 < thresholds[1] < 0.2
    figures = metrics.scores(
        Attributes(), np.array(said), np.array(targets), losses=np.ones(4), names=("a", "b"), thresholds=thresholds
    )
    first, second = figures["per_attribute"]
    assert (first["accuracy"], first["majority"], first["balanced_accuracy"]) == (0.75, 0.75, 1.0)
    assert (second["accuracy"], second["majority"], second["balanced_accuracy"]) == (0.5, 0.5, 1.0)
    assert first["average_precision"] == second["average_precision"] == 1.0
    assert figures["accuracy"] == 0.625


def test_thresholds_are_the_best_there_are() -> None:
    said = np.concatenate([np.linspace(0.9, 0.99, 20), np.linspace(0.01, 0.6, 200)])[:, None]
    targets = (np.arange(220) < 20)[:, None].astype(float)
    assert 0.6 < metrics.best_thresholds(said, targets)[0] < 0.9
    rng = np.random.default_rng(0)
    for _ in range(20):
        targets = (rng.random((80, 1)) < 0.2).astype(float)
        said = np.clip(0.3 * targets + rng.normal(0.4, 0.2, (80, 1)), 0.0, 1.0)
        true = targets[:, 0] == 1
        balanced = [
            ((said[true, 0] >= edge).mean() + (said[~true, 0] < edge).mean()) / 2
            for edge in (metrics.best_thresholds(said, targets)[0], *said[:, 0])
        ]
        assert balanced[0] == pytest.approx(max(balanced))


def test_loss_of_frequencies_alone_is_the_least_of_any_constant_answer() -> None:
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], float)
    softmax = scored(Attributes(loss="softmax"), [[0.5, 0.5]] * 4, targets.tolist(), "ab")
    constants = [np.log([share, 1 - share]) for share in np.linspace(0.01, 0.99, 99)]
    assert softmax["prior_loss"] == pytest.approx(min(-(targets @ one).mean() for one in constants), abs=1e-4)


def test_classes_of_a_number_are_refused() -> None:
    with pytest.raises(UsageError, match="target Male is a number, no classes: give bins"):
        Classes("Male").num_outputs(())


def test_attribute_that_nobody_has_counts_for_accuracy_alone() -> None:
    figures = scored(Attributes(), [[0.2], [0.6]], [[0.0], [0.0]], "a")
    assert figures["per_attribute"] == [{"name": "a", "positives": 0.0, "accuracy": 0.5, "majority": 1.0}]


def test_figures_of_ages() -> None:
    figures = scored(Number(), [[20.0], [26.0], [40.0]], [25.0, 25.0, 31.0])
    assert figures["absolute_error"] == pytest.approx((5 + 1 + 9) / 3)
    assert figures["cumulative_score"] == pytest.approx(2 / 3)
    assert figures["median_baseline"] == pytest.approx(2.0)
    assert [row["decade"] for row in figures["per_decade"]] == [20, 30]
    assert figures["per_decade"][1] == {"decade": 30, "num": 1, "error": 9.0, "bias": 9.0}
