"""Loader: batches of a build on the device, in an order that can be repeated, split over ranks and resumed.

from trainer.loader import Loader

for batch in Loader("builds/celeba-rarest4", split="train", batch_size=256):
    logits = model(batch.images)
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from facepack.errors import FieldError, UsageError
from facepack.manifest import Build
from trainer.loading import augment as augmenting
from trainer.loading.augment import Augmentation
from trainer.loading.decoded import CacheKind, DecodedCache
from trainer.loading.feed import FeedSettings, RankBatch, check_count
from trainer.loading.graphs import AugmentationGraphs
from trainer.loading.mixture import Stage, staged
from trainer.loading.opening import opened
from trainer.loading.order import REMOTE_WINDOW_SHARDS, EpochOrder
from trainer.loading.pipeline import Engine
from trainer.loading.placement import Placement
from trainer.loading.reader import SampleReader
from trainer.loading.runner import Runner
from trainer.loading.samples import Choice
from trainer.loading.staging import StagingSettings
from trainer.loading.targets import Target
from trainer.loading.weighting import Weights

_STATE_VERSION = 1


class Batch(NamedTuple):
    """One batch of a rank, on the device."""

    images: torch.Tensor
    """float32 (batch, 3, height, width), normalised; without `Normalize` uint8 (batch, height, width, 3), RGB."""
    targets: dict[str, torch.Tensor]
    """By name: int64 or float32 (batch,), attributes float32 (batch, num_names)."""
    rows: torch.Tensor
    """Rows in the manifest, int64 (batch,)."""
    mask: torch.Tensor
    """bool (batch,): False for repeats that fill up."""


@dataclass(frozen=True)
class EngineSettings:
    """How much of the machine decoding takes."""

    num_threads: int = 0
    """Threads that decode and augment. 0: one per core that this process may use, and one more to decode."""
    prefetch: int = 2
    """Batches under way at once."""

    def __post_init__(self) -> None:
        if self.num_threads < 0:
            raise FieldError("num_threads", self.num_threads, "expected at least 1, or 0 for one per core")
        if self.prefetch < 1:
            raise FieldError("prefetch", self.prefetch, "expected at least 1")


class Loader:
    """Loads a split of a build, epoch after epoch; each `for` goes through the rest of the current epoch.

    The order, and every random number, depends on the build, the seed and the epoch alone: neither on the number of
    ranks nor on where an earlier run stopped. An epoch gives every sample once; `balanced`, every class equally often.
    """

    _stage: Stage | None = None
    _runner: Runner | None = None
    _epoch = _consumed = 0
    _turn = 0
    """Iterators that were begun: only the last one goes on."""

    def __init__(
        self,
        build: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        split: str | Sequence[str],
        batch_size: int,
        targets: str | Sequence[str] | None = None,
        augment: Sequence[Augmentation] | None = None,
        seed: int = 0,
        cache: CacheKind = "auto",
        device: str | torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
        rows: Sequence[int] | npt.NDArray[Any] | None = None,
        classes: str | Sequence[str] | None = None,
        weights: Weights | None = None,
        num_samples: int | None = None,
        target_names: Mapping[str, str] | None = None,
        feed: FeedSettings | None = None,
        staging: StagingSettings | None = None,
        engine: EngineSettings | None = None,
    ) -> None:
        """Open a build (folder or URL), or several that are mixed: see `trainer.loading.opening`.

        `batch_size` counts over all ranks. `targets` are columns of the manifest (see `trainer.loading.targets`), by
        default the class. `augment` is done in order; by default normalised, in train also flipped. `rows` of the
        manifest, or a mask over it, and `classes`, in the order that numbers them, choose samples. With `weights` (see
        `trainer.loading.weighting`) or `num_samples`, an epoch is so many samples, drawn with replacement. Raises
        `JobError` where there is no build, `UsageError` for what it does not hold, `FieldError` for an argument that
        cannot be.
        """
        _check(batch_size, cache, seed)
        settings = feed or FeedSettings()
        self._staging, self._engine = staging or StagingSettings(), engine or EngineSettings()
        self._placement = Placement.of(device, rank=rank, world_size=world_size)
        choice = Choice.of(
            split, rows=rows, classes=classes, targets=targets, needs_classes=settings.balanced, weights=weights
        )
        self.builds, self._samples = opened(build, choice, target_names=target_names)
        samples = self._samples
        self._order = EpochOrder(
            samples,
            settings=settings,
            seed=seed,
            batch_size=batch_size,
            placement=self._placement,
            num_samples=num_samples,
        )
        if augment is None:
            augment = augmenting.default("train" if samples.is_train else samples.split)
        self._graphs = AugmentationGraphs.of(augment, samples)
        self._cache = DecodedCache(cache, len(samples), self._graphs.kept_size_hw, placement=self._placement)

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return self._order.num_batches

    @property
    def build(self) -> Build:
        """The build, or the first of several."""
        return self.builds[0]

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self._order.num_samples

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self._epoch

    @property
    def targets(self) -> dict[str, Target]:
        """The targets of all samples by name, with what their numbers mean."""
        return self._samples.targets

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row in the manifest of each sample, in the order of `targets`, int64 (num,)."""
        return self._samples.rows

    def keys(self, rows: torch.Tensor | Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """The keys of rows, such as `batch.rows`; the manifest is read for them when they are first asked for."""
        return self._samples.texts.of("key", rows=_numbers(rows))

    def sources(self, rows: torch.Tensor | Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """The paths of rows, such as `batch.rows`, in the dataset that was built."""
        return self._samples.texts.of("source", rows=_numbers(rows))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images of a batch, in pixels."""
        return self._graphs.size_hw

    @property
    def cache(self) -> str:
        """Where decoded images are kept: none, ram or device."""
        return self._cache.kind

    @property
    def cached_bytes(self) -> int:
        """Bytes of memory that are reserved for decoded images now; 0 once the loader is closed."""
        return self._cache.num_bytes

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. An iterator that was begun before is over then, and raises `UsageError`.

        Raises `JobError` where a shard cannot be read, or a sample is damaged.
        """
        runner = self._opened()
        epoch = self._epoch
        self._turn += 1
        turn = self._turn
        runner.begin(
            self._order.batches(epoch, consumed=self._consumed),
            seed=self._order.seed,
            epoch=self._order.random_epoch(epoch),
        )
        is_at_end = False
        try:
            while True:
                if turn != self._turn:
                    raise UsageError("this iterator of the loader is over: another one was begun, or the loader closed")
                try:
                    images, rank_batch = runner.next()
                except StopIteration:
                    is_at_end = True
                    break
                self._consumed = rank_batch.consumed
                yield self._batch(images, rank_batch)
        except RuntimeError as error:
            self._runner = None  # DALI's pipelines do not survive an error
            raise runner.explained(error) from error
        finally:
            # As Python ends, DALI has gone already; an iterator that was left open is closed only then.
            if not is_at_end and turn == self._turn and self._runner is not None and not sys.is_finalizing():
                runner.abandon()
        self._epoch, self._consumed = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where we are, as JSON has it: all that `load_state_dict` needs, also on other ranks or batch sizes."""
        return {
            "version": _STATE_VERSION,
            "epoch": self._epoch,
            "consumed": self._consumed,
            "window": self._order.window_shards,
            "identity": self._order.identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with exactly the samples of its epoch that were not seen yet.

        Raises `UsageError` for the state of a loader of other samples, or in another order.
        """
        identity = self._order.identity()
        if state.get("version") != _STATE_VERSION or state.get("identity") != identity:
            raise UsageError(f"state of another loader: it is of {state.get('identity')}, this one of {identity}")
        self._epoch, self._consumed = int(state["epoch"]), int(state["consumed"])
        if "window" in state:  # another one where it was begun on a copy elsewhere, local or remote
            self._order.window_shards = state["window"]

    def close(self) -> None:
        """Let go of threads, files and memory; a later `for` opens them again."""
        if self._stage is not None:
            self._stage.close()
            self._cache.release()
        self._stage = self._runner = None
        self._turn += 1

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> Runner:
        """The runner, with shards and memory at hand for the rest of the epoch."""
        if self._stage is None:
            build_bytes = sum(shard.num_bytes for build in self.builds for shard in build.shards)
            self._stage = staged(self._samples, self._staging, build_bytes=build_bytes)
        self._cache.reserve()
        if self._runner is None:
            self._runner = self._new_runner(self._stage)
        if self._samples.is_remote:
            shards = self._order.shards(self._epoch, consumed=self._consumed)
            needed = [shard for shard in shards if not self._cache.has(self._samples.positions(shard)).all()]
            self._stage.expect(needed, together=self._order.most_together)
        return self._runner

    def _new_runner(self, stage: Stage) -> Runner:
        most_shards = 2 * (self._order.window_shards or REMOTE_WINDOW_SHARDS)
        return Runner(
            self._graphs,
            samples=self._samples,
            reader=SampleReader(self._samples, stage, most_shards=most_shards, verify=self._staging.verify),
            cache=self._cache,
            engine=Engine(self._placement.device, self._engine.num_threads, self._engine.prefetch),
            batch_size=self._order.rank_batch_size,
        )

    def _batch(self, images: torch.Tensor, rank_batch: RankBatch) -> Batch:
        positions = rank_batch.positions
        targets = {name: self._sent(target.values[positions]) for name, target in self.targets.items()}
        return Batch(images, targets, self._sent(self._samples.rows[positions]), self._sent(rank_batch.mask))

    def _sent(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Values on the device."""
        tensor, device = torch.from_numpy(values), self._placement.device
        # From pinned memory nothing waits for what the GPU still has to do.
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _numbers(rows: Any) -> npt.NDArray[np.int64]:
    """Rows as an array in host memory."""
    return np.atleast_1d(np.asarray(rows.cpu() if isinstance(rows, torch.Tensor) else rows, np.int64))


def _check(batch_size: int, cache: str, seed: int) -> None:
    """Refuse arguments before a build is opened for them."""
    check_count("batch_size", batch_size)
    if not isinstance(seed, int | np.integer):
        raise FieldError("seed", f"{seed!r}", "expected a whole number")
    if cache not in get_args(CacheKind):
        raise FieldError("cache", cache, f"expected {', '.join(get_args(CacheKind))}")
