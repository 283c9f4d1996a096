"""Indexing: one row per image that the label files, or the paths of the images, name."""

import json
import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from facepack.description import Description, Label, PathIndex, SplitRule, TableFile, TableIndex
from facepack.errors import JobError, UsageError
from facepack.source import Source

IMAGE_SUFFIXES = tuple(
    f".{kind}"
    for kind in "jpg jpeg jfif png webp bmp gif tif tiff avif heic heif jp2 jxl".split(" ")  # noqa: SIM905
)
"""Files that are meant as images; those that cannot be decoded get a status that says so."""
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
    `unparsed` names each row that could not be read, with the reason; `left_out` counts images that are no part of the
    dataset, by reason.
    """

    table: pa.Table
    unparsed: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Raw:
    """Rows as published: text columns, the path of the image, and the rows that could not even be cut into columns."""

    columns: dict[str, pa.ChunkedArray]
    source: pa.Array
    where: str
    unparsed: list[str]
    left_out: dict[str, int]
    lacks: tuple[str, ...]


def index_dataset(description: Description, source: Source, *, images: str = "") -> Index:
    """Read the sample table of a dataset.

    `images` chooses one of the description's image sets (its first by default). Raises `JobError` where label files or
    columns are missing, `UsageError` for an unknown image set.
    """
    if images and images not in description.image_sets:
        known = ", ".join(description.image_sets) or "none"
        raise UsageError(f"--images {images}: {description.name} has no such image set; it has: {known}")
    raw = _read_raw(description, source, images)
    table, bad = _labelled(description, raw)
    unparsed = (*raw.unparsed, *bad)
    if len(table) == 0:
        first = f"; the first of {len(unparsed):,} bad rows: {unparsed[0]}" if unparsed else ""
        raise JobError(f"{source.store.location}: {raw.where or 'it'} names no image that can be used{first}")
    return Index(table, unparsed, raw.left_out)


def _read_raw(description: Description, source: Source, images: str) -> _Raw:
    """Rows by the first form of the dataset that is there."""
    missing = []
    paths = source.paths
    for form in description.index:
        if isinstance(form, PathIndex):
            raw = _read_paths(form, paths)
            if len(raw.source):
                return raw
            missing.append(form.about)
        else:
            found = _find_tables(form, paths)
            if isinstance(found, str):
                missing.append(found)
            else:
                return _read_tables(form, found, source=source, images=images)
    raise JobError(f"{source.store.location}: not {description.title} as published: no {', no '.join(missing)}")


# Rows named by paths


def _read_paths(form: PathIndex, paths: Iterable[str]) -> _Raw:
    """Match each image path against the description's patterns; what none of them matches is unparsed."""
    patterns = [(re.compile(pattern.pattern), pattern.set) for pattern in form.patterns]
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
    columns = {name: pa.chunked_array([pa.array([row.get(name) for row in rows], pa.string())]) for name in names}
    return _Raw(columns, pa.array(sources, pa.string()), "", unparsed, counts, form.lacks)


# Rows named by label files


def _path_pattern(template: str) -> str:
    """The regular expression of a path in which `{split}` and the like stand for a part without slash or dot."""
    parts = string.Formatter().parse(template)
    return "".join(re.escape(text) + (rf"(?P<{name}>[^/.]+)" if name else "") for text, name, _, _ in parts)


def _find_tables(form: TableIndex, paths: list[str]) -> str | tuple[str, list[list[tuple[str, dict[str, str]]]]]:
    """The folder of the label files and per table its files with the columns in their names, or what is missing.

    The files may lie deeper in the source; all must lie below one folder, the shallowest that has the first of them.
    """
    first = re.compile(rf"(?:(.*)/)?{_path_pattern(form.tables[0].path)}")
    hits = [match for path in paths if (match := first.fullmatch(path))]
    if not hits:
        return form.tables[0].path
    root = min((match[1] or "" for match in hits), key=lambda folder: (folder.count("/") + bool(folder), folder))
    prefix = f"{root}/" if root else ""
    found = []
    for table in form.tables:
        regex = re.compile(re.escape(prefix) + _path_pattern(table.path))
        files = [(path, match.groupdict()) for path in paths if (match := regex.fullmatch(path))]
        if not files and not table.optional:
            return f"{prefix}{table.path}"
        found.append(files)
    return prefix, found


