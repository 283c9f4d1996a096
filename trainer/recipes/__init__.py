"""Recipes, found by looking: every public function of a module here that gives a Recipe is one."""

import inspect
from collections.abc import Callable, Sequence

from trainer import calls, discovery
from trainer.recipe import Recipe


def known() -> dict[str, Callable[[], Recipe]]:
    """All recipes by name; their docstrings name what they need and what they reached."""
    functions = discovery.functions_in(__name__, __path__)
    return {name: make for name, make in functions.items() if inspect.signature(make).return_annotation is Recipe}


def families() -> dict[str, list[str]]:
    """The recipes of each module, in the order in which they are written, without their modern siblings."""
    families: dict[str, list[str]] = {}
    for name, make in known().items():
        if not name.endswith("_modern"):
            families.setdefault(make.__module__.rpartition(".")[2], []).append(name)
    return families


def load(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by name, changed by text such as "lr=0.01"; `UsageError` offers names that are near."""
    return calls.look_up(name, known(), what="recipe")().changed(settings)
