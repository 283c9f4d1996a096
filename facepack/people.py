"""People: the images of one person, told by their descriptors, and where that disagrees with splits and with names."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import descriptors, manifest
from facepack.errors import JobError
from facepack.manifest import METADATA_KEY, people_in_several_splits
from facepack.storage import Store

FILE = "people.parquet"
COLUMN = "person"
NEAR = 0.88
"""Groups of images are of one person where the mean distance between them is below so many times that to other people
near by: by half of the people of CelebA's thumbnails (benchmarks/people.py)."""
MOST_TOGETHER = 8000
"""Images between which all distances are kept at once: a quarter of a gigabyte."""
LEAST_SCALE = 0.5
"""The least distance that counts as one to other people: somebody's many photos are nearer to each other than that."""
APART = 0.7
"""A photo farther than so from the middle of the others' of its name is said to disagree with them."""
FEWEST_OF_NAME = 3
"""Photos that a name needs, so that one of them can disagree with the others."""

_NEIGHBOURS = slice(5, 15)
"""Of the nearest images, from which on to which one they are taken for other people: the first may be of the same."""
ROWS_AT_ONCE = 2048

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

SCHEMA = pa.schema([("key", pa.string()), ("source", pa.string()), (COLUMN, pa.int32()), ("apart", pa.float32())])
"""A row per described image: the number of its person, the one of most images first, and where the dataset names
people, the distance to the middle of the others of the same name (null for names of too few)."""


def people_of(values: Floats, *, near: float = NEAR) -> Numbers:
    """Number the people of descriptors (N, 128): int64 (N,), the person of most images is 0.

    Distances are divided by the mean distance from either image to its fifth to fifteenth neighbour (Zelnik-Manor and
    Perona 2004): where faces lie densely, images have to be nearer. Groups are joined as long as the mean of such
    distances between them is below `near` (average linkage, by scipy): it is looked for within images that near pairs
    connect. All pairs are compared, 2,048 rows at a time.
    """
    pairs, scales = near_pairs(values, near=near)
    labels = np.arange(len(values))
    for rows in _connected(np.arange(len(values)), pairs, near=near):
        labels[rows] = rows[0] if len(rows) < 3 else rows[_joined(values[rows], scales[rows], near=near)]
    return _by_size(labels)


class Pairs(NamedTuple):
    """Pairs of rows that are near, the smaller number first, and their distances over those to other people."""

    rows: Numbers
    others: Numbers
    ratios: Floats


def near_pairs(values: Floats, *, near: float = NEAR) -> tuple[Pairs, Floats]:
    """The pairs that are near enough to be of one person, and the distance of each row to other people (N,)."""
    squares = (values**2).sum(axis=1)
    scales = np.concatenate([np.zeros(0, np.float32), *(_scales(block) for _, block in _blocks(values, squares))])
    scales = np.maximum(scales, LEAST_SCALE)
    parts = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for start, distances in _blocks(values, squares):
        ratios = distances / np.sqrt(scales[start : start + len(distances), None] * scales[None])
        rows, others = np.nonzero(ratios < near)
        is_first = rows + start < others
        rows, others = rows[is_first], others[is_first]
        parts.append(Pairs(rows + start, others, ratios[rows, others]))
    return Pairs(*map(np.concatenate, zip(*parts, strict=True))), scales


