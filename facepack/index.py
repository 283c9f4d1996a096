"""Indexing: one row per image that the label files, or the paths of the images, name."""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from facepack.description import Description, Label, PathIndex, SplitRule, TableFile, TableIndex
from facepack.errors import FieldError, JobError
from facepack.face_labels import published_faces
from facepack.label_formats import read_folds, read_loose, read_tabs
from facepack.mat_files import read_mat
from facepack.source import Source

IMAGE_SUFFIXES = tuple(
    f".{kind}"
    for kind in "jpg jpeg jfif png webp bmp gif tif tiff avif heic heif jp2 jxl".split(" ")  # noqa: SIM905
)
"""Files that are meant as images; those that cannot be decoded are rejected with a status."""
MAX_AGE_YEARS = 130.0
_KEYS = ("image_id", "image", "file", "filename", "file_name", "name")
"""What a header calls the names of the images, where it names them; CelebA's boxes have it, its attributes do not."""
_SET, _FOLDER, _PATH = "_set", "_folder", "_path"
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
    `unparsed` names each row that could not be read, with the reason; `left_out` counts images that are no part of the
    dataset, by reason.
    """

    table: pa.Table
    unparsed: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


Columns = dict[str, pa.ChunkedArray]


@dataclass(frozen=True)
class _Raw:
    """Rows as published: text columns, the path of the image, and the rows that could not even be cut into columns."""

    columns: Columns
    source: pa.Array
    where: str
    unparsed: list[str]
    left_out: dict[str, int]
    lacks: tuple[str, ...]


class _NotThereError(Exception):
    """The source does not have this form of the dataset; the message names what is missing."""


def index_dataset(description: Description, source: Source, *, images: str = "") -> Index:
    """Read the sample table of a dataset.

    `images` chooses one of the description's image sets (its first by default). Raises `JobError` where label files or
    columns are missing, `FieldError` for an unknown image set.
    """
    if images and images not in description.image_sets:
        names = ", ".join(description.image_sets) or "none"
        raise FieldError("images", images, f"{description.name} has no such image set; it has: {names}")
    raw = _read_raw(description, source, images)
    table, untyped = _labelled(description, raw)
    unparsed = (*raw.unparsed, *untyped)
    if len(table) == 0:
        first = f"; the first of {len(unparsed):,} bad rows: {unparsed[0]}" if unparsed else ""
        raise JobError(f"{source.store.location}: {raw.where or 'it'} names no image that can be used{first}")
    return Index(table, unparsed, raw.left_out)


def _read_raw(description: Description, source: Source, images: str) -> _Raw:
    """Rows by the first form of the dataset that is there."""
    missing = []
    for form in description.index:
        try:
            if isinstance(form, PathIndex):
                return _with_tables(form, _read_paths(form, source.paths, images=images), source)
            return _read_tables(form, source=source, images=images)
        except _NotThereError as error:
            missing.append(f"{error}")
    raise JobError(f"{source.store.location}: not {description.title} as published: no {', no '.join(missing)}")


# Rows named by paths


def _read_paths(form: PathIndex, paths: Iterable[str], *, images: str) -> _Raw:
    """Match each image path against the description's patterns; what none of them matches is unparsed."""
    patterns = [(re.compile(pattern.pattern), pattern.set | {_SET: pattern.images}) for pattern in form.patterns]
    names = sorted({name for regex, constants in patterns for name in (*regex.groupindex, *constants)})
    left_out = [(re.compile(rule.pattern), rule.why) for rule in form.left_out]
    rows: list[dict[str, str | None]] = []
    sources, unparsed = [], []
    counts: dict[str, int] = {}
    for path in paths:
        if not path.lower().endswith(IMAGE_SUFFIXES):
            continue
        if not _is_text(path):
            unparsed.append(f"{path.encode(errors='replace').decode()}: its name is not UTF-8")
        elif why := next((why for regex, why in left_out if regex.fullmatch(path)), None):
            counts[why] = counts.get(why, 0) + 1
        elif row := next((m.groupdict() | set_ for regex, set_ in patterns if (m := regex.fullmatch(path))), None):
            rows.append(row)
            sources.append(path)
        else:
            unparsed.append(f"{path}: expected {form.about}")
    if not rows:
        raise _NotThereError(form.about)
    columns = {name: pa.chunked_array([pa.array([row.get(name) for row in rows], pa.string())]) for name in names}
    raw = _Raw(columns, pa.array(sources, pa.string()), "", unparsed, counts, form.lacks)
    return _of_image_set(form, raw, images)


