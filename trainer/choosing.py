"""Choosing: the recipe that fits a build where none is named, and what any recipe makes of a build."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facepack.errors import UsageError
from facepack.manifest import read_build
from facepack.storage import is_url
from trainer import calls, facts, ranks, recipes, suitability
from trainer.facts import Facts
from trainer.loading.augment import Resize
from trainer.loading.targets import ATTRIBUTES, CLASS
from trainer.recipe import Recipe
from trainer.recipes.generic import suits_ordinal

log = logging.getLogger("facepack.trainer")

_OF_TASK = {
    "Classes": "classifier",
    "TwoClasses": "classifier",
    "Attributes": "attributes",
    "Ordinal": "ordinal",
    "Number": "regressor",
}
_TARGET = ("target", "task.target")
_NUM_NAMED = 5


@dataclass(frozen=True)
class Choice:
    """What is trained on what."""

    name: str
    """Of the recipe."""
    recipe: Recipe
    data: list[str]
    """The builds."""
    out: str
    """The folder of the run, where none is given."""


@dataclass(frozen=True)
class Option:
    """A recipe for any build that a build is good for."""

    name: str
    """Of the recipe."""
    target: str
    why: str

    @property
    def settings(self) -> list[str]:
        """What --set has to say for it."""
        return [] if self.target in (CLASS, ATTRIBUTES) else [f"target={self.target}"]


def chosen(name: str, settings: Sequence[str], *, data: Sequence[str]) -> Choice:
    """A recipe by name on builds, or the one that fits where there is no name, or that of a build in its place.

    The log says which, why, and what the build makes of it. Raises `UsageError` or `JobError` before anything is
    trained.
    """
    names = [*recipes.for_any_build(), *recipes.known()]
    if name and name not in names:
        if not _is_place(name):
            calls.look_up(name, dict.fromkeys(names), what="recipe")  # refuses it
        if data:
            raise UsageError(f"{name} is a build: leave out --data, or give a recipe in its place")
        name, data = "", [name]
    if not data:
        raise UsageError(
            "give BUILD alone, RECIPE and --data BUILD, or --resume RUN; facepack recipes lists the recipes"
        )
    places = list(data)
    if name in recipes.known():
        recipe = recipes.load(name, settings)
        for place in places:
            read_build(place)
        return Choice(name, recipe, places, f"runs/{name}")
    out = f"runs/{name or _name_of(places[0])}"
    name, recipe = _suited(name, settings, facts=facts.read(places))
    return Choice(name, recipe, places, out)


def suited(name: str, settings: Sequence[str], *, data: Sequence[str]) -> Recipe:
    """A recipe by name; where it is one for any build, for these builds."""
    is_generic = name in recipes.for_any_build()
    return recipes.load(name, settings, facts=facts.read(data) if is_generic else None)


def options(build: Facts) -> list[Option]:
    """What the labels of a build are good for, the likeliest wish first: classes, numbers, attributes, categories."""
    listed = []
    num_classes = len(build.class_names)
    if num_classes > 1:
        listed.append(Option("classifier", CLASS, f"the build has {num_classes} classes"))
    for name in build.numbers:
        recipe_name = "ordinal" if suits_ordinal(build.target(name)) else "regressor"
        listed.append(Option(recipe_name, name, f"the build has the number {name}"))
    if build.attributes:
        num = len(build.attributes)
        listed.append(Option("attributes", ATTRIBUTES, f"the build has {num} attribute{'s' * (num > 1)}"))
    others = [name for name in build.categories if set(build.target(name).names) != set(build.class_names)]
    listed += [Option("classifier", name, f"the build has the category {name}") for name in others]
    return listed


def line_of(name: str, recipe: Recipe, *, build: Facts) -> str:
    """What a recipe for any build makes of one, in a line."""
    target, num = build.target(recipe.task.target), build.num.get("train", 0)
    head = name if target.name == ATTRIBUTES else f"{name} of {target.name}"
    learnt = f"{target.low:g} to {target.high:g}"
    if target.kind != "number":
        learnt = ", ".join(target.names) if len(target.names) <= _NUM_NAMED else f"{len(target.names)} {target.kind}"
    steps = math.ceil(num / recipe.batch_size)
    size_hw = next((step.size for step in recipe.eval_augment if isinstance(step, Resize)), None)
    height, width = size_hw if isinstance(size_hw, tuple) else build.sizes_hw[-1].tolist()
    parts = [
        f"{recipe.network} on {width}x{height} pixels",
        recipe.settings().get("task", f"{recipe.task}"),
        f"{recipe.epochs} epochs of {steps:,} steps with {recipe.batch_size} images",
        f"{type(recipe.optimizer).__name__} at {recipe.optimizer.lr:g}",
        *(["classes equally often"] * recipe.balanced),
        *([] if recipe.flip_at_test else ["no mirror images"]),
    ]
    return f"{head} ({learnt}; {num:,} images to learn from): {'; '.join(parts)}"


def _suited(name: str, settings: Sequence[str], *, facts: Facts) -> tuple[str, Recipe]:
    """Name and recipe for any build, by name or chosen."""
    if not name:
        option = _option(facts, settings)
        name = option.name
        if not _asked_target(settings):
            settings = [*option.settings, *settings]
    recipe = recipes.load(name, settings, facts=facts)
    suitability.checked_target(recipe, facts)  # refuses what cannot be learnt before anything is said of it
    if ranks.is_first_of_launch():
        log.info("%s", line_of(name, recipe, build=facts))
    return name, recipe


def _option(build: Facts, settings: Sequence[str]) -> Option:
    """The recipe that fits the target or the task that is asked for, or else the labels."""
    for setting in settings:
        name, _, text = (part.strip() for part in setting.partition("="))
        if name == "task":
            kind = calls.look_up(calls.name_and_arguments(text, what="task")[0], _OF_TASK, what="task")
            return Option(kind, "", "the task was asked for")
        if name in _TARGET:
            kind_of = build.target(text).kind
            number = "ordinal" if kind_of == "number" and suits_ordinal(build.target(text)) else "regressor"
            return Option({"classes": "classifier", "number": number}.get(kind_of, "attributes"), text, "")
    listed = options(build)
    if not listed:
        if build.class_names:
            raise UsageError(
                f"the build has one class, {build.class_names[0]}, and no other to tell it from: build with a folder "
                "per class, or take own_face_modern, which draws others' faces (--set negatives=BUILD)"
            )
        raise UsageError("the build has no labels to learn; build with classes, --labels FILE or --age-bins")
    first, *others = listed
    also = ", ".join(_words(option) for option in others[:_NUM_NAMED])
    if ranks.is_first_of_launch():
        log.info("recipe %s, for %s%s", first.name, first.why, f"; it could be {also}, too" if also else "")
    return first


def _words(option: Option) -> str:
    return f"{option.name} of {option.target}" if option.settings else option.name


def _asked_target(settings: Sequence[str]) -> bool:
    names = {setting.partition("=")[0].strip() for setting in settings}
    return bool(names & {*_TARGET, "task"})


def _is_place(name: str) -> bool:
    """True for a URL, a folder, and what is written like a path."""
    return is_url(name) or Path(name).is_dir() or "/" in name


def _name_of(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2] or "build"
