"""Workers: packs shards one after another in this process, or in parallel on Ray Data."""

import logging
import os
import pickle
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from facepack.align import Aligner
from facepack.cores import num_cores
from facepack.errors import JobError
from facepack.manifest import Status
from facepack.shard import ShardResult, ShardTask, pack

RAY_PAYS_AFTER_S = 20.0
"""Work for one process that is done sooner on two cores, although Ray takes some eight seconds to start and stop."""
RAY_CONNECTS_WITHIN_S = 10.0
IMAGES_IN_BATCH = 500
"""Images that a worker packs at a call, about: half a second of work."""
BATCHES_PER_WORKER = 8
"""The least number of batches that a worker gets, so that all are done at about the same time."""
ALIGNING_S = {"hog": 0.005, "hog+cnn": 0.02, "cnn": 0.5}
"""About the least that finding a face takes in one photo, by detector."""

_LOCAL_RAY = {"include_dashboard": False, "object_store_memory": 256 << 20}


class Progress(Protocol):
    """What follows a build."""

    def expect(self, num_images: int) -> None:
        """So many images are to be packed."""

    def begin(self, at: float) -> None:
        """A worker began at this time, in Unix seconds."""

    def advance(self, num_images: int, num_rejects: int) -> None:
        """So many images more are done, and so many of them rejected."""

    @property
    def seconds(self) -> float:
        """Seconds from when the first worker began to when the last image was done."""


class SilentProgress:
    """Measures how long packing takes, and shows nothing."""

    def __init__(self) -> None:
        self._begun = float("inf")
        self._last = 0.0

    def expect(self, num_images: int) -> None:
        """Nothing is shown, so nothing is kept."""

    def begin(self, at: float) -> None:
        """Count from the first worker on."""
        self._begun = min(self._begun, at)

    def advance(self, num_images: int, num_rejects: int) -> None:  # noqa: ARG002 - of the protocol
        """Count up to now."""
        self._last = time.time()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return max(0.0, self._last - self._begun)


def packed(
    tasks: list[ShardTask],
    *,
    aligner: Aligner | None,
    workers: int | None,
    ray_address: str,
    progress: Progress,
) -> Iterator[ShardResult]:
    """Pack shards, in this process (no workers) or on Ray; results come in no particular order.

    Where the number of workers is left to us, the first shard is packed here and shows whether starting Ray pays.
    """
    if not tasks:
        return
    begun = time.time()
    if workers is None and not ray_address:
        if aligner is not None and _num_images(tasks) * ALIGNING_S[aligner.detector] > RAY_PAYS_AFTER_S:
            workers = num_cores()  # the first shard alone would take as long as starting Ray
        else:
            progress.begin(begun)
            yield pack(tasks[0], aligner=aligner, progress=progress.advance)
            tasks = tasks[1:]
            workers = 0 if (time.time() - begun) * len(tasks) < RAY_PAYS_AFTER_S else num_cores()
    if workers == 0:
        progress.begin(begun)
        for task in tasks:
            yield pack(task, aligner=aligner, progress=progress.advance)
    elif tasks:
        yield from _packed_on_ray(tasks, aligner=aligner, pool=_Pool(workers, ray_address), progress=progress)


def _num_images(tasks: list[ShardTask]) -> int:
    return sum(task.num_images for task in tasks)


def batches(tasks: Sequence[ShardTask], *, num_workers: int) -> list[list[ShardTask]]:
    """The tasks in batches for a worker at a time, long shards first, so that nobody is left with one at the end.

    A small shard is packed in less time than Ray takes to hand it over: several make a batch, as long as every worker
    gets some batches.
    """
    num_images = min(IMAGES_IN_BATCH, _num_images(list(tasks)) / (num_workers * BATCHES_PER_WORKER))
    made: list[list[ShardTask]] = []
    room = 0.0
    for task in sorted(tasks, key=lambda task: -task.num_images):
        if room < task.num_images:
            made.append([])
            room = num_images
        made[-1].append(task)
        room -= task.num_images
    return made


class Packer:
    """A Ray actor that packs shards, some a call; it holds the detector."""

    def __init__(self, aligner: Aligner | None) -> None:
        self._aligner = aligner

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Take pickled tasks, give their pickled results, or last the error that ends the build."""
        begun = time.time()
        outcomes: list[Any] = []
        try:
            tasks = pickle.loads(batch["tasks"][0])  # noqa: S301 - made by this build
            outcomes.extend(pack(task, aligner=self._aligner) for task in tasks)
        except (OSError, JobError) as error:
            outcomes.append(error)
        return {"outcomes": [pickle.dumps((begun, outcomes))]}


@dataclass(frozen=True)
class _Pool:
    """How many workers (None: as many as there are cores), on this machine or on the cluster at an address."""

    size: int | None
    address: str


def _packed_on_ray(
    tasks: list[ShardTask], *, aligner: Aligner | None, pool: _Pool, progress: Progress
) -> Iterator[ShardResult]:
    """Shards through a pool of actors, small ones several at a time."""
    with _ray(pool) as ray:
        size = min(pool.size or max(int(ray.cluster_resources().get("CPU", 1)), 1), len(tasks))
        rows = [{"tasks": pickle.dumps(batch)} for batch in batches(tasks, num_workers=size)]
        outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Packer,
            fn_constructor_kwargs={"aligner": aligner},
            batch_size=1,
            num_cpus=1,
            # Enough in hand that no worker waits for the driver, which looks up only ten times a second.
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=4),
        )
        for batch in outcomes.iter_batches(batch_size=None, prefetch_batches=0):
            for pickled in batch["outcomes"]:
                begun, outcomes = pickle.loads(pickled)  # noqa: S301 - made by our own workers
                progress.begin(begun)
                for outcome in outcomes:
                    if isinstance(outcome, Exception):
                        raise outcome
                    num_images = sum(outcome.statuses.values())
                    progress.advance(num_images, num_images - outcome.statuses.get(Status.PACKED, 0))
                    yield outcome


@contextmanager
def _ray(pool: _Pool) -> Iterator[Any]:
    """A private Ray on this machine, the cluster at an address, or the Ray that this process has; quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")  # nobody would see them, and they take 7 % of a core
    import ray
    import ray.data

    ours = not ray.is_initialized()
    if ours:
        local = {"address": "local", "num_cpus": pool.size, **_LOCAL_RAY}
        where = {"address": pool.address} if pool.address else local
        _check_listens(pool.address)
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ValueError, ConnectionError) as error:
            raise JobError(f"Ray at {pool.address or 'this machine'}: {_first_line(error)}") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    except ray.exceptions.RayError as error:
        raise JobError(f"Ray: {_first_line(error)}; what is finished is kept") from error
    finally:
        if ours:
            ray.shutdown()


def _check_listens(address: str) -> None:
    """Refuse an address at which nobody listens; Ray itself would wait for minutes without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():  # not so with auto, nor where Ray has its own complaint
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=RAY_CONNECTS_WITHIN_S).close()
        except (OSError, OverflowError) as error:
            raise JobError(f"Ray at {address}: {error}; give the address of a running head") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
