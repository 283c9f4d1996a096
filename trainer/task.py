"""Task: what is learnt, as the loss of every sample, its predictions, and what counts as right."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know

from facepack.errors import UsageError
from trainer import metrics
from trainer.loading.targets import ATTRIBUTES
from trainer.results.attributes import AttributeResults
from trainer.results.classes import ClassResults
from trainer.results.numbers import NumberResults
from trainer.results.protocol import Results


class Task(Protocol):
    """What is learnt from a target. Everything is per sample, so that short batches, masks and ranks weigh exactly."""

    @property
    def target(self) -> str:
        """What the loader is asked for; see `trainer.loading.targets`."""

    @property
    def score(self) -> str:
        """The name of what `scores` gives."""

    @property
    def greater_is_better(self) -> bool:
        """True for a score such as accuracy, False for an error."""

    @property
    def results(self) -> type[Results]:
        """The class of a split's figures."""

    @property
    def scored(self) -> "Task":
        """The same task with the loss that results are scored by."""

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """Outputs of the network for these classes or attributes."""

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss per sample, float32 (batch,), of logits (batch, num_outputs)."""

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities, float32 (batch, num_names), or a number, (batch, 1)."""

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Score per sample, float32 (batch,): 1 where it is right, the share of attributes that are, or the error."""

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> torch.Tensor | None:
        """The logits (num_outputs,) of always predicting how frequent each name is; None for a number."""


@dataclass(frozen=True)
class Classes:
    """One of several classes: cross-entropy over a softmax."""

    target: str = "class"
    label_smoothing: float = 0.0
    """Part of the target spread evenly over all classes (Szegedy et al. 2016)."""

    results: ClassVar[type[Results]] = ClassResults
    greater_is_better: ClassVar[bool] = True
    score = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing {self.label_smoothing}: expected 0 <= label_smoothing < 1")

    @property
    def scored(self) -> Task:
        """Without smoothing: the loss of a right and confident prediction is zero."""
        return replace(self, label_smoothing=0.0)

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per class; `UsageError` where the target is a number."""
        if not names:
            raise UsageError(f"target {self.target} is a number, no classes: give bins, such as {self.target}:0-9,10-")
        return len(names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        """Softmax."""
        return logits.softmax(dim=1)

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the likeliest class is the right one."""
        return (predictions.argmax(dim=1) == targets).float()

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> torch.Tensor:
        """Logarithms of the frequencies."""
        return _shares(targets, num_names).log()


@dataclass(frozen=True)
class TwoClasses:
    """One of two classes from a single output: binary cross-entropy over the sigmoid for the second."""

    target: str = "class"

    results: ClassVar[type[Results]] = ClassResults
    greater_is_better: ClassVar[bool] = True
    score = "accuracy"

    @property
    def scored(self) -> Task:
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """A single one; `UsageError` for other than two classes."""
        if len(names) != 2:
            raise UsageError(f"a task of two classes, but there are {len(names)}: {', '.join(names[:5])}")
        return 1

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets.float(), reduction="none")

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        """The probabilities of both."""
        second = logits.sigmoid()
        return torch.cat([1 - second, second], dim=1)

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the likelier class is the right one."""
        return (predictions.argmax(dim=1) == targets).float()

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> torch.Tensor:
        """The logit of the second class's frequency."""
        return _shares(targets, num_names)[1:].logit()


@dataclass(frozen=True)
class Attributes:
    """Every attribute at once, each there or not.

    `loss`: `bce`, binary cross-entropy; `mse`, squared error of the sigmoid; `softmax`, one cross-entropy over a
    softmax of all attributes: its targets do not add up to one, so it cannot come down to zero.
    """

    loss: Literal["bce", "mse", "softmax"] = "bce"

    results: ClassVar[type[Results]] = AttributeResults
    greater_is_better: ClassVar[bool] = True
    target: ClassVar[str] = ATTRIBUTES
    score = "accuracy"

    def __post_init__(self) -> None:
        if self.loss not in ("bce", "mse", "softmax"):
            raise UsageError(f"loss {self.loss!r} of Attributes: expected bce, mse or softmax")

    @property
    def scored(self) -> Task:
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per attribute."""
        return len(names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over the attributes; of `softmax`, the sum over those that are there."""
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
        if self.loss == "mse":
            return (logits.sigmoid() - targets).square().mean(dim=1)
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1)

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability of each attribute, not of each one alone with `softmax`."""
        return logits.softmax(dim=1) if self.loss == "softmax" else logits.sigmoid()

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The share of attributes that are right, at a probability of one half."""
        return ((predictions >= 0.5) == (targets >= 0.5)).float().mean(dim=1)

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> torch.Tensor:
        """Logits of the frequencies; of `softmax`, their logarithms."""
        shares = _shares(targets, num_names)
        return shares.log() if self.loss == "softmax" else shares.logit()


