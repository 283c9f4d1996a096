"""Calls: settings written as calls, such as RandomCrop(56), read without running any code."""

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from facepack.errors import UsageError, nearest

T = TypeVar("T")

_PLACED = re.compile(r"\s*([\w.]+:[\w.]+)\s*(\(.*\))?\s*", re.DOTALL)


def name_and_arguments(text: str, *, what: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Take "name(1, two=2)", or just "name", apart; arguments are literals. Raises `UsageError`.

    A name may be one of a place, such as timm:convnext_tiny.
    """
    if placed := _PLACED.fullmatch(text):
        _, arguments, named = name_and_arguments(f"call{placed[2] or ''}", what=f"{what} {placed[1]}")
        return placed[1], arguments, named
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(item.arg for item in node.keywords):
            named = {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
            return node.func.id, [ast.literal_eval(item) for item in node.args], named
    except (SyntaxError, ValueError, RecursionError):
        pass
    raise UsageError(f"{what} {text!r}: expected a call such as RandomCrop(56)")


def made(text: str, functions: Mapping[str, Callable[..., Any]], *, what: str) -> Any:
    """The result of a call of one of these functions. Raises `UsageError` that names what there is."""
    name, arguments, named = name_and_arguments(text, what=what)
    function = look_up(name, functions, what=what)
    bound(function, arguments, named, what=f"{what} {name}")
    try:
        return function(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"{what} {text}: {error}") from error


def bound(function: Callable[..., Any], arguments: list[Any], named: dict[str, Any], *, what: str) -> dict[str, Any]:
    """The arguments of a call by name; `UsageError` where they do not fit, with what would."""
    signature = inspect.signature(function)
    try:
        return dict(signature.bind(*arguments, **named).arguments)
    except TypeError as error:
        name = getattr(function, "__name__", what.rpartition(" ")[2])
        raise UsageError(
            f"{what}: {error}; it is {name}{signature.replace(return_annotation=signature.empty)}"
        ) from error


def made_list(text: str, functions: Mapping[str, Callable[..., Any]], *, what: str) -> tuple[Any, ...]:
    """The results of "[first(), second(2)]", in order."""
    inner = text.strip()
    try:
        node = ast.parse(inner if inner.startswith(("[", "(")) else f"[{inner}]", mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"{what} {text!r}: expected calls, such as [RandomCrop(56), Normalize()]") from error
    parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    return tuple(made(ast.unparse(part), functions, what=what) for part in parts)


def look_up(name: str, values: Mapping[str, T], *, what: str) -> T:
    """A value by its name; `UsageError` offers names that are near."""
    if name in values:
        return values[name]
    raise UsageError(f"{what} {name!r} is not known; {nearest(name, sorted(values))}")
