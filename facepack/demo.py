"""The demo: draws a small CelebA, builds it, verifies it, trains S0 on it, and opens the report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from facepack import builder, preview, summary, terminal, verification
from facepack.configuration import Configuration
from facepack.drawn import synthetic

_SETTINGS = ["epochs=18", "lr=0.015"]
"""Fewer and longer steps than the 250 epochs of the published system: drawn faces are easier, and a demo is short."""


def command(
    out: Annotated[Path, typer.Option(help="Folder for the pictures, the build and the run.")] = Path("demo"),
    num_images: Annotated[int, typer.Option("--images", help="How many faces to draw.")] = 4000,
    workers: Annotated[
        int | None, typer.Option(help="Processes; 0 is this one, without Ray. [as many as cores, if it pays]")
    ] = None,
    show: Annotated[bool | None, typer.Option("--open/--no-open", help="Open the report. [on a terminal]")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Draw a small CelebA, build it, verify it, train on it and show what came of it.

    Example: facepack demo
    """
    with terminal.errors_as_lines(debug=debug):
        from trainer import commands  # takes the trainer's libraries along

        commands.check_installed()
        from trainer import recipes

        source, made, run = out / "celeba", out / "celeba-rarest4", out / "run"
        if synthetic.num_drawn(source) != num_images:
            terminal.note(f"drawing {num_images:,} faces with CelebA's attributes into {source}")
            synthetic.draw("celeba", source, num_images=num_images)
        terminal.note(f"facepack build celeba --src {source} --classes rarest4 --size 64 --out {made}")
        configuration = Configuration.of("celeba", classes="rarest4", size=64)
        outcome = builder.build(configuration, place=builder.Place(str(source), str(made), workers))
        terminal.out.print("\n".join(summary.outcome_lines(outcome)), soft_wrap=True)
        terminal.note(f"facepack verify {made} --deep")
        verification.show(str(made), deep=True)
        page = out / "preview.html"
        terminal.note(f"facepack preview {made} --src {source} --out {page}")
        preview.write(str(made), src=str(source), out=page, png=True)
        told = " ".join(f"--set {setting}" for setting in _SETTINGS)
        terminal.note(f"facepack train celeba_rarest4 --data {made} --out {run} {told}")
        opens = sys.stdout.isatty() if show is None else show
        chosen = recipes.load("celeba_rarest4", _SETTINGS)
        commands.trained("celeba_rarest4", chosen, data=str(made), out=run, show=opens)