@dataclass(frozen=True)
class Number:
    """A number, such as an age in years, by one output: squared (`mse`) or absolute (`l1`) error."""

    target: str = "age"
    loss: Literal["mse", "l1"] = "l1"
    middle: float = 0.0
    """What is predicted for a logit of zero: near the mean of the target, the network need not learn that first."""
    scale: float = 1.0
    """How much one unit of the logit is."""

    results: ClassVar[type[Results]] = NumberResults
    greater_is_better: ClassVar[bool] = False
    score = "absolute_error"

    def __post_init__(self) -> None:
        if self.loss not in ("mse", "l1"):
            raise UsageError(f"loss {self.loss!r} of Number: expected mse or l1")
        if not (math.isfinite(self.middle) and self.scale > 0):
            raise UsageError(f"Number: middle {self.middle}, scale {self.scale}: expected a number, and more than 0")

    @property
    def scored(self) -> Task:
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """A single one; `UsageError` where the target is one of several names."""
        return _checked_number(self.target, names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared or absolute error, in the unit of the target."""
        error = self.predictions(logits)[:, 0] - targets.float()
        return error.square() if self.loss == "mse" else error.abs()

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        """The number, (batch, 1)."""
        return self.middle + self.scale * logits

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Absolute error."""
        return (predictions[:, 0] - targets.float()).abs()

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> None:
        """None: numbers have no frequencies."""


@dataclass(frozen=True)
class Ordinal:
    """A number by whether it is above each of `low` .. `high` - 1; the prediction is `low` plus all probabilities.

    One binary cross-entropy per threshold (Niu et al. 2016, "Ordinal Regression with Multiple Output CNN for Age
    Estimation"), which for the sum of the probabilities is near to the absolute error.
    """

    target: str = "age"
    low: int = 0
    high: int = 100

    results: ClassVar[type[Results]] = NumberResults
    greater_is_better: ClassVar[bool] = False
    score = "absolute_error"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"Ordinal: low {self.low}, high {self.high}: expected low < high")

    @property
    def scored(self) -> Task:
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per threshold; `UsageError` where the target is one of several names."""
        return _checked_number(self.target, names) * (self.high - self.low)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum over the thresholds; a value between two whole ones is partly above."""
        thresholds = torch.arange(self.low, self.high, dtype=logits.dtype, device=logits.device)
        above = (targets.float()[:, None] - thresholds).clamp(0.0, 1.0)
        return F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(dim=1)

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        """The number, (batch, 1)."""
        return self.low + logits.sigmoid().sum(dim=1, keepdim=True)

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Absolute error."""
        return (predictions[:, 0] - targets.float()).abs()

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> None:
        """None: numbers have no frequencies."""


def _shares(targets: npt.NDArray[Any], num_names: int) -> torch.Tensor:
    """Frequencies, away from 0 and 1 so that their logits are finite."""
    return torch.from_numpy(np.clip(metrics.shares(targets, num_names), 1e-7, 1 - 1e-7))


def _checked_number(target: str, names: tuple[str, ...]) -> int:
    """One; `UsageError` where the target is one of several names."""
    if names:
        raise UsageError(f"target {target} is one of {len(names)} names, not a number: choose another task")
    return 1


TASKS: dict[str, type[Task]] = {task.__name__: task for task in (Classes, TwoClasses, Attributes, Number, Ordinal)}
"""By the name that recipes call them."""
