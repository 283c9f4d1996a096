"""Confident learning: the counts of the paper's own example, and the same labels as the library of its authors."""

import numpy as np
import pytest

from trainer.doubts import confident

Example = tuple[confident.Codes, confident.Floats]


def example(num_classes: int, *, seed: int, num: int = 2000) -> Example:
    """Labels of which nearly a tenth are wrong, and probabilities of a network that is mostly right."""
    random = np.random.default_rng(seed)
    true = random.integers(num_classes, size=num)
    is_wrong = random.random(num) < 0.1
    labels = np.where(is_wrong, random.integers(num_classes, size=num), true)
    probabilities = random.dirichlet(np.full(num_classes, 0.5), size=num)
    probabilities[np.arange(num), true] += 3 * random.random(num)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def sure(joint: list[list[int]]) -> Example:
    """Labels and certain predictions with these counts by label and prediction."""
    pairs = [(i, j) for i, row in enumerate(joint) for j, number in enumerate(row) for _ in range(number)]
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    return labels, np.eye(len(joint))[predicted]


def test_counts_are_those_of_the_example_of_the_paper() -> None:
    """Check figure 1: dogs, foxes and cows, 400 images."""
    counts = [[100, 40, 20], [56, 60, 0], [32, 12, 80]]
    labels, probabilities = sure(counts)
    assert confident.confident_joint(labels, probabilities).tolist() == counts
    shares = confident.estimated_joint(labels, probabilities) / 400
    assert np.round(shares, 2).tolist() == [[0.25, 0.1, 0.05], [0.14, 0.15, 0.0], [0.08, 0.03, 0.2]]
    wrong = confident.are_wrong(labels, probabilities)
    assert wrong.sum() == 40 + 20 + 56 + 32 + 12
    assert (wrong == (labels != probabilities.argmax(axis=1))).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("num_classes", "seed"), [(2, 0), (3, 1), (4, 2), (10, 3)])
def test_labels_are_those_of_cleanlab(num_classes: int, seed: int) -> None:
    count, pruning = pytest.importorskip("cleanlab.count"), pytest.importorskip("cleanlab.filter")
    labels, probabilities = example(num_classes, seed=seed)
    np.testing.assert_allclose(
        confident.thresholds(labels, probabilities), count.get_confident_thresholds(labels, probabilities), rtol=1e-12
    )
    joint = count.compute_confident_joint(labels, probabilities, calibrate=False)
    assert confident.confident_joint(labels, probabilities).tolist() == joint.tolist()
    for name, ours in (
        ("prune_by_noise_rate", confident.wrong_by_noise_rate),
        ("prune_by_class", confident.wrong_by_class),
        ("both", confident.are_wrong),
    ):
        theirs = pruning.find_label_issues(labels, probabilities, filter_by=name, n_jobs=1)
        # It rounds the joint so that rows keep their sums: up to a label more or less in a row.
        assert (ours(labels, probabilities) != theirs).sum() <= num_classes, name
        assert theirs.sum() > 150


def test_labels_of_a_network_that_is_sure_and_right_are_not_doubted() -> None:
    labels, probabilities = sure([[5, 0, 0], [0, 7, 0], [0, 0, 0]])
    assert not confident.are_wrong(labels, probabilities).any()
    assert confident.estimated_joint(labels, probabilities).tolist() == [[5, 0, 0], [0, 7, 0], [0, 0, 0]]
    assert (confident.doubts(labels, probabilities) <= 0).all()


def test_one_class_no_label_and_a_single_label_are_no_trouble() -> None:
    one = np.zeros(3, np.int64), np.full((3, 1), 1.0, np.float32)
    assert not confident.are_wrong(*one).any()
    none = np.zeros(0, np.int64), np.zeros((0, 2))
    assert confident.are_wrong(*none).shape == confident.doubts(*none).shape == (0,)
    single = np.array([1]), np.array([[0.9, 0.1]])
    assert not confident.are_wrong(*single).any()


def test_class_that_the_network_is_seldom_sure_of_is_not_doubted_for_that() -> None:
    """Check that the margin is measured above the thresholds: a rare class never gets high probabilities."""
    labels = np.array([0] * 8 + [1] * 2)
    probabilities = np.array([[0.9, 0.1]] * 7 + [[0.6, 0.4]] + [[0.55, 0.45]] * 2)
    assert confident.doubts(labels, probabilities).argmax() == 7
