"""Fit at once: trains a classifier that knows no steps, on the features of all images."""

import time

import numpy as np
import torch

from facepack.errors import UsageError
from trainer import models
from trainer.interrupts import Interrupts
from trainer.session import Session
from trainer.task import Classes
from trainer.watching import StepEnd, Watcher


def check(session: Session) -> None:
    """Refuse recipes of which something does not apply to classifiers that are fitted at once."""
    recipe = session.run.recipe
    name = recipe.network.partition("(")[0]
    if not isinstance(recipe.task, Classes):
        raise UsageError(f"network {name}: predicts one of several classes and nothing else: give task=Classes()")
    unused = {"weights": recipe.start.weights, "average": recipe.average, "mixup": recipe.mixup}
    unused |= {"compile": recipe.compile, "accumulate": recipe.accumulate > 1}
    if wrong := [setting for setting, value in unused.items() if value]:
        raise UsageError(f"network {name}: is fitted at once: {wrong[0]} does not apply to it")
    if session.fabric.world_size > 1:
        raise UsageError(f"network {name}: is fitted in one process; leave out torchrun")


def fit(session: Session, *, watcher: Watcher) -> None:
    """Extract the features of all images, batch by batch, and fit the classifier to them, in place of an epoch.

    Raises `KeyboardInterrupt` where it is stopped: nothing is saved then.
    """
    state, task, classifier = session.state, session.run.recipe.task, session.network
    assert isinstance(classifier, models.FitAtOnce)
    feature_batches, target_batches = [], []
    began = time.monotonic()
    with Interrupts() as interrupts:
        for batch in session.train_loader:
            state.wait_s += time.monotonic() - began
            watcher.before_step(state.step, batch)
            feature_batches.append(classifier.features(batch.images))
            target_batches.append(batch.targets[task.target].cpu())
            state.step += 1
            state.train_s += time.monotonic() - began
            watcher.after_step(StepEnd(state.step, epoch=0, loss=0.0, lr=0.0, num_images=len(batch.rows)))
            if interrupts.requested:
                raise KeyboardInterrupt
            began = time.monotonic()
        features, targets = np.concatenate(feature_batches), torch.cat(target_batches)
        classifier.fit(features, targets.numpy(), seed=session.run.recipe.seed)
    logits = classifier.predict(features).cpu()
    losses, scores = task.losses(logits, targets), task.scores(task.predictions(logits), targets)
    state.sums = (float(losses.double().sum()), float(scores.double().sum()), float(len(targets)))
    state.train_s += time.monotonic() - began
