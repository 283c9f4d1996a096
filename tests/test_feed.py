"""The order of samples: every one exactly once, whatever the ranks and wherever a run stopped."""

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepack.errors import FieldError, UsageError
from facepack.manifest import ShardRecord
from trainer.loading import draws, feed
from trainer.loading.feed import Feed, FeedSettings, RankBatch
from trainer.loading.windows import local_window


def joined(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def stops(counts: list[int]) -> npt.NDArray[np.int64]:
    return np.cumsum(np.array(counts, np.int64))


def seen(batches: list[RankBatch]) -> list[int]:
    return [int(position) for batch in batches for position in batch.positions[batch.mask]]


@given(sizes, st.integers(1, 50), st.integers(1, 4), st.integers(0, 5), st.sampled_from([None, 1, 3]), st.booleans())
def test_every_sample_once_over_all_ranks(
    counts: list[int], batch_size: int, world_size: int, epoch: int, window: int | None, pad: bool
) -> None:
    order = Feed(stops(counts), seed=3, window_shards=window)
    ranks = [
        list(order.batches(epoch, batch_size=batch_size, rank=rank, world_size=world_size, pad=pad))
        for rank in range(world_size)
    ]
    num_batches = feed.num_batches(sum(counts), batch_size=batch_size)
    assert [len(batches) for batches in ranks] == [num_batches] * world_size
    assert sorted(joined(seen(batches) for batches in ranks)) == list(range(sum(counts)))
    assert all(len(batch.positions) for batches in ranks for batch in batches)
    if pad:
        assert {len(batch.positions) for batches in ranks for batch in batches} == {-(-batch_size // world_size)}


@given(sizes, st.integers(1, 50), st.integers(1, 4), st.integers(1, 4), st.integers(0, 60), st.sampled_from([None, 2]))
@settings(max_examples=200)
def test_resumed_on_another_number_of_ranks_the_rest_is_what_was_not_seen(
    counts: list[int], batch_size: int, before: int, after: int, stop: int, window: int | None
) -> None:
    order = Feed(stops(counts), seed=7, window_shards=window)
    first = [
        list(order.batches(2, batch_size=batch_size, rank=rank, world_size=before))[:stop] for rank in range(before)
    ]
    consumed = first[0][-1].consumed if first[0] else 0
    rest = [
        list(order.batches(2, batch_size=batch_size, consumed=consumed, rank=rank, world_size=after))
        for rank in range(after)
    ]
    everything = [seen(batches) for batches in first + rest if batches]
    assert sorted(joined(everything)) == list(range(sum(counts)))
    alone = list(order.batches(2, batch_size=batch_size))
    numbers = {int(p): int(n) for batch in alone for p, n in zip(batch.positions, batch.places, strict=True)}
    for batches in first + rest:
        for batch in batches:
            for position, number in zip(batch.positions[batch.mask], batch.places[batch.mask], strict=True):
                assert numbers[int(position)] == number  # so its random numbers are the same


@given(sizes, st.integers(1, 30), st.integers(1, 4))
def test_global_batches_do_not_depend_on_the_number_of_ranks(
    counts: list[int], batch_size: int, world_size: int
) -> None:
    order = Feed(stops(counts), seed=1)
    alone = [batch.positions.tolist() for batch in order.batches(0, batch_size=batch_size)]
    ranks = [list(order.batches(0, batch_size=batch_size, rank=r, world_size=world_size)) for r in range(world_size)]
    together = [joined(seen([batches[number]]) for batches in ranks) for number in range(len(alone))]
    assert together == alone


def test_epochs_and_seeds_differ_and_repeat() -> None:
    counts = stops([100] * 10)

    def order(seed: int, epoch: int) -> list[int]:
        return seen(list(Feed(counts, seed=seed).batches(epoch, batch_size=64)))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_order_is_the_same_for_ever() -> None:
    order = [7, 8, 3, 0, 11, 6, 4, 5, 1, 9, 10, 2]
    assert seen(list(Feed(stops([4, 4, 4]), seed=1).batches(0, batch_size=12))) == order


def test_unshuffled_is_stored_order() -> None:
    batches = list(Feed(stops([5, 7, 3]), shuffle=False).batches(4, batch_size=4))
    assert seen(batches) == list(range(15))
    assert np.concatenate([batch.shards for batch in batches]).tolist() == [0] * 5 + [1] * 7 + [2] * 3


def test_window_grows_and_the_first_batch_needs_one_shard() -> None:
    order = Feed(stops([10] * 32), seed=5, window_shards=8)
    batches = list(order.batches(0, batch_size=10))
    needed = [len(set(batch.shards.tolist())) for batch in batches]
    assert needed[:2] == [1, 1]
    assert max(needed) <= 8
    first_use = list(dict.fromkeys(np.concatenate([batch.shards for batch in batches]).tolist()))
    windows = order.shard_order(0).tolist()
    assert set(first_use[:8]) == set(windows[:8])


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    consumed=st.integers(0, 60),
    window=st.integers(1, 4),
    is_balanced=st.booleans(),
)
def test_shards_of_the_rest_are_those_that_its_windows_need(
    counts: list[int], consumed: int, window: int, is_balanced: bool
) -> None:
    number = sum(counts)
    codes = np.arange(number, dtype=np.int32) % 3 if is_balanced else None
    order = Feed(stops(counts), seed=3, window_shards=window, codes=codes)
    rest = order.batches(0, batch_size=5, consumed=min(consumed, number))
    used = set(np.concatenate([np.empty(0, np.int64), *(batch.shards for batch in rest)]).tolist())
    named = order.shard_order(0, consumed=min(consumed, number)).tolist()
    assert len(set(named)) == len(named)
    assert used <= set(named)
    if not is_balanced:  # which may give no sample of a shard
        assert used == set(named)
    whole = order.shard_order(0).tolist()
    assert named == [shard for shard in whole if shard in set(named)]


def test_shuffle_is_uniform_over_places() -> None:
    counts = stops([50, 50])
    places = np.array([seen(list(Feed(counts, seed=s).batches(0, batch_size=100))).index(0) for s in range(400)])
    assert 44 < places.mean() < 55
    assert 26 < places.std() < 32


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(0, 3))
def test_balanced_gives_every_class_equally_often(codes: list[int], epoch: int) -> None:
    classes = np.array(codes, np.int32)
    order = Feed(stops([len(codes)]), seed=2, codes=classes)
    chosen = np.array(seen(list(order.batches(epoch, batch_size=16))))
    assert len(chosen) == len(codes)
    counts = np.bincount(classes[chosen])[np.unique(classes)]
    assert counts.max() - counts.min() <= 1
    for code in np.unique(classes):
        repeats = np.bincount(chosen, minlength=len(codes))[classes == code]
        assert repeats.max() - repeats.min() <= 1


def test_hundred_million_rows_are_planned_window_by_window() -> None:
    order = Feed(stops([1000] * 100_000), seed=1)
    batches = order.batches(0, batch_size=1024)
    first = [next(batches) for _ in range(50)]
    assert len(set(seen(first))) == 50 * 1024
    biggest = max(int(positions.nbytes) for positions, _ in itertools.islice(order.ordered(0), 3))
    assert biggest <= 8 * feed.MAX_WINDOW_ROWS


def test_nothing_to_load_is_refused() -> None:
    with pytest.raises(UsageError, match="no sample to load"):
        Feed(stops([0]))
    with pytest.raises(FieldError, match="window_shards 0: expected at least 1"):
        Feed(stops([3]), window_shards=0)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FieldError, match="window_shards 0: expected at least 1"):
        FeedSettings(window_shards=0)
    with pytest.raises(FieldError, match="copies -1: expected at least 1"):
        FeedSettings(copies=-1)


