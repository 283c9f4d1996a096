"""Draws: random numbers that depend on nothing but what they are for, so that any of them can be drawn again."""

import numpy as np
import numpy.typing as npt

from facepack.hashing import Hashes, key_of, mixed

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: int | str) -> np.uint64:
    """A 64-bit key for a seed, an epoch, a purpose: the start of a stream of its own."""
    return np.uint64(key_of(*parts))


def hashed(numbers: npt.NDArray[np.int64], key: np.uint64) -> Hashes:
    """A hash of every number under a key (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        return mixed((numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN + key)


def uniform(numbers: npt.NDArray[np.int64], key: np.uint64) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for every number, with 53 random bits."""
    return (hashed(numbers, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(numbers: npt.NDArray[np.int64], key: np.uint64) -> npt.NDArray[np.int64]:
    """The numbers in an order of their own under a key; the same with any version of numpy."""
    return numbers[np.argsort(hashed(numbers, key), kind="stable")]
