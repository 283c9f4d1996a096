"""The loader in loops of all kinds: each `for` is a whole epoch, and a state goes on exactly where it was taken."""

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from conftest import make
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from facepack import manifest
from facepack.drawn import synthetic
from facepack.errors import FieldError, UsageError
from facepack.storage import Store
from trainer.loader import Batch, EngineSettings, FeedSettings, Loader


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loops")
    synthetic.draw("celeba", folder / "source", num_images=120)
    make(folder / "source", folder / "build", samples_per_shard=20)
    return folder / "build"


def new(build: Path, **choices: Any) -> Loader:
    """A loader of small batches; at 20 there are several, the last of them short."""
    fixed: dict[str, Any] = {"split": "train", "batch_size": 20, "augment": (), "device": "cpu"}
    return Loader(build, **(fixed | {"engine": EngineSettings(num_threads=1)} | choices))


def rows(batches: Any) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows]


def epochs(build: Path, num: int, **choices: Any) -> list[list[int]]:
    """The rows of whole epochs in order."""
    loader = new(build, **choices)
    return [rows(loader) for _ in range(num)]


def all_rows(build: Path) -> list[int]:
    table = manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)
    chosen = pc.and_(pc.equal(table["split"], "train"), pc.equal(table["status"], "packed"))
    return np.flatnonzero(chosen.to_numpy()).tolist()


def broken_off(loader: Loader) -> list[Batch]:
    taken = []
    for batch in loader:
        taken.append(batch)
        if len(taken) == len(loader):
            break
    return taken


def taken_alone(loader: Loader) -> list[Batch]:
    batches = iter(loader)
    return [next(batches) for _ in range(len(loader))]


