"""Download: one file over HTTP, resumed where it stopped, checked before it gets its name."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import requests

from facepack.errors import JobError
from facepack.storage import NO_ROOM

try:
    import fcntl
except ImportError as error:
    raise ImportError("facepack runs on Linux and macOS", name="fcntl") from error

PARTIAL_SUFFIX = ".part"
CONNECT_S, READ_S = 10.0, 30.0
"""How long we wait for a connection, and for the next bytes."""
FIRST_WAIT_S = 0.5
"""How long we wait before the second try; before each further one twice as long."""
_LONGEST_WAIT_S = 60.0
_TRIES = 5
_PIECE_BYTES = 1 << 16
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class MissingError(JobError):
    """The server says that there is no such file."""


@dataclass(frozen=True)
class Expected:
    """Size and checksums of a file as published; without them, it is as long as the server states."""

    num_bytes: int | None = None
    sha256: str = ""
    """Hexadecimal; its first digits will do."""
    md5: str = ""

    def check(self, path: Path, *, what: str) -> None:
        """Compare a file with it; `JobError` names the expected value and the actual one."""
        size = path.stat().st_size
        if _is_page(path):
            raise JobError(f"{what}: a web page, and not the file")
        if self.num_bytes is not None and size != self.num_bytes:
            raise JobError(f"{what}: {size:,} bytes, expected {self.num_bytes:,}")
        for kind in ("sha256", "md5"):
            if expected := getattr(self, kind):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, kind).hexdigest()
                if not digest.startswith(expected.lower()):
                    raise JobError(f"{what}: its {kind} is {digest}, expected {expected}")


def _is_page(path: Path) -> bool:
    """True for what a server shows to people where a file should be: a log-in, a quota, an error."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html")) and path.suffix not in (".html", ".htm")


