"""Path rows: one row per image whose path has a form that a description knows."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import LeftOut, PathIndex, PathPattern, SplitFolders, TableFile
from facepack.listing import merged
from facepack.names import ROWS_AT_ONCE, Names, is_ascending
from facepack.patterns import fully_matched
from facepack.published_rows import Columns, NotThereError, PublishedRows, filled, filtered, text_of
from facepack.signature import NUM_BYTES, are_images, is_image
from facepack.source import Source
from facepack.table_rows import NO_IMAGES, LabelFile, composite, joined, kind_by_name, path_pattern, read_files

_NUM_READERS = 16
_NONE = np.zeros(0, bool)
_SET, _FOLDER, _PATH = "_set", "_folder", "_path"


def read_path_rows(form: PathIndex, source: Source, *, images: str) -> PublishedRows:
    """The rows of one image set, with the columns of the label files that are there; `NotThereError` without any."""
    return _with_tables(form, _of_image_set(form, _read_paths(form, source), images), source)


def _read_paths(form: PathIndex, source: Source) -> PublishedRows:
    """Match each image path against the description's patterns; what none of them matches is unparsed."""
    images, passed = _images_of(source)
    images = _without_left_out(form, images, source=source, passed=passed)
    folders = _Folders.of(form.split_folders, images)
    patterns = [pattern for pattern in form.patterns if folders.has_splits or not pattern.split_folders]
    parts = [_matched(patterns, part, around=folders.around) for part in _parts(images)]
    unparsed = [f"{path}: expected {form.about}" for part in parts for path in part.unmatched]
    sources = [part.paths for part in parts if len(part.paths)]
    if not sources:
        raise NotThereError(form.about)
    names = parts[0].columns
    columns = {name: pa.chunked_array([part.columns[name] for part in parts if len(part.paths)]) for name in names}
    notes = (f"all folders are in {folders.around}, which is passed over",) if folders.around else ()
    return PublishedRows(columns, pa.concat_arrays(sources), "", unparsed, form.lacks, passed, notes)


def _parts(paths: pa.Array) -> Iterator[pa.Array]:
    return (paths.slice(start, ROWS_AT_ONCE) for start in range(0, len(paths), ROWS_AT_ONCE))


class _Matched(NamedTuple):
    """Paths that a pattern matches, with the columns in them; and those that none does."""

    paths: pa.Array
    columns: dict[str, pa.Array]
    unmatched: list[str]


def _matched(patterns: Sequence[PathPattern], paths: pa.Array, *, around: str) -> _Matched:
    """Each path by the first pattern that matches what is below the folder around all."""
    below = _below(paths, around)
    constants = [pattern.set | {_SET: pattern.images} for pattern in patterns]
    names = sorted({name for each in constants for name in each} | _group_names(patterns))
    rest = np.arange(len(paths))
    rows: list[npt.NDArray[np.int64]] = []
    values: dict[str, list[pa.Array]] = {name: [] for name in names}
    for pattern, fixed in zip(patterns, constants, strict=True):
        is_match, groups = fully_matched(pattern.pattern, below.take(pa.array(rest)))
        rows.append(rest[is_match])
        number = len(rows[-1])
        for name in names:
            same = pa.array([fixed.get(name)], pa.string()).take(pa.array(np.zeros(number, np.int32)))
            values[name].append(groups[name] if name in groups and name not in fixed else same)
        rest = rest[~is_match]
    order = np.argsort(np.concatenate([rest[:0], *rows]))
    in_order = {name: pa.concat_arrays(parts).take(pa.array(order)) for name, parts in values.items()}
    columns = {name: column if name == _SET else column.dictionary_encode() for name, column in in_order.items()}
    is_rest = np.zeros(len(paths), bool)
    is_rest[rest] = True
    return _Matched(paths.filter(pa.array(~is_rest)), columns, paths.filter(pa.array(is_rest)).to_pylist())


