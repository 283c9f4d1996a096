"""Confident learning: which labels are wrong, out of probabilities that networks without these photos gave.

Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial
Intelligence Research 70 (arXiv 1911.00068); numbers of equations and the names of methods are those of the paper.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[Any]


def thresholds(labels: Codes, probabilities: Floats) -> npt.NDArray[np.float64]:
    """Per class, (num_classes,), the mean probability of it among the photos labelled so (equation 2).

    `labels` are (num,), `probabilities` (num, num_classes). Of a class without labels it is above 1: nothing is likely
    to be of it.
    """
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    sums = np.bincount(labels, weights=own, minlength=num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 2.0)


def confident_joint(labels: Codes, probabilities: Floats) -> npt.NDArray[np.int64]:
    """Photos by label (rows) and by the class that they confidently are (columns), int64 (num_classes, num_classes).

    That is the likeliest of the classes whose probability reaches their threshold (equation 1); photos without one are
    not counted.
    """
    num_classes = probabilities.shape[1]
    reaches = probabilities >= thresholds(labels, probabilities) - 1e-6  # as of one class, whose mean is rounded
    likeliest = np.where(reaches, probabilities, -1.0).argmax(axis=1)
    is_counted = reaches.any(axis=1)
    pairs = labels[is_counted] * num_classes + likeliest[is_counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def estimated_joint(labels: Codes, probabilities: Floats) -> npt.NDArray[np.float64]:
    """Photos by label (rows) and true class (columns) as estimated for all, float64 (num_classes, num_classes).

    The confident joint, each row made to add up to the photos of its label (equation 3, times their number).
    """
    counted = confident_joint(labels, probabilities).astype(np.float64)
    counts = np.bincount(labels, minlength=len(counted)).astype(np.float64)
    rows = counted.sum(axis=1)
    counted[rows == 0] = np.diag(counts)[rows == 0]  # nothing is known against a label that nothing is confident of
    shares: npt.NDArray[np.float64] = counts / np.maximum(counted.sum(axis=1), 1e-12)
    return counted * shares[:, None]


def wrong_by_noise_rate(labels: Codes, probabilities: Floats) -> npt.NDArray[np.bool_]:
    """True for each label, (num,), that is likely wrong: the paper's "prune by noise rate".

    Of the photos labelled i, those with the largest margin p_j - p_i, as many as the estimated joint has at i, j.
    """
    joint = np.rint(estimated_joint(labels, probabilities)).astype(int)
    is_wrong = np.zeros(len(labels), bool)
    for i in range(len(joint)):
        members = np.flatnonzero(labels == i)
        for j in np.flatnonzero(joint[i]):
            if i != j:
                margins = probabilities[members, j] - probabilities[members, i]
                is_wrong[members[np.argsort(-margins, kind="stable")[: joint[i, j]]]] = True
    return is_wrong


def wrong_by_class(labels: Codes, probabilities: Floats) -> npt.NDArray[np.bool_]:
    """True for each label, (num,), that is likely wrong: the paper's "prune by class".

    Of the photos labelled i, those with the least p_i, as many as the estimated joint has off its diagonal.
    """
    joint = np.rint(estimated_joint(labels, probabilities)).astype(int)
    is_wrong = np.zeros(len(labels), bool)
    for i in range(len(joint)):
        members = np.flatnonzero(labels == i)
        num_wrong = joint[i].sum() - joint[i, i]
        is_wrong[members[np.argsort(probabilities[members, i], kind="stable")[:num_wrong]]] = True
    return is_wrong


def are_wrong(labels: Codes, probabilities: Floats) -> npt.NDArray[np.bool_]:
    """True for each label, (num,), that both ways of pruning take for wrong: the paper's "C+NR".

    Never one that is the likeliest class, as in the authors' library, cleanlab.
    """
    is_other = probabilities.argmax(axis=1) != labels if len(labels) else np.zeros(0, bool)
    return is_other & wrong_by_noise_rate(labels, probabilities) & wrong_by_class(labels, probabilities)


def doubts(labels: Codes, probabilities: Floats) -> npt.NDArray[np.float64]:
    """How doubtful each label is, (num,): 1 where its probability is 0, and 0 where that is as usual for its class.

    Usual is the threshold of the class. Without it, which is the order of the losses, the labels of a class that the
    network is seldom sure of would come first.
    """
    usual = np.maximum(thresholds(labels, probabilities), 1e-12)[labels]
    shares: npt.NDArray[np.float64] = probabilities[np.arange(len(labels)), labels] / usual
    return 1 - shares
