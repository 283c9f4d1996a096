"""Open rows: images whose labels no description names, of Parquet, WebDataset, metadata files or a user's own table."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from facepack.any_table import AnyTable, label_columns, read_any_table
from facepack.description import OpenIndex
from facepack.errors import FieldError, JobError, UsageError
from facepack.found_labels import NO_SPLIT, SPLIT, Named, meaning_of, with_split
from facepack.image_columns import image_column, located, metadata_column
from facepack.json_columns import columns_of
from facepack.label_file import PLACE
from facepack.listing import merged
from facepack.matching import Matched
from facepack.parquet_images import EmbeddedImage, class_names_of, open_parquet, read_columns
from facepack.parquet_rows import embedded_by_file, label_names
from facepack.published_rows import Columns, LabelFileError, NotThereError, PublishedRows
from facepack.source import Source
from facepack.split_words import folder_splits, split_in
from facepack.storage import Store
from facepack.table_rows import absent_notes, by_kind
from facepack.webdataset import read_samples

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.json", "metadata.parquet")
"""Names of the label files of Hugging Face's imagefolder; the first in a folder counts."""
_FOLDER = "folder"


@dataclass(frozen=True)
class OwnTable:
    """A table of labels of a user's own, and the columns that its user names; no file for none."""

    file: str = ""
    columns: Named = field(default_factory=Named)

    def __post_init__(self) -> None:
        if self.columns != Named() and not self.file:
            kind = next(kind for kind, name in vars(self.columns).items() if name)
            raise FieldError(f"labels_{kind.rstrip('_')}", getattr(self.columns, kind), "needs labels, the table")


@dataclass
class _Rows:
    """Rows before anybody knows what their columns are."""

    columns: Columns
    images: Matched
    where: str = ""
    unparsed: list[str] = field(default_factory=list)
    passed: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    notes: tuple[str, ...] = ()
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    inside: bool = False
    """Whether the images lie in files of the source, whose names may have the splits."""


def read_open_rows(form: OpenIndex, source: Source, *, images: str, own: OwnTable) -> PublishedRows:
    """The rows of the first that is there: the user's own table, metadata files, Parquet files, WebDataset.

    Raises `NotThereError` without any, `FieldError` for columns that are not there, or of which several could be meant.
    """
    if own.file:
        rows = _of_own_table(own, source)
    else:
        rows = _of_metadata(source) or _of_parquet(source) or _of_samples(source)  # type: ignore[assignment]
    if rows is None:
        raise NotThereError(form.about)
    if images:
        raise FieldError("images", images, f"not with {form.about}, which have one set of images")
    paths = rows.images.paths
    places = {name: rows.columns.pop(name) for name in list(rows.columns) if name.startswith(PLACE)}
    columns = with_split(rows.columns, own.columns)
    notes = rows.notes + tuple(absent_notes(rows.images, source))
    if NO_SPLIT in columns and NO_SPLIT not in rows.columns:
        notes += (f"the column {SPLIT} is a label, for its values are no words such as train, val and test",)
    if SPLIT not in columns and (splits := _splits_of(rows, source)):
        columns = {SPLIT: pa.chunked_array([pa.array(splits, pa.string())])} | columns
    meaning = meaning_of(columns, named=own.columns, class_names=rows.class_names)
    if not meaning.default_classes and not meaning.unclear and (folders := _folders_of(rows, source)):
        columns |= {_FOLDER: pa.chunked_array([pa.array(folders, pa.string())])}
        meaning = meaning_of(columns, named=replace(own.columns, class_=_FOLDER), class_names=rows.class_names)
    used = rows.used | source.opened
    rest = [path for path in source.names.without(paths).to_pylist() if path not in used]
    is_rest = set(rest)
    passed = {why: [path for path in rows.passed[why] if path in is_rest] for why in rows.passed}
    of_reason = {path for listed in passed.values() for path in listed}
    return PublishedRows(
        columns=columns | places,
        source=paths,
        where=rows.where,
        unparsed=rows.unparsed,
        lacks=form.lacks,
        passed=merged(passed, by_kind([path for path in rest if path not in of_reason])),
        notes=notes,
        columns_mean=meaning,
    )


# Tables


def _of_own_table(own: OwnTable, source: Source) -> _Rows:
    """The rows of a table of the user's own."""
    path = Path(own.file)
    try:
        content = Store(str(path.parent)).read(path.name)
    except OSError as error:
        raise UsageError(f"labels {own.file}: {error.strerror or 'cannot be read'}") from error
    try:
        table = read_any_table(path.name, content)
    except JobError as error:
        raise JobError(f"{path.parent}/{error}") from error
    names = [name for name in table.columns if name != PLACE]
    if table.unparsed and not len(table.columns[PLACE]):
        raise JobError(f"{path.parent}/{table.unparsed[0]}, as are all rows")
    own.columns.check(names, where=own.file)
    inside = source.store.path("")
    is_inside = inside is not None and path.resolve().is_relative_to(Path(inside).resolve())
    relative = path.resolve().relative_to(Path(inside).resolve()).as_posix() if inside and is_inside else ""
    folder = relative.rpartition("/")[0]
    prefixes = list(dict.fromkeys([f"{folder}/" if folder else "", ""]))
    column = own.columns.image or image_column(table.columns, source, prefixes=prefixes, where=own.file)
    placed = located(table.columns[column], source, prefixes=prefixes)
    return _table_rows(table, column, placed=placed, where=path.name, used={relative})


