"""Perceptual hash: 64 bits of a picture that hardly change as it is resized, encoded anew or made brighter."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facepack.hashing import Hashes

NUM_BITS = 64
NOISE = 8.0
"""Cosine coefficients that are no larger say nothing: coarse JPEG moves them by as much. In grey levels of 255."""

_GRID_PX, _NUM_FREQUENCIES = 40, 8
_SCALE = 1024
_LEAST = NUM_BITS // 2
"""So many coefficients above the noise has a picture with a hash."""


def _cosines() -> npt.NDArray[np.float64]:
    """Rows 1 to 8 of the cosine transform of a side of the grid, as whole numbers: sums of them are exact anywhere."""
    places = 2 * np.arange(_GRID_PX) + 1
    angles = np.outer(np.arange(1, _NUM_FREQUENCIES + 1), places) * (np.pi / (2 * _GRID_PX))
    cosines: npt.NDArray[np.float64] = np.rint(_SCALE * np.cos(angles))
    return cosines


_DOWN = _cosines()
_ACROSS = np.ascontiguousarray(_DOWN.T)
_NOISE = NOISE * _SCALE**2 * _GRID_PX / 2
_MIRRORED = int.from_bytes(
    np.packbits(np.tile(np.arange(1, _NUM_FREQUENCIES + 1) % 2 == 1, _NUM_FREQUENCIES)).tobytes()
)
"""The bits of odd frequencies across, whose waves change sign when left and right change places."""


def grey_of(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture in grey levels, uint8 HW, from grey HW or BGR HWC."""
    grey_hw: Any = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return grey_hw  # type: ignore[no-any-return]


def hash_of(picture: npt.NDArray[np.uint8]) -> int | None:
    """The hash of a picture, uint8 grey HW or BGR HWC, as an integer of 64 bits; the same on any machine.

    The signs of 8 by 8 cosine coefficients, the lowest but the means of rows and columns, of the grey picture at 40 by
    40: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, but with signs in place of
    the median, so that mirroring flips known bits. None for a picture with hardly anything in it, such as one colour or
    a plain gradient: its bits would be noise, or those of every other such picture.
    """
    grid_hw: Any = cv2.resize(grey_of(picture), (_GRID_PX, _GRID_PX), interpolation=cv2.INTER_LINEAR)
    coefficients = _DOWN @ grid_hw.astype(np.float64) @ _ACROSS
    if np.count_nonzero(np.abs(coefficients) > _NOISE) < _LEAST:
        return None
    return int.from_bytes(np.packbits(coefficients > 0).tobytes())


def mirrored(hashes: Hashes) -> Hashes:
    """The hashes of the same pictures with left and right exchanged."""
    return hashes ^ np.uint64(_MIRRORED)
