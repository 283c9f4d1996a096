"""Choices: the values of a configuration's fields, parsed from what a user writes; `str` gives the one text of each."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np

from facepack.bins import Bins
from facepack.errors import FieldError

SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 8, 4096
DEFAULT_FRACTIONS = (80.0, 10.0, 10.0)
"""Train, valid and test where nothing else is asked for."""

_SIZE = re.compile(r"(\d+)(?:x(\d+))?", re.ASCII)
_FRACTIONS = re.compile(r"\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?){2}", re.ASCII)
_COUNTED = re.compile(r"(rarest|commonest|random)(\d+)", re.ASCII)


def _joined(value: object, separator: str) -> str:
    """A value as the command line would give it: sequences joined, others as their text, nothing for None."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return separator.join(_plain(part) for part in value)
    return "" if value is None else _plain(value)


def _plain(value: object) -> str:
    """A float without exponent or needless digits, anything else as its text."""
    return np.format_float_positional(value, trim="-") if isinstance(value, float) else f"{value}".strip()


class Size(NamedTuple):
    """Width and height of the packed images in pixels."""

    width_px: int
    height_px: int

    @classmethod
    def of(cls, value: object) -> Self | None:
        """Parse 64, "64", "64x48" or (64, 48); None for "keep". Raises `FieldError`."""
        text = _joined(value, "x")
        if text == "keep":
            return None
        match = _SIZE.fullmatch(text)
        width_px, height_px = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not all(SMALLEST_SIDE_PX <= side_px <= LARGEST_SIDE_PX for side_px in (width_px, height_px)):
            advice = f"expected N, WxH ({SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} pixels) or keep"
            raise FieldError("size", text, advice)
        return cls(width_px, height_px)

    def __str__(self) -> str:
        return f"{self.width_px}" if self.width_px == self.height_px else f"{self.width_px}x{self.height_px}"


@dataclass(frozen=True)
class Margin:
    """What a cut-out holds around a face: pixels of the photo, or a share of the face's side (of a chip: dlib's
    padding).
    """

    value: float
    unit: Literal["px", "share"]

    @classmethod
    def of(cls, value: object) -> "Margin":
        """Parse 15 or "15" (pixels), or "25%" (of the face). Raises `FieldError`."""
        text = _joined(value, ",")
        number, percent, rest = text.partition("%")
        try:
            amount = float(number)
        except ValueError:
            amount = -1.0
        if not 0 <= amount <= (200 if percent else 1000) or rest:
            raise FieldError("margin", text, "expected pixels, such as 15, or a part of the face, such as 25%")
        return cls(amount / 100, "share") if percent else cls(amount, "px")

    def __str__(self) -> str:
        return f"{self.value:g}" if self.unit == "px" else f"{100 * self.value:g}%"


@dataclass(frozen=True)
class Split:
    """The rule by which rows become train, valid or test.

    official: as published; identity: all rows of a person in one split; index: the first rows of each class are train;
    fractions: at random within each class.
    """

    kind: Literal["official", "identity", "index", "fractions"]
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    """Of train, valid and test, in percent or as parts of 1; not of an official split."""

    @classmethod
    def of(cls, value: object) -> "Split | None":
        """Parse "official", "identity", "identity:80/10/10", "index:80/10/10", "80/10/10" or (80, 10, 10).

        None for an empty text: the dataset decides. Raises `FieldError`.
        """
        text = _joined(value, "/")
        if not text:
            return None
        if text in ("official", "identity"):
            return cls(text)  # type: ignore[arg-type] # one of the kinds
        kind, separator, numbers = text.rpartition(":")
        fractions = tuple(map(float, numbers.split("/"))) if _FRACTIONS.fullmatch(numbers) else ()
        if (kind not in ("identity", "index") and separator) or not fractions:
            names = "official, identity or TRAIN/VALID/TEST such as 80/10/10, or index:80/10/10"
            raise FieldError("split", text, f"expected {names}")
        total = sum(fractions)
        if not any(abs(total - whole) <= whole / 500 for whole in (1, 100)):  # 33.3/33.3/33.3 will do
            raise FieldError("split", text, f"the shares add up to {total:g}, expected 100 (or 1)")
        return cls(kind or "fractions", fractions)  # type: ignore[arg-type] # one of the kinds, and three numbers

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of train, valid and test, which add up to one."""
        train, valid, test = (fraction / sum(self.fractions) for fraction in self.fractions)
        return train, valid, test

    def __str__(self) -> str:
        fractions = "/".join(map(_plain, self.fractions))
        if self.kind == "fractions":
            return fractions
        is_short = self.kind == "official" or (self.kind == "identity" and self.fractions == DEFAULT_FRACTIONS)
        return self.kind if is_short else f"{self.kind}:{fractions}"


@dataclass(frozen=True)
class Classes:
    """Which values of which column are the classes."""

    column: str
    """Empty for the attributes of a dataset that has some, else for its first category."""
    kind: Literal["all", "rarest", "commonest", "random", "names", "none"]
    number: int = 0
    """How many, of rarest, commonest and random."""
    names: tuple[str, ...] = ()
    """In order, of names; those that are left out, of all."""

    @classmethod
    def of(cls, value: object) -> "Classes | None":
        """Parse "rarest4", "commonest4", "random4", "all", "all,-Bald", "Bald,Male" or ["Bald", "Male"], also after
        "COLUMN:"; or "none".

        None for an empty text: the dataset decides. Raises `FieldError`.
        """
        text = _joined(value, ",")
        if not text:
            return None
        column, _, choice = text.rpartition(":")
        if choice == "all" or (choice == "none" and not column):
            return cls(column, choice)  # type: ignore[arg-type] # one of the kinds
        if match := _COUNTED.fullmatch(choice):
            if not int(match[2]):
                raise FieldError("classes", text, f"expected 1 or more, such as {match[1]}4")
            return cls(column, match[1], number=int(match[2]))  # type: ignore[arg-type] # one of the three
        names = tuple(unicodedata.normalize("NFC", name.strip()) for name in choice.split(","))
        if not all(names):
            raise FieldError("classes", text, "one of the names is empty; expected such as Bald,Male")
        if len(set(names)) < len(names):
            raise FieldError("classes", text, "a class is named twice")
        if names[0] == "all" and all(name.startswith("-") and len(name) > 1 for name in names[1:]):
            return cls(column, "all", names=tuple(name[1:].strip() for name in names[1:]))
        return cls(column, "names", names=names)

    def __str__(self) -> str:
        counted = f"{self.kind}{self.number}" if self.number else ",-".join([self.kind, *self.names])
        choice = ",".join(self.names) if self.kind == "names" else counted
        return f"{self.column}:{choice}" if self.column else choice


@dataclass(frozen=True)
class AgeBins:
    """Classes by age."""

    column: str
    """Empty for the first age that a dataset has."""
    bins: Bins

    @classmethod
    def of(cls, value: object) -> "AgeBins | None":
        """Parse "1-4,5-27,28-" or ["1-4", "5-27", "28-"], also after "COLUMN:"; None for an empty text.

        Raises `FieldError`.
        """
        text = _joined(value, ",")
        column, _, bins = text.rpartition(":")
        return cls(column, Bins.of(bins, field="age_bins", value=text)) if text else None

    def __str__(self) -> str:
        return f"{self.column}:{self.bins}" if self.column else f"{self.bins}"
