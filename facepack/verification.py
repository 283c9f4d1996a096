"""Verifying: every promise of a build, recomputed from its bytes, and each disagreement named."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import card, image, manifest, node_log
from facepack.align import NUM_LANDMARKS
from facepack.cores import num_cores
from facepack.description import SPLITS, dataset_names
from facepack.errors import JobError
from facepack.image import Moments
from facepack.lock import BUILD
from facepack.manifest import FACE, KEY_LENGTH, SHARD_FILE, Build, ShardRecord, Status, people_in_several_splits
from facepack.plan import stored_order
from facepack.shard import ShardResult, label_texts
from facepack.storage import Store

JPEG_TOLERANCE = 0.05
"""The statistics are those of the pixels before encoding; even coarse JPEG of noise moves them by less than this."""

_NO_PIXELS = Moments()
_MAX_THREADS = 4  # each holds a shard in memory
_NEVER_NULL = ("key", "source", "split", "status")
_PACKED_COLUMNS = ("shard", "position", "offset", "size", "width", "height", "sha256", "source_sha256")
_FACE_COLUMNS = {"none": (), "crop": ("box",), "chip": ("box", "landmarks")}
_LABELLED_COLUMNS = {"none": (), "crop": ("box",), "chip": ("landmarks",)}


class Progress(Protocol):
    """What shows how far verifying is."""

    def expect(self, num_samples: int) -> None:
        """Set the number of samples."""

    def advance(self, num_samples: int) -> None:
        """Count samples that are checked."""


@dataclass(frozen=True)
class Report:
    """What `verify` checked, and a line for each disagreement."""

    num_shards: int
    num_samples: int
    num_bytes: int
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """True where nothing disagrees."""
        return not self.problems


@dataclass(frozen=True)
class _Findings:
    """What checking a shard gave; the findings of several add up. Moments are of train shards only."""

    problems: tuple[str, ...] = ()
    stated: Moments = _NO_PIXELS
    """The sums over pixels that the shard's table states."""
    decoded: Moments = _NO_PIXELS
    """The sums over the pixels of its images."""
    num_padded: int = 0
    """The padded crops that the shard's table states."""
    num_squashed: int = 0
    """The squashed images that it states."""

    def __add__(self, other: "_Findings") -> "_Findings":
        return _Findings(
            self.problems + other.problems,
            self.stated + other.stated,
            self.decoded + other.decoded,
            self.num_padded + other.num_padded,
            self.num_squashed + other.num_squashed,
        )


def verify(location: str | os.PathLike[str], *, deep: bool = False, progress: Progress | None = None) -> Report:
    """Check a build against its own promises; with `deep`, decode every image as well.

    Raises `JobError` where there is no complete build to check.
    """
    location = str(location)
    build = manifest.read_build(location)
    store = Store(location)
    try:
        table = manifest.read_table(store, manifest.MANIFEST_FILE)
    except FileNotFoundError as error:
        raise JobError(f"{location}: {manifest.BUILD_FILE} is there, but no {manifest.MANIFEST_FILE}") from error
    problems = list(check_manifest(build, table))
    if problems:  # what the shards are checked against is not sound itself
        return Report(len(build.shards), 0, 0, tuple(problems))
    problems += [
        *_check_people(build, table),
        *check_faces(build, table),
        *_check_files(build, store),
        *_check_card(build, table, store),
    ]
    by_shard = _rows_by_shard(table)
    shards = [
        _Shard(store, record, build, by_shard.pop(record.name, table.slice(0, 0)), table, deep)
        for record in build.shards
    ]
    findings = _checked(shards, progress)
    problems += findings.problems
    problems += [f"manifest: rows in {name}, which build.json does not name" for name in sorted(by_shard)]
    if not findings.problems:  # otherwise what is amiss is named already
        problems += _check_totals(build, findings, deep=deep)
    num_samples, num_bytes = (
        sum(getattr(record, name) for record in build.shards) for name in ("num_samples", "num_bytes")
    )
    return Report(len(build.shards), num_samples, num_bytes, tuple(problems))


def _checked(shards: list["_Shard"], progress: Progress | None) -> _Findings:
    """Check shards, several at once."""
    if progress is not None:
        progress.expect(sum(shard.record.num_samples for shard in shards))
    total = _Findings()
    with ThreadPoolExecutor(min(_MAX_THREADS, num_cores())) as pool:
        for shard, findings in zip(shards, pool.map(_Shard.check, shards), strict=True):
            total += findings
            if progress is not None:
                progress.advance(shard.record.num_samples)
    return total


