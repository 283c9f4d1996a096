"""Fetch: the published files of a dataset or a model, downloaded, or asked for where that cannot be, and verified."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from facepack import dataset, download, terminal, unpack
from facepack.dataset import Description, File, Model
from facepack.download import Expected, MissingError
from facepack.errors import JobError, UsageError
from facepack.lock import held
from facepack.storage import Store

_TERMS_FILE = ".facepack-terms"
_AT_ONCE = 4
_LINE_EVERY_S = 10.0
_MOST_PIECES = 26 * 26


@dataclass(frozen=True)
class State:
    """What is in place of a published file."""

    kind: Literal["whole", "part", "wrong", "missing"]
    told: str
    place: Path


def state(file: File, folder: Path, *, deep: bool) -> State:
    """Look for a file, or for what it gives when taken apart; `deep` compares checksums, too."""
    for name in (file.path, *file.also):
        path = folder / name
        if path.is_file():
            return _state_of(path, file, deep=deep)
    given = folder / file.gives
    if file.gives and given.is_dir():
        number = _num_files(given)
        if number >= file.num_files:
            return State("whole", f"{number:,} files", given)
        return State("part", f"{number:,} of {file.num_files:,} files", given)
    if file.gives and given.is_file():
        return State("whole", f"{given.stat().st_size:,} bytes", given)
    return State("missing", "not here", folder / file.path)


def _state_of(path: Path, file: File, *, deep: bool) -> State:
    """What a file is by its size, and where wanted by its checksum."""
    size = path.stat().st_size
    known = _expected(file)
    shallow = known if deep else Expected(known.num_bytes)
    try:
        shallow.check(path, what=str(path))
    except JobError as error:
        return State("wrong", str(error).removeprefix(f"{path}: "), path)
    is_checked = deep and bool(file.md5 or file.sha256)
    return State("whole", f"{size:,} bytes" + (", as published" if is_checked else ""), path)


def _num_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _expected(file: File) -> Expected:
    return Expected(file.num_bytes or None, file.sha256, file.md5)


def chosen(files: Sequence[File], only: Sequence[str]) -> list[File]:
    """The files of the kinds that are asked for, or all that are not optional; `UsageError` for a kind not known."""
    kinds = list(dict.fromkeys(file.kind for file in files))
    if unknown := [kind for kind in only if kind not in kinds]:
        raise UsageError(f"--only {unknown[0]}: there are {', '.join(kinds) or 'no files to fetch'}")
    return [file for file in files if (file.kind in only if only else not file.optional)]


def fetch(one: Description | Model, *, folder: Path, only: Sequence[str] = ()) -> list[str]:
    """Get what is missing of a dataset or a model, and check what is there; gives what a person has to do.

    Several files at once, each resumed where it stopped. Raises `JobError` where a file cannot be had or is not as
    published; what is whole by then stays.
    """
    wanted = chosen(one.files, only)
    if not wanted:
        return [f"{one.name}: nothing to fetch: {getattr(one, 'obtain', '')}"]
    folder.mkdir(parents=True, exist_ok=True)
    with held(Store(str(folder)), what="fetch"):
        return _fetched(one, wanted, folder)


def _fetched(one: Description | Model, wanted: Sequence[File], folder: Path) -> list[str]:
    problems, by_hand, missing = [], [], []
    for file in wanted:
        found = state(file, folder, deep=True)
        terminal.note(f"{file.path}: {found.told}")
        if found.kind == "wrong":
            problems.append(f"{found.place}: {found.told}; move it away and run the same command again")
        elif found.kind == "part":
            problems.append(f"{found.place}: {found.told}; move it away to have all of it fetched")
        elif found.kind == "missing":
            missing.append(file)
        elif file.unpack and found.place.name == Path(file.path).name:  # put here by hand, or a call was interrupted
            _take_apart(found.place, file, one, folder)
    with _watched() as watch:
        try:
            problems += _download_all([file for file in missing if file.urls], one, folder, watch)
        except KeyboardInterrupt:
            watch.stop()
            raise
    for file in missing:
        if not file.urls:
            path = folder / file.path
            if _by_tool(file, path):
                _take_apart(path, file, one, folder)
            else:
                by_hand.append(_told(file, path))
    if problems:
        raise JobError("; ".join(problems))
    return by_hand


def _download_all(files: Sequence[File], one: Description | Model, folder: Path, watch: "_Watch") -> list[str]:
    """Several files at once; gives what went wrong, when all others are done."""
    problems = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            running = [(file, pool.submit(_one, file, one, folder, watch)) for file in files]
            for file, done in running:
                try:
                    done.result()
                except JobError as error:
                    hint = f"; by hand: {_told(file, folder / file.path)}" if isinstance(error, MissingError) else ""
                    problems.append(f"{error}{hint}")
        except KeyboardInterrupt:
            watch.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def _one(file: File, one: Description | Model, folder: Path, watch: "_Watch") -> None:
    """Fetch one file from the first address that has it, and take it apart where that is meant."""
    path = folder / file.path
    for number, url in enumerate(file.urls):
        try:
            if file.pieces:
                _join(url, path, watch)
                _expected(file).check(path, what=str(path))
            else:
                download.download(url, path, expected=_expected(file), advance=watch.of(file.path, file.num_bytes))
            break
        except JobError as error:
            if number == len(file.urls) - 1:
                raise
            watch.note(f"{error}; trying {file.urls[number + 1]}")
    watch.note(f"{file.path}: {path.stat().st_size:,} bytes")
    try:
        _take_apart(path, file, one, folder)
    except JobError:
        path.unlink(missing_ok=True)  # it was fetched now: the next call fetches it, or joins its pieces, again
        raise
    for pieces in folder.glob(f".{path.name}.*.pieces"):
        shutil.rmtree(pieces)


def _join(url: str, path: Path, watch: "_Watch") -> None:
    """Fetch the pieces <url>aa, <url>ab, ... up to the first that is not there, and make one file of them."""
    if path.exists():
        return
    # Pieces of one address say nothing about where the list of another ends.
    pieces = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.pieces")
    pieces.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    names = ["".join(letters) for letters in product(ascii_lowercase, repeat=2)]

    def get(name: str) -> Path | None:
        try:
            return download.download(f"{url}{name}", pieces / name, advance=watch.of(f"{path.name}{name}"))
        except MissingError:
            if name == names[0]:
                raise
            return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, _MOST_PIECES, _AT_ONCE):
            batch = list(pool.map(get, names[start : start + _AT_ONCE]))
            found += [piece for piece in batch if piece is not None]
            if None in batch:
                break
    joined = path.with_name(f".{path.name}.joined")
    with joined.open("wb") as file:
        for piece in found:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    joined.replace(path)


def _take_apart(path: Path, file: File, one: Description | Model, folder: Path) -> None:
    """Take an archive apart where that is meant; it is not needed after that."""
    if not file.unpack:
        return
    terminal.note(f"{path.name}: taking it apart")
    last = time.monotonic()

    def advance(number: int) -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_EVERY_S:
            last = time.monotonic()
            terminal.note(f"{path.name}: {number:,} files")

    most = 4 * max(one.num_images, file.num_files) + 10_000
    limits = unpack.Limits.of(path, num_files=most)
    number = unpack.unpack(path, folder, limits=limits, last=file.gives, advance=advance)
    given = state(file, folder, deep=False)
    if not (folder / file.gives).exists():
        raise JobError(f"{path}: holds no {file.gives}; what it holds is in {folder}")
    path.unlink()
    terminal.note(f"{path.name}: {number:,} files")
    if (folder / file.gives).is_dir() and _num_files(folder / file.gives) < file.num_files:
        terminal.warn(f"{given.place}: {given.told}")


# What a person, or a program for the place, has to fetch


def _by_tool(file: File, path: Path) -> bool:
    """Fetch by gdown or by Kaggle's client, where it is installed and set up; gives whether it was."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
        if file.drive and (program := shutil.which("gdown")):
            command = [program, file.drive, "-O", f"{work}/{path.name}"]
        elif file.kaggle and (program := shutil.which("kaggle")) and _knows_kaggle():
            command = [program, "datasets", "download", file.kaggle, "-p", work]
        else:
            return False
        terminal.note(f"{path.name}: {' '.join(command[:-2])}")
        ended = subprocess.run(command, stdout=2, check=False)  # noqa: S603 - both are programs of the user
        got = sorted(Path(work).iterdir())
        if ended.returncode or len(got) != 1:
            told = f"exit code {ended.returncode}" if ended.returncode else f"{len(got)} files"
            raise JobError(f"{Path(command[0]).name}: {told}; {_told(file, path)}")
        _expected(file).check(got[0], what=f"{path.name} from {file.source}")
        got[0].replace(path)
    return True


