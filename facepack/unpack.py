"""Unpack: archives taken apart; nothing lands outside, nothing is endless, and a failure leaves nothing behind."""

import bz2
import gzip
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from facepack.errors import JobError
from facepack.storage import NO_ROOM

_PIECE_BYTES = 1 << 20
_LEAST_BOUND_BYTES = 1 << 30
_MOST_SQUEEZED = 40
"""Photos hardly shrink and tables tenfold: what shrinks more is no dataset."""
_EOCD, _EOCD_BYTES, _MOST_COMMENT_BYTES = b"PK\x05\x06", 22, 1 << 16
_ENTRY_BYTES = 400
"""What a long name takes in the directory of a .zip: larger directories hold more entries than they say."""
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_LONGEST_NAME_BYTES = 1 << 16
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    struct.error,
    UnicodeDecodeError,
    NotImplementedError,  # what zipfile raises for a compression that it does not know
)


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold."""

    num_bytes: int
    num_files: int

    @classmethod
    def of(cls, archive: Path, *, num_files: int) -> "Limits":
        """So many files, and not much more bytes than its own size can stand for."""
        return cls(max(_LEAST_BOUND_BYTES, _MOST_SQUEEZED * archive.stat().st_size), num_files)


@dataclass(frozen=True)
class _Entry:
    """A file in an archive."""

    name: str
    num_bytes: int
    open: Callable[[], IO[bytes] | None]


def extract(archive: Path, folder: Path, *, limits: Limits, last: str = "", advance: Callable[[int], None]) -> int:
    """Take a .zip, .tar, .tar.gz, .tar.bz2, .tar.xz or .bz2 apart into a folder; gives the number of files.

    All is written beside the folder's content first and moved in at the end, the entry called `last` as the very last.
    `advance` is called with the number of files that are done. Raises `JobError` for a damaged archive, for one that
    reaches out of the folder, holds links or devices, or more than `limits`; the folder is then as it was.
    """
    work = folder / f".{archive.name}.unpacking"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    number = 0
    try:
        for number, entry in enumerate(_within(_entries(archive, limits), archive, limits), start=1):
            _write(entry, work, archive=archive, limits=limits)
            advance(number)
        if not number:
            raise JobError(f"{archive}: holds no file")
        _move_in(work, folder, archive, last=last)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # what the decompressors raise has no number
            if error.errno in NO_ROOM:
                hint = "make room and run the same command again"
                raise JobError(f"{folder}: {error.strerror} while taking {archive.name} apart; {hint}") from error
            raise JobError(f"{archive}: refused: {error.strerror}: {error.filename or folder}") from error
        cause = f"{error}".splitlines()[0] if f"{error}" else "it ends early"
        raise JobError(f"{archive}: damaged ({cause})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return number


def _entries(archive: Path, limits: Limits) -> Iterator[_Entry]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _of_zip(archive, limits)
    if name.endswith(".bz2") and not name.endswith((".tar.bz2", ".tbz2")):
        plain = archive.name[: -len(".bz2")]
        return iter([_Entry(plain, 0, lambda: bz2.open(archive))])
    return _of_tar(archive, limits)


def _of_zip(archive: Path, limits: Limits) -> Iterator[_Entry]:
    """Entries of a .zip; how many there are is read before they are, for they are all read at once."""
    if (number := _num_entries(archive)) > limits.num_files:
        raise JobError(f"{archive}: refused: {number:,} entries, more than the {limits.num_files:,} that it can need")
    with zipfile.ZipFile(archive) as opened:
        declared = sum(info.file_size for info in opened.infolist())
        if declared > limits.num_bytes:
            raise JobError(f"{archive}: refused: {declared:,} bytes when unpacked, more than {limits.num_bytes:,}")
        for info in opened.infolist():
            kind = (info.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                raise JobError(f"{archive}: refused: {info.filename!r} is neither a file nor a folder")
            if info.flag_bits & 1:
                raise JobError(f"{archive}: {info.filename!r} is encrypted")
            if not info.is_dir():
                yield _Entry(info.filename, info.file_size, partial(opened.open, info))


def _num_entries(archive: Path) -> int:
    """At least as many entries as the end of a .zip says, or its directory has room for."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(0, size - _EOCD_BYTES - _MOST_COMMENT_BYTES))
        tail = file.read()
    at = tail.rfind(_EOCD)
    if at < 0 or len(tail) - at < _EOCD_BYTES:
        raise JobError(f"{archive}: damaged (no directory at its end: it is no .zip, or ends early)")
    number, directory_bytes = struct.unpack("<HI", tail[at + 10 : at + 16])
    if number == 0xFFFF or directory_bytes == 0xFFFFFFFF:  # Zip64: the record before it has room for more
        record = tail.rfind(b"PK\x06\x06", 0, at)
        if record >= 0 and len(tail) - record >= 56:
            number, directory_bytes = struct.unpack("<QQ", tail[record + 32 : record + 48])
    return int(max(number, min(directory_bytes, size) // _ENTRY_BYTES))


def _of_tar(archive: Path, limits: Limits) -> Iterator[_Entry]:
    with archive.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), open)
    headers = _headers_for(archive, limits)
    with opener(archive, "rb") as content, tarfile.open(fileobj=content, mode="r|", tarinfo=headers) as opened:
        for info in opened:
            vars(opened)["members"] = []  # it would keep them all
            if not (info.isfile() or info.isdir()):
                raise JobError(f"{archive}: refused: {info.name!r} is neither a file nor a folder")
            if info.isfile():
                yield _Entry(info.name, info.size, partial(opened.extractfile, info))
        for _ in range(limits.num_bytes // _PIECE_BYTES):  # the checksum is at the very end
            if not content.read(_PIECE_BYTES):
                break


def _headers_for(archive: Path, limits: Limits) -> type[tarfile.TarInfo]:
    """Headers that are counted, folders and long names too, of which none is so long that it fills the memory."""
    number = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
            nonlocal number
            number += 1
            if number > 3 * limits.num_files:  # a long name has a header of its own
                raise JobError(f"{archive}: refused: more than {3 * limits.num_files:,} entries")
            header = super().frombuf(buf, encoding, errors)
            if header.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and header.size > _LONGEST_NAME_BYTES:
                raise JobError(f"{archive}: refused: a name of {header.size:,} bytes")
            return header

    return Header


def _within(entries: Iterator[_Entry], archive: Path, limits: Limits) -> Iterator[_Entry]:
    """The entries, as long as they stay inside and are not too many."""
    declared = 0
    for number, entry in enumerate(entries, start=1):
        path = PurePosixPath(entry.name)
        is_odd = "\\" in entry.name or ":" in path.parts[0] if path.parts else True
        if is_odd or path.is_absolute() or ".." in path.parts or "\0" in entry.name:
            raise JobError(f"{archive}: refused: {entry.name!r} would lie outside the folder")
        declared += entry.num_bytes
        if number > limits.num_files:
            raise JobError(f"{archive}: refused: more than {limits.num_files:,} files")
        if declared > limits.num_bytes:
            raise JobError(f"{archive}: refused: more than {limits.num_bytes:,} bytes when unpacked")
        yield entry


def _write(entry: _Entry, work: Path, *, archive: Path, limits: Limits) -> None:
    path = work / entry.name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = entry.open()
    assert content is not None
    left = entry.num_bytes or limits.num_bytes
    with content, path.open("wb") as file:
        while piece := content.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise JobError(f"{archive}: refused: {entry.name!r} is longer than it says")
            file.write(piece)


def _move_in(work: Path, folder: Path, archive: Path, *, last: str) -> None:
    """Give all their final names; what an interrupted call has moved in already may be there."""
    top = PurePosixPath(last).parts[0] if last else ""
    entries = sorted(work.iterdir(), key=lambda path: (path.name == top, path.name))
    for path in entries:
        there = folder / path.name
        if there.exists() and _tree(there) != _tree(path):
            raise JobError(f"{there}: is there already, and not as in {archive.name}; move it away")
    for path in entries:
        if not (folder / path.name).exists():
            path.rename(folder / path.name)


def _tree(path: Path) -> dict[str, int]:
    """Files below a path with their sizes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.stat().st_size for file in files}
