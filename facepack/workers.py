"""Workers: packs shards one after another in this process, or in parallel on Ray where that pays."""

import time
from collections.abc import Generator, Iterator
from typing import Protocol

from facepack import node_log, second_look
from facepack.admission import Ground, terms_of
from facepack.cores import num_cores
from facepack.manifest import Status
from facepack.ray_options import RayOptions, cluster_of
from facepack.ray_process import Pool, done_on_ray
from facepack.shard import ShardResult, ShardTask, pack

RAY_PAYS_AFTER_S = 20.0
"""Work for one process that is done sooner on two cores, although Ray takes some eight seconds to start and stop."""
ALIGNING_S = {"hog": 0.005, "hog+cnn": 0.02, "cnn": 0.5}
"""About the least that finding a face takes in one photo, by detector."""
_TASKS_SEEN = 16
"""Shards whose images are looked at before packing on a cluster."""


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
    tasks: list[ShardTask], *, ground: Ground, workers: int | None, ray: RayOptions, progress: Progress
) -> Generator[ShardResult]:
    """Pack shards, in this process (no workers) or on Ray; results come in no particular order.

    Where the number of workers is left to us, the first shard is packed here and shows whether starting Ray pays.
    """
    if not tasks:
        return
    cluster = None if workers == 0 else cluster_of(ray)
    begun = time.time()
    if workers is None and cluster is None:
        aligner = ground.aligner
        if (
            aligner is not None
            and sum(task.num_images for task in tasks) * ALIGNING_S[aligner.detector] > RAY_PAYS_AFTER_S
        ):
            workers = num_cores()  # the first shard alone would take as long as starting Ray
        else:
            progress.begin(begun)
            yield pack(tasks[0], aligner=aligner, progress=progress.advance)
            tasks = tasks[1:]
            workers = 0 if (time.time() - begun) * len(tasks) < RAY_PAYS_AFTER_S else num_cores()
    if workers == 0:
        progress.begin(begun)
        for task in tasks:
            yield pack(task, aligner=ground.aligner, progress=progress.advance)
    elif tasks:
        yield from _packed_on_ray(tasks, ground, pool=Pool(workers, ray, cluster), progress=progress)


def _packed_on_ray(tasks: list[ShardTask], ground: Ground, *, pool: Pool, progress: Progress) -> Iterator[ShardResult]:
    """Pack on Ray; what workers on other machines read is looked at again, and who packed what is written down."""
    terms = terms_of(ground, _some_paths(tasks) if pool.cluster else [])
    second = second_look.SecondLook(ground)
    with node_log.written(ground.store) as nodes:
        for begun, node, (result, seen) in done_on_ray(tasks, pool=pool, terms=terms):
            progress.begin(begun)
            second_look.check_unread(result, node=node, ground=ground)
            if pool.cluster is not None:
                second.check(result, seen, node=node)
                nodes.add(result.record.name.removesuffix(".tar"), node=node, begun=begun)
            num_images = sum(result.statuses.values())
            progress.advance(num_images, num_images - result.statuses.get(Status.PACKED, 0))
            yield result


def _some_paths(tasks: list[ShardTask]) -> list[str]:
    """Images of shards from all over the build."""
    some = tasks[:: -(-len(tasks) // _TASKS_SEEN)]
    return [path for task in some for path in task.rows()[0]["source"].to_pylist()]
