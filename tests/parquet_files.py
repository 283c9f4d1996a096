"""Parquet files with embedded images, as the Hugging Face Hub has them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facepack.description import load_dataset

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ATTRIBUTES = load_dataset("celeba").attributes


def photo(number: int, suffix: str = ".jpg") -> bytes:
    """A small picture that is like no other."""
    pixels = np.random.default_rng(number).integers(0, 255, (12, 10, 3), np.uint8)
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def images(numbers: Sequence[int], *, with_path: bool = True) -> pa.Array:
    """A column of photos as datasets writes it."""
    rows = [{"bytes": photo(number), "path": f"{number:06d}.jpg" if with_path else None} for number in numbers]
    return pa.array(rows, IMAGE)


def write(path: Path, columns: dict[str, Any], *, features: dict[str, Any] | None = None, rows: int = 10) -> Path:
    """Write a file, with the features of datasets in its metadata and so many rows per row group."""
    table = pa.table(columns)
    info = {"image": {"_type": "Image"}} | (features or {})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": info}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def celeba_columns(numbers: Sequence[int]) -> dict[str, Any]:
    """What flwrlabs/celeba says of images: photo n is of person n // 4 + 1 and has the attribute n % 40."""
    attributes = {name: [number % 40 == code for number in numbers] for code, name in enumerate(ATTRIBUTES)}
    return {"image": images(numbers), "celeb_id": [number // 4 + 1 for number in numbers]} | attributes


def write_celeba(folder: Path, *, train: int = 60, valid: int = 10, test: int = 10) -> Path:
    """A CelebA of two files of train and one each of valid and test."""
    start = 0
    for split, number, of in (("train", train, 2), ("valid", valid, 1), ("test", test, 1)):
        for shard, numbers in enumerate(np.array_split(np.arange(start, start + number), of)):
            write(folder / "data" / f"{split}-{shard:05d}-of-{of:05d}.parquet", celeba_columns(numbers.tolist()))
        start += number
    return folder
