"""Commands: the verbs that train networks and use them; torch and DALI are imported when one is called."""

import importlib.util
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facepack import terminal
from facepack.errors import FieldError, JobError, UsageError
from facepack.storage import is_url

if TYPE_CHECKING:
    from trainer.photos import Sources
    from trainer.prediction import Predictor
    from trainer.prediction_files import Tally
    from trainer.recipe import Recipe
    from trainer.results.protocol import Results
    from trainer.training import Settings

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Device = Annotated[str, typer.Option(show_default="cuda where there is a GPU, else cpu", help="cpu or cuda.")]
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


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE|BUILD]",
            show_default="the one that fits",
            help="What to train, as facepack recipes lists; or a build alone, for the recipe that fits it.",
        ),
    ] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(show_default="that of --resume", help="The build to train on (folder or URL); several are mixed."),
    ] = None,
    out: Annotated[str, typer.Option(show_default="runs/RECIPE or runs/BUILD", help="Folder or URL of the run.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            show_default="the recipe as it is",
            help="Change a field of the recipe; repeatable.",
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            show_default="a run of its own",
            help="Go on with this run, instead of RECIPE, --data, --out; --set epochs=20 trains it for longer.",
        ),
    ] = "",
    begin_with: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RUN",
            show_default="the recipe's",
            help="Begin another run (--out) with all weights of this one, and its recipe with other --set.",
        ),
    ] = "",
    device: Device = "",
    save_every: Annotated[float, typer.Option(help="Seconds between checkpoints within an epoch.")] = 60.0,
    keep_every: Annotated[int, typer.Option(help="Epochs between checkpoints that are kept; 0: last and best.")] = 0,
    wandb: Annotated[bool, typer.Option("--wandb", help="Follow the run in Weights & Biases, too.")] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Only find a learning rate: some 150 steps, a plot, and what to set.")
    ] = False,
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Train a recipe on a build, score it and write its report; the same command goes on where a run was stopped.

    A build alone gets the recipe that fits it; classifier, attributes, ordinal and regressor suit any build.

    Example: facepack train builds/celeba-rarest4

    Example: facepack train celeba_rarest4 --data builds/celeba-rarest4 --set epochs=20
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        if resume:
            if recipe or out or begin_with or find_lr:
                others = "RECIPE, --out, --from and --find-lr"
                raise UsageError(f"--resume RUN: the run decides what is trained; leave out {others}")
            name, changed, folder, build = _resumed(resume, data or [], settings or [])
        elif begin_with:
            if recipe or not out:
                raise UsageError("--from RUN: give --out for the new run, and no RECIPE: it is that of the run")
            name, changed, folder, build = _begun_with(begin_with, data or [], out, settings or [])
        else:
            name, changed, folder, build = _fresh(recipe, data or [], out, settings or [])
        if find_lr:
            return _find_lr(name, changed, data=build, place=folder, device=device)
        from trainer import training

        where = training.Settings(device=device, save_every_s=save_every, wandb=wandb, keep_every=keep_every)
        return trained(name, changed, data=build, out=folder, where=where, show=show)


def _find_lr(name: str, recipe: "Recipe", *, data: list[str], place: str, device: str) -> None:
    """Find a learning rate, write its curve beside where the run would be, and say how to use it."""
    from trainer import lr_finder

    curve = lr_finder.find(name, recipe, data=data, device=device)
    local = Path(Path(place).name) if is_url(place) else Path(place)
    table, plot = lr_finder.write(curve, local.with_name(f"{local.name}-lr"))
    terminal.out.print(f"the loss falls most steeply at a learning rate of {curve.suggestion:.2g}", soft_wrap=True)
    terminal.out.print(f"{plot}: the curve; {table}: its numbers", soft_wrap=True)
    terminal.out.print(f"to use it: --set lr={curve.suggestion:.2g}", soft_wrap=True)


def _resumed(location: str, data: list[str], settings: list[str]) -> "tuple[str, Recipe, str, list[str]]":
    """Name, recipe, folder and builds of a run that goes on, with other settings where there are any."""
    from trainer import going_on

    run = going_on.extended(location, settings)
    return run.recipe_name, run.recipe, location, data or run.locations


