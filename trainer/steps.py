"""Steps: one step of training, from a batch to new weights; what is random in it depends on its number alone."""

from typing import NamedTuple

import torch
from torch import nn

from trainer import layers, optim, ranks
from trainer.loading.loader import Batch
from trainer.recipe import Recipe
from trainer.session import Session

_SEED_STRIDE = 1_000_003


class Outcome(NamedTuple):
    """What a step gave, over all ranks."""

    sums: torch.Tensor
    """Of the losses, the scores and the samples, float64 (3,)."""
    num_stops: torch.Tensor
    """The number of ranks that want to stop."""


def take(session: Session, batch: Batch, *, lr: float, stops: bool = False) -> Outcome:
    """Take a step on a batch. `stops`: this rank wants to end after it, which all of them then know."""
    fabric, recipe, state = session.fabric, session.run.recipe, session.state
    # So that a resumed run needs no state of what is random.
    torch.manual_seed((recipe.seed * _SEED_STRIDE + state.step) * fabric.world_size + fabric.global_rank)

    num = batch.mask.sum()
    num_total, num_stops = ranks.summed(torch.stack([num, num.new_tensor(int(stops))]), device=fabric.device)
    # Gradients are averaged over ranks; this makes them those of the mean over the whole batch.
    own_sums = _backward(session, batch, factor=fabric.world_size / num_total)

    if recipe.clip_norm:
        fabric.clip_gradients(session.model, session.optimizer, max_norm=recipe.clip_norm)
    optim.set_learning_rate(session.optimizer, lr)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    if session.averaged is not None:
        session.averaged.update_parameters(session.network)
    state.step += 1
    return Outcome(ranks.summed(own_sums, device=fabric.device), num_stops)


def _backward(session: Session, batch: Batch, *, factor: torch.Tensor) -> torch.Tensor:
    """Add up the gradients of the losses times a factor, part by part; gives the sums of this rank."""
    fabric, recipe = session.fabric, session.run.recipe
    parts = _parts(
        batch, target=recipe.task.target, size=-(-recipe.batch_size // (fabric.world_size * recipe.accumulate))
    )
    sums = torch.zeros(3, dtype=torch.float64, device=batch.mask.device)
    for number, (images, targets, mask) in enumerate(parts, start=1):
        with fabric.no_backward_sync(session.model, enabled=number < len(parts)):
            with layers.frozen_batch_norm_for_single_image(session.network, len(images)):
                logits, losses = forward(session.model, images, targets, recipe=recipe)
            losses = losses * mask
            fabric.backward(losses.sum() * factor)
        with torch.no_grad():
            scores = recipe.task.scores(recipe.task.predictions(logits), targets) * mask
            sums += torch.stack([losses.sum().double(), scores.sum().double(), mask.sum().double()])
    return sums


def _parts(batch: Batch, *, target: str, size: int) -> list[tuple[torch.Tensor, ...]]:
    """Images, targets and mask of a batch, cut into parts of so many samples."""
    columns = (batch.images, batch.targets[target], batch.mask)
    return list(zip(*(torch.split(column, size) for column in columns), strict=True))


def forward(
    model: nn.Module, images: torch.Tensor, targets: torch.Tensor, *, recipe: Recipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, float32 (batch, num_outputs), and the loss of each sample, float32 (batch,), mixed where it is asked."""
    images = images.contiguous(memory_format=torch.channels_last)
    if not recipe.mixup:
        logits = model(images).float()
        return logits, recipe.task.losses(logits, targets)
    share = float(torch.distributions.Beta(recipe.mixup, recipe.mixup).sample())
    order = torch.randperm(len(images)).to(images.device)
    logits = model(share * images + (1 - share) * images[order]).float()
    losses = share * recipe.task.losses(logits, targets)
    return logits, losses + (1 - share) * recipe.task.losses(logits, targets[order])
