"""Describing: a descriptor for every packed image of a finished build, shard by shard, here or on Ray."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import align, lock, manifest
from facepack.admission import done_tasks, output_faults
from facepack.align import Box
from facepack.cores import num_cores
from facepack.descriptor_network import BATCH, NUM_VALUES, SHA256, network
from facepack.descriptors import FILE, SCHEMA, Origin, as_column, digest_of_shards
from facepack.errors import JobError, UsageError
from facepack.face_places import FaceFinder, FaceStatus, Place, chip_of, usual_box
from facepack.hashing import json_digest, sha256_of
from facepack.image import Pixels
from facepack.lock import DESCRIBE
from facepack.manifest import Build, ShardRecord
from facepack.ray_options import RayOptions, cluster_of
from facepack.ray_process import Pool, done_on_ray
from facepack.reader import decode_bgr
from facepack.storage import Store
from facepack.workers import RAY_PAYS_AFTER_S, Progress, SilentProgress

PER_IMAGE_S = 0.025
"""About what an image takes of a core: whether Ray pays is decided by it."""
_PART = ".describe.{}.parquet"
"""The descriptors of a shard until all are there; hidden, so that nobody takes it for a part of the build."""


@dataclass(frozen=True)
class Describer:
    """What describes images: it goes to other processes as it is."""

    finder: FaceFinder

    def __call__(self, chips_rgb: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Descriptors of chips, uint8 RGB (150, 150, 3): float32 (num_chips, 128).

        Each is the mean of those of the chip and of its mirror image: of the pairs of 169 thumbnails of CelebA that are
        one person it finds 79 % where one in a thousand others is taken for a pair, without the mirror image 76 %.
        """
        if not chips_rgb:
            return np.zeros((0, NUM_VALUES), np.float32)
        chips = np.stack(chips_rgb)
        both: npt.NDArray[np.float32] = (network()(chips) + network()(chips[:, :, ::-1])) / np.float32(2)
        return both


@dataclass(frozen=True)
class Task:
    """The images of one shard."""

    record: ShardRecord
    store: Store
    build: Build
    digest: str
    """Of everything that decides what comes of it."""

    @property
    def num_images(self) -> int:
        """Images in the shard."""
        return self.record.num_samples


@dataclass(frozen=True)
class Result:
    """What came of a shard: images per `FaceStatus`."""

    name: str
    num_images: int
    faces: dict[str, int]


@dataclass(frozen=True)
class Terms:
    """What workers describe with, and what they show before (`facepack.ray_process.Terms`)."""

    describer: Describer
    store: Store
    token: str
    """What the driver's lock says."""

    def faults(self) -> list[str]:
        """What this machine lacks, each fit to follow its name."""
        try:
            network()
        except UsageError as error:
            return [f"cannot describe: {error}"]
        return list(output_faults(self.store, work=DESCRIBE, token=self.token))

    def outcomes(self, pickled: bytes) -> bytes:
        """Describe shards: a pickled list of pickled tasks in, a pickled list of their results out."""
        return done_tasks(pickled, lambda task: described_shard(task, self.describer))


@dataclass(frozen=True)
class Outcome:
    """A described build, and how it went: images described in this run, and seconds of it."""

    location: str
    faces: dict[str, int]
    """Images per `FaceStatus`."""
    num_images: int = 0
    seconds: float = 0.0
    num_kept_shards: int = 0


@dataclass(frozen=True)
class How:
    """On how many processes (0: this one, None: as many as cores where that pays), and on which Ray."""

    workers: int | None = None
    ray: RayOptions = field(default_factory=RayOptions)
    landmarks: str = ""
    """File of the landmark model; empty to look for it."""


def describe(location: str, *, how: How | None = None, progress: Progress | None = None) -> Outcome:
    """Write the descriptors of all packed images of a build into a table beside its manifest.

    What an interrupted run has finished stays. Raises `JobError` where there is no complete build, or it is being
    described already, `UsageError` where a model is missing.
    """
    how, progress = how or How(), progress or SilentProgress()
    build, store = manifest.read_build(location), Store(location)
    describer, origin = _tools(build, how)
    if (faces := _finished(store, origin)) is not None:
        return Outcome(location, faces)
    with lock.held(store, work=DESCRIBE) as holder:
        store.delete_temporary()
        tasks = [_task(record, store, build=build, origin=origin) for record in build.shards]
        results = {task.record.name: result for task in tasks if (result := _result_of(task)) is not None}
        num_kept = len(results)
        todo = [task for task in tasks if task.record.name not in results]
        progress.expect(sum(task.num_images for task in todo))
        terms = Terms(describer, store, holder.token)
        begun = time.time()
        with closing(_described(todo, terms, how=how, progress=progress)) as coming:
            for result in coming:
                results[result.name] = result
                holder.check()
        _join(store, tasks, origin)
    faces = _sum(result.faces for result in results.values())
    return Outcome(location, faces, sum(task.num_images for task in todo), time.time() - begun, num_kept)


def _tools(build: Build, how: How) -> tuple[Describer, Origin]:
    network()  # another file is refused before any work
    landmarks = align.landmarks_file(how.landmarks)
    finder = FaceFinder(build.configuration, align.predictor_of(landmarks))
    return Describer(finder), Origin(digest_of_shards(build), SHA256, sha256_of(landmarks))


def _task(record: ShardRecord, store: Store, *, build: Build, origin: Origin) -> Task:
    own = replace(origin, shards=f"{record.name} {record.sha256}")
    return Task(record, store, build, json_digest(asdict(own)))


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = sum(map(Counter, counts), Counter[str]())
    return {f"{status}": total[status] for status in FaceStatus if total[status]}


