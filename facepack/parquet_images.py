"""Parquet images: photos embedded in Parquet files, each with a name, read by row group."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facepack.errors import JobError
from facepack.storage import Store

SUFFIX = ".parquet"
_FOOTERS = 256
"""Footers that are kept: of a shard's files, which are wanted again by the next shard."""
_USUAL_NAMES = ("image", "img", "jpg", "jpeg", "png", "photo", "picture", "face", "image_bytes", "bytes")
"""Columns of plain bytes that are taken for images."""
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


class EmbeddedImage(NamedTuple):
    """Where an image stands: the Parquet file, its column of bytes (a leaf), the row group and the row in it."""

    archive: str
    leaf: str
    row_group: int
    row: int


class ImageColumn(NamedTuple):
    """A column of images in a Parquet file, and its leaves of bytes and (or "") of file names."""

    name: str
    bytes_leaf: str
    path_leaf: str


def image_columns(schema: pa.Schema) -> list[ImageColumn]:
    """The columns with embedded images: a struct of bytes and path, or plain bytes under a usual name."""
    declared = {name for name, feature in features_of(schema).items() if feature.get("_type") == "Image"}
    columns = []
    for field in schema:
        if pa.types.is_struct(field.type):
            leaves = {field.type.field(i).name: field.type.field(i).type for i in range(field.type.num_fields)}
            if "bytes" in leaves and any(is_bytes(leaves["bytes"]) for is_bytes in _BYTES):
                path = f"{field.name}.path" if pa.types.is_string(leaves.get("path", pa.null())) else ""
                columns.append(ImageColumn(field.name, f"{field.name}.bytes", path))
        elif any(is_bytes(field.type) for is_bytes in _BYTES) and (
            field.name in declared or field.name.lower() in _USUAL_NAMES
        ):
            columns.append(ImageColumn(field.name, field.name, ""))
    return sorted(columns, key=lambda column: (column.name not in declared, column.name.lower() not in _USUAL_NAMES))


