"""Archive: the files inside a .zip or .tar, and where each of them lies."""

import io
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO

from facepack.errors import JobError
from facepack.listing import PIPES, Passed, is_hidden, merged, without_hidden
from facepack.storage import Store

_LARGEST_MEMBER_BYTES = 1 << 30
"""The largest size of a file that an archive is believed."""
_LONGEST_LINK_BYTES = 4096
_MOST_LINKS = 40
"""Links to links that are followed, as by Linux."""
_ZIP_LOCAL_HEADER_BYTES = 30
_ZIP_UTF8 = 0x800
_ZIP_UNICODE_PATH = 0x7075
_PIECE_BYTES = 1 << 20
OUTSIDE = "files of an archive that would lie outside of it"
REPLACED = "files of an archive that a later one of the same name replaces"
LOST_LINKS = "links to what the archive does not hold"
ODD_KINDS = "sparse files and other kinds that only tar knows"
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
"""How the names of archives end, those among them that cannot be read in place."""
_NOT_READ = {
    b"\x1f\x8b": "a compressed tar",
    b"\xfd7zXZ": "a compressed tar",
    b"BZh": "a compressed tar",
    b"(\xb5/\xfd": "a compressed tar",
    b"7z\xbc\xaf": "a .7z",
    b"Rar!": "a .rar",
}


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies inside an archive: `start` of its header (zip) or its content (tar), sizes in bytes."""

    archive: str
    start: int
    stored_bytes: int
    num_bytes: int
    method: int = zipfile.ZIP_STORED
    crc32: int | None = None


@dataclass
class _Entries:
    """What an archive holds: files and links by their paths in it, and what is passed over."""

    files: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    passed: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, member: Member) -> None:
        """Add a file, in place of an earlier one of its name."""
        if path := self._path(name):
            self.files[path] = member

    def add_link(self, name: str, target: str, *, is_hard: bool = False) -> None:
        """Add a link: the target of a hard one is a path in the archive, of others one beside it."""
        if path := self._path(name):
            beside = target if is_hard else posixpath.join(posixpath.dirname(path), target)
            self.links[path] = posixpath.normpath(beside)

    def pass_over(self, reason: str, name: str) -> None:
        self.passed.setdefault(reason, []).append(name)

    def _path(self, name: str) -> str:
        """The path without ./, a leading slash or a drive; empty for one outside of the archive."""
        path = posixpath.normpath(re.sub(r"^(?:[A-Za-z]:)?/*", "", name))
        if path.startswith("../") or path == "..":
            self.pass_over(OUTSIDE, name)
            return ""
        if path in self.files:
            self.pass_over(REPLACED, path)
        return path


class DamagedError(JobError):
    """An archive that is damaged."""


class _NotInPlaceError(Exception):
    """An archive whose files cannot be read one by one where they are."""


@dataclass(frozen=True)
class Contents:
    """The files in an archive by their paths as if it were unpacked where it lies, and what is passed over."""

    members: dict[str, Member]
    passed: Passed


def contents_of(store: Store, archive: str, *, into: str = "", given: str = "") -> Contents:
    """Look into a .zip or .tar, as if it were unpacked into a folder `into` beside it; errors name it as `given`.

    Links are followed inside the archive; a joined .tar is read to its end. Raises `JobError` where there is no such
    file, or where it is damaged, encrypted or cannot be read in place.
    """
    where = given or f"{store.location}/{archive}"
    prefix = "".join(f"{folder}/" for folder in (archive.rpartition("/")[0], into) if folder)
    try:
        with store.open(archive) as file:
            entries = _entries(store, archive, file=file)
    except FileNotFoundError as error:
        raise JobError(f"{where}: no such file; give the folder, .zip or .tar of the dataset as --src") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise DamagedError(f"{where}: a damaged archive ({error}); fetch it again") from error
    except _NotInPlaceError as error:
        raise JobError(f"{where}: {error}; unpack it and give the folder as --src") from error
    _follow_links(entries)
    hidden = without_hidden(entries.files).passed
    members = {prefix + path: member for path, member in entries.files.items() if not is_hidden(path)}
    passed = merged(entries.passed, hidden)
    return Contents(members, {reason: [prefix + path for path in paths] for reason, paths in passed.items()})


def read_member(store: Store, path: str, *, member: Member) -> bytes:
    """One file of an archive, checked against the archive's checksum if there is one; `OSError` if it is damaged."""
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


def _entries(store: Store, archive: str, *, file: IO[bytes]) -> _Entries:
    start = file.read(6)
    file.seek(0)
    if kind := next((kind for magic, kind in _NOT_READ.items() if start.startswith(magic)), None):
        raise _NotInPlaceError(f"{kind} cannot be read in place")
    if archive.lower().endswith((".zip", ".cbz")) or start.startswith(b"PK\x03\x04"):
        return _zip_entries(store, archive, file=file)
    return _tar_entries(archive, file)


