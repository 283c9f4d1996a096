"""Across: a recipe trained on each of several builds and on all of them, and tested on every one."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack import manifest
from facepack.bins import Bins
from facepack.errors import JobError, UsageError
from facepack.storage import Store, is_url
from trainer import evaluation, experiments, metrics, runs, same_target, scores, seen, training
from trainer.data import Data, Placement, RunBuild
from trainer.evaluation import Predictions
from trainer.experiments import Planned
from trainer.loading.columns import ManifestColumns
from trainer.loading.targets import Target, target
from trainer.metrics import Interval
from trainer.recipe import Recipe
from trainer.results.protocol import Results, SplitPredictions, split_of
from trainer.run_record import RunRecord
from trainer.seen import Photos
from trainer.watching import Watcher

MIXED = "all mixed"
FEWEST = 20
"""Photos below which a cell says little."""

log = logging.getLogger("facepack.trainer")


@dataclass(frozen=True)
class Member:
    """A build of the matrix: what is trained on, and what is tested on."""

    name: str
    opened: RunBuild
    split: str
    """The split that is tested on: test, or valid where there is none."""
    target: str
    """What is read of it for the target of the recipe, such as age_group:middle."""

    @property
    def location(self) -> str:
        """Where it lies."""
        return self.opened.location

    @property
    def is_trained_on(self) -> bool:
        """True where it has a train split."""
        return len(self.opened.rows("train")) > 0

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Rows of the split that is tested on, int64 (num_rows,)."""
        return self.opened.rows(self.split)

    @cached_property
    def photos(self) -> Photos:
        """Those that are tested on."""
        return Photos.of(self.opened, self.rows)

    @cached_property
    def trained_photos(self) -> list[Photos]:
        """Those that decide a network that is trained on it: of train and valid, but for the split tested on."""
        names = [name for name in seen.TRAINED_SPLITS if name != self.split]
        return [Photos.of(self.opened, self.opened.rows(name)) for name in names]

    def truth(self, split: str) -> Target:
        """The target of a split."""
        columns, build = ManifestColumns(Store(self.location)), self.opened.build
        return target(self.target, columns, rows=self.opened.rows(split), class_names=tuple(build.class_names))


@dataclass(frozen=True)
class Plan:
    """What is trained and tested, checked before anything begins."""

    recipe: Recipe
    members: tuple[Member, ...]
    runs: tuple[Planned, ...]
    rows: tuple[str, ...]
    """What each run is trained on: the name of a member, or all of them."""
    notes: tuple[str, ...] = ()
    """What a reader should know of the builds."""

    @property
    def buckets(self) -> Bins | None:
        """The age groups of a build whose middle stands for years; None where all have years, or groups are learnt."""
        for member in self.members:
            column, _, text = member.target.partition(":")
            ranges = same_target.ranges_of(column, member.opened) if text == "middle" else None
            if ranges is not None:
                return Bins.of(ranges.bins, field="targets")
        return None


@dataclass(frozen=True)
class Overlap:
    """What a test split has in common with what a build trains on."""

    trained_on: str
    tested_on: str
    num: int
    """Photos of the test split."""
    by_reason: dict[str, int]

    @property
    def num_seen(self) -> int:
        """Photos that both have, for any reason."""
        return sum(self.by_reason.values())


@dataclass(frozen=True)
class Share:
    """The share of predictions in the true age group, and what always predicting the commonest would reach."""

    value: float
    interval: Interval
    baseline: float


@dataclass(frozen=True)
class Cell:
    """A run tested on a build."""

    trained_on: str
    tested_on: str
    is_own: bool
    """True where it was trained on no other build than that."""
    num: int = 0
    """Photos that count: of no build's training, and of a class that the run knows."""
    score: float | None = None
    interval: Interval | None = None
    """95 %."""
    baseline: float | None = None
    num_all: int = 0
    score_all: float | None = None
    """With the photos that were left out."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Photos of classes that the run was not trained on, which are left out, by class."""
    in_group: Share | None = None
    problem: str = ""