def _begun_with(earlier: str, data: list[str], out: str, settings: list[str]) -> "tuple[str, Recipe, str, list[str]]":
    """Name, recipe, folder and builds of a run that begins with the weights of another."""
    from trainer import going_on

    run, recipe = going_on.successor(earlier, settings)
    return run.recipe_name, recipe, out, data or run.locations


def _fresh(name: str, data: list[str], out: str, settings: list[str]) -> "tuple[str, Recipe, str, list[str]]":
    """Name, recipe, folder and builds of a run; what is wrong with them is refused before the rest is imported."""
    from trainer import choosing

    choice = choosing.chosen(name, settings, data=data)
    return choice.name, choice.recipe, out or choice.out, choice.data


def trained(
    name: str,
    recipe: "Recipe",
    *,
    data: str | list[str],
    out: str | Path,
    where: "Settings | None" = None,
    show: bool = False,
) -> None:
    """Train a recipe, write the report and print the scores."""
    from trainer import remote_runs, report, training
    from trainer.progress import TrainingProgress
    from trainer.run_record import RunRecord

    training.train(name, recipe, data=data, out=out, settings=where, watchers=[TrainingProgress()])
    if not training.is_first_rank():
        return
    with remote_runs.changed(out) as folder:
        path = report.write(folder)
        _show_results(RunRecord.read(folder).results)
    terminal.out.print(f"{path}: the report", soft_wrap=True)
    if show:
        report.open_page(path)


def experiment(
    names: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="Recipes, or families of them, such as age_groups.")
    ],
    data: Annotated[list[str], typer.Option(help="A build to train on; repeatable.")],
    out: Annotated[Path | None, typer.Option(show_default="runs/RECIPE-experiment", help="Folder of the runs.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            show_default="the recipes as they are",
            help="Change a field; given several times, each value in turn.",
        ),
    ] = None,
    across: Annotated[
        bool, typer.Option("--across", help="One recipe on each build and on all, tested on every one.")
    ] = False,
    device: Device = "",
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Train several recipes, or one with several settings, and put them into one table and one page.

    With --across one recipe is trained on each build and on all of them mixed, and every network tested on every build.

    Example: facepack experiment cacd_age --data builds/cacd --set lr=0.0005 --set lr=0.0001 --set epochs=5
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        if across:
            _across(names, settings or [], data=data, out=out, device=device, show=show)
        else:
            _side_by_side(names, settings or [], data=data, out=out, device=device, show=show)


def _side_by_side(
    names: list[str], settings: list[str], *, data: list[str], out: Path | None, device: str, show: bool
) -> None:
    """Train several recipes, and print and write the table."""
    from trainer import experiments, report, training
    from trainer.progress import TrainingProgress

    plan = experiments.planned(names, settings, data=data)
    folder = out or Path(f"runs/{names[0]}-experiment")
    where = training.Settings(device=device)
    rows = experiments.run(plan, out=folder, settings=where, watchers=[TrainingProgress()])
    failed = [row.name for row in rows if row.problem]
    if len(failed) < len(rows):
        terminal.out.print(experiments.table(rows))
        terminal.out.print(f"{folder / experiments.PAGE_FILE}: the page; {experiments.TABLE_FILE}", soft_wrap=True)
        if show:
            report.open_page(folder / experiments.PAGE_FILE)
    if failed:
        raise JobError(f"{len(failed)} of {len(rows)} runs could not be trained: {', '.join(failed)}")


