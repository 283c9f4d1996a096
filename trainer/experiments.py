"""Experiment: several recipes, or one with several settings, on the same images, and one table and page over them."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from facepack import manifest
from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import choosing, comparison, recipes, report, runs, training
from trainer.data import TrainedOn
from trainer.recipe import Recipe
from trainer.run_record import RunRecord
from trainer.watching import Watcher

_NO_SCORES = ("_loss", "_low", "_high")
TABLE_FILE, PAGE_FILE = "table.csv", "experiment.html"

log = logging.getLogger("facepack.trainer")


@dataclass(frozen=True)
class Planned:
    """A run to be: the name of its folder, what is trained, and on what."""

    name: str
    recipe_name: str
    recipe: Recipe
    data: str | list[str]
    """The build, or several that are mixed."""


@dataclass(frozen=True)
class TableRow:
    """A run in the table of an experiment."""

    name: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Columns of table.csv, as the report gives them: scores by split, baseline, best epoch, seconds, and so on."""
    problem: str = ""
    """Why it could not be trained; then there are no figures."""

    @property
    def columns(self) -> dict[str, Any]:
        """The row of table.csv."""
        return {"run": self.name, **self.figures, **({"problem": self.problem} if self.problem else {})}


def planned(names: Sequence[str], settings: Sequence[str], *, data: Sequence[str]) -> list[Planned]:
    """Every recipe with every setting on every build.

    A name is that of a recipe, or of a family: a module of recipes, which means all in it that are no modern siblings;
    family/recipe is a recipe that is called like its family. A field that is set several times takes each of these
    values. Raises `UsageError`, before anything is trained, for unknown names and for runs that do not fit in a table.
    """
    families = recipes.families()
    recipe_names = [recipe for name in names for recipe in families.get(name, [name.rpartition("/")[2]])]
    plan = []
    for recipe_name, build in product(dict.fromkeys(recipe_names), data):
        for combination, label in _combinations(settings):
            on = [f"on={Path(build).name or build}"] if len(data) > 1 else []
            name = "-".join([recipe_name, *label, *on]).replace("/", "_").replace(" ", "")
            plan.append(Planned(name, recipe_name, choosing.suited(recipe_name, combination, data=[build]), build))
    run_names = [run.name for run in plan]
    if twice := [name for name in run_names if run_names.count(name) > 1]:
        raise UsageError(f"{twice[0]}: two runs of this name: give each value, and each build's folder name, once")
    scores = {run.recipe.task.score: run.name for run in plan}
    if len(scores) > 1:
        several = ", ".join(f"{score.replace('_', ' ')} of {name}" for score, name in scores.items())
        raise UsageError(f"these cannot stand in one table: {several}")
    return plan