@dataclass(frozen=True)
class Matrix:
    """The scores of every run on every build."""

    plan: Plan
    score: str
    cells: tuple[Cell, ...]
    overlaps: tuple[Overlap, ...]
    left_out: dict[str, dict[str, int]]
    """Photos of each test split that some build trains on, by reason."""

    def cell(self, trained_on: str, tested_on: str) -> Cell:
        """That of a row and a column."""
        return next(cell for cell in self.cells if (cell.trained_on, cell.tested_on) == (trained_on, tested_on))

    def overlap(self, trained_on: str, tested_on: str) -> Overlap:
        """What two builds have in common."""
        return next(each for each in self.overlaps if (each.trained_on, each.tested_on) == (trained_on, tested_on))

    def best(self, tested_on: str) -> str:
        """The row with the best score of a column; empty without any."""
        there = [cell for cell in self.cells if cell.tested_on == tested_on and cell.score is not None]
        sign = -1.0 if self.plan.recipe.task.greater_is_better else 1.0
        return min(there, key=lambda cell: sign * (cell.score or 0.0)).trained_on if there else ""


# The plan


def planned(names: Sequence[str], settings: Sequence[str], *, data: Sequence[str]) -> Plan:
    """One recipe on each build and on all mixed; raises `UsageError` or `JobError` before anything is trained."""
    places = [place if is_url(place) else str(Path(place).absolute()) for place in data]
    opened = [RunBuild.read(place, manifest.read_build(place)) for place in places]
    _check_distinct(opened)
    ((recipe_name, recipe),) = _recipes(names, settings, data=places[0])
    common = same_target.common_target(recipe.task.target, opened)
    recipe = recipe if common == recipe.task.target else recipe.changed([f"task.target={common}"])
    members = tuple(_members(opened, common))
    _check(members, recipe)
    trained = [member for member in members if member.is_trained_on]
    groups = [[member] for member in trained] + ([trained] if len(trained) > 1 else [])
    rows = tuple(group[0].name if len(group) == 1 else MIXED for group in groups)
    label = [f"{recipe_name}-on={row}".replace("/", "_").replace(" ", "-") for row in rows]
    plan = [
        Planned(name, recipe_name, recipe, [member.location for member in group])
        for name, group in zip(label, groups, strict=True)
    ]
    return Plan(recipe, members, tuple(plan), rows, tuple(_notes(members, recipe)))


def _recipes(names: Sequence[str], settings: Sequence[str], *, data: str) -> list[tuple[str, Recipe]]:
    plan = experiments.planned(names, settings, data=[data])
    if len(plan) > 1:
        raise UsageError(f"--across takes one recipe with one value per setting, not {len(plan)} runs")
    return [(plan[0].recipe_name, plan[0].recipe)]


def _check_distinct(opened: Sequence[RunBuild]) -> None:
    if len(opened) < 2:
        raise UsageError("--across compares builds: give at least two, --data BUILD --data BUILD")
    digests = [(build.build.digest, build.build.plan_digest) for build in opened]
    for number, digest in enumerate(digests):
        if digest in digests[:number]:
            first = opened[digests.index(digest)].location
            raise UsageError(f"{opened[number].location}: the same build as {first}: give each once")


def _members(opened: Sequence[RunBuild], common: str) -> Iterator[Member]:
    paths = [Path(build.location) for build in opened]
    names = [path.name for path in paths]
    if len(set(names)) < len(names) or MIXED in names:
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    if len(set(names)) < len(names):
        raise UsageError(f"{names[0]}: two builds of this name; the last two folders of a build name it here")
    for name, build in zip(names, opened, strict=True):
        split = next((split for split in ("test", "valid") if len(build.rows(split))), "")
        if not split:
            raise UsageError(f"{build.location}: neither a test nor a valid split; build it with --split 80/10/10")
        yield Member(name, build, split, same_target.column_in(common, build))


