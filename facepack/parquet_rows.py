"""Parquet rows: the labels beside images that are embedded in Parquet files; no image is read."""

import pyarrow as pa

from facepack.column_text import as_text, is_plain
from facepack.description import ParquetIndex
from facepack.errors import JobError
from facepack.parquet_images import SUFFIX, EmbeddedImage, image_columns, open_parquet, read_columns
from facepack.published_rows import PublishedRows, split_in
from facepack.source import Source


def parquet_files(source: Source) -> list[str]:
    """The Parquet files of a source, by name."""
    return sorted(path for path in source.files if path.lower().endswith(SUFFIX))


def read_parquet_rows(form: ParquetIndex, source: Source) -> PublishedRows | None:
    """The rows of all files with embedded images, in their order; None where there are none.

    `source` has the images among its members. Raises `JobError` for a damaged file, or files whose columns disagree.
    """
    names: dict[str, list[str]] = {}
    for path, member in source.members.items():
        if isinstance(member, EmbeddedImage):
            names.setdefault(member.archive, []).append(path)
    if not names:
        return None
    tables = [_labels(form, source, name) for name in names]
    first, *others = zip(names, tables, strict=True)
    for name, table in others:
        if missing := set(first[1].column_names) ^ set(table.column_names):
            which = name if missing & set(first[1].column_names) else first[0]
            raise JobError(f"{source.store.location}/{which}: no column {sorted(missing)[0]!r}, which other files have")
    combined = pa.concat_tables(tables, promote_options="permissive")
    columns = {form.rename.get(name, name): as_text(combined[name]) for name in combined.column_names}
    paths = pa.array([path for of_file in names.values() for path in of_file], pa.string())
    splits = [split_in(name) or None for name in names]
    if form.split not in columns and any(splits):
        lengths = pa.array([len(of_file) for of_file in names.values()])
        numbers = [number for number, length in enumerate(lengths.to_pylist()) for _ in range(length)]
        columns[form.split] = as_text(pa.chunked_array([pa.array(splits, pa.string()).take(pa.array(numbers))]))
    return PublishedRows(columns, paths)


def _labels(form: ParquetIndex, source: Source, name: str) -> pa.Table:
    """The plain columns of a file, without its images."""
    schema = open_parquet(source.store, name).schema_arrow
    return read_columns(source.store, name, leaves=label_names(schema, image=form.image))


def label_names(schema: pa.Schema, *, image: str) -> list[str]:
    """The columns of a file that can be labels."""
    images = {column.name for column in image_columns(schema)} | {image}
    return [field.name for field in schema if field.name not in images and is_plain(field.type)]
