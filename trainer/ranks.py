"""Ranks: the collective calls of a run on several processes; on one process they do nothing."""

import os
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import nn

T = TypeVar("T")


def is_first_rank() -> bool:
    """True in the process that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def is_first_of_launch() -> bool:
    """The same before the processes of torchrun know of each other."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """The number of processes."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def summed(values: torch.Tensor, *, device: torch.device) -> torch.Tensor:
    """The sum of a tensor over all ranks, on the device that they talk over."""
    if world_size() == 1:
        return values
    total = values.to(device).clone()
    torch.distributed.all_reduce(total)
    return total


def share_buffers(modules: Iterable[nn.Module]) -> None:
    """Give all ranks the buffers of the first one, such as the statistics of batch norm."""
    if world_size() > 1:
        for module in modules:  # in one order on all ranks
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)


def wait_for_all() -> None:
    """Go on once all ranks are here."""
    if world_size() > 1:
        torch.distributed.barrier()


def gathered(part: T) -> list[T] | None:
    """The parts of all ranks, in order, on the first rank; None on the others."""
    if world_size() == 1:
        return [part]
    parts: list[Any] = [None] * world_size()
    torch.distributed.gather_object(part, parts if is_first_rank() else None)
    return parts if is_first_rank() else None
