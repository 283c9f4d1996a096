"""A lock that lets one build, fetch or training run at a time work in one place, on disk or in an object store."""

import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from facepack.errors import JobError
from facepack.storage import Store

BEAT_S = 10.0
STALE_AFTER_S = 60.0


def lock_file(what: str) -> str:
    """Name of the lock file of a build, a fetch or a run."""
    return f"{what}.lock"


class Holder:
    """Keeps the lock file fresh and notices when it is no longer ours."""

    def __init__(self, store: Store, *, what: str) -> None:
        self.store, self.what, self.name = store, what, lock_file(what)
        self.token = uuid.uuid4().hex
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=self.name, daemon=True)

    def content(self) -> bytes:
        """The lock as it is written now: JSON of process, machine, token and the time in Unix seconds."""
        process = {"pid": os.getpid(), "started": _process_started(os.getpid()), "machine": machine_digest()}
        return json.dumps(process | {"token": self.token, "beat": time.time()}).encode()

    def start(self) -> None:
        """Begin to keep the lock file fresh."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and delete the lock file if it is still ours."""
        self._done.set()
        self._thread.join()
        with suppress(OSError, JobError):  # whoever comes next sees that this process is gone
            if self.is_ours:
                self.store.delete(self.name)

    @property
    def is_ours(self) -> bool:
        """False once somebody else took the place over, as after a long sleep of this machine."""
        return _read(self.store, self.name).get("token") == self.token

    def check(self) -> None:
        """Raise `JobError` if somebody else took the place over."""
        if not self.is_ours:
            raise JobError(f"{self.store.location}: another {self.what} took this place over")

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                if self.is_ours:
                    self.store.write(self.name, self.content())
            except (OSError, JobError):
                continue  # a full disk or a lost connection stops the build where it writes, not here


@contextmanager
def held(store: Store, *, what: str = "build", option: str = "--out") -> Iterator[Holder]:
    """Hold the place for the length of the block.

    `what` is at work (a build, a fetch, a run) and names the lock file; `option` chooses the place in its command. The
    lock of one that was killed is taken over: at once when its process ran on this machine and is gone, after a minute
    without a sign of life otherwise. Raises `JobError` where another one is at work.
    """
    holder = Holder(store, what=what)
    try:
        store.create(holder.name, holder.content())
    except FileExistsError:
        lock = _read(store, holder.name)
        if _is_alive(lock):
            raise JobError(
                f"{store.location}: another {what} is at work here; wait for it, or choose another {option}"
            ) from None
        _take_over(holder, lock)
    holder.check()
    holder.start()
    try:
        yield holder
    finally:
        holder.stop()


def _take_over(holder: Holder, lock: dict[str, Any]) -> None:
    """Replace the lock of a build that is gone; of several that try, the one that can name its successor does."""
    store = holder.store
    heir = f"{holder.name}.after-{hashlib.sha256(json.dumps(lock, sort_keys=True).encode()).hexdigest()[:16]}"
    try:
        store.create(heir, holder.content())
    except FileExistsError:
        if time.time() - _read(store, heir).get("beat", 0.0) < STALE_AFTER_S:
            raise JobError(f"{store.location}: another {holder.what} has just begun here") from None
        store.delete(heir)  # that one was killed in the very moment of taking over
        return _take_over(holder, lock)
    try:
        if _read(store, holder.name) != lock:
            raise JobError(f"{store.location}: another {holder.what} has just begun here")
        store.write(holder.name, holder.content())
    finally:
        store.delete(heir)


def _read(store: Store, name: str) -> dict[str, Any]:
    """The content of a lock; nothing for one that is gone or was never a lock."""
    try:
        content = json.loads(store.read(name))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_alive(lock: dict[str, Any]) -> bool:
    if lock.get("machine") == machine_digest() and "pid" in lock:
        return _process_started(lock["pid"]) == lock.get("started") is not None
    beat = lock.get("beat")
    return isinstance(beat, float) and time.time() - beat < STALE_AFTER_S


def machine_digest() -> str:
    """A text that differs between machines, between boots, and between containers that number their processes apart.

    Process numbers compare only where it is the same. It does not reveal the machine's name.
    """
    boot = processes = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        processes = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{platform.node()}{boot}{processes}".encode()).hexdigest()[:16]


def _process_started(pid: int) -> str | None:
    """When a running process started, in a form only good for comparing; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _is_running(pid)
    return None if fields[0] in "ZX" else fields[19]


def _is_running(pid: int) -> str | None:
    """For systems without /proc."""
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "running"
