"""The reader: an opened build, its rows, images and splits, from a folder or an object store alike."""

import importlib.util
import json
import mmap
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import image, manifest
from facepack.errors import JobError, UsageError
from facepack.manifest import Build, Status
from facepack.manifest_rows import ManifestRows
from facepack.storage import Store

if TYPE_CHECKING:
    from facepack.verification import Report

_NAME_THE_FAULT = "facepack verify names what is wrong"


def open_build(location: object) -> "OpenBuild":
    """Open a build in a folder or at a URL.

        build = open_build("builds/celeba-rarest4")
        build.split("train").image(0)

    Only build.json is read here. Raises `JobError` where there is no complete build.
    """
    return OpenBuild(str(location), manifest.read_build(str(location)))


class OpenBuild:
    """A build that can be looked into: all rows of its manifest, or those of a view such as `split("train")`.

    Rows are numbered from 0 in this build or view; `rows` gives their numbers in the whole manifest, which are those of
    a batch of `trainer.Loader`.
    """

    def __init__(self, location: str, info: Build, *, view: pa.Table | None = None, rows: Any = None) -> None:
        self.location = location
        """Folder or URL."""
        self.info = info
        """build.json: configuration, class names, counts, mean and std per channel, shards."""
        self._store = Store(location)
        self._view, self._rows = view, rows

    def __repr__(self) -> str:
        return f"OpenBuild({self.location!r}, {len(self):,} rows)"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.table)

    @cached_property
    def table(self) -> pa.Table:
        """The rows as an Arrow table, with the columns of the manifest; read when first needed."""
        if self._view is not None:
            return self._view
        try:
            return manifest.read_table(self._store, manifest.MANIFEST_FILE)
        except FileNotFoundError as error:
            raise JobError(f"{self.location}: no {manifest.MANIFEST_FILE}; {_NAME_THE_FAULT}") from error

    def manifest_rows(self) -> ManifestRows:
        """The rows of the whole manifest, some at a time: a context that is to be left."""
        try:
            return ManifestRows(self._store)
        except FileNotFoundError as error:
            raise JobError(f"{self.location}: no {manifest.MANIFEST_FILE}; {_NAME_THE_FAULT}") from error

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows in the whole manifest, int64 (N,)."""
        return np.arange(len(self)) if self._rows is None else self._rows

    def pandas(self) -> Any:
        """The rows as a pandas DataFrame; `UsageError` where pandas is not installed."""
        _check_installed("pandas")
        return self.table.to_pandas()

    @property
    def is_remote(self) -> bool:
        """True at a URL, where every read waits for an answer."""
        return self._store.is_remote

    @property
    def packed(self) -> "OpenBuild":
        """A view of the rows whose images are in a shard."""
        return self._where(pc.equal(self.table["status"], Status.PACKED))

    def split(self, name: str) -> "OpenBuild":
        """A view of the packed rows of one split: train, valid or test; `UsageError` for a split that is not there."""
        if name not in self.info.counts:
            raise UsageError(f"{self.location}: no split {name!r}; there are {', '.join(self.info.counts)}")
        packed = pc.equal(self.table["status"], Status.PACKED)
        return self._where(pc.and_(packed, pc.equal(self.table["split"], name)))

    def bytes(self, row: int) -> bytes:
        """The packed image of a row as it is in its shard: JPEG, PNG or WebP, or .npy in a raw build.

        Raises `IndexError` for a row that is not there, `UsageError` for one that is not packed, `JobError` where the
        shard cannot be read.
        """
        shard, offset, size = self._place(row)
        try:
            content = self._store.read_range(shard, start=offset, length=size)
        except OSError as error:
            raise JobError(f"{self.location}/{shard}: cannot be read; {_NAME_THE_FAULT}") from error
        if len(content) != size:
            raise JobError(f"{self.location}/{shard}: ends early; {_NAME_THE_FAULT}")
        return content

    def image(self, row: int) -> npt.NDArray[np.uint8]:
        """The packed image of a row, uint8 (height, width, 3) in RGB; raises what `bytes` does."""
        content, shard = self.bytes(row), self._place(row)[0]
        image_bgr = decode_bgr(content, self.info, where=f"{self.location}/{shard}")
        return np.ascontiguousarray(image_bgr[:, :, ::-1])

    def shard(self, name: str) -> memoryview:
        """A whole shard, for many of its images: mapped where it is a file, read in one request where it is remote."""
        path = self._store.path(name)
        try:
            if path is None:
                return memoryview(self._store.read(name))
            with path.open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except (OSError, ValueError) as error:
            raise JobError(f"{self.location}/{name}: cannot be read; {_NAME_THE_FAULT}") from error

    def webdataset(self, split: str) -> Any:
        """A pipeline of the webdataset package over a split, to go on with: `.shuffle(1000).decode("pil")`.

        A sample has __key__, the image as bytes (jpg, png, webp, or npy in a raw build), and as json all columns of its
        row in the manifest. Raises `UsageError` where webdataset is not installed.
        """
        _check_installed("webdataset")
        from facepack.tar_pipeline import pipeline  # takes torch along where that is installed

        view = self.split(split)
        names = sorted(view.table["shard"].unique().to_pylist())
        columns = [name for name in view.table.column_names if name not in ("shard", "position", "offset", "size")]
        rows = view.table.select(columns).to_pylist()
        labels = {row["key"]: json.dumps(row, ensure_ascii=False).encode() for row in rows}
        return pipeline(self._store, names, labels=labels)

    def verify(self, *, deep: bool = False) -> "Report":
        """Check every promise of the whole build against its bytes; with `deep`, decode every image, too."""
        from facepack.verification import verify

        return verify(self.location, deep=deep)

    def _where(self, mask: pa.ChunkedArray) -> "OpenBuild":
        rows = self.rows[np.asarray(mask.combine_chunks(), bool)]
        return OpenBuild(self.location, self.info, view=self.table.filter(mask), rows=rows)

    def _place(self, row: int) -> tuple[str, int, int]:
        """Shard, offset and size of a packed row."""
        number = row + len(self) if row < 0 else row
        if not 0 <= number < len(self):
            raise IndexError(f"row {row} of {len(self):,}")
        columns = self.table.select(["source", "status", "shard", "offset", "size"])
        (values,) = columns.slice(int(number), 1).to_pylist()
        if values["status"] != Status.PACKED:
            meaning = Status(values["status"]).meaning
            raise UsageError(f"row {row} ({values['source']}) is not packed: {values['status']}, {meaning}")
        return values["shard"], values["offset"], values["size"]


def decode_bgr(content: bytes, info: Build, *, where: str) -> image.Pixels:
    """Decode an image of a build: uint8 (height, width, 3) in BGR; `JobError` where it is damaged."""
    try:
        return image.decode_packed(content, encoding=info.configuration.encoding)
    except (image.BadImageError, ValueError) as error:
        raise JobError(f"{where}: damaged; {_NAME_THE_FAULT}") from error


def _check_installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"this needs {package}, which is not installed: pip install {package}")
