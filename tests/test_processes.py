"""The loader in other processes and under interrupts: it works or says why not, and never gives wrong pixels."""

import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from web import started

from facepack.drawn import synthetic
from trainer.augment import Normalize
from trainer.loader import EngineSettings, Loader, StagingSettings

FORK = multiprocessing.get_context("fork")
REFUSED = "UsageError: a Loader or Predictor was used before this process was forked"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    synthetic.draw("celeba", folder / "source", num_images=120)
    make(folder / "source", folder / "build", samples_per_shard=20)
    return folder / "build"


def new(build: Path, **choices: Any) -> Loader:
    fixed: dict[str, Any] = {"split": "train", "batch_size": 8, "augment": (Normalize(),), "device": "cpu"}
    return Loader(build, **(fixed | {"engine": EngineSettings(num_threads=1)} | choices))


def rows(batches: Any) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows]


def outcome_in_a_fork(work: Callable[[], object]) -> str:
    """What the work gives in a forked process, or its error; empty where it does not end within two minutes."""
    receiver, sender = FORK.Pipe(duplex=False)

    def answer() -> None:
        try:
            sender.send(str(work()))
        except Exception as error:  # noqa: BLE001 - to be looked at
            sender.send(f"{type(error).__name__}: {error}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        process = FORK.Process(target=answer)
        process.start()
    try:
        return str(receiver.recv()) if receiver.poll(120) else ""
    finally:
        process.join(60)
        assert process.exitcode == 0, "it did not end"
        process.kill()


def test_forked_process_of_one_that_used_a_loader_is_told_so(build: Path) -> None:
    loader = new(build)
    running = iter(loader)
    next(running)
    for work in (
        lambda: list(new(build)),
        lambda: list(loader),
        lambda: next(running),
        lambda: iter(loader),
        lambda: next(iter(pickle.loads(pickle.dumps(loader)))),
    ):
        assert outcome_in_a_fork(work).startswith(REFUSED)
    assert outcome_in_a_fork(loader.close) == "None"
    assert len(rows(running)) == loader.num_samples - 8  # here nothing changed


def test_fork_that_lets_go_of_a_running_loader_ends(build: Path) -> None:
    program = f"""
import os, sys
from trainer.loader import Loader
loader = Loader({str(build)!r}, split="train", batch_size=8, device="cpu")
running = iter(loader)
next(running)
child = os.fork()
if not child:
    del running, loader
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(list(running)) == len(loader) - 1)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3 True\n", "")


def rows_of_workers(build: str, num_workers: int, epoch: int) -> list[int]:
    loader = new(Path(build))
    loader.set_epoch(epoch)
    return rows(DataLoader(loader, batch_size=None, num_workers=num_workers, multiprocessing_context="fork"))


def rows_of_stateful_workers(build: str, num_taken: int) -> tuple[list[int], list[int], list[int]]:
    """The rows before a state was taken, and those of two epochs in another loader to which it was given."""
    choices: dict[str, Any] = {"num_workers": 2, "batch_size": None, "persistent_workers": True}
    first, second = (StatefulDataLoader(new(Path(build)), multiprocessing_context="fork", **choices) for _ in range(2))
    taken = rows(islice(first, num_taken))
    second.load_state_dict(first.state_dict())
    return taken, rows(second), rows(second)


def test_workers_of_a_dataloader_give_each_sample_once_in_the_order_of_one(build: Path) -> None:
    expected = [rows(new(build))]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # a process that no loader was used in
        for num_workers in (1, 3):
            assert pool.submit(rows_of_workers, str(build), num_workers, 0).result() == expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_taken", [0, 3])
def test_stateful_workers_go_on_in_the_middle_of_an_epoch(build: Path, num_taken: int) -> None:
    reference = new(build)
    expected = [rows(reference), rows(reference)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken, rest, following = pool.submit(rows_of_stateful_workers, str(build), num_taken).result()
    assert (taken, rest) == (expected[0][: 8 * num_taken], expected[0][8 * num_taken :])
    assert following == expected[1]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("num_taken", [0, 1])
def test_stateful_dataloader_goes_on_in_the_middle_of_an_epoch(
    build: Path, batch_size: int | None, num_taken: int
) -> None:
    reference = new(build)
    expected = [rows(reference), rows(reference)]
    first, second = (StatefulDataLoader(new(build), batch_size=batch_size) for _ in range(2))
    taken = rows(islice(first, num_taken))
    assert len(taken) == 8 * num_taken * (batch_size or 1)
    second.load_state_dict(first.state_dict())
    assert taken + rows(second) == expected[0]
    assert rows(second) == expected[1]


def test_batches_that_a_dataloader_joins_are_those_of_the_loader(build: Path) -> None:
    (joined,) = DataLoader(new(build), batch_size=6)
    batches = list(new(build))
    assert rows([joined]) == rows(batches)
    assert torch.equal(joined.images, torch.cat([batch.images for batch in batches]))
    assert torch.equal(joined.targets["class"], torch.cat([batch.targets["class"] for batch in batches]))
    assert joined.mask.tolist() == [True] * len(joined.rows)


def test_workers_forked_after_a_loader_was_used_are_told_so(build: Path) -> None:
    list(new(build))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = DataLoader(new(build), batch_size=None, num_workers=1, multiprocessing_context="fork")
        with pytest.raises(ValueError, match="a Loader or Predictor was used before this process was forked"):
            list(loader)


def outcomes_of_forks(url: str, folder: str) -> tuple[list[str], list[int]]:
    """What forks of a process give that opened a remote build, and the rows that it reads itself after them."""
    loader = new(Path(url), staging=StagingSettings(cache_folder=folder))
    outcomes = [outcome_in_a_fork(work) for work in (lambda: list(loader), lambda: new(Path(url)))]
    return outcomes, rows(loader)


def test_fork_of_a_process_that_opened_a_remote_build_is_told_so(build: Path, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(build))) as server:
        started(server)
        url = f"http://127.0.0.1:{server.server_port}"
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            outcomes, seen = pool.submit(outcomes_of_forks, url, str(tmp_path)).result()
        server.shutdown()
    told = f"UsageError: {url}: not in a process that was forked after storage was used: start it by spawn or "
    assert [outcome.startswith(told) for outcome in outcomes] == [True, True]
    assert sorted(seen) == sorted(rows(new(build)))


def rows_elsewhere(pickled: bytes) -> list[int]:
    return rows(pickle.loads(pickled))


def test_pickled_loader_goes_on_in_a_spawned_process(build: Path) -> None:
    reference, loader = new(build), new(build)
    _, second = rows(reference), rows(reference)
    next(iter(loader))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(rows_elsewhere, (pickle.dumps(loader),)) == second


# Interrupts


class Stop(BaseException):
    """What a signal raises here: nobody catches it by mistake."""


def interrupted(work: Callable[[], object], after_s: float) -> bool:
    """Do work, and raise `Stop` in the middle of it after some time; True where it was stopped."""
    is_working = True

    def stop(*_: object) -> None:
        if is_working:  # a signal that comes while the timer is put away stops nothing
            raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        work()
        is_working = False
    except Stop:
        return True
    except RuntimeError as error:  # of a lock of Python's own that was stopped in the middle
        if not isinstance(error.__context__, Stop):
            raise
        return True
    finally:
        is_working = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return False


def sums(batches: Any) -> dict[int, float]:
    """A number of each row's pixels."""
    found: dict[int, float] = {}
    for batch in batches:
        found |= dict(zip(batch.rows.tolist(), batch.images.double().sum((1, 2, 3)).tolist(), strict=True))
    return found


def interrupt_at_random(build: Path, *, times: int) -> None:
    """Interrupt loaders so many times, and check each epoch after it."""
    expected = sums(new(build, cache="none"))
    draws = torch.Generator().manual_seed(0)
    num, turn = 0, 0
    loaders = [new(build, cache=cache, batch_size=size) for cache in ("none", "ram") for size in (8, 48)]
    epoch_s = 0.02
    while num < times:
        turn += 1
        loader = loaders[turn % len(loaders)]
        if turn % 5 == 0:
            loader.close()  # so that it opens again, and decodes
        began = time.monotonic()
        is_stopped = interrupted(partial(sums, loader), 1e-4 + 1.5 * epoch_s * float(torch.rand((), generator=draws)))
        if not is_stopped:
            epoch_s = time.monotonic() - began
        num += is_stopped
        assert sums(loader) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_epoch_after_a_hundred_interrupts_gives_the_right_pixels(build: Path) -> None:
    interrupt_at_random(build, times=100)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_epoch_after_thousands_of_interrupts_gives_the_right_pixels(build: Path) -> None:
    interrupt_at_random(build, times=3000)


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_epoch_after_an_interrupt_between_feeding_and_running_gives_the_right_pixels(build: Path, cache: Any) -> None:
    expected = sums(new(build, cache="none", batch_size=12))
    for number in range(1, 6):
        loader, count = new(build, cache=cache, batch_size=12), 0

        def stop(frame: object, event: str, function: Any, number: int = number) -> None:
            nonlocal count
            if event == "c_return" and getattr(function, "__name__", "").startswith("SetExternal"):
                count += 1
                if count == number:
                    sys.setprofile(None)
                    raise Stop

        before = sys.getprofile()
        sys.setprofile(stop)
        try:
            with suppress(Stop):
                list(loader)
        finally:
            sys.setprofile(before)
        assert count == number or number > 2
        assert sums(loader) == expected
        assert sums(loader) == expected


def test_interrupted_import_of_dali_is_mended(build: Path) -> None:
    program = f"""
import signal, sys, threading
from trainer.loader import Loader
loader = Loader({str(build)!r}, split="train", batch_size=8, device="cpu")
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
stopped = 0
for _ in range(3):
    assert stopped or "nvidia.dali" not in sys.modules
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        list(loader)
    except KeyboardInterrupt:
        stopped += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
print(stopped > 0, sum(len(batch.rows) for batch in loader) == loader.num_samples)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True True\n", "")
