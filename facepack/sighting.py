"""Sighting: sizes and times of the files of a shard on one machine, by which a copy that differs is found."""

from collections.abc import Iterable

from facepack.ahead import mapped_ahead
from facepack.source import Source
from facepack.storage import Store

Sighting = dict[str, tuple[int, int]]
"""By the name of a file in the source its size in bytes and when it was written, in microseconds; -1 where it is not
there. File systems keep times to the microsecond at least; finer ones differ in what they keep."""

_NUM_THREADS, _FILES_AT_ONCE = 16, 64
"""A file system on another machine takes a third of a millisecond for each file."""


def sighting_of(source: Source, paths: Iterable[str]) -> Sighting:
    """The files in which images lie, as they are on this machine; none of an object store, which all see alike."""
    return {} if source.store.is_remote else _sighting(source.store, sorted({source.file_of(path) for path in paths}))


def differing(there: Sighting, store: Store) -> set[str]:
    """The files that another machine saw with another size or time than they have here."""
    here = _sighting(store, list(there))
    return {name for name in there if there[name] != here[name]}


def _sighting(store: Store, names: list[str]) -> Sighting:
    def look(part: list[str]) -> Sighting:
        stats = store.stats(part).tolist()
        return {name: (size, written_ns // 1000) for name, (size, written_ns, _) in zip(part, stats, strict=True)}

    parts = [names[start : start + _FILES_AT_ONCE] for start in range(0, len(names), _FILES_AT_ONCE)]
    return {name: seen for part in mapped_ahead(look, parts, num_threads=_NUM_THREADS) for name, seen in part.items()}
