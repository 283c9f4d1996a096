"""Runner: pipelines over the rank batches of an epoch, from shard to batch, or with kept images between them."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from facepack.errors import JobError
from trainer.loading.augment import Parameters
from trainer.loading.decoded import DecodedCache
from trainer.loading.engines import AnyPipeline, new_pipeline
from trainer.loading.feed import RankBatch
from trainer.loading.graphs import AugmentationGraphs, Graph
from trainer.loading.opencv_pipeline import OpenCvPipeline
from trainer.loading.pipeline import Engine, PipelineInput
from trainer.loading.reader import SampleReader
from trainer.loading.samples import Samples

_RUN_IMAGES, _RUN_BYTES = 512, 16_000_000
"""Small batches are made several at once, up to this much: a run of DALI costs as much as a good many small images."""


@dataclass(frozen=True)
class _Run:
    """Rank batches that one run of a pipeline makes; arrays are (num_images,), over all of them."""

    batches: Sequence[RankBatch]
    positions: npt.NDArray[np.int64]
    shards: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    @classmethod
    def of(cls, batches: Sequence[RankBatch]) -> "_Run":
        positions, shards, places = (
            np.concatenate([getattr(batch, name) for batch in batches]) for name in ("positions", "shards", "places")
        )
        return cls(batches, positions, shards, places)


class Runner:
    """Makes the images of rank batches, epoch after epoch; it prepares some ahead of its user."""

    def __init__(
        self,
        graphs: AugmentationGraphs,
        *,
        samples: Samples,
        reader: SampleReader,
        cache: DecodedCache,
        engine: Engine,
        batch_size: int,
    ) -> None:
        """Build the pipelines for rank batches of at most `batch_size` samples, read by `reader`, kept in `cache`."""
        self._graphs, self._samples, self._reader, self._cache = graphs, samples, reader, cache
        image_bytes = math.prod(graphs.size_hw) * 3 * (4 if graphs.whole.normalizes else 1)
        self._most_batches = max(1, min(_RUN_IMAGES, _RUN_BYTES // image_bytes) // batch_size)
        self._batches: Iterator[RankBatch] = iter(())
        self._num_next = 1
        self._seed = self._epoch = 0
        self._under_way: deque[_Run] = deque()
        self._ready: deque[tuple[torch.Tensor, RankBatch]] = deque()
        self._is_running = self._is_stopped = False
        self._error: Exception | None = None
        most_images = self._most_batches * batch_size
        self._pipeline = self._batch_pipeline(engine, most_images)
        self._decoder: AnyPipeline | None = None
        if cache.is_used and not graphs.fixed.changes_nothing:
            alone = Engine(engine.device, engine.num_threads, 1)
            self._decoder = new_pipeline(
                graphs.fixed, batch_size=most_images, size_hw=graphs.kept_size_hw, engine=alone
            )

    def _batch_pipeline(self, engine: Engine, most_images: int) -> AnyPipeline:
        graphs, size_hw = self._graphs, self._graphs.size_hw
        if not self._cache.is_used:
            source = self._from_shards
            return new_pipeline(graphs.whole, batch_size=most_images, size_hw=size_hw, engine=engine, source=source)
        return new_pipeline(
            graphs.random,
            batch_size=most_images,
            size_hw=size_hw,
            engine=engine,
            source=self._from_cache,
            images_on_device=self._cache.is_on_device,
        )

    def begin(self, batches: Iterator[RankBatch], *, seed: int, epoch: int) -> None:
        """Start on rank batches, with the random numbers of an epoch; what was under way is thrown away."""
        if self._is_running:
            self.abandon()
        self._is_running, self._is_stopped, self._error = True, False, None
        self._batches, self._seed, self._epoch = batches, seed, epoch
        self._num_next = 1  # and then more and more, so that the first batch waits for no other
        self._under_way.clear()
        self._ready.clear()

    def next(self) -> tuple[torch.Tensor, RankBatch]:
        """The images of the next rank batch as `Pipeline.run` gives them, and the rank batch.

        Raises `StopIteration` after the last one, and `RuntimeError` where DALI cannot go on: see `explained`.
        """
        if not self._ready:
            try:
                images = self._pipeline.run()
            except StopIteration:
                self._is_running = False
                raise
            batches = self._under_way.popleft().batches
            sizes = [len(batch.positions) for batch in batches]
            self._ready.extend(zip(torch.split(images, sizes), batches, strict=True))
        return self._ready.popleft()

    def abandon(self) -> None:
        """Throw away what is under way."""
        self._is_stopped, self._is_running = True, False
        self._pipeline.drain()

    @property
    def is_running(self) -> bool:
        """True from `begin` to the last rank batch, or until it is abandoned."""
        return self._is_running

    def close(self) -> None:
        """End it at once, whatever is under way."""
        for pipeline in (self._pipeline, self._decoder):
            if pipeline is not None:
                pipeline.close()

    def explained(self, error: RuntimeError) -> Exception:
        """The cause of an error of DALI, which hands on no more than its text; or the shards that were under way."""
        if self._error is not None:
            return self._error
        shards = {shard for run in self._under_way for shard in run.shards.tolist()}
        names = sorted(self._samples.records[shard].name for shard in shards)
        cause = str(error).strip().splitlines()
        return JobError(f"{', '.join(names[:4])}: a sample cannot be decoded ({cause[0] if cause else error})")

    # Sources of the pipelines

    def _next_run(self) -> _Run:
        batches = [] if self._is_stopped else list(islice(self._batches, self._num_next))
        if not batches:
            raise StopIteration
        self._num_next = min(2 * self._num_next, self._most_batches)
        run = _Run.of(batches)
        self._under_way.append(run)
        return run

    def _from_shards(self) -> PipelineInput:
        run = self._next_run()
        parameters = self._parameters(self._graphs.whole, run, self._samples.sizes_hw[run.positions].astype(np.int64))
        return PipelineInput(self._read(run.positions, run.shards), parameters)

    def _from_cache(self) -> PipelineInput:
        run = self._next_run()
        kept_size_hw = np.array(self._graphs.kept_size_hw, np.int64)
        sizes_hw = np.broadcast_to(kept_size_hw, (len(run.positions), 2))
        parameters = self._parameters(self._graphs.random, run, sizes_hw)
        missing = ~self._cache.has(run.positions)
        if missing.any():
            self._decode(run.positions[missing], run.shards[missing])
        takes_views = isinstance(self._pipeline, OpenCvPipeline)
        images = self._cache.views(run.positions) if takes_views else self._cache.images(run.positions)
        return PipelineInput(images, parameters)

    def _parameters(self, graph: Graph, run: _Run, sizes_hw: npt.NDArray[np.int64]) -> Parameters:
        return graph.parameters(seed=self._seed, epoch=self._epoch, places=run.places, sizes_hw=sizes_hw)[0]

    def _decode(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> None:
        """Decode images for the first time and keep them."""
        images = self._read(positions, shards)
        if self._decoder is None:
            self._cache.put(positions, torch.from_numpy(np.stack(images)))
            return
        sizes_hw = self._samples.sizes_hw[positions].astype(np.int64)
        parameters, _ = self._graphs.fixed.parameters(seed=0, epoch=0, places=positions, sizes_hw=sizes_hw)
        self._cache.put(positions, self._decoder.run_on(images, parameters))

    def _read(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        try:
            return self._reader.read(positions, shards)
        except Exception as error:  # DALI hands on no more than its text
            self._error = error
            raise
