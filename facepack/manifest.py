"""The manifest of a build: its configuration, its table of samples and build.json, as they are written and read."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from facepack.dataset import SPLITS
from facepack.errors import JobError, UsageError
from facepack.storage import Store

BUILD_FILE = "build.json"
MANIFEST_FILE = "manifest.parquet"
METADATA_KEY = b"facepack"
DECIDES_BYTES = ("dlib-bin", "facepack", "numpy", "opencv-python-headless", "pillow", "pyarrow")

Counts = dict[str, dict[str, dict[str, int]]]
"""Rows per split, class ("" without classes) and status."""

DEFAULT_QUALITY = 95
_DEFAULT_SIZE = {"none": "keep", "crop": "120", "chip": "112"}
_DEFAULT_MARGIN = {"none": "", "crop": "15", "chip": "25%"}
_REPEATING = ("split", "status", "shard", "class")

OWN_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),
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


class Status(StrEnum):
    """What became of a chosen source: packed, or the one reason why not."""

    PACKED = "packed"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Configuration:
    """All choices that decide the bytes of a build, as the command line gives them; a wrong one is a `UsageError`."""

    dataset: str
    images: str = ""
    classes: str = ""
    multiple: Literal["first", "drop"] = "first"
    age_bins: str = ""
    limit_per_class: int | None = None
    limit: int | None = None
    split: str = ""
    seed: int = 0
    size: str = ""
    """N, WxH or keep; where it is not given, keep for whole photos, the published 120 for crops, 112 for chips."""
    align: Literal["none", "crop", "chip"] = "none"
    margin: str = ""
    """Around the face: of a crop in pixels of the photo, as published 15, or in percent of the face; of a chip 25%."""
    on_several: Literal["reject", "largest"] = "reject"
    landmarks: str = ""
    """sha256 of the landmark model that places the eyes of a chip."""
    encoding: Literal["jpeg", "raw"] = "jpeg"
    quality: int = DEFAULT_QUALITY
    samples_per_shard: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.size or _DEFAULT_SIZE[self.align])
        object.__setattr__(self, "margin", self.margin or _DEFAULT_MARGIN[self.align])
        self._check_alignment()
        if self.size_px is not None:  # one way to write one size, for it is part of the digest
            width_px, height_px = self.size_px
            object.__setattr__(self, "size", f"{width_px}" if width_px == height_px else f"{width_px}x{height_px}")
        if self.classes and self.age_bins:
            raise UsageError("--classes and --age-bins both name the classes: give one of them")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: expected 1 to 100")
        if self.encoding == "raw" and self.quality != DEFAULT_QUALITY:
            raise UsageError("--quality: needs --encoding jpeg, as pixels are kept as they are")
        for name in ("limit", "limit_per_class", "samples_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected at least 1")

    @cached_property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the packed images in pixels, None where they keep their own."""
        if self.size == "keep":
            return None
        width, x, height = self.size.partition("x")
        try:
            size = int(width), int(height if x else width)
        except ValueError:
            size = (0, 0)
        if not all(8 <= side <= 4096 for side in size):
            raise UsageError(f"--size {self.size}: expected N, WxH (8 to 4096 pixels) or keep")
        return size

    @property
    def margin_value(self) -> tuple[float, Literal["px", "share"]]:
        """The margin around a face: pixels of the photo, or a share of the face's side (of a chip: dlib's padding)."""
        number, percent, rest = self.margin.partition("%")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= (200 if percent else 1000) or rest:
            raise UsageError(f"--margin {self.margin}: expected pixels, such as 15, or a part of the face, such as 25%")
        return (value / 100, "share") if percent else (value, "px")

    def _check_alignment(self) -> None:
        """Refuse what does not go together."""
        if self.align == "none":
            for name, unused in (("margin", self.margin), ("on-several", self.on_several != "reject")):
                if unused:
                    raise UsageError(f"--{name}: needs --align crop or chip, as whole photos have no face to go by")
            return
        value, unit = self.margin_value
        written = f"{value:g}" if unit == "px" else f"{100 * value:g}%"
        object.__setattr__(self, "margin", written)  # one way to write one margin, for it is part of the digest
        if self.align == "chip" and unit == "px":
            raise UsageError(f"--margin {self.margin}: the margin of a chip is a part of the face, such as 25%")
        if self.size_px is None and self.align == "chip":
            raise UsageError("--size keep: a chip has a size of its own, such as --size 112")
        if self.size_px is not None and self.size_px[0] != self.size_px[1]:
            raise UsageError(f"--size {self.size}: faces are cut out as squares, such as --size {self.size_px[0]}")

    @property
    def digest(self) -> str:
        """sha256 of the configuration in canonical JSON."""
        return digest_of(asdict(self))

    def differences(self, other: "Configuration") -> list[str]:
        """The fields in which another one differs, as 'size: 64 there, 128 here'."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {theirs[name]} there, {mine[name]} here" for name in mine if theirs[name] != mine[name]]


def digest_of(content: dict[str, Any]) -> str:
    """sha256 of canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of facepack and of the libraries that decide bytes."""
    return {name: version(name) for name in DECIDES_BYTES}


def schema(labels: pa.Schema, metadata: dict[str, Any] | None = None) -> pa.Schema:
    """The columns of a manifest: our own, then the dataset's labels; metadata is kept as JSON."""
    whole = pa.schema([*OWN_COLUMNS, *labels])
    return whole if metadata is None else whole.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def label_columns(table: pa.Table | pa.Schema) -> list[str]:
    """Names of the label columns of a manifest."""
    names = table.column_names if isinstance(table, pa.Table) else table.names
    return [name for name in names if name not in OWN_COLUMNS.names]


