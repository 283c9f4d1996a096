"""A lock that lets one build, or one training run, at a time work in one place, on disk or in an object store."""

import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepack.errors import JobError
from facepack.storage import Store

BEAT_S = 10.0
STALE_AFTER_S = 60.0


@dataclass(frozen=True)
class Work:
    """What holds a place: its name in messages, and the option of its command that chooses another place."""

    name: str
    option: str

    @property
    def lock_file(self) -> str:
        """The name of its lock."""
        return f"{self.name}.lock"


BUILD, FETCH, RUN = Work("build", "--out"), Work("fetch", "--to"), Work("run", "--out")
DESCRIBE = Work("describe", "BUILD")


class Holder:
    """Keeps the lock file fresh and notices when it is no longer ours."""

    def __init__(self, store: Store, work: Work) -> None:
        self.store, self.work, self.name = store, work, work.lock_file
        self.token = uuid.uuid4().hex
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=self.name, daemon=True)

    def content(self) -> bytes:
        process = {"pid": os.getpid(), "started": _process_started(os.getpid()), "machine": this_machine()}
        return json.dumps(process | {"token": self.token, "beat": time.time()}).encode()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        with suppress(OSError, JobError):  # whoever comes next sees that this process is gone
            if self.is_ours:
                self.store.delete(self.name)

    @property
    def is_ours(self) -> bool:
        """False once somebody else took the place over, as after a long sleep of this machine."""
        return token_in(self.store, self.work) == self.token

    def check(self) -> None:
        """Raise `JobError` if somebody else took the place over."""
        if not self.is_ours:
            raise JobError(f"{self.store.location}: another {self.work.name} took this place over")

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                if self.is_ours:
                    self.store.write(self.name, self.content())
            except (OSError, JobError):
                continue  # a full disk or a lost connection stops the build where it writes, not here


@contextmanager
def held(store: Store, *, work: Work) -> Iterator[Holder]:
    """Hold the place for the length of the block, or raise `JobError` if another work of this kind does.

    The lock of one that was killed is taken over: at once when its process ran on this machine and is gone, after a
    minute without a sign of life otherwise.
    """
    holder = Holder(store, work)
    try:
        store.create(holder.name, holder.content())
    except FileExistsError:
        content = _read(store, holder.name)
        if _is_alive(content):
            advice = f"wait for it, or choose another {work.option}"
            raise JobError(f"{store.location}: another {work.name} is at work here; {advice}") from None
        _take_over(store, content, holder)
    holder.check()
    holder.start()
    try:
        yield holder
    finally:
        holder.stop()


def token_in(store: Store, work: Work) -> str:
    """What names the holder of a place; empty where there is none."""
    return str(_read(store, work.lock_file).get("token", ""))


def _take_over(store: Store, stale: dict[str, Any], holder: Holder) -> None:
    """Replace the lock of a process that is gone; of several that try, the one that can name its successor does."""
    heir = f"{holder.name}.after-{hashlib.sha256(json.dumps(stale, sort_keys=True).encode()).hexdigest()[:16]}"
    try:
        store.create(heir, holder.content())
    except FileExistsError:
        if time.time() - _read(store, heir).get("beat", 0.0) < STALE_AFTER_S:
            raise JobError(f"{store.location}: another {holder.work.name} has just begun here") from None
        store.delete(heir)  # that one was killed in the very moment of taking over
        return _take_over(store, stale, holder)
    try:
        if _read(store, holder.name) != stale:
            raise JobError(f"{store.location}: another {holder.work.name} has just begun here")
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


def _is_alive(content: dict[str, Any]) -> bool:
    if content.get("machine") == this_machine() and "pid" in content:
        return _process_started(content["pid"]) == content.get("started") is not None
    beat = content.get("beat")
    return isinstance(beat, float) and time.time() - beat < STALE_AFTER_S


def this_machine() -> str:
    """A text that differs between machines, boots of one, and containers with process numbers of their own.

    It names none of them.
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
        return None if Path("/proc/self").exists() else _signalled(pid)
    return None if fields[0] in "ZX" else fields[19]


def _signalled(pid: int) -> str | None:
    """The same for systems without /proc."""
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "running"
