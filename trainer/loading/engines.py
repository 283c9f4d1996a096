"""Engines: OpenCV on a CPU where it is the faster one, else DALI."""

from collections.abc import Callable

from trainer.loading.augment import Normalize, RandomHorizontalFlip
from trainer.loading.graphs import Graph
from trainer.loading.opencv_pipeline import OpenCvPipeline
from trainer.loading.pipeline import Engine, Pipeline, PipelineInput

AnyPipeline = Pipeline | OpenCvPipeline


def new_pipeline(
    graph: Graph,
    *,
    batch_size: int,
    size_hw: tuple[int, int] | None,
    engine: Engine,
    source: Callable[[], PipelineInput] | None = None,
    images_on_device: bool = False,
) -> AnyPipeline:
    """The pipeline of the faster engine for a graph.

    `size_hw` is the size of the images that it makes, None where they differ; see `Pipeline` for the rest.
    """
    if engine.device.type == "cpu" and size_hw is not None and is_for_opencv(graph):
        return OpenCvPipeline(graph, size_hw=size_hw, engine=engine, source=source)
    return Pipeline(graph, batch_size=batch_size, engine=engine, source=source, images_on_device=images_on_device)


def is_for_opencv(graph: Graph) -> bool:
    """True where OpenCV is faster than DALI on a CPU: with any step beside flips and normalising."""
    return any(not isinstance(step, RandomHorizontalFlip | Normalize) for step in graph.augmentations)