def metadata_of(table: pa.Table | pa.Schema) -> dict[str, Any]:
    """What `schema` kept as metadata."""
    schema_ = table.schema if isinstance(table, pa.Table) else table
    kept: dict[str, Any] = json.loads((schema_.metadata or {}).get(METADATA_KEY, b"{}"))
    return kept


def write_table(store: Store, name: str, table: pa.Table) -> None:
    """Write a Parquet file: whole under its name, the same bytes for the same table."""
    with store.writer(name) as file:
        repeating = [name for name in _REPEATING if name in table.column_names]
        pq.write_table(table, file, compression="zstd", use_dictionary=repeating, write_statistics=False)


def read_table(store: Store, name: str) -> pa.Table:
    """Read a Parquet file with its metadata; a damaged one is a `JobError`."""
    content = store.read(name)
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise JobError(f"{store.location}/{name}: damaged: {error}") from error


@dataclass(frozen=True)
class Moments:
    """Exact sums over the pixels of some images, per channel RGB: they add up in any order to the same mean and std."""

    num_pixels: int = 0
    sums: tuple[int, int, int] = (0, 0, 0)
    squares: tuple[int, int, int] = (0, 0, 0)

    def __add__(self, other: "Moments") -> "Moments":
        red, green, blue = (a + b for a, b in zip(self.sums, other.sums, strict=True))
        red2, green2, blue2 = (a + b for a, b in zip(self.squares, other.squares, strict=True))
        return Moments(self.num_pixels + other.num_pixels, (red, green, blue), (red2, green2, blue2))

    def mean_std(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation per channel in 0..1, None without a pixel."""
        if not self.num_pixels:
            return None
        means = [total / self.num_pixels for total in self.sums]
        variances = [square / self.num_pixels - mean**2 for square, mean in zip(self.squares, means, strict=True)]
        return [round(mean / 255, 8) for mean in means], [round(max(v, 0.0) ** 0.5 / 255, 8) for v in variances]


@dataclass(frozen=True)
class ShardRecord:
    """What build.json says of one shard."""

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
    num_padded: int = 0
    """Crops that reach over the border of their photo, where the published script failed."""

    def to_json(self) -> bytes:
        """Readable and canonical: the same build gives the same bytes."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()


def read_build(location: str) -> Build:
    """Read build.json; `JobError` where there is no complete build, or which field is wrong."""
    try:
        content = Store(location).read(BUILD_FILE)
    except FileNotFoundError as error:
        raise JobError(f"{location}: no {BUILD_FILE}, so no complete build: run facepack build (again)") from error
    try:
        return TypeAdapter(Build).validate_json(content, strict=True)
    except ValidationError as error:
        raise JobError(f"{location}/{BUILD_FILE}: {_first_fault(error)}") from error


def configuration_of(content: dict[str, Any], *, where: str) -> Configuration:
    """A recorded configuration; `JobError` names the field that is wrong."""
    try:
        return TypeAdapter(Configuration).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise JobError(f"{where}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"field {'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else f"not valid: {first['msg']}"


def count(table: pa.Table) -> Counts:
    """Rows per split, class and status, in the order of the splits, classes and statuses by name."""
    grouped = table.group_by(["split", "class", "status"]).aggregate([([], "count_all")]).to_pylist()
    counts: Counts = {}
    for row in sorted(grouped, key=lambda row: (SPLITS.index(row["split"]), row["class"] or "", row["status"])):
        counts.setdefault(row["split"], {}).setdefault(row["class"] or "", {})[row["status"]] = row["count_all"]
    return counts


def total(
    counts: Counts,
    *,
    split: str | None = None,
    class_name: str | None = None,
    statuses: Iterable[str] | None = None,
) -> int:
    """Sum of counts: of one split or all, of one class or all, of some statuses or all."""
    chosen = None if statuses is None else set(statuses)
    return sum(
        number
        for of_split, classes in counts.items()
        if split in (None, of_split)
        for by_status in (classes.values() if class_name is None else [classes.get(class_name, {})])
        for status, number in by_status.items()
        if chosen is None or status in chosen
    )
