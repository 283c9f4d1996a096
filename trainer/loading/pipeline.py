"""Pipeline: one DALI graph that decodes and augments, on a GPU or on the CPU, from encoded or decoded images."""

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.utils.dlpack

from facepack.cores import num_cores
from facepack.errors import JobError, UsageError
from trainer.loading.augment import Normalize, Parameters, RandomHorizontalFlip
from trainer.loading.graphs import Graph


@dataclass(frozen=True)
class Engine:
    """Where and how a pipeline runs."""

    device: torch.device
    num_threads: int
    """0: one per core, and one more where it decodes, as a decoder waits now and then."""
    prefetch: int
    """Batches under way at once."""


_pipelines: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Those of DALI that there are in this process."""
_first_process: list[int] = []
"""The process in which DALI ran first: its threads and locks are in no other one."""


def mark_process() -> None:
    """Note that this process has threads of a pipeline."""
    if not _first_process:
        _first_process.append(os.getpid())


def is_forked() -> bool:
    """True in a process that was forked after DALI ran."""
    return bool(_first_process) and _first_process[0] != os.getpid()


def check_process() -> None:
    """Refuse to go on in a process that was forked after DALI ran: `UsageError`, where it would wait for ever."""
    if is_forked():
        raise UsageError(
            "a Loader or Predictor was used before this process was forked, and DALI cannot go on in a forked process: "
            'start it by spawn or forkserver, as with multiprocessing_context="spawn" of a DataLoader'
        )


def _leave_to_parent() -> None:
    """In a forked process, never end a pipeline of the parent: it would wait for threads that are not there."""
    for pipeline in list(_pipelines):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline._pipe))
        pipeline._pipe = None  # or DALI ends it as Python does


os.register_at_fork(after_in_child=_leave_to_parent)


def _import_dali() -> Any:
    """DALI, imported on a thread of its own: an interrupt, which the main thread has, leaves no half of it behind."""
    errors: list[BaseException] = []

    def load() -> None:
        try:
            import nvidia.dali.fn
            import nvidia.dali.math
            import nvidia.dali.types  # noqa: F401
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=load, name="facepack-import")
    thread.start()
    thread.join()
    if errors:
        cause = str(errors[0]).strip().split("\n")[0]
        raise JobError(f"DALI cannot be imported ({cause}); if an interrupt fell into its import, start Python again")
    import nvidia.dali

    return nvidia.dali


class PipelineInput(NamedTuple):
    """What a pipeline is fed for one batch."""

    images: Any
    """As encoded, a list of uint8 (num_bytes,); or pixels uint8 HWC, a list or one array or tensor (batch, ...)."""
    parameters: Parameters
    """Those of the graph, see `Graph.parameters`."""


class Pipeline:
    """A DALI pipeline. With a source it runs ahead of its user; without one it runs on what `run_on` is given."""

    def __init__(
        self,
        graph: Graph,
        *,
        batch_size: int,
        engine: Engine,
        source: Callable[[], PipelineInput] | None = None,
        images_on_device: bool = False,
    ) -> None:
        """Build it.

        `batch_size` is that of the largest batch. `source` gives the input of the next batch, or raises
        `StopIteration` after the last one. Images that lie on the device already (`images_on_device`) stay there.
        Raises `UsageError` in a process that was forked after DALI ran.
        """
        check_process()
        self._engine = engine
        self._held: deque[PipelineInput] = deque(maxlen=engine.prefetch + 3)  # DALI reads them where they are
        self._waiting: deque[PipelineInput] = deque()
        self._source = source or self._next_waiting
        self._images: deque[Any] = deque()
        self._parameters: deque[tuple[Any, ...]] = deque()
        self._names = graph.parameter_names()
        self._pipeline = self._built(graph, batch_size, images_on_device)

    def run(self) -> torch.Tensor:
        """The next batch of the source, on the device: float32 NCHW where the graph normalises, else uint8 NHWC.

        Raises `StopIteration` after the last one, when the pipeline is ready to go on; and the `RuntimeError` of DALI
        where an image cannot be decoded, after which the pipeline is of no more use.
        """
        try:
            (images,) = self._pipeline.run()
        except StopIteration:
            self._reset()
            raise
        return torch.utils.dlpack.from_dlpack(images.as_tensor())

    def run_on(self, images: Any, parameters: Parameters) -> torch.Tensor:
        """The batch made of these images (see `PipelineInput`), as `run` gives it; for a pipeline without a source."""
        self._waiting.append(PipelineInput(images, parameters))
        batch = self.run()
        self.drain()
        return batch

    def drain(self) -> None:
        """Throw away what is under way; the source must have ended."""
        try:
            while True:
                self._pipeline.run()
        except StopIteration:
            self._reset()

    def close(self) -> None:
        """End it at once, whatever is under way."""
        self.__dict__.pop("_pipeline", None)  # before what DALI still reads

    __del__ = close

    def _reset(self) -> None:
        self._pipeline.reset()
        self._held.clear()

    def _built(self, graph: Graph, batch_size: int, images_on_device: bool) -> Any:
        # Read once, when DALI first allocates. A pool for small buffers: fresh ones cost a page fault for every 4 KiB.
        os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "256k")
        dali = _import_dali()
        mark_process()
        on_gpu = self._engine.device.type == "cuda"
        pipeline = dali.Pipeline(
            batch_size=batch_size,
            num_threads=self._engine.num_threads or num_cores() + graph.is_encoded,
            device_id=self._engine.device.index or 0 if on_gpu else None,
            prefetch_queue_depth=self._engine.prefetch,
            exec_dynamic=True,
        )
        _pipelines.add(pipeline)
        with pipeline:
            fed = self._fed_apart if images_on_device else self._fed_together
            images, parameters = fed(None if graph.is_encoded else "HWC", on_gpu)
            nodes = dict(zip(self._names, parameters, strict=True))
            if on_gpu and not graph.is_encoded and not images_on_device:
                images = images.gpu()
            pipeline.set_outputs(_operators(images, nodes, graph=graph, on_gpu=on_gpu))
        pipeline.build()
        return pipeline

    # Feeding DALI

    def _fed_together(self, layout: str | None, on_gpu: bool) -> tuple[Any, list[Any]]:
        """DALI's nodes of images and parameters, of one source in host memory."""
        from nvidia.dali import fn

        layouts: Any = [layout, *[None] * len(self._names)]
        images, *parameters = fn.external_source(
            source=self._next, num_outputs=len(layouts), layout=layouts, batch=True, no_copy=not on_gpu
        )
        return images, parameters

    def _fed_apart(self, layout: str | None, on_gpu: bool) -> tuple[Any, list[Any]]:
        """DALI's nodes of images that lie on the device and of parameters: all of one source is on one device."""
        from nvidia.dali import fn

        common: dict[str, Any] = {"batch": True, "no_copy": not on_gpu}
        device = "gpu" if on_gpu else "cpu"
        images = fn.external_source(source=self._next_images, device=device, layout=layout, **common)
        if not self._names:
            return images, []
        layouts: Any = [None] * len(self._names)
        parameters = fn.external_source(
            source=self._next_parameters, num_outputs=len(layouts), layout=layouts, **common
        )
        return images, list(parameters)

    def _next_images(self) -> Any:
        if not self._images:  # DALI asks for images or for parameters first
            self._take_next()
        return self._images.popleft()

    def _next_parameters(self) -> tuple[Any, ...]:
        if not self._parameters:
            self._take_next()
        return self._parameters.popleft()

    def _take_next(self) -> None:
        images, *parameters = self._next()
        self._images.append(images)
        if parameters:
            self._parameters.append(tuple(parameters))

    def _next(self) -> tuple[Any, ...]:
        batch = self._source()
        self._held.append(batch)
        return batch.images, *(batch.parameters[name] for name in self._names)

    def _next_waiting(self) -> PipelineInput:
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()


