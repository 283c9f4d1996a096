"""Photos of doubtful labels: their paths in the source, and small pictures of them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack import image, manifest
from facepack.errors import JobError
from facepack.page import jpeg_uri
from facepack.reader import OpenBuild, decode_bgr, open_build
from trainer.runs import Run

_PICTURE_PX = 200
"""Longest side."""


class Photos:
    """The photos of the builds of a run; rows of a second build follow those of the first."""

    def __init__(self, run: Run) -> None:
        """Open the builds; `JobError` or `OSError` where one is not at hand, or was built anew since."""
        self._builds = [open_build(location) for location in run.locations]
        for build, trained_on in zip(self._builds, run.mixed, strict=True):
            if build.info.plan_digest != trained_on.plan_digest or build.info.digest != trained_on.digest:
                raise JobError(f"{build.location}: built anew since the run was trained; train it again")
        self._starts = np.cumsum([0, *(manifest.total(build.counts) for build in run.mixed)])

    def sources(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The path of each row's photo in the dataset that was built."""
        columns = [chunk for build in self._builds for chunk in build.table["source"].chunks]
        paths: list[str] = pa.chunked_array(columns).take(pa.array(rows)).to_pylist()
        return paths

    def pictures(self, rows: Sequence[int]) -> dict[int, str]:
        """Small pictures as data: URIs, by row."""
        return {row: self._picture(*self._place(row)) for row in dict.fromkeys(rows)}

    def _place(self, row: int) -> tuple[OpenBuild, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._builds[number], row - int(self._starts[number])

    def _picture(self, build: OpenBuild, row: int) -> str:
        image_bgr = decode_bgr(build.bytes(row), build.info, where=build.location)
        height, width = image_bgr.shape[:2]
        scale = min(1.0, _PICTURE_PX / max(height, width))
        sides = {"width_px": max(1, round(width * scale)), "height_px": max(1, round(height * scale))}
        return jpeg_uri(image.encode_jpeg(image.resize(image_bgr, **sides), quality=88))
