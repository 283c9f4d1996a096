"""A lock that lets one builder at a time work in one place, on disk or in an object store."""

import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facepack.errors import JobError
from facepack.storage import Store

LOCK_FILE = "build.lock"
BEAT_S = 10.0
STALE_AFTER_S = 60.0


class _Holder:
    """Keeps the lock file fresh and notices when it is no longer ours."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.token = uuid.uuid4().hex
        self.lost = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="build.lock", daemon=True)

    def content(self) -> bytes:
        process = {"pid": os.getpid(), "started": _process_started(os.getpid()), "machine": _machine()}
        return json.dumps(process | {"token": self.token, "beat": time.time()}).encode()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        if _read(self.store).get("token") == self.token:
            self.store.delete(LOCK_FILE)

    def check(self) -> None:
        """Raise `JobError` if somebody else took the place over."""
        if self.lost or _read(self.store).get("token") != self.token:
            raise JobError(f"{self.store.location}: another build took this place over")

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                self.lost = _read(self.store).get("token") != self.token
                if self.lost:
                    return
                self.store.write(LOCK_FILE, self.content())
            except (OSError, JobError):
                continue  # a full disk or a lost connection stops the build where it writes, not here


@contextmanager
def held(store: Store) -> Iterator[_Holder]:
    """Hold the place for the length of the block, or raise `JobError` if another build does.

    The lock of a build that was killed is taken over: at once when its process ran on this machine and is gone, after a
    minute without a sign of life otherwise.
    """
    holder = _Holder(store)
    try:
        store.create(LOCK_FILE, holder.content())
    except FileExistsError:
        if _is_alive(_read(store)):
            raise JobError(
                f"{store.location}: another build is at work here; wait for it, or choose another --out"
            ) from None
        store.delete(LOCK_FILE)
        try:
            store.create(LOCK_FILE, holder.content())
        except FileExistsError:
            raise JobError(f"{store.location}: another build has just begun here") from None
    holder.check()
    holder.start()
    try:
        yield holder
    finally:
        holder.stop()


def _read(store: Store) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(store.read(LOCK_FILE))
    except (FileNotFoundError, ValueError):
        return {}
    return content


def _is_alive(content: dict[str, Any]) -> bool:
    if content.get("machine") == _machine() and "pid" in content:
        return _process_started(content["pid"]) == content.get("started") is not None
    return bool(time.time() - content.get("beat", 0.0) < STALE_AFTER_S)


def _machine() -> str:
    """Tells machines, and boots of one, apart without naming them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        boot = ""
    return hashlib.sha256(f"{platform.node()}{boot}".encode()).hexdigest()[:16]


def _process_started(pid: int) -> str | None:
    """When a running process started, in a form only good for comparing; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _answers(pid)
    return None if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> str | None:
    """For systems without /proc."""
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "running"
