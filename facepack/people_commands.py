"""Commands on people: the verbs that describe faces by numbers, and tell people apart by them."""

from typing import Annotated

import typer

from facepack import describing, terminal
from facepack.commands import Debug, Workers
from facepack.describing import How
from facepack.errors import FieldError
from facepack.people import FILE, NEAR, find_people
from facepack.ray_options import RayOptions
from facepack.summary import described_lines

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
        for line in described_lines(outcome):
            terminal.out.print(line, soft_wrap=True)


def people(
    build: Location,
    near: Annotated[
        float,
        typer.Option(help="Images of one person are nearer than so many times the distance to other people near by."),
    ] = NEAR,
    debug: Debug = False,
) -> None:
    """Tell the people of a described build apart, in people.parquet beside its manifest, without any names.

    Example: facepack people builds/utkface
    """
    with terminal.errors_as_lines(debug=debug):
        if not 0 < near < 1:
            raise FieldError("near", near, "expected more than 0 and less than 1")
        outcome = find_people(build, near=near)
        lines = [
            f"{outcome.num_images:,} described images of {outcome.num_people:,} people, "
            f"{outcome.num_of_several:,} of them with several images",
            f"{outcome.num_leaking:,} people are in more than one split",
        ]
        if outcome.num_apart is not None:
            lines.append(f"{outcome.num_apart:,} images do not look like the others of their name")
        place = f"{build}/{FILE}"
        lines.append(f"in {place}; facepack build ... --people {place} --split identity keeps them apart")
        for line in lines:
            terminal.out.print(line, soft_wrap=True)
