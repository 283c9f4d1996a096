"""Feed: which samples come in which order, for which rank, as a pure function of seed and epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError, UsageError
from trainer.loading import draws

MAX_WINDOW_ROWS = 4_000_000
"""Samples that are shuffled together at most, whatever the window: what bounds the memory of a feed."""

Positions = npt.NDArray[np.int64]


def check_count(field: str, number: object) -> None:
    """Refuse what is no whole number of at least 1; raises `FieldError`."""
    if not isinstance(number, int | np.integer) or isinstance(number, bool):
        raise FieldError(field, f"{number!r}", "expected a whole number")
    if number < 1:
        raise FieldError(field, number, "expected at least 1")


@dataclass(frozen=True)
class FeedSettings:
    """How samples follow each other."""

    shuffle: bool | None = None
    """None: shuffled in train, in stored order elsewhere."""
    window_shards: int | None = None
    """Shards whose samples are shuffled together. None: of a remote build 16; of a local one all, or where they
    would take more than half of the memory, as many as fit in a quarter of it."""
    balanced: bool = False
    """Every class equally often: samples of rare classes come several times in an epoch, some of common ones not."""
    copies: int = 1
    """Times that every sample comes in an epoch: once plain, then changed at random but alike in all epochs."""
    pad_last: bool = False
    """Fill up the last batch with repeated samples that the mask marks, so that every batch has one size."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is short; every epoch leaves out others where it is shuffled."""

    def __post_init__(self) -> None:
        choices = {"balanced": self.balanced, "pad_last": self.pad_last, "drop_last": self.drop_last}
        if self.shuffle is not None:
            choices["shuffle"] = self.shuffle
        for name, choice in choices.items():
            if not isinstance(choice, bool | np.bool_):
                raise FieldError(name, f"{choice!r}", "expected True or False")
        if self.window_shards is not None:
            check_count("window_shards", self.window_shards)
        check_count("copies", self.copies)
        if self.drop_last and self.pad_last:
            raise FieldError("drop_last", self.drop_last, "the last batch is filled up by pad_last: choose one of both")


@dataclass(frozen=True)
class RankBatch:
    """The part of a global batch that one rank takes; all arrays are (batch,)."""

    positions: Positions
    """Number of each sample among those that are loaded, in stored order."""
    mask: npt.NDArray[np.bool_]
    """False for repeats that fill up."""
    shards: Positions
    """The shard of each position."""
    places: Positions
    """Place of each in the order of the epoch, by which its random numbers go; negative where it stays plain."""
    consumed: int
    """Samples of the epoch that are consumed once this batch is, over all ranks."""


