"""The demo: draws a small CelebA, builds it, verifies it, and shows what was read back from the shards."""

from pathlib import Path
from typing import Annotated

import typer

from facepack import build, preview, synthetic, terminal, verify
from facepack.manifest import Configuration


def command(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the build.")] = Path("demo"),
    num_images: Annotated[int, typer.Option("--images", help="How many faces to draw.")] = 2000,
    workers: Annotated[
        int | None, typer.Option(help="Processes; 0 is this one, without Ray. [as many as cores, if it pays]")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Draw a small CelebA, build it, verify it and show it.

    Example: facepack demo
    """
    with terminal.errors_as_lines(debug=debug):
        source, made = out / "celeba", out / "celeba-rarest4"
        if not (source / "list_attr_celeba.txt").exists():
            terminal.note(f"drawing {num_images:,} faces with CelebA's attributes into {source}")
            synthetic.draw("celeba", source, num_images=num_images)
        terminal.note(f"facepack build celeba --src {source} --classes rarest4 --size 64 --out {made}")
        configuration = Configuration("celeba", classes="rarest4", size="64")
        build.summary(build.build(configuration, place=build.Place(str(source), str(made), workers)))
        terminal.note(f"facepack verify {made} --deep")
        verify.show(str(made), deep=True)
        page = out / "preview.html"
        terminal.note(f"facepack preview {made} --src {source} --out {page}")
        preview.write(str(made), src=str(source), out=page, png=True)
