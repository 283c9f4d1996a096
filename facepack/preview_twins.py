"""Pictures that come twice, on a preview page: how many near-duplicates a build has, and pairs of them side by side."""

from dataclasses import dataclass

import numpy as np

from facepack.near_rows import NearRows
from facepack.pictures import packed_pictures
from facepack.preview_model import Picture
from facepack.reader import OpenBuild

_MOST_PAIRS = 24


@dataclass(frozen=True)
class TwinPair:
    """Two pictures, and in words what is between them."""

    pictures: list[Picture]
    splits: str
    note: str


@dataclass(frozen=True)
class Twins:
    """What the section shows."""

    num_pairs: int
    num_images: int
    num_groups: int
    largest_group: int
    num_in_two_splits: int
    per_splits: list[tuple[str, int]]
    num_without: int
    pairs: list[TwinPair]


def twins_of(build: OpenBuild, near: NearRows) -> Twins:
    """The near-duplicates of a build; the pairs in two splits first, of those the nearest; none from a remote build."""
    sizes = near.group_sizes
    order = np.lexsort((near.pairs.distance, ~near.in_two_splits))[: 0 if build.is_remote else _MOST_PAIRS]
    return Twins(
        num_pairs=near.num_pairs,
        num_images=int(sizes.sum()),
        num_groups=len(sizes),
        largest_group=int(sizes.max(initial=0)),
        num_in_two_splits=near.num_in_two_splits,
        per_splits=list(near.per_splits.items()),
        num_without=near.num_without,
        pairs=[_pair(build, near, int(place)) for place in order],
    )


def _pair(build: OpenBuild, near: NearRows, place: int) -> TwinPair:
    rows = near.table.take([int(near.pairs.first[place]), int(near.pairs.second[place])])
    splits = rows["split"].to_pylist()
    distance = int(near.pairs.distance[place])
    bits = "the same hash" if not distance else f"{distance} bit{'s' if distance > 1 else ''} of 64 differ"
    note = f"{bits}, mirrored" if near.pairs.is_mirrored[place] else bits
    joined = f"both in {splits[0]}" if splits[0] == splits[1] else f"{splits[0]} and {splits[1]}"
    return TwinPair(packed_pictures(build, rows, captions=rows["source"].to_pylist()), joined, note)