def features_of(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's datasets notes of the columns in the metadata of a file; empty where it notes nothing."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def class_names_of(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names that the metadata of a file gives the whole numbers of a column, as ClassLabel of datasets does."""
    names: dict[str, tuple[str, ...]] = {}
    for column, feature in features_of(schema).items():
        listed = feature.get("names") if feature.get("_type") == "ClassLabel" else None
        if isinstance(listed, list) and listed and all(isinstance(name, str) for name in listed):
            names[column] = tuple(listed)
    return names


def open_parquet(store: Store, name: str) -> pq.ParquetFile:
    """Open a Parquet file; `JobError` names a damaged one."""
    path = store.path(name)
    try:
        modified = path.stat().st_mtime_ns if path else 0
        footer = _footer(store.location, name, (store.size(name), modified))
        return pq.ParquetFile(store.open(name) if path is None else pa.memory_map(str(path)), metadata=footer)
    except (pa.ArrowInvalid, OSError) as error:
        raise JobError(
            f"{store.location}/{name}: a damaged Parquet file ({_first_line(error)}); get it again"
        ) from error


@lru_cache(maxsize=_FOOTERS)
def _footer(location: str, name: str, _: tuple[int, int]) -> pq.FileMetaData:
    """What a Parquet file says of itself: read once, since that takes as long as reading a hundred row groups."""
    with Store(location).open(name) as file:
        return pq.read_metadata(file)


def read_columns(store: Store, name: str, *, leaves: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet file, by their leaves, and nothing else of it."""
    try:
        return open_parquet(store, name).read(columns=list(leaves))
    except (pa.ArrowInvalid, OSError) as error:
        raise JobError(
            f"{store.location}/{name}: a damaged Parquet file ({_first_line(error)}); get it again"
        ) from error


def embedded_images(store: Store, names: Iterable[str], *, column: str = "") -> dict[str, EmbeddedImage]:
    """The images of Parquet files by their paths, as if each file were a folder of them; in the order of the rows.

    They have the names that stand beside the bytes where those tell the images of a file apart, else the numbers of
    their rows. Files without the column are passed over.
    """
    images: dict[str, EmbeddedImage] = {}
    for name in names:
        file = open_parquet(store, name)
        columns = [each for each in image_columns(file.schema_arrow) if column in ("", each.name)]
        if columns:
            leaf = columns[0].bytes_leaf
            titles = iter(_titles(file, columns[0]))
            for group in range(file.num_row_groups):
                num_rows = file.metadata.row_group(group).num_rows
                images |= {
                    f"{name}/{title}": EmbeddedImage(name, leaf, group, row)
                    for row, title in zip(range(num_rows), titles, strict=False)
                }
    return images


def _titles(file: pq.ParquetFile, column: ImageColumn) -> list[str]:
    """The name of each image of a file."""
    num_rows = file.metadata.num_rows
    if not column.path_leaf or not num_rows:
        return [f"{row:06d}" for row in range(num_rows)]
    paths = pc.struct_field(file.read(columns=[column.path_leaf])[column.name], "path")
    titles = pc.replace_substring_regex(paths, r".*[/\\]", "")
    if (
        titles.null_count == 0
        and pc.count_distinct(titles).as_py() == num_rows
        and not pc.any(pc.equal(titles, "")).as_py()
    ):
        return list(titles.to_pylist())
    named = enumerate(titles.to_pylist())
    return [f"{row:06d}-{title}" if title else f"{row:06d}" for row, title in named]


def read_image(store: Store, image: EmbeddedImage) -> bytes:
    """An image alone; its whole row group is read. `OSError` where it cannot be, `FileNotFoundError` without bytes."""
    _, content = next(_read_row_group(store, {0: image}))
    if isinstance(content, OSError):
        raise content
    return content


def read_in_order(store: Store, images: Sequence[EmbeddedImage]) -> Iterator[bytes | OSError]:
    """The bytes of many images in the order given, or why there are none; each row group is read once.

    What is wanted of the row groups is kept in a temporary file in between: memory holds one row group.
    """
    with tempfile.TemporaryFile() as spool:
        places: dict[int, tuple[int, int] | OSError] = {}
        ordered = sorted(range(len(images)), key=lambda number: images[number])
        for _, numbers in groupby(ordered, key=lambda number: images[number][:3]):
            for number, content in _read_row_group(store, {number: images[number] for number in numbers}):
                if isinstance(content, OSError):
                    places[number] = content
                else:
                    places[number] = (spool.tell(), len(content))
                    spool.write(content)
        for number in range(len(images)):
            place = places[number]
            if isinstance(place, OSError):
                yield place
            else:
                spool.seek(place[0])
                yield spool.read(place[1])


def _read_row_group(store: Store, images: dict[int, EmbeddedImage]) -> Iterator[tuple[int, bytes | OSError]]:
    """Images that stand in the same row group, or why they cannot be read."""
    first = next(iter(images.values()))
    try:
        column = _images_of_row_group(store, first)
    except OSError as error:
        yield from dict.fromkeys(images, error).items()
        return
    for number, image in images.items():
        content = column[image.row].as_py()
        yield number, FileNotFoundError(f"{image.archive}: {image} has no bytes") if content is None else content


def _images_of_row_group(store: Store, image: EmbeddedImage) -> pa.ChunkedArray:
    """The bytes of all images of a row group."""
    try:
        table = open_parquet(store, image.archive).read_row_group(image.row_group, columns=[image.leaf])
    except (pa.ArrowInvalid, JobError, IndexError) as error:
        raise OSError(f"{image.archive}: row group {image.row_group}: {_first_line(error)}") from error
    column = table.column(0)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _first_line(error: Exception) -> str:
    return (f"{error}".strip().splitlines() or [type(error).__name__])[0]