def _knows_kaggle() -> bool:
    """True where Kaggle's client has what it logs in with."""
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    known = any((folder / name).exists() for name in ("kaggle.json", "access_token", "credentials.json"))
    return known or "KAGGLE_KEY" in os.environ or "KAGGLE_API_TOKEN" in os.environ


def _told(file: File, path: Path) -> str:
    """What a person has to do."""
    tool = ""
    if file.drive and not shutil.which("gdown"):
        tool = " (with pip install gdown, facepack fetches it)"
    elif file.kaggle:
        tool = " (with pip install kaggle and its key, facepack fetches it)"
    return f"get {path.name} from {file.source}{tool}, put it at {path}, and run the same command: it is checked then"


# Terms


def accept_terms(one: Description | Model, *, folder: Path, accepted: bool) -> None:
    """Ask once that the terms are accepted; `UsageError` says what they are and how."""
    file = folder / _TERMS_FILE
    if file.exists() and one.terms in file.read_text(encoding="utf-8").splitlines():
        return
    if not accepted:
        raise UsageError(f"{one.name}: its terms are: {one.terms} ({one.homepage}); accept them with --accept-terms")
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as kept:
        kept.write(f"{one.terms}\n")


# Checksums


def write_checksums(name: str, folder: Path) -> list[str]:
    """Fill size and sha256 of the files that are here into the description of a dataset or model; gives their names.

    Raises `JobError` where one that is here is not as its description says.
    """
    one = dataset.published(name)
    base = dataset.manifests_folder() / ("models" if isinstance(one, Model) else "")
    path = base / f"{name}.toml"
    text, filled = path.read_text(encoding="utf-8"), []
    for file in one.files:
        found = state(file, folder, deep=True)
        if found.kind == "wrong":
            raise JobError(f"{found.place}: {found.told}")
        if not found.place.is_file() or found.place.name != Path(file.path).name:
            continue
        with found.place.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        text = _with_facts(text, file.path, {"num_bytes": f"{found.place.stat().st_size}", "sha256": f'"{digest}"'})
        filled.append(file.path)
    path.write_text(text, encoding="utf-8")
    return filled


