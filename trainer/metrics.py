"""Metrics: how right predictions are, beside what always giving the commonest answer would be."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn import metrics as sklearn_metrics

from trainer.task import AGE_TOLERANCE_YEARS, Attributes, Task

Floats = npt.NDArray[np.floating[Any]]
_CALIBRATION_BINS = 15


def scores(
    task: Task,
    said: Floats,
    targets: npt.NDArray[Any],
    *,
    losses: Floats,
    names: tuple[str, ...],
    thresholds: Floats | None = None,
) -> dict[str, Any]:
    """All figures of a split, as scores.json has them.

    `said` (num, num_names) probabilities or (num, 1) numbers; `targets` (num,), of attributes (num, num_names);
    `losses` (num,). `thresholds` (num_names,) tell attributes apart for their balanced accuracy.
    """
    found: dict[str, Any] = {"num": len(targets), "loss": float(losses.mean())}
    if task.kind != "number":
        found["prior_loss"] = _prior_loss(task, targets, num_names=len(names))
    if task.kind == "classes":
        return found | _of_classes(said, targets, names)
    if task.kind == "attributes":
        return found | _of_attributes(said, targets, names, thresholds)
    return found | _of_numbers(said[:, 0], targets)


def _prior_loss(task: Task, targets: npt.NDArray[Any], *, num_names: int) -> float:
    """The loss of always giving how frequent every class or attribute is, whatever the image."""
    shares = targets.mean(axis=0) if targets.ndim > 1 else np.bincount(targets, minlength=num_names) / len(targets)
    known = torch.from_numpy(np.clip(shares, 1e-7, 1 - 1e-7))
    if targets.ndim > 1:
        outputs = known.log() if task == Attributes(loss="softmax") else known.logit()
    else:  # of two classes a single output may speak
        outputs = known.log() if task.num_outputs(("",) * num_names) > 1 else known[1:].logit()
    given = torch.from_numpy(targets if targets.ndim == 1 else targets.astype(np.float64))
    return float(task.losses(outputs.expand(len(targets), -1), given).mean())


def _of_classes(said: Floats, targets: npt.NDArray[Any], names: tuple[str, ...]) -> dict[str, Any]:
    codes, answered = np.arange(len(names)), said.argmax(axis=1)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        targets, answered, labels=codes, zero_division=0.0
    )
    is_there, majority = support > 0, float(support.max() / len(targets))
    return {
        "accuracy": float((answered == targets).mean()),
        "majority": majority,
        "balanced_accuracy": float(recall[is_there].mean()),
        "macro_f1": float(f1[is_there].mean()),
        "majority_macro_f1": float(2 * majority / (1 + majority) / is_there.sum()),
        "calibration_error": calibration_error(said.max(axis=1), answered == targets),
        "per_class": [
            {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        ],
        "confusion": sklearn_metrics.confusion_matrix(targets, answered, labels=codes).tolist(),
    }


def calibration_error(confidences: Floats, is_right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 bins of equal width (Naeini et al. 2015): how far sureness is off accuracy."""
    bins = np.minimum((confidences * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    sure = np.bincount(bins, weights=confidences, minlength=_CALIBRATION_BINS)
    right = np.bincount(bins, weights=is_right.astype(np.float64), minlength=_CALIBRATION_BINS)
    return float(np.abs(sure - right).sum() / len(confidences))


def best_thresholds(said: Floats, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Per attribute the probability that tells it apart with the best balanced accuracy; 0.5 where all are alike."""
    found = np.full(said.shape[1], 0.5)
    for number in range(said.shape[1]):
        truth = targets[:, number] >= 0.5
        if truth.all() or not truth.any():
            continue
        false_positive, true_positive, edges = sklearn_metrics.roc_curve(
            truth, said[:, number], drop_intermediate=False
        )
        best = int(np.argmax(true_positive - false_positive))
        below = edges[best + 1] if best + 1 < len(edges) else 0.0
        found[number] = (min(float(edges[best]), 1.0) + float(below)) / 2
    return found


def _of_attributes(
    said: Floats, targets: npt.NDArray[Any], names: tuple[str, ...], thresholds: Floats | None
) -> dict[str, Any]:
    truth = targets >= 0.5
    answered = said >= 0.5
    told_apart = said >= (0.5 if thresholds is None else thresholds)
    per_attribute = []
    for number, name in enumerate(names):
        true, positive = truth[:, number], float(truth[:, number].mean())
        row: dict[str, Any] = {
            "name": name,
            "positives": positive,
            "accuracy": float((answered[:, number] == true).mean()),
            "majority": max(positive, 1 - positive),
        }
        if 0 < positive < 1:
            apart = told_apart[:, number]
            row["balanced_accuracy"] = float((apart[true].mean() + (~apart[~true]).mean()) / 2)
            row["average_precision"] = float(sklearn_metrics.average_precision_score(true, said[:, number]))
        per_attribute.append(row)
    means = ("positives", "accuracy", "majority", "balanced_accuracy", "average_precision")
    kept = {name: [row[name] for row in per_attribute if name in row] for name in means}
    return {name: float(np.mean(values)) for name, values in kept.items() if values} | {"per_attribute": per_attribute}


def _of_numbers(said: Floats, targets: npt.NDArray[Any]) -> dict[str, Any]:
    errors = np.abs(said - targets)
    decades = []
    for decade in np.unique(targets // 10).astype(int):
        chosen = targets // 10 == decade
        bias = float((said - targets)[chosen].mean())
        decades.append(
            {"decade": int(10 * decade), "num": int(chosen.sum()), "error": float(errors[chosen].mean()), "bias": bias}
        )
    return {
        "absolute_error": float(errors.mean()),
        "median_baseline": float(np.abs(targets - np.median(targets)).mean()),
        "cumulative_score": float((errors <= AGE_TOLERANCE_YEARS).mean()),
        "correlation": float(np.corrcoef(said, targets)[0, 1]) if np.ptp(said) and np.ptp(targets) else 0.0,
        "per_decade": decades,
    }