def _read_tables(
    form: TableIndex,
    found: tuple[str, list[list[tuple[str, dict[str, str]]]]],
    *,
    source: Source,
    images: str,
) -> _Raw:
    """Read and join the label files, then find where the images of the chosen set lie."""
    prefix, files = found
    unparsed: list[str] = []
    main = _read_files(form.tables[0], files[0], source=source, unparsed=unparsed)
    lacks = list(form.lacks)
    for table, more in zip(form.tables[1:], files[1:], strict=True):
        if not more:
            lacks += table.labels
        else:
            joined = _read_files(table, more, source=source, unparsed=unparsed)
            main |= _joined(main, joined, table=table, on=table.on or form.tables[0].key)
    where = files[0][0][0]
    if not len(main[form.tables[0].key]) and not unparsed:
        raise JobError(f"{where}: no rows")
    sets = form.images
    if images and images not in sets:
        raise UsageError(f"--images {images}: not with {form.about}; there are: {', '.join(sets)}")
    chosen = sets[images or next(iter(sets))]
    sources = _image_paths(prefix, chosen, columns=main, source=source, where=where)
    return _Raw(main, sources, where, unparsed, {}, tuple(lacks))


def _read_files(
    table: TableFile, files: list[tuple[str, dict[str, str]]], *, source: Source, unparsed: list[str]
) -> dict[str, pa.ChunkedArray]:
    """The columns of all files of one table, the parts of their names added as columns."""
    readers: dict[str, Callable[[TableFile, str, bytes, list[str]], pa.Table]] = {
        "csv": _read_csv,
        "spaces": _read_spaces,
        "json": _read_json,
    }
    parts = []
    for path, constants in files:
        part = readers[table.format](table, path, source.read(path), unparsed)
        if table.key not in part.column_names:
            raise JobError(f"{path}: no column {table.key!r}; it has {', '.join(part.column_names[:6])}")
        for name, value in constants.items():
            part = part.append_column(name, pa.array([value] * len(part), pa.string()))
        parts.append(part)
    combined = pa.concat_tables(parts, promote_options="permissive")
    columns = {table.rename.get(name, name): combined[name] for name in combined.column_names}
    return _extracted(table, columns, where=files[0][0], unparsed=unparsed) if table.extract else columns


def _extracted(
    table: TableFile, columns: dict[str, pa.ChunkedArray], *, where: str, unparsed: list[str]
) -> dict[str, pa.ChunkedArray]:
    """Add columns taken out of the key by a regular expression; rows whose key does not match are listed, left out."""
    regex = re.compile(table.extract)
    keys = columns[table.key].to_pylist()
    matches = [regex.fullmatch(key or "") for key in keys]
    unparsed += [f"{where}: {key}: not as expected" for key, match in zip(keys, matches, strict=True) if not match]
    matched = pa.array([match is not None for match in matches])
    kept = {name: column.filter(matched) for name, column in columns.items()}
    groups = {name: [match[name] for match in matches if match] for name in regex.groupindex}
    return kept | {name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in groups.items()}


