"""Seen: which photos of a split a run has met in training, by file, by look and by person."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.errors import JobError, UsageError
from facepack.near_duplicates import pairs_between
from facepack.own_description import is_known
from trainer.data import Data, RunBuild
from trainer.folds import Fold
from trainer.runs import Run

Mask = npt.NDArray[np.bool_]
TRAINED_SPLITS = ("train", "valid")
"""What decides a network: valid chooses its epoch."""
_HASH = "phash"
_ANY_PHOTOS = "folder"
"""The dataset whose photos have the keys of their places in any folder."""


class Reason(StrEnum):
    """Why a photo counts as seen; of several the first."""

    PHOTO = "the same photo"
    LOOK = "looking alike"
    PERSON = "of the same person"


@dataclass(frozen=True)
class Photos:
    """Photos of a build, by all that tells that two are the same one, or of one person; arrays are (num_photos,)."""

    keys: pa.ChunkedArray
    """Of the photo in its dataset; null where keys are no names of photos."""
    sources: pa.ChunkedArray
    """sha256 of the file as it was published."""
    images: pa.ChunkedArray
    """sha256 of the image as packed."""
    hashes: pa.ChunkedArray
    """Perceptual hashes, uint64; null where a picture has none, or the build was made without them."""
    people: pa.ChunkedArray
    """Null where the dataset names nobody."""

    @classmethod
    def of(cls, build: RunBuild, rows: npt.NDArray[np.int64]) -> "Photos":
        """Those of rows of the manifest."""
        table, nothing = build.table.take(pa.array(rows)), pa.chunked_array([pa.nulls(len(rows), pa.string())])
        keys = manifest.photo_keys(table["key"]) if _names_photos(build) else nothing
        name = _person_column(build)
        people = nothing
        if name:
            dataset = build.build.configuration.dataset
            people = pc.binary_join_element_wise(dataset, table[name].cast(pa.string()), "/")
        hashes = table[_HASH] if _HASH in table.column_names else nothing.cast(pa.uint64())
        return cls(keys, table["source_sha256"], table["sha256"], hashes, people)

    @property
    def num(self) -> int:
        """How many there are."""
        return len(self.keys)

    @property
    def are_hashed(self) -> bool:
        """True where their looks can be compared."""
        return bool(self.hashes.null_count < self.num)


def seen_in(photos: Photos, trained: Sequence[Photos]) -> dict[Reason, Mask]:
    """Where photos are among those that were trained on, bool (num_photos,) by reason; one of them at most is true."""
    rest = np.ones(photos.num, bool)
    masks = {}
    for reason, is_met in (
        (Reason.PHOTO, _is_same(photos, trained, ("keys", "sources", "images"))),
        (Reason.LOOK, _looks_alike(photos, trained)),
        (Reason.PERSON, _is_same(photos, trained, ("people",))),
    ):
        masks[reason] = is_met & rest
        rest &= ~is_met
    return masks


def counted(masks: Mapping[Reason, Mask]) -> dict[str, int]:
    """How many photos, by reason; those without any are left out."""
    return {str(reason): int(mask.sum()) for reason, mask in masks.items() if mask.any()}


def any_of(masks: Mapping[Reason, Mask], *, num: int) -> Mask:
    """Where any reason holds, bool (num,)."""
    return np.asarray(np.logical_or.reduce([*masks.values(), np.zeros(num, bool)]))


def by_run(run: Run, data: Data, *, split: str, rows: npt.NDArray[np.int64]) -> dict[Reason, Mask] | None:
    """Where rows of a split of builds were met in the training of a run, by reason, as `seen_in` gives it.

    Train and valid count as trained on, of the run's own build but for the split itself. None where the builds of the
    run are not at hand, or were built anew.
    """
    builds, splits = data.builds, [name for name in TRAINED_SPLITS if name != split]
    if not run.is_trained_on(data.trained_on):
        opened = builds_of(run)
        if opened is None:
            return None
        builds, splits = opened, list(TRAINED_SPLITS)
    elif split == "train":
        return {}
    trained = [Photos.of(build, build.rows(name)) for build in builds for name in splits]
    masks, start = {reason: np.zeros(len(rows), bool) for reason in Reason}, 0
    for build in data.builds:
        is_own = (rows >= start) & (rows < start + len(build.table))
        for reason, mask in seen_in(Photos.of(build, rows[is_own] - start), trained).items():
            masks[reason][is_own] = mask
        start += len(build.table)
    return masks


def builds_of(run: Run) -> list[RunBuild] | None:
    """The builds that a run was trained on; None where one is not at hand, or was built anew."""
    builds = []
    with suppress(OSError, JobError):
        for trained_on in run.builds:
            build = manifest.read_build(trained_on.location)
            if (build.digest, build.plan_digest) != (trained_on.digest, trained_on.plan_digest):
                return None
            opened = RunBuild.read(trained_on.location, build)
            fold = Fold.of(run.recipe.fold) if run.recipe.fold else None
            builds.append(opened.split_anew(fold, seed=run.recipe.seed) if fold else opened)
        return builds
    return None


def _is_same(photos: Photos, trained: Sequence[Photos], names: Sequence[str]) -> Mask:
    """True where a photo has one of these in common with any that was trained on."""
    is_met = np.zeros(photos.num, bool)
    for name in names:
        for others in trained:
            values = getattr(others, name).combine_chunks().drop_null()
            is_met |= pc.is_in(getattr(photos, name), value_set=values).to_numpy()
    return is_met


def _looks_alike(photos: Photos, trained: Sequence[Photos]) -> Mask:
    """True where the perceptual hash of a photo, or of its mirror image, is near that of one that was trained on."""
    is_alike, is_hashed = np.zeros(photos.num, bool), photos.hashes.is_valid().to_numpy()
    hashes = photos.hashes.drop_null().to_numpy()
    for others in trained:
        pairs = pairs_between(others.hashes.drop_null().to_numpy(), hashes)
        is_alike[np.flatnonzero(is_hashed)[pairs.second]] = True
    return is_alike


def _names_photos(build: RunBuild) -> bool:
    """True where a key is the name of one photo wherever it was built: in a dataset that many have alike."""
    configuration = build.build.configuration
    try:
        return configuration.dataset != _ANY_PHOTOS and is_known(configuration.described)
    except UsageError:  # a description that is not here
        return False


def _person_column(build: RunBuild) -> str:
    """The column that names the person of a photo; empty without one."""
    try:
        named = build.build.configuration.described.labels_of("identity")
    except UsageError:  # a description that is not here
        return ""
    return next((name for name in named if name in build.table.column_names), "")
