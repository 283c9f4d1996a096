"""OpenCV pipeline: decodes and augments on threads of the CPU, image by image, straight into a batch."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from facepack.cores import num_cores
from trainer.loading import opencv
from trainer.loading.augment import Augmentation, Normalize, Parameters, RandomErasing, RandomHorizontalFlip, Resize
from trainer.loading.batch_memory import BatchMemory
from trainer.loading.graphs import Graph
from trainer.loading.pipeline import Engine, PipelineInput, check_process, mark_process

_PARTS_PER_THREAD = 2
"""A batch is cut into so many parts for each thread, so that all end at about the same time."""


class _Batch(NamedTuple):
    """A batch under way: its memory, and the parts of it that threads fill."""

    memory: npt.NDArray[Any]
    parts: list["Future[None]"]


class OpenCvPipeline:
    """Does what `Pipeline` does on a CPU, where that is the faster: with anything beside flips and normalising."""

    def __init__(
        self,
        graph: Graph,
        *,
        size_hw: tuple[int, int],
        engine: Engine,
        source: Callable[[], PipelineInput] | None = None,
    ) -> None:
        """Start its threads. `size_hw` is the size of the images of a batch in pixels; see `Pipeline` for the rest."""
        check_process()
        mark_process()
        self._graph, self._source, self._num_ahead = graph, source or self._next_waiting, engine.prefetch
        self._num_threads = engine.num_threads or num_cores()
        self._threads = ThreadPoolExecutor(self._num_threads, "facepack-images")
        self._feeder = ThreadPoolExecutor(1, "facepack-feed")
        self._under_way: deque[Future[_Batch | None]] = deque()
        self._waiting: deque[PipelineInput] = deque()
        self._is_closed = False
        shape: tuple[int, ...] = (3, *size_hw) if graph.normalizes else (*size_hw, 3)
        dtype = np.float32 if graph.normalizes else np.uint8
        self._memory = BatchMemory(shape, dtype, most_kept=engine.prefetch + 2)
        self._tables = opencv.normalising_tables(graph.mean, graph.std) if graph.normalizes else []

    def run(self) -> torch.Tensor:
        """The next batch of the source: float32 NCHW where the graph normalises, else uint8 NHWC.

        Raises `StopIteration` after the last one, when the pipeline is ready to go on; and `RuntimeError` where an
        image cannot be read or decoded, after which the pipeline is of no more use.
        """
        while len(self._under_way) < self._num_ahead:
            self._under_way.append(self._feeder.submit(self._begun))
        try:
            batch = self._under_way.popleft().result()
            if batch is not None:
                self._under_way.append(self._feeder.submit(self._begun))
                for part in batch.parts:
                    part.result()
                return torch.from_numpy(batch.memory)
        except Exception as error:
            raise RuntimeError(f"{error}") from error
        wait(self._under_way)
        self._under_way.clear()
        raise StopIteration

    def run_on(self, images: Any, parameters: Parameters) -> torch.Tensor:
        """The batch made of these images (see `PipelineInput`), as `run` gives it; for a pipeline without a source."""
        self._waiting.append(PipelineInput(images, parameters))
        batch = self.run()
        self.drain()
        return batch

    def drain(self) -> None:
        """Throw away what is under way; the source must have ended."""
        while self._under_way:
            batch = self._under_way.popleft().result()
            if batch is not None:
                for part in batch.parts:
                    part.cancel()
                wait(batch.parts)

    def close(self) -> None:
        """End it at once, whatever is under way."""
        self._end(wait_for_threads=True)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._end(wait_for_threads=False)

    def _end(self, *, wait_for_threads: bool) -> None:
        self._is_closed = True
        for executor in (self.__dict__.get("_feeder"), self.__dict__.get("_threads")):
            if executor is not None:
                executor.shutdown(wait=wait_for_threads, cancel_futures=True)

    def _next_waiting(self) -> PipelineInput:
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    def _begun(self) -> _Batch | None:
        """Take the next input and have threads fill a batch; None after the last one."""
        if self._is_closed:
            return None
        try:
            images, parameters = self._source()
        except StopIteration:
            return None
        number = len(images)
        memory = self._memory.take(number)
        steps = _Steps(self._graph, parameters)
        size = -(-number // (self._num_threads * _PARTS_PER_THREAD))
        parts = [range(start, min(start + size, number)) for start in range(0, number, size)]
        return _Batch(memory, [self._threads.submit(self._fill, memory, images, steps, part=part) for part in parts])

    def _fill(self, memory: npt.NDArray[Any], images: Any, steps: "_Steps", *, part: Iterable[int]) -> None:
        """Make a part of a batch."""
        for number in part:
            if self._is_closed:
                return
            image = images[number]
            if self._graph.is_encoded:
                image = opencv.decoded(image, least_hw=steps.least_hw(number))
            image, flip = steps.done(image, number)
            if self._graph.normalizes:
                opencv.normalise(image, self._tables, flip=flip, out=memory[number])
                steps.erase(memory[number], number)
            else:
                memory[number] = opencv.flipped(image) if flip else image


class _Steps:
    """The steps of a graph with their parameters for a batch."""

    def __init__(self, graph: Graph, parameters: Parameters) -> None:
        rows = {name: values.tolist() for name, values in parameters.items()}
        self._steps: list[tuple[Augmentation, dict[str, list[Any]]]] = []
        self._erasing: list[tuple[RandomErasing, dict[str, list[Any]]]] = []
        is_normalised = False
        for step, augmentation in enumerate(graph.augmentations, start=graph.first_step):
            prefix = f"{step} "
            own = {name.removeprefix(prefix): row for name, row in rows.items() if name.startswith(prefix)}
            if isinstance(augmentation, Normalize):
                is_normalised = True
            elif is_normalised and isinstance(augmentation, RandomErasing):
                self._erasing.append((augmentation, own))
            else:
                self._steps.append((augmentation, own))

    def least_hw(self, number: int) -> Sequence[float] | None:
        """Height and width that an image of the batch is resized to at once; None where something else comes first."""
        if not self._steps or not isinstance(self._steps[0][0], Resize):
            return None
        size_hw: list[float] = self._steps[0][1]["size_hw"][number]
        return size_hw

    def done(self, image: opencv.Pixels, number: int) -> tuple[opencv.Pixels, bool]:
        """All steps done to one image of the batch; and whether it is still to be flipped.

        A flip waits while only pixels' values change, and is best done with what comes last.
        """
        flip = False
        for augmentation, rows in self._steps:
            if isinstance(augmentation, RandomHorizontalFlip):
                flip ^= bool(rows["flip"][number])
                continue
            if flip and not augmentation.is_pointwise:
                image, flip = opencv.flipped(image), False
            image = augmentation.pixels(image, {name: row[number] for name, row in rows.items()})
        return image, flip

    def erase(self, planes: npt.NDArray[np.float32], number: int) -> None:
        """What is erased of an image of the batch once it is normalised, float32 (3, height, width), in place."""
        for augmentation, rows in self._erasing:
            augmentation.erase(planes, {name: row[number] for name, row in rows.items()})
