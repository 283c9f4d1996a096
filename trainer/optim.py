"""Optimisers and learning-rate schedules, the parts of a recipe that decide each step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from facepack.errors import UsageError
from trainer import checks, layers

_KERAS_EPSILON = 1e-7
_KERAS_ACCUMULATOR = 0.1
"""What the published systems on Keras used: see docs/systems.md."""

Groups = list[dict[str, Any]]
"""Parameter groups, as torch's optimisers take them."""


class Optimizer(Protocol):
    """The settings of an optimiser."""

    @property
    def lr(self) -> float:
        """The learning rate that the schedule begins with."""

    @property
    def weight_decay(self) -> float:
        """Decay of the weights, but for biases and what normalises."""

    def over(self, groups: Groups) -> torch.optim.Optimizer:
        """torch's optimiser over groups of parameters."""


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with Nesterov's momentum where there is any."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        checks.check_not_negative(self, ["momentum"])

    def over(self, groups: Groups) -> torch.optim.Optimizer:
        """torch's SGD."""
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015), with Keras' epsilon."""

    lr: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def over(self, groups: Groups) -> torch.optim.Optimizer:
        """torch's Adam."""
        return torch.optim.Adam(groups, lr=self.lr, eps=_KERAS_EPSILON)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), with Keras' epsilon."""

    lr: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def over(self, groups: Groups) -> torch.optim.Optimizer:
        """torch's AdamW."""
        return torch.optim.AdamW(groups, lr=self.lr, eps=_KERAS_EPSILON)


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi et al. 2011), with Keras' epsilon and initial accumulator."""

    lr: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def over(self, groups: Groups) -> torch.optim.Optimizer:
        """torch's Adagrad."""
        start = _KERAS_ACCUMULATOR
        return torch.optim.Adagrad(groups, lr=self.lr, initial_accumulator_value=start, eps=_KERAS_EPSILON)


def optimizer(settings: Optimizer, network: nn.Module, *, backbone_lr: float = 1.0) -> torch.optim.Optimizer:
    """The optimiser over all parameters that learn; weight decay spares biases and what normalises.

    Each of its groups has a `share` of the learning rate: 1 in the head, `backbone_lr` elsewhere. Raises `UsageError`
    where all of the network is frozen.
    """
    groups = list(_groups(network, weight_decay=settings.weight_decay, backbone_lr=backbone_lr))
    if not groups:
        raise UsageError("freeze: no weight of the network is left to learn")
    return settings.over(groups)


def _groups(network: nn.Module, *, weight_decay: float, backbone_lr: float) -> Iterator[dict[str, Any]]:
    head = layers.head(network) if backbone_lr != 1 else ""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            groups.setdefault((not head or layers.is_in(name, head), weight.ndim > 1), []).append(weight)
    for (is_full, is_matrix), weights in groups.items():
        share, decay = 1.0 if is_full else backbone_lr, weight_decay if is_matrix else 0.0
        yield {"params": weights, "weight_decay": decay, "share": share}


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]


class Schedule(Protocol):
    """The learning rate over the steps of a run."""

    def learning_rate(self, lr: float, *, step: int, num_steps: int, num_epochs: int) -> float:
        """The learning rate of a step, counted from 0, for an optimiser that begins with `lr`."""


@dataclass(frozen=True)
class Constant:
    """One learning rate."""

    def learning_rate(self, lr: float, *, step: int, num_steps: int, num_epochs: int) -> float:  # noqa: ARG002
        """The same at every step."""
        return lr


@dataclass(frozen=True)
class InverseTime:
    """lr / (1 + decay * step), as Keras' `decay` has it."""

    decay: float

    def __post_init__(self) -> None:
        checks.check_finite(self)
        checks.check_not_negative(self, ["decay"])

    def learning_rate(self, lr: float, *, step: int, num_steps: int, num_epochs: int) -> float:  # noqa: ARG002
        """Falls as 1 / step in the end."""
        return lr / (1.0 + self.decay * step)


@dataclass(frozen=True)
class Drop:
    """lr, and lr * factor once `after_epochs` are over."""

    factor: float
    after_epochs: int

    def __post_init__(self) -> None:
        checks.check_finite(self)
        checks.check_positive(self, ["factor", "after_epochs"])

    def learning_rate(self, lr: float, *, step: int, num_steps: int, num_epochs: int) -> float:
        """One of two."""
        is_over = step * num_epochs >= self.after_epochs * num_steps
        return lr * (self.factor if is_over else 1.0)


@dataclass(frozen=True)
class OneCycle:
    """Climbs to lr over `warmup`, a share of the steps, and falls to 0 along a cosine (after Smith 2018)."""

    warmup: float = 0.2

    def __post_init__(self) -> None:
        checks.check_finite(self)
        checks.check_share(self, ["warmup"])

    def learning_rate(self, lr: float, *, step: int, num_steps: int, num_epochs: int) -> float:  # noqa: ARG002
        """At most lr."""
        num_climbing = max(1, round(self.warmup * num_steps))
        if step < num_climbing:
            return lr * (step + 1) / num_climbing
        done = (step - num_climbing) / max(1, num_steps - num_climbing)
        return lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _check(settings: SGD | Adam | AdamW | Adagrad) -> None:
    checks.check_finite(settings)
    checks.check_positive(settings, ["lr"])
    checks.check_not_negative(settings, ["weight_decay"])
