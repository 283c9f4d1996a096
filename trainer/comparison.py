"""Comparison: one self-contained page that shows runs side by side."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from facepack.description import SPLITS
from facepack.errors import JobError, UsageError
from facepack.page import rendered
from facepack.storage import Store
from trainer import plots, report
from trainer.plots import Line, Plot
from trainer.run_record import RunRecord, distinct_names

_MAX_WITH_BOTH_CURVES = 4


def compare(folders: Sequence[Path], *, out: Path, title: str = "") -> Path:
    """Write one page that shows runs side by side; `UsageError` where their scores are not of one kind."""
    records, names = [RunRecord.read(folder) for folder in folders], distinct_names(folders)
    score = records[0].run.recipe.task.score
    for record in records:
        if record.run.recipe.task.score != score:
            other = record.run.recipe.task.score
            raise UsageError(f"{record.folder}: its score is {other}, that of the first run {score}")
    shown: dict[str, Any] = {
        "title": title or f"{len(records)} runs",
        "names": names,
        "rows": [row_of(record, name=name) for name, record in zip(names, records, strict=True)],
        "curves": _curves(names, records),
        "small_plots": _small_plots(names, records),
        "differing": _differing(records),
        "splits": [split for split in SPLITS if any(split in record.results for record in records)],
        "score": score,
        "baseline": "majority" if records[0].run.recipe.task.greater_is_better else "median",
    }
    store = Store(str(out.parent))
    store.make()
    content = rendered(Path(__file__).with_name("compare.html"), **shown)
    store.write(out.name, content.encode("utf-8", "backslashreplace"))
    return out


def row_of(record: RunRecord, *, name: str) -> dict[str, Any]:
    """A run as one row of a table over several: figures by split, the baseline of the score, and what it cost."""
    run, score = record.run, record.run.recipe.task.score
    builds = "+".join(Path(location).name for location in run.locations)
    row: dict[str, Any] = {"run": name, "recipe": run.recipe_name, "build": builds}
    for split, results in record.results.items():
        low, high = results.interval
        row |= {f"{split}_{score}": results.score, f"{split}_{score}_low": low, f"{split}_{score}_high": high}
        row[f"{split}_loss"] = results.loss
    row["baseline"] = record.results[record.split].baseline if record.split else None
    with suppress(OSError, JobError):  # the build is not at hand
        row["num_leaking"] = report.people_in_several_splits(run).num_leaking
    row |= {"epochs": len(record.history)}
    row |= {"best_epoch": None if record.best_epoch is None else record.best_epoch + 1, "seconds": record.seconds}
    return row | {
        "images_per_s": record.images_per_s,
        "num_weights": run.num_weights,
        "num_learning": run.num_learning,
    }


def _differing(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Fields that differ, with the value of each run."""
    recipes = [record.run.recipe.to_dict() for record in records]
    fields = {name: [f"{recipe.get(name)}" for recipe in recipes] for recipe in recipes for name in recipe}
    fields["data"] = [", ".join(f"{b.location} ({b.digest[:8]})" for b in record.run.mixed) for record in records]
    fields["arithmetic"] = [record.run.precision for record in records]
    for name in ("versions", "machine"):
        pairs = [getattr(record.run, name).items() for record in records]
        fields[name] = [", ".join(f"{key} {value}" for key, value in items) for items in pairs]
    return {name: values for name, values in fields.items() if len(set(values)) > 1}


def _curves(names: Sequence[str], records: Sequence[RunRecord]) -> list[Plot]:
    """Loss and score of all runs, in one plot each."""
    drawn = []
    splits = ("valid", "train") if len(records) <= _MAX_WITH_BOTH_CURVES else ("valid",)
    for what in ("loss", records[0].run.recipe.task.score):
        lines = []
        for number, (name, record) in enumerate(zip(names, records, strict=True)):
            for split in splits:
                values = [row[f"{split}_{what}"] for row in record.history if f"{split}_{what}" in row]
                if len(values) > 1 or len(records) == 1:
                    best = record.best_epoch if split == "valid" else None
                    label = f"{name} {split}" if len(splits) > 1 else name
                    limits = report.limits_of(record, f"{split}_{what}") if split == "valid" else []
                    lines.append(Line(label, values, number, split == "train", best, limits))
        if lines:
            title = report.curve_title(what) + ("" if len(splits) > 1 else " of valid")
            drawn.append(plots.curves(f"compare-{what}", title, lines, what=what.replace("_", " ")))
    return drawn


def _small_plots(names: Sequence[str], records: Sequence[RunRecord]) -> list[Plot]:
    """The results of each run at a glance, where its kind has a plot for that."""
    drawn = []
    for name, record in zip(names, records, strict=True):
        if record.split:
            results, title = record.results[record.split], f"{name} on {record.split}"
            drawn.append(results.small_plot(name, title, names=record.run.names))
    return [plot for plot in drawn if plot is not None]
