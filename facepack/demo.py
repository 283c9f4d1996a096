"""The demo: draw a small CelebA, build it, verify it, and read a batch back from the shards."""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pyarrow.compute as pc
import typer

from facepack import build, image, manifest, synthetic, terminal, verify
from facepack.manifest import Configuration, Status
from facepack.storage import Store

_TILE_PX, _CAPTION_PX, _COLUMNS = 96, 26, 12


def read_batch(location: str, *, split: str, per_class: int) -> dict[str, list[image.Pixels]]:
    """Read images of each class straight from the shards, by the offsets of the manifest: uint8 BGR HWC."""
    store = Store(location)
    made = manifest.read_build(location)
    table = manifest.read_table(store, manifest.MANIFEST_FILE)
    packed = table.filter((pc.field("status") == Status.PACKED) & (pc.field("split") == split))
    batch = {}
    for name in made.class_names:
        rows = packed.filter(pc.field("class") == name).slice(0, per_class).to_pylist()
        contents = [store.read_range(row["shard"], start=row["offset"], length=row["size"]) for row in rows]
        batch[name] = [image.decode(content) for content in contents]
    return batch


def contact_sheet(batch: dict[str, list[image.Pixels]]) -> image.Pixels:
    """One row of tiles per class below its name: uint8 BGR HWC."""
    rows = []
    for name, images in batch.items():
        caption = np.full((_CAPTION_PX, _TILE_PX * _COLUMNS, 3), 255, np.uint8)
        cv2.putText(caption, name, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
        tiles = [image.resize(one, width_px=_TILE_PX, height_px=_TILE_PX) for one in images[:_COLUMNS]]
        tiles += [np.full((_TILE_PX, _TILE_PX, 3), 255, np.uint8)] * (_COLUMNS - len(tiles))
        rows += [caption, np.hstack(tiles)]
    return np.vstack(rows)


def command(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the build.")] = Path("demo"),
    num_images: Annotated[int, typer.Option("--images", help="How many faces to draw.")] = 2000,
    workers: Annotated[
        int | None, typer.Option(help="Processes; 0 is this one, without Ray. [as many as cores, if it pays]")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Draw a small CelebA, build it, verify it and read a batch back.

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
        sheet = out / "batch.png"
        batch = read_batch(str(made), split="train", per_class=_COLUMNS)
        sheet.write_bytes(cv2.imencode(".png", contact_sheet(batch))[1].tobytes())
        num_read = sum(len(images) for images in batch.values())
        terminal.out.print(f"read a batch of {num_read} images back from the shards: look at {sheet}", soft_wrap=True)