def _check_totals(build: Build, findings: _Findings, *, deep: bool) -> Iterator[str]:
    """What build.json states of all shards together."""
    for name in ("num_padded", "num_squashed"):
        stated, number = getattr(build, name), getattr(findings, name)
        if stated != number:
            yield f"build.json: {name} is {stated:,}, the sum over the shards' tables {number:,}"
    yield from _check_statistics(build, findings.stated, of="the shards' tables", tolerance=0)
    if deep:
        tolerance = 0 if build.configuration.encoding in ("raw", "png") else JPEG_TOLERANCE
        yield from _check_statistics(build, findings.decoded, of="the images", tolerance=tolerance)


# The manifest and build.json


def check_manifest(build: Build, table: pa.Table) -> Iterator[str]:
    """Every disagreement between build.json and the manifest, without looking into a shard."""
    problems = [*_check_columns(table), *_check_configuration(build, table), *_check_shard_list(build)]
    yield from problems or _check_rows(build, table)


def _check_columns(table: pa.Table) -> Iterator[str]:
    expected = manifest.OWN_COLUMNS
    for field in expected:
        if field.name not in table.column_names:
            yield f"manifest: no column {field.name}"
        elif table.schema.field(field.name).type != field.type:
            yield f"manifest: column {field.name} is {table.schema.field(field.name).type}, expected {field.type}"
    for name in _NEVER_NULL:
        if name in table.column_names and table[name].null_count:
            yield f"manifest: {table[name].null_count:,} rows without {name}"


def _check_configuration(build: Build, table: pa.Table) -> Iterator[str]:
    """The configuration, its digest and what the manifest repeats of them."""
    if build.configuration.digest != build.digest:
        yield f"build.json: digest is {build.digest}, the configuration's is {build.configuration.digest}"
    if build.dataset not in dataset_names() and not build.configuration.description:
        yield f"build.json: dataset {build.dataset!r} is unknown"
    if build.versions.keys() != set(manifest.DECIDES_BYTES):
        yield f"build.json: versions of {', '.join(build.versions) or 'nothing'}"
    metadata = manifest.metadata_of(table)
    own = {"dataset": build.dataset, "configuration": asdict(build.configuration), "class_names": build.class_names}
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


def _check_rows(build: Build, table: pa.Table) -> Iterator[str]:
    """One row per source with the right key, one status each, counted as in build.json."""
    sources, keys, statuses = (table[name].to_pylist() for name in ("source", "key", "status"))
    faces = table[FACE].to_pylist() if FACE in table.column_names else [None] * len(table)
    for key, source, face in zip(keys, sources, faces, strict=True):
        expected = hashlib.sha256(f"{build.dataset}/{source}".encode()).hexdigest()[:KEY_LENGTH]
        if source is None or key != (expected if face is None else manifest.key_of_face(expected, face)):
            yield f"manifest: {source}: key {key} is not that of the source"
    if len(set(keys)) < len(keys):
        yield f"manifest: {len(keys) - len(set(keys)):,} keys stand in more than one row"
    names = {str(status) for status in Status}
    yield from (
        f"manifest: {source}: unknown status {status!r}"
        for source, status in zip(sources, statuses, strict=True)
        if status not in names
    )
    if wrong := set(table["split"].unique().to_pylist()) - set(SPLITS):
        yield f"manifest: unknown split {', '.join(map(str, wrong))}"
        return
    if wrong := set(table["class"].drop_null().unique().to_pylist()) - set(build.class_names):
        yield f"manifest: classes that build.json does not name: {', '.join(sorted(wrong))}"
    if (counts := manifest.count(table)) != build.counts:
        yield f"build.json: counts disagree with the manifest: {_first_difference(build.counts, counts)}"
    packed = pc.equal(table["status"], Status.PACKED)
    by_labels = build.configuration.landmarks_from == "labels"
    of_faces = (_LABELLED_COLUMNS if by_labels else _FACE_COLUMNS)[build.configuration.align]
    for name in (*_PACKED_COLUMNS, *of_faces):
        if table[name].filter(packed).null_count:
            yield f"manifest: {table[name].filter(packed).null_count:,} packed rows without {name}"
    if number := len(table.filter(pc.invert(packed))["shard"].drop_null()):
        yield f"manifest: {number:,} rejected rows name a shard"
    is_duplicate = pc.equal(table["status"], Status.DUPLICATE)
    if number := pc.sum(pc.xor(is_duplicate, pc.is_valid(table["duplicate_of"]))).as_py():
        yield f"manifest: {number:,} rows whose duplicate_of does not go with their status"
    named = table["duplicate_of"].drop_null()
    if number := len(named.filter(pc.invert(pc.is_in(named, value_set=table["source"].combine_chunks())))):
        yield f"manifest: {number:,} rows are duplicates of what is no source"
    lengths = pc.list_value_length(table["landmarks"].drop_null())
    if set(lengths.unique().to_pylist()) - {2 * NUM_LANDMARKS}:
        yield f"manifest: landmarks that are not {NUM_LANDMARKS} points"


