"""Building: indexes, labels and plans a dataset, has its shards packed, and writes what came of it."""

import hashlib
import logging
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace

import pyarrow as pa

from facepack import align, card, lock, manifest, plan_file, resume
from facepack.admission import Ground
from facepack.align import Aligner
from facepack.closing import close, warn_of_empty_classes
from facepack.configuration import Configuration
from facepack.errors import FieldError, JobError, UsageError
from facepack.fingerprint import fingerprint_of
from facepack.hashing import sha256_of
from facepack.leave_out import read_leave_out
from facepack.manifest import Build
from facepack.matching import beside
from facepack.open_rows import OwnTable
from facepack.own_people import read_own_people
from facepack.plan_head import PlanHead, PlannedShard, Remarks, read_head, write_head
from facepack.prepare import Prepared, fetch_offered, prepare_build, source_of
from facepack.ray_options import RayOptions
from facepack.shard import ShardResult, ShardTask, digest_of
from facepack.source import Source
from facepack.storage import Store
from facepack.workers import Progress, SilentProgress, packed

log = logging.getLogger("facepack")

_LONGEST_NAME = 80


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
    people: str = ""
    """Table of `facepack people` of who is on which image; empty for none. What is in it decides bytes."""

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
    prepared = prepare_build(
        configuration, src=place.src, leave_out=place.leave_out, own=place.labels, people=place.people
    )
    _log(prepared.remarks)
    return prepared


def build(configuration: Configuration, *, place: Place, progress: Progress | None = None) -> Outcome:
    """Make a build, or finish one that was interrupted; `progress` follows it.

    Shards that are finished stay. A class without an image that can be packed stays in the list of classes and is
    named. Raises `JobError` where the place holds another build, another build is at work, no image at all can be
    packed, or something cannot be written; where nothing was packed, the place is left as it was found.
    """
    begun = time.time()
    progress = progress or SilentProgress()
    configuration, aligner = _with_aligner(configuration, place)
    plan = _plan(configuration, place)
    planning_s = time.time() - begun
    store = Store(place.out)
    resume.check_place(store, plan.head.configuration)
    with store.made(), lock.held(store, work=lock.BUILD) as holder:
        resume.check_place(store, plan.head.configuration)
        store.delete_temporary()
        tasks = _tasks(plan, store)
        results = resume.finished(store, tasks, source=plan.source, force=place.force)
        todo = [task for task in tasks if task.name not in results]
        if not todo and _is_complete(plan.head, store, tasks):
            made = manifest.read_build(place.out)
            warn_of_empty_classes(made)
            return Outcome(made, place.out, num_kept_shards=len(results))
        plan.move(store)
        store.delete(manifest.BUILD_FILE)
        num_kept = len(results)
        num_images = sum(task.num_images for task in todo)
        progress.expect(num_images)
        ground = Ground(plan.source, store, plan.head.configuration, aligner, holder.token)
        packing = packed(todo, ground=ground, workers=place.workers, ray=place.ray, progress=progress)
        results |= _collected(packing, holder)
        for name in resume.strays(store, tasks):
            store.delete(name)
        made = close(plan.head, store, [results[task.name] for task in tasks], source=plan.source)
    warn_of_empty_classes(made)
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


def _is_complete(plan: PlanHead, store: Store, tasks: list[ShardTask]) -> bool:
    """True where all that is written last is there, and of this very plan."""
    last = {manifest.BUILD_FILE, manifest.MANIFEST_FILE, *card.NAMES}
    if not last <= set(store.list()) or resume.strays(store, tasks):
        return False
    return manifest.read_build(store.location).plan_digest == plan.digest


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


@dataclass
class _Plan:
    """A plan, with its rows until these are in the place of the build."""

    head: PlanHead
    source: Source
    rows: pa.Table | None

    def move(self, store: Store) -> None:
        """Write the rows to the place of the build, and keep none of them in memory; not where they are there."""
        if self.rows is not None:
            resume.check_images(store, self.rows["key"])
            plan_file.delete(store)
            sizes = [shard.num_images for shard in self.head.shards]
            plan_file.write_rows(store, self.rows, sizes, source=self.source)
            write_head(store, self.head)
        self.rows = None
        pa.default_memory_pool().release_unused()


