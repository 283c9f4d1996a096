"""Near-duplicates: pairs of pictures, in one collection or in two, whose perceptual hashes differ in a few bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from facepack.hashing import Hashes
from facepack.perceptual_hash import NUM_BITS, mirrored

RADIUS = 5
"""Hashes of near-duplicates differ in at most so many bits; benchmarks/README.md has the curve it is chosen from."""

Numbers = npt.NDArray[np.int64]

_NUM_EQUAL = 3
"""Bands of bits that are the same in both hashes of a pair that is looked at: with fewer, too many are."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures by their numbers, each once, in order."""

    first: Numbers
    second: Numbers
    distance: npt.NDArray[np.uint8]
    """Bits in which the hashes differ, of the mirror image where that is nearer."""
    is_mirrored: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)

    def in_order(self) -> "Pairs":
        """The same pairs by their numbers."""
        order = np.lexsort((self.second, self.first))
        return Pairs(self.first[order], self.second[order], self.distance[order], self.is_mirrored[order])


def pairs_within(hashes: Hashes, *, radius: int = RADIUS) -> Pairs:
    """The pairs of pictures of one collection, first < second, whose hashes differ in at most `radius` bits.

    Mirrored pairs included. Pictures of one and the same hash are each paired with the first of them only, and with
    others that first one only, so that a picture that stands there n times gives n - 1 pairs, not n squared.
    """
    distinct, firsts, numbers = np.unique(hashes, return_index=True, return_inverse=True)
    near = _near(distinct, distinct, radius)
    once = near.left < near.right
    ends = np.sort([firsts[near.left[once]], firsts[near.right[once]]], axis=0)
    repeats = np.flatnonzero(firsts[numbers] != np.arange(len(hashes)))
    return Pairs(
        np.append(ends[0], firsts[numbers[repeats]]),
        np.append(ends[1], repeats),
        np.append(near.distance[once], np.zeros(len(repeats), np.uint8)),
        np.append(near.is_mirrored[once], np.zeros(len(repeats), np.bool_)),
    ).in_order()


def pairs_between(hashes: Hashes, others: Hashes, *, radius: int = RADIUS) -> Pairs:
    """The pairs of a picture of one collection and one of another, whose hashes differ in at most `radius` bits.

    Mirrored pairs included. `second` are numbers of `others`. Each of `others` that has a pair is in one; of pictures
    of one and the same hash in `hashes` only the first is.
    """
    distinct, firsts = np.unique(hashes, return_index=True)
    distinct_others, numbers = np.unique(others, return_inverse=True)
    near = _near(distinct, distinct_others, radius)
    by_right = np.argsort(near.right, kind="stable")
    starts, stops = (np.searchsorted(near.right[by_right], numbers, side=side) for side in ("left", "right"))
    pairs = by_right[_ranges(starts, stops)]
    second = np.repeat(np.arange(len(others)), stops - starts)
    return Pairs(firsts[near.left[pairs]], second, near.distance[pairs], near.is_mirrored[pairs]).in_order()


def groups_of(pairs: Pairs, *, number: int) -> Numbers:
    """Per picture, of so many, the lowest number among all that pairs join it to, directly or through others."""
    group: Numbers = np.arange(number)
    while True:
        least = np.minimum(group[pairs.first], group[pairs.second])
        joined = group.copy()
        for ends in (pairs.first, pairs.second):
            np.minimum.at(joined, group[ends], least)
            np.minimum.at(joined, ends, least)
        joined = joined[joined]
        if (joined == group).all():
            return group
        group = joined


def _ranges(starts: Numbers, stops: Numbers) -> Numbers:
    """The numbers from each start to before its stop, one range after another."""
    lengths = stops - starts
    numbers: Numbers = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return numbers


# The search


@dataclass(frozen=True)
class _Near:
    """Hashes that are within a radius, by their numbers, with distance and mirroring."""

    left: Numbers
    right: Numbers
    distance: npt.NDArray[np.uint8]
    is_mirrored: npt.NDArray[np.bool_]


def _near(hashes: Hashes, others: Hashes, radius: int) -> _Near:
    """Which of some distinct hashes are near which of others, these as they are or mirrored."""
    is_one = hashes is others
    sides = np.concatenate([hashes, mirrored(hashes)] if is_one else [hashes, others, mirrored(others)])
    start, number = 0 if is_one else len(hashes), len(others)
    meetings = [np.zeros(0, np.int64)]
    for mask in _masks(radius):
        lower, upper = _meetings(sides, mask, radius)
        is_across = (lower < len(hashes)) & (upper >= start)
        meetings.append(lower[is_across] * number + (upper[is_across] - start) % number)
    left, right = np.divmod(np.unique(np.concatenate(meetings)), max(1, number))
    plain = np.bitwise_count(hashes[left] ^ others[right])
    turned = np.bitwise_count(hashes[left] ^ mirrored(others[right]))
    return _Near(left, right, np.minimum(plain, turned), turned < plain)


def _masks(radius: int) -> list[np.uint64]:
    """Sets of bits, in one of which two hashes within a radius are the same.

    Of `radius + 3` bands of bits, 3 at least stay as they are: multi-index hashing, Norouzi, Punjani and Fleet, Fast
    Search in Hamming Space with Multi-Index Hashing, CVPR 2012, with equality of several bands in place of nearness.
    """
    num_bands = radius + _NUM_EQUAL
    bands = [sum(1 << bit for bit in range(band, NUM_BITS, num_bands)) for band in range(num_bands)]
    return [np.uint64(sum(chosen)) for chosen in combinations(bands, _NUM_EQUAL)]


def _meetings(hashes: Hashes, mask: np.uint64, radius: int) -> tuple[Numbers, Numbers]:
    """Pairs within a radius that are the same in the bits of a mask: the lower numbers, and the higher ones."""
    keys = hashes & mask
    order = np.argsort(keys)
    keys, ordered = keys[order], hashes[order]
    meetings = [np.zeros((2, 0), np.int64)]
    for places, step in _same_as_later(keys):
        near = places[np.bitwise_count(ordered[places] ^ ordered[places + step]) <= radius]
        meetings.append(np.sort([order[near], order[near + step]], axis=0))
    lower, upper = np.concatenate(meetings, axis=1)
    return lower, upper


def _same_as_later(keys: Hashes) -> Iterator[tuple[Numbers, int]]:
    """Places of sorted keys that are the same as the one a step later, for each step."""
    step = 1
    places = np.flatnonzero(keys[1:] == keys[:-1])
    while len(places):
        yield places, step
        step += 1
        places = places[: np.searchsorted(places, len(keys) - step)]
        places = places[keys[places] == keys[places + step]]