def check_faces(build: Build, table: pa.Table) -> Iterator[str]:
    """With on_several all, the faces of a photo are 1, 2, ..., in one split; else there is no column of them."""
    if (build.configuration.on_several == "all") != (FACE in table.column_names):
        yield f"manifest: on_several is {build.configuration.on_several}, the columns are {table.column_names}"
        return
    if FACE not in table.column_names:
        return
    packed = table[FACE].filter(pc.equal(table["status"], Status.PACKED))
    if packed.null_count:
        yield f"manifest: {packed.null_count:,} packed rows without {FACE}"
    photos = table.group_by("source").aggregate(
        [(FACE, "max"), (FACE, "count"), ("split", "count_distinct"), ([], "count_all")]
    )
    for photo in photos.to_pylist():
        number = photo[f"{FACE}_max"] or 0
        if (photo[f"{FACE}_count"], photo["count_all"]) != (number, max(1, number)):
            yield f"manifest: {photo['source']}: its faces are not 1 to {number}"
        if photo["split_count_distinct"] > 1:
            yield f"manifest: {photo['source']}: its faces are in several splits"


def _first_difference(stated: Any, actual: Any, where: str = "") -> str:
    if isinstance(stated, dict) and isinstance(actual, dict):
        for name in [*stated, *actual]:
            if stated.get(name) != actual.get(name):
                return _first_difference(stated.get(name), actual.get(name), f"{where}{name or '(no classes)'} ")
    return f"{where}is {stated}, the manifest has {actual}"


def _check_people(build: Build, table: pa.Table) -> Iterator[str]:
    """With --split identity, nobody is in two splits."""
    if not build.configuration.split.startswith("identity"):
        return
    for name in build.configuration.described.labels_of("identity"):
        for person in people_in_several_splits(table, name)[name].unique().to_pylist():
            yield f"manifest: {name} {person} is in more than one split"


def _check_files(build: Build, store: Store) -> Iterator[str]:
    """No file that does not belong to the build, and nothing half made."""
    stems = {record.name.removesuffix(".tar") for record in build.shards}
    others = {manifest.BUILD_FILE, manifest.MANIFEST_FILE, BUILD.lock_file, node_log.NAME, *card.NAMES}
    for name in store.list():
        stem, _, suffix = name.rpartition(".")
        if name in others or stem in stems:
            continue
        if not (SHARD_FILE.fullmatch(name) and suffix == "parquet" and _is_all_rejected(store, name)):
            yield f"{name}: not in build.json"
    yield from (f"{name}: a half-made file" for name in store.temporary_files())


def _check_card(build: Build, table: pa.Table, store: Store) -> Iterator[str]:
    """The files by which other readers open the build, byte for byte."""
    for name, content in card.card_files(build, table.schema).items():
        try:
            if store.read(name) != content:
                yield f"{name}: not as {manifest.BUILD_FILE} and the manifest have it; delete it and build again"
        except OSError as error:
            yield f"{name}: cannot be read: {error}"


def _is_all_rejected(store: Store, name: str) -> bool:
    """True for the table of a shard that has no tar because none of its images could be packed."""
    try:
        return pc.all(pc.not_equal(manifest.read_table(store, name)["status"], Status.PACKED)).as_py() is True
    except (JobError, KeyError):
        return False


def _check_statistics(build: Build, totals: Moments, *, of: str, tolerance: float) -> Iterator[str]:
    actual = totals.mean_std()
    stated = (build.mean, build.std) if build.mean and build.std else None
    if actual is None or stated is None:
        if (actual is None) != (stated is None):
            yield f"build.json: mean and std are {stated}, {of} give {actual}"
        return
    for name, ours, theirs in (("mean", actual[0], stated[0]), ("std", actual[1], stated[1])):
        if len(theirs) != len(ours) or not np.allclose(ours, theirs, atol=tolerance, rtol=0):
            yield f"build.json: {name} is {theirs}, {of} give {ours}"


