"""Fetch: the published files of a dataset or a model, downloaded, or asked for where that cannot be, and verified."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from facepack import download, terminal, unpack
from facepack.description import Description, File, Model, dataset_folder, manifests_folder, published_checksums
from facepack.download import Expected, MissingError
from facepack.errors import JobError, UsageError
from facepack.lock import FETCH, held
from facepack.storage import Store

_TERMS_FILE, _FACTS_FILE = ".facepack-terms", ".facepack-fetched"
"""Terms that were accepted here; size, sha256 and path of archives that were taken apart here."""
_AT_ONCE = 4
_LINE_EVERY_S = 10.0


@dataclass(frozen=True)
class State:
    """What is in place of a published file."""

    kind: Literal["whole", "part", "wrong", "missing"]
    told: str
    place: Path


def state(file: File, folder: Path, *, deep: bool) -> State:
    """Look for a file, or for what it gives when taken apart; `deep` compares checksums, too."""
    for name in file.places:
        path = folder / name
        if path.is_dir():
            number = _num_files(path)
            if number and number >= file.num_files:
                return State("whole", f"{number:,} files", path)
            return State("part", f"{number:,} of {file.num_files:,} files", path)
        if path.is_file():
            is_published = path.name == Path(file.path).name
            return _state_of(path, file, deep=deep) if is_published else State("whole", "taken apart", path)
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

    Several files at once, each resumed where it stopped. Raises `JobError` where a file cannot be had, is not as
    published, or another fetch works in the folder; what is whole by then stays.
    """
    wanted = chosen(one.files, only)
    if not wanted:
        raise UsageError(f"{one.name}: nothing to fetch: {getattr(one, 'obtain', '')}")
    if not has_work(wanted, folder):
        return _fetched(one, wanted, folder)  # a look at it, which writes nothing
    folder.mkdir(parents=True, exist_ok=True)
    with held(Store(str(folder)), work=FETCH):
        return _fetched(one, wanted, folder)


def has_work(wanted: Sequence[File], folder: Path) -> bool:
    """True where something is missing, or not taken apart yet."""
    states = [(file, state(file, folder, deep=False)) for file in wanted]
    return any(found.kind == "missing" or (file.unpack and found.place.is_file()) for file, found in states)


def _fetched(one: Description | Model, wanted: Sequence[File], folder: Path) -> list[str]:
    problems, by_hand, missing = [], [], []
    with _watched() as watch:
        job = _Job(one, folder, watch)
        for file in wanted:
            found = state(file, folder, deep=True)
            watch.note(f"{file.path}: {found.told}")
            if found.kind == "wrong":
                problems.append(f"{found.place}: {found.told}; move it away and run the same command again")
            elif found.kind == "part":
                problems.append(f"{found.place}: {found.told}; move it away to have all of it fetched")
            elif found.kind == "missing":
                missing.append(file)
            elif file.unpack and found.place.name == Path(file.path).name:  # put here by hand, or left by a killed call
                problems += job.problems(lambda file=file, path=found.place: job.take_apart(path, file))  # type: ignore[misc]
            else:
                job.clear(file)
        problems += _at_once(job, [file for file in missing if file.urls])
        for file in missing:
            if not file.urls:
                problems += job.problems(lambda file=file: by_hand.extend(job.by_tool(file)))  # type: ignore[misc]
    if problems:
        raise JobError("; ".join([*problems, *by_hand]))
    return by_hand