def _of_image_set(form: PathIndex, raw: _Raw, images: str) -> _Raw:
    """The rows of one image set, the first that is there by default; those of others are counted."""
    sets = raw.columns.pop(_SET)
    if not form.image_sets:
        return raw
    counts = {row["values"]: row["counts"] for row in sets.value_counts().to_pylist()}
    chosen = images or next(name for name in form.image_sets if name in counts)
    if chosen not in counts:
        raise _NotThereError(f"{form.about}, in the image set {chosen}")
    others = {f"of the image set {name}": number for name, number in sorted(counts.items()) if name != chosen}
    return _filtered(replace(raw, left_out=raw.left_out | others), pc.equal(sets, chosen))


def _filtered(raw: _Raw, mask: pa.ChunkedArray) -> _Raw:
    columns = {name: column.filter(mask) for name, column in raw.columns.items()}
    return replace(raw, columns=columns, source=raw.source.filter(mask.combine_chunks()))


def _with_tables(form: PathIndex, raw: _Raw, source: Source) -> _Raw:
    """Rows of paths with the columns of the label files that are there, and with rows that only these name."""
    unparsed, lacks = list(raw.unparsed), list(raw.lacks)
    for table in form.tables:
        files = _scattered_files(table, source.paths)
        if not files:
            lacks += table.labels
            continue
        others, unparsed_others = _read_files(table, files, source=source)
        unparsed += unparsed_others + _repeated(table, others, where=files[0].path)
        on = table.on or table.key
        if table.missing:
            raw = _with_missing(raw, others, table=table)
        raw = replace(raw, columns=raw.columns | _joined(raw.columns, others, table=table, on=on))
    return replace(raw, unparsed=unparsed, lacks=tuple(lacks))


def _scattered_files(table: TableFile, paths: list[str]) -> "list[_LabelFile]":
    """The files of a table in the shallowest folder that has one of them."""
    regex = re.compile(rf"(?P<{_FOLDER}>(?:.*/)?){_path_pattern(table.path)}")
    hits = [match.groupdict() | {_PATH: path} for path in paths if (match := regex.fullmatch(path))]
    if not hits:
        return []
    folder = min((hit[_FOLDER] for hit in hits), key=lambda name: (name.count("/"), name))
    return [_LabelFile(hit.pop(_PATH), hit) for hit in hits if hit.pop(_FOLDER) == folder]


def _repeated(table: TableFile, others: Columns, *, where: str) -> list[str]:
    """A line for each key of a table that several rows have; the first of them wins."""
    keys = _composite([others[table.key]])
    if pc.count_distinct(keys).as_py() == len(keys):
        return []
    counts = Counter(keys.to_pylist())
    return [f"{where}: {key}: named {number:,} times" for key, number in counts.items() if number > 1]


def _with_missing(raw: _Raw, others: Columns, *, table: TableFile) -> _Raw:
    """The rows, and those of a table whose image no path names."""
    keys = _composite([others[table.key]])
    is_first = np.zeros(len(keys), bool)
    is_first[np.unique(keys.to_numpy(), return_index=True)[1]] = True
    on = table.on or table.key
    is_new = pc.and_(pc.invert(pc.is_in(keys, value_set=_composite([raw.columns[on]]))), pa.array(is_first))
    new = {name: _text(column).filter(is_new) for name, column in others.items()}
    new = new | {on: new[table.key]}
    number = len(new[on])
    nulls = pa.chunked_array([pa.nulls(number, pa.string())])
    columns = {
        name: pa.chunked_array([*_text(column).chunks, *new.get(name, nulls).chunks], pa.string())
        for name, column in raw.columns.items()
    }
    paths = pa.concat_arrays([raw.source, _filled("", table.missing, new).cast(pa.string())])
    return replace(raw, columns=columns, source=paths)


# Rows named by label files


def _path_pattern(template: str) -> str:
    """The regular expression of a path in which `{split}` and the like stand for a part without slash or dot.

    `{fold:[0-4]}` stands for a part of that form, a name that comes again for the same part.
    """
    parts = string.Formatter().parse(template)
    pattern = ""
    for text, name, kind, _ in parts:
        pattern += re.escape(text)
        if name:
            pattern += f"(?P={name})" if f"(?P<{name}>" in pattern else f"(?P<{name}>{kind or '[^/.]+'})"
    return pattern


