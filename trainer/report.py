"""Report: one self-contained page on a run, or on several side by side."""

import csv
import json
import webbrowser
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import image, manifest
from facepack.errors import JobError, UsageError
from facepack.manifest import Status, people_in_several_splits
from facepack.page import jpeg_uri, rendered
from facepack.storage import Store
from trainer import plots, runs
from trainer.data import OTHER
from trainer.plots import Line, Plot
from trainer.runs import Run
from trainer.stopping import best_epoch

_NUM_MISTAKES, _MAX_PER_KIND = 36, 3
_MAX_CLASSES = 60
_MAX_WITH_BOTH_CURVES, _MAX_CONFUSED = 4, 12
_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Mistake:
    """A picture as a data: URI, what it is and what was said of it."""

    uri: str
    said: str
    true: str
    sureness: str
    key: str


@dataclass(frozen=True)
class RunRecord:
    """All that is known of a run, as its files tell it."""

    folder: Path
    run: Run
    history: list[dict[str, float]]
    times: list[dict[str, float]]
    scores: dict[str, Any]
    """As scores.json; without splits where the run has not ended."""

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Read a run's folder; `JobError` where there is none."""
        run = runs.read(folder)
        scores: dict[str, Any] = {"splits": {}, "score": run.recipe.task.score}
        if (folder / runs.SCORES_FILE).exists():
            try:
                scores = json.loads((folder / runs.SCORES_FILE).read_bytes())
                scores["splits"].items()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise JobError(f"{folder / runs.SCORES_FILE}: damaged; facepack evaluate writes it again") from error
        history, times = (_rows(folder / name) for name in (runs.METRICS_FILE, runs.TIMES_FILE))
        return cls(folder, run, history, times, scores)

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.absolute().name

    @property
    def best_epoch(self) -> int | None:
        """Counted from 0; None before the first ended."""
        if "epoch" in self.scores:
            return int(self.scores["epoch"])
        return best_epoch(self.history, self.run.recipe) if self.history else None

    @property
    def split(self) -> str:
        """The split that speaks for the run: test, where there is one."""
        return next((one for one in ("test", "valid", "train") if one in self.scores["splits"]), "")

    @property
    def has_ended(self) -> bool:
        """True once all epochs are done and scored."""
        return "epoch" in self.scores

    def total(self, name: str) -> float:
        """The sum of a column of times.csv."""
        return sum(row.get(name, 0.0) for row in self.times)

    @property
    def images_per_s(self) -> float:
        """Mean over all epochs but the first, which reads and decodes, where there are several."""
        rates = [row["images_per_s"] for row in self.times]
        return float(np.mean(rates[1:] or rates)) if rates else 0.0


@dataclass(frozen=True)
class Stage:
    """A part of the time of a run, and how many images per second it did."""

    name: str
    seconds: float
    colour: str
    images_per_s: float | None = None


@dataclass(frozen=True)
class Page:
    """All that the page of a run shows."""

    story: RunRecord
    headline: list[tuple[str, str, str]]
    """What, how much, and beside what."""
    facts: list[tuple[str, str]]
    plots: list[Plot]
    mistakes: list[Mistake]
    notes: list[str]
    stages: list[Stage]
    counts: list[tuple[str, dict[str, int]]]
    rejects: list[tuple[str, int]]
    leaks: str
    classes: list[dict[str, Any]] = field(default_factory=list)
    attributes: list[dict[str, Any]] = field(default_factory=list)
    decades: list[dict[str, Any]] = field(default_factory=list)
    num_mistakes: int = 0
    num_hidden_classes: int = 0


