"""Source: the files of a dataset as published, in folders, archives and object stores, read in place."""

import io
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import parquet_images
from facepack.errors import JobError
from facepack.parquet_images import EmbeddedImage
from facepack.storage import Store, is_hidden, is_url

_LARGEST_MEMBER_BYTES = 1 << 30
"""The largest size of a file that an archive is believed."""
_ZIP_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies inside an archive: `start` of its header (zip) or its content (tar), sizes in bytes."""

    archive: str
    start: int
    stored_bytes: int
    num_bytes: int
    method: int = zipfile.ZIP_STORED
    crc32: int | None = None


@dataclass(frozen=True)
class Source:
    """The files of a dataset as published: a folder or URL, with chosen archives seen as if they were unpacked."""

    store: Store
    files: frozenset[str]
    members: Mapping[str, Member | EmbeddedImage] = field(default_factory=dict)

    @cached_property
    def paths(self) -> list[str]:
        """All paths, sorted."""
        return sorted(self.files | self.members.keys())

    @cached_property
    def whole_files(self) -> list[str]:
        """All paths but those of images that are embedded in a table, sorted: what may be a label file."""
        return sorted([*self.files, *(path for path, member in self.members.items() if isinstance(member, Member))])

    def __contains__(self, path: str) -> bool:
        return path in self.files or path in self.members

    def has(self, paths: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Whether each of many paths is there; several times as fast as one after another."""
        names = [*self.files, *self.members]
        try:
            is_there = pc.is_in(paths, value_set=pa.array(names, pa.string()))
        except UnicodeEncodeError:  # a name that is not UTF-8, which none of the paths can be
            names = [path for path in names if path.encode(errors="ignore").decode() == path]
            is_there = pc.is_in(paths, value_set=pa.array(names, pa.string()))
        return np.asarray(is_there, bool)

    def subset(self, paths: Iterable[str]) -> "Source":
        """The same source with no more than these paths: small enough to travel with a task."""
        names = frozenset(paths)
        members = {path: self.members[path] for path in names if path in self.members}
        return Source(self.store, names & self.files, members)

    def size(self, path: str) -> int:
        """Size of a file in bytes."""
        member = self.members.get(path)
        if isinstance(member, EmbeddedImage):
            return len(self.read(path))
        return self.store.size(path) if member is None else member.num_bytes

    def read(self, path: str) -> bytes:
        """The content of a file; `OSError` where it cannot be read whole, `FileNotFoundError` where it is gone."""
        member = self.members.get(path)
        if isinstance(member, EmbeddedImage):
            return parquet_images.read_image(self.store, member)
        return self.store.read(path) if member is None else _read_member(self.store, path, member)

    def embedded(self, paths: Iterable[str]) -> list[EmbeddedImage] | None:
        """Where images stand in Parquet files, if all of them do."""
        members = [self.members.get(path) for path in paths]
        embedded = [member for member in members if isinstance(member, EmbeddedImage)]
        return embedded if len(embedded) == len(members) else None

    def with_members(self, members: Mapping[str, Member | EmbeddedImage]) -> "Source":
        """The same source with more files that lie inside others."""
        return replace(
            self,
            members=dict(self.members) | {path: member for path, member in members.items() if path not in self.files},
        )


def _read_member(store: Store, path: str, member: Member) -> bytes:
    """One file of an archive, checked against the archive's checksum where it has one."""
    if member.num_bytes > _LARGEST_MEMBER_BYTES:
        raise OSError(f"{member.archive}: {path}: {member.num_bytes:,} bytes are too many to be read in place")
    start = member.start
    if member.crc32 is not None:
        header = store.read_range(member.archive, start=start, length=_ZIP_LOCAL_HEADER_BYTES)
        if header[:4] != b"PK\x03\x04":
            raise OSError(f"{member.archive}: {path}: no zip entry where the directory says")
        # The local header repeats the name and has extra fields of its own; only their lengths matter here.
        start += (
            _ZIP_LOCAL_HEADER_BYTES + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        )
    content = store.read_range(member.archive, start=start, length=member.stored_bytes)
    if member.method == zipfile.ZIP_DEFLATED:
        try:  # no more than is stated, whatever is inside
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.num_bytes + 1)
        except zlib.error as error:
            raise OSError(f"{member.archive}: {path}: {error}") from error
    if len(content) != member.num_bytes or (member.crc32 is not None and zlib.crc32(content) != member.crc32):
        raise OSError(f"{member.archive}: {path}: damaged in the archive")
    return content