def _at_once(job: "_Job", files: Sequence[File]) -> list[str]:
    """Several files at once; gives what went wrong, when all others are done."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [pool.submit(job.problems, partial(job.fetch, file)) for file in files]
        try:
            return [problem for done in running for problem in done.result()]
        except KeyboardInterrupt:
            job.watch.stop()
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Job:
    """What is fetched, where to, and who watches."""

    one: Description | Model
    folder: Path
    watch: "_Watch"

    def problems(self, work: Callable[[], None]) -> list[str]:
        """Do something; what went wrong, in a list, so that everything else goes on."""
        try:
            work()
        except JobError as error:
            return [str(error)]
        return []

    def fetch(self, file: File) -> None:
        """Fetch one file from the first address that has it, and take it apart where that is meant."""
        path = self.folder / file.path
        for number, url in enumerate(file.urls):
            try:
                if file.pieces:
                    self._join(url, file, path)
                else:
                    heard = self.watch.of(file.path, file.num_bytes)
                    download.download_file(url, path, expected=_expected(file), advance=heard)
                break
            except JobError as error:
                if number == len(file.urls) - 1:
                    raise JobError(f"{error}; by hand: {_told(file, path)}") from error
                self.watch.note(f"{error}; trying {file.urls[number + 1]}")
        self.watch.note(f"{file.path}: {path.stat().st_size:,} bytes")
        try:
            self.take_apart(path, file)
        except JobError:
            path.unlink(missing_ok=True)  # it was fetched now: the next call fetches it, or joins its pieces, again
            raise
        self.clear(file)

    def _join(self, url: str, file: File, path: Path) -> None:
        """Fetch the pieces <url>aa, <url>ab, ... up to the first that is not there, and make one file of them."""
        # Pieces of one address say nothing about where the list of another ends.
        pieces = path.with_name(f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.pieces")
        pieces.mkdir(parents=True, exist_ok=True)
        found: list[Path] = []
        names = ["".join(letters) for letters in product(ascii_lowercase, repeat=2)]

        def get(name: str) -> Path | None:
            try:
                return download.download_file(
                    f"{url}{name}", pieces / name, advance=self.watch.of(f"{path.name}{name}")
                )
            except MissingError:
                if name == names[0]:
                    raise
                return None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(names), _AT_ONCE):
                batch = list(pool.map(get, names[start : start + _AT_ONCE]))
                found += [piece for piece in batch if piece is not None]
                if None in batch:
                    break
        joined = path.with_name(f".{path.name}.joined")
        with joined.open("wb") as whole:
            for piece in found:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
            whole.flush()
            os.fsync(whole.fileno())
        try:
            _expected(file).check(joined, what=f"{path.name} of the pieces at {url}")
        except JobError:
            joined.unlink()
            shutil.rmtree(pieces)
            raise
        joined.replace(path)

    def take_apart(self, path: Path, file: File) -> None:
        """Take an archive apart where that is meant; it is not needed after that."""
        if not file.unpack:
            return
        self.watch.note(f"{path.name}: taking it apart")
        last = time.monotonic()

        def advance(number: int) -> None:
            nonlocal last
            self.watch.check()
            if time.monotonic() - last > _LINE_EVERY_S:
                last = time.monotonic()
                self.watch.note(f"{path.name}: {number:,} files")

        limits = unpack.Limits.of(path, num_files=4 * max(self.one.num_images, file.num_files) + 10_000)
        kept = _facts_of(path)
        try:
            number = unpack.extract(path, path.parent, limits=limits, last=file.gives, advance=advance)
        except JobError as error:
            raise JobError(f"{error}; move it away and run the same command again") from error
        given = path.parent / file.gives
        if not given.exists():
            raise JobError(f"{path}: holds no {file.gives}; what it holds is in {path.parent}")
        with (self.folder / _FACTS_FILE).open("a", encoding="utf-8") as notes:
            notes.write(f"{kept.num_bytes} {kept.sha256} {file.path}\n")
        path.unlink()
        self.watch.note(f"{path.name}: {number:,} files")
        if given.is_dir() and _num_files(given) < file.num_files:
            terminal.warn(f"{given}: {_num_files(given):,} of {file.num_files:,} files")

    def by_tool(self, file: File) -> list[str]:
        """Fetch by gdown or by Kaggle's client, where it is installed and set up; what a person has to do if not."""
        path = self.folder / file.path
        if not _by_tool(file, path):
            return [_told(file, path)]
        self.take_apart(path, file)
        return []

    def clear(self, file: File) -> None:
        """Remove the pieces of a file that is whole."""
        for pieces in self.folder.glob(f".{Path(file.path).name}.*.pieces"):
            shutil.rmtree(pieces)


def _facts_of(path: Path) -> Expected:
    """Size and sha256 of a file."""
    with path.open("rb") as content:
        return Expected(path.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())


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
    """Show the terms, and ask once that they are accepted; `UsageError` says what they are and how."""
    file = folder / _TERMS_FILE
    if not one.files or (file.exists() and one.terms in file.read_text(encoding="utf-8").splitlines()):
        return
    told = f"{one.name}: its terms are: {one.terms} ({one.homepage})"
    if not accepted:
        raise UsageError(f"{told}; accept them with --accept-terms")
    terminal.note(f"{told}; accepted")
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as kept:
        kept.write(f"{one.terms}\n")


# Checksums


def write_checksums(name: str, folder: Path) -> list[str]:
    """Fill facts of the files that are here into the description of a dataset or model; gives their names.

    Size and sha256 of files, also of archives that `fetch` took apart here, and how many files those gave. Raises
    `JobError` where one that is here is not as its description says.
    """
    one = published_checksums(name)
    base = manifests_folder() / ("models" if isinstance(one, Model) else "")
    text, filled = (base / f"{name}.toml").read_text(encoding="utf-8"), []
    notes = (folder / _FACTS_FILE).read_text(encoding="utf-8") if (folder / _FACTS_FILE).exists() else ""
    apart = {path: (size, digest) for size, digest, path in (line.split(" ", 2) for line in notes.splitlines())}
    for file in one.files:
        found = state(file, folder, deep=True)
        facts: dict[str, str] = {}
        if found.kind == "wrong":
            raise JobError(f"{found.place}: {found.told}")
        if found.place.is_file() and found.place.name == Path(file.path).name:
            known = _facts_of(found.place)
            facts = {"num_bytes": f"{known.num_bytes}", "sha256": f'"{known.sha256}"'}
        elif file.path in apart and found.place.exists():
            size, digest = apart[file.path]
            facts = {"num_bytes": size, "sha256": f'"{digest}"'}
            if found.place.is_dir():
                facts["num_files"] = f"{_num_files(found.place)}"
        if facts:
            text = _with_facts(text, file.path, facts)
            filled.append(file.path)
    Store(str(base)).write(f"{name}.toml", text.encode())
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

    def check(self) -> None:
        """End what asks here, where the watch was stopped."""
        if self._stopped:
            raise KeyboardInterrupt

    def add(self, name: str, num_bytes: int) -> None:
        """Count bytes of a file."""
        self.check()
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
        one = published_checksums(name)
        folder = to or dataset_folder(name)
        if checksums:
            filled = write_checksums(name, folder)
            terminal.out.print(f"{name}: {', '.join(filled) or 'no file'} written into its description", soft_wrap=True)
            return
        wanted = chosen(one.files, only or [])
        if has_work(wanted, folder):
            accept_terms(one, folder=folder, accepted=accept)
        by_hand = fetch(one, folder=folder, only=only or [])
        for line in by_hand:
            terminal.out.print(line, soft_wrap=True)
        if by_hand:
            raise JobError(f"{name}: {len(by_hand)} files have to be got by hand, as said above")
        what = f"{name} ({', '.join(only)})" if only else name
        terminal.out.print(f"{what}: whole, in {folder}", soft_wrap=True)