def _across(
    names: list[str], settings: list[str], *, data: list[str], out: Path | None, device: str, show: bool
) -> None:
    """Train one recipe on each build and on all, and print and write the matrix."""
    from trainer import across, across_page, report, training
    from trainer.progress import TrainingProgress

    plan = across.planned(names, settings, data=data)
    folder = out or Path(f"runs/{names[0]}-across")
    where = training.Settings(device=device)
    matrix, rows = across.run(plan, out=folder, settings=where, watchers=[TrainingProgress()])
    page = across_page.write(matrix, folder)
    terminal.out.print(across_page.table(matrix))
    for line in across_page.lines(matrix):
        terminal.out.print(line, soft_wrap=True)
    terminal.out.print(f"{page}: the page; across.csv, across.json, across.png", soft_wrap=True)
    if show:
        report.open_page(page)
    if failed := [row.name for row in rows if row.problem]:
        raise JobError(f"{len(failed)} of {len(rows)} runs could not be trained: {', '.join(failed)}")


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")],
    data: Annotated[
        list[str] | None,
        typer.Option(show_default="the run's own", help="Another build of the same classes; several are mixed."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(show_default="valid and test", help="train, valid or test; repeatable.")
    ] = None,
    device: Device = "",
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Score a run's best network on a build; writes scores.json, predictions.parquet and a page, evaluation.html.

    Example: facepack evaluate runs/celeba_rarest4 --data builds/another
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import evaluation, evaluation_page, remote_runs, report

        with remote_runs.changed(run) as folder:
            evaluated = evaluation.evaluate(folder, data=data or [], splits=split or [], device=device)
            page = evaluation_page.write(evaluated)
            if evaluated.is_own:
                report.write(folder)
        results = evaluated.results.items()
        _show_results({name: of_split for name, of_split in results if not split or name in split})
        for line in evaluated.seen_lines(split or list(evaluated.results)):
            terminal.out.print(line, soft_wrap=True)
        place = "/".join([run.rstrip("/"), *evaluated.folder.relative_to(folder).parts])
        terminal.out.print(f"{place}: scores.json, predictions.parquet", soft_wrap=True)
        terminal.out.print(f"{place}/{page.name}: the page", soft_wrap=True)
        if show:
            report.open_page(page)


def doubt(
    target: Annotated[
        str, typer.Argument(metavar="BUILD|RECIPE|RUN", help="A build; a recipe, with --data BUILD; or a finished run.")
    ],
    data: Annotated[
        str, typer.Option(show_default="that of the run", help="The build whose labels are doubted, with RECIPE.")
    ] = "",
    folds: Annotated[int, typer.Option(help="Parts of the build, each held out once.")] = 5,
    out: Annotated[Path | None, typer.Option(show_default="runs/NAME-doubts", help="Folder to write into.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            show_default="the recipe as it is",
            help="Change a field of the recipe; repeatable.",
        ),
    ] = None,
    device: Device = "",
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Find labels that look wrong: all of a build, by training on parts of it, or those of a run's valid and test.

    Example: facepack doubt builds/celeba-rarest4

    Example: facepack doubt celeba_rarest4_modern --data builds/celeba-rarest4 --set epochs=20
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import choosing, doubting, remote_runs, report, training
        from trainer.doubts import held_out
        from trainer.progress import TrainingProgress

        doubted: doubting.Doubted | None
        if not data and remote_runs.is_run(target):
            if settings or out:
                raise UsageError("--set and --out go with a build; the doubts of a run are written below it")
            with remote_runs.changed(target) as folder:
                doubted = doubting.by_run(folder)
        else:
            choice = choosing.chosen(target, settings or [], data=[data] if data else [])
            by_fold = held_out.by_fold(choice.recipe, num_folds=folds)
            doubted = doubting.by_folds(
                choice.name,
                by_fold,
                data=choice.data[0],
                out=out or Path(f"{choice.out}-doubts"),
                settings=training.Settings(device=device),
                watchers=[TrainingProgress()],
            )
        if doubted is None:
            return
        terminal.out.print(doubted.line)
        for problem in doubted.problems:
            terminal.warn(problem)
        terminal.out.print(f"{doubted.page}: the pictures; doubts.parquet: all scores", soft_wrap=True)
        if doubted.list is not None:
            terminal.out.print(f"{doubted.list}: for facepack build --leave-out", soft_wrap=True)
        if show:
            report.open_page(doubted.page)


def predict(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... PHOTO...",
            help="Runs; then photos, videos, folders, quoted patterns such as 'a/**/*.jpg', or - for standard input: "
            "an image, or names, one per line.",
        ),
    ],
    all_faces: Annotated[bool, typer.Option("--all-faces", help="Every face of a photo, not the only one.")] = False,
    out: Annotated[
        list[str] | None,
        typer.Option(
            show_default="predictions.png",
            help="The file to write: .csv, .jsonl or .parquet for all, .png for a picture of the first; repeatable.",
        ),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between frames of a video; 0: every frame.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    landmarks: Annotated[
        str, typer.Option(show_default="looked for among the models", help="Landmark model, for runs on chips.")
    ] = "",
    device: Device = "",
    debug: Debug = False,
) -> None:
    """Predict photos and videos with one or more runs: a table, and a picture with the faces marked, or files.

    Example: facepack predict runs/appa_real_age runs/afad_age holiday/ --out ages.csv
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import memory, photos, prediction, prediction_files, remote_runs

        places = out or ["predictions.png"]
        prediction_files.check_places(places)
        if not every >= 0:
            raise FieldError("every", f"{every:g}", "expected seconds between frames, or 0 for every frame")
        folders = [name for name in given if remote_runs.is_run(name)]
        names = [name for name in given if name not in folders]
        sources = photos.sources_of(names)
        if not folders:
            raise UsageError("give at least one run, a folder with run.json that facepack train made")
        if not names:
            raise UsageError("give at least one photo after the runs")
        if sources.num_passed:
            terminal.note(f"{sources.num_passed:,} files passed over: neither images nor videos")
        predictor = prediction.Predictor(folders, device=device, all_faces=all_faces, landmarks=landmarks)
        with memory.keep_freed_memory(predictor.device):
            tally = _predicted(predictor, sources, places, every_s=every, as_json=as_json)
        if not tally.num_predicted:
            raise JobError(f"none of {tally.num_photos:,} photos could be predicted")


def _predicted(
    predictor: "Predictor", sources: "Sources", places: list[str], *, every_s: float, as_json: bool
) -> "Tally":
    """Predict photos, write the files, and print the first predictions, or all as JSON."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from trainer import contact_sheet, prediction_files

    pictures: dict[str, contact_sheet.Picture] = {}
    predictions = predictor.iterate(contact_sheet.keeping(sources.each(every_s=every_s), pictures))
    for place in places:
        if not prediction_files.is_picture(place):
            predictions = prediction_files.through(predictions, place, names=predictor.names)
    tally, texts = prediction_files.Tally(), []
    columns = TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with terminal.Meter(*columns) as meter:
        task = meter.add("", total=sources.num_photos)
        for prediction in predictions:
            tally.add(prediction)
            meter.update(task, line=lambda: f"{tally.num_photos:,} photos", completed=tally.num_photos)
            if as_json:
                texts.append(json.dumps(prediction.to_dict(), indent=1))
    if as_json:
        terminal.out.print(f"[{', '.join(texts)}]", soft_wrap=True)
    else:
        terminal.out.print(prediction_files.table(tally.shown))
    for place in places:
        if prediction_files.is_picture(place):
            store, name = prediction_files.store_of(place)
            store.write(name, contact_sheet.png_of(tally.shown, pictures))
    terminal.note(tally.line)
    terminal.note(f"{', '.join(places)}: written")
    return tally


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, safetensors or torch-export.")] = "onnx",
    out: Annotated[
        str, typer.Option(show_default="RUN/export/model.onnx, .safetensors or .pt2", help="The file to write.")
    ] = "",
    data: Annotated[
        str, typer.Option(show_default="the run's own", help="The build on whose photos the file is compared.")
    ] = "",
    debug: Debug = False,
) -> None:
    """Write a run's network for use without facepack, compared with the run on photos, and a model card.

    Example: facepack export runs/celeba_rarest4 --format onnx
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import exporting

        exported = exporting.export(run, kind=kind, out=out, data=data)
        terminal.out.print(exported.comparison.line)
        terminal.out.print(f"{exported.path}: the network; {exported.card.name}: its card", soft_wrap=True)


def recipes(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", show_default="all", help="Show one of them, with the fields it sets.")
    ] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(show_default="none", help="The build, for recipes that suit any; several are mixed."),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the recipes, those for any build first, or show one with the fields it sets.

    Example: facepack recipes celeba_rarest4
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import calls, choosing, recipes

        functions = recipes.for_any_build() | dict(sorted(recipes.known().items()))
        if not name:
            for recipe_name, make in functions.items():
                about = (inspect.getdoc(make) or "").split("\n")[0]
                terminal.out.print(f"{recipe_name:<38} {about}", soft_wrap=True)
            return
        terminal.out.print(inspect.getdoc(calls.look_up(name, functions, what="recipe")) or "", soft_wrap=True)
        if name in recipes.for_any_build() and not data:
            terminal.out.print(f"Its fields follow from the build: facepack recipes {name} --data BUILD shows them.")
            return
        for field, value in choosing.suited(name, [], data=data or []).settings().items():
            shown = "[" + ", ".join(value) + "]" if isinstance(value, list) else value
            terminal.out.print(f"  {field:<14} {shown}", soft_wrap=True)


def report(
    given: Annotated[list[str], typer.Argument(metavar="RUN [RUN...]", help="Folders or URLs of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(show_default="report.html in the run; compare.html for several", help="The page."),
    ] = None,
    show: Open = False,
    debug: Debug = False,
) -> None:
    """Write the report of a run, or one page that puts several side by side.

    Example: facepack report runs/simpsons_cnn runs/simpsons_modern --open
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import comparison, remote_runs, report

        if len(given) == 1:
            with remote_runs.changed(given[0]) as folder:
                path = report.write(folder, out=out)
        else:
            path = comparison.compare([remote_runs.folder_of(run) for run in given], out=out or _COMPARE_FILE)
        terminal.out.print(f"{path}", soft_wrap=True)
        if show:
            report.open_page(path)


