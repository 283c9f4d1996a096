"""Calls: settings written as calls, such as RandomCrop(56), read without running any code."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from facepack.errors import UsageError, nearest


def functions_in(package: str, path: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Public functions of the modules of a package, by name: what is there is found, and stands in no list."""
    modules = [importlib.import_module(f"{package}.{one.name}") for one in pkgutil.iter_modules(path)]
    return {
        name: function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


def name_and_arguments(text: str, *, what: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Take "name(1, two=2)", or just "name", apart; arguments are literals. Raises `UsageError`."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(one.arg for one in node.keywords):
            named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
            return node.func.id, [ast.literal_eval(one) for one in node.args], named
    except (SyntaxError, ValueError, RecursionError):
        pass
    raise UsageError(f"{what} {text!r}: expected a call such as RandomCrop(56)")


def made(text: str, known: Mapping[str, Callable[..., Any]], *, what: str) -> Any:
    """The result of one call of something known. Raises `UsageError` that names what there is."""
    name, arguments, named = name_and_arguments(text, what=what)
    function = found(name, known, what=what)
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError as error:
        raise UsageError(f"{what} {name}: {error}; it is {name}{inspect.signature(function)}") from error
    try:
        return function(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"{what} {text}: {error}") from error


def made_list(text: str, known: Mapping[str, Callable[..., Any]], *, what: str) -> tuple[Any, ...]:
    """The results of "[first(), second(2)]", in order."""
    inner = text.strip()
    try:
        node = ast.parse(inner if inner.startswith(("[", "(")) else f"[{inner}]", mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"{what} {text!r}: expected calls, such as [RandomCrop(56), Normalize()]") from error
    parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    return tuple(made(ast.unparse(part), known, what=what) for part in parts)


def found(name: str, known: Mapping[str, Any], *, what: str) -> Any:
    """One of several by name; `UsageError` offers names that are near."""
    if name in known:
        return known[name]
    raise UsageError(f"{what} {name!r} is not known; {nearest(name, sorted(known))}")
