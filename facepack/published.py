"""Published files: what of a dataset or a model is in a folder, by its sizes and checksums."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facepack.description import File
from facepack.download import Expected
from facepack.errors import FieldError, JobError

ARCHIVES_FILE = ".facepack-fetched"
"""Size, sha256 and path of the archives that were unpacked in a folder."""


@dataclass(frozen=True)
class FileState:
    """What is in place of a published file, in words in `detail`; `path` is where it lies, or where it belongs."""

    name: str
    kind: Literal["whole", "part", "wrong", "missing"]
    detail: str
    path: Path


@dataclass(frozen=True)
class Archive:
    """Size and sha256 of an archive."""

    num_bytes: int
    sha256: str


def state_of(file: File, folder: Path, *, deep: bool) -> FileState:
    """Look for a file, or for what it gives when it is unpacked; `deep` compares checksums, too."""
    for name in file.places:
        path = folder / name
        if path.is_dir():
            number = num_files(path)
            if number and number >= file.num_files:
                return FileState(file.path, "whole", f"{number:,} files", path)
            return FileState(file.path, "part", f"{number:,} of {file.num_files:,} files", path)
        if path.is_file() and path.name != Path(file.path).name:
            return FileState(file.path, "whole", "unpacked", path)
        if path.is_file():
            return _state_as_published(path, file, deep=deep)
    return FileState(file.path, "missing", "not here", folder / file.path)


def _state_as_published(path: Path, file: File, *, deep: bool) -> FileState:
    """What a file is by its size, and where `deep` by its checksum."""
    expected = expected_of(file) if deep else Expected(file.num_bytes or None)
    try:
        expected.check(path, what=str(path))
    except JobError as error:
        return FileState(file.path, "wrong", str(error).removeprefix(f"{path}: "), path)
    is_checked = deep and bool(file.md5 or file.sha256)
    detail = f"{path.stat().st_size:,} bytes" + (", as published" if is_checked else "")
    return FileState(file.path, "whole", detail, path)


def is_packed(state: FileState) -> bool:
    """True where the file itself is there, not what it gives when it is unpacked."""
    return state.path.is_file() and state.path.name == Path(state.name).name


def expected_of(file: File) -> Expected:
    """Size and checksums as they are published."""
    return Expected(file.num_bytes or None, file.sha256, file.md5)


def num_files(folder: Path) -> int:
    """Number of files in a folder, at any depth."""
    return sum(len(files) for _, _, files in os.walk(folder))


def selected(files: Sequence[File], only: Sequence[str]) -> list[File]:
    """The files of the kinds in `only`, or all that are not optional; `UsageError` for an unknown kind."""
    kinds = list(dict.fromkeys(file.kind for file in files))
    if unknown := [kind for kind in only if kind not in kinds]:
        raise FieldError("only", unknown[0], f"there are {', '.join(kinds) or 'no files to fetch'}")
    return [file for file in files if (file.kind in only if only else not file.optional)]


def archive_of(path: Path) -> Archive:
    """Size and sha256 of a file."""
    with path.open("rb") as content:
        return Archive(path.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())


def remember_archive(folder: Path, name: str, archive: Archive) -> None:
    """Note an archive that was unpacked in a folder, and is deleted there."""
    with (folder / ARCHIVES_FILE).open("a", encoding="utf-8") as notes:
        notes.write(f"{archive.num_bytes} {archive.sha256} {name}\n")


def remembered_archives(folder: Path) -> dict[str, Archive]:
    """The archives that were unpacked in a folder, by the names of their files."""
    path = folder / ARCHIVES_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    archives = {}
    for line in lines:
        num_bytes, sha256, name = line.split(" ", 2)
        archives[name] = Archive(int(num_bytes), sha256)
    return archives
