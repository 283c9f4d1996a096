"""Storage: one way to list, read and write, for folders, archives and object stores."""

import base64
import errno
import hashlib
import io
import logging
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import obstore
from obstore.store import from_url

from facepack import s3_listing
from facepack.ahead import mapped_ahead
from facepack.credentials import AZURE_HOSTS, Access, access, s3_address, static_credential
from facepack.errors import JobError, UsageError
from facepack.listing import Listing, listing_of, without_hidden
from facepack.storage_errors import explained, is_missing_bucket, without_login

log = logging.getLogger("facepack")

TEMPORARY_SUFFIX = ".partial"
_WRITE_BUFFER_BYTES = 1 << 20
_READ_BUFFER_BYTES = 1 << 20
_NUM_BESIDE = 5
_NUM_ASKERS = 32
_STATS_AT_ONCE = 1 << 16
NUM_STATS = 3
"""Numbers of a file by which it is known to be the same."""
_NO_STATS = (-1,) * NUM_STATS
_ODD_KEYS = "keys that are no paths"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a full disk."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Numbers of the errors of file systems without hard links."""


@cache
def _process_of_threads() -> int:
    """The process that used obstore first: its threads are in no other one."""
    return os.getpid()


def is_url(location: str) -> bool:
    """True for s3://, gs://, abfs://, https:// and the like."""
    return "://" in location


def _batched(names: Iterable[str], number: int) -> Iterator[tuple[str, ...]]:
    rest = iter(names)
    while part := tuple(islice(rest, number)):
        yield part


