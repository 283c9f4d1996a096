"""Commands: the verbs that train and ask networks; torch and DALI are imported when one is called."""

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from facepack import terminal
from facepack.errors import JobError, UsageError

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Device = Annotated[str, typer.Option(help="cpu or cuda. [the GPU, if there is one]")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]

_COMPARE_FILE = Path("compare.html")
_NEEDED = ("torch", "torchvision", "nvidia.dali", "lightning_fabric", "sklearn", "skimage", "tensorboard")


def check_installed() -> None:
    """One clear line where the extra of the trainer is not installed."""
    for name in _NEEDED:
        try:
            is_there = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            is_there = False
        if not is_there:
            raise UsageError(f"this needs {name}, which is not installed: pip install 'facepack[train]'")


def _device(name: str) -> Any:
    import torch

    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted not in ("cpu", "cuda") or (wanted == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"--device {name}: expected cpu, or cuda where there is a GPU that torch can use")
    return torch.device(wanted)


def train(
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="What to train; facepack recipes lists them.")] = "",
    data: Annotated[str, typer.Option(help="The build to train on (folder or URL).")] = "",
    out: Annotated[str, typer.Option(help="Folder of the run. [runs/RECIPE]")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe; repeatable.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run, instead of RECIPE, --data, --out, --set.")
    ] = None,
    device: Device = "",
    save_every: Annotated[float, typer.Option(help="Seconds between checkpoints within an epoch.")] = 60.0,
    wandb: Annotated[bool, typer.Option("--wandb", help="Follow the run in Weights & Biases, too.")] = False,
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Train a recipe on a build, score it and write its report; the same command goes on where a run was stopped.

    Example: facepack train celeba_rarest4 --data builds/celeba-rarest4 --set epochs=20
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from facepack.manifest import read_build
        from facepack.storage import is_url
        from trainer import recipes, runs

        if resume is not None:
            if recipe or out or settings:
                raise UsageError("--resume RUN: the run says what is trained; leave out RECIPE, --out and --set")
            run = runs.read(resume)
            name, chosen, folder, data = run.recipe_name, run.recipe, resume, data or run.data.location
        else:
            if not recipe or not data:
                raise UsageError("give RECIPE and --data BUILD, or --resume RUN; facepack recipes lists the recipes")
            if is_url(out):
                raise UsageError(f"--out {out}: a run is kept in a folder; builds are read from URLs")
            name, chosen, folder = recipe, recipes.load(recipe, settings or []), Path(out or f"runs/{recipe}")
            read_build(data)  # what is wrong is said at once, before the rest is imported
        from trainer import training

        where = training.Settings(device=device, save_every_s=save_every, wandb=wandb)
        return trained(name, chosen, data=data, out=folder, where=where, show=show)


def trained(name: str, recipe: Any, *, data: str, out: Path, where: Any = None, show: bool = False) -> None:
    """Train a recipe, and say what came of it; `where` are `trainer.fit.Settings`."""
    from trainer import report, training
    from trainer.progress import TrainingProgress
    from trainer.runs import SCORES_FILE

    training.train(name, recipe, data=data, out=out, settings=where, watchers=[TrainingProgress()])
    if not training.is_first_rank():
        return
    path = report.write(out)
    _show_scores(json.loads((out / SCORES_FILE).read_bytes()))
    terminal.out.print(f"{path}: the report", soft_wrap=True)
    if show:
        report.opened(path)


