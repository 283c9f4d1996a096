"""Near sources: which photos of a source are near-duplicates, by a look at each of them before anything is planned."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import image
from facepack.ahead import mapped_ahead
from facepack.choices import MOST_PIXELS
from facepack.cores import num_cores
from facepack.names import ROWS_AT_ONCE
from facepack.near_duplicates import Numbers, groups_of, pairs_within
from facepack.perceptual_hash import perceptual_hash
from facepack.source import Source

_LEAST_WH = (80, 80)
"""Photos may be decoded at a reduced scale with these sides at least: twice those of the grid of the hash."""


def near_groups(paths: pa.ChunkedArray, source: Source) -> Numbers:
    """Per path the number of the first one, in the order of the paths, of its group of near-duplicates.

    Groups are joined through chains of pairs. A photo that cannot be read, or has hardly anything in it, is alone.
    """
    texts = paths.combine_chunks() if isinstance(paths, pa.ChunkedArray) else paths
    order = pc.array_sort_indices(texts).to_numpy()
    numbers = np.zeros(len(order), np.uint64)
    has_hash = np.zeros(len(order), bool)
    for start in range(0, len(order), ROWS_AT_ONCE):
        part = texts.take(pa.array(order[start : start + ROWS_AT_ONCE])).to_pylist()
        hashes = mapped_ahead(partial(_hash_of, source), part, num_threads=num_cores())
        for place, number in enumerate(hashes, start=start):
            has_hash[place] = number is not None
            numbers[place] = number or 0
    places = np.flatnonzero(has_hash)
    groups: Numbers = np.arange(len(order))
    groups[places] = places[groups_of(pairs_within(numbers[places]), number=len(places))]
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[groups]
    return firsts


def _hash_of(source: Source, path: str) -> int | None:
    """The hash of a photo; None where it has none, and where packing will say what is wrong with it."""
    try:
        content = source.read(path)
        photo_hwc = image.decode(content, max_pixels=MOST_PIXELS, keep_damaged=True, least_size_wh=_LEAST_WH)
    except (OSError, image.BadImageError):
        return None
    return perceptual_hash(photo_hwc)
