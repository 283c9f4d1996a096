"""Report: one self-contained page on a run."""

import webbrowser
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.description import SPLITS
from facepack.errors import JobError, UsageError
from facepack.manifest import Status
from facepack.page import rendered
from facepack.storage import Store
from trainer import mistakes, plots, runs
from trainer.data import OTHER, TrainedOn
from trainer.folds import Fold, split_by_fold
from trainer.mistakes import Worst
from trainer.plots import Line, Plot
from trainer.recipe import Recipe
from trainer.results import groups
from trainer.results.protocol import Figure, ResultTable
from trainer.run_record import RunRecord
from trainer.runs import Run

_MAX_CLASSES = 60
_PACKED = [Status.PACKED]
_SPLITS: tuple[str, ...] = SPLITS


@dataclass(frozen=True)
class TimeShare:
    """What took time in a run, and how many images per second it did."""

    name: str
    seconds: float
    kind: str
    """How its bar is drawn, by a class of page.css."""
    images_per_s: float | None = None


@dataclass(frozen=True)
class PeopleInSplits:
    """People of a build who are in more than one split (None where it does not name people), and all of them."""

    num_leaking: int | None
    num_people: int = 0


@dataclass(frozen=True)
class RunPage:
    """All that the page of a run shows."""

    record: RunRecord
    headline: list[Figure]
    facts: list[tuple[str, str]]
    plots: list[Plot]
    tables: list[ResultTable]
    worst: Worst
    notes: list[str]
    times: list[TimeShare]
    counts: list[tuple[str, dict[str, int]]]
    rejects: list[tuple[str, int]]
    people: str


