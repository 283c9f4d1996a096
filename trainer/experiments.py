"""Experiment: several recipes, or one with several settings, on the same images, and one table and page over them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from facepack import manifest, terminal
from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import comparison, recipes, report, runs, training
from trainer.data import TrainedOn
from trainer.recipe import Recipe
from trainer.run_record import RunRecord

TABLE_FILE, PAGE_FILE = "table.csv", "experiment.html"


@dataclass(frozen=True)
class Planned:
    """One run to be: its folder's name, what is trained, and on what."""

    name: str
    recipe_name: str
    recipe: Recipe
    data: str


def planned(names: Sequence[str], settings: Sequence[str], *, data: Sequence[str]) -> list[Planned]:
    """Every recipe with every setting on every build.

    A name is that of a recipe, or of a family: a module of recipes, which means all in it that are no modern siblings;
    family/recipe is one that is called like its family. A field that is set several times takes each of these values.
    Raises `UsageError`, before anything is trained, for what is not known or cannot stand in one table.
    """
    families = recipes.families()
    chosen = [one for name in names for one in families.get(name, [name.rpartition("/")[2]])]
    values: dict[str, list[str]] = {}
    for setting in settings:
        field, equals, _ = setting.partition("=")
        values.setdefault(field.strip() if equals else setting, []).append(setting)
    varied = [field for field, given in values.items() if len(given) > 1]
    found = []
    for recipe_name, build in product(dict.fromkeys(chosen), data):
        for combination in product(*values.values()):
            parts = [one for field, one in zip(values, combination, strict=True) if field in varied]
            on = [f"on={Path(build).name or build}"] if len(data) > 1 else []
            name = "-".join([recipe_name, *parts, *on]).replace("/", "_").replace(" ", "")
            found.append(Planned(name, recipe_name, recipes.load(recipe_name, combination), build))
    if twice := [one.name for one in found if [other.name for other in found].count(one.name) > 1]:
        raise UsageError(f"{twice[0]}: two runs of this name: give each value, and each build's folder name, once")
    scores = {one.recipe.task.score: one.name for one in found}
    if len(scores) > 1:
        told = ", ".join(f"{score.replace('_', ' ')} of {name}" for score, name in scores.items())
        raise UsageError(f"these cannot stand in one table: {told}")
    return found


def run(plan: Sequence[Planned], *, out: Path, settings: training.Settings) -> list[dict[str, Any]]:
    """Train what is not trained yet, one after the other, and write table.csv and experiment.html.

    A run that cannot be trained is named in the table, and the others go on; a second call goes on where the first one
    stopped. Gives the rows of the table.
    """
    _check(plan, out)
    Store(str(out)).make()
    problems: dict[str, str] = {}
    for number, one in enumerate(plan, start=1):
        if (out / one.name / runs.SCORES_FILE).exists():
            terminal.note(f"{one.name} ({number} of {len(plan)}): is there")
            continue
        terminal.note(f"{one.name} ({number} of {len(plan)})")
        try:
            training.train(one.recipe_name, one.recipe, data=one.data, out=out / one.name, settings=settings)
            report.write(out / one.name)
        except (JobError, UsageError) as error:
            problems[one.name] = str(error)
            terminal.wrong(f"{one.name}: {error}")
        _write(plan[:number], problems, out=out)
    return _write(plan, problems, out=out)


def _check(plan: Sequence[Planned], out: Path) -> None:
    """Refuse, before anything is trained, what is no build, and a place that holds other runs of the same names."""
    builds = {one.data: TrainedOn.of(manifest.read_build(one.data), one.data) for one in plan}
    for one in plan:
        if (out / one.name / runs.RUN_FILE).exists():
            found, build = runs.read(out / one.name), builds[one.data]
            is_same = (found.data.digest, found.data.plan_digest) == (build.digest, build.plan_digest)
            if found.recipe != one.recipe or not is_same:
                told = "; ".join(f"{name} {there}" for name, (_, there) in one.recipe.differences(found.recipe).items())
                what = told or f"on another build ({found.data.location})"
                raise UsageError(f"{out / one.name}: holds another run ({what}); give another --out")


def _beside(plan: Sequence[Planned], out: Path) -> list[Path]:
    """Runs of earlier experiments in the same place, which stay in its table."""
    names, score = {one.name for one in plan}, plan[0].recipe.task.score
    others = [path.parent for path in sorted(out.glob(f"*/{runs.SCORES_FILE}")) if path.parent.name not in names]
    return [folder for folder in others if runs.read(folder).recipe.task.score == score]


def _write(plan: Sequence[Planned], problems: dict[str, str], *, out: Path) -> list[dict[str, Any]]:
    """The table and the page on what has ended so far."""
    ended = [out / one.name for one in plan if one.name not in problems]
    ended += _beside(plan, out)
    rows = [comparison.row_of(RunRecord.read(folder), name=folder.name) for folder in ended]
    rows += [{"run": name, "problem": problem} for name, problem in problems.items()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    Store(str(out)).write(TABLE_FILE, text.getvalue().encode())
    if ended:
        comparison.compare(ended, out=out / PAGE_FILE, title=out.absolute().name)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows for a terminal."""
    from rich import box
    from rich.table import Table

    every = dict.fromkeys(name for row in rows for name in row)
    scores = [name for name in every if name.startswith(("valid_", "test_")) and not name.endswith("_loss")]
    leaks = ["num_leaking"] if any(row.get("num_leaking") is not None for row in rows) else []
    names = {"run": "run", **{name: name.partition("_")[0] for name in scores}}
    names |= {"baseline": "knowing nothing", **dict.fromkeys(leaks, "leaking")}
    names |= {"best_epoch": "best", "seconds": "s"}
    score = scores[0].partition("_")[2].replace("_", " ") if scores else ""
    shown = Table(box=box.SIMPLE_HEAD, caption=f"valid, test: {score}" if score else "", caption_justify="left")
    for name, heading in names.items():
        shown.add_column(heading, justify="left" if name == "run" else "right", overflow="fold")
    for row in rows:
        if "problem" in row:
            shown.add_row(row["run"], *["failed" if name in scores else "" for name in names if name != "run"])
        else:
            shown.add_row(*(_cell(name, row.get(name)) for name in names))
    return shown


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.0f}"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
