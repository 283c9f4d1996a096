"""Samples: those of a build that a loader chooses, with their targets, and where each lies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import SPLITS
from facepack.errors import FieldError, UsageError, nearest
from facepack.manifest import Build, ShardRecord, Status
from facepack.storage import Store
from trainer.loading.columns import ManifestColumns, RowTexts
from trainer.loading.targets import CLASS, Target, target
from trainer.loading.weighting import Weighted, Weights, sample_weights


@dataclass(frozen=True)
class Choice:
    """Which samples of a build are loaded, and what is learnt from them."""

    splits: tuple[str, ...]
    rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | None
    """Rows of the manifest, or a mask over all of them; None: all of the splits."""
    classes: tuple[str, ...] | None
    """In the order that gives their numbers; None: those of the build."""
    targets: tuple[str, ...] | None
    """See `trainer.loading.targets`; None: the class, where the build has classes."""
    needs_classes: bool
    """True where the class of each sample must be known, as for classes that come equally often."""
    weights: Weights | None
    """See `trainer.loading.weighting`; None: all alike."""

    @classmethod
    def of(
        cls,
        split: str | Sequence[str],
        *,
        rows: Sequence[int] | npt.NDArray[Any] | None = None,
        classes: str | Sequence[str] | None = None,
        targets: str | Sequence[str] | None = None,
        needs_classes: bool = False,
        weights: Weights | None = None,
    ) -> "Choice":
        """Check the arguments of a loader, as far as that goes without its build; raises `FieldError`."""
        splits = _names("split", split)
        if not splits:
            raise FieldError("split", f"{split!r}", "expected a name, such as train, or several")
        return cls(
            splits=splits,
            rows=None if rows is None else _row_numbers(rows),
            classes=_names("classes", classes),
            targets=_names("targets", targets),
            needs_classes=needs_classes,
            weights=weights,
        )


class ImageChecksums(Protocol):
    """The sha256 of samples as stored."""

    def of(self, position: int) -> bytes:
        """The 32 bytes of a sample."""


class Texts(Protocol):
    """Texts of rows, such as their keys."""

    def of(self, name: str, *, rows: npt.NDArray[np.int64]) -> list[str]:
        """A column of rows."""


@dataclass(frozen=True)
class Samples:
    """Chosen samples in stored order, and where each lies; arrays are (num_samples,) unless noted."""

    store: Store
    split: str
    """Its name; of several, all of them, joined by +."""
    build_digest: str
    """Digest of the chosen rows of the whole build, whatever their encoding."""
    num_rows: int
    """Rows of the manifest."""
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
    sizes_hw: npt.NDArray[np.int32]
    """Height and width of each in pixels, (num_samples, 2)."""
    checksums: "ImageChecksums"
    """Those of the images as stored."""
    is_raw: bool
    """True where pixels are stored, False where JPEG, PNG or WebP."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Channel statistics of the build, RGB in 0..1; empty where it has no train split."""
    targets: dict[str, Target]
    class_names: tuple[str, ...]
    """What class codes number."""
    class_codes: npt.NDArray[np.int32] | None
    """Class of each, where the choice needs classes."""
    weights: npt.NDArray[np.float64] | None
    """How often each is drawn, as a share of the sum; None: each comes once."""
    texts: "Texts"
    """Keys and sources of all rows of the manifest."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_remote(self) -> bool:
        """True where shards have to be fetched."""
        return self.store.is_remote

    @property
    def is_train(self) -> bool:
        """True where the split is the one to train on, or it is among several."""
        return "train" in self.split.split("+")

    @property
    def distinct_sizes_hw(self) -> npt.NDArray[np.int64]:
        """Every height and width that a sample has, once, (num_sizes, 2)."""
        sizes = self.sizes_hw.astype(np.int64)
        packed = np.unique((sizes[:, 0] << 32) + sizes[:, 1])  # many times as fast as by rows
        return np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)

    def key(self, position: int) -> str:
        """The key of a sample, for messages."""
        return self.texts.of("key", rows=self.rows[position : position + 1])[0]

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
        codes, weights = None, None
        if choice.needs_classes:
            codes = (targets.get(CLASS) or target(CLASS, columns, rows=rows, class_names=names)).values
        if choice.weights is not None:
            weights = sample_weights(choice.weights, Weighted(columns, rows, names, targets))
        records = [shard for shard in build.shards if shard.name.startswith(tuple(f"{s}-" for s in choice.splits))]
        records, shard_stops = _shards(columns.codes("shard", [record.name for record in records], rows=rows), records)
        return cls(
            store=store,
            split="+".join(choice.splits),
            build_digest=build.plan_digest,
            num_rows=len(columns),
            rows=rows,
            records=records,
            shard_stops=shard_stops,
            offsets=np.asarray(columns.read("offset", rows=rows).to_numpy(), np.int64),
            num_bytes=np.asarray(columns.read("size", rows=rows).to_numpy(), np.int64),
            sizes_hw=np.stack([columns.read(side, rows=rows).to_numpy() for side in ("height", "width")], axis=1),
            checksums=Checksums(store, rows),
            is_raw=build.configuration.encoding == "raw",
            mean=tuple(build.mean or ()),
            std=tuple(build.std or ()),
            targets=targets,
            class_names=names,
            class_codes=None if codes is None else codes.astype(np.int32),
            weights=weights,
            texts=RowTexts(store),
        )


class Checksums:
    """The sha256 of samples as stored; they are read when the first one is asked for."""

    def __init__(self, store: Store, rows: npt.NDArray[np.int64]) -> None:
        """Those of rows of the manifest, one per sample."""
        self._store, self._rows = store, rows
        self._digests: npt.NDArray[np.uint8] | None = None

    def of(self, position: int) -> bytes:
        """The 32 bytes of a sample; `JobError` where the manifest is damaged."""
        if self._digests is None:
            self._digests = _bytes_of_hex(ManifestColumns(self._store).read("sha256", rows=self._rows))
        digest: bytes = self._digests[position].tobytes()
        return digest


def _row_numbers(rows: Any) -> Any:
    """Rows as an array: numbers, int64, or a mask, bool."""
    numbers = np.asarray(rows)
    if numbers.size == 0:
        numbers = numbers.astype(np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iub":
        advice = "expected row numbers of the manifest, whole numbers in one dimension, or a mask over all of its rows"
        raise FieldError("rows", "", advice)
    return numbers if numbers.dtype.kind == "b" else numbers.astype(np.int64)


def _names(field: str, names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Several names; a text is one of them."""
    if names is None:
        return None
    texts = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else None
    if texts is None or not all(isinstance(name, str) for name in texts):
        raise FieldError(field, f"{names!r}", "expected a name, or a list of names")
    if len(set(texts)) < len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise FieldError(field, twice, "named twice")
    return texts


