"""Recipes, found by looking: every public function of a module here that gives a Recipe is one."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from facepack.errors import UsageError
from trainer import calls, discovery
from trainer.facts import Asked, Facts
from trainer.optim import AdamW, OneCycle
from trainer.recipe import Recipe
from trainer.task import Attributes, Classes, Number, Ordinal, Task

_TASKS: dict[str, Task] = {
    "classifier": Classes(target=""),
    "attributes": Attributes(),
    "ordinal": Ordinal(target=""),
    "regressor": Number(target=""),
}
"""The recipes for any build, by the name of their function, in the order in which people look for them."""
_NOT_ASKED = 1 << 30


def known() -> dict[str, Callable[[], Recipe]]:
    """The recipes of published systems by name; their docstrings name what they need and what they reached."""
    return {name: make for name, make in _functions().items() if name not in _TASKS}


def for_any_build() -> dict[str, Callable[[Facts], Recipe]]:
    """The recipes for any build by name: functions of its facts."""
    functions = _functions()
    return {name: functions[name] for name in _TASKS}


def families() -> dict[str, list[str]]:
    """The recipes of each module, in the order in which they are written, without their modern siblings."""
    families: dict[str, list[str]] = {}
    for name, make in known().items():
        if not name.endswith("_modern"):
            families.setdefault(make.__module__.rpartition(".")[2], []).append(name)
    return families


def load(name: str, settings: Sequence[str] = (), *, facts: Facts | None = None) -> Recipe:
    """A recipe by name, changed by text such as "lr=0.01"; `UsageError` offers names that are near.

    Those for any build need its `facts`, and go by what the settings ask for.
    """
    function = calls.look_up(name, _functions(), what="recipe")
    if name not in _TASKS:
        made: Recipe = function()
        return made.changed(settings)
    if facts is None:
        raise UsageError(f"recipe {name}: it follows from a build; give --data BUILD")
    suited: Recipe = function(facts.asking(_asked(name, settings)))
    return suited.changed(settings)


def _functions() -> dict[str, Callable[..., Any]]:
    functions = discovery.functions_in(__name__, __path__)
    return {name: make for name, make in functions.items() if inspect.signature(make).return_annotation is Recipe}


def _asked(name: str, settings: Sequence[str]) -> Asked:
    """What settings ask for, by what they make of a recipe that leaves all of it open."""
    draft = Recipe(
        build="",
        network="",
        task=_TASKS[name],
        optimizer=AdamW(lr=1.0),
        schedule=OneCycle(),
        batch_size=_NOT_ASKED,
        epochs=_NOT_ASKED,
    ).changed(settings)
    return Asked(
        target=draft.task.target,
        network=draft.network,
        weights=draft.start.weights,
        freeze=draft.start.freeze,
        batch_size=draft.batch_size % _NOT_ASKED,
        epochs=draft.epochs % _NOT_ASKED,
    )