def experiment(
    names: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="Recipes, or families of them, such as age_groups.")
    ],
    data: Annotated[list[str], typer.Option(help="A build to train on; repeatable.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the runs. [runs/RECIPE-experiment]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field; given several times, each value in turn."),
    ] = None,
    device: Device = "",
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Train several recipes, or one with several settings, and put them into one table and one page.

    Example: facepack experiment cacd_age --data builds/cacd --set lr=0.0005 --set lr=0.0001 --set epochs=5
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import experiments, report, training
        from trainer.progress import TrainingProgress

        plan = experiments.planned(names, settings or [], data=data)
        folder = out or Path(f"runs/{names[0]}-experiment")
        where = training.Settings(device=device)
        rows = experiments.run(plan, out=folder, settings=where, watchers=[TrainingProgress()])
        failed = [row.name for row in rows if row.problem]
        if len(failed) < len(rows):
            terminal.out.print(experiments.table(rows))
            terminal.out.print(f"{folder / experiments.PAGE_FILE}: the page; {experiments.TABLE_FILE}", soft_wrap=True)
            if show:
                report.opened(folder / experiments.PAGE_FILE)
        if failed:
            raise JobError(f"{len(failed)} of {len(rows)} runs could not be trained: {', '.join(failed)}")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    data: Annotated[str, typer.Option(help="Another build of the same classes. [the run's own]")] = "",
    split: Annotated[list[str] | None, typer.Option(help="train, valid or test; repeatable. [valid and test]")] = None,
    device: Device = "",
    debug: Debug = False,
) -> None:
    """Score a run's best network on a build; writes scores.json and predictions.parquet.

    Example: facepack evaluate runs/celeba_rarest4 --data builds/another
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import evaluation, report

        scores, out = evaluation.evaluate(run, data=data, splits=split or [], device=_device(device))
        _show_scores({"splits": {name: one for name, one in scores["splits"].items() if not split or name in split}})
        if out == run:
            report.write(run)
        terminal.out.print(f"{out}: scores.json, predictions.parquet", soft_wrap=True)


def predict(
    given: Annotated[
        list[str], typer.Argument(metavar="RUN... PHOTO...", help="Runs, then photos or folders of them.")
    ],
    all_faces: Annotated[bool, typer.Option("--all-faces", help="Every face of a photo, not the only one.")] = False,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("predictions.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    landmarks: Annotated[str, typer.Option(help="Landmark model, for runs on chips.")] = "",
    device: Device = "",
    debug: Debug = False,
) -> None:
    """Ask one or more runs about photos: a table, and a picture with the faces marked.

    Example: facepack predict runs/appa_real_age runs/afad_age me.jpg
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from facepack.storage import Store
        from trainer import prediction

        folders = [Path(one) for one in given if Path(one, "run.json").is_file()]
        photos = prediction.photos_of([one for one in given if not Path(one, "run.json").is_file()])
        if not folders:
            raise UsageError("give at least one run, a folder with run.json that facepack train made")
        if not photos:
            raise UsageError("give at least one photo after the runs")
        answers = prediction.predict(folders, photos, device=_device(device), all_faces=all_faces, landmarks=landmarks)
        Store(str(out.parent)).write(out.name, prediction.picture(answers))
        prediction.show(answers, as_json=as_json)
        terminal.note(f"{out}: the first photos, with what was said")


def recipes(
    name: Annotated[str, typer.Argument(metavar="[RECIPE]", help="One of them, with all its fields.")] = "",
    debug: Debug = False,
) -> None:
    """List the recipes, or show one with all its fields.

    Example: facepack recipes celeba_rarest4
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import recipes as recipe_book

        if name:
            found = recipe_book.load(name)
            terminal.out.print(inspect.getdoc(recipe_book.known()[name]) or "", soft_wrap=True)
            for field, value in found.settings().items():
                shown = "[" + ", ".join(value) + "]" if isinstance(value, list) else value
                terminal.out.print(f"  {field:<14} {shown}", soft_wrap=True)
            return
        for one, make in sorted(recipe_book.known().items()):
            about = (inspect.getdoc(make) or "").split("\n")[0]
            terminal.out.print(f"{one:<38} {about}", soft_wrap=True)


def report(
    given: Annotated[list[Path], typer.Argument(metavar="RUN [RUN...]", help="Folders of runs.")],
    out: Annotated[
        Path | None, typer.Option(help="The page. [report.html in the run; compare.html for several]")
    ] = None,
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Write the report of a run, or one page that puts several side by side.

    Example: facepack report runs/simpsons_cnn runs/simpsons_modern --open
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import report as reporting

        is_one = len(given) == 1
        path = reporting.write(given[0], out=out) if is_one else reporting.compare(given, out=out or _COMPARE_FILE)
        terminal.out.print(f"{path}", soft_wrap=True)
        if show:
            reporting.opened(path)


_SHOWN = (
    ("accuracy", "majority", "always the commonest answer"),
    ("balanced_accuracy", "", ""),
    ("macro_f1", "majority_macro_f1", "always the commonest answer"),
    ("average_precision", "positives", "by chance"),
    ("absolute_error", "median_baseline", "always the median"),
)
"""Figures in the order in which they are shown, each with what would be reached without looking."""


def _show_scores(scores: dict[str, Any]) -> None:
    """A line per split."""
    for split, figures in scores["splits"].items():
        parts = [f"loss {figures['loss']:.4f}"]
        for name, baseline, what in _SHOWN:
            if name in figures:
                beside = f" ({what}: {figures[baseline]:.4f})" if baseline in figures else ""
                parts.append(f"{name.replace('_', ' ')} {figures[name]:.4f}{beside}")
        if "cumulative_score" in figures:
            parts.append(f"within 5 years {figures['cumulative_score']:.3f}")
        terminal.out.print(f"{split}: {', '.join(parts)}, {figures['num']:,} images", soft_wrap=True)
    if not scores["splits"]:
        terminal.note("the build has neither a valid nor a test split, so that nothing was scored")