LOOPS: dict[str, Callable[[Loader], list[Batch]]] = {
    "list": list,
    "break at the last batch": broken_off,
    "islice": lambda loader: list(islice(loader, len(loader))),
    "zip with a shorter one": lambda loader: [batch for _, batch in zip(range(len(loader)), loader, strict=False)],
    "zip, the loader first": lambda loader: [batch for batch, _ in zip(loader, range(len(loader)), strict=False)],
    "next": taken_alone,
    "enumerate": lambda loader: [batch for _, batch in enumerate(loader)],
    "tqdm": lambda loader: list(tqdm(loader, disable=True)),
    "list of an iterator of an iterator": lambda loader: list(iter(iter(loader))),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_takes_whole_epochs_one_after_the_other(build: Path, loop: str) -> None:
    loader = new(build)
    taken = [rows(LOOPS[loop](loader)) for _ in range(4)]
    assert taken == epochs(build, 4)
    assert all(sorted(epoch) == all_rows(build) for epoch in taken)


def test_two_loaders_in_one_zip_take_whole_epochs(build: Path) -> None:
    first, second = new(build, seed=1), new(build, seed=2)
    taken = [list(zip(first, second, strict=True)) for _ in range(3)]
    assert [rows(one for one, _ in pairs) for pairs in taken] == epochs(build, 3, seed=1)
    assert [rows(other for _, other in pairs) for pairs in taken] == epochs(build, 3, seed=2)


@pytest.mark.parametrize("num_taken", [1, 2])
def test_look_at_some_batches_costs_the_next_epoch_nothing(build: Path, num_taken: int) -> None:
    loader = new(build)
    first, second = epochs(build, 2)
    look = iter(loader)
    assert rows(next(look) for _ in range(num_taken)) == first[: 20 * num_taken]
    assert rows(loader) == second


def test_iterator_that_nobody_asks_for_a_batch_takes_no_epoch(build: Path) -> None:
    first, second = epochs(build, 2)
    loader = new(build)
    unused, later = iter(loader), iter(loader)
    assert rows(loader) == first
    assert rows(later) == second
    loader.load_state_dict(state_after(new(build), 1))
    iter(loader)  # as frameworks do before they begin
    assert rows(unused) == first[20:]


def test_two_iterators_at_once_are_refused(build: Path) -> None:
    loader = new(build)
    with pytest.raises(UsageError, match=r"this iterator of the loader is over: another was begun"):
        list(zip(loader, loader, strict=True))
    assert rows(loader) == epochs(build, 3)[2]


def test_set_epoch_chooses_the_next_for_and_reset_makes_it_the_first(build: Path) -> None:
    expected = epochs(build, 4)
    loader = new(build)
    loader.set_epoch(3)
    assert loader.epoch == 3
    assert [rows(loader), loader.epoch] == [expected[3], 4]
    loader.set_epoch(1)
    running = iter(loader)
    next(running)
    loader.set_epoch(1)
    assert len(list(running)) == len(loader) - 1  # as it is
    assert rows(loader) == expected[1]
    assert rows(loader) == expected[2]
    next(iter(loader))
    loader.reset()
    assert rows(loader) == expected[0]


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", None, True])
def test_epoch_that_is_none_is_refused(build: Path, epoch: Any) -> None:
    with pytest.raises(FieldError, match=r"epoch .*: expected a whole number, at least 0"):
        new(build).set_epoch(epoch)


def test_set_epoch_keeps_the_rest_of_an_epoch_whose_state_was_loaded(build: Path) -> None:
    first, second = epochs(build, 2)
    loader, state = new(build), state_after(new(build), 2)
    loader.load_state_dict(state)
    loader.set_epoch(0)  # as a loop over epochs does
    assert rows(loader) == first[40:]
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert rows(loader) == second


def state_after(loader: Loader, num_batches: int) -> dict[str, Any]:
    """The state after so many batches, over epochs."""
    while num_batches > len(loader):
        num_batches -= len(list(loader))
    list(islice(loader, num_batches))
    return loader.state_dict()


@given(st.integers(0, 12), st.integers(9, 48), st.booleans(), st.booleans())
@settings(max_examples=10)
def test_state_at_every_position_goes_on_with_the_next_batch(
    build: Path, num_batches: int, batch_size: int, drop: bool, balanced: bool
) -> None:
    choices: dict[str, Any] = {"batch_size": batch_size, "feed": FeedSettings(drop_last=drop, balanced=balanced)}
    reference = new(build, **choices)
    expected = [rows([batch]) for _ in range(3 + num_batches // len(reference)) for batch in reference]
    state = state_after(new(build, **choices), num_batches)
    loader = new(build, **choices)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    taken = [rows([batch]) for _ in range(2) for batch in loader]
    assert taken == expected[num_batches : num_batches + len(taken)]
    assert len(taken) % len(loader) == (-num_batches) % len(loader)
    assert len(taken) > len(loader)


def test_state_before_the_first_batch_and_after_the_last_are_those_of_whole_epochs(build: Path) -> None:
    loader = new(build)
    assert (loader.state_dict()["epoch"], loader.state_dict()["consumed"]) == (0, 0)
    batches = iter(loader)
    assert (loader.state_dict()["epoch"], loader.state_dict()["consumed"]) == (0, 0)
    for _ in range(len(loader)):
        next(batches)
    at_last = loader.state_dict()
    assert (at_last["epoch"], at_last["consumed"]) == (1, 0)
    assert list(batches) == []
    assert loader.state_dict() == at_last


def test_state_that_is_loaded_while_an_iterator_runs_ends_it(build: Path) -> None:
    first, second = epochs(build, 2)
    loader = new(build)
    state = loader.state_dict()
    running = iter(loader)
    next(running)
    loader.load_state_dict(state)
    with pytest.raises(UsageError, match=r"this iterator of the loader is over: .* a state loaded"):
        next(running)
    assert rows(loader) == first
    assert rows(loader) == second


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version 2, this facepack knows 1"),
        ({"epoch": None}, "epoch is None, expected a whole number"),
        ({"epoch": -1}, "epoch is -1, expected"),
        ({"epoch": "1"}, "epoch is '1', expected"),
        ({"consumed": 3.5}, "consumed is 3.5, expected"),
        ({"consumed": True}, "consumed is True, expected"),
        ({"consumed": -20}, "consumed is -20, expected"),
        ({"consumed": 10**6}, "consumed is 1,000,000, an epoch has"),
        ({"window": 0}, "window is 0, expected at least 1, or None"),
        ({"window": "all"}, "window is 'all', expected"),
        ({"identity": {}}, "state of another loader"),
        ({"identity": None}, "state of another loader"),
    ],
)
def test_broken_state_is_refused_and_changes_nothing(build: Path, change: dict[str, Any], reason: str) -> None:
    loader = new(build)
    running = iter(loader)
    next(running)
    before = loader.state_dict()
    with pytest.raises(UsageError, match=reason) as caught:
        loader.load_state_dict(before | change)
    assert "\n" not in str(caught.value)
    assert loader.state_dict() == before
    assert len(list(running)) == len(loader) - 1


@pytest.mark.parametrize("state", [{}, None, [], "state", {"version": 1}, {"first": {}, "second": {}}])
def test_what_is_no_state_is_refused(build: Path, state: Any) -> None:
    with pytest.raises(UsageError, match="state of a loader: "):
        new(build).load_state_dict(state)


def test_last_batch_that_is_short_can_be_left_out(build: Path) -> None:
    num = new(build).num_samples
    loader = new(build, batch_size=num - 1, feed=FeedSettings(drop_last=True))
    assert len(loader) == 1
    batch_norm = torch.nn.BatchNorm1d(1)
    for _ in range(3):
        sizes = [len(batch_norm(batch.images.float().mean((1, 2, 3))[:, None])) for batch in loader]
        assert sizes == [num - 1]
    parts = [new(build, feed=FeedSettings(drop_last=True), rank=rank, world_size=2, batch_size=20) for rank in range(2)]
    assert [len(rows(part)) for part in parts] == [10 * (num // 20)] * 2
    with pytest.raises(
        FieldError, match=rf"batch_size {num + 1}: drop_last leaves nothing of an epoch of {num} samples"
    ):
        new(build, batch_size=num + 1, feed=FeedSettings(drop_last=True))
    with pytest.raises(FieldError, match=r"drop_last True: .* choose one of both"):
        FeedSettings(drop_last=True, pad_last=True)


@pytest.mark.parametrize("made", [copy.deepcopy, copy.copy, lambda loader: pickle.loads(pickle.dumps(loader))])
@pytest.mark.parametrize("num_taken", [None, 0, 2])
def test_copy_of_a_loader_goes_on_where_it_would(build: Path, made: Any, num_taken: int | None) -> None:
    loader = new(build, cache="ram")
    running = iter(loader) if num_taken is not None else iter(())
    taken = rows(islice(running, num_taken or 0))
    other = made(loader)
    assert other.state_dict() == loader.state_dict()
    assert other.cached_bytes in (0, loader.cached_bytes)
    expected = epochs(build, 3)
    assert taken + rows(running) == (expected[0] if num_taken is not None else [])  # untouched by the copy
    assert [rows(other), rows(other)] == (expected[1:] if num_taken else expected[:2])
    assert [rows(loader), rows(loader)] == (expected[:2] if num_taken is None else expected[1:])


EXAMPLES = Path(__file__).parents[1] / "examples"


def said_by(example: str, build: Path) -> list[str]:
    """What an example prints of its epochs."""
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / example), str(build)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 0, ended.stderr
    return [line for line in ended.stdout.splitlines() if line.startswith("epoch")]


def test_example_of_a_loop_of_ones_own_sees_every_image_once_an_epoch(build: Path) -> None:
    assert said_by("own_loop.py", build) == [f"epoch {epoch}: {num} images" for epoch, num in OWN_LOOP]


OWN_LOOP = [(0, 48), (1, 32), (1, 16), (2, 48)]
"""Stopped after two batches of the second epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("example", ["lightning_fit.py", "hf_trainer.py"])
def test_example_of_a_framework_sees_every_image_once_an_epoch(build: Path, example: str) -> None:
    assert said_by(example, build) == [f"epoch {epoch}: 48 images" for epoch in range(3)]


@pytest.mark.slow
def test_example_of_accelerate_goes_on_from_its_checkpoint(build: Path) -> None:
    assert said_by("accelerate_loop.py", build) == [f"epoch {epoch}: {num} images" for epoch, num in ACCELERATE]


ACCELERATE = [(0, 48), (1, 48), (1, 32)]
"""The last one from a checkpoint after its first batch."""


def test_loader_says_what_it_loads(build: Path) -> None:
    assert repr(new(build)) == f"<Loader of {build}, split train: 48 samples in 3 batches>"
    both = Loader([build, build], split=("train", "valid"), batch_size=20, device="cpu")
    assert re.fullmatch(rf"<Loader of {build} and 1 more, split train\+valid: \d+ samples in \d+ batches>", repr(both))
