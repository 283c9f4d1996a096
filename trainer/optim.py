"""Optim: the optimiser of a recipe, and its learning rate as a function of the step."""

import math

import torch
from torch import nn

from facepack.errors import UsageError
from trainer import layers
from trainer.recipe import Recipe

_KERAS_EPSILON = 1e-7
_KERAS_ACCUMULATOR = 0.1


def optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all weights that learn; weight decay spares biases and what normalises.

    Each of its groups has a `share` of the learning rate. Epsilon, and what Adagrad's accumulator begins with, are
    those of Keras, which S0, S3 and S4 used.
    """
    head = layers.head(network) if recipe.backbone_lr != 1 else ""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            groups.setdefault((not head or layers.is_in(name, head), weight.ndim > 1), []).append(weight)
    parts: list[dict[str, object]] = [
        {
            "params": weights,
            "weight_decay": recipe.weight_decay if is_matrix else 0.0,
            "share": 1.0 if is_full else recipe.backbone_lr,
        }
        for (is_full, is_matrix), weights in groups.items()
    ]
    if not parts:
        raise UsageError(f"freeze={recipe.freeze}: no weight of {recipe.network} is left to learn")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parts, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    if recipe.optimizer == "adagrad":
        return torch.optim.Adagrad(
            parts, lr=recipe.lr, initial_accumulator_value=_KERAS_ACCUMULATOR, eps=_KERAS_EPSILON
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parts, lr=recipe.lr, eps=_KERAS_EPSILON)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]


def learning_rate(recipe: Recipe, *, step: int, num_steps: int) -> float:
    """The learning rate of a step, counted from 0; of the head, where layers have rates of their own."""
    if recipe.schedule == "inverse_time":
        return recipe.lr / (1.0 + recipe.lr_decay * step)
    if recipe.schedule == "drop":
        is_over = step * recipe.epochs >= recipe.drop_after * num_steps
        return recipe.lr * (recipe.lr_decay if is_over else 1.0)
    if recipe.schedule == "one_cycle":  # Smith 2018, with a cosine down to zero
        num_climbing = max(1, round(recipe.warmup * num_steps))
        if step < num_climbing:
            return recipe.lr * (step + 1) / num_climbing
        done = (step - num_climbing) / max(1, num_steps - num_climbing)
        return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return recipe.lr
