"""Table rows: one row per image that label files name, joined from all of them."""

import re
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.archive import SUFFIXES as ARCHIVE_SUFFIXES
from facepack.description import TableFile, TableIndex
from facepack.errors import FieldError, JobError
from facepack.label_file import PLACE, place_texts, read_rows
from facepack.label_values import plain
from facepack.listing import merged
from facepack.matching import Matched, as_path, beside, composed, matched, root_of
from facepack.names import is_ascending
from facepack.published_rows import Columns, LabelFileError, NotThereError, PublishedRows, filled, filtered, text_of
from facepack.signature import IMAGE_SUFFIXES, SIDECAR_SUFFIXES
from facepack.source import Source

IMAGE = "image"
NO_IMAGES = "files that are no images"
ARCHIVES = "archives, which are not opened: unpack them"
UNNAMED = "images that no row names"
"""Why files are no rows."""
_NUM_LOOKED_FOR = 1000
"""How many images are looked for where none is where it should be."""
_FOLDER = "_folder"


def path_pattern(template: str) -> str:
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


class LabelFile(NamedTuple):
    """A label file: its path, and the columns that stand in its name."""

    path: str
    constants: dict[str, str]


@dataclass(frozen=True)
class _TablePaths:
    """Where the label files are: the folder of all of them, with its slash, and the files of each table."""

    prefix: str
    files: list[list[LabelFile]]


def _find_tables(tables: list[TableFile], paths: list[str]) -> _TablePaths:
    """Find the first label file in the shallowest folder that has it, and the others there, else in any other folder.

    Raises `NotThereError` without them.
    """
    root: str | None = None
    files_of_tables = []
    for table in tables:
        pattern = rf"(?:(?P<{_FOLDER}>.*)/)?{path_pattern(table.path)}"
        by_folder: dict[str, list[LabelFile]] = {}
        for flags in (0, re.IGNORECASE):
            if not by_folder:
                regex = re.compile(pattern, flags)
                for path in paths:
                    if match := regex.fullmatch(path):
                        names = match.groupdict()
                        by_folder.setdefault(names.pop(_FOLDER) or "", []).append(LabelFile(path, names))
        if not by_folder and not table.optional:
            raise NotThereError(table.path)
        nearest = min(
            by_folder, key=lambda folder: (folder != root, folder.count("/") + bool(folder), folder), default=""
        )
        root = nearest if root is None else root
        files_of_tables.append(by_folder.get(nearest, []))
    return _TablePaths(f"{root}/" if root else "", files_of_tables)


def read_table_rows(form: TableIndex, source: Source, *, images: str) -> PublishedRows:
    """Read and join the label files, then find where the images of the set called `images` lie."""
    sets = form.images
    chosen = images or next(iter(sets))
    tables = [table for table in form.tables if not table.images or chosen in table.images]
    there = _find_tables(tables, source.others)
    if chosen not in sets:
        raise FieldError("images", images, f"not with {form.about}; there are: {', '.join(sets)}")
    raw = _joined_rows(form, dict(zip([table.path for table in tables], there.files, strict=True)), source=source)
    columns = raw.columns
    for templates in sets.values():
        _check_fields(templates, columns, where=raw.where)
    placed = _image_paths(there.prefix, sets[chosen], columns=columns, source=source)
    for_others = [replace(table, optional=True) for table in form.tables if table not in tables]
    label_files = there.files + _find_tables(for_others, source.others).files
    used = source.opened | {path for files in label_files for path, _ in files}
    rest = [path for path in source.names.without(placed.paths).to_pylist() if path not in used]
    others = {name: templates for name, templates in sets.items() if name != chosen}
    paths_of = partial(_paths_of_set, there.prefix, columns=columns, rest=rest)
    passed = _of_other_sets(rest, others, paths_of=paths_of)
    notes = tuple(absent_notes(placed, source))
    return _without_left_out(form, replace(raw, source=placed.paths, passed=passed, notes=notes))


def _joined_rows(form: TableIndex, files_of: dict[str, list[LabelFile]], *, source: Source) -> PublishedRows:
    """The rows of the first table with the columns of the others, before their images have paths."""
    first, *others = [table for table in form.tables if table.path in files_of]
    files = files_of[first.path]
    columns, unparsed = read_files(first, files, source=source)
    lacks, absent = list(form.lacks), []
    for table in others:
        if files_of[table.path]:
            more, unparsed_more = read_files(table, files_of[table.path], source=source)
            unparsed += unparsed_more
            columns |= joined(columns, more, table=table, on=table.on or first.key)
        else:
            lacks += table.labels
            absent += [] if table.labels or table.images else [table.path]
    if not len(columns[first.key]) and not unparsed:
        raise LabelFileError(f"{files[0].path}: no rows")
    lacks += [name for name in form.may_lack if name not in columns]
    return PublishedRows(
        columns=columns,
        source=pa.array([], pa.string()),
        where=files[0].path,
        unparsed=unparsed,
        lacks=tuple(lacks),
        passed={},
        absent=tuple(absent),
        keys=columns[first.key],
    )


def _without_left_out(form: TableIndex, raw: PublishedRows) -> PublishedRows:
    """The rows that no rule of the form leaves out, and how many each leaves out."""
    for rule in form.left_out:
        texts = text_of(raw.columns[rule.column]).fill_null("")
        regex = re.compile(rule.pattern)
        matching = [text for text in texts.unique().to_pylist() if regex.fullmatch(text)]
        is_out = pc.is_in(texts, value_set=pa.array(matching, pa.string()))
        is_out = is_out.combine_chunks()
        if pc.any(is_out).as_py():
            paths = raw.source.filter(is_out).fill_null("").to_pylist()
            raw = replace(filtered(raw, pc.invert(is_out)), passed=merged(raw.passed, {rule.why: paths}))
    return raw


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
    return passed | by_kind(rest)


