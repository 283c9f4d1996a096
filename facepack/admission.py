"""Admission: what a worker shows before its first shard, that it has the source and the output of the driver."""

import hashlib
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import cv2

from facepack.align import Aligner
from facepack.configuration import Configuration
from facepack.errors import JobError
from facepack.labelled_faces import Cut
from facepack.lock import BUILD, Work, token_in
from facepack.shard import Reject, ShardResult, ShardTask, outcomes_of, pack
from facepack.sighting import Sighting, sighting_of
from facepack.source import Source
from facepack.storage import Store

NUM_READ, NUM_PACKED = 16, 2
"""Files of the source that every worker reads and compares; and packs, too."""
_NUM_TRIED = 64


@dataclass(frozen=True)
class Ground:
    """Where and how the driver builds: what all workers have to see alike."""

    source: Source
    store: Store
    configuration: Configuration
    aligner: Aligner | None
    token: str
    """What the driver's lock in the output says."""


@dataclass(frozen=True)
class Terms:
    """The ground of a build, and checksums of some files of the source: as they are, and as they are packed."""

    ground: Ground
    sources: dict[str, str]
    packed: dict[str, str]
    is_elsewhere: bool = False
    """True where workers may be on other machines: they tell how they see the files of each shard."""

    def faults(self) -> list[str]:
        """What this machine lacks, each fit to follow its name."""
        return faults(self)

    def outcomes(self, pickled: bytes) -> bytes:
        """Pack shards: a pickled list of pickled tasks in, a pickled list of their results out."""
        return packed_tasks(pickled, self)


def terms_of(ground: Ground, paths: list[str]) -> Terms:
    """The terms of a build: checksums of some of its files, others each time; without `paths` for workers here."""
    is_elsewhere = bool(paths)
    paths = random.SystemRandom().sample(paths, min(_NUM_TRIED, len(paths)))
    sources: dict[str, str] = {}
    packed: dict[str, str] = {}
    for path in paths:
        with suppress(OSError):  # packing says what became of it
            content = ground.source.read(path)
            sources[path] = hashlib.sha256(content).hexdigest()
            if len(packed) < NUM_PACKED:
                packed[path] = _packed_digest(content, ground)
        if len(sources) == NUM_READ:
            break
    source = ground.source.subset(sources)
    return Terms(replace(ground, source=source), sources, packed, is_elsewhere)


def faults(terms: Terms) -> list[str]:
    """What this machine lacks of the terms, each fit to follow its name."""
    cv2.setNumThreads(1)
    ground = terms.ground
    at_fault = [*_source_faults(terms), *output_faults(ground.store, work=BUILD, token=ground.token)]
    return at_fault or list(_packing_faults(terms))


def _source_faults(terms: Terms) -> Iterator[str]:
    """The first file of the source that is not as the driver has it."""
    source = terms.ground.source
    for path, digest in terms.sources.items():
        try:
            content = source.read(path)
        except FileNotFoundError:
            yield f"does not see {source.location} ({path} is not there)"
        except (OSError, JobError) as error:
            yield f"cannot read {source.location} ({path}: {_reason(error)})"
        else:
            if hashlib.sha256(content).hexdigest() == digest:
                continue
            yield f"has other files in {source.location} ({path} has other bytes)"
        return


def output_faults(store: Store, *, work: Work, token: str) -> Iterator[str]:
    """Why this machine cannot write where the driver does, which holds the place for some work."""
    try:
        if token_in(store, work) != token:
            yield f"sees another folder at {store.location}, without the lock of this {work.name}"
            return
        with suppress(_Unwritten), store.writer(f"{work.lock_file}.{token}") as file:
            file.write(token.encode())
            raise _Unwritten
    except (OSError, JobError) as error:
        yield f"cannot write to {store.location} ({_reason(error)})"


class _Unwritten(Exception):  # noqa: N818
    """A file may be written, and is not."""


def _packing_faults(terms: Terms) -> Iterator[str]:
    """The first file that this machine packs to other bytes."""
    for path, digest in terms.packed.items():
        if _packed_digest(terms.ground.source.read(path), terms.ground) != digest:
            yield f"packs {path} to other bytes: its processor or a library is another"
            return


def _packed_digest(content: bytes, ground: Ground) -> str:
    """sha256 of what becomes of a photo; faces that labels place are not looked at."""
    cut: Cut | None = ground.aligner
    digest = hashlib.sha256()
    for outcome in outcomes_of(content, ground.configuration, aligner=cut):
        digest.update(outcome.status.encode() if isinstance(outcome, Reject) else outcome.content)
    return digest.hexdigest()


def packed_tasks(pickled: bytes, terms: Terms) -> bytes:
    """Pack shards: a pickled list of pickled tasks in, a pickled list of their results and sightings out.

    It ends with the error that ends the build, where there is one.
    """
    return done_tasks(pickled, lambda task: _packed(task, terms))


def done_tasks(pickled: bytes, work: Callable[[Any], Any]) -> bytes:
    """Do the tasks of a pickled list of pickled ones: a pickled list of what `work` gives of each.

    It ends with the error that ends the job, where there is one.
    """
    outcomes: list[Any] = []
    for task in pickle.loads(pickled):  # noqa: S301 - made by the driver
        try:
            outcomes.append(work(pickle.loads(task)))  # noqa: S301 - likewise
        except (OSError, JobError) as error:
            outcomes.append(error)
            break
    return pickle.dumps(outcomes)


def _packed(task: ShardTask, terms: Terms) -> tuple[ShardResult, Sighting]:
    """The result of a shard, and the files of its images as they were before."""
    seen: Sighting = {}
    if terms.is_elsewhere and not task.source.store.is_remote:
        rows, source = task.rows()
        seen = sighting_of(source, rows["source"].to_pylist())
    return pack(task, aligner=terms.ground.aligner), seen


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or f"{error}"
