"""The manifest of a build: the names of its files, its table of samples and build.json, as written and read."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from facepack.choices import MAX_PIXELS, MIN_SIDE_PX
from facepack.configuration import Configuration, first_fault
from facepack.description import SPLITS
from facepack.errors import JobError
from facepack.storage import Store

BUILD_FILE = "build.json"
MANIFEST_FILE = "manifest.parquet"
SHARD_FILE = re.compile(r"(?:train|valid|test)-\d{5,}\.(?:tar|idx|parquet)")
"""Names of the files of a shard."""
METADATA_KEY = b"facepack"
ROWS_IN_GROUP = 1 << 18
"""Most rows in a row group of a manifest, which is written and read by them."""

DECIDES_BYTES = (
    "dlib-bin",
    "facepack",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pillow-heif",
    "pyarrow",
    "simplejpeg",
)

Counts = dict[str, dict[str, dict[str, int]]]
"""Rows per split, class ("" without classes) and status."""

_REPEATING = ("split", "status", "shard", "class")

OWN_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),
        ("duplicate_of", pa.string()),
        ("shard", pa.string()),
        ("position", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("source_sha256", pa.string()),
        ("box", pa.list_(pa.float32(), 4)),
        ("landmarks", pa.list_(pa.float32())),
        ("class", pa.string()),
    ]
)
MEASURED_COLUMNS = pa.schema(
    [
        ("phash", pa.uint64()),
        ("sharpness", pa.float32()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("face_px", pa.float32()),
        ("yaw", pa.float32()),
        ("roll", pa.float32()),
    ]
)
"""What is measured in the packed pixels and of the face that was cut out; builds of earlier versions lack them."""
PUBLISHED_BOX, PUBLISHED_LANDMARKS = "published_box", "published_landmarks"
PUBLISHED_COLUMNS = pa.schema(
    [(PUBLISHED_BOX, pa.list_(pa.float32(), 4)), (PUBLISHED_LANDMARKS, pa.list_(pa.float32()))]
)
"""Where the publisher has the face of a photo, in its pixels; only there where label files say so."""
KEY_LENGTH = 16
"""Letters in the key of a photo."""
FACE = "face"
"""The number of a face in its photo from 1, the largest first; only there with on_several all, null without a face."""


class Status(StrEnum):
    """What became of a chosen source: packed, or the one reason why not."""

    PACKED = "packed"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    NOT_AN_IMAGE = "not_an_image"
    NO_DECODER = "no_decoder"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    NO_LABELLED_FACE = "no_labelled_face"
    SMALL_FACE = "small_face"
    TURNED_AWAY = "turned_away"
    TILTED = "tilted"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    LOW_CONTRAST = "low_contrast"
    BLURRED = "blurred"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"

    @property
    def meaning(self) -> str:
        """What it means for a source, for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Status.PACKED: "in a shard",
    Status.MISSING: "the labels name it, the source has no such file",
    Status.UNREADABLE: "a whole file that cannot be decoded: convert it, such as to PNG",
    Status.TRUNCATED: "the file ends early: fetch it again",
    Status.DAMAGED: "decodes, but with wrong pixels: libjpeg complains; --keep-damaged would pack it",
    Status.NOT_AN_IMAGE: "text, an empty file, or a kind of file that holds no image",
    Status.NO_DECODER: "an image whose decoder is not installed; HEIC and HEIF need: pip install 'facepack[heif]'",
    Status.TOO_LARGE: f"more than {MAX_PIXELS / 1e6:.0f} Mpx by its header or than --max-pixels, or too long to encode",
    Status.TOO_SMALL: f"a side of less than {MIN_SIDE_PX} px, or than --min-side",
    Status.NO_FACE: "the detector found no face; HOG knows frontal ones, --detector hog+cnn others, too",
    Status.SEVERAL_FACES: "more than one face; --on-several largest would take the largest, all every face",
    Status.NO_LABELLED_FACE: "its published box or landmarks are missing, empty, mirrored or outside of the photo",
    Status.SMALL_FACE: "the box of the face has no side of --min-face pixels",
    Status.TURNED_AWAY: "the face is turned to a side by more than --max-yaw degrees",
    Status.TILTED: "the line of the eyes is turned by more than --max-roll degrees",
    Status.TOO_DARK: "the mean of its grey levels is below --min-brightness",
    Status.TOO_BRIGHT: "the mean of its grey levels is above --max-brightness",
    Status.LOW_CONTRAST: "its grey levels deviate by less than --min-contrast",
    Status.BLURRED: "the variance of its Laplacian is below --min-sharpness",
    Status.DUPLICATE: "the same bytes as another file, which is packed",
    Status.NEAR_DUPLICATE: "looks like another photo that stays: resized, encoded anew, mirrored or cropped a little",
}
if set(_MEANINGS) != set(Status):
    raise AssertionError("every status needs a meaning")


