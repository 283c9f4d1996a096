"""Held-out predictions: what networks predict for photos that they were not trained on, beside the labels."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.errors import JobError, UsageError
from trainer import runs, training
from trainer.data import TrainedOn
from trainer.folds import MOST_FOLDS
from trainer.recipe import Recipe
from trainer.results.protocol import probabilities_of
from trainer.run_record import RunRecord
from trainer.runs import Run
from trainer.task import Attributes
from trainer.watching import Watcher

log = logging.getLogger("facepack.trainer")


@dataclass(frozen=True)
class HeldOut:
    """Predictions for photos that their networks were not trained on; arrays are (num,) unless noted."""

    run: Run
    """That of the predictions, or of the first fold."""
    rows: npt.NDArray[np.int64]
    """Row of each in the manifest; those of a second build follow those of the first."""
    keys: list[str]
    parts: list[str]
    """The split that each was in, or its fold."""
    given: npt.NDArray[Any]
    """The labels: codes of classes, int64; of attributes 0 or 1, (num, num_names); or numbers."""
    predicted: npt.NDArray[Any]
    """Probabilities, (num, num_names); or numbers."""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Why the doubts may be worth little."""

    @property
    def folds(self) -> str:
        """How many folds there are, and what draws them; empty for the splits of a run."""
        _, _, number = self.run.recipe.fold.partition("/")
        return f"{number}, drawn by seed {self.run.recipe.seed}" if number else ""

    @property
    def kind(self) -> str:
        """What the labels are: classes, attributes or numbers."""
        if not self.run.names:
            return "numbers"
        return "attributes" if self.given.ndim == 2 else "classes"


def of_run(folder: Path) -> HeldOut:
    """What the network of a finished run predicted for valid and test; `JobError` where there is nothing of them."""
    record = RunRecord.read(folder)
    splits = [split for split in ("valid", "test") if split in record.results]
    tables = [table for split in splits if (table := record.predictions(split)) is not None]
    if not tables:
        advice = "facepack train or evaluate makes them; or give RECIPE and --data BUILD"
        raise JobError(f"{folder}: no predictions for valid or test: {advice}")
    run = record.run
    _check(run.recipe)
    table = pa.concat_tables(tables)
    if run.negatives is not None:
        table = table.filter(pc.less(table["row"], _first_negative(run)))
    notes = [f"Only the photos of {' and '.join(splits)} are looked at: the network was trained on the others."]
    if "valid" in splits:
        notes.append("The best epoch was chosen on valid, which may hide a few wrong labels there.")
    held_out = _of_table(table, run, parts=table["split"].to_pylist(), notes=notes)
    return replace(held_out, problems=tuple(_weakness([record], record.split)))


def by_fold(recipe: Recipe, *, num_folds: int) -> list[Recipe]:
    """The recipe once per fold; raises `UsageError` for what cannot be trained by folds."""
    if not 2 <= num_folds <= MOST_FOLDS:
        raise UsageError(f"--folds {num_folds}: expected 2 to {MOST_FOLDS}")
    if recipe.fold:
        raise UsageError(f"fold {recipe.fold}: --folds sets it")
    _check(recipe)
    return [replace(recipe, fold=f"{number}/{num_folds}") for number in range(1, num_folds + 1)]


def train_folds(
    recipe_name: str,
    recipes: Sequence[Recipe],
    *,
    data: str,
    out: Path,
    settings: training.Settings,
    watchers: Sequence[Watcher] = (),
) -> list[Path]:
    """Train every fold that is not there yet, below `out`; gives the folders of the runs.

    A fold that was stopped goes on from its last checkpoint. Raises `UsageError` where `out` holds other folds.
    """
    folders = [out / f"fold-{recipe.fold.replace('/', '-of-')}" for recipe in recipes]
    build = TrainedOn.of(manifest.read_build(data), data)
    for folder, recipe in zip(folders, recipes, strict=True):
        _check_same(folder, recipe, build)
    for folder, recipe in zip(folders, recipes, strict=True):
        if (folder / runs.SCORES_FILE).exists():
            log.info("fold %s: is there", recipe.fold)
            continue
        log.info("fold %s", recipe.fold)
        training.train(recipe_name, recipe, data=data, out=folder, settings=settings, watchers=watchers)
    return folders


