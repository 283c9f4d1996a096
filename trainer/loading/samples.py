"""Samples: those of a build that a loader chooses, with their targets, and where each lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.errors import FieldError, UsageError, nearest
from facepack.manifest import Build, ShardRecord, Status
from facepack.storage import Store
from trainer.loading.columns import ManifestColumns
from trainer.loading.targets import CLASS, Target, target


@dataclass(frozen=True)
class Choice:
    """Which samples of a build are loaded, and what is learnt from them."""

    split: str
    rows: npt.NDArray[np.int64] | None
    """Rows of the manifest; None: all of the split."""
    classes: tuple[str, ...] | None
    """In the order that gives their numbers; None: those of the build."""
    targets: tuple[str, ...] | None
    """See `trainer.loading.targets`; None: the class, where the build has classes."""
    needs_classes: bool
    """True where the class of each sample must be known, as for classes that come equally often."""

    @classmethod
    def of(
        cls,
        split: str,
        *,
        rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
        classes: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        needs_classes: bool = False,
    ) -> "Choice":
        """Check the arguments of a loader, as far as that goes without its build; raises `FieldError`."""
        if not isinstance(split, str):
            raise FieldError("split", split, "expected a name, such as train")
        numbers = None if rows is None else np.asarray(rows)
        if numbers is not None and numbers.size == 0:
            numbers = numbers.astype(np.int64)
        if numbers is not None and (numbers.ndim != 1 or numbers.dtype.kind not in "iu"):
            raise FieldError("rows", "", "expected row numbers of the manifest, whole numbers in one dimension")
        return cls(
            split=split,
            rows=None if numbers is None else numbers.astype(np.int64),
            classes=_names("classes", classes),
            targets=_names("targets", targets),
            needs_classes=needs_classes,
        )


@dataclass(frozen=True)
class Samples:
    """Chosen samples in stored order, and where each lies; arrays are (num_samples,) unless noted."""

    store: Store
    split: str
    build_digest: str
    """Digest of the chosen rows of the whole build, whatever their encoding."""
    rows: npt.NDArray[np.int64]
    """Row of each in the manifest."""
    records: list[ShardRecord]
    """The shards that hold them, in stored order."""
    shard_stops: npt.NDArray[np.int64]
    """Where each shard ends among the samples, (num_shards,)."""
    offsets: npt.NDArray[np.int64]
    """Where the image of each begins in its shard, in bytes."""
    num_bytes: npt.NDArray[np.int64]
    """Bytes of each image as stored."""
    sizes_hw: npt.NDArray[np.int64]
    """Height and width of each in pixels, (num_samples, 2)."""
    sha256: npt.NDArray[np.uint8]
    """Checksum of each image as stored, (num_samples, 32)."""
    is_raw: bool
    """True where pixels are stored, False where JPEG or PNG."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Channel statistics of the build, RGB in 0..1; empty where it has no train split."""
    targets: dict[str, Target]
    class_codes: npt.NDArray[np.int32] | None
    """Class of each, where the choice needs classes."""

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, position: int) -> str:
        """The key of a sample, for messages; it is read anew."""
        column = ManifestColumns(self.store).read(["key"], rows=self.rows[position : position + 1])["key"]
        return str(column[0].as_py())

    def positions(self, shard: int) -> slice:
        """Those of a shard."""
        return slice(self.shard_stops[shard - 1] if shard else 0, self.shard_stops[shard])

    @classmethod
    def read(cls, store: Store, build: Build, choice: Choice) -> "Samples":
        """Read what a build holds of a choice.

        Raises `JobError` for a damaged build, `FieldError` or `UsageError` for a choice that it does not hold.
        """
        columns = ManifestColumns(store)
        rows = _chosen_rows(columns, build, choice)
        names = choice.classes if choice.classes is not None else tuple(build.class_names)
        target_names = choice.targets if choice.targets is not None else ((CLASS,) if names else ())
        targets = {name: target(name, columns, rows=rows, class_names=names) for name in target_names}
        codes = None
        if choice.needs_classes:
            codes = (targets.get(CLASS) or target(CLASS, columns, rows=rows, class_names=names)).values
        table = columns.read(["shard", "offset", "size", "height", "width", "sha256"], rows=rows)
        records, shard_stops = _shards(table["shard"], [shard for shard in build.shards if _is_of(shard, choice.split)])
        return cls(
            store=store,
            split=choice.split,
            build_digest=build.plan_digest,
            rows=rows,
            records=records,
            shard_stops=shard_stops,
            offsets=_integers(table["offset"]),
            num_bytes=_integers(table["size"]),
            sizes_hw=np.stack([_integers(table["height"]), _integers(table["width"])], axis=1),
            sha256=_bytes_of_hex(table["sha256"]),
            is_raw=build.configuration.encoding == "raw",
            mean=tuple(build.mean or ()),
            std=tuple(build.std or ()),
            targets=targets,
            class_codes=None if codes is None else codes.astype(np.int32),
        )


def _names(field: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise FieldError(field, names, "expected a list of names")
    return tuple(names)


def _chosen_rows(columns: ManifestColumns, build: Build, choice: Choice) -> npt.NDArray[np.int64]:
    """Packed rows of the split that are among the rows and classes of a choice."""
    table = columns.read(["split", "status"])
    packed = pc.equal(table["status"], Status.PACKED)
    rows = np.flatnonzero(pc.and_(pc.equal(table["split"], choice.split), packed).to_numpy()).astype(np.int64)
    if not len(rows):
        splits = pc.unique(table["split"].filter(packed)).to_pylist()
        raise FieldError(
            "split", choice.split, f"no packed sample in {columns.location}; {nearest(choice.split, splits)}"
        )
    if choice.rows is not None:
        rows = rows[np.isin(rows, choice.rows)]
    if choice.classes is not None:
        for name in choice.classes:
            if name not in build.class_names:
                raise FieldError("classes", name, f"no class of the build; {nearest(name, build.class_names)}")
        of_rows = columns.read([CLASS], rows=rows)[CLASS]
        rows = rows[pc.is_in(of_rows, value_set=pa.array(choice.classes, pa.string())).to_numpy()]
    if not len(rows):
        raise UsageError(f"no packed sample of split {choice.split} is among the rows and classes that were chosen")
    return rows


def _is_of(shard: ShardRecord, split: str) -> bool:
    return shard.name.startswith(f"{split}-")


def _shards(column: pa.ChunkedArray, records: list[ShardRecord]) -> tuple[list[ShardRecord], npt.NDArray[np.int64]]:
    """The shards of samples, and where each ends among them; those that hold none are left out."""
    names = pa.array([record.name for record in records], pa.string())
    shard_of = np.asarray(pc.index_in(column, value_set=names).to_numpy(), np.int64)
    stops = np.searchsorted(shard_of, np.arange(len(records)), side="right").astype(np.int64)
    used = np.flatnonzero(np.diff(stops, prepend=0))
    return [records[number] for number in used], stops[used]


def _integers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(column.to_numpy(), np.int64)


def _bytes_of_hex(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Bytes of checksums of 64 hex digits, uint8 (num, 32)."""
    digits: Any = pc.cast(pc.cast(column, pa.binary()), pa.binary(64)).combine_chunks()
    text = bytes(digits.buffers()[1])[digits.offset * 64 : (digits.offset + len(digits)) * 64]
    return np.frombuffer(bytes.fromhex(text.decode("ascii")), np.uint8).reshape(-1, 32)