class Store:
    """A folder or a URL prefix. Names are relative, with forward slashes.

    A file under its final name is whole: locally it is written under a temporary name, flushed to the disk and renamed;
    on an object store it is one put. A missing file raises `FileNotFoundError`, one that exists `FileExistsError`; what
    else goes wrong with an object store is a `JobError`, after its own retries.
    """

    def __init__(self, location: str) -> None:
        """Raises `UsageError` for a URL with a character that URLs take for something else."""
        if is_url(location) and "?" in location:
            location = _without_token(location)
        if is_url(location) and not location.startswith("http") and "#" in location:
            raise UsageError(f"{location}: a URL cannot hold #; choose another name")
        if location.startswith("http"):
            _remember_login(location)
        self.location = without_login(location.rstrip("/")) if is_url(location) else location
        """Fit to be shown and recorded: without user, password and token."""
        # Absolute, for a Ray worker has another working directory.
        self._files: _Files = _Objects(self.location) if is_url(location) else _Folder(Path(location).absolute())

    @property
    def is_remote(self) -> bool:
        """True for a URL prefix, where every request has to wait for its answer."""
        return isinstance(self._files, _Objects)

    def list(self) -> list[str]:
        """All files below, sorted; hidden files and folders are passed over. A missing folder is empty."""
        return self._files.listing().names

    def listing(self) -> Listing:
        """All files below, and those that are passed over, by reason."""
        return self._files.listing()

    def absence(self) -> str:
        """Why no file is below, with what lies beside it in a bucket; "" where there is one, or nobody can say."""
        return self._files.absence()

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        return self._files.size(name)

    def stats(self, names: Iterable[str]) -> npt.NDArray[np.int64]:
        """Of each of many files its size in bytes, and two numbers that are others when it has been written again.

        int64 (N, NUM_STATS), -1 where there is no such file.
        """
        parts = _batched(names, _STATS_AT_ONCE)
        stats = [np.array(self._files.stats(part), np.int64).reshape(-1, NUM_STATS) for part in parts]
        return np.concatenate([np.zeros((0, NUM_STATS), np.int64), *stats])

    def read(self, name: str) -> bytes:
        """The whole content of a file."""
        return self._files.read(name)

    def read_range(self, name: str, *, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer where the file ends before."""
        return self._files.read_range(name, start=start, length=length)

    def stream(self, name: str) -> Iterator[bytes]:
        """The content of a file piece by piece, from one request."""
        return self._files.stream(name)

    def path(self, name: str) -> Path | None:
        """Where a file lies in the file system, None on an object store."""
        return self._files.path(name)

    def open(self, name: str) -> IO[bytes]:
        """A seekable file to read from."""
        path = self.path(name)
        if path is not None:
            return path.open("rb")
        return io.BufferedReader(_Ranges(self, name), buffer_size=_READ_BUFFER_BYTES)

    def writer(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write to, which appears under its name when the block ends well, or not at all."""
        return self._files.writer(name)

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file, replacing one of the same name."""
        with self.writer(name) as file:
            file.write(content)

    def create(self, name: str, content: bytes) -> None:
        """Write a whole file only if there is none of that name, else raise `FileExistsError`."""
        self._files.create(name, content)

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        self._files.delete(name)

    def make(self) -> None:
        """Make the folder, with its parents; an object store needs none."""
        self._files.make()

    def made(self) -> AbstractContextManager[None]:
        """Make the folder for the length of a block; what was not there before and is empty then is removed again."""
        return self._files.made()

    def temporary_files(self) -> tuple[str, ...]:
        """What killed writers left behind."""
        return self._files.temporary_files()

    def delete_temporary(self) -> None:
        """Remove what killed writers left behind."""
        for name in self.temporary_files():
            self.delete(name)


class _Files(Protocol):
    """What a `Store` needs of the place that holds its files; its methods are those of `Store`."""

    def create(self, name: str, content: bytes) -> None: ...
    def listing(self) -> Listing: ...
    def absence(self) -> str: ...
    def size(self, name: str) -> int: ...
    def stats(self, names: Sequence[str]) -> list[tuple[int, ...]]: ...
    def read(self, name: str) -> bytes: ...
    def read_range(self, name: str, *, start: int, length: int) -> bytes: ...
    def stream(self, name: str) -> Iterator[bytes]: ...
    def path(self, name: str) -> Path | None: ...
    def writer(self, name: str) -> AbstractContextManager[IO[bytes]]: ...
    def delete(self, name: str) -> None: ...
    def make(self) -> None: ...
    def made(self) -> AbstractContextManager[None]: ...
    def temporary_files(self) -> tuple[str, ...]: ...


class _Folder:
    """Files of a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, content: bytes) -> None:
        self.make()
        temporary = self._temporary(name)
        try:
            temporary.write_bytes(content)
            try:
                os.link(temporary, self._folder / name)  # it appears whole, for one of many alone
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with (self._folder / name).open("xb") as file:
                    file.write(content)
        finally:
            temporary.unlink(missing_ok=True)

    def listing(self) -> Listing:
        return listing_of(str(self._folder))

    def absence(self) -> str:
        if not self._folder.is_dir():
            return "no such folder"
        return "" if any(self._folder.iterdir()) else "an empty folder"

    def size(self, name: str) -> int:
        return (self._folder / name).stat().st_size

    def stats(self, names: Sequence[str]) -> list[tuple[int, ...]]:
        folder = f"{self._folder}/"
        stats: list[tuple[int, ...]] = []
        for name in names:
            try:
                stat = os.stat(folder + name)  # noqa: PTH116 - a third of the time of a Path
                stats.append((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
            except OSError:
                stats.append(_NO_STATS)
        return stats

    def read(self, name: str) -> bytes:
        # Unbuffered and plain: 7 us a small file, where a LocalStore takes 75.
        with open(f"{self._folder}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall()

    def read_range(self, name: str, *, start: int, length: int) -> bytes:
        with open(f"{self._folder}/{name}", "rb") as file:  # noqa: PTH123
            file.seek(start)
            return file.read(length)

    def stream(self, name: str) -> Iterator[bytes]:
        with open(f"{self._folder}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            while piece := file.read(_READ_BUFFER_BYTES):
                yield piece

    def path(self, name: str) -> Path:
        return self._folder / name

    @contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        temporary = self._temporary(name)
        try:
            with temporary.open("wb", buffering=_WRITE_BUFFER_BYTES) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._folder / name)
        except OSError as error:
            if error.errno in NO_ROOM:
                reason = f"{error.strerror}; make room and run the same command again, what is finished is kept"
                raise JobError(f"{self._folder / name}: {reason}") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _temporary(self, name: str) -> Path:
        return self._folder / f".{name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def make(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def made(self) -> Iterator[None]:
        new = [folder for folder in (self._folder, *self._folder.parents) if not folder.exists()]
        self.make()
        try:
            yield
        finally:
            with suppress(OSError):  # one that is not empty
                for folder in new:
                    folder.rmdir()

    def temporary_files(self) -> tuple[str, ...]:
        return tuple(path.name for path in self._folder.glob(f".*{TEMPORARY_SUFFIX}"))


class _Objects:
    """Objects of an object store below a URL."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._login = _LOGINS.get(_host(location), "")
        self._token = next((token for place, token in _TOKENS.items() if f"{location}/".startswith(f"{place}/")), "")

    def __getstate__(self) -> dict[str, Any]:
        return {"_location": self._location, "_login": self._login, "_token": self._token}

    @cached_property
    def _access(self) -> Access:
        return access(self._location, token=self._token)

    @property
    def objects(self) -> Any:
        """The obstore store; `UsageError` in a process forked after it was used, where it would wait for ever."""
        if _process_of_threads() != os.getpid():
            raise UsageError(
                f"{self._location}: not in a process that was forked after storage was used: start it by spawn or "
                'forkserver, as with multiprocessing_context="spawn" of a DataLoader'
            )
        return self._objects

    @cached_property
    def _objects(self) -> Any:
        """Opened when first needed."""
        options = self._access.options()
        if self._login:
            header = {"Authorization": f"Basic {base64.b64encode(self._login.encode()).decode()}"}
            options["client_options"] = {**self._access.client, "default_headers": header}
        with self._translated(""):
            return from_url(self._location, **options)

    def _translated(self, name: str) -> AbstractContextManager[None]:
        is_open = self._location.startswith("http") and not self._login and not self._token
        is_unsigned = self._access.is_unsigned or is_open
        return _translated(f"{self._location}/{name}".rstrip("/"), place=self._location, is_unsigned=is_unsigned)

    def listing(self) -> Listing:
        odd: tuple[str, ...] = ()
        try:
            with self._translated(""):
                names = tuple(meta["path"] for chunk in obstore.list(self.objects) for meta in chunk)
        except _OddKeyError as error:
            names, odd = self._names_and_odd_ones(error)
        # A folder made in a web console is an object without a name of its own.
        listing = without_hidden(name for name in names if name)
        return Listing(listing.names, listing.passed | {_ODD_KEYS: sorted(odd)} if odd else listing.passed)

    def absence(self) -> str:
        scheme, _, path = self._location.partition("://")
        if scheme.startswith("http"):  # web servers do not list
            return ""
        if self.has_keys():
            return ""
        while "/" in path:
            path = path.rpartition("/")[0]
            beside = _Objects(f"{scheme}://{path}").names(_NUM_BESIDE + 1)
            if beside:
                more = ", ..." if len(beside) > _NUM_BESIDE else ""
                return f"no such prefix; {scheme}://{path} has {', '.join(beside[:_NUM_BESIDE])}{more}"
        return "an empty bucket"

    def has_keys(self) -> bool:
        """True where there is any key below."""
        try:
            with self._translated(""):
                return any(chunk for chunk in obstore.list(self.objects, chunk_size=1))
        except _OddKeyError:
            return True

    def names(self, limit: int) -> tuple[str, ...]:
        """The first folders, then files, right below."""
        with self._translated(""):
            listing = obstore.list_with_delimiter(self.objects)
        folders = [f"{prefix.rstrip('/').rpartition('/')[2]}/" for prefix in listing["common_prefixes"]]
        files = [meta["path"].rpartition("/")[2] for meta in listing["objects"]]
        return (*sorted(folders), *sorted(filter(None, files)))[:limit]

    def _names_and_odd_ones(self, error: JobError) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """All names, and keys such as a//b, which are no paths: those are counted and named in the log."""
        bucket, _, prefix = self._location.partition("://")[2].partition("/")
        credential = static_credential(self._access) if self._location.startswith("s3") else None
        if credential is None:
            raise error
        base, region = s3_address(self._access, bucket)
        prefix = f"{prefix}/" if prefix else ""
        try:
            keys = tuple(s3_listing.keys(base, prefix, credential=credential, region=region))
        except OSError:
            raise error from None
        names = [key.removeprefix(prefix) for key in keys if not key.endswith("/") or "//" in key]
        odd = tuple(name for name in names if {"", ".", ".."} & set(name.split("/")))
        line = "%s: %s keys left out, for an empty part, . or .. in them makes them no path; the first is %r"
        log.warning(line, self._location, f"{len(odd):,}", odd[0] if odd else "")
        return tuple(name for name in names if name not in set(odd)), odd

    def size(self, name: str) -> int:
        with self._translated(name):
            return int(obstore.head(self.objects, name)["size"])

    def stats(self, names: Sequence[str]) -> list[tuple[int, ...]]:
        return list(mapped_ahead(self._stats, names, num_threads=_NUM_ASKERS))

    def _stats(self, name: str) -> tuple[int, ...]:
        try:
            with self._translated(name):
                meta = obstore.head(self.objects, name)
        except OSError:
            return _NO_STATS
        tag = hashlib.sha256(f"{meta.get('e_tag')} {meta.get('version')}".encode()).digest()
        return meta["size"], int.from_bytes(tag[:7], "big"), int(meta["last_modified"].timestamp())

    def read(self, name: str) -> bytes:
        with self._translated(name):
            return bytes(obstore.get(self.objects, name).bytes())

    def read_range(self, name: str, *, start: int, length: int) -> bytes:
        if not length:
            return b""
        with self._translated(name):
            return bytes(obstore.get_range(self.objects, name, start=start, length=length))

    def stream(self, name: str) -> Iterator[bytes]:
        with self._translated(name):
            for piece in obstore.get(self.objects, name).stream(min_chunk_size=_READ_BUFFER_BYTES):
                yield bytes(piece)

    def path(self, _name: str) -> None:
        return None

    @contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryFile() as file, self._translated(name):
            yield file
            file.seek(0)
            try:
                obstore.put(self.objects, name, file)
            except FileNotFoundError as error:
                raise JobError(f"{self._location}: no such bucket or container") from error

    def create(self, name: str, content: bytes) -> None:
        with self._translated(name):
            obstore.put(self.objects, name, content, mode="create")

    def delete(self, name: str) -> None:
        # Google's store raises where it was not there, others do not.
        with suppress(FileNotFoundError), self._translated(name):
            obstore.delete(self.objects, name)

    def make(self) -> None:
        pass

    def made(self) -> AbstractContextManager[None]:
        return nullcontext()

    def temporary_files(self) -> tuple[str, ...]:
        return ()


class _Ranges(io.RawIOBase):
    """A remote file read piece by piece, for readers that seek."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._size, self._at = store.size(name), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        if length:
            buffer[:length] = self._store.read_range(self._name, start=self._at, length=length)
            self._at += length
        return length


@contextmanager
def _translated(where: str, *, place: str = "", is_unsigned: bool = False) -> Iterator[None]:
    """Raise obstore's errors as the built-in ones that local files raise; others as one line about `where`.

    A bucket that is not there is an error of the whole `place`.
    """
    try:
        yield
    except obstore.exceptions.AlreadyExistsError as error:
        raise FileExistsError(f"{where}: exists") from error
    except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
        if is_missing_bucket(error):
            raise JobError(f"{place or where}: {explained(error, is_unsigned=False)}") from None
        raise FileNotFoundError(f"{where}: not found") from error
    except obstore.exceptions.InvalidPathError as error:
        cause = str(error).strip().splitlines()[0]
        raise _OddKeyError(f"{where}: {cause}; rename this key") from None
    except obstore.exceptions.BaseError as error:
        at = place if place and is_missing_bucket(error) else where
        # obstore's own text holds the address, and may hold what signs it.
        raise JobError(f"{at}: {explained(error, is_unsigned=is_unsigned)}") from None


class _OddKeyError(JobError):
    """A key that is no path."""


_LOGINS: dict[str, str] = {}
"""User and password of each web server that an address of this process named, for addresses are recorded without."""


_TOKENS: dict[str, str] = {}
"""The shared access signature of each place on Azure that an address of this process named, likewise."""


def _without_token(location: str) -> str:
    """An address without its query, which is kept for the requests to it."""
    bare, _, query = location.partition("?")
    bare = bare.rstrip("/")
    if not _host(bare).endswith(AZURE_HOSTS):
        advice = "the query may be a token that opens one file only; see docs/storage.md for tokens"
        raise UsageError(f"{without_login(bare)}: leave out what follows the ?: {advice}")
    _TOKENS[bare] = query
    return bare


def _host(location: str) -> str:
    scheme, _, rest = location.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _remember_login(location: str) -> None:
    login = location.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if login:
        _LOGINS[_host(location)] = unquote(login)
