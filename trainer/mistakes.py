"""Mistakes: the worst predictions of a split, with their pictures and source files, for pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa

from facepack import image, manifest
from facepack.errors import JobError, UsageError
from facepack.page import jpeg_uri
from facepack.storage import Store
from trainer.data import TrainedOn
from trainer.results.protocol import Mistake
from trainer.runs import Run

_NUM_SHOWN = 36


@dataclass(frozen=True)
class MistakePicture:
    """A mistake, its picture as a data: URI, and the file that it was packed from."""

    uri: str
    mistake: Mistake
    source: str


@dataclass(frozen=True)
class Worst:
    """The worst mistakes of a split, and how many there are in all."""

    caption: str
    num: int = 0
    pictures: list[MistakePicture] = field(default_factory=list)
    problem: str = ""
    """Why there are no pictures; empty where there are."""


def worst(predictions: pa.Table | None, *, run: Run, builds: Sequence[TrainedOn]) -> Worst:
    """The worst mistakes among rows of predictions.parquet, whose images are in these builds, in this order."""
    kind = run.recipe.task.results
    if predictions is None:
        return Worst(kind.mistakes_caption)
    mistakes = kind.mistakes(predictions, names=run.names)
    try:
        pictures = _pictures(mistakes[:_NUM_SHOWN], builds)
    except (JobError, OSError, UsageError, image.BadImageError, KeyError) as error:
        problem = f"The build is not at hand, so no mistake can be shown ({error})."
        return Worst(kind.mistakes_caption, len(mistakes), problem=problem)
    return Worst(kind.mistakes_caption, len(mistakes), pictures)


def _pictures(mistakes: Sequence[Mistake], builds: Sequence[TrainedOn]) -> list[MistakePicture]:
    """Read out of the shards; rows of a second build follow those of the first."""
    pictures: dict[int, MistakePicture] = {}
    first_row = 0
    for build in builds:
        table = manifest.read_table(Store(build.location), manifest.MANIFEST_FILE)
        inside = [mistake for mistake in mistakes if first_row <= mistake.row < first_row + len(table)]
        rows = table.take(pa.array([mistake.row - first_row for mistake in inside], pa.int64()))
        name = PurePosixPath(build.location).name if len(builds) > 1 else ""
        pictures |= {picture.mistake.row: picture for picture in _of_build(build.location, inside, rows, name=name)}
        first_row += len(table)
    return [pictures[mistake.row] for mistake in mistakes]


def _of_build(location: str, mistakes: Sequence[Mistake], rows: pa.Table, *, name: str) -> list[MistakePicture]:
    """The pictures of rows of a manifest, one per mistake; sources begin with the build's name, where there is one."""
    store, encoding = Store(location), manifest.read_build(location).configuration.encoding
    samples = rows.select(["key", "source", "shard", "offset", "size"]).to_pylist()
    pictures = []
    for mistake, sample in zip(mistakes, samples, strict=True):
        if sample["key"] != mistake.key:
            raise JobError(f"{location}: built again since")
        content = store.read_range(sample["shard"], start=sample["offset"], length=sample["size"])
        if encoding != "jpeg":
            content = image.encode_jpeg(image.decode_packed(content, encoding=encoding), quality=90)
        source = f"{name}: {sample['source']}" if name else sample["source"]
        pictures.append(MistakePicture(jpeg_uri(content), mistake, source))
    return pictures
