"""Recipes, found by looking: every public function of a module here is one."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence

from trainer import calls
from trainer.recipe import Recipe


def known() -> dict[str, Callable[[], Recipe]]:
    """All recipes by name; their docstrings say what they need and give."""
    modules = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    return {
        name: function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


def load(name: str, settings: Sequence[str] = ()) -> Recipe:
    """One by name, with fields changed by text such as "lr=0.01"; `UsageError` offers names that are near."""
    make: Callable[[], Recipe] = calls.found(name, known(), what="recipe")
    return make().changed(settings)
