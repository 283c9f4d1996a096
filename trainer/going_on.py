"""Going on: a finished run trained for longer, or another run that begins with all of its weights."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facepack.errors import UsageError
from facepack.lock import RUN, held
from facepack.storage import Store
from trainer import checkpoint, models, ranks, remote_runs, runs
from trainer.evaluation import num_outputs
from trainer.recipe import Recipe
from trainer.runs import Change, Run
from trainer.stopping import best_epoch

log = logging.getLogger("facepack.trainer")

_NOTICEABLE = 0.01
"""The share by which the learning rate has to change to be worth a warning."""


def extended(location: str | Path, settings: Sequence[str]) -> Run:
    """The run in a folder or at a URL with other settings to go on with, such as "epochs=20", which run.json then has.

    What was trained stays; epochs, stopping and schedule may change, and `Run.changes` records it. Raises `UsageError`
    for any other setting, and where nothing would be left to train.
    """
    with remote_runs.changed(location) as folder:
        return _extended(folder, settings, store=Store(str(location)))


def _extended(folder: Path, settings: Sequence[str], *, store: Store) -> Run:
    run = runs.read(folder)
    recipe = run.recipe.changed(settings)
    differences = recipe.differences(run.recipe)
    if not differences:
        return run
    for name in differences:
        if name.partition(".")[0] not in runs.MAY_CHANGE:
            listed, listed_last = ", ".join(runs.MAY_CHANGE[:-1]), runs.MAY_CHANGE[-1]
            raise UsageError(
                f"{name}: a run goes on with other {listed} or {listed_last} alone; "
                f"facepack train --from {folder} --out NEW --set {name}=... begins another run with its weights"
            )
    if isinstance(models.network(recipe.network, num_outputs=num_outputs(run), size_hw=run.size_hw), models.FitAtOnce):
        raise UsageError(f"{folder}: {recipe.network} is fitted at once, and has no epochs to go on with")
    epoch = _check_goes_on(folder, run, recipe)
    change = Change(epoch, {name: f"{before}, then {now}" for name, (now, before) in differences.items()})
    changed = replace(run, recipe=recipe, changes=[*run.changes, change])
    if ranks.is_first_of_launch():
        with held(store, work=RUN):
            changed.write(folder)
    return changed


def _check_goes_on(folder: Path, run: Run, recipe: Recipe) -> int:
    """The epochs that a run was trained for; `UsageError` where it would not be trained any further."""
    if not (folder / runs.LAST_FILE).exists():
        return 0
    content = checkpoint.load(folder / runs.LAST_FILE)
    epoch, history = content["epoch"], content["history"]
    if recipe.epochs < epoch or (recipe.epochs == epoch and run.recipe.epochs <= epoch):
        raise UsageError(f"epochs={recipe.epochs}: {folder} was trained for {epoch} epochs already; give more")
    if history and recipe.stopping.is_over(history, best=best_epoch(history, recipe)):
        raise UsageError(
            f"{folder}: {recipe.stopping} ended it after epoch {epoch}, and would again; "
            "--set 'stopping=ToTheEnd()' trains all epochs"
        )
    if history:
        _warn_of_rate(run.recipe, recipe, step=int(history[-1]["step"]), num_epochs=len(history))
    return int(epoch)


def _warn_of_rate(before: Recipe, now: Recipe, *, step: int, num_epochs: int) -> None:
    """Say where the learning rate jumps, for the schedule is planned over other epochs now."""
    steps_per_epoch = step // num_epochs
    last = before.learning_rate(step=step - 1, num_steps=before.epochs * steps_per_epoch)
    rate = now.learning_rate(step=step, num_steps=now.epochs * steps_per_epoch)
    if abs(rate - last) > _NOTICEABLE * last:
        log.warning(
            "the learning rate goes on at %.3g, after %.3g: %s over %d epochs", rate, last, now.schedule, now.epochs
        )


def successor(location: str | Path, settings: Sequence[str]) -> tuple[Run, Recipe]:
    """The run in a folder or at a URL, and its recipe with other settings, which begins with all its weights."""
    folder = remote_runs.folder_of(location)
    run = runs.read(folder)
    return run, run.recipe.changed([f"weights={folder}", "keep_head=true", *settings])
