"""Quality on a preview page: how each measure is distributed, and the pictures at both of its ends."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.manifest_rows import ManifestRows
from facepack.pictures import packed_pictures
from facepack.preview_model import Bar, Picture
from facepack.reader import OpenBuild

_TITLES = {
    "sharpness": ("Sharpness", "variance of the Laplacian", "--min-sharpness"),
    "brightness": ("Brightness", "mean grey level, 0 to 255", "--min-brightness and --max-brightness"),
    "contrast": ("Contrast", "standard deviation of grey levels", "--min-contrast"),
    "face_px": ("Face", "longer side of its box, in pixels of the photo", "--min-face"),
    "yaw": ("Yaw", "degrees turned to a side, roughly", "--max-yaw"),
    "roll": ("Roll", "degrees that the line of the eyes is turned", "--max-roll"),
}
_NUM_BINS, _NUM_PICTURES = 24, 6
_PLACE_COLUMNS = ("source", "shard", "offset", "size")


@dataclass(frozen=True)
class Measure:
    """One measure: its histogram, and the pictures at its ends."""

    title: str
    unit: str
    option: str
    bars: list[Bar]
    quantiles: list[tuple[str, str]]
    lowest: list[Picture]
    highest: list[Picture]

    @property
    def largest(self) -> int:
        """The height of the highest bar."""
        return max((bar.number for bar in self.bars), default=0) or 1


def measures_of(build: OpenBuild, rows: ManifestRows) -> list[Measure]:
    """The measures that a build has values of; none in a build made before them, no pictures from a remote one."""
    names = [name for name in _TITLES if name in rows.schema.names]
    if not names:
        return []
    parts = (part.filter(pc.is_valid(part["shard"])) for part in rows.parts([*_PLACE_COLUMNS, *names]))
    table = pa.concat_tables(parts)
    return [_measure(build, table, name) for name in names if table[name].null_count < len(table)]


def _measure(build: OpenBuild, table: pa.Table, name: str) -> Measure:
    valid = table.filter(pc.is_valid(table[name]))
    values = valid[name].to_numpy().astype(np.float64)
    order = np.argsort(values, kind="stable")
    number = 0 if build.is_remote else min(_NUM_PICTURES, len(order) // 2)
    lowest, highest = order[:number], order[len(order) - number :][::-1]
    shares = {"least": 0.0, "1 %": 0.01, "5 %": 0.05, "middle": 0.5, "95 %": 0.95, "99 %": 0.99, "most": 1.0}
    quantiles = [(share, _text(float(np.quantile(values, place)))) for share, place in shares.items()]
    return Measure(
        *_TITLES[name],
        bars=_histogram(values),
        quantiles=quantiles,
        lowest=_pictures(build, valid.take(lowest), name),
        highest=_pictures(build, valid.take(highest), name),
    )


def _pictures(build: OpenBuild, rows: pa.Table, name: str) -> list[Picture]:
    pairs = zip(rows[name].to_pylist(), rows["source"].to_pylist(), strict=True)
    return packed_pictures(build, rows, captions=[f"{_text(value)}: {source}" for value, source in pairs])


def _histogram(values: npt.NDArray[np.float64]) -> list[Bar]:
    """Bars of equal width, up to the value that 99 of 100 stay below; the last bar holds the rest."""
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    if not high > low:
        return [Bar(_text(low), len(values))]
    edges = np.linspace(low, high, _NUM_BINS + 1)
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _NUM_BINS - 1)
    numbers = np.bincount(places, minlength=_NUM_BINS).tolist()
    return [Bar(_text(float(edge)), number) for edge, number in zip(edges[:-1], numbers, strict=True)]


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