def _connected(rows: Numbers, pairs: Pairs, *, near: float) -> Iterator[Numbers]:
    """Rows in parts that pairs connect, each in order; one too large for its distances falls apart by nearer pairs."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    is_near = pairs.ratios < near
    firsts, seconds = (np.searchsorted(rows, column[is_near]) for column in (pairs.rows, pairs.others))
    graph = coo_matrix((np.ones(len(firsts), np.int8), (firsts, seconds)), shape=(len(rows), len(rows)))
    _, parts = connected_components(graph, directed=False)
    order = np.argsort(parts, kind="stable")
    for part in np.split(rows[order], np.flatnonzero(np.diff(parts[order])) + 1):
        if len(part) > MOST_TOGETHER:
            is_inside = np.isin(pairs.rows, part) & np.isin(pairs.others, part)
            inside = Pairs(pairs.rows[is_inside], pairs.others[is_inside], pairs.ratios[is_inside])
            yield from _connected(part, inside, near=0.97 * near)
        elif len(part) > 1:
            yield part


def _joined(values: Floats, scales: Floats, *, near: float) -> Numbers:
    """Average linkage: for each row the first one of its group."""
    from scipy.cluster.hierarchy import fcluster, linkage

    squares = (values**2).sum(axis=1)
    distances = np.concatenate([block for _, block in _blocks(values, squares)])
    ratios = distances / np.sqrt(scales[:, None] * scales[None])
    groups = fcluster(linkage(ratios[np.triu_indices(len(values), 1)], "average"), near, "distance")
    _, firsts, inverse = np.unique(groups, return_index=True, return_inverse=True)
    members: Numbers = firsts[inverse]
    return members


def _blocks(values: Floats, squares: Floats) -> Iterator[tuple[int, Floats]]:
    """Distances from some rows to all: the number of the first row, and (num_rows, N)."""
    for start in range(0, len(values), ROWS_AT_ONCE):
        stop = start + ROWS_AT_ONCE
        products = squares[start:stop, None] + squares[None] - 2 * values[start:stop] @ values.T
        yield start, np.sqrt(np.maximum(products, 0))


def _scales(distances: Floats) -> Floats:
    """The mean distance to the neighbours that are other people; of few images, to the farthest."""
    last = min(_NEIGHBOURS.stop, distances.shape[1]) - 1
    nearest = np.sort(np.partition(distances, last, axis=1)[:, : last + 1], axis=1)
    first = min(_NEIGHBOURS.start, last)
    means: Floats = nearest[:, first:].mean(axis=1)
    return means


def _by_size(labels: Numbers) -> Numbers:
    """The same groups, numbered by their size, then by their first row."""
    _, firsts, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.empty(len(counts), np.int64)
    numbers[np.lexsort((firsts, -counts))] = np.arange(len(counts))
    ordered: Numbers = numbers[inverse]
    return ordered


# Names


def apart_from_name(values: Floats, names: Numbers) -> Floats:
    """How far each image is from the middle of the others of its name: float32 (N,), NaN for names of too few.

    `names` are numbers of people, -1 without one.
    """
    apart = np.full(len(values), np.nan, np.float32)
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(names[order]) != 0)) if len(names) else np.zeros(0, np.int64)
    for rows in np.split(order, starts[1:]):
        if len(rows) >= FEWEST_OF_NAME and names[rows[0]] >= 0:
            others = (values[rows].sum(axis=0) - values[rows]) / (len(rows) - 1)
            apart[rows] = np.linalg.norm(values[rows] - others, axis=1)
    return apart


# A build


@dataclass(frozen=True)
class Outcome:
    """What was found: images, people, those of several images; people in several splits; photos apart from a name."""

    num_images: int
    num_people: int
    num_of_several: int
    num_leaking: int
    num_apart: int | None
    """None where the dataset names nobody."""


def find_people(location: str, *, near: float = NEAR) -> Outcome:
    """Tell the people of a described build apart, and write them into people.parquet beside its manifest.

    Raises `JobError` where the build is not described.
    """
    described, build, store = descriptors.read_descriptors(location), manifest.read_build(location), Store(location)
    names = [name for name in build.configuration.described.labels_of("identity") if name != COLUMN]
    named = names[0] if names else None
    rows = manifest.read_table(store, manifest.MANIFEST_FILE, columns=["key", "source", "split", *names[:1]])
    rows = rows.take(pc.index_in(described.keys, value_set=rows["key"].combine_chunks()))
    people = people_of(described.values, near=near)
    of_name = rows[named].fill_null(-1).to_numpy().astype(np.int64) if named else np.full(len(rows), -1)
    apart = apart_from_name(described.values, of_name)
    columns = [rows["key"], rows["source"], pa.array(people, pa.int32()), pa.array(apart, from_pandas=True)]
    metadata = {METADATA_KEY: json.dumps({"shards": descriptors.digest_of_shards(build), "near": near})}
    table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA.with_metadata(metadata))
    manifest.write_table(store, FILE, table=table)
    counts = np.bincount(people)
    leaking = people_in_several_splits(pa.table({COLUMN: people, "split": rows["split"]}), COLUMN)
    num_apart = int((apart > APART).sum()) if named else None
    num_leaking = len(leaking[COLUMN].unique())
    return Outcome(len(people), len(counts), int((counts > 1).sum()), num_leaking, num_apart)


def read_people(location: str) -> pa.Table:
    """The table of the people of a build; `JobError` where there is none, or it is of another build."""
    build, store = manifest.read_build(location), Store(location)
    try:
        table = manifest.read_table(store, FILE)
    except FileNotFoundError as error:
        raise JobError(f"{location}: no {FILE}; facepack people {location} writes it") from error
    if manifest.metadata_of(table).get("shards") != descriptors.digest_of_shards(build):
        raise JobError(f"{location}/{FILE}: of other images than are in the build now; facepack people {location}")
    return table