def _text_table(
    path: str, content: bytes | memoryview, *, names: list[str], key: str, delimiter: str, unparsed: list[str]
) -> pa.Table:
    """Separated values as text, dictionary-encoded but for the key; rows of another width are listed and left out."""
    types = dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string())) | {key: pa.string()}
    found: list[str] = []

    def note(row: pa_csv.InvalidRow) -> str:
        found.append(f"{path}: {row.text[:60]!r}: {row.actual_columns} fields, expected {row.expected_columns}")
        return "skip"

    def parse(*, use_threads: bool) -> pa.Table:
        return pa_csv.read_csv(
            pa.BufferReader(content),
            read_options=pa_csv.ReadOptions(column_names=names, block_size=1 << 22, use_threads=use_threads),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if delimiter == "," else False,
                invalid_row_handler=note,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )

    if repeated := [name for name in names if names.count(name) > 1]:
        raise JobError(f"{path}: two columns are called {repeated[0]!r}")
    if re.search(rb"\S", content) is None:
        return pa.schema([(name, types[name]) for name in names]).empty_table()
    try:
        table = parse(use_threads=True)
        if found:  # threads find bad rows in any order: the list is to be the same every time
            found.clear()
            table = parse(use_threads=False)
    except pa.ArrowInvalid as error:
        raise JobError(f"{path}: {error}") from error
    unparsed += found
    return table


def _read_csv(table: TableFile, path: str, content: bytes, unparsed: list[str]) -> pa.Table:
    """Comma-separated values below a header line."""
    header, _newline, rows = content.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").strip().split(",")]
    return _text_table(path, rows, names=names, key=table.key, delimiter=",", unparsed=unparsed)


def _read_spaces(table: TableFile, path: str, content: bytes, unparsed: list[str]) -> pa.Table:
    """Columns separated by one or more spaces, with CelebA's count line and header, which does not name the key."""
    content = content.removeprefix(b"\xef\xbb\xbf").strip(b" \t")
    for found, wanted in ((b"\t", b" "), (b"  ", b" "), (b" \r\n", b"\n"), (b" \n", b"\n"), (b"\n ", b"\n")):
        while found in content:  # looking is quick, copying 26 MB is not
            content = content.replace(found, wanted)
    first, after = _line(content, 0)
    stated = int(first) if table.count_line and first.strip().isdigit() else None
    start = 0 if stated is None else after
    names = list(table.columns)
    if not names:
        header, start = _line(content, start)
        names = [table.key, *header.decode("utf-8", "replace").split()]
    num_bad = len(unparsed)
    rows = memoryview(content)[start:]
    parsed = _text_table(path, rows, names=names, key=table.key, delimiter=" ", unparsed=unparsed)
    num_rows = len(parsed) + len(unparsed) - num_bad
    if stated is not None and stated != num_rows:
        raise JobError(f"{path}: line 1 says {stated:,} rows, there are {num_rows:,}; fetch the file again")
    return parsed


def _line(content: bytes, start: int) -> tuple[bytes, int]:
    """The line that begins there, and where the next one does; what comes after is not copied."""
    end = content.find(b"\n", start)
    return (content[start:], len(content)) if end < 0 else (content[start:end], end + 1)


