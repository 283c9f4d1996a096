"""Commands on people: the verbs that describe faces by numbers, and tell people apart by them."""

from typing import Annotated

import typer

from facepack import describing, descriptors, terminal
from facepack.commands import Debug, Workers
from facepack.describing import How
from facepack.face_places import FaceStatus
from facepack.ray_options import RayOptions

Location = Annotated[str, typer.Argument(metavar="BUILD", help="Folder or URL of a build.")]


def describe(
    build: Location,
    workers: Workers = None,
    ray_address: Annotated[
        str,
        typer.Option(
            show_default="$RAY_ADDRESS, else a Ray of its own",
            help="A Ray cluster: HOST:PORT of its head, auto or local.",
        ),
    ] = "",
    ray_env: Annotated[
        str,
        typer.Option(
            metavar="FILE", show_default="none", help="Variables, packages and folders for the workers, in Ray's form."
        ),
    ] = "",
    landmarks: Annotated[
        str,
        typer.Option(show_default="looked for among the models", help="dlib's five-point landmark model."),
    ] = "",
    debug: Debug = False,
) -> None:
    """Describe the face of every image of a build by 128 numbers, in descriptors.parquet beside its manifest.

    Example: facepack describe builds/celeba
    """
    with terminal.errors_as_lines(debug=debug):
        how = How(workers, RayOptions(ray_address, env=ray_env), landmarks)
        with terminal.silenced_libraries(), terminal.ImageProgress() as progress:
            outcome = describing.describe(build, how=how, progress=progress)
        for status in FaceStatus:
            if number := outcome.faces.get(status, 0):
                terminal.out.print(f" {number:>9,} {status}: {status.meaning}", soft_wrap=True)
        if not outcome.num_images:
            terminal.out.print(f"{build}: complete already, nothing to do", soft_wrap=True)
            return
        rate = outcome.num_images / max(outcome.seconds, 1e-9)
        before = f"; shards finished before: {outcome.num_kept_shards:,}" if outcome.num_kept_shards else ""
        took = f"{outcome.num_images:,} images in {outcome.seconds:,.1f} s, {rate:,.1f} images/s{before}"
        terminal.out.print(f"{took}; in {build}/{descriptors.FILE}", soft_wrap=True)
