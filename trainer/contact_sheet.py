"""Contact sheet: photos with the faces marked and the predictions for them beside, as a PNG."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack import image
from facepack.image import BadImageError, Pixels
from trainer import photos
from trainer.photos import Named, Photo
from trainer.plots import QUIET, plain_text
from trainer.prediction import Prediction
from trainer.prediction_files import SHOWN_PHOTOS

_SHOWN_PX = 640
_INK, _FRAME, _FRAME_LABEL = "#1b2330", "#3cc828", "#2f9d1f"
_LINE_HEIGHT, _TEXT_SIZE = 0.19, 9.0
_BLOCKS_PER_ROW = 3
_PHOTO_WIDTH, _BLOCK_WIDTH = 3.0, 2.6
"""Inches."""


@dataclass(frozen=True)
class Picture:
    """A photo reduced to what is shown of it, RGB; and by how much."""

    image_hwc: Pixels | None = None
    """None where it cannot be read."""
    scale: float = 1.0


@dataclass(frozen=True)
class _Panel:
    """A photo (RGB, or None), the boxes in it, and blocks of a heading and lines beside it."""

    title: str
    image_hwc: Pixels | None
    boxes: Sequence[tuple[float, ...]]
    blocks: Sequence[tuple[str, Sequence[str]]]

    @property
    def num_rows(self) -> int:
        return -(-len(self.blocks) // _BLOCKS_PER_ROW)

    @property
    def height(self) -> float:
        """Inches."""
        num_lines = 2 + max((len(lines) for _, lines in self.blocks), default=1)
        return max(2.4, _LINE_HEIGHT * self.num_rows * num_lines + 0.3)


def keeping(given: Iterable[Photo], pictures: dict[str, Picture]) -> Iterator[Photo]:
    """The same photos; into `pictures` go those of the first ones that are no files, such as frames of videos."""
    for number, photo in enumerate(given):
        if number < SHOWN_PHOTOS and isinstance(photo, Named):
            pictures[photo.name] = _picture(photo)
        yield photo


def png_of(predictions: Sequence[Prediction], pictures: Mapping[str, Picture] | None = None) -> bytes:
    """A PNG of the first forty photos, with faces marked and numbered.

    Photos are files by name, but for those in `pictures`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(prediction.photo for prediction in predictions))[:SHOWN_PHOTOS]
    kept = pictures or {}
    panels = [_panel(predictions, name, kept.get(name) or _picture(Path(name))) for name in names]
    num_blocks = max(len(panel.blocks) for panel in panels)
    width = _PHOTO_WIDTH + _BLOCK_WIDTH * min(_BLOCKS_PER_ROW, num_blocks)
    height = sum(panel.height for panel in panels)
    figure = plt.figure(figsize=(width, height), facecolor="white")
    bottom = height
    for panel in panels:
        bottom -= panel.height
        place = (0.1 / width, (bottom + 0.1) / height, 2.6 / width, (panel.height - 0.4) / height)
        _draw_photo(figure.add_axes(place), panel)
        _draw_blocks(figure, panel, bottom=bottom)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    plt.close(figure)
    return file.getvalue()


def _panel(predictions: Sequence[Prediction], photo: str, picture: Picture) -> _Panel:
    of_photo = [prediction for prediction in predictions if prediction.photo == photo]
    boxes = list(dict.fromkeys(prediction.box for prediction in of_photo if prediction.box is not None))
    blocks = []
    for prediction in of_photo:
        is_numbered = prediction.box is not None and len(boxes) > 1
        number = f"  face {boxes.index(prediction.box) + 1}" if is_numbered and prediction.box else ""
        blocks.append((f"{prediction.run}{number}", prediction.lines))
    boxes_shown = [tuple(side * picture.scale for side in box) for box in boxes]
    return _Panel(Path(photo).name, picture.image_hwc, boxes_shown, blocks)


def _picture(photo: Photo) -> Picture:
    try:
        content = photos.content_of(photo)
        photo_hwc = image.decode(content) if isinstance(content, bytes) else content
    except (BadImageError, OSError):
        return Picture()
    height, width = photo_hwc.shape[:2]
    scale = min(1.0, _SHOWN_PX / max(height, width))
    small_hwc = image.resize(photo_hwc, width_px=max(1, round(width * scale)), height_px=max(1, round(height * scale)))
    return Picture(np.ascontiguousarray(small_hwc[:, :, ::-1]), scale)


def _draw_photo(axis: Any, panel: _Panel) -> None:
    """The photo, with a frame around each face."""
    from matplotlib.patches import Rectangle

    axis.set_title(plain_text(panel.title), fontsize=9, loc="left", color=_INK)
    axis.set_axis_off()
    if panel.image_hwc is None:
        axis.text(0.5, 0.5, "no picture", ha="center", va="center", color=QUIET)
    else:
        axis.imshow(panel.image_hwc, interpolation="antialiased")
    for number, (x0, y0, x1, y1) in enumerate(panel.boxes, start=1):
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=_FRAME, linewidth=1.6))
        if len(panel.boxes) > 1:
            axis.text(x0, y0, f"{number}", color="white", backgroundcolor=_FRAME_LABEL, fontsize=7, va="bottom")


def _draw_blocks(figure: Any, panel: _Panel, *, bottom: float) -> None:
    """The predictions beside a photo whose panel begins at `bottom` inches."""
    width, height = figure.get_size_inches()
    for number, (heading, lines) in enumerate(panel.blocks):
        left = (_PHOTO_WIDTH + _BLOCK_WIDTH * (number % _BLOCKS_PER_ROW)) / width
        down = (number // _BLOCKS_PER_ROW) * (panel.height - 0.3) / max(1, panel.num_rows)
        top = (bottom + panel.height - 0.25 - down) / height
        figure.text(left, top, plain_text(heading), fontsize=_TEXT_SIZE, weight="bold", va="top", color=_INK)
        text = "\n".join(plain_text(line) for line in lines)
        below = top - _LINE_HEIGHT / height
        figure.text(left, below, text, fontsize=_TEXT_SIZE, va="top", color=_INK, linespacing=1.45)
