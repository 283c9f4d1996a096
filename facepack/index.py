"""Indexing: one row per image that the label files, or the paths of the images, name."""

import re
import string
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.archive import SUFFIXES as ARCHIVE_SUFFIXES
from facepack.description import (
    ATTRIBUTE_VALUES,
    Description,
    Label,
    LeftOut,
    PathIndex,
    SplitFolders,
    SplitRule,
    TableFile,
    TableIndex,
)
from facepack.errors import FieldError, JobError
from facepack.label_file import PLACE, read_rows
from facepack.label_values import as_whole, looked_up, plain
from facepack.leave_out import LeaveOut, left_out_rows
from facepack.listing import Passed, merged
from facepack.matching import Matched, as_path, beside, matched, root_of
from facepack.signature import IMAGE_SUFFIXES, NUM_BYTES, SIDECAR_SUFFIXES, is_image
from facepack.source import Source

NO_IMAGES = "files that are no images"
ARCHIVES = "archives, which are not opened: unpack them"
UNNAMED = "images that no row names"
"""Why files are no rows."""
NUM_EXAMPLES = 5
"""How many files are named for each reason."""
_IMAGE = "image"
_NUM_READERS = 16
_NUM_LOOKED_FOR = 1000
"""How many images are looked for where none is where it should be."""
_FOLDER = "_folder"
MAX_AGE_YEARS = 130.0
TYPES = {
    "attribute": pa.int8(),
    "category": pa.string(),
    "age": pa.float32(),
    "identity": pa.int32(),
    "number": pa.float32(),
}


@dataclass(frozen=True)
class Index:
    """The rows of a dataset.

    `table` has the columns source (path of the image), official_split (train, valid, test or null), and every label of
    the description (attributes int8 0/1, ages float32 years, identities int32, numbers float32, categories string).
    `unparsed` names each row that could not be read, with the reason; `passed` holds all other files of the source but
    label files and archives that were opened, by the reason why they are no rows.
    """

    table: pa.Table
    unparsed: tuple[str, ...] = ()
    passed: Passed = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines on what is not as published, or not as the label files have it."""

    @property
    def left_out(self) -> dict[str, int]:
        """How many files are no rows, by reason."""
        return {why: len(paths) for why, paths in self.passed.items()}

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first of the files that are no rows, by reason."""
        return {why: list(paths[:NUM_EXAMPLES]) for why, paths in self.passed.items()}


Columns = dict[str, pa.ChunkedArray]


@dataclass(frozen=True)
class _Raw:
    """Rows as published: text columns, the path of the image, and the rows that could not even be cut into columns."""

    columns: Columns
    source: pa.Array
    where: str
    unparsed: list[str]
    lacks: tuple[str, ...]
    passed: Passed
    notes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    """Label files that are not there, of those that need not be."""
    keys: pa.ChunkedArray | None = None
    """What the label files call the images."""


class _LabelFileError(JobError):
    """What is wrong with a label file, which the message begins with."""


class _NotThereError(Exception):
    """The source does not have this form of the dataset; the message names what is missing."""


def index_dataset(
    description: Description, source: Source, *, images: str = "", leave_out: LeaveOut | None = None
) -> Index:
    """Read the sample table of a dataset, without the images that `leave_out` names.

    `images` chooses one of the description's image sets (its first by default). Raises `JobError` where label files or
    columns are missing, `FieldError` for an unknown image set, `UsageError` for a name in `leave_out` that several
    images have.
    """
    if images and images not in description.image_sets:
        names = ", ".join(description.image_sets) or "none"
        raise FieldError("images", images, f"{description.name} has no such image set; it has: {names}")
    try:
        raw = _without(leave_out or LeaveOut(), _read_raw(description, source, images))
        table, untyped = _labelled(description, raw)
    except _LabelFileError as error:
        raise JobError(f"{source.location}/{error}") from error
    unparsed = (*raw.unparsed, *untyped)
    if len(table) == 0:
        first = f"; the first of {len(unparsed):,} bad rows: {unparsed[0]}" if unparsed else ""
        raise JobError(f"{source.location}: {raw.where or 'it'} names no image that can be used{first}")
    notes = raw.notes
    if description.split is not None and description.split.column not in raw.columns and raw.absent:
        notes += (f"no official split here, for there is no {' or '.join(raw.absent)}",)
    return Index(table, unparsed, merged(raw.passed, source.passed), notes)


