"""Task: what is learnt, as the loss of every sample, what a network's outputs say, and what counts as right."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know

from facepack.errors import UsageError
from trainer.loading.targets import ATTRIBUTES

AGE_TOLERANCE_YEARS = 5

Kind = Literal["classes", "attributes", "number"]


class Task(Protocol):
    """What is learnt from a target. Everything is per sample, so that short batches, masks and ranks weigh exactly."""

    @property
    def kind(self) -> Kind:
        """How results are scored and shown."""

    @property
    def target(self) -> str:
        """What the loader is asked for; see `trainer.targets`."""

    @property
    def score(self) -> str:
        """The name of what `scores` gives."""

    @property
    def greater_is_better(self) -> bool:
        """True where the best score is the greatest one."""

    @property
    def scored(self) -> "Task":
        """The same task with the loss that results are scored by."""

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """Outputs of the network for these classes or attributes."""

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss per sample, float32 (batch,), of outputs (batch, num_outputs)."""

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """What the outputs say: float32 (batch, num_names) probabilities, or (batch, 1) a number."""

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Per sample, float32 (batch,): 1 where it is right, the share of attributes that are, or the error."""


@dataclass(frozen=True)
class Classes:
    """One of several classes: cross-entropy over a softmax."""

    target: str = "class"
    label_smoothing: float = 0.0
    """Part of the target spread evenly over all classes (Szegedy et al. 2016)."""

    kind: ClassVar[Kind] = "classes"
    greater_is_better: ClassVar[bool] = True
    score = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing {self.label_smoothing}: expected 0 <= label_smoothing < 1")

    @property
    def scored(self) -> Task:
        """Without smoothing: the loss of a right and sure answer is zero."""
        return replace(self, label_smoothing=0.0)

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per class; `UsageError` where the target is a number."""
        if not names:
            raise UsageError(f"target {self.target} is a number, no classes: give bins, such as {self.target}:0-9,10-")
        return len(names)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Softmax."""
        return outputs.softmax(dim=1)

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the likeliest class is the right one."""
        return (said.argmax(dim=1) == targets).float()


@dataclass(frozen=True)
class TwoClasses:
    """One of two classes from a single output: binary cross-entropy over a sigmoid, which speaks for the second."""

    target: str = "class"

    kind: ClassVar[Kind] = "classes"
    greater_is_better: ClassVar[bool] = True
    score = "accuracy"

    @property
    def scored(self) -> Task:
        """Itself."""
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """A single one; `UsageError` for other than two classes."""
        if len(names) != 2:
            raise UsageError(f"a task of two classes, but there are {len(names)}: {', '.join(names[:5])}")
        return 1

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """The probabilities of both."""
        second = outputs.sigmoid()
        return torch.cat([1 - second, second], dim=1)

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the likelier class is the right one."""
        return (said.argmax(dim=1) == targets).float()


@dataclass(frozen=True)
class Attributes:
    """Every attribute at once, each there or not.

    `loss`: `bce`, binary cross-entropy; `mse`, squared error of the sigmoid; `softmax`, one cross-entropy over a
    softmax of all attributes, as S4 also tried: its targets do not add up to one, so it cannot come down to zero.
    """

    loss: Literal["bce", "mse", "softmax"] = "bce"

    kind: ClassVar[Kind] = "attributes"
    greater_is_better: ClassVar[bool] = True
    target: ClassVar[str] = ATTRIBUTES
    score = "accuracy"

    def __post_init__(self) -> None:
        if self.loss not in ("bce", "mse", "softmax"):
            raise UsageError(f"loss {self.loss!r} of Attributes: expected bce, mse or softmax")

    @property
    def scored(self) -> Task:
        """Itself."""
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per attribute."""
        return len(names)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over the attributes; of `softmax`, the sum over those that are there."""
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)
        if self.loss == "mse":
            return (outputs.sigmoid() - targets).square().mean(dim=1)
        return -(targets * outputs.log_softmax(dim=1)).sum(dim=1)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """The probability of each attribute, not of each one alone with `softmax`."""
        return outputs.softmax(dim=1) if self.loss == "softmax" else outputs.sigmoid()

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The share of attributes that are right, told apart at one half."""
        return ((said >= 0.5) == (targets >= 0.5)).float().mean(dim=1)


