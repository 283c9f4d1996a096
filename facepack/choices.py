"""Choices: sizes, margins, splits and classes as values, parsed once from what a user writes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from facepack.bins import Bins
from facepack.errors import FieldError

SIDES_PX = (8, 4096)
"""The shortest and the longest side that `size` takes."""

DEFAULT_SHARES = "80/10/10"
"""The split of datasets that have none of their own."""

_COUNTED = re.compile(r"(rarest|commonest|random)(\d+)")
_SHARES = re.compile(r"\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?){2}")
_SPLITS = "expected official, identity or TRAIN/VALID/TEST such as 80/10/10, or index:80/10/10"


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width_px: int
    height_px: int

    @classmethod
    def of(cls, value: Any) -> "Size | None":
        """Parse 64, "64", "96x112" or (96, 112), width first; None for "keep". Raises `FieldError`."""
        text = "x".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else f"{value}"
        if text == "keep":
            return None
        width, x, height = text.partition("x")
        try:
            size = cls(int(width), int(height if x else width))
        except ValueError:
            size = cls(0, 0)
        shortest, longest = SIDES_PX
        if not all(shortest <= side <= longest for side in (size.width_px, size.height_px)):
            raise FieldError("size", text, f"expected N, WxH ({shortest} to {longest} pixels) or keep")
        return size

    def __str__(self) -> str:
        return f"{self.width_px}" if self.width_px == self.height_px else f"{self.width_px}x{self.height_px}"


@dataclass(frozen=True)
class Margin:
    """What is added around a face: pixels of the photo, or a share of the face's side (of a chip: dlib's padding)."""

    value: float
    unit: Literal["px", "share"]

    @classmethod
    def of(cls, value: Any) -> "Margin":
        """Parse 15, "15" or "25%". Raises `FieldError`."""
        number, percent, rest = f"{value}".partition("%")
        try:
            amount = float(number)
        except ValueError:
            amount = -1.0
        if not 0 <= amount <= (200 if percent else 1000) or rest:
            raise FieldError("margin", value, "expected pixels, such as 15, or a part of the face, such as 25%")
        return cls(amount / 100, "share") if percent else cls(amount, "px")

    def __str__(self) -> str:
        return f"{self.value:g}" if self.unit == "px" else f"{100 * self.value:g}%"


@dataclass(frozen=True)
class SplitRule:
    """How rows are split: as published, by person, by their order inside each class, or at random."""

    text: str
    kind: Literal["official", "identity", "index", "random"]
    shares: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Of train, valid and test; they add up to one."""

    @classmethod
    def of(cls, value: Any) -> "SplitRule":
        """Parse "official", "identity", "identity:80/10/10", "index:60/20/20", "80/10/10" or (80, 10, 10).

        Raises `FieldError`.
        """
        text = f"{value}" if isinstance(value, str) else "/".join(map(str, value))
        kind, _, shares = text.rpartition(":")
        if text == "official":
            return cls(text, "official")
        if text == "identity":
            return cls(text, "identity", _shares(DEFAULT_SHARES, of=text))
        if kind == "identity":
            return cls(text, "identity", _shares(shares, of=text))
        if kind == "index":
            return cls(text, "index", _shares(shares, of=text))
        return cls(text, "random", _shares(text, of=text))

    def __str__(self) -> str:
        return self.text


def _shares(text: str, *, of: str) -> tuple[float, float, float]:
    """Shares that add up to one, from '64/16/20' or '0.64/0.16/0.2'."""
    numbers = [float(part) for part in text.split("/")] if _SHARES.fullmatch(text) else [0.0]
    if len(numbers) != 3 or numbers[0] <= 0:
        raise FieldError("split", of, _SPLITS)
    train, valid, test = (number / sum(numbers) for number in numbers)
    return train, valid, test


@dataclass(frozen=True)
class ClassChoice:
    """Which classes are built: all, some by how many images they have, or by name; of a column, or of attributes."""

    text: str
    column: str
    """Where it is empty: the attributes, or the first column of names."""
    kind: Literal["all", "rarest", "commonest", "random", "named"]
    number: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Any) -> "ClassChoice":
        """Parse "rarest4", "all", "Bald,Male", "gender:all" or ["Bald", "Male"]. Raises `FieldError`."""
        text = value if isinstance(value, str) else ",".join(value)
        column, _, chosen = text.rpartition(":")
        if chosen == "all":
            return cls(text, column, "all")
        if match := _COUNTED.fullmatch(chosen):
            if not int(match[2]):
                raise FieldError("classes", text, "expected at least 1")
            return cls(text, column, match[1], number=int(match[2]))  # type: ignore[arg-type]
        names = tuple(name.strip() for name in chosen.split(","))
        if len(set(names)) < len(names):
            raise FieldError("classes", text, "a class is named twice")
        return cls(text, column, "named", names=names)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class AgeBins:
    """Classes by age in completed years, of a column."""

    text: str
    column: str
    """Where it is empty: the first column of ages."""
    bins: Bins

    @classmethod
    def of(cls, value: Any) -> "AgeBins":
        """Parse "1-4,5-27,28-", or "real_age:1-4,5-". Raises `FieldError`."""
        text = value if isinstance(value, str) else ",".join(value)
        column, _, bins = text.rpartition(":")
        return cls(text, column, Bins.of(bins, field="age_bins", shown=text))

    def __str__(self) -> str:
        return self.text
