"""Fetching: the published files of a dataset or a model, downloaded where that can be, and verified."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from facepack import terms
from facepack.description import File, Model, dataset_folder, load_fetched, models_folder
from facepack.errors import JobError, UsageError
from facepack.file_job import NUM_AT_ONCE, FileJob, Progress, Silent
from facepack.lock import FETCH, held
from facepack.published import FileState, is_packed, selected, state_of
from facepack.storage import Store

log = logging.getLogger("facepack")


@dataclass(frozen=True)
class Fetched:
    """What is here of a dataset or a model: the state of each file, and what a person has to do to get the others."""

    name: str
    folder: Path
    files: tuple[FileState, ...]
    by_hand: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """True where all files are here, whole."""
        return all(file.kind == "whole" for file in self.files)


def fetch(
    name: str,
    *,
    to: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
    accept_terms: bool = False,
    progress: Progress | None = None,
) -> Fetched:
    """Get what is missing of a dataset or a model, and check what is there.

        fetch("appa_real", accept_terms=True).folder

    `to` is the folder, by default $FACEPACK_DATA/<name> or data/<name>; `only` names kinds of files, such as labels.
    Several files at once, each resumed where it stopped; nothing that is whole is fetched again. Raises `UsageError`
    with the terms of use until they are accepted, `JobError` where a file cannot be had, is not as published, or
    another fetch works in the folder; what is whole by then stays.
    """
    published = load_fetched(name)
    place = models_folder() if isinstance(published, Model) else dataset_folder(name)
    folder = place if to is None else Path(to)
    files = selected(published.files, only)
    if not files:
        raise UsageError(f"{name}: nothing to fetch: {getattr(published, 'obtain', '')}")
    job = FileJob(published, folder, progress or Silent())
    if not _has_work(files, folder):
        by_hand = _fetch_files(job, files)  # a look at them, which writes nothing
    else:
        terms.accept(published, folder=folder, accepted=accept_terms)
        folder.mkdir(parents=True, exist_ok=True)
        with held(Store(str(folder)), work=FETCH):
            by_hand = _fetch_files(job, files)
    return Fetched(name, folder, tuple(state_of(file, folder, deep=False) for file in files), tuple(by_hand))


def _has_work(files: Sequence[File], folder: Path) -> bool:
    """True where something is missing, or not unpacked yet."""
    states = [(file, state_of(file, folder, deep=False)) for file in files]
    return any(state.kind == "missing" or (file.unpack and is_packed(state)) for file, state in states)


def _fetch_files(job: FileJob, files: Sequence[File]) -> list[str]:
    """Check and fetch; what a person has to do. `JobError` names every problem, once all else is done."""
    problems, missing = _check_files(job, files)
    problems += _fetch_at_once(job, [file for file in missing if file.urls])
    by_hand = []
    for file in missing:
        if not file.urls:
            try:
                by_hand.append(job.fetch_by_tool(file))
            except JobError as error:
                problems.append(str(error))
    by_hand = [line for line in by_hand if line]
    if problems:
        raise JobError("; ".join([*problems, *by_hand]))
    return by_hand


def _check_files(job: FileJob, files: Sequence[File]) -> tuple[list[str], list[File]]:
    """Look at what is here, and unpack what was put here by hand or left by a killed call: problems, missing files."""
    problems, missing = [], []
    for file in files:
        state = state_of(file, job.folder, deep=True)
        log.info(f"{file.path}: {state.detail}")
        if state.kind == "wrong":
            problems.append(f"{state.path}: {state.detail}; move it away and run the same command again")
        elif state.kind == "part":
            problems.append(f"{state.path}: {state.detail}; move it away to have all of it fetched")
        elif state.kind == "missing":
            missing.append(file)
        elif file.unpack and is_packed(state):
            try:
                job.unpack(file, state.path)
            except JobError as error:
                problems.append(str(error))
        else:
            job.clear(file)
    return problems, missing


def _fetch_at_once(job: FileJob, files: Sequence[File]) -> list[str]:
    """Fetch several files at once; the problems, once all others are done."""
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        running = [pool.submit(job.fetch, file) for file in files]
        problems = []
        try:
            for fetched in running:
                try:
                    fetched.result()
                except JobError as error:
                    problems.append(str(error))
        except KeyboardInterrupt:
            job.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return problems
