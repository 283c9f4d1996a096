"""Ray process: work on shards, done on Ray by a process of its own, and what it tells of nodes and of the head."""

import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Protocol

import facepack
from facepack import manifest, ray_guest
from facepack.errors import JobError
from facepack.node_environment import read_environment
from facepack.ray_driver import Job
from facepack.ray_guest import Letter
from facepack.ray_options import Cluster, RayOptions

log = logging.getLogger("facepack")

CONNECTS_WITHIN_S, STARTS_WITHIN_S = 60.0, 300.0
"""Longest time to join a cluster, and to start a private Ray."""
SILENT_S, GONE_S = 8.0, 60.0
"""How long the head of a cluster may not respond before that is said, and before the build ends; Ray's nodes wait as
long for a head that is started again."""
ENDS_WITHIN_S = 10.0
_KEPT = "what is finished is kept, and the same command goes on from there"


class Task(Protocol):
    """A shard that a worker works on, by itself: it is pickled."""

    @property
    def num_images(self) -> int:
        """Its images: the largest shards are begun first."""


class Terms(Protocol):
    """What all workers have to see alike, and what they do: it is pickled."""

    def faults(self) -> list[str]:
        """What this machine lacks, each fit to follow its name."""

    def outcomes(self, pickled: bytes) -> bytes:
        """Do tasks: a pickled list of pickled tasks in, a pickled list of their results out."""


@dataclass(frozen=True)
class Pool:
    """How many workers pack (None: as many as there are cores), on which cluster, if any, and how."""

    workers: int | None
    options: RayOptions
    cluster: Cluster | None


def done_on_ray(tasks: Sequence[Task], *, pool: Pool, terms: Terms) -> Iterator[tuple[float, str, Any]]:
    """Do tasks: when the worker began, its node, and the result."""
    options, cluster = pool.options, pool.cluster
    environment = read_environment(options.env)
    if cluster is not None:
        log.info("working on the Ray cluster at %s, as %s has it", cluster.address, cluster.named_by)
    job = Job(
        address=cluster.address if cluster else "",
        workers=pool.workers,
        min_workers=options.min_workers,
        worker_cpus=options.worker_cpus,
        worker_memory_bytes=options.worker_memory_bytes,
        runtime_env=environment.runtime_env,
        letter=_letter(terms, environment.variables),
        num_images=[task.num_images for task in tasks],
    )
    with _driver(job) as (connection, log_file):
        connection.send(job)
        for task in tasks:
            connection.send_bytes(pickle.dumps(task))
        yield from _Conversation(connection, job, log_file).results()


def _letter(terms: Terms, variables: dict[str, str]) -> Letter:
    names = ["ray", *manifest.DECIDES_BYTES]
    return Letter(ray_guest.versions_of(names), ray_guest.code_digest(), variables, pickle.dumps(terms))


class _Conversation:
    """What the driver says, and how long it has not."""

    def __init__(self, connection: Connection, job: Job, log_file: Path) -> None:
        self._connection, self._job, self._log_file = connection, job, log_file
        self._where = f"Ray at {job.address}" if job.address else "Ray on this machine"
        self._is_connected = False
        self._heard = time.monotonic()
        self._is_silent = False

    def results(self) -> Iterator[tuple[float, str, Any]]:
        """All results; `JobError` with the log of Ray where it ends before."""
        while True:
            kind, value = self._next()
            if kind == "done":
                return
            if kind == "refused":
                raise JobError(f"{value}")
            if kind == "failed":
                kept = f"; {_KEPT}" if self._is_connected else ""
                raise JobError(f"{value}{kept} (Ray's own lines: {self._log_file})")
            if kind == "told":
                log.info(value)
            if kind == "connected":
                self._is_connected = True
            if kind == "packed":
                begun, node, outcomes = value
                for outcome in pickle.loads(outcomes):  # noqa: S301 - made by our own workers
                    if isinstance(outcome, Exception):
                        raise self._of_node(node, outcome)
                    yield begun, node, outcome

    def _next(self) -> tuple[str, Any]:
        """The next event; says when there is none for long, and ends where there is none any more."""
        while True:
            try:
                if self._connection.poll(1.0):
                    event: tuple[str, Any] = self._connection.recv()
                    if self._is_silent:
                        log.info("%s: its head responds again", self._where)
                    self._heard, self._is_silent = time.monotonic(), False
                    return event
            except (EOFError, OSError):
                what = "its head is gone" if self._is_silent else "the connection broke"
                raise JobError(f"{self._where}: {what}; {self._advice()}") from None
            self._check_silence(time.monotonic() - self._heard)

    def _check_silence(self, silent_s: float) -> None:
        if not self._is_connected:
            limit_s = CONNECTS_WITHIN_S if self._job.address else STARTS_WITHIN_S
            if silent_s > limit_s:
                raise JobError(f"{self._where}: does not respond within {limit_s:.0f} s; {self._advice()}")
        elif silent_s > GONE_S:
            raise JobError(f"{self._where}: its head has not responded for {GONE_S:.0f} s; {self._advice()}")
        elif silent_s > SILENT_S and not self._is_silent:
            self._is_silent = True
            log.warning("%s: its head does not respond; the build waits for a minute", self._where)

    def _advice(self) -> str:
        return f"{_KEPT} once Ray runs (its own lines: {self._log_file})"

    def _of_node(self, node: str, error: Exception) -> Exception:
        """An error on a node, named by it; as it is on this machine."""
        if not self._job.address:
            return error
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        text = f"{where}{error.strerror or error}" if isinstance(error, OSError) else f"{error}"
        return JobError(f"node {node}: {text}; {_KEPT}")


@contextmanager
def _driver(job: Job) -> Iterator[tuple[Connection, Path]]:
    """The process that packs, and the file of what it and Ray print, which stays where it did not go well."""
    descriptor, name = tempfile.mkstemp(prefix="facepack-ray-", suffix=".log")
    ours, theirs = Pipe()
    with os.fdopen(descriptor, "w") as log_file, theirs:
        process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "facepack.ray_driver", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            env=_environment(job),
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for this process alone, which ends that one
        )
    is_well = False
    try:
        with ours:
            yield ours, Path(name)
            is_well = True
    except (GeneratorExit, KeyboardInterrupt):
        is_well = True
        raise
    finally:
        _end(process)
        if is_well:
            Path(name).unlink(missing_ok=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the driver, which ends by itself when nobody is at the other end of its socket, or kill it."""
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(job: Job) -> dict[str, str]:
    """The variables of the driver."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_enable_metrics_collection": "0",  # nobody would see them, and they take 7 % of a core
        "RAY_worker_niceness": "0",  # at Ray's 15, any other work of the machine would starve a build
    }
    # A secret of its own keeps others off a private Ray; without one Ray would leave a token in the home folder, which
    # later clusters would ask for.
    private = {} if job.address else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    package = Path(facepack.__file__).parents[1]
    paths = [str(package), os.environ.get("PYTHONPATH", "")] if package.name != "site-packages" else []
    path = {"PYTHONPATH": os.pathsep.join(filter(None, paths))} if paths else {}
    return quiet | dict(os.environ) | private | path
