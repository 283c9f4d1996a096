"""Reader: samples out of staged shards, each checked when it is first read."""

import hashlib

import numpy as np
import numpy.typing as npt

from facepack.errors import JobError
from trainer.loading.mixture import Stage
from trainer.loading.samples import Samples

_NPY_MAGIC_BYTES = 10


class SampleReader:
    """Reads samples: encoded bytes, or the pixels of raw builds. Checks none whose whole shard was checked just now."""

    def __init__(self, samples: Samples, stage: Stage, *, most_shards: int, verify: bool) -> None:
        """Read out of the shards of `stage`, the last `most_shards` of which stay at hand; check them to `verify`."""
        self._samples, self._stage, self._most_shards = samples, stage, most_shards
        self._is_checked = np.full(len(samples), not verify)
        self._recent: dict[int, None] = {}

    def read(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        """The samples at these positions: uint8 (num_bytes,) as encoded, or (height, width, 3), RGB.

        Raises `JobError` where a shard is not there or a sample is damaged.
        """
        pairs = zip(positions.tolist(), shards.tolist(), strict=True)
        read = [self._sample(position, shard) for position, shard in pairs]
        self._let_go_of_others(shards)
        return read

    def _sample(self, position: int, shard: int) -> npt.NDArray[np.uint8]:
        samples = self._samples
        start = int(samples.offsets[position])
        content = self._stage.get(shard)[start : start + int(samples.num_bytes[position])]
        if not self._is_checked[position]:
            if not self._stage.is_checked(shard):
                self._check(content, position, shard)
            self._is_checked[position] = True
        if not samples.is_raw:
            return np.frombuffer(content, np.uint8)
        header = _NPY_MAGIC_BYTES + int.from_bytes(content[8:10], "little")
        height, width = samples.sizes_hw[position]
        return np.frombuffer(content, np.uint8, offset=header).reshape(height, width, 3)

    def _check(self, content: bytes, position: int, shard: int) -> None:
        samples = self._samples
        if hashlib.sha256(content).digest() != samples.checksums.of(position):
            raise JobError(
                f"{samples.records[shard].name}: sample {samples.key(position)} is damaged (its sha256 is not that of "
                f"the manifest); {self._stage.remedy(shard)}"
            )

    def _let_go_of_others(self, shards: npt.NDArray[np.int64]) -> None:
        for shard in shards.tolist():
            self._recent.pop(shard, None)
            self._recent[shard] = None
        while len(self._recent) > self._most_shards:
            del self._recent[next(iter(self._recent))]
        self._stage.keep_only(set(self._recent))