def write(folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a run, report.html in its folder unless `out` says otherwise, and its plots as PNG beside."""
    page, out = page_of(folder), out or folder / runs.REPORT_FILE
    store = Store(str(out.parent))
    store.make()
    for plot in page.plots:
        store.write(f"{plot.name}.png", plot.png)
    content = rendered(Path(__file__).with_name("report.html"), page=page, splits=_SPLITS)
    store.write(out.name, content.encode("utf-8", "backslashreplace"))
    return out


def compare(folders: list[Path], *, out: Path, title: str = "") -> Path:
    """Write one page that shows runs side by side; `UsageError` where their scores are not of one kind."""
    stories = [RunRecord.read(folder) for folder in folders]
    names = runs.distinct_names(folders)
    score = stories[0].run.recipe.task.score
    if other := next((story for story in stories if story.run.recipe.task.score != score), None):
        raise UsageError(f"{other.folder}: its score is {other.run.recipe.task.score}, that of the first run {score}")
    recipe_fields = [story.run.recipe.to_dict() for story in stories]
    fields = {name: [f"{one[name]}" for one in recipe_fields] for name in recipe_fields[0]}
    fields |= {"data": [f"{story.run.data.location} ({story.run.data.digest[:8]})" for story in stories]}
    fields |= {"arithmetic": [story.run.precision for story in stories]}
    for name in ("versions", "machine"):
        fields[name] = [", ".join(f"{key} {one}" for key, one in getattr(story.run, name).items()) for story in stories]
    shown: dict[str, Any] = {
        "title": title or f"{len(stories)} runs",
        "names": names,
        "rows": [row_of(story, name=name) for name, story in zip(names, stories, strict=True)],
        "curves": _curves_of_several(names, stories),
        "confusions": _confusions(names, stories),
        "differing": {name: values for name, values in fields.items() if len(set(values)) > 1},
        "splits": [
            one for one in ("train", "valid", "test") if any(one in story.scores["splits"] for story in stories)
        ],
        "score": score,
    }
    content = rendered(Path(__file__).with_name("compare.html"), **shown)
    store = Store(str(out.parent))
    store.make()
    store.write(out.name, content.encode("utf-8", "backslashreplace"))
    return out


def row_of(story: RunRecord, *, name: str) -> dict[str, Any]:
    """A run as one row of a table over several: figures by split, what knowing nothing gives, and what it cost."""
    row: dict[str, Any] = {"run": name, "recipe": story.run.recipe_name, "build": Path(story.run.data.location).name}
    score = story.run.recipe.task.score
    for split, figures in story.scores["splits"].items():
        row |= {f"{split}_{score}": figures[score], f"{split}_loss": figures["loss"]}
    figures = story.scores["splits"].get(story.split, {})
    known = [figures[one] for one in ("majority", "median_baseline") if one in figures]
    row["baseline"] = known[0] if known else None
    with suppress(OSError, JobError):  # the build is not at hand
        row["num_leaking"] = _num_leaking(story.run)[0]
    row |= {"epochs": len(story.history), "best_epoch": None if story.best_epoch is None else story.best_epoch + 1}
    row |= {"seconds": sum(story.total(one) for one in ("train_s", "valid_s", "save_s"))}
    row |= {"images_per_s": story.images_per_s, "num_weights": story.run.num_weights}
    return row | {"num_learning": story.run.num_learning}


def _curves_of_several(names: list[str], stories: list[RunRecord]) -> list[Plot]:
    """Loss and score of all runs, in one plot each."""
    drawn, score = [], stories[0].run.recipe.task.score
    kinds = ("valid", "train") if len(stories) <= _MAX_WITH_BOTH_CURVES else ("valid",)
    for what in ("loss", score):
        lines = []
        for number, (name, story) in enumerate(zip(names, stories, strict=True)):
            for kind in kinds:
                values = [row[f"{kind}_{what}"] for row in story.history if f"{kind}_{what}" in row]
                if len(values) > 1 or len(stories) == 1:
                    best = story.best_epoch if kind == "valid" else None
                    label = f"{name} {kind}" if len(kinds) > 1 else name
                    lines.append(Line(label, values, number, kind == "train", best))
        if lines:
            over = "" if len(kinds) > 1 else " of valid"
            drawn.append(plots.curves(f"compare-{what}", f"{_title(what)}{over}", lines, what=what.replace("_", " ")))
    return drawn


def _confusions(names: list[str], stories: list[RunRecord]) -> list[Plot]:
    """What each run said of each class."""
    drawn = []
    for name, story in zip(names, stories, strict=True):
        figures = story.scores["splits"].get(story.split, {})
        if "confusion" in figures and len(story.run.names) <= _MAX_CONFUSED:
            matrix = np.array(figures["confusion"])
            drawn.append(plots.confusion(f"confusion-{name}", f"{name} on {story.split}", matrix, story.run.names))
    return drawn


def opened(path: Path) -> None:
    """Show a page in a browser."""
    webbrowser.open(path.absolute().as_uri())


def page_of(folder: Path) -> Page:
    """Put together what the page of a run shows; raises `JobError` where there is no run."""
    story = RunRecord.read(folder)
    figures = story.scores["splits"].get(story.split, {})
    notes = list(_notes(story))
    predictions = _predictions(folder, story.split)
    mistakes, num_mistakes = [], 0
    if predictions is not None:
        wrong = _wrong(predictions, story.run)
        num_mistakes = len(wrong)
        try:
            mistakes = _mistakes(wrong, story.run)
        except (JobError, OSError, UsageError, image.BadImageError, KeyError) as error:
            notes.append(f"The build is not at hand, so no mistake can be shown ({error}).")
    return Page(
        story=story,
        headline=_headline(story),
        facts=_facts(story),
        plots=_plots(story, predictions),
        mistakes=mistakes,
        notes=notes,
        stages=_stages(story),
        counts=_counts(story.run),
        rejects=_rejects(story.run),
        leaks=_leaks(story.run),
        classes=sorted(figures.get("per_class", []), key=lambda row: row["f1"])[:_MAX_CLASSES],
        attributes=sorted(figures.get("per_attribute", []), key=lambda row: row["accuracy"] - row["majority"]),
        decades=figures.get("per_decade", []),
        num_mistakes=num_mistakes,
        num_hidden_classes=max(0, len(story.run.data.class_names) - _MAX_CLASSES),
    )


# Figures


def _notes(story: RunRecord) -> Iterator[str]:
    """What a reader would otherwise take wrongly."""
    recipe, task = story.run.recipe, story.run.recipe.task
    if not story.has_ended:
        yield "This run has not ended: the figures of valid and test are written after the last epoch."
    elif not story.scores["splits"]:
        yield "The build has neither a valid nor a test split, so nothing was scored."
    if recipe.mixup or task != task.scored:
        yield "The training curves are of mixed or smoothed labels, so they lie apart from those of validation."
    fitted = ["temperature"] * recipe.calibrate + ["thresholds"] * (task.kind == "attributes")
    if "valid" in story.scores["splits"] and fitted:
        yield f"The {' and the '.join(fitted)} were fitted on valid, so its figures flatter a little."


def _headline(story: RunRecord) -> list[tuple[str, str, str]]:
    """The few figures that matter, each beside what knowing nothing gives."""
    found = []
    kind = story.run.recipe.task.kind
    for split in ("test", "valid"):
        figures = story.scores["splits"].get(split)
        if figures is None:
            continue
        if kind == "number":
            beside = f"{figures['median_baseline']:.2f} for the median"
            found.append((f"{split} error", f"{figures['absolute_error']:.2f}", beside))
            share = figures["cumulative_score"]
            found.append((f"{split} within 5 years", f"{100 * share:.1f} %", f"of {figures['num']:,} images"))
            continue
        beside = f"{100 * figures['majority']:.1f} % for the commonest answer"
        found.append((f"{split} accuracy", f"{100 * figures['accuracy']:.1f} %", beside))
        if kind == "classes":
            beside = f"{figures['majority_macro_f1']:.3f} for the commonest answer"
            found.append((f"{split} macro F1", f"{figures['macro_f1']:.3f}", beside))
        elif "average_precision" in figures:
            text = f"{100 * figures['balanced_accuracy']:.1f} %"
            found.append((f"{split} balanced accuracy", text, "50 % for any constant answer"))
            beside = f"{figures['positives']:.3f} for any constant answer"
            found.append((f"{split} average precision", f"{figures['average_precision']:.3f}", beside))
    return found


def _facts(story: RunRecord) -> list[tuple[str, str]]:
    run, recipe = story.run, story.run.recipe
    best = story.best_epoch
    seconds = story.total("train_s") + story.total("valid_s") + story.total("save_s")
    configuration = run.data.configuration
    choices = {"size": configuration.size, "align": configuration.align, "encoding": configuration.encoding}
    choices |= {"split": configuration.split or "by default", "seed": f"{configuration.seed}"}
    facts = [
        ("epochs", f"{len(story.history)} of {recipe.epochs}" + ("" if best is None else f", the best is {best + 1}")),
        ("network", f"{recipe.network}: {run.num_weights:,} weights"),
        ("images", f"{run.size_hw[1]}x{run.size_hw[0]} pixels"),
        ("build", ", ".join(f"{name} {value}" for name, value in choices.items())),
        ("time", f"{_duration(seconds)}, {story.images_per_s:,.0f} images/s in training"),
        ("machine", ", ".join(f"{value}" for value in (run.machine.get("gpu"), run.machine["processor"]) if value)),
        ("arithmetic", f"{run.precision}, {run.machine['cores']} cores"),
    ]
    if run.num_learning < run.num_weights:
        facts.insert(2, ("learning", f"{run.num_learning:,} weights; the others are frozen"))
    splits = story.scores["splits"].items()
    errors = [
        f"{figures['calibration_error']:.3f} {name}" for name, figures in splits if "calibration_error" in figures
    ]
    if errors:
        temperature = story.scores["temperature"]
        facts.append(("calibration error", f"{', '.join(errors)}, at temperature {temperature:.2f}"))
    losses = [f"{figures['loss']:.4f} {name}" for name, figures in splits]
    priors = [f"{figures['prior_loss']:.4f}" for _, figures in splits if "prior_loss" in figures]
    facts.append(("loss", ", ".join(losses) + (f" ({', '.join(priors)} for frequencies alone)" if priors else "")))
    return [(name, text) for name, text in facts if text]


def _plots(story: RunRecord, predictions: pa.Table | None) -> list[Plot]:
    drawn = []
    score = story.run.recipe.task.score
    for what in ("loss", score):
        lines = []
        for number, split in enumerate(("train", "valid")):
            values = [row[f"{split}_{what}"] for row in story.history if f"{split}_{what}" in row]
            if values:
                lines.append(Line(split, values, number, best_epoch=story.best_epoch if split == "valid" else None))
        if lines:
            drawn.append(plots.curves(f"curves-{what}", _title(what), lines, what=what.replace("_", " ")))
    for split in ("test", "valid", "train"):
        figures = story.scores["splits"].get(split, {})
        if "confusion" in figures:
            matrix = np.array(figures["confusion"])
            title = f"Confusion on {split}, each row adding up to one"
            drawn.append(plots.confusion(f"confusion-{split}", title, matrix, story.run.names))
    if predictions is not None and story.run.recipe.task.kind == "number":
        true, said = (predictions[name].to_numpy() for name in ("target", "prediction"))
        title = f"Said against true on {story.split}"
        drawn.append(plots.said_against_true(f"said-{story.split}", title, true, said))
        drawn.append(plots.error_by_value("error-by-age", f"Error against age on {story.split}", true, said))
        title = f"Share of {story.split} with an error of at most so many years"
        drawn.append(plots.cumulative_score("cumulative-score", title, true, said))
    return drawn


def _title(what: str) -> str:
    return f"{what.replace('_', ' ').capitalize()} over epochs"


def _stages(story: RunRecord) -> list[Stage]:
    """Where the time went."""
    wait, num_epochs = story.total("wait_s"), len(story.times)
    counts = {s: num_epochs * manifest.total(story.run.data.counts, split=s, statuses=[Status.PACKED]) for s in _SPLITS}
    counts["train"] *= story.run.recipe.copies
    if story.run.negatives is not None:  # as many others beside them
        counts = {split: 2 * number for split, number in counts.items()}
    busy_s, valid_s = story.total("train_s") - wait, story.total("valid_s")
    return [
        Stage("training", busy_s, "--train", counts["train"] / max(busy_s, 1e-9)),
        Stage("waiting for the loader", wait, "--bad"),
        Stage("validation", valid_s, "--valid", counts["valid"] / max(valid_s, 1e-9) if counts["valid"] else None),
        Stage("keeping checkpoints", story.total("save_s"), "--test"),
    ]


# What it was trained on


def _counts(run: Run) -> list[tuple[str, dict[str, int]]]:
    """Packed images per class and split, all classes last."""
    packed = [Status.PACKED]
    rows = [
        (name, {s: manifest.total(run.data.counts, split=s, class_name=name, statuses=packed) for s in _SPLITS})
        for name in run.data.class_names[:_MAX_CLASSES]
    ]
    if run.negatives is not None and run.recipe.negatives is not None:
        drawn = {s: sum(numbers[s] for _, numbers in rows) for s in _SPLITS}
        there = manifest.total(run.negatives.counts, split="train", statuses=packed)
        drawn["train"] = min(drawn["train"] * run.recipe.negatives.times, there)
        rows.append((f"{OTHER}, drawn from {run.negatives.location}", drawn))
    return [*rows, ("", {s: manifest.total(run.data.counts, split=s, statuses=packed) for s in _SPLITS})]


def _rejects(run: Run) -> list[tuple[str, int]]:
    """Images that were not packed, by reason."""
    reasons = [status for status in Status if status != Status.PACKED]
    found = [(str(one), manifest.total(run.data.counts, statuses=[one])) for one in reasons]
    rest = [(f"left out: {why}", number) for why, number in run.data.left_out.items()]
    return [(reason, number) for reason, number in [*found, *rest] if number]


def _num_leaking(run: Run) -> tuple[int | None, int]:
    """People who are in more than one split, None where the build does not say who is who; and all of them."""
    table = manifest.read_table(Store(run.data.location), manifest.MANIFEST_FILE)
    if "identity" not in table.column_names:
        return None, 0
    known = table.filter(pc.and_(pc.equal(table["status"], Status.PACKED), pc.is_valid(table["identity"])))
    shared = people_in_several_splits(known, "identity")["identity"]
    return len(shared.unique()), len(known["identity"].unique())


def _leaks(run: Run) -> str:
    """How many people are in more than one split."""
    try:
        shared, num_people = _num_leaking(run)
    except (OSError, JobError):
        return "The build is not at hand, so it cannot be said whether people are in several splits."
    if shared is None:
        return "It does not say who is who, so it cannot be said whether people are in several splits."
    if not shared:
        return f"None of its {num_people:,} people is in more than one split."
    return (
        f"{shared:,} of {num_people:,} people are in more than one split, so the figures flatter; "
        "facepack build --split identity keeps people apart."
    )


# Mistakes


def _predictions(folder: Path, split: str) -> pa.Table | None:
    """predictions.parquet of a split, where it is there."""
    if not split or not (folder / runs.PREDICTIONS_FILE).exists():
        return None
    table = manifest.read_table(Store(str(folder)), runs.PREDICTIONS_FILE)
    return table.filter(pc.equal(table["split"], split))


@dataclass(frozen=True)
class _Wrong:
    """A wrong answer, and how bad it is."""

    row: int
    key: str
    said: str
    true: str
    sureness: str
    badness: float


def _wrong(predictions: pa.Table, run: Run) -> list[_Wrong]:
    """Wrong answers, the surest first; of attributes, few of each."""
    rows, keys = predictions["row"].to_pylist(), predictions["key"].to_pylist()
    kind = run.recipe.task.kind
    found: list[_Wrong] = []
    if kind == "number":
        true, said = (predictions[name].to_numpy().astype(float) for name in ("target", "prediction"))
        for number in np.argsort(-np.abs(true - said)):
            error = f"off by {abs(said[number] - true[number]):.1f}"
            badness = float(abs(true[number] - said[number]))
            told = (f"{said[number]:.1f}", f"{true[number]:g}", error)
            found.append(_Wrong(rows[number], keys[number], *told, badness))
        return found
    sure = _probabilities(predictions)
    targets, answers = predictions["target"].to_pylist(), predictions["prediction"].to_pylist()
    if kind == "classes":
        for number in np.flatnonzero(np.array(targets, object) != np.array(answers, object)):
            most = float(sure[number].max())
            told = (answers[number], targets[number], f"{100 * most:.0f} %")
            found.append(_Wrong(rows[number], keys[number], *told, most))
        return sorted(found, key=lambda one: -one.badness)
    for column, name in enumerate(run.names):
        truth = np.array([name in target for target in targets])
        off = np.abs(sure[:, column] - truth)
        for number in np.argsort(-off)[:_MAX_PER_KIND]:
            if off[number] > 0.5:
                said, true = (name, f"not {name}") if not truth[number] else (f"not {name}", name)
                told = (said, true, f"{100 * off[number]:.0f} %")
                found.append(_Wrong(rows[number], keys[number], *told, float(off[number])))
    return sorted(found, key=lambda one: -one.badness)


def _probabilities(predictions: pa.Table) -> npt.NDArray[np.float32]:
    column = predictions["probabilities"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(), np.float32).reshape(len(predictions), -1)


def _mistakes(wrong: list[_Wrong], run: Run) -> list[Mistake]:
    """The worst of them as pictures, read out of the shards."""
    shown = wrong[:_NUM_MISTAKES]
    parts = [run.data.location, *([run.recipe.negatives.build] if run.recipe.negatives else [])]
    found, first = {}, 0
    for location in parts:
        store = Store(location)
        table = manifest.read_table(store, manifest.MANIFEST_FILE)
        encoding = manifest.read_build(location).configuration.encoding
        inside = [one for one in shown if first <= one.row < first + len(table)]
        places = table.take(pa.array([one.row - first for one in inside], pa.int64()))
        for one, place in zip(inside, places.select(["key", "shard", "offset", "size"]).to_pylist(), strict=True):
            if place["key"] != one.key:
                raise JobError(f"{location}: built again since")
            content = store.read_range(place["shard"], start=place["offset"], length=place["size"])
            if encoding == "raw":
                content = image.encode_jpeg(image.decode_packed(content, encoding=encoding), quality=90)
            found[one] = Mistake(jpeg_uri(content), one.said, one.true, one.sureness, one.key)
        first += len(table)
    return [found[one] for one in shown]


# Small things


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