def _operators(images: Any, parameters: dict[str, Any], *, graph: Graph, on_gpu: bool) -> Any:
    """The operators, in order; a flip waits while only pixels' values change, and is done with the last of them."""
    from nvidia.dali import fn, types

    if graph.is_encoded:
        # Fancy upsampling is what libjpeg-turbo does on the CPU: without it the GPU's colours differ at edges.
        device = "mixed" if on_gpu else "cpu"
        images = fn.decoders.image(images, device=device, output_type=types.RGB, jpeg_fancy_upsampling=on_gpu)
    flip = None
    for step, augmentation in enumerate(graph.augmentations, start=graph.first_step):
        prefix = f"{step} "
        own = {name.removeprefix(prefix): node for name, node in parameters.items() if name.startswith(prefix)}
        if flip is not None and not augmentation.is_pointwise:
            images, flip = fn.flip(images, horizontal=flip, vertical=0), None
        if isinstance(augmentation, RandomHorizontalFlip):
            if flip is not None:
                images = fn.flip(images, horizontal=flip, vertical=0)
            flip = own["flip"]
        elif isinstance(augmentation, Normalize):
            images, flip = _normalised(images, graph, flip=flip), None
        else:
            images = augmentation.graph(images, own)
    if flip is not None:
        images = fn.flip(images, horizontal=flip, vertical=0)
    return images if graph.normalizes else fn.cast(images, dtype=types.UINT8)


def _normalised(images: Any, graph: Graph, *, flip: Any) -> Any:
    """Flipped and normalised in one step, float32 CHW."""
    from nvidia.dali import fn, types

    return fn.crop_mirror_normalize(
        images,
        mirror=0 if flip is None else flip,
        mean=[255 * value for value in graph.mean],
        std=[255 * value for value in graph.std],
        dtype=types.FLOAT,
        output_layout="CHW",
    )
