"""Memory: a process that computes on the CPU reuses the memory it frees in the next step."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Options of mallopt(3): M_TRIM_THRESHOLD in bytes, M_MMAP_MAX in blocks."""
_KEEP_FREED = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_DEFAULT = {_MMAP_MAX: 1 << 16, _TRIM_THRESHOLD: 64 << 20}


@contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """Within it, a process that computes on the CPU keeps the memory that it frees; afterwards it gives it back.

    A step of training frees hundreds of megabytes of activations, and the next one takes as many. The C library hands
    blocks of that size back to the system, which fills every page with zeros again: a tenth to six tenths of the time
    of a step. Little more is held than the most that was in use. Without glibc, and on a GPU, nothing changes.
    """
    library = ctypes.CDLL(None)
    if device.type != "cpu" or not hasattr(library, "mallopt"):
        yield
        return
    _set(library, _KEEP_FREED)
    try:
        yield
    finally:
        _set(library, _DEFAULT)
        library.malloc_trim(0)


def _set(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)
