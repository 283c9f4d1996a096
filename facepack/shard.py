"""Packing one shard: read, decode, align, resize, encode and write the tar, its index and its table."""

import gc
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from typing import IO, Any, NamedTuple

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from facepack import image, labelled_faces, parquet_images, plan_file
from facepack.ahead import mapped_ahead
from facepack.align import Aligner, Box, Face
from facepack.configuration import Configuration
from facepack.image import Moments
from facepack.labelled_faces import Cut
from facepack.manifest import (
    FACE,
    METADATA_KEY,
    ShardRecord,
    Status,
    key_of_face,
    label_columns,
    schema,
    write_table,
)
from facepack.perceptual_hash import grey_of, hash_of
from facepack.quality import Quality, fault_of, limits_of, quality_of
from facepack.source import Source
from facepack.storage import Store

SQUASHED = 1.05
"""The change of width against height from which on an image counts as squashed."""
_PROGRESS_EVERY = 64
_REMOTE_READERS, _LOCAL_READERS = 16, 1
_NAME_BYTES, _SIZE_AT, _CHECKSUM_AT = 100, 124, 148
_as_json = json.JSONEncoder(ensure_ascii=False).encode

Progress = Callable[[int, int], None]
"""Called with the number of images done and of rejects among them since the last call."""


@dataclass(frozen=True)
class ShardTask:
    """All that packing one shard needs: which row group of the plan it is, where to read and where to write."""

    name: str
    number: int
    """Of its row group in the plan, which lies in `store`."""
    num_images: int
    digest: str
    """sha256 of everything that decides the bytes of this shard, but for the images."""
    source: Source
    """The source of the build, without its files."""
    store: Store
    configuration: Configuration
    class_names: tuple[str, ...]
    versions: dict[str, str]

    def rows(self) -> tuple[pa.Table, Source]:
        """Its rows of the plan, and the source with their images; `JobError` where the plan cannot be read."""
        return plan_file.read_rows(self.store, self.number, source=self.source)


