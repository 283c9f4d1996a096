"""Order: the rank batches of every epoch of a loader, and what decides them."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from facepack.errors import FieldError
from trainer.loading.feed import Drawn, Feed, FeedSettings, RankBatch, as_copies, check_count, num_batches
from trainer.loading.placement import Placement
from trainer.loading.samples import Samples
from trainer.loading.windows import local_window, memory_limit

REMOTE_WINDOW_SHARDS = 16
"""Shards of a remote build whose samples are shuffled together where the settings leave it to us."""


class EpochOrder:
    """The samples of an epoch as rank batches: a pure function of samples, settings, seed and epoch."""

    def __init__(
        self,
        samples: Samples,
        *,
        settings: FeedSettings,
        seed: int,
        batch_size: int,
        placement: Placement,
        num_samples: int | None = None,
    ) -> None:
        """Order samples; `batch_size` counts over all ranks. Of `num_samples`, so many are drawn for an epoch.

        Raises `FieldError` where no batch is left of an epoch.
        """
        self.seed = seed
        self._samples, self._settings = samples, settings
        self._batch_size, self._placement = batch_size, placement
        self._drawn = _drawn(samples, settings, num_samples=num_samples)
        window = settings.window_shards
        if window is None and samples.is_remote:
            window = REMOTE_WINDOW_SHARDS
        elif window is None:
            window = local_window(samples.records, memory_bytes=memory_limit())
        self._feed = self._feed_of(window)
        if not self.num_batches:
            advice = f"drop_last leaves nothing of an epoch of {self.num_samples:,} samples"
            raise FieldError("batch_size", batch_size, advice)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self._feed.epoch_samples

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return self._num_batches_after(0)

    def is_over(self, consumed: int) -> bool:
        """True where no batch is left of an epoch; a worker's share of it ends by itself, before that of others."""
        return get_worker_info() is None and not self._num_batches_after(consumed)

    def _num_batches_after(self, consumed: int) -> int:
        drops = self._settings.drop_last
        return num_batches(self.num_samples, batch_size=self._batch_size, consumed=consumed, drop_last=drops)

    @property
    def rank_batch_size(self) -> int:
        """The most samples of a rank batch."""
        return -(-self._batch_size // self._placement.world_size)

    @property
    def window_shards(self) -> int | None:
        """Shards whose samples are shuffled together; None: all of them."""
        return self._feed.window_shards

    @window_shards.setter
    def window_shards(self, window_shards: int | None) -> None:
        if window_shards != self._feed.window_shards:
            self._feed = self._feed_of(window_shards)

    @property
    def most_together(self) -> int:
        """The most shards whose samples are mixed."""
        return self._feed.most_together

    def batches(self, epoch: int, *, consumed: int = 0) -> Iterator[RankBatch]:
        """The rank batches of the rest of an epoch of which `consumed` samples were seen already, over all ranks."""
        place, copies = self._placement, self._settings.copies
        batches = self._feed.batches(
            epoch,
            batch_size=self._batch_size,
            consumed=consumed,
            rank=place.rank,
            world_size=place.world_size,
            pad=self._settings.pad_last,
        )
        batches = self._of_worker(islice(batches, self._num_batches_after(consumed)))
        return batches if copies == 1 else (as_copies(batch, copies) for batch in batches)

    def _of_worker(self, batches: Iterator[RankBatch]) -> Iterator[RankBatch]:
        """In a worker of a torch DataLoader those of its share, by their number in the epoch; elsewhere all."""
        worker = get_worker_info()
        if worker is None:
            return batches
        size, number, num_workers = self._batch_size, worker.id, worker.num_workers
        return (batch for batch in batches if -(-batch.consumed // size) % num_workers == (number + 1) % num_workers)

    def shards(self, epoch: int, *, consumed: int = 0) -> list[int]:
        """Numbers of the shards in the order in which the rest of an epoch needs them."""
        return list(map(int, self._feed.shard_order(epoch, consumed=consumed)))

    def random_epoch(self, epoch: int) -> int:
        """The epoch that random numbers go by: copies are changed alike in all epochs."""
        return epoch if self._settings.copies == 1 else 0

    def identity(self) -> dict[str, Any]:
        """What decides the order, as JSON has it: orders that agree in it are the same but for the window."""
        rows = hashlib.sha256(self._samples.rows.tobytes()).hexdigest()[:16]
        settings = {
            name: value for name, value in asdict(self._settings).items() if name not in ("pad_last", "drop_last")
        }
        return {
            "build": self._samples.build_digest[:16],
            "split": self._samples.split,
            "samples": rows,
            "seed": self.seed,
            **settings,
            **self._drawn_identity(),
        }

    def _drawn_identity(self) -> dict[str, Any]:
        if self._drawn is None:
            return {}
        weights = hashlib.sha256(self._drawn.weights.tobytes()).hexdigest()[:16]
        return {"weights": weights, "num_samples": self._drawn.number}

    def _feed_of(self, window_shards: int | None) -> Feed:
        samples, settings = self._samples, self._settings
        codes = samples.class_codes if settings.balanced else None
        return Feed(
            samples.shard_stops * settings.copies,
            seed=self.seed,
            shuffle=samples.is_train if settings.shuffle is None else settings.shuffle,
            window_shards=window_shards,
            codes=None if codes is None else np.repeat(codes, settings.copies),
            drawn=self._drawn,
        )


def _drawn(samples: Samples, settings: FeedSettings, *, num_samples: int | None) -> Drawn | None:
    """The draws of an epoch; None where every sample comes once, or every class equally often."""
    if num_samples is not None:
        check_count("num_samples", num_samples)
    if samples.weights is None and num_samples is None:
        return None
    if settings.balanced or settings.copies != 1:
        other = "balanced" if settings.balanced else "copies"
        raise FieldError("weights" if num_samples is None else "num_samples", "", f"not together with {other}")
    weights = np.ones(len(samples)) if samples.weights is None else samples.weights
    return Drawn(weights, num_samples or len(samples))