def _combinations(settings: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each choice of one setting per field, and those of its settings that vary."""
    values: dict[str, list[str]] = {}
    for setting in settings:
        name, equals, _ = setting.partition("=")
        values.setdefault(name.strip() if equals else setting, []).append(setting)
    for combination in product(*values.values()):
        varied = [
            setting for setting, all_of_field in zip(combination, values.values(), strict=True) if len(all_of_field) > 1
        ]
        yield combination, varied


def run(
    plan: Sequence[Planned], *, out: Path, settings: training.Settings, watchers: Sequence[Watcher] = ()
) -> list[TableRow]:
    """Train what is not trained yet, one after the other, and write table.csv and experiment.html.

    A run that cannot be trained is named in the table, and the others go on; a second call goes on where the first one
    stopped. `watchers` follow each run. Gives the rows of the table.
    """
    _check(plan, out)
    Store(str(out)).make()
    problems: dict[str, str] = {}
    for number, run in enumerate(plan, start=1):
        folder = out / run.name
        if (folder / runs.SCORES_FILE).exists():
            log.info("%s (%d of %d): is there", run.name, number, len(plan))
            continue
        log.info("%s (%d of %d)", run.name, number, len(plan))
        try:
            training.train(run.recipe_name, run.recipe, data=run.data, out=folder, settings=settings, watchers=watchers)
            report.write(folder)
        except (JobError, UsageError) as error:
            problems[run.name] = str(error)
            log.warning("%s could not be trained: %s", run.name, error)
        _write(plan[:number], problems, out=out)
    return _write(plan, problems, out=out)


def _check(plan: Sequence[Planned], out: Path) -> None:
    """Refuse, before anything is trained, what is no build, and a place that holds other runs of the same names."""
    for run in plan:
        folder, places = out / run.name, [run.data] if isinstance(run.data, str) else run.data
        builds = [TrainedOn.of(manifest.read_build(place), place) for place in places]
        if (folder / runs.RUN_FILE).exists():
            there = runs.read(folder)
            negatives = [there.negatives] if there.negatives else []
            if there.recipe != run.recipe or not there.is_trained_on([*builds, *negatives]):
                pairs = run.recipe.differences(there.recipe).items()
                differences = "; ".join(f"{name} {value}" for name, (_, value) in pairs)
                reason = differences or f"on another build ({there.data.location})"
                raise UsageError(f"{folder}: holds another run ({reason}); give another --out")


def _earlier_runs(plan: Sequence[Planned], out: Path) -> list[Path]:
    """Runs of earlier experiments in the same place, which stay in its table."""
    names, score = {run.name for run in plan}, plan[0].recipe.task.score
    others = [path.parent for path in sorted(out.glob(f"*/{runs.SCORES_FILE}")) if path.parent.name not in names]
    return [folder for folder in others if runs.read(folder).recipe.task.score == score]


def _write(plan: Sequence[Planned], problems: dict[str, str], *, out: Path) -> list[TableRow]:
    """The table and the page on what has ended so far."""
    ended = [out / run.name for run in plan if run.name not in problems]
    ended += _earlier_runs(plan, out)
    rows = [_row(folder) for folder in ended]
    rows += [TableRow(name, problem=problem) for name, problem in problems.items()]
    columns = [row.columns for row in rows]
    names = list(dict.fromkeys(name for row in columns for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(columns)
    Store(str(out)).write(TABLE_FILE, text.getvalue().encode())
    if ended:
        comparison.compare(ended, out=out / PAGE_FILE, title=out.absolute().name)
    return rows


def _row(folder: Path) -> TableRow:
    """The row of a run that has ended."""
    figures = comparison.row_of(RunRecord.read(folder), name=folder.name)
    return TableRow(folder.name, {name: value for name, value in figures.items() if name != "run"})


def table(rows: Sequence[TableRow]) -> Any:
    """The rows for a terminal: a table of rich."""
    from rich import box
    from rich.table import Table

    columns = dict.fromkeys(name for row in rows for name in row.figures)
    scores = [name for name in columns if name.startswith(("valid_", "test_")) and not name.endswith(_NO_SCORES)]
    leaks = ["num_leaking"] if any(row.figures.get("num_leaking") is not None for row in rows) else []
    headings = {name: name.partition("_")[0] for name in scores}
    headings |= {"baseline": "knowing nothing", **dict.fromkeys(leaks, "leaking")}
    headings |= {"best_epoch": "best", "seconds": "s"}
    score = scores[0].partition("_")[2].replace("_", " ") if scores else ""
    shown = Table(box=box.SIMPLE_HEAD, caption=f"valid, test: {score}" if score else "", caption_justify="left")
    shown.add_column("run", overflow="fold")
    for heading in headings.values():
        shown.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        if row.problem:
            cells = ["failed" if name in scores else "" for name in headings]
        else:
            cells = [_cell(name, row.figures) for name in headings]
        shown.add_row(row.name, *cells)
    return shown


def _cell(name: str, figures: Mapping[str, Any]) -> str:
    value = figures.get(name)
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.0f}"
    if (low := figures.get(f"{name}_low")) is not None:
        return f"{value:.4f} ({low:.3f} to {figures[f'{name}_high']:.3f})"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
