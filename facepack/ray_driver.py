"""Ray driver: the process that packs on Ray Data for a build, so that nothing Ray does or prints reaches the build's.

    python -m facepack.ray_driver DESCRIPTOR

The build sends a `Job` and then the pickled tasks over a socket, and gets events: ("connected", address), ("beat",
None), ("told", line), ("packed", outcome), ("refused", line), ("failed", line) and ("done", None).
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from facepack import ray_guest
from facepack.ray_guest import Letter, Packer
from facepack.ray_nodes import SAYS_AGAIN_S, WAITS_UNSAID_S, Node, Watch

SHARDS_AHEAD = 4
"""Shards that lie ready at a worker: it never waits for the driver, which looks up only ten times a second."""
GROUPS_A_WORKER, GROUP_IMAGES = 16, 500
"""Small shards go to Ray together: at most so many images, and so many groups for each worker."""
LOOKS_WITHIN_S, INSTALLS_WITHIN_S = 60.0, 900.0
"""Longest time until a node shows what it has, and where packages are to be installed first."""
CONNECTS_WITHIN_S = 10.0
_NUM_NAMED = 5
_LOCAL_RAY = {"include_dashboard": False, "object_store_memory": 256 << 20}


@dataclass(frozen=True)
class Job:
    """What the build tells the driver before the tasks."""

    address: str
    """Of a cluster; empty for a private Ray."""
    workers: int | None
    min_workers: int | None
    worker_cpus: float
    worker_memory_bytes: int
    runtime_env: dict[str, Any]
    letter: Letter
    num_images: list[int]
    """Images of each task; as many pickled tasks follow."""


class _RefusedError(Exception):
    """A node that must not pack ends the build with one line."""


class _FailedError(Exception):
    """Ray ends the build with one line, and says more in its log."""


def main() -> None:
    """Work for the build at the other end of the socket, until all is packed or it goes away."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    events = _Events(Connection(descriptor))
    job, tasks = events.job()
    try:
        _pack(job, tasks, events)
    except _RefusedError as error:
        events.send("refused", f"{error}")
    except _FailedError as error:
        events.send("failed", f"{error}")
    except KeyboardInterrupt:
        return  # the build has gone, or wants no more
    events.send("done")


class _Events:
    """The socket to the build; threads share it."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def job(self) -> tuple[Job, list[bytes]]:
        """What is to be done; from then on a build that goes away interrupts this process."""
        job = self._connection.recv()
        tasks = [self._connection.recv_bytes() for _ in job.num_images]
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()
        return job, tasks

    def send(self, kind: str, value: Any = None) -> None:
        """One event."""
        try:
            with self._lock:
                self._connection.send((kind, value))
        except OSError:
            signal.raise_signal(signal.SIGINT)

    def _wait_for_the_end(self) -> None:
        try:
            self._connection.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGINT)


def _pack(job: Job, tasks: list[bytes], events: _Events) -> None:
    """Connect, admit the nodes, and pack."""
    import ray
    import ray.data

    _connect(ray, job)
    events.send("connected", ray.get_runtime_context().gcs_address)
    try:
        ray.cloudpickle.register_pickle_by_value(ray_guest)
        watch = Watch(ray, events.send)
        watch.start()
        if job.address:
            _admit_nodes(ray, job, watch)
        watch.begin_packing()
        for begun, node_id, faults, packed in _outcomes(ray, job, tasks):
            name = watch.name_of(node_id)
            if faults:
                raise _RefusedError(_refusal([(fault, name) for fault in faults]))
            watch.count_packed()
            events.send("packed", (begun, name, packed))
    except ray.exceptions.RayError as error:
        logging.getLogger("ray").exception("packing ended")
        raise _FailedError(f"Ray: {_cause(error)}") from error
    finally:
        ray.shutdown()


def _connect(ray: Any, job: Job) -> None:
    """Join the cluster, or start a private Ray."""
    local = {"address": "local", "num_cpus": job.workers, **_LOCAL_RAY}
    where = {"address": job.address} if job.address else local
    more = {"runtime_env": job.runtime_env} if job.runtime_env else {}
    try:
        _check_listens(job.address)
        ray.init(**where, **more, log_to_driver=False, logging_level=logging.WARNING)
    except (ValueError, RuntimeError, OSError, OverflowError) as error:
        logging.getLogger("ray").exception("no connection")
        reason = " ".join((getattr(error, "strerror", "") or str(error)).split())
        advice = "; is its head running, and has this machine the token that it may ask for?" if job.address else ""
        raise _FailedError(f"Ray at {job.address or 'this machine'}: {reason}{advice}") from error


def _check_listens(address: str) -> None:
    """Raise `OSError` where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():  # not so with auto, nor where Ray has its own complaint
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTS_WITHIN_S).close()


