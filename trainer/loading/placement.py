"""Placement: the device that batches are made on, for which of how many ranks."""

from dataclasses import dataclass

import torch

from facepack.errors import FieldError


@dataclass(frozen=True)
class Placement:
    """Where batches are made, and for which rank; `FieldError` for a device or a rank that is not there."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.device.type not in ("cpu", "cuda"):
            raise FieldError("device", self.device, "expected cpu, cuda or cuda:0")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise FieldError("device", self.device, "no GPU here that torch can use")
        if self.world_size < 1:
            raise FieldError("world_size", self.world_size, "expected at least 1")
        if not 0 <= self.rank < self.world_size:
            raise FieldError("rank", self.rank, f"expected 0 <= rank < world_size, which is {self.world_size}")

    @classmethod
    def of(cls, device: str | torch.device | None = None, *, rank: int = 0, world_size: int = 1) -> "Placement":
        """Place a rank on a device, by default a GPU where there is one; raises `FieldError`."""
        try:
            placed = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        except (RuntimeError, TypeError) as error:
            raise FieldError("device", device, "expected cpu, cuda or cuda:0") from error
        if placed.type == "cuda" and placed.index is None and torch.cuda.is_available():
            placed = torch.device("cuda", torch.cuda.current_device())
        return cls(placed, rank, world_size)
