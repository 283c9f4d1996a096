"""Packing one shard: read, decode, resize, encode and write the tar, its index and its table."""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

import cv2
import numpy as np
import pyarrow as pa

from facepack import image
from facepack.manifest import (
    METADATA_KEY,
    Configuration,
    Moments,
    ShardRecord,
    Status,
    label_columns,
    schema,
    write_table,
)
from facepack.storage import Source, Store

_PROGRESS_EVERY = 64
_NAME_BYTES, _SIZE_AT, _CHECKSUM_AT = 100, 124, 148

Progress = Callable[[int, int], None]
"""Called with the number of images done and of rejects among them since the last call."""


@dataclass(frozen=True)
class ShardTask:
    """All that packing one shard needs: its rows of the plan, where to read and where to write."""

    name: str
    table: pa.Table
    source: Source
    store: Store
    configuration: Configuration
    class_names: tuple[str, ...]
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """sha256 of everything that decides the bytes of this shard, but for the images."""
        rows = pa.BufferOutputStream()
        with pa.ipc.new_stream(rows, self.table.schema) as stream:
            stream.write_table(self.table.combine_chunks())
        facts = {"versions": self.versions, "class_names": self.class_names, "name": self.name}
        known = f"{self.configuration.digest}{json.dumps(facts, sort_keys=True)}".encode()
        return hashlib.sha256(known + rows.getvalue()).hexdigest()


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard; kept in the metadata of its table, so that a later run knows it is finished."""

    digest: str
    record: ShardRecord
    moments: Moments
    statuses: dict[str, int]

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "ShardResult":
        """Read back what `pack` wrote; `KeyError` or `TypeError` for anything else."""
        kept = metadata["shard"]
        moments = Moments(kept["moments"]["num_pixels"], tuple(kept["moments"]["sums"]), tuple(kept["moments"]["squares"]))
        return cls(kept["digest"], ShardRecord(**kept["record"]), moments, kept["statuses"])


@dataclass(frozen=True)
class _Packed:
    """One image as it goes into the tar."""

    content: bytes
    width_px: int
    height_px: int
    moments: Moments


class _Empty(Exception):  # noqa: N818
    """No image of the shard can be packed, so there is no tar."""


def pack(task: ShardTask, *, progress: Progress | None = None) -> ShardResult:
    """Make one shard; its table, written last, says that it is whole.

    A bad image becomes a row with its status. `OSError` while writing ends the shard and leaves nothing under its names.
    """
    cv2.setNumThreads(1)  # one process per core: threads would only get in the way
    store = task.store
    store.delete(f"{task.name}.parquet")
    rows: list[dict[str, Any]] = []
    index: list[str] = []
    try:
        with store.writer(f"{task.name}.tar") as file:
            writer = TarWriter(file)
            moments = _pack_rows(task, writer, rows=rows, index=index, progress=progress)
            if not index:
                raise _Empty
            num_bytes, sha256 = writer.close()
        store.write(f"{task.name}.idx", "".join([f"v1.2 {len(index)}\n", *index]).encode())
    except _Empty:
        moments, num_bytes, sha256 = Moments(), 0, ""
        for suffix in (".tar", ".idx"):
            store.delete(task.name + suffix)
    record = ShardRecord(f"{task.name}.tar", len(index), num_bytes, sha256)
    result = ShardResult(task.digest, record, moments, dict(sorted(Counter(row["status"] for row in rows).items())))
    write_table(store, f"{task.name}.parquet", _table(task, rows, result))
    return result


def _pack_rows(
    task: ShardTask, writer: "TarWriter", *, rows: list[dict[str, Any]], index: list[str], progress: Progress | None
) -> Moments:
    """Write the samples that can be packed; add one row per source to `rows`, one line per sample to `index`."""
    suffix = "jpg" if task.configuration.encoding == "jpeg" else "npy"
    total = Moments()
    since = rejects = 0
    for label in label_texts(task.table, task.class_names):
        row, packed = _pack_one(task, label.source)
        if packed is not None:
            image_at = writer.add(f"{label.key}.{suffix}", packed.content)
            json_at = writer.add(f"{label.key}.json", label.text)
            row |= {"position": len(index), "offset": image_at, "shard": f"{task.name}.tar"}
            index.append(
                f"{suffix} {image_at} {len(packed.content)} {label.key}.{suffix} "
                f"json {json_at} {len(label.text)} {label.key}.json\n"
            )
            total += packed.moments
        rows.append(row)
        since += 1
        rejects += packed is None
        if progress is not None and since == _PROGRESS_EVERY:
            progress(since, rejects)
            since = rejects = 0
    if progress is not None:
        progress(since, rejects)
    return total


def _pack_one(task: ShardTask, path: str) -> tuple[dict[str, Any], _Packed | None]:
    """Manifest columns of one source, and what goes into the tar unless it is rejected."""
    row: dict[str, Any] = {}
    try:
        content = task.source.read(path)
        row["source_sha256"] = hashlib.sha256(content).hexdigest()
        packed = _transform(content, task.configuration)
    except image.BadImageError as error:
        return row | {"status": error.status}, None
    except FileNotFoundError:
        return row | {"status": Status.MISSING}, None
    except OSError:
        return row | {"status": Status.UNREADABLE}, None
    row |= {"status": Status.PACKED, "size": len(packed.content), "sha256": hashlib.sha256(packed.content).hexdigest()}
    return row | {"width": packed.width_px, "height": packed.height_px}, packed


def _transform(content: bytes, configuration: Configuration) -> _Packed:
    """Decode, resize and encode one image; a sound JPEG in which nothing is to change keeps its bytes."""
    image_hwc = image.decode(content)
    if configuration.size_px is not None:
        width_px, height_px = configuration.size_px
        image_hwc = image.resize(image_hwc, width_px=width_px, height_px=height_px)
    height_px, width_px = image_hwc.shape[:2]
    if configuration.encoding == "raw":
        content = image.encode_raw(image_hwc)
    elif configuration.size_px is not None or not image.is_plain_jpeg(content):
        content = image.encode_jpeg(image_hwc, quality=configuration.quality)
    return _Packed(content, width_px, height_px, image.moments(image_hwc))


# Labels


@dataclass(frozen=True, slots=True)
class _LabelText:
    key: str
    source: str
    text: bytes


def label_texts(table: pa.Table, class_names: tuple[str, ...]) -> Iterator[_LabelText]:
    """Per row its key, its source and the JSON of its labels, in which labels that are not known are left out."""
    numbers = {name: number for number, name in enumerate(class_names)}
    names = ["key", "source", "class", *label_columns(table)]
    for values in zip(*(_json_values(table[name]) for name in names), strict=True):
        labels = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if "class" in labels:
            labels["class_index"] = numbers[labels["class"]]
        text = json.dumps(labels, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
        yield _LabelText(values[0], values[1], text)


def _json_values(column: pa.ChunkedArray) -> list[Any]:
    """Python values; float32 by their shortest text, so that 20.1 stays 20.1."""
    values: list[Any] = column.to_pylist()
    if column.type != pa.float32():
        return values
    return [None if value is None else float(str(np.float32(value))) for value in values]


def _table(task: ShardTask, rows: list[dict[str, Any]], result: ShardResult) -> pa.Table:
    """The manifest rows of a shard: the plan's columns, and what packing found out."""
    labels = label_columns(task.table)
    own = schema(pa.schema([task.table.schema.field(name) for name in labels]))
    columns = {
        field.name: task.table[field.name]
        if field.name in task.table.column_names and field.name != "status"
        else pa.array([row.get(field.name) for row in rows], field.type)
        for field in own
    }
    kept = {"shard": asdict(result), "configuration": asdict(task.configuration), "versions": task.versions}
    return pa.table(columns, schema=own.with_metadata({METADATA_KEY: json.dumps(kept, sort_keys=True)}))


