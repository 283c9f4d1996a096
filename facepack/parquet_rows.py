"""Parquet rows: the labels beside images that are embedded in Parquet files; no image is read."""

import numpy as np
import pyarrow as pa

from facepack.column_text import as_text, is_plain
from facepack.description import ParquetIndex
from facepack.errors import FieldError, JobError
from facepack.parquet_images import SUFFIX, EmbeddedImage, image_columns, open_parquet, read_columns
from facepack.published_rows import NotThereError, PublishedRows
from facepack.source import Source
from facepack.split_words import split_in
from facepack.table_rows import by_kind


def parquet_files(source: Source) -> list[str]:
    """The Parquet files of a source, by name."""
    return [path for path in source.others if path.lower().endswith(SUFFIX) and path in source.files]


def embedded_by_file(source: Source) -> dict[str, list[str]]:
    """The paths of embedded images by the file that they stand in, in order."""
    names: dict[str, list[str]] = {}
    for path, member in source.members.items():
        if isinstance(member, EmbeddedImage):
            names.setdefault(member.archive, []).append(path)
    return names


def read_parquet_rows(form: ParquetIndex, source: Source, *, images: str) -> PublishedRows:
    """The rows of all files with embedded images, in their order; `NotThereError` where there are none.

    `source` has the images among its members. Raises `JobError` for a damaged file, or files whose columns disagree.
    """
    names = embedded_by_file(source)
    if not names:
        raise NotThereError(form.about)
    if images:
        raise FieldError("images", images, f"not with {form.about}, which have one set of images")
    combined = _combined(form, source, list(names))
    columns = {form.rename.get(name, name): as_text(combined[name]) for name in combined.column_names}
    paths = pa.array([path for of_file in names.values() for path in of_file], pa.string())
    splits = [split_in(name) or None for name in names]
    if form.split not in columns and any(splits):
        numbers = np.repeat(np.arange(len(names)), [len(of_file) for of_file in names.values()])
        columns[form.split] = as_text(pa.chunked_array([pa.array(splits, pa.string()).take(pa.array(numbers))]))
    others = [path for path in source.names.without(paths).to_pylist() if path not in source.opened]
    return PublishedRows(columns, paths, "", [], form.lacks, by_kind(others))


def _combined(form: ParquetIndex, source: Source, names: list[str]) -> pa.Table:
    """The labels of all files; `JobError` where they have other columns."""
    tables = [_labels(form, source, name) for name in names]
    first, *others = zip(names, tables, strict=True)
    for name, table in others:
        if missing := set(first[1].column_names) ^ set(table.column_names):
            which = name if missing & set(first[1].column_names) else first[0]
            raise JobError(f"{source.location}/{which}: no column {sorted(missing)[0]!r}, which other files have")
    return pa.concat_tables(tables, promote_options="permissive")


def _labels(form: ParquetIndex, source: Source, name: str) -> pa.Table:
    """The plain columns of a file, without its images."""
    schema = open_parquet(source.store, name).schema_arrow
    return read_columns(source.store, name, leaves=label_names(schema, image=form.image))


def label_names(schema: pa.Schema, *, image: str = "", with_structs: bool = False) -> list[str]:
    """The columns of a file that can be labels, those included that hold several, if they are wanted."""
    images = {column.name for column in image_columns(schema)} | {image}
    fields = [field for field in schema if field.name not in images]
    return [each.name for each in fields if is_plain(each.type) or (with_structs and pa.types.is_struct(each.type))]