def digest_of(table: pa.Table, name: str, *, configuration: Configuration, facts: dict[str, Any]) -> str:
    """The digest of the task of a shard: of its rows of the plan, and of what else decides its bytes."""
    rows = pa.BufferOutputStream()
    with pa.ipc.new_stream(rows, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    text = f"{configuration.digest}{json.dumps(facts | {'name': name}, sort_keys=True)}"
    return hashlib.sha256(text.encode() + rows.getvalue()).hexdigest()


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard; stored in the metadata of its table, by which a later run knows that it is finished."""

    digest: str
    record: ShardRecord
    moments: Moments
    statuses: dict[str, int]
    num_padded: int = 0
    """Crops that reach over the border of their photo."""
    num_squashed: int = 0
    """Images whose width changed against their height by more than `SQUASHED`."""

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "ShardResult":
        """Read back what `pack` wrote; `KeyError` or `TypeError` for anything else."""
        result = metadata["shard"]
        sums, squares = (tuple(result["moments"][name]) for name in ("sums", "squares"))
        moments = Moments(result["moments"]["num_pixels"], sums, squares)
        record = ShardRecord(**result["record"])
        counts = result["num_padded"], result["num_squashed"]
        return cls(result["digest"], record, moments, result["statuses"], *counts)


class _Empty(Exception):  # noqa: N818
    """No image of the shard can be packed, so there is no tar."""


class _Row(NamedTuple):
    """The columns that packing adds to a row of the plan.

    A reject has the first two, and what was measured where that is why it is one.
    """

    status: Status
    source_sha256: str | None
    shard: str | None = None
    position: int | None = None
    offset: int | None = None
    size: int | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    box: Box | None = None
    landmarks: tuple[float, ...] | None = None
    phash: int | None = None
    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    face_px: float | None = None
    yaw: float | None = None
    roll: float | None = None


class Measures(NamedTuple):
    """What is measured in a packed picture."""

    phash: int | None
    quality: Quality


class _Rows:
    """What becomes of each source of a shard, or of each face in them, and the lines of the index."""

    def __init__(self, task: ShardTask) -> None:
        self.table, self.source = task.rows()
        """Its rows of the plan, and where their images are."""
        self._shard = f"{task.name}.tar"
        self._suffix = image.SUFFIXES[task.configuration.encoding]
        self._rows: list[_Row] = []
        self.planned: list[int] = []
        """Per row that of the plan."""
        self.faces: list[int | None] = []
        self.index: list[str] = []
        self.num_padded = self.num_squashed = 0

    def begin(self, planned: int, face: int | None) -> None:
        """A row is to follow: which of the plan it is about, and which face of that photo."""
        self.planned.append(planned)
        self.faces.append(face)

    def reject(self, status: Status, source_sha256: str | None, *, quality: Quality | None = None) -> None:
        """Note a source that is not packed."""
        measures = {} if quality is None else quality._asdict()
        self._rows.append(_Row(status, source_sha256, **measures))

    def add(
        self,
        sample: "Sample",
        measures: "Measures",
        *,
        key: str,
        text: bytes,
        source_sha256: str,
        writer: "TarWriter",
    ) -> None:
        """Write a sample and the JSON text of its labels to the tar, and note where they are."""
        image_name, size = f"{key}.{self._suffix}", len(sample.content)
        image_at, json_at = writer.add_pair((image_name, sample.content), (f"{key}.json", text))
        height_px, width_px = sample.image_hwc.shape[:2]
        row = _Row(
            status=Status.PACKED,
            source_sha256=source_sha256,
            shard=self._shard,
            position=len(self.index),
            offset=image_at,
            size=size,
            width=width_px,
            height=height_px,
            sha256=hashlib.sha256(sample.content).hexdigest(),
            box=sample.box,
            landmarks=sample.landmarks,
            phash=measures.phash,
            sharpness=measures.quality.sharpness,
            brightness=measures.quality.brightness,
            contrast=measures.quality.contrast,
            face_px=measures.quality.face_px,
            yaw=measures.quality.yaw,
            roll=measures.quality.roll,
        )
        self._rows.append(row)
        self.index.append(f"{self._suffix} {image_at} {size} {image_name} json {json_at} {len(text)} {key}.json\n")
        self.num_padded += sample.is_padded
        self.num_squashed += sample.is_squashed

    @property
    def columns(self) -> dict[str, tuple[Any, ...]]:
        """The values of each column."""
        return dict(zip(_Row._fields, zip(*self._rows, strict=True), strict=True))

    @property
    def statuses(self) -> dict[str, int]:
        """Rows per status."""
        return dict(sorted(Counter(row.status for row in self._rows).items()))


def pack(task: ShardTask, *, aligner: Aligner | None = None, progress: Progress | None = None) -> ShardResult:
    """Make one shard; its table is written last, so where it is there, the shard is whole.

    A bad image becomes a row with its status. `OSError` while writing ends the shard and leaves nothing half made.
    """
    cv2.setNumThreads(1)  # one process per core: threads would only get in the way
    store = task.store
    rows = _Rows(task)
    store.delete(f"{task.name}.parquet")
    collects = gc.isenabled()
    gc.disable()  # packing makes no cycles; walking its rows again and again takes 3 % of the time
    try:
        with store.writer(f"{task.name}.tar") as file:
            writer = TarWriter(file)
            moments = _pack_rows(task, writer, rows=rows, aligner=aligner, progress=progress)
            if not rows.index:
                raise _Empty  # noqa: TRY301 - the one way to leave a writer without its file
            num_bytes, sha256 = writer.close()
        store.write(f"{task.name}.idx", "".join([f"v1.2 {len(rows.index)}\n", *rows.index]).encode())
    except _Empty:
        moments, num_bytes, sha256 = Moments(), 0, ""
        for suffix in (".tar", ".idx"):
            store.delete(task.name + suffix)
    finally:
        if collects:
            gc.enable()
    record = ShardRecord(f"{task.name}.tar", len(rows.index), num_bytes, sha256)
    result = ShardResult(task.digest, record, moments, rows.statuses, rows.num_padded, rows.num_squashed)
    write_table(store, f"{task.name}.parquet", table=_table(task, rows, result))
    return result


def _pack_rows(
    task: ShardTask, writer: "TarWriter", *, rows: _Rows, aligner: Aligner | None, progress: Progress | None
) -> Moments:
    """Write the samples that can be packed, and note what becomes of every source."""
    counter = image.MomentsCounter()
    since = rejects = 0
    keys, sources = (rows.table[name].to_pylist() for name in ("key", "source"))
    by_labels = task.configuration.landmarks_from == "labels"
    cutters = labelled_faces.cuts(rows.table, task.configuration) if by_labels else repeat(aligner, len(keys))
    contents = _read_all(rows.source, sources, ahead=aligner is not None)
    texts, limits = label_texts(rows.table, task.class_names), limits_of(task.configuration)
    for planned, (cut, (content, status)) in enumerate(zip(cutters, contents, strict=True)):
        source_sha256 = "" if content is None else hashlib.sha256(content).hexdigest()
        outcomes = [Reject(status)] if content is None else outcomes_of(content, task.configuration, aligner=cut)
        for outcome in outcomes:
            key, text = _of_face(keys[planned], texts[planned], outcome.face)
            rows.begin(planned, outcome.face)
            if isinstance(outcome, Reject):
                rows.reject(outcome.status, source_sha256 or None)
                continue
            grey_hw, box, landmarks = grey_of(outcome.image_hwc), outcome.box, outcome.landmarks
            quality = quality_of(grey_hw, box=box, landmarks=landmarks, is_published=by_labels)
            if (fault := fault_of(quality, limits)) is not None:
                rows.reject(fault, source_sha256, quality=quality)
                continue
            measures = Measures(hash_of(grey_hw), quality)
            rows.add(outcome, measures, key=key, text=text, source_sha256=source_sha256, writer=writer)
            counter.add(outcome.image_hwc)
        since += 1
        rejects += all(isinstance(outcome, Reject) for outcome in outcomes)
        if progress is not None and since == _PROGRESS_EVERY:
            progress(since, rejects)
            since = rejects = 0
    if progress is not None:
        progress(since, rejects)
    return counter.total()


def _read_all(source: Source, paths: list[str], *, ahead: bool) -> Iterable[tuple[bytes | None, Status]]:
    """The bytes of each image, or None and the reason; remote ones, and where asked, read ahead of their need.

    A small file on a disk is read in less time than it takes to hand it from one thread to another.
    """
    if (embedded := source.embedded(paths)) is not None:
        return (_outcome(content) for content in parquet_images.read_in_order(source.store, embedded))
    num_readers = _REMOTE_READERS if source.store.is_remote else _LOCAL_READERS if ahead else 0
    if not num_readers:
        return (_read(source, path) for path in paths)
    return mapped_ahead(partial(_read, source), paths, num_threads=num_readers)


def _read(source: Source, path: str) -> tuple[bytes | None, Status]:
    """The bytes of an image, or None and the reason."""
    try:
        return _outcome(source.read(path))
    except OSError as error:
        return _outcome(error)


def _outcome(content: bytes | OSError) -> tuple[bytes | None, Status]:
    """The bytes of an image, or None and the reason why they cannot be read."""
    if isinstance(content, OSError):
        return None, Status.MISSING if isinstance(content, FileNotFoundError) else Status.UNREADABLE
    return content, Status.PACKED


class Sample(NamedTuple):
    """One image as it is packed: its bytes, and its pixels (uint8 BGR HWC) before encoding."""

    content: bytes
    image_hwc: image.Pixels
    box: Box | None = None
    landmarks: tuple[float, ...] | None = None
    is_padded: bool = False
    is_squashed: bool = False
    face: int | None = None
    """Its number in the photo, where every face is a sample."""


class Reject(NamedTuple):
    """Why a photo, or a face of it, is not packed."""

    status: Status
    face: int | None = None


def outcomes_of(
    content: bytes | image.Pixels, configuration: Configuration, *, aligner: Cut | None
) -> list[Sample | Reject]:
    """What becomes of a photo: a sample, or with on_several all one for each face, the largest first, or why not.

    The photo is the bytes of a file, or its pixels, uint8 BGR HWC.
    """
    try:
        if isinstance(aligner, Aligner) and configuration.on_several == "all":
            return _faces(_decoded(content, configuration), configuration, aligner)
        return [transform(content, configuration, aligner=aligner)]
    except image.BadImageError as error:
        return [Reject(error.status)]


def _faces(image_hwc: image.Pixels, configuration: Configuration, aligner: Aligner) -> list[Sample | Reject]:
    outcomes: list[Sample | Reject] = []
    for face, box in enumerate(aligner.boxes(image_hwc), start=1):
        try:
            outcomes.append(finished(aligner.cut(image_hwc, box), configuration)._replace(face=face))
        except image.BadImageError as error:
            outcomes.append(Reject(error.status, face))
    return outcomes


def _decoded(content: bytes | image.Pixels, configuration: Configuration) -> image.Pixels:
    """The photo, at a reduced scale where a configuration shrinks it: not where faces are looked for in it first."""
    if not isinstance(content, bytes):
        height_px, width_px = content.shape[:2]
        image.check_size((width_px, height_px), configuration.max_pixels, min_side_px=configuration.min_side)
        return content
    is_reduced = configuration.decode == "fast" and configuration.align == "none"
    least_size_wh = configuration.size_wh if is_reduced else None
    limits = {"max_pixels": configuration.max_pixels, "min_side_px": configuration.min_side}
    return image.decode(content, keep_damaged=configuration.keep_damaged, least_size_wh=least_size_wh, **limits)


def transform(content: bytes | image.Pixels, configuration: Configuration, *, aligner: Cut | None = None) -> Sample:
    """Decode, align, resize and encode one image, bytes or pixels; `aligner` cuts the face out of the photo.

    A sound JPEG in which nothing is to change keeps its bytes. Raises `BadImageError`.
    """
    image_hwc = _decoded(content, configuration)
    if aligner is not None:
        return finished(aligner(image_hwc), configuration)
    keeps_bytes = configuration.size_wh is None and configuration.encoding == "jpeg" and not configuration.keep_damaged
    if keeps_bytes and isinstance(content, bytes) and image.is_plain_jpeg(content):
        return Sample(content, image_hwc)
    return finished(Face(image_hwc, None, None, False), configuration)


def finished(face: Face, configuration: Configuration) -> Sample:
    """Resize and encode a face cut out of a photo, or a whole photo. Raises `BadImageError`."""
    image_hwc, is_squashed = _fitted(face.image_hwc, configuration)
    content = image.encode(image_hwc, encoding=configuration.encoding, quality=configuration.quality)
    return Sample(content, image_hwc, *face[1:], is_squashed)


def _fitted(image_hwc: image.Pixels, configuration: Configuration) -> tuple[image.Pixels, bool]:
    """An image at the size of a configuration, and whether that squashes it noticeably."""
    if configuration.size_wh is None:
        return image_hwc, False
    width_px, height_px = configuration.size_wh
    if configuration.fit == "pad":
        return image.resize_padded(image_hwc, width_px=width_px, height_px=height_px), False
    if configuration.fit == "crop":
        image_hwc = image.cut_to_shape(image_hwc, width_px=width_px, height_px=height_px)
    squash = image.squash_of(image_hwc, width_px=width_px, height_px=height_px)
    resized_hwc = image.resize(image_hwc, width_px=width_px, height_px=height_px)
    return resized_hwc, squash > SQUASHED and configuration.fit == "squash"


# Labels


def label_texts(table: pa.Table, class_names: tuple[str, ...]) -> list[bytes]:
    """Per row the JSON object of its key, source, class and labels, without those that are null.

    Written column by column: a tenth of the time of json.dumps row by row.
    """
    columns = {name: table[name] for name in ("key", FACE, "source", "class") if name in table.column_names}
    columns["class_index"] = pc.index_in(table["class"], value_set=pa.array(class_names, pa.string()))
    columns |= {name: table[name] for name in label_columns(table)}
    pairs = [_json_pairs(name, column.combine_chunks()) for name, column in columns.items()]
    joined = pc.binary_join_element_wise(*pairs, "")
    return [f"{{{text[1:]}}}".encode("utf-8", "surrogateescape") for text in joined.to_pylist()]


def _of_face(key: str, text: bytes, face: int | None) -> tuple[str, bytes]:
    """Key and text of a face, from those of its photo; the same where no face is numbered."""
    if face is None:
        return key, text
    begins = b'{"key":"%b"'
    of_photo = begins % key.encode()
    assert text.startswith(of_photo)
    key = key_of_face(key, face)
    return key, begins % key.encode() + b',"face":%d' % face + text[len(of_photo) :]


def _json_pairs(name: str, column: pa.Array) -> pa.Array:
    """The text ',"name":value' of every value, '' for null; float32 by their shortest text: 20.1 stays 20.1."""
    encoded = column.dictionary_encode()
    if pa.types.is_floating(column.type):
        texts = [str(value) for value in encoded.dictionary.to_numpy(zero_copy_only=False)]
    else:
        texts = [_as_json(value) for value in encoded.dictionary.to_pylist()]
    prefix = f",{_as_json(name)}:"
    pairs = [prefix + text for text in texts]
    return pa.array([*pairs, ""], pa.string()).take(encoded.indices.fill_null(len(pairs)))


def _table(task: ShardTask, rows: _Rows, result: ShardResult) -> pa.Table:
    """The manifest rows of a shard: the plan's columns, and those of packing."""
    own = schema(rows.table.schema)
    planned = rows.table.take(pa.array(rows.planned))
    columns = {name: planned[name] for name in planned.column_names}
    columns |= {name: pa.array(values, own.field(name).type) for name, values in rows.columns.items()}
    if FACE in columns:
        keys = zip(planned["key"].to_pylist(), rows.faces, strict=True)
        columns["key"] = pa.array([key if face is None else key_of_face(key, face) for key, face in keys])
        columns[FACE] = pa.array(rows.faces, pa.int32())
    metadata = {"shard": asdict(result), "configuration": task.configuration.as_record(), "versions": task.versions}
    ordered = {field.name: columns[field.name] for field in own}
    return pa.table(ordered, schema=own.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


# Tar


class TarWriter:
    """Writes the bytes that tarfile writes in its USTAR format, several times faster, and their checksum.

    The header of a member is tarfile's own header of an empty file, with name, size and checksum filled in.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._offset = 0
        header = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
        fixed = header[_NAME_BYTES:_SIZE_AT], header[_SIZE_AT + 11 : _CHECKSUM_AT], header[_CHECKSUM_AT + 7 :]
        self._format = b"%%s%b%%011o%b%%06o\0%b" % fixed
        self._checksum = sum(map(sum, fixed)) + 7 * ord(" ")  # a checksum counts its own field as spaces

    def add_pair(self, first: tuple[str, bytes], second: tuple[str, bytes]) -> tuple[int, int]:
        """Add two members with one write; gives the offsets of their contents in the tar, in bytes."""
        parts = []
        for name, content in (first, second):
            parts += [self._header(name.encode(), len(content)), content, bytes(-len(content) % tarfile.BLOCKSIZE)]
        first_at = self._offset + tarfile.BLOCKSIZE
        self._write(b"".join(parts))
        return first_at, first_at + len(parts[1]) + len(parts[2]) + tarfile.BLOCKSIZE

    def close(self) -> tuple[int, str]:
        """Write the end of the archive; gives its size in bytes and its sha256."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self._offset + end) % tarfile.RECORDSIZE))
        return self._offset, self._sha256.hexdigest()

    def _header(self, name: bytes, num_bytes: int) -> bytes:
        assert len(name) <= _NAME_BYTES and num_bytes < 8**11
        checksum = self._checksum + sum(name) + sum(b"%011o" % num_bytes)
        return self._format % (name.ljust(_NAME_BYTES, b"\0"), num_bytes, checksum)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._offset += len(content)
