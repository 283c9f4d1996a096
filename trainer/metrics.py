"""Metrics: how right predictions are, as pure functions of arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Truths = npt.NDArray[np.bool_]

AGE_TOLERANCE_YEARS = 5
_CALIBRATION_BINS = 15


def shares(targets: npt.NDArray[Any], num_names: int) -> npt.NDArray[np.float64]:
    """How frequent each class of targets (num,) or each attribute of targets (num, num_names) is, 0..1."""
    if targets.ndim > 1:
        return np.asarray(targets.mean(axis=0))
    return np.bincount(targets, minlength=num_names) / len(targets)


def calibration_error(confidences: Floats, is_right: Truths) -> float:
    """Expected calibration error over 15 bins of equal width (Naeini et al. 2015): confidence against accuracy."""
    bins = np.minimum((confidences * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    sure = np.bincount(bins, weights=confidences, minlength=_CALIBRATION_BINS)
    right = np.bincount(bins, weights=is_right.astype(np.float64), minlength=_CALIBRATION_BINS)
    return float(np.abs(sure - right).sum() / len(confidences))


def best_thresholds(probabilities: Floats, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The probability per attribute that gives the best balanced accuracy; 0.5 where all targets are alike.

    `probabilities` and `targets` (0 or 1) are (num, num_names); gives (num_names,).
    """
    from sklearn import metrics as sklearn_metrics  # here: it takes two seconds to import

    thresholds = np.full(probabilities.shape[1], 0.5)
    for number in range(probabilities.shape[1]):
        true = targets[:, number] >= 0.5
        if true.all() or not true.any():
            continue
        false_positive, true_positive, edges = sklearn_metrics.roc_curve(
            true, probabilities[:, number], drop_intermediate=False
        )
        best = int(np.argmax(true_positive - false_positive))
        below = edges[best + 1] if best + 1 < len(edges) else 0.0
        thresholds[number] = (min(float(edges[best]), 1.0) + float(below)) / 2
    return thresholds


def balanced_accuracy(true: Truths, predicted: Truths) -> float:
    """The mean of the accuracies on positives and on negatives; both must be there."""
    return float((predicted[true].mean() + (~predicted[~true]).mean()) / 2)


def median_error(targets: npt.NDArray[Any]) -> float:
    """The mean absolute error of always predicting the median of the targets."""
    return float(np.abs(targets - np.median(targets)).mean())


def cumulative_score(errors: Floats) -> float:
    """The share of absolute errors, in years, of at most five (Geng et al. 2007)."""
    return float((errors <= AGE_TOLERANCE_YEARS).mean())


def correlation(predicted: Floats, true: npt.NDArray[Any]) -> float:
    """Pearson's correlation; 0 where either is constant."""
    return float(np.corrcoef(predicted, true)[0, 1]) if np.ptp(predicted) and np.ptp(true) else 0.0