def _with_facts(text: str, path: str, facts: dict[str, str]) -> str:
    """The text of a description with facts of one file set at the end of its block."""
    blocks = re.split(r"(?m)^(?=\[)", text)
    for number, block in enumerate(blocks):
        if block.startswith("[[files]]") and re.search(rf'(?m)^path = "{re.escape(path)}"$', block):
            kept = [line for line in block.rstrip("\n").split("\n") if line.partition(" = ")[0] not in facts]
            lines = [*kept, *(f"{name} = {value}" for name, value in facts.items())]
            blocks[number] = "\n".join(lines) + block[len(block.rstrip("\n")) :]
    return "".join(blocks)


# Seeing


class _Watch:
    """Bytes as they come: a bar per file and one in all on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars, self._lock, self._stopped = bars, threading.Lock(), False
        self._tasks: dict[str, TaskID] = {}
        self._sum, self._begun = 0, time.monotonic()
        self._last_line = self._begun
        self._all = bars.add_task("in all", total=None) if bars else TaskID(0)

    def stop(self) -> None:
        """Let every download end at its next bytes."""
        self._stopped = True

    def note(self, line: str) -> None:
        """Say something above the bars."""
        if self._bars:
            self._bars.console.print(line)
        else:
            terminal.note(line)

    def of(self, name: str, num_bytes: int = 0) -> "_Advance":
        """What hears of the bytes of one file."""
        with self._lock:
            if self._bars and name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=num_bytes or None)
        return _Advance(self, name)

    def add(self, name: str, num_bytes: int) -> None:
        """Count bytes of a file."""
        if self._stopped:
            raise KeyboardInterrupt
        with self._lock:
            self._sum += num_bytes
            now = time.monotonic()
            if self._bars:
                self._bars.advance(self._tasks[name], num_bytes)
                self._bars.advance(self._all, num_bytes)
            elif now - self._last_line > _LINE_EVERY_S:
                self._last_line = now
                rate = self._sum / (now - self._begun) / 1e6
                terminal.note(f"{name}: {self._sum / 1e6:,.1f} MB in all, {rate:,.1f} MB/s")


@dataclass(frozen=True)
class _Advance:
    """Counts the bytes of one file."""

    watch: _Watch
    name: str

    def __call__(self, num_bytes: int) -> None:
        self.watch.add(self.name, num_bytes)


@contextmanager
def _watched() -> Iterator[_Watch]:
    if not terminal.err.is_terminal:
        yield _Watch(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=terminal.err) as bars:
        yield _Watch(bars)


def command(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset or a model; facepack datasets lists them.")],
    to: Annotated[Path | None, typer.Option(help="Folder for it. [$FACEPACK_DATA/DATASET or data/DATASET]")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only files of this kind, such as labels; repeatable.")] = None,
    accept: Annotated[bool, typer.Option("--accept-terms", help="Accept the terms of use, once.")] = False,
    checksums: Annotated[
        bool, typer.Option("--write-checksums", help="Write size and sha256 of the files here into the description.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Download what can be, say what cannot, check all; a second call fetches nothing that is whole.

    Example: facepack fetch appa_real --accept-terms
    """
    with terminal.errors_as_lines(debug=debug):
        one = dataset.published(name)
        folder = to or dataset.home(name)
        if checksums:
            filled = write_checksums(name, folder)
            terminal.out.print(f"{name}: {', '.join(filled) or 'no file'} written into its description", soft_wrap=True)
            return
        accept_terms(one, folder=folder, accepted=accept)
        by_hand = fetch(one, folder=folder, only=only or [])
        for line in by_hand:
            terminal.out.print(line, soft_wrap=True)
        if by_hand:
            raise JobError(f"{name}: {len(by_hand)} files have to be got by hand, as said above")
        terminal.out.print(f"{name}: whole, in {folder}", soft_wrap=True)
