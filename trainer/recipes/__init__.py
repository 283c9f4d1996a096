"""Recipes, found by looking: every public function of a module here is one."""

from collections.abc import Callable, Sequence

from trainer import calls
from trainer.recipe import Recipe


def known() -> dict[str, Callable[[], Recipe]]:
    """All recipes by name; their docstrings say what they need and give."""
    return calls.functions_in(__name__, __path__)


def families() -> dict[str, list[str]]:
    """The recipes of each module, in the order in which they stand there, without their modern siblings."""
    found: dict[str, list[str]] = {}
    published = {name: make for name, make in known().items() if not name.endswith("_modern")}
    for name, make in sorted(published.items(), key=lambda one: one[1].__code__.co_firstlineno):
        found.setdefault(make.__module__.rpartition(".")[2], []).append(name)
    return found


def load(name: str, settings: Sequence[str] = ()) -> Recipe:
    """One by name, with fields changed by text such as "lr=0.01"; `UsageError` offers names that are near."""
    make: Callable[[], Recipe] = calls.found(name, known(), what="recipe")
    return make().changed(settings)