def download_file(
    url: str,
    path: Path,
    *,
    expected: Expected | None = None,
    advance: Callable[[int], None] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Fetch a file, unless it is there; under its name it is whole and as expected.

    A range request continues what a cut connection or a killed process left, if it is still the same file. `advance` is
    called with the number of bytes as they come, with a negative one when they are thrown away; `headers` go along with
    every request, a log-in to no other host. Of several processes that want the same file, one fetches it. Raises
    `JobError` with address and cause after bounded tries.
    """
    expected = expected or Expected()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if path.exists():
        return path
    try:
        with _held(partial, path) as file:
            if file is None:
                return path
            tag = Path(f"{partial}.tag")
            try:
                _Transfer(url, file, tag, advance=advance or _ignore, headers=headers or {}).run(expected)
            except JobError:
                if not partial.stat().st_size:
                    partial.unlink()
                raise
            file.flush()
            os.fsync(file.fileno())
            tag.unlink(missing_ok=True)
            try:
                expected.check(partial, what=url)
            except JobError:
                partial.unlink()
                raise
            partial.replace(path)
    except OSError as error:
        if error.errno in NO_ROOM:
            hint = "make room and run the same command again, what is here is kept"
            raise JobError(f"{path}: {error.strerror}; {hint}") from error
        raise
    return path


@contextmanager
def _held(partial: Path, path: Path) -> Iterator[IO[bytes] | None]:
    """The partial file, open and ours alone; None where another process has finished it in the meantime."""
    while True:
        file = partial.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when a process is killed
            if path.exists():
                if partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                    partial.unlink()
                yield None
                return
            if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                continue  # it was thrown away while we waited
            file.seek(0, os.SEEK_END)  # another one may have written while we waited
            yield file
            return
        finally:
            file.close()


class _Transfer:
    """A file on its way, over as many requests as it takes."""

    def __init__(
        self,
        url: str,
        file: IO[bytes],
        tag_file: Path,
        *,
        advance: Callable[[int], None],
        headers: Mapping[str, str],
    ) -> None:
        self._headers = headers
        self._url, self._file, self._tag_file, self._advance = url, file, tag_file, advance
        self._here = file.tell()
        advance(self._here)

    def run(self, expected: Expected) -> None:
        """Request what is missing until all is here; a try counts only if it brought nothing."""
        failures, furthest = 0, self._here
        while True:
            try:
                if self._request(expected):
                    return
                cause, wait_s = f"ended early, after {self._here:,} bytes", 0.0
            except _LaterError as later:
                cause, wait_s = later.cause, later.wait_s
            except requests.exceptions.SSLError as error:
                raise JobError(f"{self._url}: the certificate of the server is not valid here") from error
            except _LOST as error:
                cause, wait_s = _cause(error), 0.0
            except requests.RequestException as error:
                raise JobError(f"{self._url}: {_cause(error)}") from error
            failures = 1 if self._here > furthest else failures + 1
            furthest = max(furthest, self._here)
            if failures >= _TRIES:
                raise JobError(f"{self._url}: {cause}; tried {failures} times, the same command goes on from there")
            time.sleep(min(max(wait_s, FIRST_WAIT_S * 2 ** (failures - 1)), _LONGEST_WAIT_S))

    def _request(self, expected: Expected) -> bool:
        """One request for what is missing; True once everything is here."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "facepack", **self._headers}
        tag = self._tag_file.read_text() if self._here and self._tag_file.exists() else ""
        if self._here and not (tag or expected.sha256 or expected.md5):
            self._start_over()  # nobody could say whether it is still the same file
        if self._here:
            headers["Range"] = f"bytes={self._here}-"
            if tag:
                headers["If-Range"] = tag
        with requests.get(self._url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as response:
            if response.status_code == 416:  # all of it is here, or more than there is
                if response.headers.get("Content-Range", "").endswith(f"/{self._here}"):
                    return True
                self._start_over()
                return False
            self._check_status(response)
            is_rest = response.status_code == 206
            if is_rest and not response.headers.get("Content-Range", "").startswith(f"bytes {self._here}-"):
                self._start_over()
                return False
            if self._here and not is_rest:
                self._start_over()
            length = response.headers.get("Content-Length")
            total = self._here + int(length) if length and length.isdigit() else None
            if expected.num_bytes is not None and total not in (None, expected.num_bytes):
                raise JobError(f"{self._url}: {total:,} bytes there, expected {expected.num_bytes:,}")
            if not self._here:
                self._keep_tag(response.headers)
            for piece in response.iter_content(_PIECE_BYTES):
                self._file.write(piece)
                self._here += len(piece)
                self._advance(len(piece))
            return total is None or self._here >= total

    def _check_status(self, response: Any) -> None:
        status = f"the server says {response.status_code} {response.reason}"
        if response.status_code in _AGAIN:
            wait = response.headers.get("Retry-After", "")
            raise _LaterError(status, float(wait) if wait.isdigit() else 0.0)
        if response.status_code in (404, 410):
            raise MissingError(f"{self._url}: {status}")
        if response.status_code not in (200, 206):
            raise JobError(f"{self._url}: {status}")

    def _keep_tag(self, headers: Any) -> None:
        """What tells this file from a later one of the same name; a weak tag does not."""
        tag = headers.get("ETag", "")
        tag = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
        if tag:
            self._tag_file.write_text(tag)
        else:
            self._tag_file.unlink(missing_ok=True)

    def _start_over(self) -> None:
        self._file.truncate(0)
        self._advance(-self._here)
        self._here = 0


class _LaterError(Exception):
    """The server is busy: try again later."""

    def __init__(self, cause: str, wait_s: float) -> None:
        super().__init__(cause)
        self.cause, self.wait_s = cause, wait_s


def _cause(error: Exception) -> str:
    """One short line on why a request failed."""
    text = f"{error}"
    if "NameResolution" in text or "getaddrinfo" in text or "Name or service" in text:
        return "no such host, or no network"
    for words in ("Connection refused", "timed out", "Network is unreachable"):
        if words.lower() in text.lower():
            return words.lower()
    return "the connection was lost" if isinstance(error, _LOST) else text.splitlines()[0][:200]


def _ignore(_: int) -> None:
    pass


def name_of(url: str) -> str:
    """The name of the file that an address ends in."""
    return os.path.basename(urlsplit(url).path) or "index"  # noqa: PTH119 - a path of an address
