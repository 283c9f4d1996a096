"""Discovery: the public functions of a package, so that adding one edits no list."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any


def functions_in(package: str, path: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Public functions of the modules of a package by name, in the order in which they are written."""
    functions: dict[str, Callable[..., Any]] = {}
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        functions |= {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        }
    return functions