def _admit_nodes(ray: Any, job: Job, watch: Watch) -> None:
    """Have every node with cores show what it has, or raise with all that is wrong."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(ray_guest.node_faults)
    nodes = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(job.letter): node
        for node in watch.nodes.values()
        if node.cpus
    }
    limit_s = INSTALLS_WITHIN_S if job.runtime_env else LOOKS_WITHIN_S
    waiting = _waited(ray, nodes, limit_s=limit_s, tell=watch.tell)
    faults = [(f"does not respond within {limit_s:.0f} s", nodes[ref].name) for ref in waiting]
    for ref in nodes.keys() - set(waiting):
        try:
            faults += [(fault, nodes[ref].name) for fault in ray.get(ref)]
        except ray.exceptions.TaskUnschedulableError:
            continue  # the node has just been lost, and will be told as such; its workers look again if it comes back
        except ray.exceptions.RayError as error:
            if nodes[ref].id in watch.nodes:  # one that is lost is told as such
                faults.append((f"cannot look at itself ({_cause(error)})", nodes[ref].name))
    if faults:
        raise _RefusedError(_refusal(faults))


def _waited(ray: Any, nodes: dict[Any, Node], *, limit_s: float, tell: Callable[[str], None]) -> list[Any]:
    """Wait for the nodes, and say for which; gives those that have not responded."""
    waiting, began, wait_s = list(nodes), time.monotonic(), WAITS_UNSAID_S
    while waiting and time.monotonic() - began < limit_s:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=min(wait_s, limit_s))
        if waiting:
            tell(f"waiting for {_some([nodes[ref].name for ref in waiting])} to show what they have")
            wait_s = min(SAYS_AGAIN_S, limit_s / 2)
    return waiting


def _refusal(faults: list[tuple[str, str]]) -> str:
    """What is wrong with which nodes, and what to do."""
    nodes: dict[str, list[str]] = {}
    for fault, name in sorted(faults):
        nodes.setdefault(fault, []).append(name)
    lines = [f"node {_some(names)} {fault}" for fault, names in nodes.items()]
    more = [f"{len(lines) - _NUM_NAMED:,} more faults"] if len(lines) > _NUM_NAMED else []
    advice = "every node needs the driver's versions, source, output and credentials (docs/cluster.md)"
    return f"{'; '.join(lines[:_NUM_NAMED] + more)}; {advice}"


def _some(names: list[str]) -> str:
    """The first names, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - _NUM_NAMED:,} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more


def _outcomes(ray: Any, job: Job, tasks: list[bytes]) -> Iterator[tuple[float, str, list[str], bytes]]:
    """What came of each group of shards: when it began, on which node, its faults, and the pickled results."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1.0  # it is told that nothing can be packed; the user decides
    context.wait_for_min_actors_s = -1
    cores = int(ray.cluster_resources().get("CPU", 1) / job.worker_cpus)
    wanted = job.workers or max(cores, 1)
    groups = in_groups(job.num_images, num_workers=wanted)
    rows = [{"tasks": pickle.dumps([tasks[number] for number in group])} for group in groups]
    most = min(wanted, len(rows)) if job.workers or not job.address else None
    least = min(job.min_workers or job.workers or 1, len(rows))
    initial = max(least, min(cores, wanted, len(rows)))
    memory = {"memory": job.worker_memory_bytes} if job.worker_memory_bytes else {}
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Packer,
        fn_constructor_kwargs={"letter": job.letter},
        batch_size=1,
        num_cpus=job.worker_cpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=least, max_size=most, initial_size=initial, max_tasks_in_flight_per_actor=SHARDS_AHEAD
        ),
        **memory,
    )
    for batch in outcomes.iter_batches(batch_size=None, prefetch_batches=0):
        for pickled in batch["outcome"]:
            yield pickle.loads(pickled)  # noqa: S301 - made by our own workers


def in_groups(num_images: list[int], *, num_workers: int) -> list[list[int]]:
    """Numbers of tasks in groups, the longest tasks first, so that no worker is left with a long one at the end.

    A small shard is packed in less time than Ray takes to hand it over.
    """
    most = min(GROUP_IMAGES, sum(num_images) // (GROUPS_A_WORKER * num_workers))
    groups: list[list[int]] = []
    room = 0
    for task in sorted(range(len(num_images)), key=lambda task: -num_images[task]):
        if num_images[task] > room:
            groups.append([])
            room = most
        groups[-1].append(task)
        room -= num_images[task]
    return groups


def _cause(error: Exception) -> str:
    """The last line of an error of Ray, which ends with its cause."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    text = lines[-1] if isinstance(error, Exception) and len(lines) > 1 and "Traceback" in str(cause) else lines[0]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


if __name__ == "__main__":
    main()