def _read_json(_: TableFile, path: str, content: bytes, _unparsed: list[str]) -> pa.Table:
    """A list of objects; every value is taken as text."""
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise JobError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise JobError(f"{path}: expected a list of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
    return pa.table({name: pa.array(values, pa.string()) for name, values in texts.items()})


def _joined(
    main: dict[str, pa.ChunkedArray], other: dict[str, pa.ChunkedArray], *, table: TableFile, on: str
) -> dict[str, pa.ChunkedArray]:
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


def _image_paths(
    prefix: str, templates: tuple[str, ...], *, columns: dict[str, pa.ChunkedArray], source: Source, where: str
) -> pa.Array:
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


def _filled(prefix: str, template: str, columns: dict[str, pa.ChunkedArray]) -> pa.Array:
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


def _labelled(description: Description, raw: _Raw) -> tuple[pa.Table, list[str]]:
    """Typed columns of all rows that can be read, and the others by name with the first reason."""
    num_rows = len(raw.source)
    reasons: dict[int, str] = {}
    columns: dict[str, pa.Array] = {"source": raw.source}
    columns["official_split"] = _split(description.split, raw, reasons=reasons)
    for name, label in description.all_labels.items():
        published = label.column or name
        if published in raw.columns:
            columns[name] = _typed(name, label, raw.columns[published], reasons=reasons)
        elif name in raw.lacks:
            columns[name] = pa.nulls(num_rows, TYPES[label.kind])
        else:
            raise JobError(f"{raw.where}: no column {published!r}; it has {', '.join(list(raw.columns)[:6])}")
    _note_names(raw.source, reasons)
    table = pa.table(columns)
    if reasons:
        keep = np.ones(num_rows, bool)
        keep[list(reasons)] = False
        table = table.filter(pa.array(keep))
    names = raw.source.take(pa.array(sorted(reasons), pa.int64())).to_pylist()
    where = f"{raw.where}: " if raw.where else ""
    bad = [f"{where}{name}: {reasons[row]}" for row, name in zip(sorted(reasons), names, strict=True)]
    return table, bad


def _note_names(source: pa.Array, reasons: dict[int, str]) -> None:
    """A row needs the name of an image, and an image named twice keeps its first good row."""
    if source.null_count == 0 and pc.count_distinct(source).as_py() == len(source):
        return
    seen: set[str] = set()
    for row, path in enumerate(source.to_pylist()):
        if path is None:
            reasons.setdefault(row, "no file name")
        elif path in seen:
            reasons.setdefault(row, "named twice")
        elif row not in reasons:
            seen.add(path)


def _split(rule: SplitRule | None, raw: _Raw, *, reasons: dict[int, str]) -> pa.Array:
    if rule is None or rule.column not in raw.columns:
        return pa.nulls(len(raw.source), pa.string())
    values: dict[str, str] = dict(rule.values) or {"train": "train", "valid": "valid", "test": "test"}
    return _mapped(raw.columns[rule.column], lambda text: values.get(text), pa.string(), "split", reasons)


def _typed(name: str, label: Label, column: pa.ChunkedArray, *, reasons: dict[int, str]) -> pa.Array:
    """One label column in its type; rows whose text does not fit are noted."""
    if label.kind == "identity":
        return _identities(name, column, reasons)
    if label.kind == "category":  # an empty cell says no more than that nobody knows
        column = _non_empty(column)
    values = label.values
    converters: dict[str, Callable[[str], object]] = {
        "attribute": lambda text: int(values[text]) if text in values else None,
        "category": lambda text: values.get(text) if values else text,
        "age": lambda text: _number(text, largest=MAX_AGE_YEARS),
        "number": _number,
    }
    return _mapped(column, converters[label.kind], TYPES[label.kind], name, reasons)


def _number(text: str, largest: float = float("inf")) -> float | None:
    try:
        number = float(text.replace("_", "no digit"))
    except ValueError:
        return None
    return number if 0 <= number <= largest and number != float("inf") else None


def _identities(name: str, column: pa.ChunkedArray, reasons: dict[int, str]) -> pa.Array:
    """Numbers as they are; names by their rank among all names."""
    texts = sorted(text for text in pc.unique(_text(column)).to_pylist() if text)
    numbers = {text: int(text) for text in texts if text.isascii() and text.isdigit() and int(text) < 2**31}
    ranks = {text: rank for rank, text in enumerate(texts)}
    return _mapped(column, (numbers if len(numbers) == len(texts) else ranks).get, pa.int32(), name, reasons)


def _mapped(
    column: pa.ChunkedArray,
    convert: Callable[[str], object],
    kind: pa.DataType,
    name: str,
    reasons: dict[int, str],
) -> pa.Array:
    """Convert each distinct text once; a text that converts to None is noted as the reason of its rows."""
    parts = []
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
                reasons.setdefault(start + int(row), f"{name} is {text!r}")
        parts.append(pa.array(converted, kind).take(encoded.indices))
        start += len(chunk)
    return pa.concat_arrays(parts) if parts else pa.array([], kind)
