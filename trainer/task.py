"""Task: what is learnt, as the loss of every sample, its predictions, and what counts as right."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know

from facepack.errors import UsageError
from trainer import checks, losses, metrics
from trainer.loading.targets import ATTRIBUTES
from trainer.results.attributes import AttributeResults
from trainer.results.classes import ClassResults
from trainer.results.numbers import NumberResults
from trainer.results.protocol import Results

ByName = str | tuple[float, ...]
"""Numbers per name, or how they are made: see `trainer.class_weights`, which turns texts into numbers."""


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
    """One of several classes: cross-entropy over a softmax, or with `loss=focal` the focal loss.

    There is no asymmetric loss: of a softmax only the true class counts, and for it that is the focal loss.
    """

    target: str = "class"
    label_smoothing: float = 0.0
    """Part of the target spread evenly over all classes (Szegedy et al. 2016)."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0
    """How much less a sample counts that is right already (Lin et al. 2017), with `loss=focal`."""
    class_weights: ByName = ()
    """What the loss of a sample is multiplied by, per class; balanced, effective, or numbers."""

    results: ClassVar[type[Results]] = ClassResults
    greater_is_better: ClassVar[bool] = True
    score = "accuracy"

    def __post_init__(self) -> None:
        checks.check_share(self, ["label_smoothing"])
        _check_loss(self, ("cross_entropy", "focal"))

    @property
    def scored(self) -> Task:
        """Without smoothing, weights and focus: cross-entropy, which is least for the true probabilities."""
        return Classes(self.target)

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per class; `UsageError` where the target is a number."""
        if not names:
            raise UsageError(f"target {self.target} is a number, no classes: give bins, such as {self.target}:0-9,10-")
        return len(names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, or focal loss; times the weight of the true class."""
        if self.loss == "focal":
            values = losses.focal_cross_entropy(
                logits, targets, gamma=self.focal_gamma, label_smoothing=self.label_smoothing
            )
        else:
            values = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        return _weighted(values, targets, self.class_weights)

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
    """One of two classes from a single output: binary cross-entropy over the sigmoid for the second.

    `loss`: `bce`, `focal` or `asymmetric`, as in `Attributes`; the second class is what is there.
    """

    target: str = "class"
    loss: Literal["bce", "focal", "asymmetric"] = "bce"
    focal_gamma: float = 2.0
    gamma_pos: float = 0.0
    gamma_neg: float = 4.0
    margin: float = 0.05
    class_weights: ByName = ()
    """As in `Classes`."""

    results: ClassVar[type[Results]] = ClassResults
    greater_is_better: ClassVar[bool] = True
    score = "accuracy"

    def __post_init__(self) -> None:
        _check_loss(self, ("bce", "focal", "asymmetric"))

    @property
    def scored(self) -> Task:
        """Binary cross-entropy without weights."""
        return TwoClasses(self.target)

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """A single one; `UsageError` for other than two classes."""
        if len(names) != 2:
            raise UsageError(f"a task of two classes, but there are {len(names)}: {', '.join(names[:5])}")
        return 1

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy, focal or asymmetric loss; times the weight of the true class."""
        if self.loss == "bce":
            values = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float(), reduction="none")
        else:
            present, absent = _present_and_absent(self, logits[:, 0], targets.float())
            values = present + absent
        return _weighted(values, targets, self.class_weights)

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
    softmax of all attributes: its targets do not add up to one, so it cannot come down to zero. `focal` (Lin et al.
    2017) and `asymmetric` (Ridnik et al. 2021) let an attribute count less, the more it is right already.
    """

    loss: Literal["bce", "mse", "softmax", "focal", "asymmetric"] = "bce"
    focal_gamma: float = 2.0
    """How much less, with `loss=focal`."""
    gamma_pos: float = 0.0
    """How much less where the attribute is there, with `loss=asymmetric`."""
    gamma_neg: float = 4.0
    """How much less where it is not."""
    margin: float = 0.05
    """Attributes that are not there count nothing below this probability, with `loss=asymmetric`."""
    pos_weight: ByName = ()
    """What the loss of an attribute is multiplied by where it is there; balanced, effective, or numbers."""

    results: ClassVar[type[Results]] = AttributeResults
    greater_is_better: ClassVar[bool] = True
    target: ClassVar[str] = ATTRIBUTES
    score = "accuracy"

    def __post_init__(self) -> None:
        _check_loss(self, ("bce", "mse", "softmax", "focal", "asymmetric"))
        if self.pos_weight and self.loss in ("mse", "softmax"):
            raise UsageError(f"pos_weight: not with loss={self.loss}; give loss=bce, focal or asymmetric")

    @property
    def scored(self) -> Task:
        """Without weights; binary cross-entropy in place of focal and asymmetric loss."""
        return Attributes(self.loss if self.loss in ("mse", "softmax") else "bce")

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per attribute."""
        return len(names)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over the attributes; of `softmax`, the sum over those that are there."""
        if self.loss == "mse":
            return (logits.sigmoid() - targets).square().mean(dim=1)
        if self.loss == "softmax":
            return -(targets * logits.log_softmax(dim=1)).sum(dim=1)
        weights = logits.new_tensor(_numbers(self.pos_weight)) if self.pos_weight else None
        if self.loss == "bce":
            values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
            return values.mean(dim=1)
        present, absent = _present_and_absent(self, logits, targets)
        return ((present if weights is None else weights * present) + absent).mean(dim=1)

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


def _check_loss(task: Classes | TwoClasses | Attributes, known: tuple[str, ...]) -> None:
    """Refuse a loss that there is not, and settings of it that make no sense."""
    if task.loss not in known:
        listed, last = ", ".join(known[:-1]), known[-1]
        raise UsageError(f"loss {task.loss!r} of {type(task).__name__}: expected {listed} or {last}")
    checks.check_finite(task)
    checks.check_not_negative(task, ["focal_gamma"])
    if not isinstance(task, Classes):
        checks.check_not_negative(task, ["gamma_pos", "gamma_neg"])
        checks.check_share(task, ["margin"])


def _present_and_absent(
    task: TwoClasses | Attributes, logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The focal or asymmetric losses of what is there, and of what is not."""
    if task.loss == "focal":
        gammas = {"gamma_pos": task.focal_gamma, "gamma_neg": task.focal_gamma, "margin": 0.0}
    else:
        gammas = {"gamma_pos": task.gamma_pos, "gamma_neg": task.gamma_neg, "margin": task.margin}
    return losses.asymmetric(logits, targets, **gammas)


def _weighted(values: torch.Tensor, targets: torch.Tensor, weights: ByName) -> torch.Tensor:
    """Losses (batch,) times the weight of the true class."""
    return values * values.new_tensor(_numbers(weights))[targets] if weights else values


def _numbers(weights: ByName) -> tuple[float, ...]:
    assert not isinstance(weights, str), "trainer.class_weights turns texts into numbers first"
    return weights


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