@dataclass(frozen=True)
class _RankShare:
    """What a rank takes of each global batch of `batch_size` samples."""

    rank: int
    world_size: int
    batch_size: int
    pad: bool
    """True: short batches are filled up to the size of whole ones."""

    def of(self, positions: Positions, shards: Positions, *, consumed: int) -> RankBatch:
        """A run of the global batch; filled up with its first samples where that must be."""
        start, stop = (len(positions) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        size = -(-self.batch_size // self.world_size) if self.pad else 1
        own = np.arange(start, stop)
        filled = np.concatenate([own, np.arange(max(0, size - len(own))) % len(positions)])
        mask = np.arange(len(filled)) < len(own)
        return RankBatch(positions[filled], mask, shards[filled], consumed - len(positions) + filled, consumed)


@dataclass(frozen=True)
class Drawn:
    """Samples that are drawn with replacement, each as often as its weight says."""

    weights: npt.NDArray[np.float64]
    """Of each position, (num_samples,), at least 0, not all of them 0."""
    number: int
    """Draws of an epoch."""

    def counts(self, key: np.uint64) -> Positions:
        """How often each position is drawn under a key, int64 (num_samples,)."""
        ends = np.cumsum(self.weights)
        places = np.sort(draws.uniform(np.arange(self.number, dtype=np.int64), key)) * ends[-1]
        last = np.flatnonzero(self.weights)[-1]  # a product may be rounded up to the end
        drawn = np.minimum(np.searchsorted(ends, places, side="right"), last)
        return np.bincount(drawn, minlength=len(ends)).astype(np.int64)


class _Window(NamedTuple):
    """Shards whose samples are mixed, where they end in the order of shards, and samples of them consumed before."""

    shards: Positions
    stop: int
    consumed: int


class Feed:
    """The order of samples. A position is the number of a sample among those that are loaded, in stored order.

    An epoch visits the shards in random order, in windows of growing size (1, 2, 4, ... up to the window: so that the
    first batch waits for one shard only), and in each window the samples in random order. Shards are shuffled by the
    build already.
    """

    def __init__(
        self,
        shard_stops: Positions,
        *,
        seed: int = 0,
        shuffle: bool = True,
        window_shards: int | None = None,
        codes: npt.NDArray[np.int32] | None = None,
        drawn: Drawn | None = None,
    ) -> None:
        """Take the end of each shard in positions, int64 (num_shards,).

        With `codes`, the class of each position, int32 (num_samples,), every class comes equally often; with `drawn`,
        samples are drawn by weight. Samples of `window_shards` shards are shuffled together; None: of all. Raises
        `UsageError` where there is no sample, `FieldError` for a window of none.
        """
        self.num_samples = int(shard_stops[-1]) if len(shard_stops) else 0
        if not self.num_samples:
            raise UsageError("no sample to load")
        self.epoch_samples = self.num_samples if drawn is None else drawn.number
        """Samples of an epoch; those that come several times are counted each time."""
        if window_shards is not None and window_shards < 1:
            raise FieldError("window_shards", window_shards, "expected at least 1")
        self.window_shards = window_shards
        """Shards whose samples are shuffled together at most; None: all."""
        self._stops = shard_stops
        self._starts = np.concatenate([[0], shard_stops[:-1]]).astype(np.int64)
        self._seed, self._shuffle, self._codes, self._drawn = seed, shuffle, codes, drawn

    def shard_order(self, epoch: int, *, consumed: int = 0) -> Positions:
        """Shards in the order in which an epoch needs them, int64; once samples were consumed, those of its rest."""
        shards = [window.shards for window in self._windows(epoch, consumed)]
        if consumed and shards:  # of the window that was begun, those that still have samples
            _, unseen = next(self.ordered(epoch, consumed=consumed))
            shards[0] = shards[0][np.isin(shards[0], unseen)]
        return np.concatenate([np.empty(0, np.int64), *shards])

    @property
    def most_together(self) -> int:
        """The most shards whose samples are mixed."""
        return min(self.window_shards or len(self._stops), len(self._stops)) if self._shuffle else 1

    def batches(
        self, epoch: int, *, batch_size: int, consumed: int = 0, rank: int = 0, world_size: int = 1, pad: bool = False
    ) -> Iterator[RankBatch]:
        """The rank batches of an epoch, from where `consumed` samples were seen already.

        `batch_size` counts over all ranks, so that the sequence of global batches does not depend on their number.
        Every rank gets as many batches; one that would be empty, or with `pad` short, is filled up with repeats.
        """
        share = _RankShare(rank, world_size, batch_size, pad)
        positions, shards = np.empty(0, np.int64), np.empty(0, np.int64)
        for new_positions, new_shards in self.ordered(epoch, consumed=consumed):
            positions, shards = np.concatenate([positions, new_positions]), np.concatenate([shards, new_shards])
            num_whole = len(positions) // batch_size
            for number in range(num_whole):
                batch = slice(number * batch_size, (number + 1) * batch_size)
                consumed += batch_size
                yield share.of(positions[batch], shards[batch], consumed=consumed)
            positions, shards = positions[num_whole * batch_size :], shards[num_whole * batch_size :]
        if len(positions):
            yield share.of(positions, shards, consumed=consumed + len(positions))

    def ordered(self, epoch: int, *, consumed: int = 0) -> Iterator[tuple[Positions, Positions]]:
        """The rest of an epoch in order, window by window: positions and their shards, int64 (window,) each.

        A window holds `MAX_WINDOW_ROWS` samples at most, or one shard.
        """
        repeats = self._repeats(epoch)
        for window in self._windows(epoch, consumed):
            positions, of_shards = self._positions(window.shards)
            if repeats is not None:
                counts = repeats[positions]
                positions, of_shards = np.repeat(positions, counts), np.repeat(of_shards, counts)
            if self._shuffle:
                # A sample that comes twice has a hash of its own each time.
                numbers = np.arange(len(positions), dtype=np.int64)
                new = draws.permutation(numbers, draws.key(self._seed, epoch, "window", window.stop))
                positions, of_shards = positions[new], of_shards[new]
            yield positions[window.consumed :], of_shards[window.consumed :]

    def _windows(self, epoch: int, consumed: int) -> Iterator[_Window]:
        """The windows of an epoch; those consumed before are left out without being drawn."""
        order = np.arange(len(self._stops), dtype=np.int64)
        if self._shuffle:
            order = draws.permutation(order, draws.key(self._seed, epoch, "shards"))
        lengths = self._stops - self._starts
        if (repeats := self._repeats(epoch)) is not None:
            before = np.concatenate([[0], np.cumsum(repeats)])
            lengths = before[self._stops] - before[self._starts]
        stop = 0
        while stop < len(order):
            shards = order[stop : stop + self._window_size(order, stop)]
            stop += len(shards)
            number = int(lengths[shards].sum())
            if consumed >= number:
                consumed -= number
                continue
            yield _Window(shards, stop, consumed)
            consumed = 0

    def _window_size(self, order: Positions, at: int) -> int:
        """Shards in the window that begins here: as many as went before, within the limits."""
        largest = max(1, at) if self.window_shards is not None else len(order)
        largest = min(largest, self.window_shards or len(order)) if self._shuffle else 1
        counts = np.cumsum((self._stops - self._starts)[order[at : at + largest]])
        return max(1, int(np.searchsorted(counts, MAX_WINDOW_ROWS, side="right")))

    def _positions(self, shards: Positions) -> tuple[Positions, Positions]:
        counts = (self._stops - self._starts)[shards]
        of_shards = np.repeat(shards, counts)
        first = np.repeat(self._starts[shards] - (np.cumsum(counts) - counts), counts)
        return first + np.arange(len(of_shards), dtype=np.int64), of_shards

    def _repeats(self, epoch: int) -> npt.NDArray[np.int64] | None:
        """How often each position comes in an epoch; None: once."""
        if self._drawn is not None:
            return self._drawn.counts(draws.key(self._seed, epoch, "drawn"))
        return None if self._codes is None else self._balanced(epoch)

    def _balanced(self, epoch: int) -> npt.NDArray[np.int64]:
        """How often each position comes where all classes come equally often (to one sample)."""
        assert self._codes is not None
        counts = np.zeros(self.num_samples, np.int64)
        classes = np.unique(self._codes)
        share, extra = divmod(self.num_samples, len(classes))
        for number, code in enumerate(
            draws.permutation(classes.astype(np.int64), draws.key(self._seed, epoch, "more"))
        ):
            members = np.flatnonzero(self._codes == code)
            whole, rest = divmod(share + (number < extra), len(members))
            counts[members] = whole
            counts[draws.permutation(members, draws.key(self._seed, epoch, "repeats"))[:rest]] += 1
        return counts


def as_copies(batch: RankBatch, copies: int) -> RankBatch:
    """The rank batch of a feed in whose positions every sample stands so many times, one after the other."""
    positions, copy = np.divmod(batch.positions, copies)
    return replace(batch, positions=positions, places=np.where(copy == 0, -1, batch.positions))


def num_batches(num_samples: int, *, batch_size: int, consumed: int = 0, drop_last: bool = False) -> int:
    """Batches of the rest of an epoch, the same for every rank."""
    left = num_samples - consumed
    return left // batch_size if drop_last else -(-left // batch_size)
