"""Loader: batches of a build on the device, in an order that can be repeated, split over ranks and resumed.

from trainer.loading.loader import Loader

for batch in Loader("builds/celeba-rarest4", split="train", batch_size=256):
    logits = model(batch.images)
"""

import hashlib
import math
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from facepack import manifest
from facepack.errors import JobError, UsageError
from facepack.manifest import Build, Status
from facepack.storage import Store
from trainer.loading import augment as augmenting
from trainer.loading import targets as targeting
from trainer.loading.augment import Augmentation, Normalize
from trainer.loading.feed import Feed, FeedSettings, RankBatch, as_copies, num_batches
from trainer.loading.pipeline import Engine, Graph, Host, Pipeline
from trainer.loading.staging import Stage, StagingSettings
from trainer.loading.targets import Target

CacheKind = Literal["none", "ram", "device", "auto"]

_REMOTE_WINDOW_SHARDS = 16
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where the limits of a container are, as its second and its first version name them."""
_CACHE_SHARE = 0.4
"""Of the memory that is free, what the cache takes when it is left to us."""
_NPY_MAGIC_BYTES = 10
_RUN_IMAGES, _RUN_BYTES = 512, 16_000_000
"""Small batches are made several at once, up to this much: a run of DALI costs as much as a good many small images."""
_STATE_VERSION = 1


class Batch(NamedTuple):
    """One batch of a rank, on the device.

    images float32 (batch, 3, height, width), normalised; or, without `Normalize`, uint8 (batch, height, width, 3), RGB.
    targets by name. rows int64 (batch,): rows in the manifest. mask bool (batch,): False for repeats that fill up.
    """

    images: torch.Tensor
    targets: dict[str, torch.Tensor]
    rows: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class EngineSettings:
    """How much of the machine decoding takes."""

    num_threads: int = 0
    """Threads that decode and augment. 0: one per core that this process may use, and one more to decode."""
    prefetch: int = 2
    """Batches under way at once."""


class Loader:
    """Loads a split of a build, epoch after epoch; each `for` goes through the rest of the current epoch.

    The order, and every random number, depends on the build, the seed and the epoch alone: neither on the number of
    ranks nor on where an earlier run stopped. An epoch gives every sample once; `balanced`, every class equally often.
    """

    def __init__(
        self,
        build: str | os.PathLike[str],
        *,
        split: str,
        batch_size: int,
        targets: Sequence[str] | None = None,
        augment: Sequence[Augmentation] | None = None,
        seed: int = 0,
        cache: CacheKind = "auto",
        device: str | torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
        rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
        classes: Sequence[str] | None = None,
        feed: FeedSettings | None = None,
        staging: StagingSettings | None = None,
        engine: EngineSettings | None = None,
    ) -> None:
        """Open a build (folder or URL).

        `batch_size` counts over all ranks. `targets` are columns of the manifest (see `trainer.targets`), by default
        the class where the build has classes. `augment` is done in order; by default normalised, in train also flipped.
        `rows` (of the manifest) and `classes` (in the order that gives their numbers) choose samples. Raises `JobError`
        where there is no build, `UsageError` for what it does not hold.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size}: expected at least 1")
        if not 0 <= rank < world_size:
            raise UsageError(f"rank {rank} of world_size {world_size}: expected 0 <= rank < world_size")
        self._store = Store(os.fspath(build))
        self.build: Build = manifest.read_build(self._store.location)
        self._settings = feed or FeedSettings()
        self._staging = staging or StagingSettings()
        self._engine = _engine(device, engine or EngineSettings())
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._split = split
        self._samples = _Samples.read(self._store, self.build, split=split, rows=rows, classes=classes)
        names = tuple(classes) if classes is not None else tuple(self.build.class_names)
        wanted = targets if targets is not None else (("class",) if names else ())
        self.targets = {name: self._samples.target(name, class_names=names) for name in wanted}
        """What the numbers of each target mean."""
        self._codes = None
        if self._settings.balanced:
            codes = self._samples.target("class", class_names=names).values.astype(np.int32)
            self._codes = np.repeat(codes, self._settings.copies)
        remote = _REMOTE_WINDOW_SHARDS if self._store.is_remote else None
        self._window = self._settings.window_shards or remote
        self._feed = self._make_feed()
        chosen = tuple(augment) if augment is not None else augmenting.default(is_train=split == "train")
        augmenting.check(chosen)
        self._plan = _Plan.of(chosen, self.build, self._samples)
        self._cache_kind = self._choose_cache(cache)
        self._pixels = _Pixels(self._samples.num, self._plan.kept_size, self._cache_kind, self._engine.device)
        self._stage: Stage | None = None
        self._runner: _Runner | None = None
        self._epoch = self._consumed = self._turn = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return num_batches(self.num_samples, batch_size=self._batch_size)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self._samples.num * self._settings.copies

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._epoch

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images that batches hold."""
        return self._plan.given_size

    @property
    def cache(self) -> str:
        """Where decoded images are kept: none, ram or device."""
        return self._cache_kind

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. An iterator that was begun before is over then, and raises `UsageError`."""
        runner = self._running()
        epoch = self._epoch
        self._turn += 1
        turn = self._turn
        # Copies are changed alike in all epochs.
        runner.begin(self._parts(epoch, self._consumed), epoch=epoch if self._settings.copies == 1 else 0)
        ended = False
        try:
            while True:
                if turn != self._turn:
                    raise UsageError("this iterator of the loader is over: another one was begun, or the loader closed")
                try:
                    images, part = runner.next()
                except StopIteration:
                    ended = True
                    break
                self._consumed = part.consumed
                yield self._batch(images, part)
        except RuntimeError as error:
            self._runner = None  # DALI's pipelines do not survive an error
            raise runner.explained(error) from error
        finally:
            # As Python ends, DALI has gone already; an iterator that was left open is closed only then.
            if not ended and turn == self._turn and self._runner is not None and not sys.is_finalizing():
                runner.abandon()
        self._epoch, self._consumed = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where we are: all that `load_state_dict` needs, also on another number of ranks or with other batch sizes."""
        return {
            "version": _STATE_VERSION,
            "epoch": self._epoch,
            "consumed": self._consumed,
            "window": self._window,
            "identity": self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with exactly the samples of its epoch that were not seen yet."""
        if state.get("version") != _STATE_VERSION or state.get("identity") != self._identity():
            raise UsageError(
                f"state of another loader: it is of {state.get('identity')}, this one of {self._identity()}"
            )
        self._epoch, self._consumed = int(state["epoch"]), int(state["consumed"])
        if "window" in state and state["window"] != self._window:  # begun on a copy elsewhere, local or remote
            self._window = state["window"]
            self._feed = self._make_feed()

    def close(self) -> None:
        """Let go of threads, files and memory; a later `for` opens them again."""
        if self._stage is not None:
            self._stage.close()
            self._pixels.release()
        self._stage = self._runner = None
        self._turn += 1

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Making

    def _make_feed(self) -> Feed:
        shuffle = self._split == "train" if self._settings.shuffle is None else self._settings.shuffle
        stops = self._samples.shard_stops * self._settings.copies
        return Feed(stops, seed=self._seed, shuffle=shuffle, window_shards=self._window, codes=self._codes)

    def _choose_cache(self, wanted: CacheKind) -> str:
        """Keep decoded images where they have one size and fit."""
        size, on_gpu = self._plan.kept_size, self._engine.device.type == "cuda"
        if wanted not in ("none", "ram", "device", "auto"):
            raise UsageError(f"cache {wanted!r}: expected none, ram, device or auto")
        if wanted == "none" or (wanted == "auto" and size is None):
            return "none"
        if size is None:
            raise UsageError(f"cache {wanted}: the images differ in size; begin augment with Resize((height, width))")
        if wanted == "device":
            return "device" if on_gpu else "ram"
        num_bytes = self._samples.num * size[0] * size[1] * 3
        if wanted == "auto" and on_gpu and num_bytes < _CACHE_SHARE * torch.cuda.mem_get_info(self._engine.device)[0]:
            return "device"
        if wanted == "auto" and num_bytes * _ranks_here(self._world_size) > _CACHE_SHARE * _free_memory():
            return "none"
        return "ram"

    def _running(self) -> "_Runner":
        if self._stage is None:
            self._stage = Stage(
                self._store,
                self._samples.records,
                settings=self._staging,
                build_bytes=sum(shard.num_bytes for shard in self.build.shards),
            )
        self._pixels.take()
        if self._runner is None:
            part_size = -(-self._batch_size // self._world_size)
            reader = _Reader(self._samples, self._stage, verify=self._staging.verify)
            self._runner = _Runner(
                self._plan, self._pixels, reader, engine=self._engine, batch_size=part_size, seed=self._seed
            )
            self._runner.kept_shards = 2 * (self._window or _REMOTE_WINDOW_SHARDS)
        if self._store.is_remote:
            order = self._feed.shard_order(self._epoch, consumed=self._consumed).tolist()
            needed = [shard for shard in order if not self._pixels.has_shard(shard, self._samples)]
            self._stage.expect(needed, together=self._feed.most_together)
        return self._runner

    def _parts(self, epoch: int, consumed: int) -> Iterator[RankBatch]:
        parts = self._feed.batches(
            epoch,
            batch_size=self._batch_size,
            consumed=consumed,
            rank=self._rank,
            world_size=self._world_size,
            pad=self._settings.pad_last,
        )
        copies = self._settings.copies
        return parts if copies == 1 else (as_copies(part, copies) for part in parts)

    def _batch(self, images: torch.Tensor, part: RankBatch) -> Batch:
        device = self._engine.device

        def sent(values: npt.NDArray[Any]) -> torch.Tensor:
            found = torch.from_numpy(values)
            # From pinned memory nothing waits for what the GPU still has to do.
            return found if device.type == "cpu" else found.pin_memory().to(device, non_blocking=True)

        targets = {name: sent(one.values[part.positions]) for name, one in self.targets.items()}
        return Batch(images, targets, sent(self._samples.rows[part.positions]), sent(part.mask))

    def _identity(self) -> dict[str, Any]:
        """What decides the order: a state fits a loader with the same."""
        chosen = hashlib.sha256(self._samples.rows.tobytes()).hexdigest()[:16]
        kept = {name: value for name, value in asdict(self._settings).items() if name != "pad_last"}
        return {
            "build": self.build.plan_digest[:16],
            "split": self._split,
            "samples": chosen,
            "seed": self._seed,
            **kept,
        }


# What a build holds


@dataclass(frozen=True)
class _Samples:
    """The chosen samples in stored order, and where each lies."""

    table: pa.Table
    rows: npt.NDArray[np.int64]
    """Row of each in the manifest."""
    records: list[manifest.ShardRecord]
    shard_stops: npt.NDArray[np.int64]
    """Where each shard ends among the samples."""
    offsets: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    """Width and height in pixels."""
    sha256: npt.NDArray[np.uint8]
    """Checksums of the images, (num, 32)."""
    is_raw: bool
    whole: pa.Table
    """The manifest."""

    @property
    def num(self) -> int:
        """How many."""
        return len(self.rows)

    def target(self, name: str, *, class_names: tuple[str, ...]) -> Target:
        """A target of these; categories have the same numbers in every split."""
        return targeting.target(name, self.table, class_names=class_names, whole=self.whole)

    @classmethod
    def read(
        cls,
        store: Store,
        build: Build,
        *,
        split: str,
        rows: Sequence[int] | npt.NDArray[np.int64] | None,
        classes: Sequence[str] | None,
    ) -> "_Samples":
        try:
            table = manifest.read_table(store, manifest.MANIFEST_FILE)
        except FileNotFoundError as error:
            raise JobError(f"{store.location}: no {manifest.MANIFEST_FILE}; run facepack verify") from error
        chosen = pc.and_(pc.equal(table["split"], split), pc.equal(table["status"], Status.PACKED))
        numbers = np.flatnonzero(chosen.to_numpy())
        if rows is not None:
            numbers = numbers[np.isin(numbers, np.asarray(rows, np.int64))]
        if classes is not None:
            if unknown := [name for name in classes if name not in build.class_names]:
                raise UsageError(
                    f"classes: the build has no class {unknown[0]!r}; it has {', '.join(build.class_names) or 'none'}"
                )
            of_class = pc.is_in(table["class"], value_set=pa.array(list(classes), pa.string())).to_numpy()
            numbers = numbers[of_class[numbers]]
        if not len(numbers):
            raise UsageError(f"{store.location}: no packed sample of split {split!r} is chosen")
        whole, table = table, table.take(pa.array(numbers))
        records = [record for record in build.shards if record.name.startswith(f"{split}-")]
        names = pa.array([record.name for record in records], pa.string())
        of_shard = np.asarray(pc.index_in(table["shard"], value_set=names).to_numpy(), np.int64)
        stops = np.searchsorted(of_shard, np.arange(len(records)), side="right").astype(np.int64)
        used = np.flatnonzero(np.diff(stops, prepend=0))
        sizes = np.stack([table[name].to_numpy() for name in ("width", "height")], axis=1).astype(np.int64)
        digests = bytes.fromhex("".join(table["sha256"].to_pylist()))
        return cls(
            table=table,
            rows=numbers.astype(np.int64),
            records=[records[number] for number in used],
            shard_stops=stops[used],
            offsets=np.asarray(table["offset"].to_numpy(), np.int64),
            num_bytes=np.asarray(table["size"].to_numpy(), np.int64),
            sizes=sizes,
            sha256=np.frombuffer(digests, np.uint8).reshape(-1, 32),
            is_raw=build.configuration.encoding == "raw",
            whole=whole,
        )


@dataclass(frozen=True)
class _Plan:
    """The list of augmentations, cut where results stop being the same every time."""

    fixed: Graph
    """From what is in the shards to what can be kept."""
    rest: Graph
    """From what is kept to what is given."""
    whole: Graph
    """Both at once, where nothing is kept."""
    kept_size: tuple[int, int] | None
    """Height and width of what can be kept, None where images differ."""
    given_size: tuple[int, int]
    """Height and width of what is given."""

    @classmethod
    def of(cls, chosen: tuple[Augmentation, ...], build: Build, samples: _Samples) -> "_Plan":
        cut = augmenting.fixed_part(chosen)
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        if chosen and isinstance(last := chosen[-1], Normalize):
            mean, std = tuple(last.mean or build.mean or ()), tuple(last.std or build.std or ())
            if len(mean) != 3 or len(std) != 3:
                raise UsageError("Normalize: the build has no train split, hence no mean and std: give three of each")
            if min(std) <= 0:
                raise UsageError(f"Normalize: std {std}: expected more than 0")
        is_encoded = not samples.is_raw
        fixed = Graph(chosen[:cut], 0, is_encoded, (), ())
        rest = Graph(chosen[cut:], cut, False, mean, std)
        whole = Graph(chosen, 0, is_encoded, mean, std)
        distinct = np.unique(samples.sizes, axis=0)
        _, kept = fixed.inputs(seed=0, epoch=0, numbers=np.zeros(len(distinct), np.int64), sizes=distinct)
        _, given = rest.inputs(seed=0, epoch=0, numbers=np.zeros(len(distinct), np.int64), sizes=kept)
        if len(np.unique(given, axis=0)) > 1:
            raise UsageError("the images differ in size, and so would a batch: add Resize((height, width)) to augment")
        one = len(np.unique(kept, axis=0)) == 1
        kept_size = (int(kept[0, 1]), int(kept[0, 0])) if one else None
        return cls(fixed, rest, whole, kept_size, (int(given[0, 1]), int(given[0, 0])))


class _Pixels:
    """Decoded images that are kept: uint8 (num_samples, height, width, 3), in host or GPU memory."""

    def __init__(self, num: int, size: tuple[int, int] | None, kind: str, device: torch.device) -> None:
        self.is_kept = np.zeros(num, bool)
        self.is_used = kind != "none"
        # Where DALI works on the CPU, too, torch would wake its threads against DALI's: numpy copies in one.
        self._shares_cores = device.type == "cpu"
        self.images: torch.Tensor | None = None
        self._size, self._device = size, device if kind == "device" else torch.device("cpu")
        self.take()

    @property
    def is_on_device(self) -> bool:
        """True where they are kept in a GPU's memory."""
        return self._device.type == "cuda"

    def take(self) -> None:
        """Take the memory, where it is not taken."""
        if self.is_used and self.images is None:
            assert self._size is not None
            shape = (len(self.is_kept), *self._size, 3)
            self.images = torch.empty(shape, dtype=torch.uint8, device=self._device)

    def release(self) -> None:
        """Give the memory back, and forget all images."""
        self.images = None
        self.is_kept[:] = False

    def gathered(self, positions: npt.NDArray[np.int64]) -> Any:
        """Kept images side by side; whole rows are copied, four times as fast as indexing along four axes."""
        assert self.images is not None
        flat = self.images.view(len(self.images), -1)
        if self._shares_cores:
            return flat.numpy().take(positions, axis=0).reshape(-1, *self.images.shape[1:])
        rows = torch.from_numpy(positions).to(flat.device)
        chosen = flat.index_select(0, rows).view(-1, *self.images.shape[1:])
        return chosen.numpy() if chosen.device.type == "cpu" else chosen

    def has_shard(self, shard: int, samples: _Samples) -> bool:
        """True where nothing of a shard is needed any more."""
        start = samples.shard_stops[shard - 1] if shard else 0
        return self.is_used and bool(self.is_kept[start : samples.shard_stops[shard]].all())


# Running


class _Reader:
    """Reads samples out of staged shards: encoded bytes, or pixels of raw builds.

    Each is checked when it is first read, unless its whole shard has just been.
    """

    def __init__(self, samples: _Samples, stage: Stage, *, verify: bool) -> None:
        self._samples, self._stage = samples, stage
        self._is_checked = np.full(samples.num, not verify)

    def read(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        """The samples at these positions: uint8 (size,) as encoded, or (height, width, 3)."""
        samples, found = self._samples, []
        for position, shard in zip(positions.tolist(), shards.tolist(), strict=True):
            start = int(samples.offsets[position])
            content = self._stage.get(shard)[start : start + int(samples.num_bytes[position])]
            if not self._is_checked[position]:
                if not self._stage.is_checked(shard):
                    self._check(content, position, shard)
                self._is_checked[position] = True
            if samples.is_raw:
                header = _NPY_MAGIC_BYTES + int.from_bytes(content[8:10], "little")
                width, height = samples.sizes[position]
                found.append(np.frombuffer(content, np.uint8, offset=header).reshape(height, width, 3))
            else:
                found.append(np.frombuffer(content, np.uint8))
        return found

    def _check(self, content: memoryview, position: int, shard: int) -> None:
        samples = self._samples
        if hashlib.sha256(content).digest() != samples.sha256[position].tobytes():
            key = samples.table["key"][position].as_py()
            raise JobError(
                f"{samples.records[shard].name}: sample {key} is damaged (its sha256 is not that of the manifest); "
                f"{self._stage.remedy(shard)}"
            )

    def keep_only(self, shards: set[int]) -> None:
        """Let go of other shards."""
        self._stage.keep_only(shards)

    @property
    def samples(self) -> _Samples:
        """What is read."""
        return self._samples


class _Runner:
    """Runs the pipelines over the parts of an epoch: one from shard to batch, or two with kept images between them."""

    kept_shards = 2 * _REMOTE_WINDOW_SHARDS

    def __init__(
        self, plan: _Plan, pixels: _Pixels, reader: _Reader, *, engine: Engine, batch_size: int, seed: int
    ) -> None:
        self._plan, self._pixels, self._reader, self._seed = plan, pixels, reader, seed
        self._parts: Iterator[RankBatch] = iter(())
        self._sent: deque[list[RankBatch]] = deque()
        self._ready: deque[tuple[torch.Tensor, RankBatch]] = deque()
        self._num_next = 1
        self._epoch = 0
        self._is_under_way = False
        self._recent: dict[int, None] = {}
        self._stopped = False
        self._error: Exception | None = None
        self._decoding: Pipeline | None = None
        self._coming: list[Host] = []
        image_bytes = math.prod(plan.given_size) * 3 * (4 if plan.whole.normalizes else 1)
        self._batches_per_run = max(1, min(_RUN_IMAGES, _RUN_BYTES // image_bytes) // batch_size)
        most = self._batches_per_run * batch_size
        if pixels.is_used:
            self._main = Pipeline(
                plan.rest,
                batch_size=most,
                engine=engine,
                source=self._from_kept,
                images_on_device=pixels.is_on_device,
            )
            if not reader.samples.is_raw or plan.fixed.augmentations:
                one = Engine(engine.device, engine.num_threads, 1)
                self._decoding = Pipeline(plan.fixed, batch_size=most, engine=one, source=self._to_keep)
        else:
            self._main = Pipeline(plan.whole, batch_size=most, engine=engine, source=self._from_shards)

    def begin(self, parts: Iterator[RankBatch], *, epoch: int) -> None:
        """Start on the rest of an epoch; what was under way is thrown away."""
        if self._is_under_way:
            self.abandon()
        self._is_under_way = True
        self._parts, self._epoch, self._stopped, self._error = parts, epoch, False, None
        self._num_next = 1  # and then more and more, so that the first batch waits for no other
        self._sent.clear()
        self._ready.clear()

    def next(self) -> tuple[torch.Tensor, RankBatch]:
        """The next batch; `StopIteration` at the end of the epoch."""
        if not self._ready:
            try:
                images = self._main.run()
            except StopIteration:
                self._is_under_way = False
                raise
            parts = self._sent.popleft()
            sizes = [len(part.positions) for part in parts]
            self._ready.extend(zip(torch.split(images, sizes), parts, strict=True))
        return self._ready.popleft()

    def abandon(self) -> None:
        """Throw away what is under way."""
        self._stopped, self._is_under_way = True, False
        self._main.drain()

    def explained(self, error: RuntimeError) -> Exception:
        """What a user can do about an error out of DALI: our own that it carries, or the shards under way."""
        if self._error is not None:
            return self._error
        samples = self._reader.samples
        under_way = {shard for parts in self._sent for part in parts for shard in part.shards.tolist()}
        shards = sorted(samples.records[shard].name for shard in under_way)
        cause = str(error).strip().splitlines()
        return JobError(f"{', '.join(shards[:4])}: a sample cannot be decoded ({cause[0] if cause else error})")

    def _run(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[npt.NDArray[Any]]]:
        """Positions, shards and random parameters of the next run."""
        parts = [] if self._stopped else list(islice(self._parts, self._num_next))
        if not parts:
            raise StopIteration
        self._num_next = min(2 * self._num_next, self._batches_per_run)
        self._sent.append(parts)
        positions, shards, numbers = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("positions", "shards", "numbers")
        )
        graph, sizes = self._plan.whole, self._reader.samples.sizes[positions]
        if self._pixels.images is not None:
            height, width = self._pixels.images.shape[1:3]
            graph, sizes = self._plan.rest, np.broadcast_to(np.array([width, height], np.int64), sizes.shape)
        inputs, _ = graph.inputs(seed=self._seed, epoch=self._epoch, numbers=numbers, sizes=sizes)
        return positions, shards, list(inputs.values())

    def _from_shards(self) -> Host:
        positions, shards, inputs = self._run()
        return self._read(positions, shards), *inputs

    def _from_kept(self) -> Host:
        positions, shards, inputs = self._run()
        missing = ~self._pixels.is_kept[positions]
        if missing.any():
            self._keep(positions[missing], shards[missing])
        return self._pixels.gathered(positions), *inputs

    def _keep(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> None:
        """Decode images for the first time and keep them."""
        assert self._pixels.images is not None
        read = self._read(positions, shards)
        if self._decoding is None:
            images = torch.from_numpy(np.stack(read))
        else:
            sizes = self._reader.samples.sizes[positions]
            inputs, _ = self._plan.fixed.inputs(seed=0, epoch=0, numbers=positions, sizes=sizes)
            self._coming = [(read, *inputs.values())]
            images = self._decoding.run()
            self._decoding.drain()
        self._pixels.images[torch.from_numpy(positions)] = images.to(self._pixels.images.device)
        self._pixels.is_kept[positions] = True

    def _to_keep(self) -> Host:
        if not self._coming:
            raise StopIteration
        return self._coming.pop()

    def _read(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        try:
            read = self._reader.read(positions, shards)
        except Exception as error:  # DALI hands on no more than its text
            self._error = error
            raise
        for shard in shards.tolist():
            self._recent.pop(shard, None)
            self._recent[shard] = None
        while len(self._recent) > self.kept_shards:
            del self._recent[next(iter(self._recent))]
        self._reader.keep_only(set(self._recent))
        return read


def _engine(device: str | torch.device | None, settings: EngineSettings) -> Engine:
    chosen = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {chosen}: no GPU here that torch can use")
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", torch.cuda.current_device())
    return Engine(chosen, settings.num_threads, settings.prefetch)


def _ranks_here(world_size: int) -> int:
    """Ranks that share the memory of this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def _free_memory() -> int:
    """Bytes of host memory that can be had, within the limit of a container."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for folder, most, used, reclaimable in _CGROUPS:
        with suppress(OSError, ValueError, KeyError):  # "max" is no limit
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            held = int((folder / used).read_text()) - int(facts[reclaimable])
            free = min(free, int((folder / most).read_text()) - held)
    return max(0, free)
