"""Bins of a number, such as ages in completed years: '1-4,5-27,28-' is 1 <= age < 5, 5 <= age < 28, 28 <= age."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError

_BIN = re.compile(r"(\d+)-(\d*)")


@dataclass(frozen=True)
class Bins:
    """Ascending bins that do not overlap."""

    names: tuple[str, ...]
    """As they are written, such as "1-4" or "28-"."""
    bounds: tuple[tuple[float, float], ...]
    """The first and the last whole number of each; the last one may be infinite."""

    @classmethod
    def of(cls, text: str, *, field: str, value: str = "") -> "Bins":
        """Parse "1-4,5-27,28-"; `FieldError` names the field and its `value`, by default the text."""
        names = tuple(name.strip() for name in text.split(","))
        matches = [_BIN.fullmatch(name) for name in names]
        bounds = tuple((float(match[1]), float(match[2] or "inf")) for match in matches if match)
        is_ascending = all(low <= high for low, high in bounds)
        is_apart = all(first[1] < second[0] for first, second in pairwise(bounds))
        if len(bounds) < len(names) or not is_ascending or not is_apart:
            raise FieldError(field, value or text, "expected ascending bins that do not overlap, such as 1-4,5-27,28-")
        return cls(names, bounds)

    def __str__(self) -> str:
        return ",".join(self.names)

    def codes(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The number of the bin of each value, int32, -1 for none; a fraction belongs to the whole number below it."""
        whole = np.floor(values)
        codes = np.full(len(values), -1, np.int32)
        for number, (low, high) in enumerate(self.bounds):
            codes[(whole >= low) & (whole <= high)] = number
        return codes
