"""Verifying: every promise of a build, recomputed from its bytes, and each disagreement named."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import card, descriptors, image, manifest, node_log, people
from facepack.ahead import mapped_ahead
from facepack.cores import num_cores
from facepack.errors import JobError
from facepack.image import Moments
from facepack.lock import BUILD, DESCRIBE
from facepack.manifest import SHARD_FILE, Build, ShardRecord, Status
from facepack.manifest_checks import check_faces, check_manifest, check_people
from facepack.manifest_rows import ManifestRows, RowIndex
from facepack.near_rows import check_near_rows
from facepack.plan import stored_order
from facepack.shard import ShardResult, label_texts
from facepack.storage import Store

JPEG_TOLERANCE = 0.05
"""The statistics are those of the pixels before encoding; even coarse JPEG of noise moves them by less than this."""

_NO_PIXELS = Moments()
_MAX_THREADS = 4  # each holds a shard in memory


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
    warnings: tuple[str, ...] = ()
    """What breaks no promise, but is worth to be known, such as near-duplicates in two splits."""

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
        rows = ManifestRows(store)
    except FileNotFoundError as error:
        raise JobError(f"{location}: {manifest.BUILD_FILE} is there, but no {manifest.MANIFEST_FILE}") from error
    with rows:
        return _verified(_Checker(store, build, rows, deep), progress)


def _verified(checker: "_Checker", progress: Progress | None) -> Report:
    store, build, rows = checker.store, checker.build, checker.rows
    problems = list(check_manifest(build, rows))
    if problems:  # what the shards are checked against is not sound itself
        return Report(len(build.shards), 0, 0, tuple(problems))
    problems += [
        *check_people(build, rows),
        *check_faces(build, rows),
        *_check_files(build, store),
        *_check_card(build, rows.schema, store),
        *descriptors.check(build, store),
    ]
    index = RowIndex(rows)
    findings = _checked(checker, index, progress)
    problems += findings.problems
    unnamed = sorted(index.shards.keys() - {record.name for record in build.shards})
    problems += [f"manifest: rows in {name}, which build.json does not name" for name in unnamed]
    if not findings.problems:  # otherwise what is amiss is named already
        problems += _check_totals(build, findings, deep=checker.deep)
    num_samples, num_bytes = (
        sum(getattr(record, name) for record in build.shards) for name in ("num_samples", "num_bytes")
    )
    return Report(len(build.shards), num_samples, num_bytes, tuple(problems), tuple(check_near_rows(rows)))


@dataclass(frozen=True)
class _Checker:
    """What the shards of a build are checked against."""

    store: Store
    build: Build
    rows: ManifestRows
    deep: bool

    def check(self, index: RowIndex, record: ShardRecord) -> _Findings:
        """Every disagreement in a shard, and the sums over its pixels."""
        rows = self.rows.take(index.shards.get(record.name, np.zeros(0, np.int64)))
        return _Shard(self, record, rows, index).check()


def _checked(checker: _Checker, index: RowIndex, progress: Progress | None) -> _Findings:
    """Check shards, several at once."""
    records = checker.build.shards
    if progress is not None:
        progress.expect(sum(record.num_samples for record in records))
    total = _Findings()
    findings_of = mapped_ahead(partial(checker.check, index), records, num_threads=min(_MAX_THREADS, num_cores()))
    for record, findings in zip(records, findings_of, strict=True):
        total += findings
        if progress is not None:
            progress.advance(record.num_samples)
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


# What belongs to a build


def _check_files(build: Build, store: Store) -> Iterator[str]:
    """No file that does not belong to the build, and nothing half made."""
    stems = {record.name.removesuffix(".tar") for record in build.shards}
    others = {manifest.BUILD_FILE, manifest.MANIFEST_FILE, BUILD.lock_file, node_log.NAME, *card.NAMES}
    others |= {descriptors.FILE, DESCRIBE.lock_file, people.FILE}
    for name in store.list():
        stem, _, suffix = name.rpartition(".")
        if name in others or stem in stems:
            continue
        if not (SHARD_FILE.fullmatch(name) and suffix == "parquet" and _is_all_rejected(store, name)):
            yield f"{name}: not in build.json"
    yield from (f"{name}: a half-made file" for name in store.temporary_files())


def _check_card(build: Build, schema: pa.Schema, store: Store) -> Iterator[str]:
    """The files by which other readers open the build, byte for byte."""
    for name, content in card.card_files(build, schema).items():
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


@dataclass(frozen=True)
class _Shard:
    """One shard, and what build.json and the manifest state of it."""

    checker: _Checker
    record: ShardRecord
    rows: pa.Table
    """Its rows in the manifest."""
    index: RowIndex

    def check(self) -> _Findings:
        """Every disagreement in this shard, and the sums over its pixels."""
        name = self.record.name
        findings = self._check_table()
        try:
            content = self.checker.store.read(name)
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
        texts = label_texts(self.rows, tuple(self.checker.build.class_names))
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
        order = stored_order(self.rows["key"].to_pylist(), seed=self.checker.build.configuration.seed)
        if any(first > second for first, second in pairwise(order)):
            yield f"{self.record.name}: the samples are not in their shuffled order"

    @property
    def _suffix(self) -> str:
        return image.SUFFIXES[self.checker.build.configuration.encoding]

    def _check_index(self, members: list[tarfile.TarInfo]) -> Iterator[str]:
        """The DALI index, line by line against the tar."""
        name = self.record.name.replace(".tar", ".idx")
        try:
            lines = self.checker.store.read(name).decode().splitlines()
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
            own = manifest.read_table(self.checker.store, name)
            metadata = manifest.metadata_of(own)
            result = ShardResult.from_metadata(metadata)
        except (OSError, JobError) as error:
            return _Findings((f"{name}: cannot be read: {error}",))
        except (KeyError, TypeError):
            return _Findings((f"{name}: lacks how its shard was made",))
        problems = []
        try:
            same = self.checker.rows.take(self.index.of_photos(own["key"]))
        except ValueError:
            return _Findings((f"{name}: keys that are none",))
        if not own.replace_schema_metadata().equals(same.replace_schema_metadata()):
            problems.append(f"{name}: its rows are not those of the manifest")
        if result.record != self.record:
            problems.append(f"{name}: is about {result.record}, build.json about {self.record}")
        build = self.checker.build
        if metadata["versions"] != build.versions or metadata["configuration"] != build.configuration.as_record():
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
        if self.checker.deep:
            yield from self._check_pixels(encoded, row, counter)

    def _check_pixels(self, encoded: bytes, row: dict[str, Any], counter: image.MomentsCounter) -> Iterator[str]:
        try:
            image_hwc = image.decode_packed(encoded, encoding=self.checker.build.configuration.encoding)
        except (image.BadImageError, ValueError) as error:
            yield f"the image cannot be decoded: {error}"
            return
        height_px, width_px = image_hwc.shape[:2]
        if (width_px, height_px) != (row["width"], row["height"]):
            yield f"the image is {width_px}x{height_px}, the manifest has {row['width']}x{row['height']}"
        size_wh = self.checker.build.configuration.size_wh
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
