"""Building: indexes, labels and plans a dataset, has its shards packed, and writes what came of it."""

import hashlib
import logging
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa

from facepack import align, card, lock, manifest, resume
from facepack.admission import Ground
from facepack.align import Aligner
from facepack.configuration import Configuration
from facepack.errors import FieldError, JobError, UsageError
from facepack.hashing import sha256_of
from facepack.image import Moments
from facepack.manifest import Build, Status
from facepack.matching import beside
from facepack.open_rows import OwnTable
from facepack.prepare import Prepared, fetch_offered, prepare_build
from facepack.ray_options import RayOptions
from facepack.shard import ShardResult, ShardTask
from facepack.storage import Store
from facepack.workers import Progress, SilentProgress, packed

log = logging.getLogger("facepack")

_LONGEST_NAME = 80
_NUM_NAMED = 5


@dataclass(frozen=True)
class Place:
    """Where a build reads, writes and runs; nothing here changes a byte."""

    src: str
    out: str
    workers: int | None = None
    ray: RayOptions = field(default_factory=RayOptions)
    force: bool = False
    landmarks: str = ""
    """File of the landmark model for chips; empty to look for it. Its checksum decides bytes."""
    leave_out: str = ""
    """File that lists images to leave out; empty for none. The names in it decide bytes."""
    labels: OwnTable = field(default_factory=OwnTable)
    """Table of labels of one's own, in place of those of the dataset. What is in it decides bytes."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise FieldError("workers", self.workers, "expected 0 (this process) or more")
        if self.workers == 0 and self.ray.address:
            raise FieldError("ray_address", self.ray.address, "workers 0 packs in this process, without Ray")
        if self.workers is not None and (self.ray.min_workers or 0) > self.workers:
            raise FieldError("min_workers", self.ray.min_workers, f"workers is {self.workers}, which is less")


@dataclass(frozen=True)
class Outcome:
    """A complete build, and how it went: images of this run, seconds of packing, of all else, of planning in that."""

    build: Build
    location: str
    num_images: int = 0
    packing_s: float = 0.0
    other_s: float = 0.0
    planning_s: float = 0.0
    num_kept_shards: int = 0


def planned(configuration: Configuration, *, place: Place) -> Prepared:
    """Index, label and plan a build without making it; logs what is not as a user may think."""
    configuration, _ = _with_aligner(configuration, place)
    return _prepared(configuration, place)


def build(configuration: Configuration, *, place: Place, progress: Progress | None = None) -> Outcome:
    """Make a build, or finish one that was interrupted; `progress` follows it.

    Shards that are finished stay. A class without an image that can be packed stays in the list of classes and is
    named. Raises `JobError` where the place holds another build, another build is at work, no image at all can be
    packed, or something cannot be written; where nothing was packed, the place is left as it was found.
    """
    begun = time.time()
    progress = progress or SilentProgress()
    configuration, aligner = _with_aligner(configuration, place)
    prepared = _prepared(configuration, place)
    configuration = prepared.configuration
    planning_s = time.time() - begun
    with fetch_offered(prepared.description, place.src):
        _check_images(prepared)
    store = Store(place.out)
    resume.check_place(store, configuration)
    store.make()
    with lock.held(store, work=lock.BUILD) as holder:
        resume.check_place(store, configuration)
        store.delete_temporary()
        tasks = _tasks(prepared, store)
        results = resume.finished(store, tasks, source=prepared.source, force=place.force)
        todo = [task for task in tasks if task.name not in results]
        if not todo and _is_complete(prepared, store, tasks):
            made = manifest.read_build(place.out)
            _warn_of_empty_classes(made)
            return Outcome(made, place.out, num_kept_shards=len(results))
        resume.check_images(store, prepared.plan.table["key"])
        store.delete(manifest.BUILD_FILE)
        num_kept = len(results)
        num_images = sum(len(task.table) for task in todo)
        progress.expect(num_images)
        ground = Ground(prepared.source, store, configuration, aligner, holder.token)
        packing = packed(todo, ground=ground, workers=place.workers, ray=place.ray, progress=progress)
        results |= _collected(packing, holder)
        for name in resume.strays(store, tasks):
            store.delete(name)
        made = _finish(prepared, store, [results[task.name] for task in tasks])
    _warn_of_empty_classes(made)
    packing_s = progress.seconds
    return Outcome(made, place.out, num_images, packing_s, time.time() - begun - packing_s, planning_s, num_kept)


def _collected(packing: Generator[ShardResult], holder: lock.Holder) -> dict[str, ShardResult]:
    """The results of all shards by name; what is half made is removed, whatever happens."""
    results = {}
    is_done = False
    try:
        with closing(packing):
            for result in packing:
                results[result.record.name.removesuffix(".tar")] = result
                holder.check()
        is_done = True
    finally:
        if holder.is_ours:  # whoever took the place over has unfinished files of its own here
            holder.store.delete_temporary()  # a worker that was killed left its file behind
            resume.delete_unfinished(holder.store)
            if not is_done:
                resume.delete_unpacked(holder.store)
    holder.check()
    return results


def _is_complete(prepared: Prepared, store: Store, tasks: list[ShardTask]) -> bool:
    """True where all that is written last is there, and of this very plan."""
    last = {manifest.BUILD_FILE, manifest.MANIFEST_FILE, *card.NAMES}
    if not last <= set(store.list()) or resume.strays(store, tasks):
        return False
    return manifest.read_build(store.location).plan_digest == prepared.digest


# Before packing


def _with_aligner(configuration: Configuration, place: Place) -> tuple[Configuration, Aligner | None]:
    """What cuts out the faces, and the configuration with the checksums of the models that it uses."""
    if configuration.detector != "hog":
        configuration = replace(configuration, mmod=sha256_of(align.network_file(configuration)))
    if configuration.align != "chip" or configuration.landmarks_from == "labels":
        if place.landmarks:
            raise FieldError("landmarks", place.landmarks, "only align chip without labels goes by it")
        return configuration, Aligner.of(configuration)
    file = align.landmarks_file(place.landmarks)
    digest = sha256_of(file)
    if configuration.landmarks not in ("", digest):
        raise UsageError(f"{file}: another landmark model (sha256 {digest}) than the configuration names")
    return replace(configuration, landmarks=digest), Aligner.of(configuration, landmarks=file)


def _prepared(configuration: Configuration, place: Place) -> Prepared:
    """Index, label and plan; log rows that cannot be read, images left out, people in several splits."""
    prepared = prepare_build(configuration, src=place.src, leave_out=place.leave_out, own=place.labels)
    for text in prepared.plan.notes:
        log.info(text)
    for why, number in prepared.index.left_out.items():
        examples = prepared.index.examples[why]
        more = ", ..." if number > len(examples) else ""
        log.info("%s left out: %s (%s%s)", f"{number:,}", why, ", ".join(examples), more)
    for text in prepared.warnings:
        log.warning(text)
    if unparsed := prepared.index.unparsed:
        log.warning("%s rows cannot be read (all are listed in %s):", f"{len(unparsed):,}", manifest.BUILD_FILE)
        for line in unparsed[:3]:
            log.info("  %s", line)
    if number := prepared.plan.num_leaking:
        log.warning("%s people are in more than one split; an identity split keeps them apart", f"{number:,}")
    return prepared


def _check_images(prepared: Prepared) -> None:
    """Refuse, before the work, a source without any of the images."""
    if not prepared.plan.shards:
        where, table = prepared.source.location, prepared.plan.table
        first = f"{table['source'][0]}"
        instead = beside(first, prepared.source)
        raise JobError(f"{where}: none of the {len(table):,} images is there, such as {first}; {instead}")


def _tasks(prepared: Prepared, store: Store) -> list[ShardTask]:
    versions = manifest.versions()
    tasks = []
    for shard in prepared.plan.shards:
        # A copy: a slice would take the whole table along when it is sent to a worker.
        rows = prepared.plan.table.take(pa.array(range(shard.start, shard.stop)))
        source = prepared.source.subset(rows["source"].to_pylist())
        class_names = prepared.plan.class_names
        tasks.append(ShardTask(shard.name, rows, source, store, prepared.configuration, class_names, versions))
    return tasks


# After packing


def _finish(prepared: Prepared, store: Store, results: list[ShardResult]) -> Build:
    """Write the manifest, then build.json, which makes the build complete."""
    planned, configuration = prepared.plan, prepared.configuration
    table = _whole_table(prepared, store, results)
    counts = manifest.count(table)
    if not manifest.total(counts, statuses=[Status.PACKED]):
        resume.delete_unpacked(store)
        reasons = _reasons(counts)
        if manifest.total(counts, statuses=[Status.NO_DECODER]):
            reasons += f" ({Status.NO_DECODER.meaning})"
        raise JobError(f"{prepared.source.location}: none of {len(table):,} images can be packed: {reasons}")
    metadata = {
        "dataset": configuration.dataset,
        "configuration": asdict(configuration),
        "class_names": planned.class_names,
    }
    table = manifest.with_nullable_integers(table.cast(manifest.schema(table.schema, metadata)))
    manifest.write_table(store, manifest.MANIFEST_FILE, table=table)
    train = [result.moments for result in results if result.record.name.startswith("train")]
    mean_std = sum(train, Moments()).mean_std()
    made = Build(
        dataset=configuration.dataset,
        configuration=configuration,
        digest=configuration.digest,
        versions=manifest.versions(),
        class_names=list(planned.class_names),
        counts=counts,
        mean=mean_std and mean_std[0],
        std=mean_std and mean_std[1],
        shards=[result.record for result in results if result.record.num_samples],
        unparsed=list(prepared.index.unparsed),
        left_out=prepared.left_out,
        left_out_examples=prepared.index.examples,
        plan_digest=prepared.digest,
        num_padded=sum(result.num_padded for result in results),
        num_squashed=sum(result.num_squashed for result in results),
    )
    for name, content in card.card_files(made, table.schema).items():
        store.write(name, content)
    store.write(manifest.BUILD_FILE, made.to_json())
    return made


def _warn_of_empty_classes(made: Build) -> None:
    """Name the classes of which no photo is packed, each with what became of its rows."""
    empty = [
        name for name in made.class_names if not manifest.total(made.counts, class_name=name, statuses=[Status.PACKED])
    ]
    if empty:
        first = ", ".join(f"{name} ({_reasons(made.counts, name) or 'no rows'})" for name in empty[:_NUM_NAMED])
        more = f" and {len(empty) - _NUM_NAMED:,} more" if len(empty) > _NUM_NAMED else ""
        log.warning("%s of %s classes have no packed photo: %s%s", len(empty), len(made.class_names), first, more)


def _reasons(counts: manifest.Counts, class_name: str | None = None) -> str:
    """How many rows were not packed, by status, of one class or all."""
    by_status = {status: manifest.total(counts, class_name=class_name, statuses=[status]) for status in Status}
    return ", ".join(f"{number:,} {status}" for status, number in by_status.items() if number)


def _whole_table(prepared: Prepared, store: Store, results: list[ShardResult]) -> pa.Table:
    """The tables of all shards, then the rows that are in none."""
    parts = [manifest.read_table(store, result.record.name.replace(".tar", ".parquet")) for result in results]
    planned = prepared.plan.table
    rest = planned.slice(prepared.plan.shards[-1].stop)
    schema = manifest.schema(planned.schema)
    columns = {
        field.name: rest[field.name] if field.name in rest.column_names else pa.nulls(len(rest), field.type)
        for field in schema
    }
    unpacked = pa.table(columns, schema=schema)
    return pa.concat_tables([part.replace_schema_metadata() for part in parts] + [unpacked])


def default_out(configuration: Configuration) -> str:
    """Where a build goes: builds/<dataset>[-<classes>]."""
    classes = (configuration.classes or configuration.age_bins).replace(",", "-").replace(":", "-").replace("/", "-")
    if len(classes) > _LONGEST_NAME:  # many names: the first of them, and a digest of all
        classes = f"{classes[:_LONGEST_NAME]}-{hashlib.sha256(classes.encode()).hexdigest()[:8]}"
    return f"builds/{configuration.dataset}" + (f"-{classes}" if classes else "")
