"""Mixture: the samples of several builds as those of one, and their shards at hand."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from facepack import manifest
from facepack.errors import FieldError
from facepack.manifest import Build
from trainer.loading.samples import Samples
from trainer.loading.shard_file import ShardFile
from trainer.loading.staging import ShardStage, StagingSettings
from trainer.loading.targets import Target


class Stage(Protocol):
    """Gives the bytes of shards; see `ShardStage`."""

    def get(self, shard: int) -> ShardFile:
        """The bytes of a shard."""

    def is_checked(self, shard: int) -> bool:
        """True where the checksum of the whole shard was right just now."""

    def remedy(self, shard: int) -> str:
        """What to do where a shard is damaged."""

    def expect(self, shards: Iterator[int] | Sequence[int], *, together: int = 1) -> None:
        """Name the shards that are wanted, in order."""

    def keep_only(self, shards: set[int]) -> None:
        """Let go of all other shards."""

    def close(self) -> None:
        """Stop fetching."""


@dataclass(frozen=True)
class MixedSamples(Samples):
    """Samples of several builds one after the other: rows of each are counted on after those of the builds before."""

    parts: tuple[Samples, ...] = ()

    @property
    def is_remote(self) -> bool:
        """True where shards of any build have to be fetched."""
        return any(part.is_remote for part in self.parts)


def mixed(parts: Sequence[Samples], builds: Sequence[Build], *, weights: Sequence[float] | None = None) -> MixedSamples:
    """Join the samples of builds; `weights`, one per build, say how often each is drawn.

    Classes and categories are the union by name, in the order of their first build; channel statistics are those of
    all train images, or of the builds by their weights. Raises `FieldError` where targets contradict each other.
    """
    first = parts[0]
    if len({part.is_raw for part in parts}) > 1:
        raise FieldError("build", "", "raw and encoded builds cannot be mixed: build them with the same --encoding")
    starts = np.cumsum([0, *(part.num_rows for part in parts)])
    stops = np.cumsum([0, *(len(part) for part in parts)])
    mean, std = mixture_statistics(builds, weights=weights)
    targets = {name: _joined(name, [part.targets[name] for part in parts]) for name in first.targets}
    codes = [Target(part.class_codes, part.class_names) for part in parts if part.class_codes is not None]
    digests = "".join(part.build_digest for part in parts)
    return MixedSamples(
        store=first.store,
        split=first.split,
        is_raw=first.is_raw,
        build_digest=hashlib.sha256(digests.encode()).hexdigest(),
        num_rows=int(starts[-1]),
        rows=np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=False)]),
        records=[record for part in parts for record in part.records],
        shard_stops=np.concatenate([part.shard_stops + stop for part, stop in zip(parts, stops, strict=False)]),
        offsets=np.concatenate([part.offsets for part in parts]),
        num_bytes=np.concatenate([part.num_bytes for part in parts]),
        sizes_hw=np.concatenate([part.sizes_hw for part in parts]),
        checksums=JoinedChecksums(parts, stops),
        mean=mean,
        std=std,
        targets=targets,
        class_names=_union([part.class_names for part in parts]),
        class_codes=_joined("class", codes).values.astype(np.int32) if codes else None,
        weights=None if weights is None else np.repeat(np.array(weights) / np.diff(stops), np.diff(stops)),
        texts=JoinedTexts(parts, starts),
        parts=tuple(parts),
    )


def checked_weights(weights: Any, *, num_builds: int) -> list[float] | None:
    """The weights of builds; raises `FieldError` where they are not one number per build."""
    if weights is None:
        return None
    if isinstance(weights, Mapping) or np.shape(weights) != (num_builds,):
        raise FieldError("weights", "", f"expected {num_builds} numbers, one per build")
    values = np.asarray(weights)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise FieldError("weights", f"{weights!r}", "expected numbers, at least 0, and one more than that")
    return [float(value) for value in values]


def renamed(names: Sequence[str] | None, target_names: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """The name that each common target has in a build with these label columns, by its common name."""
    own = {common: column for column, common in target_names.items() if column in columns or column == "class"}
    pairs = [(name, name.partition(":")) for name in names or ()]
    return {name: own.get(column, column) + colon + bins for name, (column, colon, bins) in pairs}


def staged(samples: Samples, settings: StagingSettings, *, build_bytes: int) -> Stage:
    """A stage for the shards of samples, of one build or several."""
    if isinstance(samples, MixedSamples):
        return MixedStage(samples.parts, settings, build_bytes=build_bytes)
    return ShardStage(samples.store, samples.records, settings=settings, build_bytes=build_bytes)


class MixedStage:
    """A stage per build; shards are numbered on."""

    def __init__(self, parts: Sequence[Samples], settings: StagingSettings, *, build_bytes: int) -> None:
        """Stage the shards of each part; `build_bytes` are those of all."""
        self._stages = [
            ShardStage(part.store, part.records, settings=settings, build_bytes=build_bytes) for part in parts
        ]
        self._starts = np.cumsum([0, *(len(part.records) for part in parts)]).tolist()

    def get(self, shard: int) -> ShardFile:
        """The bytes of a shard."""
        stage, number = self._of(shard)
        return stage.get(number)

    def is_checked(self, shard: int) -> bool:
        """True where the checksum of the whole shard was right just now."""
        stage, number = self._of(shard)
        return stage.is_checked(number)

    def remedy(self, shard: int) -> str:
        """What to do where a shard is damaged."""
        stage, number = self._of(shard)
        return stage.remedy(number)

    def expect(self, shards: Iterator[int] | Sequence[int], *, together: int = 1) -> None:
        """Name the shards that are wanted, in order."""
        wanted = list(shards)
        for stage, start, stop in zip(self._stages, self._starts, self._starts[1:], strict=False):
            stage.expect([shard - start for shard in wanted if start <= shard < stop], together=together)

    def keep_only(self, shards: set[int]) -> None:
        """Let go of all other shards."""
        for stage, start, stop in zip(self._stages, self._starts, self._starts[1:], strict=False):
            stage.keep_only({shard - start for shard in shards if start <= shard < stop})

    def close(self) -> None:
        """Stop fetching."""
        for stage in self._stages:
            stage.close()

    def _of(self, shard: int) -> tuple[ShardStage, int]:
        number = int(np.searchsorted(self._starts, shard, side="right")) - 1
        return self._stages[number], shard - self._starts[number]


class JoinedChecksums:
    """The checksums of the samples of several builds."""

    def __init__(self, parts: Sequence[Samples], stops: npt.NDArray[np.int64]) -> None:
        """Take the parts, and where each begins among all samples."""
        self._parts, self._stops = parts, stops

    def of(self, position: int) -> bytes:
        """The 32 bytes of a sample."""
        number = int(np.searchsorted(self._stops, position, side="right")) - 1
        return self._parts[number].checksums.of(position - int(self._stops[number]))


class JoinedTexts:
    """Texts of the rows of several manifests, which are counted on."""

    def __init__(self, parts: Sequence[Samples], starts: npt.NDArray[np.int64]) -> None:
        """Take the parts, and the first row of each."""
        self._parts, self._starts = parts, starts

    def of(self, name: str, *, rows: npt.NDArray[np.int64]) -> list[str]:
        """A column of rows, int64 (num_rows,); `FieldError` for rows that are not there."""
        num_rows = int(self._starts[-1])
        if len(rows) and not 0 <= rows.min() <= rows.max() < num_rows:
            raise FieldError("rows", rows[(rows < 0) | (rows >= num_rows)][0], f"expected 0 to {num_rows - 1:,}")
        texts = np.empty(len(rows), object)
        for part, start, stop in zip(self._parts, self._starts, self._starts[1:], strict=False):
            if (is_here := (rows >= start) & (rows < stop)).any():
                texts[is_here] = part.texts.of(name, rows=rows[is_here] - start)
        listed: list[str] = texts.tolist()
        return listed


def _joined(name: str, targets: Sequence[Target]) -> Target:
    """One target over all builds; names are the union, values are numbered by it."""
    if len({bool(target.names) for target in targets}) > 1:
        raise FieldError("targets", name, "has names in one build and is a number in another")
    if len({target.values.shape[1:] for target in targets}) > 1 or targets[0].values.ndim > 1:
        if len({target.names for target in targets}) > 1:
            others = sorted(set(targets[0].names).symmetric_difference(*(target.names for target in targets[1:])))
            raise FieldError("targets", name, f"not the same in all builds: {', '.join(others[:4]) or 'another order'}")
        return Target(np.concatenate([target.values for target in targets]), targets[0].names)
    if not targets[0].names:
        values = np.concatenate([target.values for target in targets])
        return Target(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
    names = _union([target.names for target in targets])
    pieces = [np.array([names.index(each) for each in target.names])[target.values] for target in targets]
    return Target(np.concatenate(pieces).astype(np.int64), names)


def _union(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for of_build in names for name in of_build))


def mixture_statistics(
    builds: Sequence[Build], *, weights: Sequence[float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over the train images of builds, or over builds by their weights."""
    num_train = [manifest.total(build.counts, split="train", statuses=["packed"]) for build in builds]
    shares = num_train if weights is None else weights
    known = [
        (build.mean, build.std, share) for build, share in zip(builds, shares, strict=True) if build.mean and share
    ]
    if not known:
        return (), ()
    of_mean, of_std, of_share = (np.array(column, np.float64) for column in zip(*known, strict=True))
    of_share = of_share / of_share.sum()
    mean = of_share @ of_mean
    variance = of_share @ (of_std**2 + (of_mean - mean) ** 2)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
