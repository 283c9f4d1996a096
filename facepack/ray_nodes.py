"""Nodes: those of a Ray cluster as they join, wait for work and are lost, in words."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

LOOKS_EVERY_S = 2.0
WAITS_UNSAID_S, SAYS_AGAIN_S = 6.0, 60.0
"""How long there may be no worker before that is said, and before it is said again."""
MOST_DEATHS = 8
"""Workers that may die one after another, without a shard that is finished in between."""


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    name: str
    """Its address, or the name that it was given."""
    cpus: float


class _Worker(NamedTuple):
    """A worker as the head knows it."""

    node_id: str
    is_alive: bool
    num_restarts: int


def alive_nodes(ray: Any) -> dict[str, Node]:
    """The nodes of a cluster by id."""
    nodes = [
        Node(node["NodeID"], node.get("NodeName") or node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return {node.id: node for node in nodes}


class Watch:
    """Looks at a cluster all the time: tells of nodes that join or are lost, and that nothing can be packed.

    `send` gets events as the build does: ("told", line), ("beat", None) whenever the head has responded, and ("failed",
    line) once workers do nothing but die.
    """

    def __init__(self, ray: Any, send: Callable[[str, str | None], None]) -> None:
        self._ray, self._send = ray, send
        self.nodes = alive_nodes(ray)
        self._names = {node.id: node.name for node in self.nodes.values()}
        self._job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        self._is_packing = False
        self._workers: dict[str, _Worker] = {}
        self._num_deaths = 0
        self._waits_since, self._said_at = time.monotonic(), -SAYS_AGAIN_S
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def name_of(self, node_id: str) -> str:
        """The name of a node, also of one that is gone."""
        if node_id not in self._names:
            self._names |= {node.id: node.name for node in alive_nodes(self._ray).values()}
        return self._names.get(node_id, node_id[:8])

    def begin_packing(self) -> None:
        """From now on it is told when no worker is there."""
        self._waits_since = time.monotonic()
        self._is_packing = True

    def count_packed(self) -> None:
        """A shard is finished, so workers can pack."""
        self._num_deaths = 0

    def tell(self, line: str) -> None:
        """Say one line."""
        self._send("told", line)

    def _look(self) -> None:
        while True:
            try:
                nodes, workers = alive_nodes(self._ray), self._present_workers()
                free = self._ray.available_resources().get("CPU", 0.0)
            except Exception:  # noqa: BLE001 - of any kind while the head is gone, and no beat says so
                time.sleep(LOOKS_EVERY_S)
                continue
            self._send("beat", None)
            self._tell_changes(nodes)
            self._tell_deaths(workers)
            self._tell_waiting(sum(worker.is_alive for worker in workers.values()), free)
            time.sleep(LOOKS_EVERY_S)

    def _present_workers(self) -> dict[str, "_Worker"]:
        from ray._private.state import actors

        return {
            actor["ActorID"]: _Worker(actor["Address"]["NodeID"], actor["State"] == "ALIVE", actor["NumRestarts"])
            for actor in actors(job_id=self._job).values()
            if "MapWorker" in actor["ActorClassName"] and actor["State"] != "DEAD"
        }

    def _tell_changes(self, nodes: dict[str, Node]) -> None:
        for node in self.nodes.values():
            if node.id not in nodes:
                self.tell(f"node {node.name} is lost; what it was packing is packed elsewhere")
        for node in nodes.values():
            if node.id not in self.nodes:
                self._names[node.id] = node.name
                self.tell(f"node {node.name} joined with {node.cpus:g} cores")
        self.nodes = nodes

    def _tell_deaths(self, workers: dict[str, "_Worker"]) -> None:
        """Say which workers died on nodes that are alive."""
        for actor_id, worker in workers.items():
            before = self._workers.get(actor_id, worker)
            if worker.num_restarts > before.num_restarts and before.node_id in self.nodes:
                self._num_deaths += worker.num_restarts - before.num_restarts
                self.tell(f"a worker on node {self.name_of(before.node_id)} died; another one packs its shard")
            if not worker.is_alive:  # its address is empty until it is there again
                workers[actor_id] = worker._replace(node_id=before.node_id)
        self._workers = workers
        if self._num_deaths >= MOST_DEATHS:
            self._send(
                "failed", f"{self._num_deaths} workers died one after another, and no shard was finished between"
            )

    def _tell_waiting(self, num_workers: int, free: float) -> None:
        """Say that no worker is there, and again from time to time."""
        now = time.monotonic()
        if num_workers or not self._is_packing:
            self._waits_since, self._said_at = now, now - SAYS_AGAIN_S
            return
        if now - self._waits_since > WAITS_UNSAID_S and now - self._said_at > SAYS_AGAIN_S:
            self._said_at = now
            total = sum(node.cpus for node in self.nodes.values())
            self.tell(
                f"no worker has begun: {free:g} of {total:g} cores on {len(self.nodes)} nodes are free; "
                "packing begins when workers have started, another job ends or a node joins"
            )