def _chosen_rows(columns: ManifestColumns, build: Build, choice: Choice) -> npt.NDArray[np.int64]:
    """Packed rows of the splits that are among the rows and classes of a choice."""
    is_packed = columns.codes("status", [Status.PACKED]) == 0
    split_codes = columns.codes("split", SPLITS)
    there = [split for number, split in enumerate(SPLITS) if (is_packed & (split_codes == number)).any()]
    for split in choice.splits:
        if split not in there:
            advice = f"no packed sample in {columns.location}; it has {', '.join(there) or 'no split'}"
            raise FieldError("split", split, advice)
    is_chosen = is_packed & np.array([split in choice.splits for split in (*SPLITS, "")])[split_codes]
    if choice.rows is not None:
        is_chosen &= _mask_of(choice.rows, is_chosen, is_packed=is_packed)
    if choice.classes is not None:
        for name in choice.classes:
            if name not in build.class_names:
                raise FieldError("classes", name, f"no class of the build; {nearest(name, build.class_names)}")
        is_chosen &= columns.codes(CLASS, choice.classes) >= 0
    if not is_chosen.any():
        splits = " and ".join(choice.splits)
        raise UsageError(f"no packed sample of split {splits} is among the rows and classes that were chosen")
    return np.flatnonzero(is_chosen).astype(np.int64)


def _mask_of(
    rows: npt.NDArray[Any], is_chosen: npt.NDArray[np.bool_], *, is_packed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """A mask over the manifest out of rows as they are given; `FieldError` for rows that cannot be loaded."""
    num_rows = len(is_chosen)
    if rows.dtype.kind == "b":
        if len(rows) != num_rows:
            raise FieldError("rows", f"a mask of {len(rows):,}", f"expected one of all {num_rows:,} rows")
        return rows
    _refuse(rows, (rows < 0) | (rows >= num_rows), why=f"not among the {num_rows:,} rows of the manifest")
    _refuse(rows, ~is_packed[rows], why="not packed")
    _refuse(rows, ~is_chosen[rows], why="of another split")
    mask = np.zeros(num_rows, bool)
    mask[rows] = True
    if mask.sum() < len(rows):
        numbers, counts = np.unique(rows, return_counts=True)
        _refuse(numbers, counts > 1, why="named twice; weights= draws samples more often")
    return mask


def _refuse(rows: npt.NDArray[np.int64], is_wrong: npt.NDArray[np.bool_], *, why: str) -> None:
    if num_wrong := int(is_wrong.sum()):
        raise FieldError("rows", rows[is_wrong][0], f"the first of {num_wrong:,} that are {why}")


def _shards(
    codes: npt.NDArray[np.int32], records: list[ShardRecord]
) -> tuple[list[ShardRecord], npt.NDArray[np.int64]]:
    """The shards of samples, and where each ends among them; those that hold none are left out."""
    stops = np.searchsorted(codes, np.arange(len(records)), side="right").astype(np.int64)
    used = np.flatnonzero(np.diff(stops, prepend=0))
    return [records[number] for number in used], stops[used]


def _bytes_of_hex(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Bytes of checksums of 64 hex digits, uint8 (num, 32)."""
    digits: Any = pc.cast(pc.cast(column, pa.binary()), pa.binary(64)).combine_chunks()
    text = bytes(digits.buffers()[1])[digits.offset * 64 : (digits.offset + len(digits)) * 64]
    return np.frombuffer(bytes.fromhex(text.decode("ascii")), np.uint8).reshape(-1, 32)