def absent_notes(images: Matched, source: Source) -> list[str]:
    """Lines on images that are written otherwise, and on those that are not there beside others that are."""
    notes = [images.note] if images.note else []
    is_absent = ~source.has(images.paths) & pc.is_valid(images.paths).to_numpy(zero_copy_only=False)
    if is_absent.any() and not is_absent.all():
        first = images.paths[int(np.argmax(is_absent))].as_py()
        notes.append(f"{is_absent.sum():,} images are not there, such as {first}: {beside(first, source)}")
    return notes


def by_kind(paths: list[str]) -> dict[str, list[str]]:
    """Files that no row names, by what they are."""
    passed: dict[str, list[str]] = {}
    for path in paths:
        kind = kind_by_name(path)
        passed.setdefault({IMAGE: UNNAMED, "": NO_IMAGES}.get(kind, kind), []).append(path)
    return passed


def kind_by_name(path: str) -> str:
    """`IMAGE`, why it is none, or nothing where the name does not say."""
    name = path.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return IMAGE
    if name.endswith(ARCHIVE_SUFFIXES):
        return ARCHIVES
    return NO_IMAGES if name.endswith(SIDECAR_SUFFIXES) else ""


def _absent(paths: list[str], others: pa.Array) -> list[str]:
    """The paths that are not among others."""
    there = pa.array(paths, pa.string())
    absent: list[str] = there.filter(pc.invert(pc.is_in(there, value_set=others))).to_pylist()
    return absent


def read_files(table: TableFile, files: list[LabelFile], *, source: Source) -> tuple[Columns, list[str]]:
    """The columns of all files of one table, with those in the names of the files, and where each row stands."""
    parts, unparsed = [], []
    for path, constants in files:
        try:
            part, unparsed_part = read_rows(table, path, content=source.read(path))
        except JobError as error:
            raise LabelFileError(f"{error}") from error
        unparsed += unparsed_part
        for name, value in constants.items():
            part = part.append_column(name, pa.array([value] * len(part), pa.string()))
        if PLACE in part.column_names:
            name, places = f"{PLACE} {table.path}", part[PLACE]
            if len(files) > 1 or not pa.types.is_integer(places.type):
                places = pc.binary_join_element_wise(path, place_texts(places), ", ")
            else:
                name = f"{PLACE} {path}"
            part = part.drop_columns([PLACE]).append_column(name, places)
        parts.append(part)
    combined = pa.concat_tables(parts, promote_options="permissive")
    columns = {table.rename.get(name, name): plain_column(combined[name]) for name in combined.column_names}
    columns[table.key] = as_path(columns[table.key])
    if table.extract:
        columns, unmatched = _extracted(table, columns, where=files[0].path)
        unparsed += unmatched
    del parts, combined
    pa.default_memory_pool().release_unused()  # as much as the files themselves
    return columns, unparsed


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
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


def joined(main: Columns, other: Columns, *, table: TableFile, on: str) -> Columns:
    """The columns of `other` in the order of the rows of `main`; null where it has no such row."""
    # Columns that stand in the file names of both (the split) are part of the key.
    shared = [name for name in other if name in main and re.search(rf"{{{name}[:}}]", table.path)]
    left = composite([main[name] for name in (on, *shared)])
    right = composite([other[name] for name in (table.key, *shared)])
    new = {name: column for name, column in other.items() if name != table.key and name not in main}
    if is_ascending(left) and left.equals(right):
        return new
    rows = pc.index_in(left, value_set=right)
    return {name: column.take(rows) for name, column in new.items()}


def composite(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    texts = [composed(text_of(column)) for column in columns]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\0")


def _check_fields(templates: tuple[str, ...], columns: Columns, *, where: str) -> None:
    fields = {name for template in templates for _, name, _, _ in string.Formatter().parse(template) if name}
    if unknown := fields - columns.keys():
        names = [name for name in columns if not name.startswith(PLACE)]
        raise LabelFileError(f"{where}: no column {', '.join(sorted(unknown))}; it has {', '.join(names[:6])}")


def _image_paths(prefix: str, templates: tuple[str, ...], *, columns: Columns, source: Source) -> Matched:
    """The path of each row's image: by the first template that has files, there or in another folder, else the first.

    A path that is written otherwise than the file that it means becomes the path of that file.
    """
    for template in templates:
        paths = filled(prefix, template, columns)
        if source.has(paths).any():
            return matched(paths, source)
    has_images = len(source.others) < len(source.names)
    if has_images or any(not path.lower().endswith(SIDECAR_SUFFIXES) for path in source.others):
        for template in templates:
            tails = filled("", template, columns)
            sample = tails.take(pa.array(np.linspace(0, len(tails) - 1, min(len(tails), _NUM_LOOKED_FOR), dtype=int)))
            root = root_of(sample, source)
            if root is not None:
                return matched(filled(root, template, columns), source)
    return matched(filled(prefix, templates[0], columns), source)


def _paths_of_set(prefix: str, templates: tuple[str, ...], *, columns: Columns, rest: list[str]) -> pa.Array:
    """The paths by the first template that has files among the rest, as they are written; none without."""
    for template in templates:
        begins = prefix + template.partition("{")[0]
        if any(path.startswith(begins) for path in rest):
            paths = filled(prefix, template, columns)
            if pc.any(pc.is_in(pa.array(rest, pa.string()), value_set=paths)).as_py():
                return paths
    return pa.array([], pa.string())
