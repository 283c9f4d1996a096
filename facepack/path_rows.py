"""Path rows: one row per image whose path has a form that a description knows."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import LeftOut, PathIndex, SplitFolders, TableFile
from facepack.listing import merged
from facepack.published_rows import Columns, NotThereError, PublishedRows, filled, filtered, text_of
from facepack.signature import NUM_BYTES, is_image
from facepack.source import Source
from facepack.table_rows import IMAGE, NO_IMAGES, LabelFile, composite, joined, kind_by_name, path_pattern, read_files

_NUM_READERS = 16
_SET, _FOLDER, _PATH = "_set", "_folder", "_path"


def read_path_rows(form: PathIndex, source: Source, *, images: str) -> PublishedRows:
    """The rows of one image set, with the columns of the label files that are there; `NotThereError` without any."""
    return _with_tables(form, _of_image_set(form, _read_paths(form, source), images), source)


def _read_paths(form: PathIndex, source: Source) -> PublishedRows:
    """Match each image path against the description's patterns; what none of them matches is unparsed."""
    images, passed = _images_of(source)
    folders = _Folders.of(form.split_folders, images)
    patterns = [
        (re.compile(pattern.pattern), pattern.set | {_SET: pattern.images})
        for pattern in form.patterns
        if folders.has_splits or not pattern.split_folders
    ]
    names = sorted({name for regex, constants in patterns for name in (*regex.groupindex, *constants)})
    left_out = [(re.compile(rule.pattern), rule) for rule in form.left_out]
    rows: list[dict[str, str | None]] = []
    sources, unparsed = [], []
    for path in images:
        rules = (rule for regex, rule in left_out if _is_left_out(path, regex, rule=rule, source=source))
        if rule := next(rules, None):
            passed.setdefault(rule.why, []).append(path)
            continue
        below = path.removeprefix(folders.around)
        row = next((match.groupdict() | set_ for regex, set_ in patterns if (match := regex.fullmatch(below))), None)
        if row is None:
            unparsed.append(f"{path}: expected {form.about}")
        else:
            rows.append(row)
            sources.append(path)
    if not rows:
        raise NotThereError(form.about)
    columns = {name: pa.chunked_array([pa.array([row.get(name) for row in rows], pa.string())]) for name in names}
    notes = (f"all folders are in {folders.around}, which is passed over",) if folders.around else ()
    return PublishedRows(columns, pa.array(sources, pa.string()), "", unparsed, form.lacks, passed, notes)


def _is_left_out(path: str, regex: re.Pattern[str], *, rule: LeftOut, source: Source) -> bool:
    """Whether a rule leaves a path out; one for copies only where what it is a copy of is there."""
    match = regex.fullmatch(path)
    return match is not None and (not rule.copy_of or match.expand(rule.copy_of) in source)


class _Folders(NamedTuple):
    """The folder around all others, with its slash, or nothing; and whether the folders in it are splits."""

    around: str
    has_splits: bool

    @classmethod
    def of(cls, rule: SplitFolders | None, paths: list[str]) -> "_Folders":
        """Pass through folders that hold one other folder and no image, down to one that holds several, or splits."""
        if rule is None:
            return cls("", has_splits=True)
        train, others = re.compile(rule.train), re.compile(rule.others)
        around, outermost = "", None
        while True:
            below = [path[len(around) :] for path in paths if path.startswith(around)]
            names = {path.partition("/")[0] for path in below if "/" in path}
            is_train = [bool(train.fullmatch(name)) for name in names]
            is_split = any(is_train) or (bool(names) and all(others.fullmatch(name) for name in names))
            outermost = is_split if outermost is None else outermost
            if is_split or len(names) > 1:
                return cls(around, has_splits=is_split)
            if len(names) != 1 or (around and any("/" not in path for path in below)):
                return cls("", has_splits=outermost)  # one class, whatever its folders
            around += f"{names.pop()}/"


def _images_of(source: Source) -> tuple[list[str], dict[str, list[str]]]:
    """The paths of images, by their suffix or their first bytes, and those of all other files by reason."""
    by_name: dict[str, list[str]] = {}
    for path in source.paths:
        by_name.setdefault(kind_by_name(path), []).append(path)
    unknown = by_name.pop("", [])
    is_image: list[bool] = []
    if unknown:
        with ThreadPoolExecutor(_NUM_READERS) as pool:  # each is a request where the source is remote
            is_image = list(pool.map(partial(_begins_as_image, source), unknown))
    images = by_name.pop(IMAGE, []) + list(compress(unknown, is_image))
    no_images = by_name.pop(NO_IMAGES, []) + [path for path, is_ in zip(unknown, is_image, strict=True) if not is_]
    passed = by_name | ({NO_IMAGES: sorted(no_images)} if no_images else {})
    return sorted(images), {why: [path for path in paths if path not in source.opened] for why, paths in passed.items()}


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
        files = _scattered_files(table, source.paths)
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
    if pc.count_distinct(keys).as_py() == len(keys):
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
