"""Checks of a manifest: each disagreement with build.json, or in itself, that shows without a look into a shard."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.align import NUM_LANDMARKS
from facepack.description import SPLITS, dataset_names
from facepack.manifest import FACE, KEY_LENGTH, SHARD_FILE, Build, Status, people_in_several_splits
from facepack.manifest_rows import photo_numbers
from facepack.names import ROWS_AT_ONCE

_NEVER_NULL = ("key", "source", "split", "status")
_PACKED_COLUMNS = ("shard", "position", "offset", "size", "width", "height", "sha256", "source_sha256")
_FACE_COLUMNS = {"none": (), "crop": ("box",), "chip": ("box", "landmarks")}
_LABELLED_COLUMNS = {"none": (), "crop": ("box",), "chip": ("landmarks",)}


class Rows(Protocol):
    """The rows of a manifest, of which not all need be in memory."""

    @property
    def schema(self) -> pa.Schema:
        """The columns."""

    def parts(self, columns: Sequence[str] | None = None) -> Iterable[pa.Table]:
        """All rows, or some columns of them, in several tables."""


class TableRows:
    """The rows of a table in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.schema: pa.Schema = table.schema

    def parts(self, columns: Sequence[str] | None = None) -> Iterable[pa.Table]:
        """All rows at once."""
        return [self._table if columns is None else self._table.select(columns)]


def check_manifest(build: Build, rows: Rows) -> Iterator[str]:
    """Every disagreement between build.json and the manifest, without looking into a shard."""
    problems = [*_check_columns(rows), *_check_configuration(build, rows.schema), *_check_shard_list(build)]
    yield from problems or _check_rows(build, rows)


def _check_columns(rows: Rows) -> Iterator[str]:
    names = rows.schema.names
    for field in manifest.OWN_COLUMNS:
        if field.name not in names:
            yield f"manifest: no column {field.name}"
        elif rows.schema.field(field.name).type != field.type:
            yield f"manifest: column {field.name} is {rows.schema.field(field.name).type}, expected {field.type}"
    for field in manifest.MEASURED_COLUMNS:  # a build made before them has none
        if field.name in names and rows.schema.field(field.name).type != field.type:
            yield f"manifest: column {field.name} is {rows.schema.field(field.name).type}, expected {field.type}"
    for name in _NEVER_NULL:
        if name in names and (number := sum(part[name].null_count for part in rows.parts([name]))):
            yield f"manifest: {number:,} rows without {name}"


def _check_configuration(build: Build, schema: pa.Schema) -> Iterator[str]:
    """The configuration, its digest and what the manifest repeats of them."""
    if build.configuration.digest != build.digest:
        yield f"build.json: digest is {build.digest}, the configuration's is {build.configuration.digest}"
    if build.dataset not in dataset_names() and not build.configuration.description:
        yield f"build.json: dataset {build.dataset!r} is unknown"
    if build.versions.keys() != set(manifest.DECIDES_BYTES):
        yield f"build.json: versions of {', '.join(build.versions) or 'nothing'}"
    metadata = manifest.metadata_of(schema)
    own = {"dataset": build.dataset, "configuration": build.configuration.as_record(), "class_names": build.class_names}
    for name, value in own.items():
        if metadata.get(name) != value:
            yield f"manifest: metadata {name} is {metadata.get(name)!r}, build.json has {value!r}"


def _check_shard_list(build: Build) -> Iterator[str]:
    """Every shard once, in order."""
    names = [record.name for record in build.shards]
    ordered = sorted(set(names), key=lambda name: (SPLITS.index(name.split("-")[0]) if "-" in name else 0, name))
    if not all(SHARD_FILE.fullmatch(name) and name.endswith(".tar") for name in names):
        yield "build.json: a shard with a strange name"
    elif names != ordered:
        yield "build.json: the shards are not there once each, in order"


def _check_rows(build: Build, rows: Rows) -> Iterator[str]:
    """One row per source with the right key, one status each, counted as in build.json."""
    keys = list(_check_keys(build, rows))
    yield from keys or _check_repeated(rows)
    texts = list(_check_words(build, rows))
    yield from texts
    if any("unknown split" in line for line in texts):
        return
    counts = manifest.as_counts(map(manifest.counted, rows.parts(["split", "class", "status"])))
    if counts != build.counts:
        yield f"build.json: counts disagree with the manifest: {_first_difference(build.counts, counts)}"
    yield from _check_nulls(build, rows)
    yield from _check_duplicates(rows)


def _check_keys(build: Build, rows: Rows) -> Iterator[str]:
    """The key of each row by its source, and by the number of its face."""
    columns = ["source", "key", *({FACE} & set(rows.schema.names))]
    for part in rows.parts(columns):
        for start in range(0, len(part), ROWS_AT_ONCE):
            texts = part.slice(start, ROWS_AT_ONCE)
            sources, keys = texts["source"].to_pylist(), texts["key"].to_pylist()
            faces = texts[FACE].to_pylist() if FACE in columns else [None] * len(texts)
            for key, source, face in zip(keys, sources, faces, strict=True):
                expected = hashlib.sha256(f"{build.dataset}/{source}".encode()).hexdigest()[:KEY_LENGTH]
                if key != (expected if face is None else manifest.key_of_face(expected, face)):
                    yield f"manifest: {source}: key {key} is not that of the source"