@dataclass(frozen=True)
class Number:
    """A number, such as an age in years, by one output: squared (`mse`) or absolute (`l1`) error."""

    target: str = "age"
    loss: Literal["mse", "l1"] = "l1"
    middle: float = 0.0
    """What the network gives where its output is zero: near the mean of the target, it need not learn that first."""
    scale: float = 1.0
    """How much one unit of the output is."""

    kind: ClassVar[Kind] = "number"
    greater_is_better: ClassVar[bool] = False
    score = "absolute_error"

    def __post_init__(self) -> None:
        if self.loss not in ("mse", "l1"):
            raise UsageError(f"loss {self.loss!r} of Number: expected mse or l1")
        if not (math.isfinite(self.middle) and self.scale > 0):
            raise UsageError(f"Number: middle {self.middle}, scale {self.scale}: expected a number, and more than 0")

    @property
    def scored(self) -> Task:
        """Itself."""
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """A single one; `UsageError` where the target is one of several names."""
        return _checked_number(self.target, names)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared or absolute error, in the unit of the target."""
        error = self.predictions(outputs)[:, 0] - targets.float()
        return error.square() if self.loss == "mse" else error.abs()

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """The number, (batch, 1)."""
        return self.middle + self.scale * outputs

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Absolute error."""
        return (said[:, 0] - targets.float()).abs()


@dataclass(frozen=True)
class Distribution:
    """A number by how likely each whole value of it is: a softmax over `low` .. `high`, whose mean is the answer.

    Learns a bell curve of `deviation` around the true value, and the error of the mean, `l1` times as much (Gao et al.
    2018, "Age Estimation Using Expectation of Label Distribution Learning"). With deviation 0 and l1 0 it is
    classification with an expected value, as Rothe et al. (2015, "DEX") have it.
    """

    target: str = "age"
    low: int = 0
    high: int = 100
    deviation: float = 2.0
    l1: float = 1.0

    kind: ClassVar[Kind] = "number"
    greater_is_better: ClassVar[bool] = False
    score = "absolute_error"

    def __post_init__(self) -> None:
        if not (self.low < self.high and 0 <= self.deviation < math.inf and 0 <= self.l1 < math.inf):
            raise UsageError(
                f"Distribution: low {self.low}, high {self.high}, deviation {self.deviation}, l1 {self.l1}: expected "
                "low < high, and at least 0"
            )

    @property
    def scored(self) -> Task:
        """Itself."""
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per whole value; `UsageError` where the target is one of several names."""
        return _checked_number(self.target, names) * (self.high - self.low + 1)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the bell curve, and the error of the mean in the unit of the target."""
        inside = targets.float().clamp(self.low, self.high)[:, None]
        offsets = self._values(outputs) - inside
        # With no deviation a value between two whole ones is shared between them.
        wanted = (1 - offsets.abs()).clamp(min=0.0)
        if self.deviation:
            wanted = (-0.5 * (offsets / self.deviation).square()).softmax(dim=1)
        error = (self.predictions(outputs)[:, 0] - targets.float()).abs()
        return -(wanted * outputs.log_softmax(dim=1)).sum(dim=1) + self.l1 * error

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """The mean of the distribution, (batch, 1)."""
        return (outputs.softmax(dim=1) * self._values(outputs)).sum(dim=1, keepdim=True)

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Absolute error."""
        return (said[:, 0] - targets.float()).abs()

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        return torch.arange(self.low, self.high + 1, dtype=outputs.dtype, device=outputs.device)


@dataclass(frozen=True)
class Ordinal:
    """A number by whether it is above each of `low` .. `high` - 1, yes or no; the answer is `low` and all that is yes.

    One binary cross-entropy per threshold (Niu et al. 2016, "Ordinal Regression with Multiple Output CNN for Age
    Estimation"), which for the sum of the probabilities is near to the absolute error.
    """

    target: str = "age"
    low: int = 0
    high: int = 100

    kind: ClassVar[Kind] = "number"
    greater_is_better: ClassVar[bool] = False
    score = "absolute_error"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"Ordinal: low {self.low}, high {self.high}: expected low < high")

    @property
    def scored(self) -> Task:
        """Itself."""
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per threshold; `UsageError` where the target is one of several names."""
        return _checked_number(self.target, names) * (self.high - self.low)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum over the thresholds; a value between two whole ones is partly above."""
        thresholds = torch.arange(self.low, self.high, dtype=outputs.dtype, device=outputs.device)
        above = (targets.float()[:, None] - thresholds).clamp(0.0, 1.0)
        return F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(dim=1)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """The number, (batch, 1)."""
        return self.low + outputs.sigmoid().sum(dim=1, keepdim=True)

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Absolute error."""
        return (said[:, 0] - targets.float()).abs()


def _checked_number(target: str, names: tuple[str, ...]) -> int:
    """One; `UsageError` where the target is one of several names."""
    if names:
        raise UsageError(f"target {target} is one of {len(names)} names, not a number: choose another task")
    return 1


TASKS = {one.__name__: one for one in (Classes, TwoClasses, Attributes, Number, Distribution, Ordinal)}