def versions() -> dict[str, str]:
    """Versions of facepack and of the libraries that decide bytes."""
    return {name: _version(name) for name in DECIDES_BYTES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # pillow-heif is an extra
        return "none"


def schema(columns: pa.Schema, metadata: dict[str, Any] | None = None) -> pa.Schema:
    """The columns of a manifest: our own, what is measured, then labels and published faces as they are in `columns`.

    Metadata is kept as JSON.
    """
    own = pa.schema([*OWN_COLUMNS, *MEASURED_COLUMNS])
    whole = pa.schema([*own, *(field for field in columns if field.name not in own.names)])
    return whole if metadata is None else whole.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def with_nullable_integers(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    """The same schema, with metadata by which pandas reads integers with nulls (`names`) as its Int8 to UInt64.

    It would read them as floats.
    """
    columns = [
        {
            "name": field.name,
            "field_name": field.name,
            "pandas_type": f"{field.type}",
            "numpy_type": f"{field.type}".replace("uint", "UInt").replace("int", "Int"),
            "metadata": None,
        }
        for field in schema
        if pa.types.is_integer(field.type) and field.name in names
    ]
    facts = {"index_columns": [], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return schema.with_metadata((schema.metadata or {}) | {b"pandas": json.dumps(facts)})


REPEATED = (Status.DUPLICATE, Status.NEAR_DUPLICATE)
"""Statuses of what another source stands for, which duplicate_of names."""


def label_columns(table: pa.Table | pa.Schema) -> list[str]:
    """Names of the label columns of a manifest."""
    names = table.column_names if isinstance(table, pa.Table) else table.names
    others = {*OWN_COLUMNS.names, *MEASURED_COLUMNS.names, *PUBLISHED_COLUMNS.names, FACE}
    return [name for name in names if name not in others]


def key_of_face(key: str, face: int) -> str:
    """The key of a face, from the key of its photo and its number in it."""
    return f"{key}-{face}"


def photo_keys(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """The keys of photos, from keys of samples, which may be faces of them."""
    return pc.utf8_slice_codeunits(keys, 0, KEY_LENGTH)


def metadata_of(table: pa.Table | pa.Schema) -> dict[str, Any]:
    """The metadata that `schema` wrote; empty where there is none."""
    schema_ = table.schema if isinstance(table, pa.Table) else table
    metadata: dict[str, Any] = json.loads((schema_.metadata or {}).get(METADATA_KEY, b"{}"))
    return metadata


def write_table(store: Store, name: str, *, table: pa.Table) -> None:
    """Write a Parquet file: whole under its name, the same bytes for the same table."""
    write_tables(store, name, schema=table.schema, tables=[table])


def write_tables(store: Store, name: str, *, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema as a Parquet file, one after another, with row groups of `ROWS_IN_GROUP` at most."""
    repeating = [name for name in _REPEATING if name in schema.names]
    options = {"compression": "zstd", "use_dictionary": repeating, "write_statistics": False}
    with store.writer(name) as file, pq.ParquetWriter(file, schema, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROWS_IN_GROUP)


def read_table(store: Store, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file with its metadata, or some of its columns; a damaged one is a `JobError`."""
    content = store.read(name)
    try:
        return pq.read_table(pa.BufferReader(content), columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise JobError(f"{store.location}/{name}: damaged: {error}") from error


@dataclass(frozen=True)
class ShardRecord:
    """The entry of one shard in build.json."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Build:
    """build.json: what was built, from what, and what came of it."""

    dataset: str
    configuration: Configuration
    digest: str
    """sha256 of the configuration."""
    plan_digest: str
    """sha256 of the chosen rows with their labels, splits and order."""
    versions: dict[str, str]
    class_names: list[str]
    counts: Counts
    mean: list[float] | None
    std: list[float] | None
    shards: list[ShardRecord]
    unparsed: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Files and rows that are not in the manifest, by reason."""
    left_out_examples: dict[str, list[str]] = field(default_factory=dict)
    """The first of the files among them, by reason."""
    num_padded: int = 0
    """Crops that reach over the border of their photo, where the published script failed."""
    num_squashed: int = 0
    """Packed images whose width changed against their height, noticeably."""

    def to_json(self) -> bytes:
        """Readable and canonical: the same build gives the same bytes."""
        record = asdict(self) | {"configuration": self.configuration.as_record()}
        return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()


def read_build(location: str) -> Build:
    """Read build.json; `JobError` where there is no complete build, or which field is wrong."""
    store = Store(location)
    try:
        content = store.read(BUILD_FILE)
    except FileNotFoundError as error:
        why = f"; {absence}" if (absence := store.absence()) else ""
        advice = f"no {BUILD_FILE}, so no complete build: run facepack build (again){why}"
        raise JobError(f"{location}: {advice}") from error
    try:
        return TypeAdapter(Build).validate_json(content, strict=True)
    except ValidationError as error:
        raise JobError(f"{location}/{BUILD_FILE}: {first_fault(error)}") from error


def count(table: pa.Table) -> Counts:
    """Rows per split, class and status, in the order of the splits, classes and statuses by name."""
    return as_counts([counted(table)])


def counted(table: pa.Table) -> pa.Table:
    """A row per split, class and status, with their number of rows in column count_all."""
    return table.group_by(["split", "class", "status"]).aggregate([([], "count_all")])


def as_counts(tables: Iterable[pa.Table]) -> Counts:
    """The sum of what `counted` gave of several tables."""
    numbers = Counter[tuple[str, str, str]]()
    for table in tables:
        for row in table.to_pylist():
            numbers[row["split"], row["class"] or "", row["status"]] += row["count_all"]
    counts: Counts = {}
    for split, name, status in sorted(numbers, key=lambda key: (SPLITS.index(key[0]), *key[1:])):
        counts.setdefault(split, {}).setdefault(name, {})[status] = numbers[split, name, status]
    return counts


def total(
    counts: Counts,
    *,
    split: str | None = None,
    class_name: str | None = None,
    statuses: Iterable[str] | None = None,
) -> int:
    """Sum of counts: of one split or all, of one class or all, of some statuses or all."""
    counted = None if statuses is None else set(statuses)
    return sum(
        number
        for of_split, classes in counts.items()
        if split in (None, of_split)
        for by_status in (classes.values() if class_name is None else [classes.get(class_name, {})])
        for status, number in by_status.items()
        if counted is None or status in counted
    )


def people_in_several_splits(table: pa.Table, column: str) -> pa.Table:
    """People in more than one split: a row per person and split, with columns `column`, split, count.

    `table` has the columns split and `column`; rows without a person are passed over.
    """
    people = table.select([column, "split"]).filter(pc.is_valid(table[column]))
    counts = (
        people.group_by([column, "split"]).aggregate([([], "count_all")]).rename_columns([column, "split", "count"])
    )
    per_person = counts.group_by(column).aggregate([([], "count_all")])
    several = per_person.filter(pc.greater(per_person["count_all"], 1))[column]
    return counts.filter(pc.is_in(counts[column], value_set=several.combine_chunks()))