class _LabelFile(NamedTuple):
    """A label file: its path, and the columns that stand in its name."""

    path: str
    constants: dict[str, str]


@dataclass(frozen=True)
class _TablePaths:
    """Where the label files are: the folder of all of them, with its slash, and the files of each table."""

    prefix: str
    files: list[list[_LabelFile]]


def _tables(form: TableIndex, images: str) -> list[TableFile]:
    """The tables that are read for an image set."""
    chosen = images or next(iter(form.images))
    return [table for table in form.tables if not table.images or chosen in table.images]


def _find_tables(form: TableIndex, paths: list[str], *, images: str) -> _TablePaths:
    """Find the label files, below the shallowest folder that has the first of them; `_NotThereError` without them."""
    first = re.compile(rf"(?:(.*)/)?{_path_pattern(form.tables[0].path)}")
    hits = [match for path in paths if (match := first.fullmatch(path))]
    if not hits:
        raise _NotThereError(form.tables[0].path)
    root = min((match[1] or "" for match in hits), key=lambda folder: (folder.count("/") + bool(folder), folder))
    prefix = f"{root}/" if root else ""
    files_of_tables = []
    for table in _tables(form, images):
        regex = re.compile(re.escape(prefix) + _path_pattern(table.path))
        files = [_LabelFile(path, match.groupdict()) for path in paths if (match := regex.fullmatch(path))]
        if not files and not table.optional:
            raise _NotThereError(f"{prefix}{table.path}")
        files_of_tables.append(files)
    return _TablePaths(prefix, files_of_tables)


def _read_tables(form: TableIndex, *, source: Source, images: str) -> _Raw:
    """Read and join the label files, then find where the images of the set called `images` lie."""
    tables = _find_tables(form, source.paths, images=images)
    columns, unparsed = _read_files(form.tables[0], tables.files[0], source=source)
    lacks = list(form.lacks)
    for table, files in zip(_tables(form, images)[1:], tables.files[1:], strict=True):
        if not files:
            lacks += table.labels
        else:
            others, unparsed_others = _read_files(table, files, source=source)
            unparsed += unparsed_others
            columns |= _joined(columns, others, table=table, on=table.on or form.tables[0].key)
    where = tables.files[0][0].path
    if not len(columns[form.tables[0].key]) and not unparsed:
        raise JobError(f"{where}: no rows")
    sets = form.images
    if images and images not in sets:
        raise FieldError("images", images, f"not with {form.about}; there are: {', '.join(sets)}")
    templates = sets[images or next(iter(sets))]
    paths = _image_paths(tables.prefix, templates, columns=columns, source=source, where=where)
    return _without_left_out(form, _Raw(columns, paths, where, unparsed, {}, tuple(lacks)))


def _without_left_out(form: TableIndex, raw: _Raw) -> _Raw:
    """The rows that no rule of the form leaves out, and how many each leaves out."""
    for rule in form.left_out:
        texts = _text(raw.columns[rule.column]).fill_null("")
        regex = re.compile(rule.pattern)
        matching = [text for text in texts.unique().to_pylist() if regex.fullmatch(text)]
        is_out = pc.is_in(texts, value_set=pa.array(matching, pa.string()))
        if number := pc.sum(is_out).as_py():
            raw = _filtered(replace(raw, left_out=raw.left_out | {rule.why: number}), pc.invert(is_out))
    return raw


# Readers give the rows of a file as text, and a line for each row that cannot be cut into columns.


def _read_files(table: TableFile, files: list[_LabelFile], *, source: Source) -> tuple[Columns, list[str]]:
    """The columns of all files of one table, with those in the names of the files."""
    readers: dict[str, Callable[[TableFile, str, bytes], tuple[pa.Table, list[str]]]] = {
        "csv": _read_csv,
        "spaces": _read_spaces,
        "json": _read_json,
        "loose": read_loose,
        "tabs": read_tabs,
        "folds": read_folds,
        "mat": read_mat,
    }
    parts, unparsed = [], []
    for path, constants in files:
        part, unparsed_part = readers[table.format](table, path, source.read(path))
        unparsed += unparsed_part
        if table.key not in part.column_names:
            raise JobError(f"{path}: no column {table.key!r}; it has {', '.join(part.column_names[:6])}")
        for name, value in constants.items():
            part = part.append_column(name, pa.array([value] * len(part), pa.string()))
        parts.append(part)
    combined = pa.concat_tables(parts, promote_options="permissive")
    columns = {table.rename.get(name, name): combined[name] for name in combined.column_names}
    if table.extract:
        columns, unmatched = _extracted(table, columns, where=files[0].path)
        unparsed += unmatched
    return columns, unparsed


