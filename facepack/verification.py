"""Verifying: every promise of a build, recomputed from its bytes, and each disagreement named."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from facepack import image, manifest, terminal
from facepack.align import NUM_LANDMARKS
from facepack.cores import num_cores
from facepack.description import SPLITS, dataset_names, load_dataset
from facepack.errors import JobError
from facepack.image import Moments
from facepack.lock import BUILD
from facepack.manifest import SHARD_FILE, Build, ShardRecord, Status, people_in_several_splits
from facepack.plan import stored_order
from facepack.shard import ShardResult, label_texts
from facepack.storage import Store

JPEG_TOLERANCE = 0.05
"""The statistics are those of the pixels before encoding; even coarse JPEG of noise moves them by less than this."""

_MAX_THREADS = 4  # each holds a shard in memory
_NEVER_NULL = ("key", "source", "split", "status")
_PACKED_COLUMNS = ("shard", "position", "offset", "size", "width", "height", "sha256", "source_sha256")
_FACE_COLUMNS = {"none": (), "crop": ("box",), "chip": ("box", "landmarks")}


@dataclass(frozen=True)
class Report:
    """What `verify` found: how much was checked, and a line for each disagreement."""

    num_shards: int
    num_samples: int
    num_bytes: int
    problems: tuple[str, ...]


def verify(location: str, *, deep: bool = False) -> Report:
    """Check a build against its own promises; with `deep`, decode every image as well.

    Raises `JobError` where there is no complete build to check.
    """
    build = manifest.read_build(location)
    store = Store(location)
    try:
        table = manifest.read_table(store, manifest.MANIFEST_FILE)
    except FileNotFoundError as error:
        raise JobError(f"{location}: {manifest.BUILD_FILE} is there, but no {manifest.MANIFEST_FILE}") from error
    problems = list(check_manifest(build, table))
    if problems:  # what the shards are checked against is not sound itself
        return Report(len(build.shards), 0, 0, tuple(problems))
    problems += _check_people(build, table)
    problems += _check_files(build, store)
    by_shard = _rows_by_shard(table)
    kept, decoded = Moments(), Moments()
    whole, num_padded = True, 0
    with ThreadPoolExecutor(min(_MAX_THREADS, num_cores())) as pool:
        shards = [
            _Shard(store, record, build, by_shard.pop(record.name, table.slice(0, 0)), table, deep)
            for record in build.shards
        ]
        for record, one in zip(build.shards, pool.map(_Shard.check, shards), strict=True):
            found, of_table, of_pixels, padded = one
            problems += found
            num_padded += padded
            whole = whole and not found
            if record.name.startswith("train"):
                kept, decoded = kept + of_table, decoded + of_pixels
    problems += [f"manifest: rows in {name}, which build.json does not name" for name in sorted(by_shard)]
    if whole and num_padded != build.num_padded:
        problems.append(f"build.json: num_padded is {build.num_padded:,}, the shards' tables say {num_padded:,}")
    if whole:  # otherwise what is amiss is named already
        problems += _check_statistics(build, kept, of="the shards' tables", tolerance=0)
    if whole and deep:
        tolerance = 0 if build.configuration.encoding == "raw" else JPEG_TOLERANCE
        problems += _check_statistics(build, decoded, of="the images", tolerance=tolerance)
    num_bytes = sum(record.num_bytes for record in build.shards)
    return Report(len(build.shards), sum(record.num_samples for record in build.shards), num_bytes, tuple(problems))


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
    if build.dataset not in dataset_names():
        yield f"build.json: dataset {build.dataset!r} is not known"
    if build.versions.keys() != set(manifest.DECIDES_BYTES):
        yield f"build.json: versions of {', '.join(build.versions) or 'nothing'}"
    kept = manifest.metadata_of(table)
    own = {"dataset": build.dataset, "configuration": asdict(build.configuration), "class_names": build.class_names}
    for name, value in own.items():
        if kept.get(name) != value:
            yield f"manifest: metadata {name} is {kept.get(name)!r}, build.json says {value!r}"


def _check_shard_list(build: Build) -> Iterator[str]:
    """Every shard once, in order."""
    names = [record.name for record in build.shards]
    ordered = sorted(set(names), key=lambda name: (SPLITS.index(name.split("-")[0]) if "-" in name else 0, name))
    if not all(SHARD_FILE.fullmatch(name) and name.endswith(".tar") for name in names):
        yield "build.json: a shard with a strange name"
    elif names != ordered:
        yield "build.json: the shards are not there once each, in order"


def _check_rows(build: Build, table: pa.Table) -> Iterator[str]:
    """One row per source with the right key, one status each, counted as build.json says."""
    sources, keys, statuses = (table[name].to_pylist() for name in ("source", "key", "status"))
    for key, source in zip(keys, sources, strict=True):
        if source is None or key != hashlib.sha256(f"{build.dataset}/{source}".encode()).hexdigest()[:16]:
            yield f"manifest: {source}: key {key} is not that of the source"
    if len(set(keys)) < len(keys):
        yield f"manifest: {len(keys) - len(set(keys)):,} keys stand in more than one row"
    known = {str(status) for status in Status}
    yield from (
        f"manifest: {s}: unknown status {st!r}" for s, st in zip(sources, statuses, strict=True) if st not in known
    )
    if wrong := set(table["split"].unique().to_pylist()) - set(SPLITS):
        yield f"manifest: unknown split {', '.join(map(str, wrong))}"
        return
    if wrong := set(table["class"].drop_null().unique().to_pylist()) - set(build.class_names):
        yield f"manifest: classes that build.json does not name: {', '.join(sorted(wrong))}"
    if (counts := manifest.count(table)) != build.counts:
        yield f"build.json: counts disagree with the manifest: {_first_difference(build.counts, counts)}"
    packed = pc.equal(table["status"], Status.PACKED)
    for name in (*_PACKED_COLUMNS, *_FACE_COLUMNS[build.configuration.align]):
        if table[name].filter(packed).null_count:
            yield f"manifest: {table[name].filter(packed).null_count:,} packed rows without {name}"
    if number := len(table.filter(pc.invert(packed))["shard"].drop_null()):
        yield f"manifest: {number:,} rejected rows name a shard"
    lengths = pc.list_value_length(table["landmarks"].drop_null())
    if set(lengths.unique().to_pylist()) - {2 * NUM_LANDMARKS}:
        yield f"manifest: landmarks that are not {NUM_LANDMARKS} points"


def _first_difference(stated: Any, found: Any, where: str = "") -> str:
    if isinstance(stated, dict) and isinstance(found, dict):
        for name in [*stated, *found]:
            if stated.get(name) != found.get(name):
                return _first_difference(stated.get(name), found.get(name), f"{where}{name or '(no classes)'} ")
    return f"{where}is {stated}, the manifest has {found}"


def _check_people(build: Build, table: pa.Table) -> Iterator[str]:
    """With --split identity, nobody is in two splits."""
    if not build.configuration.split.startswith("identity"):
        return
    for name in load_dataset(build.dataset).labels_of("identity"):
        for person in people_in_several_splits(table, name)[name].unique().to_pylist():
            yield f"manifest: {name} {person} is in more than one split"


def _check_files(build: Build, store: Store) -> Iterator[str]:
    """No file that does not belong to the build, and nothing half made."""
    stems = {record.name.removesuffix(".tar") for record in build.shards}
    for name in store.list():
        stem, _, suffix = name.rpartition(".")
        if name in (manifest.BUILD_FILE, manifest.MANIFEST_FILE, BUILD.lock_file) or stem in stems:
            continue
        if not (SHARD_FILE.fullmatch(name) and suffix == "parquet" and _is_all_rejected(store, name)):
            yield f"{name}: not in build.json"
    yield from (f"{name}: a half-made file" for name in store.temporary_files())


def _is_all_rejected(store: Store, name: str) -> bool:
    """True for the table of a shard that has no tar because none of its images could be packed."""
    try:
        return pc.all(pc.not_equal(manifest.read_table(store, name)["status"], Status.PACKED)).as_py() is True
    except (JobError, KeyError):
        return False


def _check_statistics(build: Build, totals: Moments, *, of: str, tolerance: float) -> Iterator[str]:
    found = totals.mean_std()
    stated = (build.mean, build.std) if build.mean and build.std else None
    if found is None or stated is None:
        if (found is None) != (stated is None):
            yield f"build.json: mean and std are {stated}, {of} give {found}"
        return
    for name, ours, theirs in (("mean", found[0], stated[0]), ("std", found[1], stated[1])):
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
    """One shard and what build.json and the manifest say of it."""

    store: Store
    record: ShardRecord
    build: Build
    rows: pa.Table
    manifest_: pa.Table
    deep: bool

    def check(self) -> tuple[list[str], Moments, Moments, int]:
        """Every disagreement in this shard; the sums over its pixels that its table keeps, and (`deep`) those found;
        the number of padded crops that its table keeps.
        """
        name = self.record.name
        problems, kept, num_padded = self._check_table()
        try:
            content = self.store.read(name)
        except OSError as error:
            return [*problems, f"{name}: cannot be read: {error}"], kept, Moments(), num_padded
        problems += self._check_whole(content)
        try:
            members = _members(content)
        except (tarfile.TarError, EOFError) as error:
            return [*problems, f"{name}: not a sound tar: {error}"], kept, Moments(), num_padded
        problems += self._check_members(members)
        problems += self._check_index(members)
        counter = image.MomentsCounter()
        by_name = {member.name: member for member in members}
        texts = label_texts(self.rows, tuple(self.build.class_names))
        for row, text in zip(self.rows.select(manifest.OWN_COLUMNS.names).to_pylist(), texts, strict=True):
            found = self._check_sample(content, row=row, text=text, members=by_name, counter=counter)
            problems += [f"{name}: {row['key']}: {problem}" for problem in found]
        return problems, kept, counter.total(), num_padded

    def _check_whole(self, content: bytes) -> Iterator[str]:
        name, record = self.record.name, self.record
        if len(content) != record.num_bytes:
            yield f"{name}: {len(content):,} bytes, build.json says {record.num_bytes:,}"
        if (sha256 := hashlib.sha256(content).hexdigest()) != record.sha256:
            yield f"{name}: sha256 is {sha256}, build.json says {record.sha256}"
        if len(self.rows) != record.num_samples:
            yield f"{name}: {len(self.rows):,} rows in the manifest, build.json says {record.num_samples:,} samples"

    def _check_members(self, members: list[tarfile.TarInfo]) -> Iterator[str]:
        """Two members per row, adjacent and in order, in plain USTAR that names nobody."""
        expected = [f"{key}.{kind}" for key in self.rows["key"].to_pylist() for kind in (self._suffix, "json")]
        found = [member.name for member in members]
        pairs = enumerate(zip(found, expected, strict=False))
        if (at := next((at for at, (one, other) in pairs if one != other), None)) is not None:
            yield f"{self.record.name}: member {at} is {found[at]}, expected {expected[at]}"
        elif len(found) != len(expected):
            yield f"{self.record.name}: {len(found):,} members, expected {len(expected):,}"
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
        return "npy" if self.build.configuration.encoding == "raw" else "jpg"

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
        for number, (line, wanted) in enumerate(zip(lines, expected, strict=False), start=1):
            if line != wanted:
                yield f"{name}: line {number} is {line!r}, the tar says {wanted!r}"
        if len(lines) != len(expected):
            yield f"{name}: {len(lines):,} lines, expected {len(expected):,}"

    def _check_table(self) -> tuple[list[str], Moments, int]:
        """The shard's own table against manifest and build.json; the sums and the padded crops that it keeps."""
        name = self.record.name.replace(".tar", ".parquet")
        try:
            own = manifest.read_table(self.store, name)
            metadata = manifest.metadata_of(own)
            result = ShardResult.from_metadata(metadata)
        except (OSError, JobError) as error:
            return [f"{name}: cannot be read: {error}"], Moments(), 0
        except (KeyError, TypeError):
            return [f"{name}: it does not say how its shard was made"], Moments(), 0
        problems = []
        same = self.manifest_.filter(pc.is_in(self.manifest_["key"], value_set=own["key"].combine_chunks()))
        if not own.replace_schema_metadata().equals(same.replace_schema_metadata()):
            problems.append(f"{name}: its rows are not those of the manifest")
        if result.record != self.record:
            problems.append(f"{name}: speaks of {result.record}, build.json of {self.record}")
        if metadata["versions"] != self.build.versions or metadata["configuration"] != asdict(self.build.configuration):
            problems.append(f"{name}: made with another configuration or other versions than build.json says")
        return problems, result.moments, result.num_padded

    def _check_sample(
        self,
        content: bytes,
        *,
        row: dict[str, Any],
        text: bytes,
        members: dict[str, tarfile.TarInfo],
        counter: image.MomentsCounter,
    ) -> Iterator[str]:
        """Image and labels of one row, where the manifest says they are."""
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
            yield f"the image is {width_px}x{height_px}, the manifest says {row['width']}x{row['height']}"
        size_wh = self.build.configuration.size_wh
        if size_wh is not None and size_wh != (width_px, height_px):
            yield f"the image is {width_px}x{height_px}, the configuration says {size_wh[0]}x{size_wh[1]}"
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


# The command


def command(
    build: Annotated[str, typer.Argument(metavar="BUILD", help="Folder or URL of a build.")],
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image, too.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Check every promise of a build against its bytes.

    Example: facepack verify builds/celeba-rarest4 --deep
    """
    with terminal.errors_as_lines(debug=debug):
        show(build, deep=deep)


def show(location: str, *, deep: bool) -> None:
    """Verify a build and print what was found; `JobError` where anything disagrees."""
    cv2.setNumThreads(1)
    with terminal.silenced_libraries():
        report = verify(location, deep=deep)
    for problem in report.problems:
        terminal.wrong(problem)
    checked = f"{report.num_samples:,} samples in {report.num_shards:,} shards, {report.num_bytes / 1e6:,.1f} MB"
    if report.problems:
        raise JobError(f"{location}: {len(report.problems):,} disagreements in {checked}")
    terminal.out.print(f"verified{' and decoded' if deep else ''}: {checked}", soft_wrap=True)