def write(folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a run, by default report.html in its folder, and its plots as PNG beside; gives its path."""
    page, out = page_of(folder), out or folder / runs.REPORT_FILE
    store = Store(str(out.parent))
    store.make()
    for plot in page.plots:
        store.write(f"{plot.name}.png", plot.png)
    content = rendered(Path(__file__).with_name("report.html"), page=page, splits=SPLITS)
    store.write(out.name, content.encode("utf-8", "backslashreplace"))
    return out


def open_page(path: Path) -> None:
    """Show a page in a browser."""
    webbrowser.open(path.absolute().as_uri())


def page_of(folder: Path) -> RunPage:
    """Put together what the page of a run shows; raises `JobError` where there is no run."""
    record = RunRecord.read(folder)
    run, predictions = record.run, record.predictions(record.split)
    return RunPage(
        record=record,
        headline=_headline(record),
        facts=_facts(record),
        plots=_plots(record, predictions),
        tables=_tables(record),
        worst=mistakes.worst(predictions, run=run, builds=run.builds),
        notes=list(_notes(record)),
        times=_times(record),
        counts=_counts(run),
        rejects=_rejects(run),
        people=_people(run),
    )


# Figures


def _notes(record: RunRecord) -> Iterator[str]:
    """What a reader might misread."""
    recipe, task = record.run.recipe, record.run.recipe.task
    if record.scores is None:
        yield "This run has not ended: the figures of valid and test are written after the last epoch."
    elif not record.results:
        yield "The build has neither a valid nor a test split, so nothing was scored."
    if recipe.mixup or task != task.scored:
        yield "The training curves are of mixed, smoothed or weighted labels, so they lie apart from validation's."
    if "valid" in record.results and (recipe.calibrate or task.results.fits_thresholds):
        fitted = ["temperature"] * recipe.calibrate + ["thresholds"] * task.results.fits_thresholds
        verb = "was" if fitted == ["temperature"] else "were"
        yield f"The {' and the '.join(fitted)} {verb} fitted on valid, so its figures are a little too good."
    if record.scores:
        yield from filter(None, map(record.scores.seen_line, record.results))


def _headline(record: RunRecord) -> list[Figure]:
    """The few figures that matter, of test and valid."""
    return [
        Figure(f"{split} {figure.name}", figure.value, figure.baseline)
        for split in ("test", "valid")
        if split in record.results
        for figure in record.results[split].headline()
    ]


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    run, recipe, best = record.run, record.run.recipe, record.best_epoch
    configuration = run.data.configuration
    choices = {"size": configuration.size, "align": configuration.align, "encoding": configuration.encoding}
    choices |= {"split": configuration.split or "by default", "seed": f"{configuration.seed}"}
    machine = (run.machine.get("gpu"), run.machine["processor"])
    facts = {
        "epochs": f"{len(record.history)} of {recipe.epochs}" + ("" if best is None else f", the best is {best + 1}"),
        "network": f"{recipe.network}: {run.num_weights:,} weights",
        "learning": f"{run.num_learning:,} weights; the others are frozen" * (run.num_learning < run.num_weights),
        "images": f"{run.size_hw[1]}x{run.size_hw[0]} pixels",
        "build": ", ".join(f"{name} {value}" for name, value in choices.items()),
        "time": f"{_duration(record.seconds)}, {record.images_per_s:,.0f} images/s in training",
        "machine": ", ".join(name for name in machine if name),
        "arithmetic": f"{run.precision}, {run.machine['cores']} cores",
    }
    for split, results in record.results.items():
        for name, text in results.facts().items():
            facts[name] = ", ".join([*filter(None, [facts.get(name)]), f"{text} {split}"])
    if record.scores and recipe.calibrate:
        facts["temperature"] = f"{record.scores.temperature:.2f}"
    return [(name, text) for name, text in facts.items() if text]


def limits_of(record: RunRecord, name: str) -> list[tuple[float, float]]:
    """The 95 % interval of a column of metrics.csv in each epoch; empty where it has none."""
    low, high = f"{name}_low", f"{name}_high"
    return [(row[low], row[high]) for row in record.history if low in row and high in row]


def curve_title(what: str) -> str:
    """The title of a plot of values over epochs."""
    return f"{what.replace('_', ' ').capitalize()} over epochs"


def _plots(record: RunRecord, predictions: pa.Table | None) -> list[Plot]:
    """Curves, then the plots of the results, of which only the split that counts has its predictions drawn."""
    drawn = []
    for what in ("loss", record.run.recipe.task.score):
        lines = []
        for number, split in enumerate(("train", "valid")):
            values = [row[f"{split}_{what}"] for row in record.history if f"{split}_{what}" in row]
            if values:
                best = record.best_epoch if split == "valid" else None
                limits = limits_of(record, f"{split}_{what}")
                lines.append(Line(split, values, number, split == "train", best_epoch=best, limits=limits))
        if lines:
            drawn.append(plots.curves(f"curves-{what}", curve_title(what), lines, what=what.replace("_", " ")))
    for split in ("test", "valid", "train"):
        if split in record.results:
            shown = predictions if split == record.split else None
            drawn += record.results[split].plots(split, names=record.run.names, predictions=shown)
    return drawn


def _tables(record: RunRecord) -> list[ResultTable]:
    """Those of the results of the split that counts, and its score by group."""
    if record.scores is None or not record.split:
        return []
    by_group = record.scores.groups.get(record.split, ())
    score, split = record.run.recipe.task.score, record.split
    return [*record.results[split].tables(split), *groups.tables(by_group, split=split, score=score)]


def _times(record: RunRecord) -> list[TimeShare]:
    """Where the time went."""
    run, wait, num_epochs = record.run, record.total("wait_s"), len(record.times)
    counts = {split: num_epochs * run.num_packed(split) for split in _SPLITS}
    counts["train"] *= run.recipe.copies
    if run.negatives is not None:  # as many others beside them
        counts = {split: 2 * number for split, number in counts.items()}
    busy_s, valid_s = record.total("train_s") - wait, record.total("valid_s")
    return [
        TimeShare("training", busy_s, "train", counts["train"] / max(busy_s, 1e-9)),
        TimeShare("waiting for the loader", wait, "bad"),
        TimeShare("validation", valid_s, "valid", counts["valid"] / max(valid_s, 1e-9) if counts["valid"] else None),
        TimeShare("keeping checkpoints", record.total("save_s"), "test"),
    ]


# What it was trained on


def _counts(run: Run) -> list[tuple[str, dict[str, int]]]:
    """Packed images per class and split, all classes last."""
    names = list(dict.fromkeys(name for build in run.mixed for name in build.class_names))[:_MAX_CLASSES]
    rows = [(name, {split: run.num_packed(split, class_name=name) for split in _SPLITS}) for name in names]
    if run.negatives is not None and run.recipe.negatives is not None:
        drawn = {s: sum(numbers[s] for _, numbers in rows) for s in _SPLITS}
        num_there = manifest.total(run.negatives.counts, split="train", statuses=_PACKED)
        drawn["train"] = min(drawn["train"] * run.recipe.negatives.times, num_there)
        rows.append((f"{OTHER}, drawn from {run.negatives.location}", drawn))
    return [*rows, ("", {split: run.num_packed(split) for split in _SPLITS})]


def _rejects(run: Run) -> list[tuple[str, int]]:
    """Images that were not packed, by reason."""
    rejects: Counter[str] = Counter()
    for build in run.mixed:
        for status in Status:
            if status != Status.PACKED:
                rejects[str(status)] += manifest.total(build.counts, statuses=[status])
        rejects.update({f"left out: {reason}": number for reason, number in build.left_out.items()})
    return [(reason, number) for reason, number in rejects.items() if number]


def people_in_several_splits(run: Run) -> PeopleInSplits:
    """How many people of a run's builds are in more than one split, by the identities their dataset descriptions name.

    A name is one person in all builds of one dataset. Raises `JobError` or `OSError` where a build is not at hand.
    """
    tables = [table for build in run.mixed if (table := _people_of(build, run.recipe)) is not None]
    if not tables:
        return PeopleInSplits(None)
    people = pa.concat_tables(tables)
    leaking = manifest.people_in_several_splits(people, "person")["person"]
    return PeopleInSplits(len(leaking.unique()), len(people["person"].unique()))


def _people_of(build: TrainedOn, recipe: Recipe) -> pa.Table | None:
    """The person and the split of each packed row; None where the dataset names no identities."""
    dataset = build.configuration.dataset
    try:
        named = build.configuration.described.labels_of("identity")
    except UsageError:  # a description that is not here
        return None
    table = manifest.read_table(Store(build.location), manifest.MANIFEST_FILE)
    columns = [name for name in named if name in table.column_names]
    if not columns:
        return None
    if recipe.fold:
        table = split_by_fold(table, Fold.of(recipe.fold), seed=recipe.seed, people=named)
    rows = table.filter(pc.and_(pc.equal(table["status"], Status.PACKED), pc.is_valid(table[columns[0]])))
    people = pc.binary_join_element_wise(dataset, rows[columns[0]].cast(pa.string()), "/")
    return pa.table({"person": people, "split": rows["split"].cast(pa.string())})


def _people(run: Run) -> str:
    """How many people are in more than one split."""
    try:
        people = people_in_several_splits(run)
    except (OSError, JobError):
        return "The build is not at hand, so it is not known whether people are in several splits."
    if people.num_leaking is None:
        return "The dataset names no identities, so it is not known whether people are in several splits."
    if not people.num_leaking:
        return f"None of its {people.num_people:,} people is in more than one split."
    return (
        f"{people.num_leaking:,} of {people.num_people:,} people are in more than one split, so the figures are too "
        "good; facepack build --split identity keeps people apart."
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