def _without(leave_out: LeaveOut, raw: _Raw) -> _Raw:
    """The rows without those that a list of one's own names."""
    if not leave_out.names:
        return raw
    sources = raw.source.fill_null("").to_pylist()
    named = left_out_rows(leave_out, sources, keys=[] if raw.keys is None else raw.keys.to_pylist())
    mask = np.ones(len(sources), bool)
    mask[named.rows] = False
    columns = {name: column.filter(pa.array(mask)) for name, column in raw.columns.items()}
    passed = merged(raw.passed, {f"listed in {leave_out.file}": [sources[row] for row in named.rows]})
    source = raw.source.filter(pa.array(mask))
    return replace(raw, columns=columns, source=source, passed=passed, notes=raw.notes + named.notes)


def _read_raw(description: Description, source: Source, images: str) -> _Raw:
    """Rows by the first form of the dataset that is there with images, else by the first that is there."""
    missing, refused, without_images = [], [], []
    for form in description.index:
        try:
            raw = _read_paths(form, source) if isinstance(form, PathIndex) else _read_tables(form, source, images)
        except _NotThereError as error:
            missing.append(f"{error}")
        except FieldError as error:  # this form has no such image set
            refused.append(error)
        else:
            if source.has(raw.source).any():
                return raw
            without_images.append(raw)
    if without_images:
        return without_images[0]
    if refused:
        raise refused[0]
    instead = beside(missing[0], source)
    names = ", no ".join(dict.fromkeys(missing))
    raise JobError(f"{source.location}: not {description.title} as published: no {names}; {instead}")


# Rows named by paths


