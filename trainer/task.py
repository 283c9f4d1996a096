"""Task: what is learnt, as the loss of every sample, what a network's outputs say, and what counts as right."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know

from facepack.errors import UsageError
from trainer.targets import ATTRIBUTES

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
    def scored(self) -> "Task":
        """The same task with the loss that results are scored by."""

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """Outputs of the network for these classes or attributes."""

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss per sample, float32 (batch,), of outputs (batch, num_outputs)."""

    def said(self, outputs: torch.Tensor) -> torch.Tensor:
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
    score = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing {self.label_smoothing}: expected 0 <= label_smoothing < 1")

    @property
    def scored(self) -> Task:
        """Without smoothing: the loss of a right and sure answer is zero."""
        return replace(self, label_smoothing=0.0)

    def num_outputs(self, names: tuple[str, ...]) -> int:
        """One per class."""
        return len(names)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)

    def said(self, outputs: torch.Tensor) -> torch.Tensor:
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

    def said(self, outputs: torch.Tensor) -> torch.Tensor:
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

    def said(self, outputs: torch.Tensor) -> torch.Tensor:
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
        if names:
            raise UsageError(f"target {self.target} is one of {len(names)} names, not a number: choose another task")
        return 1

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared or absolute error, in the unit of the target."""
        error = self.said(outputs)[:, 0] - targets.float()
        return error.square() if self.loss == "mse" else error.abs()

    def said(self, outputs: torch.Tensor) -> torch.Tensor:
        """The number, (batch, 1)."""
        return self.middle + self.scale * outputs

    def scores(self, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Absolute error."""
        return (said[:, 0] - targets.float()).abs()


TASKS = {one.__name__: one for one in (Classes, TwoClasses, Attributes, Number)}