def test_draws_are_uniform_and_independent() -> None:
    numbers = np.arange(100_000, dtype=np.int64)
    one, two = (draws.uniform(numbers, draws.key(1, "a", number)) for number in (0, 1))
    assert abs(one.mean() - 0.5) < 0.005
    assert abs(one.std() - 12**-0.5) < 0.003
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.01
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.01


@pytest.mark.parametrize(
    ("num_shards", "memory_bytes", "window"),
    [(100, 200, None), (100, 199, 32), (1000, 400, 64), (100, 4, 16), (10_000, 4096, 1024)],
)
def test_window_of_a_local_build_larger_than_memory_fits_in_it(
    num_shards: int, memory_bytes: int, window: int | None
) -> None:
    records = [ShardRecord(f"train-{number:05d}.tar", 1, 1, "") for number in range(num_shards)]
    assert local_window(records, memory_bytes=memory_bytes) == window


@given(st.integers(16, 200), st.integers(1, 5), st.integers(0, 3))
def test_within_a_window_each_shard_is_read_in_one_go(num_shards: int, per_shard: int, epoch: int) -> None:
    """Check that no more shards than the window's are under way at once, so that none is read from disk twice."""
    records = [ShardRecord(f"train-{number:05d}.tar", per_shard, 100, "") for number in range(num_shards)]
    window = local_window(records, memory_bytes=100 * num_shards)
    assert window is not None
    order = Feed(stops([per_shard] * num_shards), seed=1, window_shards=window)
    shards = np.concatenate([of_shards for _, of_shards in order.ordered(epoch)])
    first = {shard: place for place, shard in reversed(list(enumerate(shards.tolist())))}
    last = {shard: place for place, shard in enumerate(shards.tolist())}
    most = max(sum(first[shard] <= place <= last[shard] for shard in first) for place in range(len(shards)))
    assert most <= window


def test_drawn_samples_come_as_often_as_their_weights_say() -> None:
    weights = np.array([0.0, 1.0, 3.0, 0.0])
    order = Feed(stops([2, 2]), seed=1, drawn=feed.Drawn(weights, 40_000))
    chosen = np.bincount(seen(list(order.batches(0, batch_size=100))), minlength=4)
    assert chosen[[0, 3]].tolist() == [0, 0]
    assert chosen.sum() == 40_000
    assert chosen[1] == pytest.approx(10_000, abs=300)