# Shards


def _rows_by_shard(table: pa.Table) -> dict[str, pa.Table]:
    """Packed rows per shard, in the order of the manifest."""
    packed = table.filter(pc.is_valid(table["shard"])).combine_chunks()
    encoded = packed["shard"].combine_chunks().dictionary_encode() if len(packed) else None
    if encoded is None:
        return {}
    codes = encoded.indices.to_numpy()
    return {
        name: packed.take(np.flatnonzero(codes == code)) for code, name in enumerate(encoded.dictionary.to_pylist())
    }


@dataclass(frozen=True)
class _Shard:
    """One shard, and what build.json and the manifest state of it."""

    store: Store
    record: ShardRecord
    build: Build
    rows: pa.Table
    manifest_: pa.Table
    deep: bool

    def check(self) -> _Findings:
        """Every disagreement in this shard, and the sums over its pixels."""
        name = self.record.name
        findings = self._check_table()
        try:
            content = self.store.read(name)
        except OSError as error:
            return findings + _Findings((f"{name}: cannot be read: {error}",))
        findings += _Findings(tuple(self._check_whole(content)))
        try:
            members = _members(content)
        except (tarfile.TarError, EOFError) as error:
            return findings + _Findings((f"{name}: not a sound tar: {error}",))
        findings += _Findings((*self._check_members(members), *self._check_index(members)))
        return findings + self._check_samples(content, members)

    def _check_samples(self, content: bytes, members: list[tarfile.TarInfo]) -> _Findings:
        """Image and labels of every row; the sums over the pixels where they are decoded."""
        counter = image.MomentsCounter()
        by_name = {member.name: member for member in members}
        texts = label_texts(self.rows, tuple(self.build.class_names))
        problems = [
            f"{self.record.name}: {row['key']}: {problem}"
            for row, text in zip(self.rows.select(manifest.OWN_COLUMNS.names).to_pylist(), texts, strict=True)
            for problem in self._check_sample(content, row=row, text=text, members=by_name, counter=counter)
        ]
        return _Findings(tuple(problems), decoded=counter.total() if self._is_train else _NO_PIXELS)

    @property
    def _is_train(self) -> bool:
        return self.record.name.startswith("train")

    def _check_whole(self, content: bytes) -> Iterator[str]:
        name, record = self.record.name, self.record
        if len(content) != record.num_bytes:
            yield f"{name}: {len(content):,} bytes, build.json has {record.num_bytes:,}"
        if (sha256 := hashlib.sha256(content).hexdigest()) != record.sha256:
            yield f"{name}: sha256 is {sha256}, build.json has {record.sha256}"
        if len(self.rows) != record.num_samples:
            yield f"{name}: {len(self.rows):,} rows in the manifest, build.json has {record.num_samples:,} samples"

    def _check_members(self, members: list[tarfile.TarInfo]) -> Iterator[str]:
        """Two members per row, adjacent and in order, in plain USTAR that names nobody."""
        expected = [f"{key}.{kind}" for key in self.rows["key"].to_pylist() for kind in (self._suffix, "json")]
        names = [member.name for member in members]
        pairs = enumerate(zip(names, expected, strict=False))
        if (at := next((at for at, (name, other) in pairs if name != other), None)) is not None:
            yield f"{self.record.name}: member {at} is {names[at]}, expected {expected[at]}"
        elif len(names) != len(expected):
            yield f"{self.record.name}: {len(names):,} members, expected {len(expected):,}"
        for member in members:
            if member.mtime or member.uid or member.gid or member.uname or member.gname or member.pax_headers:
                yield f"{self.record.name}: {member.name}: carries a time, an owner or PAX headers"
        positions = self.rows["position"].to_pylist()
        if positions != list(range(len(positions))):
            yield f"{self.record.name}: positions in the manifest are not 0, 1, 2, ..."
        order = stored_order(self.rows["key"].to_pylist(), seed=self.build.configuration.seed)
        if any(first > second for first, second in pairwise(order)):
            yield f"{self.record.name}: the samples are not in their shuffled order"

    @property
    def _suffix(self) -> str:
        return image.SUFFIXES[self.build.configuration.encoding]

    def _check_index(self, members: list[tarfile.TarInfo]) -> Iterator[str]:
        """The DALI index, line by line against the tar."""
        name = self.record.name.replace(".tar", ".idx")
        try:
            lines = self.store.read(name).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            yield f"{name}: cannot be read: {error}"
            return
        fields = [
            f"{member.name.rpartition('.')[2]} {member.offset_data} {member.size} {member.name}" for member in members
        ]
        expected = [
            f"v1.2 {len(fields) // 2}",
            *(" ".join(pair) for pair in zip(fields[::2], fields[1::2], strict=False)),
        ]
        for number, (line, expected_line) in enumerate(zip(lines, expected, strict=False), start=1):
            if line != expected_line:
                yield f"{name}: line {number} is {line!r}, the tar has {expected_line!r}"
        if len(lines) != len(expected):
            yield f"{name}: {len(lines):,} lines, expected {len(expected):,}"

    def _check_table(self) -> _Findings:
        """The shard's own table against manifest and build.json; the sums and the padded crops that it states."""
        name = self.record.name.replace(".tar", ".parquet")
        try:
            own = manifest.read_table(self.store, name)
            metadata = manifest.metadata_of(own)
            result = ShardResult.from_metadata(metadata)
        except (OSError, JobError) as error:
            return _Findings((f"{name}: cannot be read: {error}",))
        except (KeyError, TypeError):
            return _Findings((f"{name}: lacks how its shard was made",))
        problems = []
        same = self.manifest_.filter(pc.is_in(self.manifest_["key"], value_set=own["key"].combine_chunks()))
        if not own.replace_schema_metadata().equals(same.replace_schema_metadata()):
            problems.append(f"{name}: its rows are not those of the manifest")
        if result.record != self.record:
            problems.append(f"{name}: is about {result.record}, build.json about {self.record}")
        if metadata["versions"] != self.build.versions or metadata["configuration"] != asdict(self.build.configuration):
            problems.append(f"{name}: made with another configuration or other versions than in build.json")
        stated = result.moments if self._is_train else _NO_PIXELS
        return _Findings(tuple(problems), stated, num_padded=result.num_padded, num_squashed=result.num_squashed)

    def _check_sample(
        self,
        content: bytes,
        *,
        row: dict[str, Any],
        text: bytes,
        members: dict[str, tarfile.TarInfo],
        counter: image.MomentsCounter,
    ) -> Iterator[str]:
        """Image and labels of one row, where the manifest places them."""
        packed, labels = (members.get(f"{row['key']}.{suffix}") for suffix in (self._suffix, "json"))
        if packed is None or labels is None:
            yield "not in the tar"
            return
        stated = row["offset"], row["size"]
        if stated != (packed.offset_data, packed.size):
            yield f"offset and size are {stated} in the manifest, {(packed.offset_data, packed.size)} in the tar"
        encoded = content[packed.offset_data : packed.offset_data + packed.size]
        if hashlib.sha256(encoded).hexdigest() != row["sha256"]:
            yield "the image's sha256 is not that of the manifest"
        yield from _check_labels(content[labels.offset_data : labels.offset_data + labels.size], text)
        if self.deep:
            yield from self._check_pixels(encoded, row, counter)

    def _check_pixels(self, encoded: bytes, row: dict[str, Any], counter: image.MomentsCounter) -> Iterator[str]:
        try:
            image_hwc = image.decode_packed(encoded, encoding=self.build.configuration.encoding)
        except (image.BadImageError, ValueError) as error:
            yield f"the image cannot be decoded: {error}"
            return
        height_px, width_px = image_hwc.shape[:2]
        if (width_px, height_px) != (row["width"], row["height"]):
            yield f"the image is {width_px}x{height_px}, the manifest has {row['width']}x{row['height']}"
        size_wh = self.build.configuration.size_wh
        if size_wh is not None and size_wh != (width_px, height_px):
            yield f"the image is {width_px}x{height_px}, the configuration has {size_wh[0]}x{size_wh[1]}"
        counter.add(np.ascontiguousarray(image_hwc))


def _members(content: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        members = tar.getmembers()
    if any(member.offset_data + member.size > len(content) for member in members):
        raise tarfile.ReadError("it ends in the middle of a member")
    return members


def _check_labels(member: bytes, text: bytes) -> Iterator[str]:
    """The JSON of the tar against the labels of the manifest; the first that differs is named."""
    try:
        labels = json.loads(member)
    except ValueError as error:
        yield f"the labels in the tar are not JSON: {error}"
        return
    if not isinstance(labels, dict):
        yield f"the labels in the tar are no object: {member[:40]!r}"
        return
    expected = json.loads(text)
    for name in [*expected, *labels]:
        if labels.get(name) != expected.get(name):
            yield f"label {name} is {labels.get(name)!r} in the tar, {expected.get(name)!r} in the manifest"
            return
