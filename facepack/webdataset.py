"""WebDataset: photos with sidecars of the same key (.json, .cls, .txt) in .tar shards, and what these say."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facepack.archive import DamagedError, Member, contents_of
from facepack.errors import JobError
from facepack.json_columns import flat
from facepack.label_text import utf8
from facepack.names import Names
from facepack.signature import IMAGE_SUFFIXES, are_images
from facepack.source import Source

SUFFIX = ".tar"
_TEXTS = ("json", "cls", "txt", "text", "caption", "class", "label", "id", "identity", "age", "gender", "sex", "split")
"""Sidecars that are read: JSON, or text which becomes a column of their name."""
_LARGEST_SIDECAR_BYTES = 1 << 20
_LEAST_SHARE = 0.5
"""Of the photos of a shard, how many have a sidecar at least."""
OTHERS = "further images of a sample"
DAMAGED = "damaged archives: fetch them again"


@dataclass
class Samples:
    """The photos of shards in order, what their sidecars say, and what is no sample."""

    paths: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    unparsed: list[str] = field(default_factory=list)
    passed: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Sidecars that are read, and photos that are no sample because of them."""


def _stem(path: str) -> tuple[str, str]:
    """The path without its last suffix, and that suffix without the dot, in lower case."""
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return (folder + slash + stem, suffix.lower()) if dot and stem else (path, "")


def is_shard(paths: Mapping[str, object]) -> bool:
    """Whether files are those of a shard: photos, most of which have a sidecar."""
    stems = {_stem(path)[0] for path in paths if path.lower().endswith(IMAGE_SUFFIXES)}
    sidecars = {_stem(path)[0] for path in paths if _stem(path)[1] in _TEXTS}
    return bool(stems) and len(stems & sidecars) >= _LEAST_SHARE * len(stems)


def with_shards(source: Source) -> Source:
    """The source with what is in those of its .tar files that are shards, as if each were a folder."""
    members: dict[str, Member] = {}
    passed: dict[str, list[str]] = {}
    for path in source.others:
        if not path.lower().endswith(SUFFIX) or path in source.opened or path not in source.files:
            continue
        try:
            contents = contents_of(source.store, source.stored(path), into=path.rpartition("/")[2])
        except DamagedError:
            passed.setdefault(DAMAGED, []).append(path)
            continue
        except JobError:  # no plain tar
            continue
        if is_shard(contents.members):
            members |= contents.members
            for why, paths in contents.passed.items():
                passed.setdefault(why, []).extend(paths)
    return source.with_members(members, passed=passed)


def num_photos(paths: Iterable[str]) -> int:
    """How many files are photos by their names."""
    return int(np.sum(are_images(Names.of(paths).array).to_numpy(zero_copy_only=False)))


def read_samples(source: Source) -> Samples:
    """The photos of all shards with what their sidecars say; none where nothing is a shard.

    Of several photos of one key, the one with the shortest suffix is the sample.
    """
    by_archive: dict[str, list[str]] = {}
    for path, member in source.members.items():
        if isinstance(member, Member) and member.archive.lower().endswith(SUFFIX):
            by_archive.setdefault(member.archive, []).append(path)
    samples = Samples()
    for archive in sorted(by_archive):
        if is_shard(dict.fromkeys(by_archive[archive])):
            _read_shard(source, by_archive[archive], samples=samples)
    return samples


def _read_shard(source: Source, paths: list[str], *, samples: Samples) -> None:
    """Add the samples of one shard."""
    photos: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: (path.count("."), path)):
        stem, suffix = _stem(path)
        if f".{suffix}" not in IMAGE_SUFFIXES:
            continue
        key = _known_stem(stem, photos)
        if key in photos:
            samples.passed.setdefault(OTHERS, []).append(path)
        else:
            photos[key] = path
    texts: dict[str, dict[str, str]] = {key: {} for key in photos}
    broken = {}
    by_place = sorted(paths, key=lambda path: getattr(source.members[path], "start", 0))  # to read forward
    for path in by_place:
        stem, suffix = _stem(path)
        if suffix not in _TEXTS:
            continue
        key = _known_stem(stem, photos)
        samples.used.add(path)
        if key not in photos:
            samples.unparsed.append(f"{path}: no photo of this key")
            continue
        try:
            texts[key] |= _texts_of(path, source, prefix=stem[len(key) + 1 :])
        except (OSError, ValueError) as error:
            broken[key] = f"{path}: {error}"
    for key in sorted(photos):
        if key in broken:
            samples.unparsed.append(broken[key])
            samples.used.add(photos[key])
        else:
            samples.paths.append(photos[key])
            samples.rows.append(texts[key])


def _known_stem(stem: str, photos: Mapping[str, str]) -> str:
    """The key that a path belongs to: its stem, else what is before a dot in its name where a photo has that."""
    key = stem
    while key not in photos and "." in key.rpartition("/")[2].strip("."):
        key = key.rpartition(".")[0]
    return key if key in photos else stem


def _texts_of(path: str, source: Source, *, prefix: str) -> dict[str, str]:
    """Columns and texts of a sidecar; `ValueError` where it is not what its suffix says."""
    if source.size(path) > _LARGEST_SIDECAR_BYTES:
        raise ValueError("too large for a label")
    text = utf8(source.read(path)).decode("utf-8", "replace").strip()
    suffix = _stem(path)[1]
    name = f"{prefix}.{suffix}" if prefix else suffix
    if suffix != "json":
        return {name: text}
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    return flat(value, prefix=prefix) if isinstance(value, dict) else flat({name: value})
