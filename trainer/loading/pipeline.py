"""Pipeline: one DALI graph that decodes and augments, on a GPU or on the CPU, from encoded or decoded images."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.dlpack

from facepack.cores import num_cores
from trainer.loading.augment import Augmentation, Draw, Inputs, Normalize, RandomHorizontalFlip, Sizes

Host = tuple[Any, ...]
"""Inputs of one batch: the images, then the parameters in the order of `Graph.names`."""


@dataclass(frozen=True)
class Graph:
    """What a pipeline does, and with what it is fed."""

    augmentations: tuple[Augmentation, ...]
    first_step: int
    """The place in the loader's list of the first of these: random numbers go by it."""
    is_encoded: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel RGB in 0..1; used where the list normalises."""

    @property
    def normalizes(self) -> bool:
        """True for float NCHW, False for uint8 NHWC."""
        return bool(self.augmentations) and isinstance(self.augmentations[-1], Normalize)

    def inputs(self, *, seed: int, epoch: int, numbers: npt.NDArray[np.int64], sizes: Sizes) -> tuple[Inputs, Sizes]:
        """Parameters of all steps for a batch, named by step, and the sizes at the end."""
        found: Inputs = {}
        for step, augmentation in enumerate(self.augmentations, start=self.first_step):
            inputs, sizes = augmentation.inputs(Draw(seed, epoch, step, numbers), sizes)
            found |= {f"{step} {name}": np.ascontiguousarray(value) for name, value in inputs.items()}
        return found, sizes

    def names(self) -> list[str]:
        """The parameters in order."""
        one = np.zeros(1, np.int64)
        return list(self.inputs(seed=0, epoch=0, numbers=one, sizes=np.full((1, 2), 1 << 20))[0])


@dataclass(frozen=True)
class Engine:
    """Where and how a pipeline runs."""

    device: torch.device
    num_threads: int
    """0: one per core, and one more where it decodes, as a decoder waits now and then."""
    prefetch: int
    """Batches under way at once."""


class Pipeline:
    """A built DALI pipeline, fed by a function that gives the inputs of the next batch or raises `StopIteration`."""

    def __init__(
        self,
        graph: Graph,
        *,
        batch_size: int,
        engine: Engine,
        source: Callable[[], Host],
        images_on_device: bool = False,
    ) -> None:
        """Build it; `batch_size` is the largest batch that comes. Images that lie on the device already stay there."""
        # Read once, when DALI first allocates. A pool for small buffers: fresh ones cost a page fault for every 4 KiB.
        os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "256k")
        from nvidia.dali import Pipeline as DaliPipeline
        from nvidia.dali import fn

        self._engine = engine
        self._held: deque[Host] = deque(maxlen=engine.prefetch + 3)  # DALI reads them where they are
        self._source = source
        self._split: tuple[deque[Any], deque[Host]] = (deque(), deque())
        names = graph.names()
        on_gpu = engine.device.type == "cuda"
        pipeline = DaliPipeline(
            batch_size=batch_size,
            num_threads=engine.num_threads or num_cores() + graph.is_encoded,
            device_id=engine.device.index or 0 if on_gpu else None,
            prefetch_queue_depth=engine.prefetch,
            exec_dynamic=True,
        )
        layouts: Any = [None if graph.is_encoded else "HWC", *[None] * len(names)]
        given: dict[str, Any] = {"batch": True, "no_copy": not on_gpu}
        with pipeline:
            if images_on_device:  # a source of its own, as all of one source is on one device
                device = "gpu" if on_gpu else "cpu"
                images = fn.external_source(source=self._next_images, device=device, layout=layouts[0], **given)
                parameters: list[Any] = []
                if names:
                    parameters += fn.external_source(
                        source=self._next_parameters, num_outputs=len(names), layout=layouts[1:], **given
                    )
            else:
                images, *parameters = fn.external_source(
                    source=self._next, num_outputs=1 + len(names), layout=layouts, **given
                )
                images = images.gpu() if on_gpu and not graph.is_encoded else images
            inputs = dict(zip(names, parameters, strict=True))
            pipeline.set_outputs(_graph(images, inputs, graph=graph, on_gpu=on_gpu))
        pipeline.build()
        self._pipeline = pipeline

    def run(self) -> torch.Tensor:
        """The next batch, on the device; `StopIteration` after the last one, when the pipeline is ready to go on."""
        try:
            (images,) = self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._held.clear()
            raise
        return torch.utils.dlpack.from_dlpack(images.as_tensor())

    def drain(self) -> None:
        """Throw away what is under way; the source must have ended."""
        try:
            while True:
                self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._held.clear()

    def _next_images(self) -> Any:
        return self._part(0)

    def _next_parameters(self) -> Host:
        parameters: Host = self._part(1)
        return parameters

    def _part(self, number: int) -> Any:
        """The images or the parameters of a batch, whichever DALI asks for first."""
        if not self._split[number]:
            images, *parameters = self._next()
            self._split[0].append(images)
            if parameters:
                self._split[1].append(tuple(parameters))
        return self._split[number].popleft()

    def _next(self) -> Host:
        host = self._source()
        self._held.append(host)
        return host


def _graph(images: Any, inputs: dict[str, Any], *, graph: Graph, on_gpu: bool) -> Any:
    """The operators, in order; a flip waits while only pixels' values change, and is done with the last of them."""
    from nvidia.dali import fn, types

    if graph.is_encoded:
        # Fancy upsampling is what libjpeg-turbo does on the CPU: without it the GPU's colours differ at edges.
        device = "mixed" if on_gpu else "cpu"
        images = fn.decoders.image(images, device=device, output_type=types.RGB, jpeg_fancy_upsampling=on_gpu)
    flip = None
    for step, augmentation in enumerate(graph.augmentations, start=graph.first_step):
        prefix = f"{step} "
        own = {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}
        if flip is not None and not augmentation.is_pointwise:
            images, flip = fn.flip(images, horizontal=flip, vertical=0), None
        if isinstance(augmentation, RandomHorizontalFlip):
            flip = own["flip"]
        else:
            images = augmentation.graph(images, own)
    if graph.normalizes:
        return fn.crop_mirror_normalize(
            images,
            mirror=0 if flip is None else flip,
            mean=[255 * value for value in graph.mean],
            std=[255 * value for value in graph.std],
            dtype=types.FLOAT,
            output_layout="CHW",
        )
    if flip is not None:
        images = fn.flip(images, horizontal=flip, vertical=0)
    return fn.cast(images, dtype=types.UINT8)