def _check(members: Sequence[Member], recipe: Recipe) -> None:
    """Refuse what cannot be trained on one build and tested on another."""
    if not any(member.is_trained_on for member in members):
        raise UsageError("none of the builds has a train split; build one with --split 80/10/10")
    if recipe.negatives is not None:
        raise UsageError("--across: not with negatives; --set negatives= for none")
    if recipe.fold:
        raise UsageError("--across: not with folds; --set fold= for the splits of the builds")
    sizes, encodings, written = {}, {}, dict[str, str]()
    for member in members:
        try:
            member.truth(member.split)
            data = Data(recipe, member.location, placement=Placement(evaluation.device_of("cpu")))
            with data.loader(member.split, is_train=False) as loader:
                sizes["{1}x{0}".format(*loader.size_hw)] = member.location
                names = loader.targets[recipe.task.target].names
        except UsageError as error:
            raise UsageError(f"{member.location}: {error}") from error
        recipe.task.num_outputs(names)
        encodings[member.opened.build.configuration.encoding == "raw"] = member.location
        for name in names:
            if (other := written.setdefault(name.casefold(), name)) != name:
                raise UsageError(f"{member.location}: writes a class {name}, another build {other}: build both alike")
    if len(sizes) > 1:
        shown = ", ".join(f"{size} in {place}" for size, place in sizes.items())
        raise UsageError(f"images of different sizes ({shown}): build all with the same --size")
    if len(encodings) > 1:
        raise UsageError("raw and encoded builds cannot be mixed: build them with the same --encoding")


def _notes(members: Sequence[Member], recipe: Recipe) -> Iterator[str]:
    """What makes figures of these builds less comparable than they look."""
    for name in ("align", "margin"):
        values = {member.name: f"{getattr(member.opened.build.configuration, name)}" for member in members}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{value} in {place}" for place, value in values.items())
            yield f"The faces are cut out in different ways (--{name}: {shown}); that alone costs a network accuracy."
    for member in members:
        if member.target != recipe.task.target.partition("|")[0]:
            yield f"In {member.name}, {_in_words(member)}."
        if member.split == "valid":
            yield f"{member.name} has no test split, so it is tested on valid, which chose the epoch of its own run."
        if not member.is_trained_on:
            yield f"{member.name} has no train split, so it is tested on alone."
        elif not len(member.opened.rows("valid")):
            yield f"{member.name} has no valid split, so the last epoch of its run counts, and of the run on all."


def _in_words(member: Member) -> str:
    """What stands for the target in a build."""
    column, colon, text = member.target.partition(":")
    if text == "middle":
        return f"{column} stands for years: the middle of each group is learnt, and errors are measured from there"
    if colon:
        return f"{column} is put into the groups {text}"
    return f"{column} is what is learnt"


# The matrix


def run(
    plan: Plan, *, out: Path, settings: training.Settings, watchers: Sequence[Watcher] = ()
) -> tuple[Matrix, list[experiments.TableRow]]:
    """Train what is not trained yet, and test each run on each build; gives the matrix, and the table of the runs.

    A second call goes on where the first one stopped: runs and tests that are there stay.
    """
    rows = experiments.run(plan.runs, out=out, settings=settings, watchers=watchers)
    problems = {row.name: row.problem for row in rows}
    overlaps, masks = _overlaps(plan)
    cells = []
    for row, planned_run in zip(plan.rows, plan.runs, strict=True):
        for member in plan.members:
            cell = Cell(row, member.name, is_own=row == member.name, problem=problems.get(planned_run.name, ""))
            if not cell.problem:
                predictions = _predictions(out / planned_run.name, member, device=settings.device)
                cell = _scored(cell, predictions, member, plan=plan, is_seen=masks[member.name])
            cells.append(cell)
    left_out = {member.name: _counted(member, plan) for member in plan.members}
    return Matrix(plan, plan.recipe.task.score, tuple(cells), tuple(overlaps), left_out), rows


def _counted(member: Member, plan: Plan) -> dict[str, int]:
    return seen.counted(seen.seen_in(member.photos, _all_trained(plan)))


def _all_trained(plan: Plan) -> list[Photos]:
    return [photos for member in plan.members if member.is_trained_on for photos in member.trained_photos]


def _overlaps(plan: Plan) -> tuple[list[Overlap], dict[str, metrics.Truths]]:
    """What each pair has in common, and where photos of each test split are in the training of any build."""
    overlaps, masks = [], {}
    for member in plan.members:
        num = member.photos.num
        masks[member.name] = np.zeros(num, bool)
        for other in plan.members:
            if other.is_trained_on:
                by_reason = seen.seen_in(member.photos, other.trained_photos)
                overlaps.append(Overlap(other.name, member.name, num, seen.counted(by_reason)))
                masks[member.name] |= seen.any_of(by_reason, num=num)
    return overlaps, masks