# .zip


def _zip_entries(store: Store, archive: str, *, file: IO[bytes]) -> _Entries:
    entries = _Entries()
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            name, kind = _zip_name(info).replace("\\", "/"), info.external_attr >> 16
            if name.endswith("/") or stat.S_ISDIR(kind):
                continue
            if info.flag_bits & 1:
                raise _NotInPlaceError("the archive is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _NotInPlaceError(f"compression method {info.compress_type} is not read in place")
            sizes = (info.compress_size, info.file_size)
            member = Member(archive, info.header_offset, *sizes, info.compress_type, info.CRC)
            if stat.S_ISLNK(kind) and info.file_size <= _LONGEST_LINK_BYTES:
                entries.add_link(name, read_member(store, name, member=member).decode("utf-8", "replace"))
            elif stat.S_IFMT(kind) not in (0, stat.S_IFREG):
                entries.pass_over(PIPES, name)
            else:
                entries.add(name, member)
    return entries


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name in a .zip: UTF-8 where it is, stated or not, or stands beside it as such; else code page 437."""
    if info.flag_bits & _ZIP_UTF8:
        return info.filename
    stored = info.orig_filename.encode("cp437")
    extra = info.extra
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field_, extra = extra[4 : 4 + length], extra[4 + length :]
        # Info-ZIP's field: a version, the checksum of the name that it stands for, the name.
        if kind == _ZIP_UNICODE_PATH and field_[1:5] == zlib.crc32(stored).to_bytes(4, "little"):
            return field_[5:].decode("utf-8", "replace")
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return info.orig_filename


# .tar


def _tar_entries(archive: str, file: IO[bytes]) -> _Entries:
    """Entries of a .tar, or of several that are joined."""
    entries = _Entries()
    length = file.seek(0, io.SEEK_END)
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as opened:
            for info in opened:
                _add_tar_entry(entries, archive, info=info)
            end = opened.offset
        start = _next_header(file, end)
        if start == end:  # tarfile takes a damaged header for the end; the true end is a block of zeros
            raise tarfile.ReadError(f"no header at byte {end:,}")
    if any(member.start + member.num_bytes > length for member in entries.files.values()):
        raise tarfile.ReadError("it ends in the middle of a file")
    return entries


def _next_header(file: IO[bytes], start: int) -> int | None:
    """Where the next block begins that is not zero, None at the end of the file."""
    file.seek(start)
    while piece := file.read(_PIECE_BYTES):
        if rest := piece.lstrip(b"\0"):
            at = start + len(piece) - len(rest)
            return at - (at - start) % tarfile.BLOCKSIZE
        start += len(piece)
    return None


def _add_tar_entry(entries: _Entries, archive: str, *, info: tarfile.TarInfo) -> None:
    name = readable(info.name)
    if info.issym() or info.islnk():
        entries.add_link(name, readable(info.linkname), is_hard=info.islnk())
    elif info.ischr() or info.isblk() or info.isfifo():
        entries.pass_over(PIPES, name)
    elif info.isreg() and not info.issparse():
        entries.add(name, Member(archive, info.offset_data, info.size, info.size))
    elif not info.isdir():
        entries.pass_over(ODD_KINDS, name)


def readable(name: str) -> str:
    """A name whose bytes are not UTF-8, as Python has it with surrogates, as Latin-1; others as they are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


# Links


def _follow_links(entries: _Entries) -> None:
    """Give links the file, or the files of the folder, that they lead to."""
    left = sorted(entries.links.keys() - entries.files.keys())
    targets = {path: _resolved(path, entries.links) for path in left}
    entries.files.update({path: entries.files[targets[path]] for path in left if targets[path] in entries.files})
    names = sorted(entries.files)
    for path in left:
        if path in entries.files:
            continue
        target = f"{targets[path]}/"
        below = [] if f"{path}/".startswith(target) else list(_beginning_with(names, target))
        entries.files.update({f"{path}/{name[len(target) :]}": entries.files[name] for name in below})
        if not below:
            entries.pass_over(LOST_LINKS, path)


def _resolved(path: str, links: dict[str, str]) -> str:
    """The path that is neither a link nor below one; empty where links lead in a circle or out of the archive."""
    for _ in range(_MOST_LINKS):
        parts = path.split("/")
        heads = ("/".join(parts[:number]) for number in range(1, len(parts) + 1))
        head = next((head for head in heads if head in links), None)
        if head is None:
            return path
        path = posixpath.normpath(links[head] + path[len(head) :])
    return ""


def _beginning_with(names: list[str], start: str) -> Iterable[str]:
    """Those of some sorted names that begin so."""
    for name in names[bisect_left(names, start) :]:
        if not name.startswith(start):
            return
        yield name
