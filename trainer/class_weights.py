"""Class weights: how much a class or an attribute counts in the loss, as numbers out of its frequency in training.

`balanced` counts every class alike; `effective` less so, by how much each further sample still adds (Cui et al. 2019,
"Class-Balanced Loss Based on Effective Number of Samples"). Numbers are given in order, or by name as in "Bald=3", and
what is not named counts 1.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from facepack.errors import UsageError, nearest
from trainer import calls
from trainer.loading.targets import Target
from trainer.task import Attributes, ByName, Classes, Task, TwoClasses

Counts = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


def balanced(counts: Counts) -> Weights:
    """One over the share of each class, with mean 1 over the samples; a class without any has 1."""
    return _scaled(1 / np.maximum(counts, 1), counts)


def effective(counts: Counts, beta: float = 0.999) -> Weights:
    """One over the effective number of samples, (1 - beta ** n) / (1 - beta), with mean 1 over the samples."""
    if not 0 <= beta < 1:
        raise UsageError(f"effective: beta {beta}: expected 0 <= beta < 1")
    return _scaled((1 - beta) / (1 - beta ** np.maximum(counts, 1)), counts)


def resolved(task: Task, train: Target) -> Task:
    """The task with numbers in place of texts, from its target of the training samples.

    Raises `UsageError` where a text is none of the above, or the numbers do not fit the classes.
    """
    if isinstance(task, Classes | TwoClasses) and task.class_weights:
        counts = np.bincount(train.values, minlength=len(train.names))
        weights = _numbers(task.class_weights, train.names, counts[:, None], what="class_weights")
        return replace(task, class_weights=weights)
    if isinstance(task, Attributes) and task.pos_weight:
        present = (train.values >= 0.5).sum(axis=0)
        counts = np.stack([present, len(train.values) - present], axis=1)
        return replace(task, pos_weight=_numbers(task.pos_weight, train.names, counts, what="pos_weight"))
    return task


def _numbers(given: ByName, names: tuple[str, ...], counts: Counts, *, what: str) -> tuple[float, ...]:
    """A number per name; `counts` are (num_names, 1) of classes, (num_names, 2) of attributes that are there or not."""
    if not isinstance(given, str):
        weights = np.array(given, np.float64)
    elif "=" in given and "(" not in given:
        weights = _by_name(given, names, what=what)
    elif given[:1].isalpha():
        weights = _by_rule(given, counts, what=what)
    else:
        weights = np.array([_number(text, what=what) for text in given.split(",")])
    if weights.shape != (len(names),):
        raise UsageError(f"{what}: {len(weights)} numbers; expected {len(names)}: {', '.join(names[:5])}")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise UsageError(f"{what} {given}: expected numbers, at least 0, and one more than that")
    return tuple(float(f"{weight:.6g}") for weight in weights)


def _by_rule(text: str, counts: Counts, *, what: str) -> Weights:
    """Weights of classes, or of attributes those that are there have beside those that are not."""
    if counts.shape[1] == 1:
        weights: Weights = calls.made(text, _rules(counts[:, 0]), what=what)
        return weights
    pairs = np.array([calls.made(text, _rules(pair), what=what) for pair in counts])
    return np.asarray(np.where(counts.all(axis=1), pairs[:, 0] / pairs[:, 1], 1.0))


def _rules(counts: Counts) -> dict[str, Callable[..., Weights]]:
    return {"balanced": partial(balanced, counts), "effective": partial(effective, counts)}


def _by_name(text: str, names: tuple[str, ...], *, what: str) -> Weights:
    weights = np.ones(len(names))
    for setting in text.split(","):
        name, _, number = (piece.strip() for piece in setting.rpartition("="))
        if name not in names:
            raise UsageError(f"{what} {name}: not among what is learnt; {nearest(name, names)}")
        weights[names.index(name)] = _number(number, what=f"{what} {name}")
    return weights


def _number(text: str, *, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{what} {text.strip()}: expected balanced, effective or numbers") from error


def _scaled(weights: Weights, counts: Counts) -> Weights:
    """With mean 1 over the samples; 1 where a class has none."""
    return np.where(counts > 0, weights * counts.sum() / max((weights * counts).sum(), 1e-300), 1.0)
