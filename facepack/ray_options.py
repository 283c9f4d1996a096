"""Ray options: which Ray packs, and what each worker takes of it."""

import os
import re
import sys
from dataclasses import dataclass

from facepack.errors import FieldError

LOCAL = "local"
"""The address of a private Ray on this machine, whatever a variable names."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class RayOptions:
    """Where Ray runs and what workers take of it; nothing here changes a byte."""

    address: str = ""
    """HOST:PORT of the head of a cluster, auto, or `LOCAL`; empty for what a variable names, else a private Ray."""
    min_workers: int | None = None
    """Workers that a cluster is asked for at once; more begin as nodes join. None for all."""
    worker_cpus: float = 1.0
    """Cores that Ray counts for a worker."""
    worker_memory: str = ""
    """Memory that Ray counts for a worker, such as 2GB; empty for none."""
    env: str = ""
    """A file of variables and packages for the workers."""

    def __post_init__(self) -> None:
        if self.min_workers is not None and self.min_workers < 1:
            raise FieldError("min_workers", self.min_workers, "expected 1 or more")
        if not 0 < self.worker_cpus < float("inf"):
            raise FieldError("worker_cpus", self.worker_cpus, "expected a number of cores, such as 1")
        if self.worker_memory and self.worker_memory_bytes == 0:
            raise FieldError("worker_memory", self.worker_memory, "expected a size such as 500MB or 2GB")
        _check_address(self.address)

    @property
    def worker_memory_bytes(self) -> int:
        """Bytes of memory that Ray counts for a worker, 0 for none."""
        size = _SIZE.fullmatch(self.worker_memory.strip())
        return 0 if size is None else int(float(size[1]) * _UNITS[size[2].upper()])


@dataclass(frozen=True)
class Cluster:
    """A Ray that is not ours to start: its address, and what named it."""

    address: str
    named_by: str


def cluster_of(options: RayOptions) -> Cluster | None:
    """The cluster that an option, else RAY_ADDRESS, else this very process names; None for a private Ray.

    Raises `FieldError` for an address that cannot be.
    """
    if options.address:
        return None if options.address == LOCAL else Cluster(options.address, "--ray-address")
    if named := os.environ.get("RAY_ADDRESS", ""):
        _check_address(named, named_by=" of RAY_ADDRESS")
        return None if named == LOCAL else Cluster(named, "RAY_ADDRESS")
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return Cluster(str(ray.get_runtime_context().gcs_address), "ray.init")
    return None


def _check_address(address: str, *, named_by: str = "") -> None:
    """Refuse what names no cluster that one can pack on."""
    instead = "run facepack on a node, or by ray job submit, and give HOST:6379 or auto (docs/cluster.md)"
    if address.startswith("ray://"):
        raise FieldError("ray_address", f"{address}{named_by}", f"Ray's client cannot pack; {instead}")
    if "://" in address:
        raise FieldError("ray_address", f"{address}{named_by}", f"that is for ray job submit, and no head; {instead}")