def bench(
    build: Annotated[str, typer.Argument(metavar="BUILD", help="Folder or URL of a build.")],
    split: Annotated[str, typer.Option(help="The split that is loaded.")] = "train",
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 128,
    augment: Annotated[
        str,
        typer.Option(
            show_default="normalised, in train also flipped",
            help='Augmentations as calls, such as "[RandomResizedCrop(160), Normalize()]".',
        ),
    ] = "",
    recipe: Annotated[
        str, typer.Option(show_default="none", help="Take augmentation and batch size from this recipe.")
    ] = "",
    threads: Annotated[int, typer.Option(help="Threads of the loader; 0: as many as it takes by itself.")] = 0,
    seconds: Annotated[float, typer.Option(help="About how long it may take.")] = 100.0,
    out: Annotated[Path | None, typer.Option(show_default="no page", help="The HTML page to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "",
    debug: Debug = False,
) -> None:
    """Measure how fast a build loads here, against other loaders on the same images, and name what holds it back.

    Example: facepack bench builds/celeba-rarest4 --recipe celeba_rarest4_modern
    """
    with terminal.errors_as_lines(debug=debug):
        check_installed()
        from trainer import bench, choosing
        from trainer.recipe import augmentations_of

        steps = augmentations_of(augment) if augment else None
        if recipe:
            chosen = choosing.suited(recipe, [], data=[build])
            steps, batch_size = steps or chosen.augment, chosen.batch_size
        settings = bench.BenchSettings(split, batch_size, steps, device, threads, seconds, recipe)
        with terminal.silenced_libraries():
            report = bench.measure_loading(build, settings=settings, note=terminal.note)
        lines = [report.to_json()] if as_json else bench.lines_of(report)
        for line in lines:
            terminal.out.print(line, soft_wrap=True)
        if out is not None:
            terminal.note(f"{bench.write_page(report, out)}: the page")


def _show_results(results: "dict[str, Results]") -> None:
    """A line per split."""
    for split, of_split in results.items():
        terminal.out.print(f"{split}: {of_split.summary_line()}", soft_wrap=True)
    if not results:
        terminal.note("the build has neither a valid nor a test split, so nothing was scored")