def _plan(configuration: Configuration, place: Place) -> _Plan:
    """The plan that an interrupted build has left, if it was made from the same; else index, label and plan."""
    store, listed = Store(place.out), read_leave_out(place.leave_out)
    configuration = replace(configuration, people=read_own_people(place.people).digest)
    with fetch_offered(configuration.described, place.src):
        source = source_of(configuration.described, place.src)
    made_from = fingerprint_of(configuration, source, leave_out=listed, own=place.labels)
    head = None if place.force else read_head(store, made_from)
    if head is not None:
        log.info("%s: going on by the plan that is there", store.location)
        _log(head.remarks)
        return _Plan(head, source, None)
    prepared = prepare_build(
        configuration,
        src=place.src,
        leave_out=place.leave_out,
        own=place.labels,
        people=place.people,
        source=source,
    )
    _log(prepared.remarks)
    with fetch_offered(prepared.description, place.src):
        _check_images(prepared)
    return _Plan(_head_of(prepared, made_from), prepared.source, prepared.plan.table)


def _log(remarks: Remarks) -> None:
    """Log rows that cannot be read, images left out, people in several splits."""
    for text in remarks.notes:
        log.info(text)
    for why, examples in remarks.left_out_examples.items():
        number = remarks.left_out[why]
        more = ", ..." if number > len(examples) else ""
        log.info("%s left out: %s (%s%s)", f"{number:,}", why, ", ".join(examples), more)
    for text in remarks.warnings:
        log.warning(text)
    if unparsed := remarks.unparsed:
        log.warning("%s rows cannot be read (all are listed in %s):", f"{len(unparsed):,}", manifest.BUILD_FILE)
        for line in unparsed[:3]:
            log.info("  %s", line)
    if number := remarks.num_leaking:
        log.warning("%s people are in more than one split; an identity split keeps them apart", f"{number:,}")


def _check_images(prepared: Prepared) -> None:
    """Refuse, before the work, a source without any of the images."""
    if not prepared.plan.shards:
        where, table = prepared.source.location, prepared.plan.table
        first = f"{table['source'][0]}"
        instead = beside(first, prepared.source)
        raise JobError(f"{where}: none of the {len(table):,} images is there, such as {first}; {instead}")


def _head_of(prepared: Prepared, made_from: str) -> PlanHead:
    """All of a plan but its rows."""
    plan, configuration = prepared.plan, prepared.configuration
    facts = {"versions": manifest.versions(), "class_names": plan.class_names}
    shards = []
    for shard in plan.shards:
        rows = plan.table.take(pa.array(range(shard.start, shard.stop)))
        digest = digest_of(rows, shard.name, configuration=configuration, facts=facts)
        shards.append(PlannedShard(shard.name, len(rows), digest))
    return PlanHead(
        fingerprint=made_from,
        configuration=configuration,
        class_names=plan.class_names,
        num_rows=len(plan.table),
        shards=tuple(shards),
        columns_with_nulls=tuple(name for name in plan.table.column_names if plan.table[name].null_count),
        digest=prepared.digest,
        remarks=prepared.remarks,
    )


def _tasks(plan: _Plan, store: Store) -> list[ShardTask]:
    """A task per shard; its rows are in the plan."""
    head, source, versions = plan.head, plan.source.bare, manifest.versions()
    return [
        ShardTask(
            name=shard.name,
            number=number,
            num_images=shard.num_images,
            digest=shard.digest,
            source=source,
            store=store,
            configuration=head.configuration,
            class_names=head.class_names,
            versions=versions,
        )
        for number, shard in enumerate(head.shards)
    ]


def default_out(configuration: Configuration) -> str:
    """Where a build goes: builds/<dataset>[-<classes>]."""
    classes = (configuration.classes or configuration.age_bins).replace(",", "-").replace(":", "-").replace("/", "-")
    if len(classes) > _LONGEST_NAME:  # many names: the first of them, and a digest of all
        classes = f"{classes[:_LONGEST_NAME]}-{hashlib.sha256(classes.encode()).hexdigest()[:8]}"
    return f"builds/{configuration.dataset}" + (f"-{classes}" if classes else "")