def _predictions(folder: Path, member: Member, *, device: str) -> pa.Table | None:
    """The predictions of a run for a build, out of predictions.parquet where they are there; None for none."""
    run, split = runs.read(folder), member.split
    data = Data(
        run.recipe,
        member.location,
        placement=Placement(evaluation.device_of(device)),
        statistics=run.statistics,
    )
    own = RunRecord.read(folder)
    place = folder if run.is_trained_on(data.trained_on) else evaluation.folder_on(folder, data)
    there = scores.read(place, results=run.recipe.task.results)
    is_there = there is not None and own.scores is not None and there.epoch == own.scores.epoch
    if not is_there or there is None or split not in there.splits:
        log.info("%s: testing on %s", folder.name, member.name)
        trained = evaluation.load_network(folder, run, device=evaluation.device_of(device))
        with data.loader(split, is_train=False) as loader:
            predictions = evaluation.predictions_of(trained.network, loader, run=run)
            names = loader.targets[run.recipe.task.target].names
        if predictions is None or not len(known := _in_classes(predictions, names, run.names)):
            return None
        evaluation.write_results({split: known}, run=run, trained=trained, data=data, out=place)
    return replace(own, folder=place, scores=scores.read(place, results=run.recipe.task.results)).predictions(split)


def _in_classes(predictions: Predictions, names: tuple[str, ...], known: tuple[str, ...]) -> Predictions:
    """With classes numbered as a run has them; those that it does not know are left out."""
    if names == known or predictions.targets.ndim > 1:
        if names != known:
            raise JobError(f"attributes of the builds differ: {', '.join(sorted({*names} ^ {*known})[:4])}")
        return predictions
    codes = np.array([known.index(name) if name in known else -1 for name in names])[predictions.targets]
    return replace(predictions, targets=codes).chosen(codes >= 0)


def _scored(cell: Cell, predictions: pa.Table | None, member: Member, *, plan: Plan, is_seen: metrics.Truths) -> Cell:
    """The figures of a run on the photos of a build that nobody trained on."""
    if predictions is None:
        return replace(cell, problem="none of its classes was trained on")
    kind, truth = plan.recipe.task.results, member.truth(member.split)
    names = _names_of(predictions, truth)
    where = np.searchsorted(member.rows, predictions["row"].to_numpy())
    is_known = np.zeros(len(member.rows), bool)
    is_known[where] = True
    unknown = Counter(truth.names[code] for code in truth.values[~is_known]) if truth.names else Counter[str]()
    split, is_new = split_of(predictions, names=names), ~is_seen[where]
    cell = replace(cell, num_all=len(where), num=int(is_new.sum()), unknown=dict(unknown))
    cell = replace(cell, score_all=kind.of(split).score)
    if not is_new.any():
        return replace(cell, problem="every photo of its test split is of the training of a build")
    chosen = _chosen(split, is_new)
    results: Results = kind.of(chosen)
    cell = replace(cell, score=results.score, interval=results.interval, baseline=results.baseline)
    return replace(cell, in_group=_in_group(chosen, plan.buckets) if plan.buckets and not names else None)


def _names_of(predictions: pa.Table, truth: Target) -> tuple[str, ...]:
    """The classes of a run, as it wrote them down; empty for a number."""
    return tuple(manifest.metadata_of(predictions).get("names", ())) if truth.names else ()


def _chosen(split: SplitPredictions, mask: metrics.Truths) -> SplitPredictions:
    arrays: dict[str, Any] = {name: getattr(split, name)[mask] for name in ("predictions", "targets", "losses")}
    return replace(split, **arrays)


def _in_group(split: SplitPredictions, buckets: Bins) -> Share | None:
    """How often the predicted age, in whole years, is in the age group of the true one; None outside of all groups."""
    true = buckets.codes(split.targets)
    if (is_in := true >= 0).sum() == 0:
        return None
    predicted = buckets.codes(np.maximum(np.rint(split.predictions[:, 0]), 0.0))[is_in]
    is_right = predicted == true[is_in]
    commonest = np.bincount(true[is_in]).max() / is_in.sum()
    return Share(float(is_right.mean()), metrics.interval(is_right), float(commonest))