# Tar


class TarWriter:
    """Writes the bytes that tarfile writes in its USTAR format, several times faster, and their checksum.

    The header of a member is tarfile's own header of an empty file, with name, size and checksum filled in.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._offset = 0
        self._template = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
        blank = bytearray(self._template)
        blank[_CHECKSUM_AT : _CHECKSUM_AT + 8] = b" " * 8
        blank[_SIZE_AT : _SIZE_AT + 11] = bytes(11)
        self._checksum = sum(blank)

    def add(self, name: str, content: bytes) -> int:
        """Add a member and return the offset of its content in the tar, in bytes."""
        padding = -len(content) % tarfile.BLOCKSIZE
        self._write(b"".join((self._header(name.encode(), len(content)), content, bytes(padding))))
        return self._offset - padding - len(content)

    def close(self) -> tuple[int, str]:
        """Write the end of the archive; gives its size in bytes and its sha256."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._offset + end) % tarfile.RECORDSIZE))
        return self._offset, self._sha256.hexdigest()

    def _header(self, name: bytes, num_bytes: int) -> bytes:
        assert len(name) <= _NAME_BYTES and num_bytes < 8**11
        size = b"%011o" % num_bytes
        checksum = b"%06o\0" % (self._checksum + sum(name) + sum(size))
        template = self._template
        return b"".join(
            (
                name.ljust(_NAME_BYTES, b"\0"),
                template[_NAME_BYTES:_SIZE_AT],
                size,
                template[_SIZE_AT + 11 : _CHECKSUM_AT],
                checksum,
                template[_CHECKSUM_AT + 7 :],
            )
        )

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._offset += len(content)
