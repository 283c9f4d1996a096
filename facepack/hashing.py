"""Hashing: checksums of files and values, and the mixing that makes pseudo-random numbers of hashes."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


class HashingFile(io.RawIOBase):
    """A file to write to that keeps the sha256 of its content alone."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, content: Any) -> int:
        """Count some bytes in."""
        self._sha256.update(content)
        return memoryview(content).nbytes

    def hexdigest(self) -> str:
        """sha256 of all that was written, as hex digits."""
        return self._sha256.hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file, as hex digits; `OSError` where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(content: Any) -> str:
    """sha256 of canonical JSON (sorted keys, no spaces), as hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def key_of(*parts: object) -> int:
    """A 64-bit number from a seed and a purpose: the first bytes, little-endian, of the sha256 of "part/part"."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def mixed(numbers: Hashes) -> Hashes:
    """Numbers of 64 bits mixed one by one: splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))