def _check_repeated(rows: Rows) -> Iterator[str]:
    """Each key in one row; all of them are sound."""
    photos, faces = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for part in rows.parts(["key", *({FACE} & set(rows.schema.names))]):
        photos.append(photo_numbers(part["key"]))
        numbers = pc.fill_null(part[FACE], 0) if FACE in part.column_names else np.zeros(len(part))
        faces.append(np.asarray(numbers, np.int64))
    of_rows = np.concatenate(photos), np.concatenate(faces)
    order = np.lexsort(of_rows[::-1])
    photo, face = (numbers[order] for numbers in of_rows)
    if number := int(((photo[1:] == photo[:-1]) & (face[1:] == face[:-1])).sum()):
        yield f"manifest: {number:,} keys stand in more than one row"


def _check_words(build: Build, rows: Rows) -> Iterator[str]:
    """Statuses, splits and classes are those that there are."""
    statuses = pa.array([str(status) for status in Status])
    splits, classes = set[str](), set[str]()
    for part in rows.parts(["source", "status", "split", "class"]):
        is_known = pc.is_in(part["status"], value_set=statuses)
        for row in part.filter(pc.invert(is_known)).to_pylist():
            yield f"manifest: {row['source']}: unknown status {row['status']!r}"
        splits |= set(part["split"].unique().to_pylist()) - set(SPLITS)
        classes |= set(part["class"].drop_null().unique().to_pylist()) - set(build.class_names)
    if splits:
        yield f"manifest: unknown split {', '.join(map(str, splits))}"
    elif classes:
        yield f"manifest: classes that build.json does not name: {', '.join(sorted(classes))}"


def _check_nulls(build: Build, rows: Rows) -> Iterator[str]:
    """Packed rows say all of where they are, others nothing; landmarks are so many points."""
    by_labels = build.configuration.landmarks_from == "labels"
    needed = (*_PACKED_COLUMNS, *(_LABELLED_COLUMNS if by_labels else _FACE_COLUMNS)[build.configuration.align])
    lacking = dict.fromkeys(needed, 0)
    num_placed, lengths = 0, set[int]()
    for part in rows.parts(list(dict.fromkeys(("status", *needed, "landmarks")))):
        is_packed = pc.equal(part["status"], Status.PACKED)
        for name in needed:
            lacking[name] += pc.sum(pc.and_(is_packed, pc.is_null(part[name]))).as_py() or 0
        num_placed += pc.sum(pc.and_(pc.invert(is_packed), pc.is_valid(part["shard"]))).as_py() or 0
        lengths |= set(pc.list_value_length(part["landmarks"].drop_null()).unique().to_pylist())
    yield from (f"manifest: {number:,} packed rows without {name}" for name, number in lacking.items() if number)
    if num_placed:
        yield f"manifest: {num_placed:,} rejected rows name a shard"
    if lengths - {2 * NUM_LANDMARKS}:
        yield f"manifest: landmarks that are not {NUM_LANDMARKS} points"


def _check_duplicates(rows: Rows) -> Iterator[str]:
    """Duplicates name the source that they repeat, and only they."""
    number = 0
    parts = [pa.array([], pa.string())]
    for part in rows.parts(["status", "duplicate_of"]):
        is_duplicate = pc.is_in(part["status"], value_set=pa.array([str(status) for status in manifest.REPEATED]))
        number += pc.sum(pc.xor(is_duplicate, pc.is_valid(part["duplicate_of"]))).as_py() or 0
        parts.append(part["duplicate_of"].drop_null().combine_chunks())
    if number:
        yield f"manifest: {number:,} rows whose duplicate_of does not go with their status"
    named = pa.concat_arrays(parts)
    is_source = np.zeros(len(named), bool)
    for part in rows.parts(["source"]) if len(named) else ():
        is_source |= np.asarray(pc.is_in(named, value_set=part["source"].combine_chunks()))
    if number := int((~is_source).sum()):
        yield f"manifest: {number:,} rows are duplicates of what is no source"


def check_faces(build: Build, rows: Rows) -> Iterator[str]:
    """With on_several all, the faces of a photo are 1, 2, ..., in one split; else there is no column of them."""
    names = rows.schema.names
    if (build.configuration.on_several == "all") != (FACE in names):
        yield f"manifest: on_several is {build.configuration.on_several}, the columns are {names}"
        return
    if FACE not in names:
        return
    table = pa.concat_tables(rows.parts(["source", FACE, "split", "status"]))
    packed = table[FACE].filter(pc.equal(table["status"], Status.PACKED))
    if packed.null_count:
        yield f"manifest: {packed.null_count:,} packed rows without {FACE}"
    photos = table.group_by("source").aggregate(
        [(FACE, "max"), (FACE, "count"), ("split", "count_distinct"), ([], "count_all")]
    )
    for part in photos.to_batches(ROWS_AT_ONCE):
        for photo in part.to_pylist():
            number = photo[f"{FACE}_max"] or 0
            if (photo[f"{FACE}_count"], photo["count_all"]) != (number, max(1, number)):
                yield f"manifest: {photo['source']}: its faces are not 1 to {number}"
            if photo["split_count_distinct"] > 1:
                yield f"manifest: {photo['source']}: its faces are in several splits"


def check_people(build: Build, rows: Rows) -> Iterator[str]:
    """With --split identity, nobody is in two splits."""
    if not build.configuration.split.startswith("identity"):
        return
    for name in build.configuration.described.labels_of("identity")[:1]:  # a split goes by the first
        table = pa.concat_tables(rows.parts([name, "split"]))
        for person in people_in_several_splits(table, name)[name].unique().to_pylist():
            yield f"manifest: {name} {person} is in more than one split"


def _first_difference(stated: Any, actual: Any, where: str = "") -> str:
    if isinstance(stated, dict) and isinstance(actual, dict):
        for name in [*stated, *actual]:
            if stated.get(name) != actual.get(name):
                return _first_difference(stated.get(name), actual.get(name), f"{where}{name or '(no classes)'} ")
    return f"{where}is {stated}, the manifest has {actual}"