def open_source(location: str, *, archives: Mapping[str, str] | None = None) -> Source:
    """Open a folder, a .zip, a .tar or a URL of any of these.

    `archives` are files inside a folder to be read in place, each with the folder that its content seems to lie in.
    Raises `JobError` where there is nothing, or where an archive is damaged or compressed as a whole.
    """
    location = str(location).rstrip("/") or "/"
    parent, _, name = location.rpartition("/")
    is_folder = not is_url(location) and Path(location).is_dir()
    if name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz")) and not is_folder:
        store = Store(parent or ("." if not location.startswith("/") else "/"))
        return Source(store, frozenset(), _members(store, name))
    if name.lower().endswith(parquet_images.SUFFIX) and not is_folder:
        return Source(Store(parent or ("." if not location.startswith("/") else "/")), frozenset({name}))
    if not is_url(location) and Path(location).is_file():
        raise JobError(f"{location}: a file; give the folder, .zip or .tar of the dataset as --src")
    store = Store(location)
    files = frozenset(store.list())
    if not files:
        raise JobError(f"{location}: {_nothing_there(location)}; give the folder, .zip or .tar of the dataset as --src")
    members: dict[str, Member] = {}
    for archive, into in (archives or {}).items():
        if archive in files:
            members |= _members(store, archive, into=into)
    return Source(store, files, {path: member for path, member in members.items() if path not in files})


class _NotInPlaceError(Exception):
    """An archive whose files cannot be read one by one where they are."""


def _nothing_there(location: str) -> str:
    return "an empty folder" if is_url(location) or Path(location).is_dir() else "no such folder"


def _members(store: Store, archive: str, *, into: str = "") -> dict[str, Member]:
    """The files inside an archive, by their paths as they would be if it were unpacked into a folder where it lies."""
    where = f"{store.location}/{archive}"
    prefix = "".join(f"{folder}/" for folder in (archive.rpartition("/")[0], into) if folder)
    try:
        members = _zip_members(store, archive) if archive.lower().endswith(".zip") else _tar_members(store, archive)
    except FileNotFoundError as error:
        raise JobError(f"{where}: no such file; give the folder, .zip or .tar of the dataset as --src") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise JobError(f"{where}: a damaged archive ({error}); fetch it again") from error
    except _NotInPlaceError as error:
        raise JobError(f"{where}: {error}; unpack it and give the folder as --src") from error
    named = {posixpath.normpath(path): member for path, member in members.items()}
    return {
        prefix + path: member
        for path, member in named.items()
        if not path.startswith(("/", "../")) and not is_hidden(path)
    }


def _zip_members(store: Store, archive: str) -> dict[str, Member]:
    members = {}
    with store.open(archive) as file, zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise _NotInPlaceError("the archive is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _NotInPlaceError(f"compression method {info.compress_type} is not read in place")
            members[info.filename] = Member(
                archive, info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC
            )
    return members


def _tar_members(store: Store, archive: str) -> dict[str, Member]:
    with store.open(archive) as file:
        if file.read(2) in (b"\x1f\x8b", b"\xfd7", b"BZ"):
            raise _NotInPlaceError("a compressed tar cannot be read in place")
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as opened:
            members = {
                info.name: Member(archive, info.offset_data, info.size, info.size)
                for info in opened
                if info.isreg() and not info.issparse()
            }
            # tarfile takes a damaged header for the end; the true end is a block of zeros, or that of the file.
            file.seek(opened.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {opened.offset:,}")
            length = file.seek(0, io.SEEK_END)
    if any(member.start + member.num_bytes > length for member in members.values()):
        raise tarfile.ReadError("it ends in the middle of a file")
    return members
