"""Descriptors of a build: the table of them beside the manifest, and what is needed to read it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepack import manifest
from facepack.descriptor_network import NUM_VALUES
from facepack.errors import JobError
from facepack.face_places import FaceStatus
from facepack.hashing import json_digest
from facepack.manifest import METADATA_KEY, Build
from facepack.storage import Store

FILE = "descriptors.parquet"
COLUMN = "descriptor"
STEP = 1 / 4096
"""The values are rounded to multiples of it: distances change by a thousandth, and the file is half as long."""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        (COLUMN, pa.list_(pa.float32(), NUM_VALUES)),
        ("face", pa.string()),
        ("face_box", pa.list_(pa.float32(), 4)),
        ("face_landmarks", pa.list_(pa.float32())),
    ]
)
"""A row per packed image: its key, the descriptor of its face (null without one), how the face was found
(`facepack.face_places.FaceStatus`), and its box and five landmarks in pixels of the packed image."""


@dataclass(frozen=True)
class Origin:
    """What a table of descriptors was made from: it is recorded in the table, and compared."""

    shards: str
    """Digest of the names and checksums of the shards."""
    network: str
    """sha256 of the network's file."""
    landmarks: str
    """sha256 of the landmark model's file."""
    method: int = 1
    """Counted up when other descriptors come of the same images and models."""

    def schema(self) -> pa.Schema:
        """The columns, with this in the metadata."""
        return SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(self), sort_keys=True)})


def digest_of_shards(build: Build) -> str:
    """What changes with any image of a build, or its order."""
    return json_digest([[shard.name, shard.sha256] for shard in build.shards])


@dataclass(frozen=True)
class Descriptors:
    """The described images of a build: those with a face."""

    keys: pa.Array
    """string (num_described,)."""
    values: npt.NDArray[np.float32]
    """(num_described, 128)."""
    faces: dict[str, int]
    """Images per `FaceStatus`, those without a face among them."""

    @property
    def meanings(self) -> list[tuple[int, str]]:
        """Images by how their face was found, and what that means."""
        return [(self.faces[status], status.meaning) for status in FaceStatus if status in self.faces]


def read_descriptors(location: str) -> Descriptors:
    """The descriptors of a build; `JobError` where it has none, or they are of another build."""
    store, build = Store(location), manifest.read_build(location)
    try:
        table = manifest.read_table(store, FILE)
    except FileNotFoundError as error:
        raise JobError(f"{location}: no {FILE}; facepack describe {location} writes it") from error
    metadata = manifest.metadata_of(table)
    if metadata.get("shards") != digest_of_shards(build):
        raise JobError(f"{location}/{FILE}: of other images than are in the build now; facepack describe {location}")
    described = table.filter(table[COLUMN].is_valid())
    values = as_matrix(described[COLUMN])
    counts = {row["values"]: row["counts"] for row in table["face"].value_counts().to_pylist()}
    return Descriptors(described["key"].combine_chunks(), values, counts)


def check(build: Build, store: Store) -> Iterator[str]:
    """What is wrong with the descriptors of a build, if it has any: a line each."""
    try:
        table = manifest.read_table(store, FILE, columns=["key", "face"])
    except FileNotFoundError:
        return
    except JobError as error:
        yield f"{error}"
        return
    if manifest.metadata_of(table).get("shards") != digest_of_shards(build):
        yield f"{FILE}: of other images than are in the build now; facepack describe writes it anew"
    elif len(table) != sum(shard.num_samples for shard in build.shards):
        yield f"{FILE}: {len(table):,} rows for {sum(shard.num_samples for shard in build.shards):,} images"


def as_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """A column of descriptors without nulls as float32 (num_rows, 128)."""
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.float32), *parts]).reshape(-1, NUM_VALUES)


def as_column(values: npt.NDArray[np.float32], is_described: npt.NDArray[np.bool_]) -> pa.Array:
    """Descriptors (num_rows, 128) as a column, rounded, null where nothing is described."""
    rounded = np.round(values / STEP) * np.float32(STEP)
    flat = pa.array(rounded.astype(np.float32).ravel(), pa.float32())
    column: Any = pa.FixedSizeListArray.from_arrays(flat, NUM_VALUES, mask=pa.array(~is_described))
    return column
