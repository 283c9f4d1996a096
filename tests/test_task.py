"""task, results and metrics: losses, predictions, and figures against values worked out by hand."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facepack.errors import JobError, UsageError
from trainer import calls, evaluation, metrics, scores
from trainer.results.attributes import AttributeResults, AttributeRow
from trainer.results.classes import ClassResults, ClassRow
from trainer.results.numbers import DecadeRow, NumberResults
from trainer.results.protocol import SplitPredictions
from trainer.scores import Scores
from trainer.task import TASKS, Attributes, Classes, Number, Ordinal, Task, TwoClasses


def test_two_classes_have_the_probability_of_the_second() -> None:
    task, logits = TwoClasses(), torch.tensor([[2.0], [-1.0]])
    predictions = task.predictions(logits)
    assert predictions[:, 1].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))])
    assert task.scores(predictions, torch.tensor([1, 1])).tolist() == [1.0, 0.0]
    assert task.losses(logits, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(1 + math.exp(-2)), 0.31326167])
    with pytest.raises(UsageError, match="two classes, but there are 3"):
        task.num_outputs(("a", "b", "c"))


def test_losses_of_attributes() -> None:
    logits, targets = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    third = 1 / (1 + math.exp(-3))
    assert Attributes("bce").losses(logits, targets).item() == pytest.approx((math.log(2) - math.log(third)) / 2)
    assert Attributes("mse").losses(logits, targets).item() == pytest.approx((0.25 + (1 - third) ** 2) / 2)
    over = math.log(1 + math.exp(3))
    assert Attributes("softmax").losses(logits, targets).item() == pytest.approx(over + over - 3)
    assert Attributes().scores(torch.tensor([[0.6, 0.4]]), targets).item() == 0.5


def test_number_counts_from_its_middle() -> None:
    task = Number("age", loss="l1", middle=30.0, scale=10.0)
    logits = torch.tensor([[0.5]])
    assert task.predictions(logits).item() == 35.0
    assert task.losses(logits, torch.tensor([40])).item() == 5.0
    assert Number("age", loss="mse").losses(logits, torch.tensor([1.5])).item() == 1.0
    with pytest.raises(UsageError, match="not a number"):
        task.num_outputs(("young", "old"))


def test_ordinal_counts_the_thresholds_that_are_passed() -> None:
    task = Ordinal(low=5, high=8)
    assert task.num_outputs(()) == 3
    assert task.predictions(torch.tensor([[20.0, 20.0, -20.0]])).item() == pytest.approx(7.0)
    logits = torch.tensor([[1.0, -1.0, 2.0]])
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))
    assert task.losses(logits, torch.tensor([6])).item() == pytest.approx(expected)
    whole = [task.losses(logits, torch.tensor([age])).item() for age in (6, 7)]
    assert task.losses(logits, torch.tensor([6.5])).item() == pytest.approx(sum(whole) / 2), "half above 6"
    assert task.losses(logits, torch.tensor([3])).item() == task.losses(logits, torch.tensor([5])).item()


def test_ages_are_learnt_to_the_year() -> None:
    task = Ordinal(low=0, high=90)
    torch.manual_seed(0)
    ages = torch.tensor([3.0, 40.0, 41.0, 77.5])
    logits = torch.zeros(4, task.num_outputs(()), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        task.losses(logits, ages).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert task.scores(task.predictions(logits), ages).max() < 0.5


@pytest.mark.parametrize("text", ["Ordinal(low=5, high=5)", "Ordinal(high=0)"])
def test_ages_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected low < high"):
        calls.made(text, TASKS, what="task")


def split_of(predictions: list[list[float]], targets: Sequence[Any], names: str = "") -> SplitPredictions:
    """Predictions for a split, with losses of one."""
    values = np.array(predictions, np.float32)
    return SplitPredictions(tuple(names), values, np.array(targets), losses=np.ones(len(values)))


def test_figures_of_classes() -> None:
    predictions = [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7]]
    results = ClassResults.of(split_of(predictions, [0, 0, 1, 1], "abc"))
    assert results.confusion == ((1, 1, 0), (0, 1, 1), (0, 0, 0))
    assert (results.accuracy, results.majority, results.balanced_accuracy) == (0.5, 0.5, 0.5)
    assert (results.score, results.baseline) == (0.5, 0.5)
    interval = metrics.interval(np.array([1.0, 0.0]))
    assert interval == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert results.per_class[0] == ClassRow(
        "a", precision=1.0, recall=0.5, recall_interval=interval, f1=2 / 3, support=2
    )
    assert results.per_class[2].recall_interval is None
    assert results.per_class[2].support == 0
    assert results.macro_f1 == pytest.approx((2 / 3 + 0.5) / 2), "a class without samples does not count"
    assert results.summary_line() == (
        "loss 1.0000, accuracy 0.5000 (0.1500 to 0.8500; majority 0.5000), balanced accuracy 0.5000 "
        "(0.2133 to 0.7867), macro F1 0.5833 (majority 0.3333), 4 images"
    )


def test_nineteen_of_twenty_balanced_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    true = np.arange(120) < 30
    covered = [0, 0]
    for _ in range(400):
        is_right = rng.random(120) < np.where(true, 0.7, 0.9)
        low, high = metrics.balanced_interval(true, true == is_right)
        covered[0] += low <= 0.8 <= high
        both = np.stack([is_right, rng.random(120) < 0.8], axis=1)
        targets = np.stack([true, true[::-1]], axis=1).astype(float)
        probabilities = np.where(both, targets, 1 - targets).tolist()
        interval = AttributeResults.of(split_of(probabilities, targets.tolist(), "ab")).balanced_interval
        assert interval is not None
        covered[1] += interval[0] <= 0.8 <= interval[1]
    assert all(0.92 <= number / 400 <= 0.98 for number in covered), covered


def test_interval_of_sums_is_that_of_the_values() -> None:
    rng = np.random.default_rng(0)
    right, errors = (rng.random(3000) < 0.3).astype(float), rng.random(3000)
    for values in (right, errors):
        of_sums = metrics.interval_of_sums(float(values.sum()), float((values**2).sum()), num=3000)
        assert of_sums == pytest.approx(metrics.interval(values), rel=1e-4)


def test_calibration_error_is_zero_where_confidence_is_accuracy() -> None:
    is_right = np.array([True, True, True, False])
    assert metrics.calibration_error(np.full(4, 0.75), is_right) == pytest.approx(0.0)
    assert metrics.calibration_error(np.full(4, 1.0), is_right) == pytest.approx(0.25)


def test_figures_of_attributes_and_their_thresholds() -> None:
    predictions, targets = [[0.9, 0.2], [0.6, 0.3], [0.4, 0.1], [0.1, 0.1]], [[1, 1], [1, 1], [1, 0], [0, 0]]
    thresholds = AttributeResults.best_thresholds(np.array(predictions), np.array(targets))
    assert 0.1 < thresholds[0] < 0.4
    assert 0.1 < thresholds[1] < 0.2
    split = replace(split_of(predictions, targets, "ab"), predictions=np.array(predictions), thresholds=thresholds)
    results = AttributeResults.of(split)
    first, second = results.per_attribute
    assert (first.accuracy, first.majority, first.balanced_accuracy) == (0.75, 0.75, 1.0)
    assert (second.accuracy, second.majority, second.balanced_accuracy) == (0.5, 0.5, 1.0)
    assert first.average_precision == second.average_precision == 1.0
    assert (results.accuracy, results.score) == (0.625, 0.625)
    assert ClassResults.best_thresholds(np.array(predictions), np.array(targets)) is None


def test_thresholds_are_the_best_there_are() -> None:
    predictions = np.concatenate([np.linspace(0.9, 0.99, 20), np.linspace(0.01, 0.6, 200)])[:, None]
    targets = (np.arange(220) < 20)[:, None].astype(float)
    assert 0.6 < metrics.best_thresholds(predictions, targets)[0] < 0.9
    rng = np.random.default_rng(0)
    for _ in range(20):
        targets = (rng.random((80, 1)) < 0.2).astype(float)
        predictions = np.clip(0.3 * targets + rng.normal(0.4, 0.2, (80, 1)), 0.0, 1.0)
        true = targets[:, 0] == 1
        edges = (metrics.best_thresholds(predictions, targets)[0], *predictions[:, 0])
        balanced = [metrics.balanced_accuracy(true, predictions[:, 0] >= edge) for edge in edges]
        assert balanced[0] == pytest.approx(max(balanced))


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        (Classes(), [0, 0, 0, 1], -(3 * math.log(0.75) + math.log(0.25)) / 4),
        (TwoClasses(), [0, 0, 0, 1], -(3 * math.log(0.75) + math.log(0.25)) / 4),
        (Attributes(), [[1, 0], [1, 0], [1, 1], [0, 0]], -(3 * math.log(0.75) + math.log(0.25)) / 4),
        (Number(), [1.0, 2.0, 3.0, 4.0], None),
    ],
)
def test_loss_of_frequencies_alone_is_the_entropy_of_the_targets(
    task: Task, targets: list[Any], expected: float | None
) -> None:
    assert evaluation.prior_loss(task, np.array(targets), num_names=2) == (expected and pytest.approx(expected))


def test_loss_of_frequencies_alone_is_the_least_of_any_constant_prediction() -> None:
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], float)
    prior_loss = evaluation.prior_loss(Attributes(loss="softmax"), targets, num_names=2)
    constants = [np.log([share, 1 - share]) for share in np.linspace(0.01, 0.99, 99)]
    assert prior_loss == pytest.approx(min(-(targets @ logits).mean() for logits in constants), abs=1e-4)


def test_classes_of_a_number_are_refused() -> None:
    with pytest.raises(UsageError, match="target Male is a number, no classes: give bins"):
        Classes("Male").num_outputs(())


def test_attribute_that_nobody_has_counts_for_accuracy_alone() -> None:
    results = AttributeResults.of(split_of([[0.2], [0.6]], [[0.0], [0.0]], "a"))
    row = AttributeRow(
        "a",
        positives=0.0,
        accuracy=0.5,
        interval=metrics.interval(np.array([0.0, 1.0])),
        majority=1.0,
        balanced_accuracy=None,
        average_precision=None,
    )
    assert results.per_attribute == (row,)
    assert (results.balanced_accuracy, results.average_precision) == (None, None)
    assert results.summary_line() == "loss 1.0000, accuracy 0.5000 (0.0945 to 0.9055; majority 1.0000), 2 images"


def test_figures_of_ages() -> None:
    results = NumberResults.of(split_of([[20.0], [26.0], [40.0]], [25.0, 25.0, 31.0]))
    assert results.absolute_error == pytest.approx((5 + 1 + 9) / 3)
    assert results.cumulative_score == pytest.approx(2 / 3)
    assert results.median == pytest.approx(2.0)
    assert (results.score, results.baseline) == (results.absolute_error, results.median)
    assert [row.decade for row in results.per_decade] == [20, 30]
    assert results.per_decade[1] == DecadeRow(decade=30, num=1, error=9.0, bias=9.0)


@pytest.mark.parametrize("task", [Classes(), Attributes(), Number()], ids=lambda task: type(task).__name__)
def test_scores_are_read_back_as_they_were_written(task: Task, tmp_path: Path) -> None:
    predictions = [[0.9, 0.1], [0.4, 0.6]] if task.results.are_probabilities else [[1.0], [2.0]]
    targets: list[Any] = [[0, 1], [1, 1]] if isinstance(task, Attributes) else [0, 1]
    results = task.results.of(split_of(predictions, targets, "ab" if task.results.are_probabilities else ""))
    written = Scores(task.score, epoch=3, temperature=1.5, splits={"valid": results})
    written.write(tmp_path)
    assert scores.read(tmp_path, results=task.results) == written
    assert written.split == "valid"


def test_scores_of_another_version_are_refused_in_one_line(tmp_path: Path) -> None:
    assert scores.read(tmp_path, results=ClassResults) is None
    results = NumberResults.of(split_of([[1.0], [2.0]], [1.0, 2.5]))
    Scores("absolute_error", 0, 1.0, {"test": results}).write(tmp_path)
    path = tmp_path / "scores.json"
    path.write_text(path.read_text().replace('"median"', '"median_baseline"'))
    again = rf"facepack evaluate {re.escape(str(tmp_path))} writes it again"
    with pytest.raises(JobError, match=rf"scores\.json: .*\(field splits\.test\.median: .*\); {again}") as caught:
        scores.read(tmp_path, results=NumberResults)
    assert "\n" not in str(caught.value)
