"""Doubting: which labels of a build look wrong, by a finished run or by folds, as files and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facepack.errors import JobError
from trainer import training
from trainer.doubts import files, held_out, page, scored
from trainer.doubts.held_out import HeldOut
from trainer.doubts.photos import Photos
from trainer.recipe import Recipe
from trainer.watching import Watcher

FOLDER = "doubts"
"""Of a finished run: where its doubts are written, below it."""
_CONFIDENT = "confident learning (Northcutt, Jiang and Chuang 2021), pruned by class and by noise rate"
_SPREAD = "local spread (modified z-score of Iglewicz and Hoaglin 1993), more than 3.5"
_NUM_NAMED = 3


@dataclass(frozen=True)
class Doubted:
    """What was looked at, and the files that say so."""

    folder: Path
    num_labels: int
    num_doubtful: int
    """Labels."""
    num_photos: int
    """Photos with a doubtful label, which the list names."""
    problems: tuple[str, ...] = ()
    """Why the doubts may be worth little, and what the list does not hold."""

    @property
    def page(self) -> Path:
        """The page with the pictures."""
        return self.folder / files.PAGE_FILE

    @property
    def list(self) -> Path | None:
        """The list for `facepack build --leave-out`; None where no label is doubtful."""
        return self.folder / files.LIST_FILE if self.num_photos else None

    @property
    def line(self) -> str:
        """One line for a terminal."""
        share = 100 * self.num_doubtful / max(self.num_labels, 1)
        number = f"{self.num_doubtful:,} of {self.num_labels:,} labels look wrong ({share:.1f} %)"
        return f"{number}, of {self.num_photos:,} photos"


def by_run(folder: Path) -> Doubted:
    """Doubt the labels of valid and test by the network of a finished run; writes into `doubts` below it.

    Raises `JobError` where the run has no predictions for them, or its build is not at hand.
    """
    return _written(held_out.of_run(folder), folder / FOLDER)


def by_folds(
    recipe_name: str,
    recipes: Sequence[Recipe],
    *,
    data: str,
    out: Path,
    settings: training.Settings | None = None,
    watchers: Sequence[Watcher] = (),
) -> Doubted | None:
    """Doubt all labels of a build by networks that are trained on the other folds; go on where that was stopped.

    `recipes` is what `held_out.by_fold` gives. Writes a run per fold, doubts.html, leave-out.csv and doubts.parquet
    below `out`. Gives None on ranks but the first. Raises `UsageError` where recipe and build do not fit each other or
    `out` holds others, `JobError` where training fails.
    """
    where = settings or training.Settings()
    folders = held_out.train_folds(recipe_name, recipes, data=data, out=out, settings=where, watchers=watchers)
    return _written(held_out.of_folds(folders), out) if training.is_first_rank() else None


def _written(predictions: HeldOut, out: Path) -> Doubted:
    doubts = scored.doubts_of(predictions)
    try:
        photos = Photos(predictions.run)
    except (JobError, OSError) as error:
        raise JobError(f"{error}; facepack evaluate RUN --data BUILD says where the build lies now") from error
    sources = photos.sources(doubts.table["row"].to_numpy())
    doubts = doubts.with_sources(sources)
    missed = files.write(out, doubts.table)
    problems = list(predictions.problems)
    if missed:
        problems.append(f"{files.LIST_FILE} cannot name {len(missed):,} photos: {', '.join(missed[:_NUM_NAMED])}")
    facts = {"method": _CONFIDENT if doubts.joints else _SPREAD, "folds": predictions.folds}
    shown = page.page_of(
        doubts,
        predictions.run,
        pictures=photos.pictures(page.rows_shown(doubts)),
        notes=[*problems, *predictions.notes],
        facts={name: text for name, text in facts.items() if text},
    )
    page.write(shown, out)
    num_photos = len(doubts.doubtful["source"].unique())
    return Doubted(out, len(doubts.table), len(doubts.doubtful), num_photos - len(missed), tuple(problems))