def _group_names(patterns: Sequence[PathPattern]) -> set[str]:
    return {name for pattern in patterns for name in re.compile(pattern.pattern).groupindex}


def _below(paths: pa.Array, around: str) -> pa.Array:
    """The paths without the folder around all, where they lie in it."""
    is_inside = pc.starts_with(paths, around)
    return pc.if_else(is_inside, pc.utf8_slice_codeunits(paths, len(around)), paths) if around else paths


def _without_left_out(form: PathIndex, images: pa.Array, *, source: Source, passed: dict[str, list[str]]) -> pa.Array:
    """The paths that no rule leaves out; the others are added to `passed` by reason."""
    for rule in form.left_out:
        regex = re.compile(rule.pattern)
        is_out = np.concatenate([_NONE, *(fully_matched(rule.pattern, part)[0] for part in _parts(images))])
        rows = np.flatnonzero(is_out)
        if rule.copy_of:
            paths = images.take(pa.array(rows)).to_pylist()
            is_out[rows] = [_is_copy(path, regex, rule=rule, source=source) for path in paths]
        if is_out.any():
            passed.setdefault(rule.why, []).extend(images.filter(pa.array(is_out)).to_pylist())
            images = images.filter(pa.array(~is_out))
    return images


def _is_copy(path: str, regex: re.Pattern[str], *, rule: LeftOut, source: Source) -> bool:
    """Whether what a path is a copy of is there."""
    match = regex.fullmatch(path)
    return match is not None and match.expand(rule.copy_of) in source


class _Folders(NamedTuple):
    """The folder around all others, with its slash, or nothing; and whether the folders in it are splits."""

    around: str
    has_splits: bool

    @classmethod
    def of(cls, rule: SplitFolders | None, paths: pa.Array) -> "_Folders":
        """Pass through folders that hold one other folder and no image, down to one that holds several, or splits."""
        if rule is None:
            return cls("", has_splits=True)
        train, others = re.compile(rule.train), re.compile(rule.others)
        around, outermost = "", None
        below = paths
        while True:
            tops = pc.extract_regex(below, r"\A(?P<top>[^/]*)/")
            names = set(pc.unique(tops.field("top").filter(tops.is_valid())).to_pylist())
            is_train = [bool(train.fullmatch(name)) for name in names]
            is_split = any(is_train) or (bool(names) and all(others.fullmatch(name) for name in names))
            outermost = is_split if outermost is None else outermost
            if is_split or len(names) > 1:
                return cls(around, has_splits=is_split)
            if len(names) != 1 or (around and tops.null_count):
                return cls("", has_splits=outermost)  # one class, whatever its folders
            around += f"{names.pop()}/"
            below = _below(paths.filter(pc.starts_with(paths, around)), around)


def _images_of(source: Source) -> tuple[pa.Array, dict[str, list[str]]]:
    """The paths of images, by their suffix or their first bytes, and those of all other files by reason."""
    by_name: dict[str, list[str]] = {}
    for path in source.others:
        by_name.setdefault(kind_by_name(path), []).append(path)
    unknown = by_name.pop("", [])
    is_image: list[bool] = []
    if unknown:
        with ThreadPoolExecutor(_NUM_READERS) as pool:  # each is a request where the source is remote
            is_image = list(pool.map(partial(_begins_as_image, source), unknown))
    images = source.names.array
    if source.others:
        images = images.filter(are_images(images))
    if any(is_image):
        images = Names.of([*images.to_pylist(), *compress(unknown, is_image)]).array
    no_images = by_name.pop(NO_IMAGES, []) + [path for path, is_ in zip(unknown, is_image, strict=True) if not is_]
    passed = by_name | ({NO_IMAGES: sorted(no_images)} if no_images else {})
    return images, {why: [path for path in paths if path not in source.opened] for why, paths in passed.items()}


def _begins_as_image(source: Source, path: str) -> bool:
    try:
        return is_image(source.start(path, length=NUM_BYTES))
    except OSError:
        return False


