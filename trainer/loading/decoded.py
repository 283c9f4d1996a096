"""Decoded: images that are kept once they are decoded, where they fit in memory."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from facepack.errors import FieldError
from trainer.loading.placement import Placement

CacheKind = Literal["none", "ram", "device", "auto"]
"""Where decoded images are kept: nowhere, in host memory, in the memory of the GPU, or wherever they fit."""

_MOST_OF_FREE = 0.4
"""Share of the free memory that the cache takes at most where it is left to us."""


class ControlGroup(NamedTuple):
    """The files in which Linux keeps the memory limit of a container."""

    folder: Path
    limit: str
    usage: str
    reclaimable: str
    """The field of memory.stat that is counted as used and can be had all the same."""


CONTROL_GROUPS = [
    ControlGroup(Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    ControlGroup(
        Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    ),
]
"""Those of the second and the first version of control groups."""


def free_memory(groups: Sequence[ControlGroup] | None = None) -> int:
    """Bytes of host memory that can be had, within the limit of a container; `groups` are by default Linux's own."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for group in CONTROL_GROUPS if groups is None else groups:
        with suppress(OSError, ValueError, KeyError):  # "max" is no limit
            statistics = dict(line.split() for line in (group.folder / "memory.stat").read_text().splitlines())
            used = int((group.folder / group.usage).read_text()) - int(statistics[group.reclaimable])
            free = min(free, int((group.folder / group.limit).read_text()) - used)
    return max(0, free)


class DecodedCache:
    """Decoded images, uint8 (num_images, height, width, 3), RGB, in host or GPU memory; or none at all."""

    def __init__(
        self, kind: CacheKind, num_images: int, size_hw: tuple[int, int] | None, *, placement: Placement
    ) -> None:
        """Reserve the memory. `size_hw` is the one size of all images in pixels, None where they differ.

        Raises `FieldError` where images that differ are to be kept.
        """
        self.kind = _kind(kind, num_images=num_images, size_hw=size_hw, placement=placement)
        """none, ram or device."""
        self._size_hw, self._device = size_hw, placement.device if self.kind == "device" else torch.device("cpu")
        # Where DALI works on the CPU, too, torch would wake its threads against DALI's: numpy copies in one.
        self._shares_cores = placement.device.type == "cpu"
        self._is_filled = np.zeros(num_images, bool)
        self._images: torch.Tensor | None = None
        self.reserve()

    @property
    def is_used(self) -> bool:
        """True where images are kept."""
        return self.kind != "none"

    @property
    def is_on_device(self) -> bool:
        """True where they are kept in a GPU's memory."""
        return self._device.type == "cuda"

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that are reserved now."""
        return 0 if self._images is None else self._images.nbytes

    def reserve(self) -> None:
        """Take the memory, where it is not taken."""
        if self.is_used and self._images is None:
            assert self._size_hw is not None
            shape = (len(self._is_filled), *self._size_hw, 3)
            self._images = torch.empty(shape, dtype=torch.uint8, device=self._device)

    def release(self) -> None:
        """Give the memory back, and forget all images."""
        self._is_filled[:] = False  # first: an interrupt may fall in between
        self._images = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or one in another process, begins without images."""
        return self.__dict__ | {"_images": None, "_is_filled": np.zeros_like(self._is_filled)}

    def has(self, positions: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.bool_]:
        """Which of these images are here, bool (num_positions,)."""
        return self._is_filled[positions]

    def put(self, positions: npt.NDArray[np.int64], images: torch.Tensor) -> None:
        """Keep images, uint8 (num_positions, height, width, 3)."""
        assert self._images is not None
        self._images[torch.from_numpy(positions)] = images.to(self._images.device)
        self._is_filled[positions] = True

    def views(self, positions: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        """Images that are here in host memory, where they are: for readers that need no batch in one piece."""
        assert self._images is not None
        images = self._images.numpy()
        return [images[position] for position in positions.tolist()]

    def images(self, positions: npt.NDArray[np.int64]) -> Any:
        """Images that are here, uint8 (num_positions, height, width, 3): an array, or on a GPU a tensor."""
        assert self._images is not None
        # Whole rows are copied, four times as fast as indexing along four axes.
        flat = self._images.view(len(self._images), -1)
        if self._shares_cores:
            return flat.numpy().take(positions, axis=0).reshape(-1, *self._images.shape[1:])
        rows = torch.from_numpy(positions).to(flat.device)
        images = flat.index_select(0, rows).view(-1, *self._images.shape[1:])
        return images.numpy() if images.device.type == "cpu" else images


def _kind(kind: CacheKind, *, num_images: int, size_hw: tuple[int, int] | None, placement: Placement) -> str:
    """Where images are kept: where they have one size, and with "auto" fit."""
    if kind == "none" or (kind == "auto" and size_hw is None):
        return "none"
    if size_hw is None:
        raise FieldError("cache", kind, "the images differ in size; begin augment with Resize((height, width))")
    on_gpu = placement.device.type == "cuda"
    if kind == "device":
        return "device" if on_gpu else "ram"
    num_bytes = num_images * size_hw[0] * size_hw[1] * 3
    if kind == "auto" and on_gpu and num_bytes < _MOST_OF_FREE * torch.cuda.mem_get_info(placement.device)[0]:
        return "device"
    if kind == "auto" and num_bytes * _ranks_here(placement) > _MOST_OF_FREE * free_memory():
        return "none"
    return "ram"


def _ranks_here(placement: Placement) -> int:
    """Ranks that share the memory of this machine, as torchrun sets it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", placement.world_size))