# What is there already


def _finished(store: Store, origin: Origin) -> dict[str, int] | None:
    """Images per status of the table that is there, None where there is none, or it is of something else."""
    try:
        table = manifest.read_table(store, FILE, columns=["face"])
    except (FileNotFoundError, JobError):
        return None
    if manifest.metadata_of(table) != asdict(origin):
        return None
    return _sum([Counter(table["face"].to_pylist())])


def _result_of(task: Task) -> Result | None:
    """What an earlier run made of a shard, None where that is not there or not whole."""
    try:
        table = manifest.read_table(task.store, _PART.format(task.record.name), columns=["face"])
    except (FileNotFoundError, JobError):
        return None
    if manifest.metadata_of(table).get("digest") != task.digest:
        return None
    return _result(task, table["face"].to_pylist())


def _result(task: Task, faces: list[str]) -> Result:
    return Result(task.record.name, len(faces), dict(Counter(faces)))


# Working


def _described(tasks: list[Task], terms: Terms, *, how: How, progress: Progress) -> Generator[Result]:
    """Describe shards in this process, or on Ray where that pays; results come in no particular order."""
    if not tasks:
        return
    cluster = None if how.workers == 0 else cluster_of(how.ray)
    workers = how.workers
    if workers is None and cluster is None:
        takes_s = PER_IMAGE_S * sum(task.num_images for task in tasks)
        workers = 0 if takes_s < RAY_PAYS_AFTER_S or len(tasks) == 1 or num_cores() == 1 else num_cores()
    if workers == 0:
        progress.begin(time.time())
        for task in tasks:
            result = described_shard(task, terms.describer)
            progress.advance(result.num_images, result.faces.get(FaceStatus.NO_FACE, 0))
            yield result
        return
    for begun, _, result in done_on_ray(tasks, pool=Pool(workers, how.ray, cluster), terms=terms):
        progress.begin(begun)
        progress.advance(result.num_images, result.faces.get(FaceStatus.NO_FACE, 0))
        yield result


def described_shard(task: Task, describer: Describer) -> Result:
    """Describe the images of one shard, and write them; `JobError` where the shard is not as build.json has it."""
    cv2.setNumThreads(1)  # one process per core: threads would only get in the way
    shard = _Shard.read(task)
    places = list(shard.places(describer.finder))
    is_described = np.array([place.landmarks is not None for place in places], bool)
    values = np.zeros((len(places), NUM_VALUES), np.float32)
    for start in range(0, len(places), BATCH):
        rows = start + np.flatnonzero(is_described[start : start + BATCH])
        values[rows] = describer([shard.chip(row, places[row]) for row in rows.tolist()])
    landmarks = [None if place.landmarks is None else place.landmarks.ravel() for place in places]
    faces = [f"{place.status}" for place in places]
    columns = [shard.rows["key"], as_column(values, is_described), faces, [place.box for place in places], landmarks]
    schema = SCHEMA.with_metadata({manifest.METADATA_KEY: json.dumps({"digest": task.digest})})
    table = pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)
    manifest.write_table(task.store, _PART.format(task.record.name), table=table)
    return _result(task, faces)


@dataclass(frozen=True)
class _Shard:
    """The images of a shard, which are decoded when they are looked at: twice, for all would not fit into memory."""

    task: Task
    content: bytes
    rows: pa.Table

    @classmethod
    def read(cls, task: Task) -> "_Shard":
        name, store = task.record.name, task.store
        try:
            content = store.read(name)
            table = manifest.read_table(store, name.replace(".tar", ".parquet"))
        except FileNotFoundError as error:
            raise JobError(f"{error}; facepack verify {store.location} names what is wrong") from error
        if hashlib.sha256(content).hexdigest() != task.record.sha256:
            raise JobError(f"{store.location}/{name}: not as build.json has it; facepack verify {store.location}")
        rows = table.filter(pc.equal(table["status"], manifest.Status.PACKED))
        return cls(task, content, rows.select(["key", "offset", "size", "box"]).combine_chunks())

    def image(self, row: int) -> Pixels:
        offset, size = self.rows["offset"][row].as_py(), self.rows["size"][row].as_py()
        where = f"{self.task.store.location}/{self.task.record.name}"
        return decode_bgr(self.content[offset : offset + size], self.task.build, where=where)

    def places(self, finder: FaceFinder) -> Iterator[Place]:
        """The face of each image; where none is found, the usual place of the others', if they have one."""
        first_look, sizes_wh = [], []
        for row, box in enumerate(self.rows["box"].to_pylist()):
            image_hwc = self.image(row)
            first_look.append(finder(image_hwc, None if box is None else Box(*box)))
            sizes_wh.append((image_hwc.shape[1], image_hwc.shape[0]))
        usual = usual_box(list(zip(first_look, sizes_wh, strict=True)))
        for row, place in enumerate(first_look):
            if place.status == FaceStatus.NO_FACE and usual is not None:
                sides = Box(*(part * side for part, side in zip(usual, 2 * sizes_wh[row], strict=True)))
                yield finder.at(self.image(row), sides, FaceStatus.USUAL)
            else:
                yield place

    def chip(self, row: int, place: Place) -> Pixels:
        assert place.landmarks is not None
        return chip_of(self.image(row), place.landmarks)


# Joining


def _join(store: Store, tasks: list[Task], origin: Origin) -> None:
    """Write the table of all shards, and remove their own."""
    names = [_PART.format(task.record.name) for task in tasks]
    schema = origin.schema()
    tables = (manifest.read_table(store, name).cast(schema) for name in names)
    manifest.write_tables(store, FILE, schema=schema, tables=tables)
    for name in names:
        store.delete(name)