def _of_image_set(form: PathIndex, raw: PublishedRows, images: str) -> PublishedRows:
    """The rows of one image set, the first that is there by default; those of others are counted."""
    sets = raw.columns.pop(_SET)
    if not form.image_sets:
        return raw
    counts = {row["values"]: row["counts"] for row in sets.value_counts().to_pylist()}
    chosen = images or next(name for name in form.image_sets if name in counts)
    if chosen not in counts:
        raise NotThereError(f"{form.about}, in the image set {chosen}")
    others = {
        f"images of another set, images {name}": raw.source.filter(pc.equal(sets, name).combine_chunks()).to_pylist()
        for name in sorted(counts)
        if name != chosen
    }
    return replace(filtered(raw, pc.equal(sets, chosen).combine_chunks()), passed=merged(raw.passed, others))


def _with_tables(form: PathIndex, raw: PublishedRows, source: Source) -> PublishedRows:
    """Rows of paths with the columns of the label files that are there, and with rows that only these name."""
    unparsed, lacks, used = list(raw.unparsed), list(raw.lacks), set[str]()
    for table in form.tables:
        files = _scattered_files(table, source.others)
        if not files:
            lacks += table.labels
            continue
        others, unparsed_others = read_files(table, files, source=source)
        used |= {path for path, _ in files}
        unparsed += unparsed_others + _repeated(table, others, where=files[0].path)
        on = table.on or table.key
        if table.missing:
            raw = _with_missing(raw, others, table=table)
        raw = replace(raw, columns=raw.columns | joined(raw.columns, others, table=table, on=on))
    passed = {why: [path for path in paths if path not in used] for why, paths in raw.passed.items()}
    passed = {why: paths for why, paths in passed.items() if paths}
    return replace(raw, unparsed=unparsed, lacks=tuple(lacks), passed=passed)


def _scattered_files(table: TableFile, paths: list[str]) -> list[LabelFile]:
    """The files of a table in the shallowest folder that has one of them."""
    regex = re.compile(rf"(?P<{_FOLDER}>(?:.*/)?){path_pattern(table.path)}")
    hits = [match.groupdict() | {_PATH: path} for path in paths if (match := regex.fullmatch(path))]
    if not hits:
        return []
    folder = min((hit[_FOLDER] for hit in hits), key=lambda name: (name.count("/"), name))
    return [LabelFile(hit.pop(_PATH), hit) for hit in hits if hit.pop(_FOLDER) == folder]


def _repeated(table: TableFile, others: Columns, *, where: str) -> list[str]:
    """A line for each key of a table that several rows have; the first of them wins."""
    keys = composite([others[table.key]])
    if is_ascending(keys) or pc.count_distinct(keys).as_py() == len(keys):
        return []
    counts = Counter(keys.to_pylist())
    return [f"{where}: {key}: named {number:,} times" for key, number in counts.items() if number > 1]


def _with_missing(raw: PublishedRows, others: Columns, *, table: TableFile) -> PublishedRows:
    """The rows, and those of a table whose image no path names."""
    keys = composite([others[table.key]])
    is_first = np.zeros(len(keys), bool)
    is_first[np.unique(keys.to_numpy(), return_index=True)[1]] = True
    on = table.on or table.key
    is_new = pc.and_(pc.invert(pc.is_in(keys, value_set=composite([raw.columns[on]]))), pa.array(is_first))
    new = {name: text_of(column).filter(is_new) for name, column in others.items()}
    new = new | {on: new[table.key]}
    number = len(new[on])
    nulls = pa.chunked_array([pa.nulls(number, pa.string())])
    columns = {
        name: pa.chunked_array([*text_of(column).chunks, *new.get(name, nulls).chunks], pa.string())
        for name, column in raw.columns.items()
    }
    paths = pa.concat_arrays([raw.source, filled("", table.missing, new).cast(pa.string())])
    return replace(raw, columns=columns, source=paths)
