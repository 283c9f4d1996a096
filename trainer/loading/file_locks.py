"""Locks on files: by flock, or by lock files where a file system refuses it."""

import errno
import fcntl
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_REFUSED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What flock answers on NFS, Lustre and FUSE mounts that do without it."""
SUFFIX = ".lock"


class Lock:
    """A file that this thread alone works on, until `release`."""

    def __init__(self, file: BinaryIO | None, sign: Path | None, owner: bytes) -> None:
        """Either the open file that flock holds, or the lock file with what it says."""
        self._file, self._sign, self._owner = file, sign, owner

    def release(self) -> None:
        """Let others have the file."""
        if self._file is not None:
            self._file.close()
        elif self._sign is not None and _content(self._sign) == self._owner:
            self._sign.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Show other computers that the work goes on; flock needs no such thing."""
        if self._sign is not None:
            with suppress(OSError):
                os.utime(self._sign)


class FileLocks:
    """Locks of one folder's files. A lock ends with its process, at once or when it is seen to be left behind.

    A lock file names computer and process. It is left behind where the process is gone from this computer, or where
    nothing refreshed it for `stale_s` by the clock of the process that waits.
    """

    def __init__(self, folder: Path, *, stale_s: float) -> None:
        """Find out whether the folder's file system has flock. Raises `OSError` where nothing can be written."""
        self._stale_s = stale_s
        self._seen: dict[Path, tuple[object, float]] = {}
        self.has_flock = _has_flock(folder)

    def try_lock(self, path: Path) -> Lock | None:
        """The lock on a file, which is made where it is not there; None where somebody else has it."""
        if not self.has_flock:
            lock = self._try_sign(path)
            if lock is not None:
                path.touch()
            return lock
        return _try_flock(path, "ab")

    def try_lock_existing(self, path: Path) -> Lock | None:
        """The lock on a file that is there; None where somebody else has it, or it is gone."""
        if not self.has_flock:
            return self._try_sign(path) if path.exists() else None
        try:
            return _try_flock(path, "r+b")  # NFS gives an exclusive lock only to who may write
        except FileNotFoundError:
            return None

    def _try_sign(self, path: Path) -> Lock | None:
        sign = path.with_name(path.name + SUFFIX)
        owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}".encode()
        try:
            descriptor = os.open(sign, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            left_by = self._left_by(sign)
            if left_by:
                _take_away(sign, left_by)
            return None
        with os.fdopen(descriptor, "wb") as file:
            file.write(owner)
        self._seen.pop(sign, None)
        return Lock(None, sign, owner)

    def _left_by(self, sign: Path) -> bytes:
        """Who left a lock file behind, empty where its owner may be at work."""
        owner = _content(sign)
        host, _, rest = owner.decode(errors="replace").partition(" ")
        number = rest.partition(" ")[0]
        if host == socket.gethostname() and number.isdigit() and not Path(f"/proc/{number}").exists():
            return owner
        state = (owner, modified_ns(sign))
        seen, since = self._seen.setdefault(sign, (state, time.monotonic()))
        if seen != state:
            self._seen[sign] = (state, time.monotonic())
            return b""
        return owner if time.monotonic() - since > self._stale_s else b""


def modified_ns(path: Path) -> int:
    """When a file was last written, 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _has_flock(folder: Path) -> bool:
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        with probe.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    finally:
        probe.unlink(missing_ok=True)


def _try_flock(path: Path, mode: str) -> Lock | None:
    file: BinaryIO = path.open(mode)  # type: ignore[assignment]
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(file.fileno(), path):  # otherwise it was finished, or given up, in the meantime
            return Lock(file, None, b"")
    except BlockingIOError:
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _is(descriptor: int, path: Path) -> bool:
    """True where an open file is still the one under its name."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _content(sign: Path) -> bytes:
    try:
        return sign.read_bytes()
    except FileNotFoundError:
        return b""


def _take_away(sign: Path, owner: bytes) -> None:
    """Remove a lock file that was left behind, but not one that somebody has put in its place."""
    aside = sign.with_name(f".{sign.name}-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        sign.rename(aside)
        if _content(aside) != owner:
            with suppress(FileExistsError):
                sign.hardlink_to(aside)
        aside.unlink()
