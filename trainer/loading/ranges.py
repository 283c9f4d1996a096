"""Ranges: categories that are ranges of a number, such as the age groups 20-29 and 70+, as numbers or in bins."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from facepack.bins import Bins

_CLOSED = re.compile(r"\(?(\d+)\s*(?:-|,|to)\s*(\d+)\)?")
_OPEN = re.compile(r"(\d+)\s*(?:\+|-)|(?:more than|over)\s+(\d+)")


@dataclass(frozen=True)
class Ranges:
    """Ranges of whole numbers that do not overlap, ascending."""

    names: tuple[str, ...]
    """As the manifest has them."""
    bounds: tuple[tuple[float, float], ...]
    """The first and the last whole number of each; the last one may be infinite."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "Ranges | None":
        """Read "20-29", "(25, 32)", "70+", "more than 70"; None where one is no range, or two overlap."""
        pairs = sorted((bounds, name) for name in names if (bounds := _bounds(name)) is not None)
        if len(pairs) < max(len(names), 2):
            return None
        if any(first[1] >= second[0] for (first, _), (second, _) in pairwise(pairs)):
            return None
        return cls(tuple(name for _, name in pairs), tuple(bounds for bounds, _ in pairs))

    @property
    def middles(self) -> npt.NDArray[np.float32]:
        """The mean of the whole numbers of each, float32 (num_ranges,); an open range is as wide as the one before."""
        widths = [last - first for first, last in self.bounds]
        if np.isinf(widths[-1]):
            widths[-1] = widths[-2]
        return np.array([first + width / 2 for (first, _), width in zip(self.bounds, widths, strict=True)], np.float32)

    @property
    def bins(self) -> str:
        """The same ranges as bins are written, such as "0-2,3-9,70-"."""
        return ",".join(f"{low:.0f}-" + (f"{high:.0f}" if np.isfinite(high) else "") for low, high in self.bounds)

    def codes_in(self, bins: Bins) -> npt.NDArray[np.int64]:
        """The number of the bin that holds each range whole, int64 (num_ranges,), -1 for none."""
        codes = np.full(len(self.bounds), -1, np.int64)
        for number, (low, high) in enumerate(bins.bounds):
            codes[[low <= first and last <= high for first, last in self.bounds]] = number
        return codes


def _bounds(name: str) -> tuple[float, float] | None:
    text = name.strip().lower()
    if match := _CLOSED.fullmatch(text):
        low, high = float(match[1]), float(match[2])
        return (low, high) if low <= high else None
    if match := _OPEN.fullmatch(text):
        return float(match[1] or match[2]), float("inf")
    return None