def _extracted(table: TableFile, columns: Columns, *, where: str) -> tuple[Columns, list[str]]:
    """Add columns taken out of the key by a regular expression; rows whose key does not match are left out."""
    regex = re.compile(table.extract)
    keys = columns[table.key].to_pylist()
    matches = [regex.fullmatch(key or "") for key in keys]
    unmatched = [f"{where}: {key}: not as expected" for key, match in zip(keys, matches, strict=True) if not match]
    is_matched = pa.array([match is not None for match in matches])
    groups = {name: [match[name] for match in matches if match] for name in regex.groupindex}
    extracted = {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in groups.items()}
    return {name: column.filter(is_matched) for name, column in columns.items()} | extracted, unmatched


def _text_table(
    path: str, content: bytes | memoryview, *, names: list[str], key: str, delimiter: str
) -> tuple[pa.Table, list[str]]:
    """Separated values as text, dictionary-encoded but for the key; rows of another width are left out."""
    types = dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string())) | {key: pa.string()}
    unparsed: list[str] = []

    def note(row: pa_csv.InvalidRow) -> str:
        unparsed.append(f"{path}: {row.text[:60]!r}: {row.actual_columns} fields, expected {row.expected_columns}")
        return "skip"

    def parse(*, use_threads: bool) -> pa.Table:
        return pa_csv.read_csv(
            pa.BufferReader(content),
            read_options=pa_csv.ReadOptions(column_names=names, block_size=1 << 22, use_threads=use_threads),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if delimiter == "," else False, invalid_row_handler=note
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=False, quoted_strings_can_be_null=False
            ),
        )

    if repeated := [name for name in names if names.count(name) > 1]:
        raise JobError(f"{path}: two columns are called {repeated[0]!r}")
    if re.search(rb"\S", content) is None:
        return pa.schema([(name, types[name]) for name in names]).empty_table(), []
    try:
        table = parse(use_threads=True)
        if unparsed:  # threads meet bad rows in any order: the list is to be the same every time
            unparsed.clear()
            table = parse(use_threads=False)
    except pa.ArrowInvalid as error:
        raise JobError(f"{path}: {error}") from error
    return table, unparsed


