"""Data: the loaders of a run, over a build, or over a build and others' faces as one more class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from facepack import manifest
from facepack.configuration import Configuration
from facepack.errors import UsageError
from facepack.manifest import Build, Status
from facepack.storage import Store, is_url
from trainer import sampling
from trainer.folds import Fold, split_by_fold
from trainer.loading import draws
from trainer.loading.augment import Augmentation, Normalize
from trainer.loading.columns import ManifestColumns
from trainer.loading.feed import FeedSettings
from trainer.loading.loader import Batch, Loader
from trainer.loading.mixture import mixture_statistics
from trainer.loading.targets import Target
from trainer.recipe import Recipe
from trainer.results import groups

OTHER = "other"
"""The class of the images that are drawn from another build."""


@dataclass(frozen=True)
class Placement:
    """Which part of the work is done here, and on what."""

    device: torch.device
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class TrainedOn:
    """The build that a run was trained on, as run.json records it."""

    location: str
    digest: str
    plan_digest: str
    configuration: Configuration
    class_names: list[str]
    counts: manifest.Counts
    mean: list[float] | None
    std: list[float] | None
    left_out: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, build: Build, location: str) -> "TrainedOn":
        """Take it from build.json."""
        values = {name: getattr(build, name) for name in cls.__dataclass_fields__ if name != "location"}
        return cls(location=location, **values)


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation per channel RGB in 0..1 that images are normalised by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, build: Build) -> "ChannelStatistics":
        """Those of a build; empty without a train split."""
        return cls(tuple(build.mean or ()), tuple(build.std or ()))

    @classmethod
    def of_several(cls, builds: Sequence[Build]) -> "ChannelStatistics":
        """Those of all train images of builds that are mixed."""
        return cls.of(builds[0]) if len(builds) == 1 else cls(*mixture_statistics(builds))

    def filled(self, augmentations: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        """The same list, normalised by these where it names no numbers of its own."""
        if not self.mean:
            return augmentations
        return tuple(
            Normalize(step.mean or self.mean, step.std or self.std) if isinstance(step, Normalize) else step
            for step in augmentations
        )


class Data:
    """The builds of a run: the one it is trained on, and the one its negatives are drawn from."""

    def __init__(
        self,
        recipe: Recipe,
        location: str | Sequence[str],
        *,
        placement: Placement,
        statistics: ChannelStatistics | None = None,
    ) -> None:
        """Open it, or several that are mixed. Raises `JobError` or `UsageError`.

        `statistics` are those of the build a run was trained on.
        """
        locations = [location] if isinstance(location, str) else list(location)
        locations = [place if is_url(place) else str(Path(place).absolute()) for place in locations]
        builds = [manifest.read_build(place) for place in locations]
        self.location, self.build = locations[0], builds[0]
        """The build, or the first of several."""
        self.statistics = statistics or ChannelStatistics.of_several(builds)
        self._recipe, self._placement = recipe, placement
        if recipe.fold and (len(builds) > 1 or recipe.negatives is not None):
            raise UsageError("fold: with one build alone, and no negatives; --set negatives= for none")
        self._own = [RunBuild.read(*pair) for pair in zip(locations, builds, strict=True)]
        if recipe.fold:
            self._own = [self._own[0].split_anew(Fold.of(recipe.fold), seed=recipe.seed)]
        self.builds = list(self._own)
        """The builds: rows of each are counted on after those of the builds before."""
        if recipe.negatives is not None and len(builds) > 1:
            raise UsageError("negatives: not with several builds; --set negatives= for none")
        if recipe.negatives is not None:
            location = recipe.negatives.build
            self.builds.append(RunBuild.read(location, manifest.read_build(location)))
            if recipe.task.target != "class" or OTHER in self.build.class_names:
                raise UsageError(f"negatives: the build must have classes, none of them {OTHER!r}")

    @property
    def locations(self) -> list[str]:
        """Where the builds lie, without that of the negatives."""
        return [opened.location for opened in self._own]

    @property
    def splits(self) -> list[str]:
        """Those that hold images."""
        splits = ("train", "valid", "test")
        return [split for split in splits if all(len(opened.rows(split)) for opened in self._own)]

    @property
    def trained_on(self) -> list[TrainedOn]:
        """The builds, as run.json records them; of a fold, the counts are those of its splits."""
        builds = [TrainedOn.of(opened.build, opened.location) for opened in self.builds]
        return [replace(builds[0], counts=manifest.count(self._own[0].table))] if self._recipe.fold else builds

    def loader(self, split: str, *, is_train: bool) -> "Loader | Mixture":
        """Batches of a split, shuffled and augmented for training, in stored order and plain elsewhere."""
        recipe, place = self._recipe, self._placement
        if split not in self.splits:
            raise UsageError(
                f"{self.location}: no images in split {split!r}; it has {', '.join(self.splits) or 'none'}"
            )
        common: dict[str, Any] = {
            "split": split,
            "augment": self.statistics.filled(recipe.augment if is_train else recipe.eval_augment),
            "seed": recipe.seed,
            "cache": "none" if split == "test" else "auto",  # it is gone through once
            "device": place.device,
            "rank": place.rank,
            "world_size": place.world_size,
        }
        feed = FeedSettings(shuffle=is_train)
        if is_train:
            feed = replace(feed, balanced=recipe.balanced, copies=recipe.copies)
            common["weights"] = self._row_weights()
        batch_size = recipe.batch_size if is_train else max(2 * recipe.batch_size, 64)
        target = (recipe.task.target,)
        if recipe.fold:  # its rows are of any split of the build
            common |= {"rows": self._own[0].rows(split), "split": self._own[0].packed_splits}
        if recipe.negatives is None:
            return Loader(self.locations, batch_size=batch_size, targets=target, feed=feed, **common)
        own, others = self.builds
        num, times = len(own.rows(split)), recipe.negatives.times if is_train else 1
        rows = others.random_rows(split, num=num, times=times, seed=recipe.seed)
        half = max(1, batch_size // 2)
        first = Loader(own.location, batch_size=half, targets=target, feed=feed, **common)
        feed = replace(feed, balanced=False)
        common["weights"] = None
        second = Loader(others.location, batch_size=min(half, num), targets=(), feed=feed, rows=rows, **common)
        return Mixture(first, second, target=target[0], first_row=len(own.table))

    def _row_weights(self) -> npt.NDArray[np.float64] | None:
        """How often each row of the manifest is drawn in training; None where that is once, or evenly by class."""
        recipe, own = self._recipe, self._own[0]
        way = next((name for name in ("balanced_by", "drawn_by") if getattr(recipe, name)), "")
        if not way:
            return None
        if len(self._own) > 1:
            raise UsageError(f"{way}: not with several builds; --set {way}= draws every image once")
        columns, names = ManifestColumns(Store(own.location)), tuple(own.build.class_names)
        return sampling.row_weights(recipe, columns, rows=own.rows("train"), class_names=names)

    def keys(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The keys of rows."""
        keys = pa.chunked_array([chunk for opened in self.builds for chunk in opened.table["key"].chunks])
        taken: list[str] = keys.take(pa.array(rows)).to_pylist()
        return taken

    def categories(self, rows: npt.NDArray[np.int64]) -> dict[str, pa.ChunkedArray]:
        """What groups rows (num_rows,), by name: columns of the manifests, and of several builds their datasets."""
        tables, target = [], self._recipe.task.target
        for opened in self.builds:
            columns = groups.columns_of(opened.table, besides=target)
            if len(self.builds) > 1:
                columns["dataset"] = pa.chunked_array([pa.repeat(opened.build.dataset, len(opened.table))])
            tables.append(pa.table(columns) if columns else None)
        if any(table is None for table in tables):
            return {}
        joined = pa.concat_tables(tables, promote_options="default")
        return dict(zip(joined.column_names, joined.take(pa.array(rows)).columns, strict=True))


