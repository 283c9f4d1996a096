"""The library's way to build: options by keyword in, an opened build out."""

import os
from typing import Unpack

from facepack import builder
from facepack.builder import Place
from facepack.configuration import Configuration, Options
from facepack.open_rows import OwnTable
from facepack.prepare import default_source
from facepack.ray_options import RayOptions
from facepack.reader import OpenBuild, open_build

Text = str | os.PathLike[str]


def build(
    dataset: str | Configuration,
    *,
    out: Text = "",
    src: Text = "",
    workers: int | None = None,
    ray_address: str | RayOptions = "",
    force: bool = False,
    landmarks: Text = "",
    leave_out: Text = "",
    people: Text = "",
    labels: Text | OwnTable = "",
    **options: Unpack[Options],
) -> OpenBuild:
    """Make a build, or finish one that was interrupted, and open it.

        build("celeba", src="data/celeba", out="builds/faces", classes="rarest4", size=64)

    `out` is a folder or URL, by default builds/DATASET-CLASSES; `src` a folder, archive or URL, by default
    $FACEPACK_DATA/DATASET or data/DATASET; `leave_out` a file that lists images to leave out; `people` a table of
    `facepack people`; `labels` a table of your own, or `OwnTable` with the names of its columns. `workers` 0 packs in
    this process, without Ray. A `Configuration` in place of the dataset's name takes no further options. Raises
    `UsageError` (a `ValueError`) for an option that cannot be, `JobError` where the place holds another build, the
    source is not there, or something cannot be written.
    """
    configuration = dataset if isinstance(dataset, Configuration) else Configuration.of(dataset, **options)
    if isinstance(dataset, Configuration) and options:
        raise TypeError(f"build(configuration) takes no options, got {', '.join(options)}")
    location = str(out) or builder.default_out(configuration)
    source = str(src) or default_source(configuration.dataset)
    table = labels if isinstance(labels, OwnTable) else OwnTable(str(labels))
    ray = ray_address if isinstance(ray_address, RayOptions) else RayOptions(ray_address)
    place = Place(source, location, workers, ray, force, str(landmarks), str(leave_out), table, str(people))
    builder.build(configuration, place=place)
    return open_build(location)
