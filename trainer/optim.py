"""Optim: the optimiser of a recipe, and its learning rate as a function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer.recipe import Recipe

_KERAS_EPSILON = 1e-7
_KERAS_ACCUMULATOR = 0.1


def optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all weights that learn; weight decay spares biases and what normalises.

    Epsilon, and what Adagrad's accumulator begins with, are those of Keras, which the published systems used.
    """
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in learning if weight.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weight for weight in learning if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    parts: Iterable[dict[str, object]] = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parts, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    if recipe.optimizer == "adagrad":
        return torch.optim.Adagrad(
            parts, lr=recipe.lr, initial_accumulator_value=_KERAS_ACCUMULATOR, eps=_KERAS_EPSILON
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parts, lr=recipe.lr, eps=_KERAS_EPSILON)


def learning_rate(recipe: Recipe, *, step: int, num_steps: int) -> float:
    """The learning rate of a step, counted from 0."""
    if recipe.schedule == "inverse_time":
        return recipe.lr / (1.0 + recipe.lr_decay * step)
    if recipe.schedule == "one_cycle":  # Smith 2018, with a cosine down to zero
        num_climbing = max(1, round(recipe.warmup * num_steps))
        if step < num_climbing:
            return recipe.lr * (step + 1) / num_climbing
        done = (step - num_climbing) / max(1, num_steps - num_climbing)
        return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return recipe.lr
