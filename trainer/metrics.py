"""Metrics: how right predictions are, as pure functions of arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Truths = npt.NDArray[np.bool_]

Interval = tuple[float, float]
"""Where a figure lies with a confidence of 95 %: least and most."""

AGE_TOLERANCE_YEARS = 5
_CALIBRATION_BINS = 15
_QUANTILE = 1.959964
"""Of the normal distribution, for 95 %."""
_NUM_RESAMPLES = 2000
_MOST_TO_RESAMPLE = 2000
"""Values from which on the mean of resamples is normal to the third digit."""


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


def balanced_interval(true: Truths, predicted: Truths) -> Interval:
    """The 95 % interval of the balanced accuracy of predictions (num,)."""
    is_right = true == predicted
    groups = [is_right[true], is_right[~true]]
    return interval_of_mean([float(group.mean()) for group in groups], [interval(group) for group in groups])


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


def interval(values: Floats | Truths) -> Interval:
    """The 95 % interval of the mean of values (num,), num at least 1.

    For values that are all 0 or 1, Wilson's score interval (1927); else the percentile bootstrap (Efron 1979), the same
    every time, and of many values the normal interval, with which it then agrees.
    """
    numbers = np.asarray(values, np.float64)
    if np.isin(numbers, (0.0, 1.0)).all():
        return _wilson(float(numbers.mean()), len(numbers))
    if len(numbers) > _MOST_TO_RESAMPLE:
        half = _QUANTILE * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
        return float(numbers.mean()) - half, float(numbers.mean()) + half
    rows = np.random.default_rng(0).integers(0, len(numbers), (_NUM_RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[rows].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def interval_of_sums(total: float, squares: float, *, num: float) -> Interval:
    """The same out of the sum of values and the sum of their squares; the normal interval unless all are 0 or 1."""
    mean = total / num
    if abs(squares - total) < 1e-6 * max(1.0, total):
        return _wilson(min(max(mean, 0.0), 1.0), round(num))
    half = _QUANTILE * math.sqrt(max(squares / num - mean**2, 0.0) / num)
    return mean - half, mean + half


def interval_of_mean(shares: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The 95 % interval of the mean of shares of different samples, out of their intervals.

    By the method of variance estimates recovery (Zou and Donner 2008), which keeps their asymmetry.
    """
    middle, num = sum(shares) / len(shares), len(shares)
    below = math.sqrt(sum((share - low) ** 2 for share, (low, _) in zip(shares, intervals, strict=True))) / num
    above = math.sqrt(sum((high - share) ** 2 for share, (_, high) in zip(shares, intervals, strict=True))) / num
    return max(0.0, middle - below), min(1.0, middle + above)


def _wilson(share: float, num: int) -> Interval:
    square = _QUANTILE**2 / num
    middle = (share + square / 2) / (1 + square)
    half = _QUANTILE * math.sqrt(share * (1 - share) / num + square / (4 * num)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
