"""API: training, going on with it, and training across builds, in one call each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facepack.errors import UsageError
from trainer import across, across_page, choosing, going_on, ranks, remote_runs, report, training
from trainer.across import Matrix
from trainer.choosing import Choice
from trainer.recipe import Recipe
from trainer.run_record import RunRecord


def train(
    recipe: str | Path | Recipe = "",
    *,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path = "",
    device: str = "",
    save_every_s: float = 60.0,
    keep_every: int = 0,
    **settings: Any,
) -> RunRecord:
    """Train a recipe on a build, score it and write its report; go on where the same run was stopped.

        run = trainer.train("builds/celeba-rarest4")
        run = trainer.train("celeba_rarest4", data="builds/celeba-rarest4", epochs=5)

    `recipe` is a name, or a Recipe of one's own; a build in its place, or `data` alone, gets the recipe that fits.
    `settings` change fields of it: values, or text as after --set.
    `data` is the folder or URL of a build, or a list of several that are mixed, `out` the folder or URL of
    the run (runs/RECIPE, runs/BUILD where the recipe is chosen, or runs/own for a Recipe), `device` cpu or cuda (the
    GPU where there is one), `save_every_s` the seconds between checkpoints within an epoch, `keep_every` the epochs
    between checkpoints that are kept. Prints nothing; what it logs goes to the logger facepack.trainer.

    Gives the finished run: `.folder`, `.results["test"]`, `.network()`. Raises `UsageError` where recipe and build do
    not fit each other or the folder holds another run, `JobError` where training fails.
    """
    builds = [str(build) for build in ([data] if isinstance(data, str | Path) else data)]
    choice = _chosen(recipe, builds, settings)
    where = training.Settings(device=device, save_every_s=save_every_s, keep_every=keep_every)
    place = f"{out}" or choice.out
    training.train(choice.name, choice.recipe, data=choice.data, out=place, settings=where)
    return _finished(place)


def resume(
    folder: str | Path,
    *,
    data: str | Path | Sequence[str | Path] = (),
    device: str = "",
    save_every_s: float = 60.0,
    keep_every: int = 0,
    **settings: Any,
) -> RunRecord:
    """Go on with a run that was stopped, or train a finished one for longer.

        run = trainer.resume("runs/celeba_rarest4", epochs=20)

    `settings` may change epochs, stopping and schedule; run.json records it. With the same settings a stopped run ends
    with the weights of one never stopped. Without `data` the builds are where they were. Raises as `train` does.
    """
    run = going_on.extended(folder, [f"{name}={value}" for name, value in settings.items()])
    builds = [data] if isinstance(data, str | Path) else data
    where = training.Settings(device=device, save_every_s=save_every_s, keep_every=keep_every)
    locations = [str(build) for build in builds] or run.locations
    training.train(run.recipe_name, run.recipe, data=locations, out=folder, settings=where)
    return _finished(folder)


def across_builds(
    recipe: str, *, data: Sequence[str | Path], out: str | Path = "", device: str = "", **settings: Any
) -> Matrix:
    """Train a recipe on each of several builds and on all of them mixed, and test every run on every build.

        matrix = trainer.across_builds("age_modern", data=["builds/utkface", "builds/fairface"], epochs=20)
        matrix.cell("utkface", "fairface").score

    Photos and people of any training are left out of the tests, and counted (`matrix.left_out`). Writes the runs, and
    across.html, .csv, .json and .png, into `out` (runs/RECIPE-across); goes on where the same call was stopped. Raises
    `UsageError` for builds that cannot be compared.
    """
    texts = [f"{name}={value}" for name, value in settings.items()]
    plan = across.planned([recipe], texts, data=[str(build) for build in data])
    folder = Path(out or f"runs/{recipe}-across")
    matrix, _ = across.run(plan, out=folder, settings=training.Settings(device=device))
    across_page.write(matrix, folder)
    return matrix


def _finished(location: str | Path) -> RunRecord:
    """The run of a folder or URL, with its report."""
    with remote_runs.changed(location) as folder:
        record = RunRecord.read(folder)
        if ranks.is_first_rank():
            report.write(folder)
        return record


def _chosen(recipe: str | Path | Recipe, builds: list[str], settings: dict[str, Any]) -> Choice:
    """What is trained, with fields set by text and plain values as --set reads them, and by objects as they are."""
    is_text = {name: isinstance(value, str | int | float) for name, value in settings.items()}
    texts = [f"{name}={settings[name]}" for name in settings if is_text[name]]
    if isinstance(recipe, Recipe):
        choice = Choice("own", recipe.changed(texts), builds, "runs/own")
    else:
        choice = choosing.chosen(str(recipe), texts, data=builds)
    try:
        changed = replace(choice.recipe, **{name: settings[name] for name in settings if not is_text[name]})
    except TypeError as error:
        raise UsageError(f"{error}; a recipe has {', '.join(choice.recipe.to_dict())}") from error
    return replace(choice, recipe=changed)
