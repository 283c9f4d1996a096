"""Source: the files of a dataset as published, in folders, archives and object stores, read in place."""

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import parquet_images
from facepack.archive import SUFFIXES, Member, contents_of, read_member, readable
from facepack.errors import JobError
from facepack.listing import Passed, merged
from facepack.names import Names
from facepack.parquet_images import EmbeddedImage
from facepack.signature import are_images
from facepack.storage import NUM_STATS, Store, is_url

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """The files of a dataset as published: a folder or URL, with chosen archives seen as if they were unpacked.

    Paths are in Unicode's composed form (NFC), whatever form they are stored in.
    """

    store: Store
    files: Collection[str]
    members: Mapping[str, Member | EmbeddedImage] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    """Names of those of the `files` that are stored otherwise: in another Unicode form, or not as UTF-8."""
    given: str = ""
    """The archive that was given, where it is none of the files of a folder."""
    passed: Passed = field(default_factory=dict)
    """Paths that are passed over, by reason."""
    opened: frozenset[str] = frozenset()
    """Those of the files that are archives, or hold images as archives do, and are read in place."""

    @property
    def location(self) -> str:
        """The folder, archive or URL that was given, fit to be shown."""
        return self.given or self.store.location

    @cached_property
    def names(self) -> Names:
        """All paths."""
        if self.members:
            return Names.of({*self.files, *self.members})
        return self.files if isinstance(self.files, Names) else Names.of(self.files)

    @property
    def paths(self) -> list[str]:
        """All paths, sorted, as a list, which is large where there are many."""
        return list(self.names)

    @cached_property
    def others(self) -> list[str]:
        """All paths but those that are images by their names, sorted: what may be a label file."""
        others: list[str] = self.names.array.filter(pc.invert(are_images(self.names.array))).to_pylist()
        return others

    def __contains__(self, path: str) -> bool:
        return path in self.files or path in self.members

    def has(self, paths: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Whether each of many paths is there; many times as fast as one after another."""
        return self.names.has(paths)

    @property
    def is_plain(self) -> bool:
        """True where every path is the name of a file."""
        return not self.members and not self.spellings

    @property
    def bare(self) -> "Source":
        """The same source without its files: small enough to travel with a task."""
        return Source(self.store, frozenset(), given=self.given)

    def places(self, paths: Iterable[str]) -> list[str | None]:
        """Per path, as JSON, where in which file it lies or by which name it is stored; None where that is the path."""
        places: list[str | None] = []
        for path in paths:
            member, spelling = self.members.get(path), self.spellings.get(path)
            place = spelling if member is None else astuple(member) if isinstance(member, Member) else list(member)
            places.append(None if place is None else json.dumps(place))
        return places

    def placed(self, paths: Sequence[str], places: Sequence[str | None]) -> "Source":
        """The same source with no more than these paths, each with what `places` gave."""
        files: list[str] = []
        members: dict[str, Member | EmbeddedImage] = {}
        spellings = {}
        for path, place in zip(paths, places, strict=True):
            where = None if place is None else json.loads(place)
            if isinstance(where, list):
                members[path] = EmbeddedImage(*where) if len(where) == len(EmbeddedImage._fields) else Member(*where)
                continue
            files.append(path)
            if where is not None:
                spellings[path] = where
        return Source(self.store, frozenset(files), members, spellings, self.given)

    def subset(self, paths: Collection[str]) -> "Source":
        """The same source with no more than these paths."""
        return self.placed(list(paths), self.places(paths))

    def size(self, path: str) -> int:
        """Size of a file in bytes."""
        member = self.members.get(path)
        if isinstance(member, EmbeddedImage):
            return len(self.read(path))
        return self.store.size(self.stored(path)) if member is None else member.num_bytes

    @cached_property
    def stats(self) -> npt.NDArray[np.int64]:
        """What `Store.stats` gives of each of the `names`; of those in archives their sizes alone."""
        if not self.members:
            stored = (self.stored(path) for path in self.names) if self.spellings else self.names
            return self.store.stats(stored)
        stats = np.full((len(self.names), NUM_STATS), -1, np.int64)
        for row, path in enumerate(self.names):
            with suppress(OSError):
                stats[row, 0] = self.size(path)
        return stats

    def sizes(self, paths: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Sizes of many files in bytes, -1 where there is none to be told."""
        rows = self.names.rows_of(paths)
        sizes: npt.NDArray[np.int64] = np.where(rows < 0, -1, self.stats[rows, 0])
        return sizes

    def read(self, path: str) -> bytes:
        """The content of a file; `OSError` where it cannot be read whole, `FileNotFoundError` where it is gone."""
        member = self.members.get(path)
        if isinstance(member, EmbeddedImage):
            return parquet_images.read_image(self.store, member)
        return self.store.read(self.stored(path)) if member is None else read_member(self.store, path, member=member)

    def start(self, path: str, *, length: int) -> bytes:
        """The first bytes of a file, up to `length`; `OSError` as for `read`."""
        if path in self.members:
            return self.read(path)[:length]
        return self.store.read_range(self.stored(path), start=0, length=length)

    def embedded(self, paths: Iterable[str]) -> list[EmbeddedImage] | None:
        """Where images stand in Parquet files, if all of them do."""
        members = [self.members.get(path) for path in paths]
        embedded = [member for member in members if isinstance(member, EmbeddedImage)]
        return embedded if len(embedded) == len(members) else None

    def with_members(self, members: Mapping[str, Member | EmbeddedImage], *, passed: Passed | None = None) -> "Source":
        """The same source with what is in some of its files, and what is passed over: of these files, or in them."""
        inside = {path: member for path, member in members.items() if path not in self.files}
        closed = {path for paths in (passed or {}).values() for path in paths if path in self.files}
        opened = self.opened | {member.archive for member in inside.values()} | closed
        passed = merged(self.passed, passed or {})
        return replace(self, members=dict(self.members) | inside, opened=opened, passed=passed)

    def file_of(self, path: str) -> str:
        """The name of the file that an image is, or lies in."""
        member = self.members.get(path)
        return self.stored(path) if member is None else member.archive

    def stored(self, path: str) -> str:
        """The name by which a file is stored."""
        return self.spellings.get(path, path)


def open_source(location: str, *, archives: Mapping[str, str] | None = None) -> Source:
    """Open a folder, a .zip, a .tar or a URL of any of these.

    `archives` are files inside a folder to be read in place, at any depth, each with the folder that its content seems
    to lie in. Raises `JobError` where there is nothing, or where an archive is damaged or compressed as a whole.
    """
    location = str(location).rstrip("/") or "/"
    parent, _, name = location.rpartition("/")
    is_folder = not is_url(location) and Path(location).is_dir()
    if not is_folder and (name.lower().endswith(SUFFIXES) or _is_archive(location)):
        store = Store(parent or ("." if not location.startswith("/") else "/"))
        shown = location if parent or is_url(location) else name
        contents = contents_of(store, name, given=shown)
        members, _ = _composed(contents.members)
        return Source(store, frozenset(), members, given=shown, passed=contents.passed)
    if name.lower().endswith(parquet_images.SUFFIX) and not is_folder:
        return Source(Store(parent or ("." if not location.startswith("/") else "/")), frozenset({name}))
    if not is_url(location) and Path(location).exists() and not is_folder:
        raise JobError(f"{location}: a file; give the folder, .zip or .tar of the dataset as --src")
    store = Store(location)
    listing = store.listing()
    stored, spellings = _files_of(listing.names)
    if not stored:
        nothing = _nothing_there(store, listing.passed)
        raise JobError(f"{location}: {nothing}; give the folder, .zip or .tar of the dataset as --src")
    members, passed, opened = {}, [], []
    for path in stored if archives else ():
        ends = [end for end in archives or {} if path == end or path.endswith(f"/{end}")]
        if ends:
            contents = contents_of(store, spellings.get(path, path), into=(archives or {})[max(ends, key=len)])
            members |= _composed(contents.members)[0]
            passed.append(contents.passed)
            opened.append(path)
    members = {path: member for path, member in members.items() if path not in stored}
    return Source(store, stored, members, spellings, "", merged(listing.passed, *passed), frozenset(opened))


def _files_of(names: list[str]) -> tuple[Names, dict[str, str]]:
    """Names of files as UTF-8 in NFC, and the stored names of those that are stored otherwise."""
    if all(map(str.isascii, names)):
        return Names.of(names), {}
    composed, spellings = _composed({name: name for name in names})
    return Names.of(composed), spellings


def _is_archive(location: str) -> bool:
    """True for a local file that is a .zip by its content, whatever its name."""
    path = Path(location)
    if is_url(location) or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(262)
    return start.startswith(b"PK\x03\x04") or start[257:] == b"ustar"


def _composed(stored: Mapping[str, T]) -> tuple[dict[str, T], dict[str, str]]:
    """What has names as they are stored by names that are UTF-8 in NFC, and the stored names of those that differ.

    Of two names that differ in their form alone, one stays as it is.
    """
    composed: dict[str, T] = {}
    spellings = {}
    for name, value in stored.items():
        path = name
        if not name.isascii():
            path = unicodedata.normalize("NFC", readable(name))
            if path != name and (path in stored or path in composed):
                path = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if path != name:
                spellings[path] = name
        composed[path] = value
    return composed, spellings


def _nothing_there(store: Store, passed: Passed) -> str:
    if passed:
        number = sum(map(len, passed.values()))
        return f"no file but {number:,} that are passed over ({'; '.join(passed)})"
    return store.absence() or "no files"