def _read_paths(form: PathIndex, source: Source) -> _Raw:
    """Match each image path against the description's patterns; what none of them matches is unparsed."""
    images, passed = _images_of(source)
    folders = _Folders.of(form.split_folders, images)
    patterns = [
        (re.compile(pattern.pattern), pattern.set)
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
        raise _NotThereError(form.about)
    columns = {name: pa.chunked_array([pa.array([row.get(name) for row in rows], pa.string())]) for name in names}
    notes = (f"all folders are in {folders.around}, which is passed over",) if folders.around else ()
    return _Raw(columns, pa.array(sources, pa.string()), "", unparsed, form.lacks, passed, notes)


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
        by_name.setdefault(_kind_by_name(path), []).append(path)
    unknown = by_name.pop("", [])
    is_image: list[bool] = []
    if unknown:
        with ThreadPoolExecutor(_NUM_READERS) as pool:  # each is a request where the source is remote
            is_image = list(pool.map(partial(_begins_as_image, source), unknown))
    images = by_name.pop(_IMAGE, []) + list(compress(unknown, is_image))
    no_images = by_name.pop(NO_IMAGES, []) + [path for path, is_ in zip(unknown, is_image, strict=True) if not is_]
    passed = by_name | ({NO_IMAGES: sorted(no_images)} if no_images else {})
    return sorted(images), {why: [path for path in paths if path not in source.opened] for why, paths in passed.items()}


def _kind_by_name(path: str) -> str:
    """`_IMAGE`, why it is none, or nothing where the name does not say."""
    name = path.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return _IMAGE
    if name.endswith(ARCHIVE_SUFFIXES):
        return ARCHIVES
    return NO_IMAGES if name.endswith(SIDECAR_SUFFIXES) else ""


def _begins_as_image(source: Source, path: str) -> bool:
    try:
        return is_image(source.start(path, length=NUM_BYTES))
    except OSError:
        return False


# Rows named by label files


def _path_pattern(template: str) -> str:
    """The regular expression of a path in which `{split}` and the like stand for a part without slash or dot."""
    parts = string.Formatter().parse(template)
    return "".join(re.escape(text) + (rf"(?P<{name}>[^/.]+)" if name else "") for text, name, _, _ in parts)


class _LabelFile(NamedTuple):
    """A label file: its path, and the columns that stand in its name."""

    path: str
    constants: dict[str, str]


@dataclass(frozen=True)
class _TablePaths:
    """Where the label files are: the folder of all of them, with its slash, and the files of each table."""

    prefix: str
    files: list[list[_LabelFile]]


def _find_tables(form: TableIndex, paths: list[str]) -> _TablePaths:
    """Find the first label file in the shallowest folder that has it, and the others there, else in any other folder.

    Raises `_NotThereError` without them.
    """
    paths = [path for path in paths if not path.lower().endswith(IMAGE_SUFFIXES)]
    root: str | None = None
    files_of_tables = []
    for table in form.tables:
        pattern = rf"(?:(?P<{_FOLDER}>.*)/)?{_path_pattern(table.path)}"
        by_folder: dict[str, list[_LabelFile]] = {}
        for flags in (0, re.IGNORECASE):
            if not by_folder:
                regex = re.compile(pattern, flags)
                for path in paths:
                    if match := regex.fullmatch(path):
                        names = match.groupdict()
                        by_folder.setdefault(names.pop(_FOLDER) or "", []).append(_LabelFile(path, names))
        if not by_folder and not table.optional:
            raise _NotThereError(table.path)
        nearest = min(
            by_folder, key=lambda folder: (folder != root, folder.count("/") + bool(folder), folder), default=""
        )
        root = nearest if root is None else root
        files_of_tables.append(by_folder.get(nearest, []))
    return _TablePaths(f"{root}/" if root else "", files_of_tables)


def _read_tables(form: TableIndex, source: Source, images: str) -> _Raw:
    """Read and join the label files, then find where the images of the set called `images` lie."""
    sets, key = form.images, form.tables[0].key
    tables = _find_tables(form, source.paths)
    if images and images not in sets:
        raise FieldError("images", images, f"not with {form.about}; there are: {', '.join(sets)}")
    columns, unparsed = _read_files(form.tables[0], tables.files[0], source=source)
    lacks, absent = list(form.lacks), []
    for table, files in zip(form.tables[1:], tables.files[1:], strict=True):
        if files:
            others, unparsed_others = _read_files(table, files, source=source)
            unparsed += unparsed_others
            columns |= _joined(columns, others, table=table, on=table.on or key)
        else:
            lacks += table.labels
            absent += [] if table.labels else [table.path]
    where = tables.files[0][0].path
    if not len(columns[key]) and not unparsed:
        raise _LabelFileError(f"{where}: no rows")
    for templates in sets.values():
        _check_fields(templates, columns, where=where)
    lacks += [name for name in form.may_lack if name not in columns]
    images = images or next(iter(sets))
    placed = _image_paths(tables.prefix, sets[images], columns=columns, source=source)
    used = {path for files in tables.files for path, _ in files} | source.opened
    rest = [path for path in _absent(source.paths, placed.paths) if path not in used]
    others_of = {name: templates for name, templates in sets.items() if name != images}
    passed = _of_other_sets(
        rest, others_of, paths_of=partial(_paths_of_set, tables.prefix, columns=columns, source=source)
    )
    notes = tuple(_absent_notes(placed, source))
    return _Raw(columns, placed.paths, where, unparsed, tuple(lacks), passed, notes, tuple(absent), columns[key])


def _of_other_sets(
    rest: list[str], sets: dict[str, tuple[str, ...]], *, paths_of: Callable[[tuple[str, ...]], pa.Array]
) -> dict[str, list[str]]:
    """Files that are no image of a row, by the image set that they are of, or by what they are."""
    passed: dict[str, list[str]] = {}
    for name, templates in sets.items():
        left = _absent(rest, paths_of(templates)) if rest else rest
        if len(left) < len(rest):
            passed[f"images of another set, images {name}"] = sorted(set(rest) - set(left))
        rest = left
    return passed | _by_kind(rest)


def _absent_notes(images: Matched, source: Source) -> list[str]:
    """Lines on images that are written otherwise, and on those that are not there beside others that are."""
    notes = [images.note] if images.note else []
    is_absent = ~source.has(images.paths) & pc.is_valid(images.paths).to_numpy(zero_copy_only=False)
    if is_absent.any() and not is_absent.all():
        first = images.paths[int(np.argmax(is_absent))].as_py()
        notes.append(f"{is_absent.sum():,} images are not there, such as {first}: {beside(first, source)}")
    return notes


def _by_kind(paths: list[str]) -> dict[str, list[str]]:
    """Files that no row names, by what they are."""
    passed: dict[str, list[str]] = {}
    for path in paths:
        kind = _kind_by_name(path)
        passed.setdefault({_IMAGE: UNNAMED, "": NO_IMAGES}.get(kind, kind), []).append(path)
    return passed


def _absent(paths: list[str], others: pa.Array) -> list[str]:
    """The paths that are not among others."""
    there = pa.array(paths, pa.string())
    absent: list[str] = there.filter(pc.invert(pc.is_in(there, value_set=others))).to_pylist()
    return absent


def _read_files(table: TableFile, files: list[_LabelFile], *, source: Source) -> tuple[Columns, list[str]]:
    """The columns of all files of one table, with those in the names of the files, and where each row stands."""
    parts, unparsed = [], []
    for path, constants in files:
        try:
            part, unparsed_part = read_rows(table, path, content=source.read(path))
        except JobError as error:
            raise _LabelFileError(f"{error}") from error
        unparsed += unparsed_part
        for name, value in constants.items():
            part = part.append_column(name, pa.array([value] * len(part), pa.string()))
        if PLACE in part.column_names:
            places = pc.binary_join_element_wise(path, part[PLACE], ", ")
            part = part.drop_columns([PLACE]).append_column(f"{PLACE} {table.path}", places)
        parts.append(part)
    combined = pa.concat_tables(parts, promote_options="permissive")
    columns = {table.rename.get(name, name): _plain_column(combined[name]) for name in combined.column_names}
    columns[table.key] = as_path(columns[table.key])
    if table.extract:
        columns, unmatched = _extracted(table, columns, where=files[0].path)
        unparsed += unmatched
    return columns, unparsed


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text of a label file without the blanks and quotes around it, in NFC; only distinct values are looked at."""
    if not pa.types.is_dictionary(column.type):
        return column
    chunks = []
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        values = [text and plain(text) for text in texts]
        same = values == texts
        chunks.append(chunk if same else pa.DictionaryArray.from_arrays(chunk.indices, pa.array(values, pa.string())))
    return pa.chunked_array(chunks, column.type)


def _extracted(table: TableFile, columns: Columns, *, where: str) -> tuple[Columns, list[str]]:
    """Add columns taken out of the key by a regular expression; rows whose key does not match are left out."""
    regex = re.compile(table.extract)
    keys = columns[table.key].to_pylist()
    matches = [regex.fullmatch(key or "") for key in keys]
    unmatched = [f"{where}: {key}: not as expected" for key, match in zip(keys, matches, strict=True) if not match]
    is_matched = pa.array([match is not None for match in matches])
    groups = {name: [match[name] for match in matches if match] for name in regex.groupindex}
    extracted = {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in groups.items()}
    columns = {name: column.filter(is_matched) for name, column in columns.items()}
    places = {name: columns.pop(name) for name in list(columns) if name.startswith(PLACE)}
    return columns | extracted | places, unmatched


def _joined(main: Columns, other: Columns, *, table: TableFile, on: str) -> Columns:
    """The columns of `other` in the order of the rows of `main`; null where it has no such row."""
    # Columns that stand in the file names of both (the split) are part of the key.
    shared = [name for name in other if name in main and f"{{{name}}}" in table.path]
    left = _composite([main[name] for name in (on, *shared)])
    right = _composite([other[name] for name in (table.key, *shared)])
    rows = pc.index_in(left, value_set=right)
    return {name: column.take(rows) for name, column in other.items() if name != table.key and name not in main}


def _composite(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    texts = [_text(column) for column in columns]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\0")


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _check_fields(templates: tuple[str, ...], columns: Columns, *, where: str) -> None:
    fields = {name for template in templates for _, name, _, _ in string.Formatter().parse(template) if name}
    if unknown := fields - columns.keys():
        names = [name for name in columns if not name.startswith(PLACE)]
        raise _LabelFileError(f"{where}: no column {', '.join(sorted(unknown))}; it has {', '.join(names[:6])}")


def _image_paths(prefix: str, templates: tuple[str, ...], *, columns: Columns, source: Source) -> Matched:
    """The path of each row's image: by the first template that has files, there or in another folder, else the first.

    A path that is written otherwise than the file that it means becomes the path of that file.
    """
    for template in templates:
        paths = _filled(prefix, template, columns)
        if source.has(paths).any():
            return matched(paths, source)
    if any(not path.lower().endswith(SIDECAR_SUFFIXES) for path in source.paths):
        for template in templates:
            tails = _filled("", template, columns)
            sample = tails.take(pa.array(np.linspace(0, len(tails) - 1, min(len(tails), _NUM_LOOKED_FOR), dtype=int)))
            root = root_of(sample, source)
            if root is not None:
                return matched(_filled(root, template, columns), source)
    return matched(_filled(prefix, templates[0], columns), source)


def _paths_of_set(prefix: str, templates: tuple[str, ...], *, columns: Columns, source: Source) -> pa.Array:
    """The paths by the first template that has files, as they are written."""
    every = [_filled(prefix, template, columns) for template in templates]
    return next((paths for paths in every if source.has(paths).any()), every[0])


def _filled(prefix: str, template: str, columns: Columns) -> pa.Array:
    """A template with the values of each row; null where a value is null or empty."""
    parts: list[pa.ChunkedArray | str] = [prefix]
    for text, name, _, _ in string.Formatter().parse(template):
        parts += [text] if text else []
        parts += [_non_empty(columns[name])] if name else []
    joined = pc.binary_join_element_wise(*parts, "")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _non_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text with null for empty."""
    text = _text(column)
    is_empty = pc.equal(text, "")
    return pc.if_else(is_empty, None, text) if pc.any(is_empty).as_py() else text


# From published text to typed labels


class _Typed(NamedTuple):
    """A column in its type, and the reason of each row that cannot be read, by its number."""

    values: pa.Array
    reasons: dict[int, str]


def _labelled(description: Description, raw: _Raw) -> tuple[pa.Table, list[str]]:
    """Typed columns of all rows that can be read, and the others by name with the first reason."""
    num_rows = len(raw.source)
    rule = description.split
    typed = {"official_split": _split(rule, raw)}
    published_of = {"official_split": rule.column if rule else ""}
    for name, label in description.all_labels.items():
        published = published_of[name] = label.column or name
        if published in raw.columns:
            typed[name] = _typed(name, label, raw.columns[published])
        elif name in raw.lacks:
            typed[name] = _Typed(pa.nulls(num_rows, TYPES[label.kind]), {})
        else:
            names = [name for name in raw.columns if not name.startswith(PLACE)]
            raise _LabelFileError(f"{raw.where}: no column {published!r}; it has {', '.join(names[:6])}")
    reasons: dict[int, str] = {}
    for name, column in typed.items():
        reasons = {row: why + _place(raw, row, published_of[name]) for row, why in column.reasons.items()} | reasons
    unnamed = _unnamed(raw.source, bad_rows=reasons.keys())
    reasons = {row: why + _place(raw, row) for row, why in unnamed.items()} | reasons
    table = pa.table({"source": raw.source} | {name: column.values for name, column in typed.items()})
    if reasons:
        is_read = np.ones(num_rows, bool)
        is_read[list(reasons)] = False
        table = table.filter(pa.array(is_read))
    names = raw.source.take(pa.array(sorted(reasons), pa.int64())).to_pylist()
    where = f"{raw.where}: " if raw.where else ""
    return table, [f"{where}{name}: {reasons[row]}" for row, name in zip(sorted(reasons), names, strict=True)]


def _place(raw: _Raw, row: int, column: str = "") -> str:
    """Where a value stands, as ' (line 7, column Bald)', with the file if it is not the first one; '' if unknown."""
    names = list(raw.columns)
    start = names.index(column) if column else 0
    # The columns of a file come before its places.
    place = next((name for name in names[start:] if name.startswith(PLACE)), None)
    if place is None:
        return ""
    parts = [f"{raw.columns[place][row].as_py()}".removeprefix(f"{raw.where}, "), f"column {column}" if column else ""]
    return f" ({', '.join(filter(None, parts))})"


def _unnamed(source: pa.Array, *, bad_rows: Collection[int]) -> dict[int, str]:
    """Reasons of rows without the name of an image, or with one that an earlier good row has."""
    if source.null_count == 0 and pc.count_distinct(source).as_py() == len(source):
        return {}
    reasons: dict[int, str] = {}
    seen: set[str] = set()
    for row, path in enumerate(source.to_pylist()):
        if path is None:
            reasons[row] = "no file name"
        elif path in seen:
            reasons[row] = "named twice"
        elif row not in bad_rows:
            seen.add(path)
    return reasons


def _split(rule: SplitRule | None, raw: _Raw) -> _Typed:
    if rule is None or rule.column not in raw.columns:
        return _Typed(pa.nulls(len(raw.source), pa.string()), {})
    values: dict[str, str] = dict(rule.values) or {"train": "train", "valid": "valid", "test": "test"}
    return _mapped(raw.columns[rule.column], lambda text: looked_up(text, values), name="split", kind=pa.string())


def _typed(name: str, label: Label, column: pa.ChunkedArray) -> _Typed:
    """One label column in its type."""
    if label.kind == "identity":
        return _identities(name, column)
    if label.kind == "category":  # an empty cell means no more than that nobody knows
        column = _non_empty(column)
    values = label.values or (ATTRIBUTE_VALUES if label.kind == "attribute" else {})
    converters: dict[str, Callable[[str], object]] = {
        "attribute": lambda text: None if (value := looked_up(text, values)) is None else int(value),
        "category": lambda text: looked_up(text, values) if values else text,
        "age": lambda text: _number(text, largest=MAX_AGE_YEARS),
        "number": _number,
    }
    return _mapped(column, converters[label.kind], name=name, kind=TYPES[label.kind])


def _number(text: str, largest: float = float("inf")) -> float | None:
    try:
        number = float(text.replace("_", "no digit"))
    except ValueError:
        return None
    return number if 0 <= number <= largest and number != float("inf") else None


def _identities(name: str, column: pa.ChunkedArray) -> _Typed:
    """Numbers as they are; names by their rank among all names."""
    texts = sorted({as_whole(text) for text in pc.unique(_text(column)).to_pylist() if text})
    numbers = {text: int(text) for text in texts if text.isascii() and text.isdigit() and int(text) < 2**31}
    ranks = {text: rank for rank, text in enumerate(texts)}
    known = numbers if len(numbers) == len(texts) else ranks
    return _mapped(column, lambda text: known.get(as_whole(text)), name=name, kind=pa.int32())


def _mapped(column: pa.ChunkedArray, convert: Callable[[str], object], *, name: str, kind: pa.DataType) -> _Typed:
    """Convert each distinct text once; a text that converts to None is the reason of its rows."""
    parts, reasons = [], {}
    start = 0
    for chunk in column.chunks:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        converted = [convert(text) for text in texts]
        if None in converted:
            unknown = pa.array(np.flatnonzero([value is None for value in converted]), pa.int32())
            bad = pc.is_in(encoded.indices, value_set=unknown)
            for row in np.flatnonzero(bad.to_numpy(zero_copy_only=False)):
                text = texts[encoded.indices[int(row)].as_py()]
                reasons[start + int(row)] = f"{name} is {text!r}"
        parts.append(pa.array(converted, kind).take(encoded.indices))
        start += len(chunk)
    return _Typed(pa.concat_arrays(parts) if parts else pa.array([], kind), reasons)
