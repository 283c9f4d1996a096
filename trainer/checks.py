"""Checks of the settings of a recipe and of its parts: each names the setting, its value and what is expected."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from facepack.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_finite(settings: "DataclassInstance") -> None:
    """Refuse numbers that are infinite or no number at all."""
    for name, value in ((field.name, getattr(settings, field.name)) for field in fields(settings)):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} {value}: expected a number")


def check_positive(settings: Any, names: Iterable[str]) -> None:
    """Refuse settings that are not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise UsageError(f"{name} {getattr(settings, name)}: expected more than 0")


def check_not_negative(settings: Any, names: Iterable[str]) -> None:
    """Refuse settings below 0."""
    for name in names:
        if getattr(settings, name) < 0:
            raise UsageError(f"{name} {getattr(settings, name)}: expected at least 0")


def check_share(settings: Any, names: Iterable[str]) -> None:
    """Refuse settings outside [0, 1)."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise UsageError(f"{name} {getattr(settings, name)}: expected 0 <= {name} < 1")
