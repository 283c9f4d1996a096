"""Shard file: a shard on the disk, read in ranges."""

import os
from pathlib import Path

from facepack.errors import JobError


class ShardFile:
    """A shard on the disk, which reads like its bytes: `shard[start:stop]`, `bytes(shard)`.

    It is read and not mapped: where a file is cut or a disk fails under a map, the process is killed by SIGBUS. It
    stays readable after it was removed.
    """

    def __init__(self, path: Path, *, num_bytes: int) -> None:
        """Raises `JobError` where the file has another size than `num_bytes`, `OSError` where it cannot be opened."""
        self.path, self._num_bytes = path, num_bytes
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._descriptor).st_size
        if size != num_bytes:
            raise JobError(f"{path}: {size:,} bytes, build.json names {num_bytes:,}; build it again")

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __len__(self) -> int:
        return self._num_bytes

    def __bytes__(self) -> bytes:
        return self[:]

    def __getitem__(self, part: slice) -> bytes:
        """The bytes of a part. Raises `JobError` where the file was cut since it was opened, or cannot be read."""
        start, stop, _ = part.indices(self._num_bytes)
        try:
            content = os.pread(self._descriptor, stop - start, start)
            while len(content) < stop - start:  # a signal came, or it is longer than one call reads
                more = os.pread(self._descriptor, stop - start - len(content), start + len(content))
                if not more:
                    raise JobError(f"{self.path}: cut while it was read; run facepack verify, then build it again")
                content += more
        except OSError as error:
            raise JobError(f"{self.path}: {error.strerror or error}; run facepack verify") from error
        return content
