"""Matching: the file that a path in a label file means where it is written otherwise, or what is there instead."""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.archive import SUFFIXES as ARCHIVES
from facepack.signature import IMAGE_SUFFIXES, SIDECAR_SUFFIXES
from facepack.source import Source

_NUM_NAMED = 3
_NUM_COMPARED = 5000
_ABSOLUTE = re.compile(r"(?:.*/)?(?:[a-z]:/|/)")


@dataclass(frozen=True)
class Matched:
    """Paths of images, with those that are written otherwise as they are there, and a line on these."""

    paths: pa.Array
    note: str = ""


def as_path(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text of label files as paths: without blanks around, with / for \\, without ./ at the start, in NFC."""
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    if pc.any(pc.match_substring(text, "\\")).as_py():
        text = pc.replace_substring(text, "\\", "/")
    if pc.any(pc.starts_with(text, "./")).as_py():
        text = pc.replace_substring_regex(text, r"^(?:\./+)+", "")
    return composed(text)


def composed(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text in Unicode's composed form (NFC), in which ASCII is already."""
    return text if pc.all(pc.string_is_ascii(text)).as_py() else pc.utf8_normalize(text, form="NFC")


def matched(paths: pa.Array, source: Source) -> Matched:
    """Replace paths that are not there by the one file that each means: of another case, suffix or with other slashes.

    A file is the image of one row at most; what fits several files, or several rows, stays as it is.
    """
    is_there = source.has(paths)
    lost = np.flatnonzero(~is_there & pc.is_valid(paths).to_numpy(zero_copy_only=False))
    if not len(lost):
        return Matched(paths)
    files = _Files(source.names.without(paths).to_pylist())
    lost = lost[files.may_mean(paths.take(pa.array(lost)))]
    names = paths.take(pa.array(lost)).to_pylist()
    meant = [files.meant_by(name) for name in names]
    counts = Counter(meant)
    pairs = {int(row): path for row, path in zip(lost, meant, strict=True) if path and counts[path] == 1}
    if not pairs:
        return Matched(paths)
    first = next(iter(pairs))
    texts = paths.to_pylist()
    note = f"{len(pairs):,} images are written otherwise in the label file, such as {texts[first]} for {pairs[first]}"
    for row, path in pairs.items():
        texts[row] = path
    return Matched(pa.array(texts, pa.string()), note)


class _Files:
    """Files by their paths in one form, with and without suffix; None where several have it."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._whole: dict[str, str | None] = {}
        self._stems: dict[str, str | None] = {}
        for path in sorted(paths):
            key = _plain(path)
            self._whole[key] = None if key in self._whole else path
            if not key.endswith(SIDECAR_SUFFIXES):
                stem = posixpath.splitext(key)[0]
                self._stems[stem] = None if stem in self._stems else path

    def may_mean(self, names: pa.Array) -> npt.NDArray[np.bool_]:
        """Whether each of many names may mean a file: those in plain letters do by the end of a path alone."""
        ends = {posixpath.basename(path) for path in (*self._whole, *self._stems)}
        text = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.ascii_lower(names), r"^.*[/\\]", ""))
        stems = pc.replace_substring_regex(text, r"\s*\.[^.]*$", "")
        known = pa.array(sorted(ends), pa.string())
        is_known = pc.or_(pc.is_in(text, value_set=known), pc.is_in(stems, value_set=known))
        return np.asarray(pc.or_(is_known, pc.invert(pc.string_is_ascii(names))), bool)

    def meant_by(self, name: str) -> str | None:
        """The one file that a name means."""
        key = _plain(name)
        tails = [key]
        if match := _ABSOLUTE.match(key):  # a path on somebody else's machine: its end may be one here
            parts = key[match.end() :].split("/")
            tails += ["/".join(parts[number:]) for number in range(len(parts))]
        for tail in tails:
            stem = posixpath.splitext(tail)[0] if tail.endswith(IMAGE_SUFFIXES) else tail
            if path := self._whole.get(tail) or self._stems.get(stem):
                return path
        return None


def _plain(path: str) -> str:
    """A path without what writers differ in: case, slashes, blanks around names, Unicode's form."""
    if not path.isascii():
        path = unicodedata.normalize("NFC", path)
    path = path.replace("\\", "/").casefold()
    if " " in path:
        path = "/".join(part.strip() for part in path.split("/"))
    return posixpath.normpath(path) if "//" in path or "./" in path else path


def root_of(tails: pa.Array, source: Source) -> str | None:
    """The folder, with its slash, below which most of some paths lie, whatever their case and suffix; None if none."""
    stems = {posixpath.splitext(_plain(tail))[0] for tail in tails.to_pylist() if tail}
    depths = {stem.count("/") for stem in stems}
    roots: Counter[str] = Counter()
    for path in source.names:
        stem = posixpath.splitext(_plain(path))[0]
        parts = stem.split("/")
        for depth in depths:
            if len(parts) > depth and "/".join(parts[-depth - 1 :]) in stems:
                roots["/".join(path.split("/")[: -depth - 1])] += 1
    if not roots:
        return None
    root = min(roots, key=lambda root: (-roots[root], root.count("/"), root))
    return f"{root}/" if root else ""


# What is there, for errors


def beside(path: str, source: Source) -> str:
    """What is there beside a path that is not: the nearest name, or the folders and how many files they hold.

    Archives that are not opened are named, too.
    """
    closed = [path for path in source.others if path.lower().endswith(ARCHIVES) and path not in source.opened]
    around = f"{source.given} and in it " if source.given else ""
    more = f"; unpack {around}{', '.join(closed[:_NUM_NAMED])}" if closed else ""
    return f"{_nearest(path, source)}{more}"


def _nearest(path: str, source: Source) -> str:
    name = posixpath.basename(path)
    by_name: dict[str, str] = {}
    for other in source.names:
        by_name.setdefault(posixpath.basename(other), other)
    if name in by_name:
        return f"there is {by_name[name]}"
    stem = posixpath.splitext(_plain(name))[0]
    alike = sorted(
        path
        for other, path in by_name.items()
        if (stem in other or stem in _plain(other)) and posixpath.splitext(_plain(other))[0] == stem
    )
    if alike:
        return f"there is {', '.join(alike[:_NUM_NAMED])}"
    near = get_close_matches(name, list(by_name)[:_NUM_COMPARED], n=_NUM_NAMED, cutoff=0.75)
    if near:
        return f"there is {', '.join(sorted(by_name[other] for other in near))}"
    return contents_of(source)


def contents_of(source: Source) -> str:
    """The folders that hold most files, as 'there are 12 files in a/, such as a/1.png'."""
    folders = Counter(posixpath.dirname(path) for path in source.names)
    parts = []
    for folder, number in sorted(folders.most_common(_NUM_NAMED), key=lambda item: (-item[1], item[0])):
        first = next(path for path in source.names if posixpath.dirname(path) == folder)
        example = f", such as {first}" if number > 1 else f": {first}"
        parts.append(f"{number:,} file{'s' if number > 1 else ''} in {folder or 'the top folder'}{example}")
    more = f" and {len(folders) - len(parts):,} more folders" if len(folders) > len(parts) else ""
    return f"there are {'; '.join(parts)}{more}" if parts else "there is no file"