def _table_rows(table: AnyTable, column: str, *, placed: Matched, where: str, used: set[str]) -> _Rows:
    columns = {name: values for name, values in table.columns.items() if name != column}
    notes = (f"{where}: not taken as labels: {', '.join(table.not_taken)}",) if table.not_taken else ()
    return _Rows(columns, placed, where, table.unparsed, used=used, notes=notes, class_names=dict(table.class_names))


def _of_metadata(source: Source) -> _Rows | None:
    """The rows of all metadata files, each of images below its folder; None without any that names files."""
    by_folder: dict[str, list[str]] = {}
    for path in source.others:
        folder, _, name = path.rpartition("/")
        if name.lower() in METADATA:
            by_folder.setdefault(folder, []).append(path)
    parts = []
    for paths in by_folder.values():
        path = min(paths, key=lambda path: METADATA.index(path.rpartition("/")[2].lower()))
        try:
            table = read_any_table(path, source.read(path))
        except JobError as error:
            raise LabelFileError(f"{error}") from error
        if column := metadata_column(table.columns, where=path):
            folder = path.rpartition("/")[0]
            placed = located(table.columns[column], source, prefixes=[f"{folder}/" if folder else ""])
            parts.append(_table_rows(table, column, placed=placed, where=path, used={path}))
    return _combined(parts) if parts else None


def _combined(parts: list[_Rows]) -> _Rows:
    """The rows of several files; null where one has no such column."""
    first, *others = parts
    if not others:
        return first
    table = pa.concat_tables([pa.table(_plain_text(part.columns)) for part in parts], promote_options="default")
    columns = {name: table[name] for name in table.column_names if name != PLACE}
    note = "; ".join(part.images.note for part in parts if part.images.note)
    return _Rows(
        columns=columns | {PLACE: table[PLACE]},
        images=Matched(pa.concat_arrays([part.images.paths for part in parts]), note),
        where=first.where,
        unparsed=[line for part in parts for line in part.unparsed],
        used={path for part in parts for path in part.used},
        notes=tuple(note for part in parts for note in part.notes),
        class_names={name: names for part in parts for name, names in part.class_names.items()},
    )


def _plain_text(columns: Columns) -> Columns:
    """Columns whose types agree from file to file."""
    return {name: values.cast(pa.string()).dictionary_encode() for name, values in columns.items()}


# Images inside files


def _of_parquet(source: Source) -> _Rows | None:
    """The rows of Parquet files with embedded images."""
    by_file = embedded_by_file(source)
    if not by_file:
        return None
    tables: list[pa.Table] = []
    class_names: dict[str, tuple[str, ...]] = {}
    for name in by_file:
        schema = open_parquet(source.store, name).schema_arrow
        tables.append(read_columns(source.store, name, leaves=label_names(schema, with_structs=True)))
        class_names |= class_names_of(schema)
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    lacking = [
        f"{file} has no column {name}"
        for name in names
        for file, table in zip(by_file, tables, strict=True)
        if name not in table.column_names
    ]
    columns, _ = label_columns(pa.concat_tables(tables, promote_options="permissive"))
    paths = pa.array([path for of_file in by_file.values() for path in of_file], pa.string())
    notes = (f"{lacking[0]}, which other files have",) if lacking else ()
    class_names = {name: listed for name, listed in class_names.items() if name in columns}
    return _Rows(columns, Matched(paths), notes=notes, class_names=class_names, inside=True)


def _of_samples(source: Source) -> _Rows | None:
    """The samples of WebDataset shards."""
    samples = read_samples(source)
    if not samples.paths:
        return None
    columns = columns_of(samples.rows)
    paths = pa.array(samples.paths, pa.string())
    return _Rows(columns, Matched(paths), "", samples.unparsed, samples.passed, samples.used, inside=True)


# Splits and classes out of paths


def _splits_of(rows: _Rows, source: Source) -> list[str | None]:
    """The splits by the files that the images lie in, or by their folders; empty where these have none."""
    paths = rows.images.paths.to_pylist()
    if rows.inside:
        archives = [getattr(source.members.get(path), "archive", "") for path in paths]
        names = {name: split_in(name) if name in source.opened else "" for name in set(archives)}
        splits = [names[name] or None for name in archives]
    else:
        splits = folder_splits(paths)
    return splits if any(splits) else []


def _folders_of(rows: _Rows, source: Source) -> list[str | None]:
    """The folder of each image below those that all are in and those of splits; empty where all are in one."""
    members = [source.members.get(path or "") for path in rows.images.paths.to_pylist()]
    if any(isinstance(member, EmbeddedImage) for member in members):
        return []
    parts = []
    for path, member in zip(rows.images.paths.to_pylist(), members, strict=True):
        folders = (path or "").split("/")[:-1]
        archive = getattr(member, "archive", "").rpartition("/")[2]
        parts.append([name for name in folders if name != archive and not split_in(name)])
    depth = 0
    while parts and all(len(names) > depth for names in parts) and len({names[depth] for names in parts}) == 1:
        depth += 1
    folders_of = [names[depth] if len(names) > depth else None for names in parts]
    return folders_of if len(set(folders_of)) > 1 else []