def of_folds(folders: Sequence[Path]) -> HeldOut:
    """What the network of each fold predicted for the photos that it was not trained on."""
    records = [RunRecord.read(folder) for folder in folders]
    tables, parts = [], []
    for record in records:
        table = record.predictions("test")
        if table is None:
            raise JobError(f"{record.folder}: no predictions; delete it to train this fold again")
        tables.append(table)
        parts += [f"fold {record.run.recipe.fold}"] * len(table)
    run = records[0].run
    scores = ", ".join(f"{record.results['test'].score:.3f}" for record in records)
    about = "Every photo of the build is looked at, by the network of a fold that was not trained on it."
    notes = [about, f"{run.recipe.task.score.replace('_', ' ').capitalize()} by fold: {scores}."]
    held_out = _of_table(pa.concat_tables(tables), run, parts=parts, notes=notes)
    return replace(held_out, problems=tuple(_weakness(records, "test")))


def _weakness(records: Sequence[RunRecord], split: str) -> Iterator[str]:
    """A line where the networks know no more than the frequencies, or the median."""
    results = [record.results[split] for record in records]
    score, baseline = (float(np.mean(values)) for values in zip(*((r.score, r.baseline) for r in results), strict=True))
    is_greater_better = records[0].run.recipe.task.greater_is_better
    if score <= baseline if is_greater_better else score >= baseline:
        what = "most frequent" if is_greater_better else "median"
        figures = f"{score:.3f} against {baseline:.3f}"
        yield f"the networks are no better than always predicting the {what}: {figures}; their doubts say little"


def _check(recipe: Recipe) -> None:
    if isinstance(recipe.task, Attributes) and recipe.task.loss == "softmax":
        raise UsageError("loss=softmax gives no probability of each attribute alone; --set loss=bce")


def _check_same(folder: Path, recipe: Recipe, build: TrainedOn) -> None:
    """Refuse, before anything is trained, a place that holds other runs of the same names."""
    if not (folder / runs.RUN_FILE).exists():
        return
    there = runs.read(folder)
    differing = [f"{name} {value}" for name, (_, value) in recipe.differences(there.recipe).items()]
    if (there.data.digest, there.data.plan_digest) != (build.digest, build.plan_digest):
        differing.append(f"on another build, {there.data.location}")
    if differing:
        raise UsageError(f"{folder}: holds another run ({'; '.join(differing)}); give another --out, or delete it")


def _first_negative(run: Run) -> int:
    """The first row that is of the build of the negatives."""
    return sum(manifest.total(build.counts) for build in run.mixed)


def _of_table(table: pa.Table, run: Run, *, parts: list[str], notes: Sequence[str]) -> HeldOut:
    """Predictions as predictions.parquet has them, as arrays."""
    names, targets = list(run.names), table["target"]
    if not names:
        given, predicted = targets.to_numpy(), table["prediction"].to_numpy()
    elif pa.types.is_list(targets.type):
        given = np.stack([_has(targets, name) for name in names], axis=1).astype(np.int64)
        predicted = probabilities_of(table)
    else:
        given = pc.index_in(targets, value_set=pa.array(names)).to_numpy().astype(np.int64)
        predicted = probabilities_of(table)
    keys = table["key"].to_pylist()
    return HeldOut(run, table["row"].to_numpy(), keys, parts, given, predicted, tuple(notes))


def _has(lists: pa.ChunkedArray, name: str) -> npt.NDArray[np.bool_]:
    """True for each list of names that has this one."""
    joined = lists.combine_chunks()
    has = np.zeros(len(joined), bool)
    has[pc.list_parent_indices(joined).to_numpy()[pc.equal(joined.flatten(), name).to_numpy(False)]] = True
    return has
