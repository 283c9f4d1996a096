"""Node log: which node of a cluster packed which shard and when, beside the build and no part of it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from facepack.storage import Store

NAME = "build.log"


class NodeLog:
    """Lines of JSON, one per shard."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, shard: str, *, node: str, begun: float) -> None:
        """Note that a shard is finished, by a worker that began at a time in Unix seconds."""
        times = {"begun": _text(begun), "ended": _text(time.time())}
        self._lines.append(json.dumps({"shard": shard, "node": node, **times}) + "\n")

    def write(self, store: Store) -> None:
        """Append the lines to those of earlier runs."""
        if not self._lines:
            return
        try:
            before = store.read(NAME)
        except FileNotFoundError:
            before = b""
        store.write(NAME, before + "".join(self._lines).encode())


@contextmanager
def written(store: Store) -> Iterator[NodeLog]:
    """A log that is written at the end, also where that is an error."""
    log = NodeLog()
    try:
        yield log
    finally:
        log.write(store)


def _text(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