def _read_csv(table: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """Comma-separated values below a header line."""
    header, _newline, rows = content.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").strip().split(",")]
    return _text_table(path, rows, names=names, key=table.key, delimiter=",")


def _read_spaces(table: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """Columns separated by one or more spaces, with CelebA's count line and header, which need not name the key."""
    content = content.removeprefix(b"\xef\xbb\xbf").strip(b" \t")
    for old, new in ((b"\t", b" "), (b"  ", b" "), (b" \r\n", b"\n"), (b" \n", b"\n"), (b"\n ", b"\n")):
        while old in content:  # looking is quick, copying 26 MB is not
            content = content.replace(old, new)
    first, after = _line(content, 0)
    stated = int(first) if table.count_line and first.strip().isdigit() else None
    start = 0 if stated is None else after
    names = list(table.columns)
    if not names:
        header, start = _line(content, start)
        names = header.decode("utf-8", "replace").split()
        names_key = bool(names) and (names[0] == table.key or names[0].lower() in _KEYS)
        names = [table.key, *names[names_key:]]
    rows = memoryview(content)[start:]
    parsed, unparsed = _text_table(path, rows, names=names, key=table.key, delimiter=" ")
    num_rows = len(parsed) + len(unparsed)
    if stated is not None and stated != num_rows:
        raise JobError(f"{path}: line 1 states {stated:,} rows, there are {num_rows:,}; fetch the file again")
    return parsed, unparsed


def _line(content: bytes, start: int) -> tuple[bytes, int]:
    """The line that begins there, and where the next one does; what comes after is not copied."""
    end = content.find(b"\n", start)
    return (content[start:], len(content)) if end < 0 else (content[start:end], end + 1)


def _read_json(_: TableFile, path: str, content: bytes) -> tuple[pa.Table, list[str]]:
    """A list of objects; every value is taken as text."""
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise JobError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise JobError(f"{path}: expected a list of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
    return pa.table({name: pa.array(values, pa.string()) for name, values in texts.items()}), []


def _joined(main: Columns, other: Columns, *, table: TableFile, on: str) -> Columns:
    """The columns of `other` in the order of the rows of `main`; null where it has no such row."""
    # Columns that stand in the file names of both (the split) are part of the key.
    shared = [name for name in other if name in main and re.search(rf"{{{name}[:}}]", table.path)]
    left = _composite([main[name] for name in (on, *shared)])
    right = _composite([other[name] for name in (table.key, *shared)])
    rows = pc.index_in(left, value_set=right)
    return {name: column.take(rows) for name, column in other.items() if name != table.key and name not in main}


def _composite(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    texts = [pc.utf8_normalize(_text(column), form="NFC") for column in columns]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\0")


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _image_paths(prefix: str, templates: tuple[str, ...], *, columns: Columns, source: Source, where: str) -> pa.Array:
    """The path of each row's image: by the first template below which the source has files, else by the first."""
    fields = {name for template in templates for _, name, _, _ in string.Formatter().parse(template) if name}
    if unknown := fields - columns.keys():
        raise JobError(f"{where}: no column {', '.join(sorted(unknown))}; it has {', '.join(list(columns)[:6])}")
    for template in templates[:-1]:
        paths = _filled(prefix, template, columns)
        if source.has(paths).any():
            return paths
    last = _filled(prefix, templates[-1], columns)
    return last if len(templates) == 1 or source.has(last).any() else _filled(prefix, templates[0], columns)


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


def _is_text(path: str) -> bool:
    """False for names that are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


# From published text to typed labels


class _Typed(NamedTuple):
    """A column in its type, and the reason of each row that cannot be read, by its number."""

    values: pa.Array
    reasons: dict[int, str]


def _labelled(description: Description, raw: _Raw) -> tuple[pa.Table, list[str]]:
    """Typed columns of all rows that can be read, and the others by name with the first reason."""
    num_rows = len(raw.source)
    typed = {"official_split": _split(description.split, raw)}
    for name, label in description.all_labels.items():
        published = label.column or name
        if published in raw.columns:
            typed[name] = _typed(name, label, raw.columns[published])
        elif label.optional:
            continue
        elif name in raw.lacks:
            typed[name] = _Typed(pa.nulls(num_rows, TYPES[label.kind]), {})
        else:
            raise JobError(f"{raw.where}: no column {published!r}; it has {', '.join(list(raw.columns)[:6])}")
    reasons: dict[int, str] = {}
    for column in typed.values():
        reasons = column.reasons | reasons
    reasons = _unnamed(raw.source, bad_rows=reasons.keys()) | reasons
    columns = {name: column.values for name, column in typed.items()} | published_faces(description.faces, raw.columns)
    table = pa.table({"source": raw.source} | columns)
    if reasons:
        is_read = np.ones(num_rows, bool)
        is_read[list(reasons)] = False
        table = table.filter(pa.array(is_read))
    names = raw.source.take(pa.array(sorted(reasons), pa.int64())).to_pylist()
    where = f"{raw.where}: " if raw.where else ""
    return table, [f"{where}{name}: {reasons[row]}" for row, name in zip(sorted(reasons), names, strict=True)]


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
    return _mapped(raw.columns[rule.column], lambda text: values.get(text), name="split", kind=pa.string())


def _typed(name: str, label: Label, column: pa.ChunkedArray) -> _Typed:
    """One label column in its type."""
    if label.kind == "identity":
        return _identities(name, column)
    if label.kind == "category":  # an empty cell means no more than that nobody knows
        column = _non_empty(column)
    if label.unknown:
        texts = _text(column)
        column = pc.if_else(pc.is_in(texts, value_set=pa.array(label.unknown)), None, texts)
    values = label.values
    converters: dict[str, Callable[[str], object]] = {
        "attribute": lambda text: int(values[text]) if text in values else None,
        "category": lambda text: values.get(text) if values else text,
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
    texts = sorted(text for text in pc.unique(_text(column)).to_pylist() if text)
    numbers = {text: int(text) for text in texts if text.isascii() and text.isdigit() and int(text) < 2**31}
    ranks = {text: rank for rank, text in enumerate(texts)}
    return _mapped(column, (numbers if len(numbers) == len(texts) else ranks).get, name=name, kind=pa.int32())


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
