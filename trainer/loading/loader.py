"""Loader: batches of a build on the device, in an order that can be repeated, split over ranks and resumed.

from trainer.loader import Loader

for batch in Loader("builds/celeba-rarest4", split="train", batch_size=256):
    logits = model(batch.images)
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from facepack.errors import FieldError, UsageError
from facepack.manifest import Build
from trainer.loading.augment import Augmentation, default_augmentations
from trainer.loading.decoded import CacheKind, DecodedCache
from trainer.loading.feed import FeedSettings, RankBatch, check_count
from trainer.loading.graphs import AugmentationGraphs
from trainer.loading.mixture import Stage, staged
from trainer.loading.opening import opened
from trainer.loading.order import REMOTE_WINDOW_SHARDS, EpochOrder
from trainer.loading.pipeline import Engine, check_process, is_forked
from trainer.loading.placement import Placement
from trainer.loading.reader import SampleReader
from trainer.loading.runner import Runner
from trainer.loading.samples import Choice
from trainer.loading.staging import StagingSettings
from trainer.loading.targets import Target
from trainer.loading.weighting import Weights

_STATE_VERSION = 1
_logger = logging.getLogger("facepack")


class _Position(NamedTuple):
    epoch: int
    consumed: int
    """Samples of the epoch that were seen, over all ranks."""


_START = _Position(0, 0)


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


def _joined(batches: Sequence[Batch], **_: object) -> Batch:
    """Several batches as one: what a torch DataLoader gives that has a batch size of its own."""
    images, targets, rows, masks = zip(*batches, strict=True)
    values = {name: torch.cat([target[name] for target in targets]) for name in targets[0]}
    return Batch(torch.cat(images), values, torch.cat(rows), torch.cat(masks))


default_collate_fn_map[Batch] = _joined


class EpochSampler(NamedTuple):
    """Who decides which samples a batch has, as in a torch DataLoader."""

    sampler: "Loader"
    """It has `set_epoch`."""
    batch_size: int
    """Samples of a batch of this rank."""


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


class Loader(IterableDataset[Batch]):
    """Loads a split of a build; each `for` is one whole epoch, and the next `for` the next epoch.

    That holds wherever the last `for` ended or was broken off; only after `load_state_dict` it is the rest of an epoch.
    An epoch begins with its first batch: an iterator that nobody asks for one takes nothing.
    The order, and every random number, depends on the build, the seed and the epoch alone: neither on the number of
    ranks nor on where an earlier run stopped. An epoch gives every sample once; `balanced`, every class equally often.
    As the dataset of a torch DataLoader it gives the same batches, joined where that has a batch size. Each worker
    gives its share; a new worker knows of no epoch before: call `set_epoch`, or choose `persistent_workers`.
    A copy, or one that was pickled, goes on where the loader would.
    """

    total_dataset_length = 0
    """Samples whose remainder accelerate cuts the last batch to: none, as repeats are told by `mask`."""
    _stage: Stage | None = None
    _runner: Runner | None = None
    """None also while it works: what an error or an interrupt leaves behind is not used again."""
    _position = _START
    """After the last batch that was given."""
    _next_start = _START
    """Where the next `for` begins."""
    _turn = 0
    """Epochs that were begun or ended: only the iterator of the last one goes on."""

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
        samples, self._store = self._samples, self._samples.store
        self._order = EpochOrder(
            samples,
            settings=settings,
            seed=seed,
            batch_size=batch_size,
            placement=self._placement,
            num_samples=num_samples,
        )
        if augment is None:
            augment = default_augmentations("train" if samples.is_train else samples.split)
        self._graphs = AugmentationGraphs.of(augment, samples)
        self._cache = DecodedCache(cache, len(samples), self._graphs.kept_size_hw, placement=self._placement)

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return self._order.num_batches

    def __repr__(self) -> str:
        others = f" and {len(self.builds) - 1} more" if len(self.builds) > 1 else ""
        samples = f"{self.num_samples:,} samples in {len(self):,} batches"
        return f"<Loader of {self._store.location}{others}, split {self._samples.split}: {samples}>"

    def __getitem__(self, index: Any) -> Batch:
        """Refused: batches come in order."""
        raise UsageError("a Loader gives batches in order, not by number: next(iter(loader)), or rows= chooses samples")

    @property
    def dataset(self) -> NoReturn:
        """Refused: a loader is a dataset, and has none."""
        raise AttributeError(
            "a Loader has no dataset, it is one: skip_first_batches and the like take DataLoader(loader, "
            "batch_size=None); load_state_dict skips batches without reading them"
        )

    @property
    def batch_sampler(self) -> EpochSampler:
        """What Lightning looks for in a DataLoader, to call `set_epoch`."""
        return EpochSampler(self, self._order.rank_batch_size)

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
        """The epoch under way, from 0; once its last batch was given, the next one."""
        return self._position.epoch

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
        """The next epoch. It begins with its first batch: an iterator that was begun before raises `UsageError` then.

        Raises `JobError` where a shard cannot be read, or a sample is damaged, and `UsageError` in a process that was
        forked after a loader was used.
        """
        check_process()
        return self._batches()

    def set_epoch(self, epoch: int) -> None:
        """Make the next `for` this epoch, from 0: all of it, or its rest where a state of it was just loaded."""
        if not _is_count(epoch):
            raise FieldError("epoch", epoch, "expected a whole number, at least 0")
        if (start := self._next_start).epoch != epoch:
            if start.consumed:
                _logger.warning(
                    "set_epoch(%d) puts aside the state that was loaded: epoch %d, of which %d samples were seen",
                    *(epoch, *start),
                )
            self._next_start = _Position(int(epoch), 0)
        self._position = self._next_start

    def reset(self) -> None:
        """Make the next `for` the whole of epoch 0, as if the loader were new; an iterator under way is over."""
        self._turn += 1
        self._position = self._next_start = _START

    def state_dict(self) -> dict[str, Any]:
        """Where we are, as JSON has it: all that `load_state_dict` needs, also on other ranks or batch sizes.

        It names the last batch that was given; after the last one of an epoch, the beginning of the next.
        """
        return {
            "version": _STATE_VERSION,
            "epoch": self._position.epoch,
            "consumed": self._position.consumed,
            "window": self._order.window_shards,
            "identity": self._order.identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next `for` the rest of the epoch of a state: exactly the samples that were not seen yet.

        An iterator under way is over. Raises `UsageError` for the state of a loader of other samples, or in another
        order, and for what is no state.
        """
        identity = self._order.identity()
        _check_state(state)
        epoch, consumed = int(state["epoch"]), int(state["consumed"])
        if state["identity"] != identity:
            raise UsageError(f"state of another loader: it is of {state['identity']}, this one of {identity}")
        if consumed > self.num_samples:
            raise UsageError(f"state of a loader: consumed is {consumed:,}, an epoch has {self.num_samples:,} samples")
        self._turn += 1
        if "window" in state:  # another one where it was begun on a copy elsewhere, local or remote
            self._order.window_shards = state["window"]
        self._position = self._next_start = self._after(epoch, consumed)

    def _after(self, epoch: int, consumed: int) -> _Position:
        """Where we are once so many samples of an epoch were consumed."""
        return _Position(epoch + 1, 0) if self._order.is_over(consumed) else _Position(epoch, consumed)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is open."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_stage", "_runner")}

    def close(self) -> None:
        """Let go of threads, files and memory; a later `for` opens them again."""
        self._turn += 1
        stage, self._stage, self._runner = self._stage, None, None
        if stage is not None:
            self._cache.release()
            stage.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self) -> tuple[_Position, int]:
        """Begin the next epoch: where, and as which turn."""
        check_process()
        self._turn += 1
        start = self._position = self._next_start
        self._next_start = _Position(start.epoch + 1, 0)
        return start, self._turn

    def _batches(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        start, turn = self._begun()
        runner = self._opened(start)
        while True:
            check_process()
            if turn != self._turn:
                raise UsageError(
                    "this iterator of the loader is over: another was begun, a state loaded or the loader closed; "
                    "two at once need two loaders"
                )
            try:
                self._runner = None
                images, rank_batch = runner.next()
                self._runner = runner
                batch = self._batch(images, rank_batch)
            except StopIteration:
                self._runner, self._position = runner, _Position(start.epoch + 1, 0)
                return
            except RuntimeError as error:
                raise runner.explained(error) from error
            finally:
                if self._runner is None:
                    runner.close()
            self._position = self._after(start.epoch, rank_batch.consumed)
            try:
                yield batch
            except GeneratorExit:
                # As Python ends, DALI has gone already; an iterator that was left open is closed only then.
                if turn == self._turn and not sys.is_finalizing() and not is_forked():
                    self._runner = self._idle_runner()
                raise

    def _opened(self, start: _Position) -> Runner:
        """The runner at a position, with shards and memory at hand for the rest of its epoch."""
        if self._stage is None:
            build_bytes = sum(shard.num_bytes for build in self.builds for shard in build.shards)
            self._stage = staged(self._samples, self._staging, build_bytes=build_bytes)
        self._cache.reserve()
        runner = self._idle_runner() or self._new_runner(self._stage)
        if self._samples.is_remote:
            shards = self._order.shards(start.epoch, consumed=start.consumed)
            needed = [shard for shard in shards if not self._cache.has(self._samples.positions(shard)).all()]
            self._stage.expect(needed, together=self._order.most_together)
        batches = self._order.batches(start.epoch, consumed=start.consumed)
        runner.begin(batches, seed=self._order.seed, epoch=self._order.random_epoch(start.epoch))
        return runner

    def _idle_runner(self) -> Runner | None:
        """The runner without anything under way; None where there is none, or it cannot go on."""
        runner, self._runner = self._runner, None
        if runner is not None and runner.is_running:
            try:
                runner.abandon()
            except RuntimeError:  # of DALI, for an image that nobody waits for any more
                runner.close()
                return None
        return runner

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


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0


def _check_state(state: Any) -> None:
    """Refuse what is no state."""
    if not isinstance(state, dict):
        raise UsageError(f"state of a loader: expected what state_dict gives, not {type(state).__name__}")
    if missing := {"version", "epoch", "consumed", "identity"} - set(state):
        raise UsageError(f"state of a loader: {', '.join(sorted(missing))} missing")
    if state["version"] != _STATE_VERSION:
        raise UsageError(f"state of a loader: version {state['version']}, this facepack knows {_STATE_VERSION}")
    window = state.get("window")
    for name in ("epoch", "consumed"):
        if not _is_count(state[name]):
            raise UsageError(f"state of a loader: {name} is {state[name]!r}, expected a whole number, at least 0")
    if window is not None and (not _is_count(window) or window < 1):
        raise UsageError(f"state of a loader: window is {window!r}, expected at least 1, or None")


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
