"""The job of one published file: downloaded whole or in pieces, or by a tool, and unpacked."""

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Protocol

from facepack import download, fetch_tools, unpack
from facepack.description import File
from facepack.download import MissingError
from facepack.errors import JobError
from facepack.published import archive_of, expected_of, num_files, remember_archive

log = logging.getLogger("facepack")

NUM_AT_ONCE = 4
"""Files, or pieces of one, that are downloaded at the same time."""
_LINE_EVERY_S = 10.0


class Progress(Protocol):
    """What shows bytes as they come; called from several threads."""

    def file(self, name: str, num_bytes: int) -> Callable[[int], None]:
        """The function that counts the bytes of one file; `num_bytes` is its size, 0 where that is unknown."""


class Silent:
    """Progress that shows nothing."""

    def file(self, name: str, num_bytes: int) -> Callable[[int], None]:  # noqa: ARG002
        """A function that does nothing."""
        return lambda _: None


@dataclass(frozen=True)
class FileJob:
    """What the files of a dataset or a model need: where they go, what shows their progress, and whether to stop.

    `num_images` is what is published of the number of images; `headers` are those of every request.
    """

    folder: Path
    progress: Progress
    num_images: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)

    def fetch(self, file: File) -> None:
        """Fetch a file from the first address that has it, and unpack it where that is due."""
        path = self.folder / file.path
        for number, url in enumerate(file.urls):
            try:
                self._download(url, file, path)
                break
            except JobError as error:
                if number == len(file.urls) - 1:
                    raise JobError(f"{error}; by hand: {fetch_tools.instruction(file, path)}") from error
                log.info(f"{error}; trying {file.urls[number + 1]}")
        log.info(f"{file.path}: {path.stat().st_size:,} bytes")
        try:
            self.unpack(file, path)
        except JobError:
            path.unlink(missing_ok=True)  # it was fetched now: the next call fetches it, or joins its pieces, again
            raise
        self.clear(file)

    def fetch_by_tool(self, file: File) -> str:
        """Fetch a file by a tool of the user's; what a person has to do where there is none, else ""."""
        path = self.folder / file.path
        if not fetch_tools.fetch_by_tool(file, path):
            return fetch_tools.instruction(file, path)
        self.unpack(file, path)
        return ""

    def unpack(self, file: File, path: Path) -> None:
        """Unpack an archive where that is due, and delete it."""
        if not file.unpack:
            return
        log.info(f"{path.name}: unpacking it")
        limits = unpack.Limits.of(path, num_files=4 * max(self.num_images, file.num_files) + 10_000)
        archive = archive_of(path)
        try:
            number = unpack.extract(path, path.parent, limits=limits, last=file.gives, advance=self._count_files(path))
        except JobError as error:
            raise JobError(f"{error}; move it away and run the same command again") from error
        result = path.parent / file.gives
        if not result.exists():
            raise JobError(f"{path}: holds no {file.gives}; what it holds is in {path.parent}")
        remember_archive(self.folder, file.path, archive)
        path.unlink()
        log.info(f"{path.name}: {number:,} files")
        if result.is_dir() and num_files(result) < file.num_files:
            log.warning(f"{result}: {num_files(result):,} of {file.num_files:,} files")

    def clear(self, file: File) -> None:
        """Remove the pieces of a file that is whole."""
        for pieces in self.folder.glob(f".{Path(file.path).name}.*.pieces"):
            shutil.rmtree(pieces)

    def _download(self, url: str, file: File, path: Path) -> None:
        if file.pieces:
            self._join(url, file, path)
        else:
            advance = self._counter(file.path, file.num_bytes)
            download.download_file(url, path, expected=expected_of(file), advance=advance, headers=self.headers)

    def _join(self, url: str, file: File, path: Path) -> None:
        """Fetch the pieces <url>aa, <url>ab, ... up to the first that is not there, and make one file of them."""
        # Pieces of one address say nothing about where the list of another ends.
        folder = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.pieces")
        folder.mkdir(parents=True, exist_ok=True)
        pieces = self._pieces(url, folder, name=path.name)
        joined = path.with_name(f".{path.name}.joined")
        with joined.open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as content:
                    shutil.copyfileobj(content, whole, 1 << 20)
            whole.flush()
            os.fsync(whole.fileno())
        try:
            expected_of(file).check(joined, what=f"{path.name} of the pieces at {url}")
        except JobError:
            joined.unlink()
            shutil.rmtree(folder)
            raise
        joined.replace(path)

    def _pieces(self, url: str, folder: Path, *, name: str) -> list[Path]:
        """The pieces, several at once; the first that the server does not have ends them, and must not be the first."""
        suffixes = ["".join(letters) for letters in product(ascii_lowercase, repeat=2)]

        def get(suffix: str) -> Path | None:
            advance = self._counter(f"{name}{suffix}", 0)
            try:
                return download.download_file(f"{url}{suffix}", folder / suffix, advance=advance)
            except MissingError:
                if suffix == suffixes[0]:
                    raise
                return None

        pieces: list[Path] = []
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            for start in range(0, len(suffixes), NUM_AT_ONCE):
                batch = list(pool.map(get, suffixes[start : start + NUM_AT_ONCE]))
                pieces += [piece for piece in batch if piece is not None]
                if None in batch:
                    break
        return pieces

    def _counter(self, name: str, num_bytes: int) -> Callable[[int], None]:
        """What counts the bytes of a download, and ends it once the job is stopped."""
        count = self.progress.file(name, num_bytes)

        def advance(number: int) -> None:
            self._check_stopped()
            count(number)

        return advance

    def _count_files(self, path: Path) -> Callable[[int], None]:
        """What logs the number of unpacked files every few seconds, and ends the work once the job is stopped."""
        last = time.monotonic()

        def advance(number: int) -> None:
            nonlocal last
            self._check_stopped()
            if time.monotonic() - last > _LINE_EVERY_S:
                last = time.monotonic()
                log.info(f"{path.name}: {number:,} files")

        return advance

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt
