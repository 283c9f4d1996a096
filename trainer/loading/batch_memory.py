"""Batch memory: batches in memory that was used before, once nobody holds the batch that was in it."""

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt


class BatchMemory:
    """Memory for batches of one shape. New memory costs a page fault for every 4 KiB, as much as augmenting itself."""

    def __init__(self, image_shape: tuple[int, ...], dtype: Any, *, most_kept: int) -> None:
        """Take the shape of an image; what is given back is kept for `most_kept` batches."""
        self._image_shape, self._dtype, self._most_kept = image_shape, dtype, most_kept
        self._free: list[npt.NDArray[Any]] = []

    def take(self, number: int) -> npt.NDArray[Any]:
        """An array (number, *image_shape) of any content. Its memory is used again once it, and all views, are gone."""
        fitting = [place for place, memory in enumerate(self._free) if len(memory) >= number]
        memory = self._free.pop(fitting[0]) if fitting else np.empty((number, *self._image_shape), self._dtype)
        batch = memory[:number]
        weakref.finalize(batch, self._give_back, memory).atexit = False
        return batch

    def _give_back(self, memory: npt.NDArray[Any]) -> None:
        if len(self._free) < self._most_kept:
            self._free.append(memory)
