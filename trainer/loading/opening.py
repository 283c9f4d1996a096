"""Opening: the builds of a loader, with the samples that are chosen of them.

Of several builds the samples are mixed: each comes once in an epoch, or with `weights`, one number per build, as often
as that says. Their rows count on: those of the second build come after all rows of the first one's manifest. Targets
have common names, which `target_names` gives to columns: {"age_group": "age"}.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from facepack import manifest
from facepack.errors import FieldError
from facepack.manifest import Build
from facepack.storage import Store
from trainer.loading.columns import ManifestColumns
from trainer.loading.location import location_of
from trainer.loading.mixture import checked_weights, mixed, renamed
from trainer.loading.samples import Choice, Samples
from trainer.loading.targets import CLASS

Place = str | os.PathLike[str]


def opened(
    places: Place | Sequence[Place], choice: Choice, *, target_names: Mapping[str, str] | None = None
) -> tuple[list[Build], Samples]:
    """The builds at places and their samples; raises `JobError`, `UsageError` or `FieldError`."""
    several = [places] if isinstance(places, str | bytes | os.PathLike) or not isinstance(places, Sequence) else places
    stores = [Store(location_of(place)) for place in several]
    if not stores:
        raise FieldError("build", "", "expected a folder or a URL, or several")
    builds = [manifest.read_build(store.location) for store in stores]
    names = target_names or {}
    if len(stores) == 1:
        return builds, _read(stores[0], builds[0], choice, target_names=names)
    if choice.rows is not None:
        raise FieldError("rows", "", "not with several builds: rows are those of one manifest")
    weights = checked_weights(choice.weights, num_builds=len(stores))
    choice = replace(choice, weights=None)
    if choice.targets is None:
        has_classes = choice.classes is not None or all(build.class_names for build in builds)
        choice = replace(choice, targets=(CLASS,) if has_classes else ())
    parts = [_read(*pair, choice, target_names=names) for pair in zip(stores, builds, strict=True)]
    return builds, mixed(parts, builds, weights=weights)


def _read(store: Store, build: Build, choice: Choice, *, target_names: Mapping[str, str]) -> Samples:
    """The samples of a build, whose targets have their common names."""
    if not target_names or choice.targets is None:
        return Samples.read(store, build, choice)
    own_names = renamed(choice.targets, target_names, ManifestColumns(store).labels)
    samples = Samples.read(store, build, replace(choice, targets=tuple(own_names.values())))
    return replace(samples, targets={name: samples.targets[own] for name, own in own_names.items()})