@dataclass(frozen=True)
class RunBuild:
    """A build of a run, with its manifest."""

    location: str
    build: Build
    table: pa.Table

    @classmethod
    def read(cls, location: str, build: Build) -> "RunBuild":
        return cls(location, build, manifest.read_table(Store(location), manifest.MANIFEST_FILE))

    def split_anew(self, fold: Fold, *, seed: int) -> "RunBuild":
        """The same build, of which a fold is held out."""
        try:
            people = self.build.configuration.described.labels_of("identity")
        except UsageError:  # a description that is not here
            people = []
        return replace(self, table=split_by_fold(self.table, fold, seed=seed, people=people))

    @property
    def packed_splits(self) -> list[str]:
        """The splits of the build itself that hold packed rows."""
        statuses = [Status.PACKED]
        return [
            split for split in self.build.counts if manifest.total(self.build.counts, split=split, statuses=statuses)
        ]

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Rows of the manifest that are packed in a split."""
        is_packed = pc.and_(pc.equal(self.table["split"], split), pc.equal(self.table["status"], Status.PACKED))
        return np.flatnonzero(is_packed.to_numpy()).astype(np.int64)

    def random_rows(self, split: str, *, num: int, times: int, seed: int) -> npt.NDArray[np.int64]:
        """So many rows of a split at random, and up to so many times as many, the same ones every time."""
        rows = self.rows(split)
        if len(rows) < num:
            raise UsageError(f"negatives {self.location}: {len(rows):,} images in {split}, but {num:,} are needed")
        return np.sort(draws.permutation(rows, draws.key(seed, "negatives", split))[: num * times])


class Mixture:
    """Batches of two loaders side by side; images of the second are of one more class.

    An epoch is one of the first. The second may have more samples: it goes on in the next epoch.
    """

    def __init__(self, first: Loader, second: Loader, *, target: str, first_row: int) -> None:
        """Rows of the second are counted on from `first_row`."""
        self._first, self._second, self._target, self._first_row = first, second, target, first_row
        self._others: Iterator[Batch] | None = None
        own = first.targets[target]
        values = np.concatenate([own.values, np.full(len(own.values), len(own.names))])
        self.targets = {target: Target(values, (*own.names, OTHER))}
        """The classes of an epoch, and their names in the order of their numbers."""

    def __len__(self) -> int:
        return len(self._first)

    @property
    def num_samples(self) -> int:
        """Samples of both, over all ranks."""
        return self._first.num_samples + self._second.num_samples

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self._first.size_hw

    @property
    def cache(self) -> str:
        """Where decoded images of the first are kept: none, ram or device."""
        return self._first.cache

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        number = len(self._first.targets[self._target].names)
        for own in self._first:
            other = self._next_of_others()
            classes = torch.full_like(other.rows, number)
            columns = zip(
                (own.images, own.targets[self._target], own.rows, own.mask),
                (other.images, classes, other.rows + self._first_row, other.mask),
                strict=True,
            )
            images, codes, rows, mask = (torch.cat(column) for column in columns)
            yield Batch(images, {self._target: codes}, rows, mask)

    def _next_of_others(self) -> Batch:
        """The next batch of the second loader, from its next epoch where this one is over."""
        while True:
            self._others = self._others or iter(self._second)
            for batch in self._others:
                return batch
            self._others = None

    def state_dict(self) -> dict[str, Any]:
        """Where both are."""
        return {"first": self._first.state_dict(), "second": self._second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._others = None
        self._first.load_state_dict(state["first"])
        self._second.load_state_dict(state["second"])

    def close(self) -> None:
        """Let go of both."""
        self._others = None
        self._first.close()
        self._second.close()

    def __enter__(self) -> "Mixture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
