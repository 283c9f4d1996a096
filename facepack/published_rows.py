"""Published rows: what is read of images and their labels before the labels have types."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class PublishedRows:
    """Text columns by name, the path of each row's image, and what is no row.

    `where` is the file that names the rows, "" where the paths do; `unparsed` names what could not be read, `left_out`
    counts images that are no part of the dataset, by reason.
    """

    columns: dict[str, pa.ChunkedArray]
    source: pa.Array
    where: str = ""
    unparsed: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def split_in(path: str) -> str:
    """The split (train, valid, test) that a path names: a word of the file's name, else of its folders; "" for none."""
    *folders, name = PurePosixPath(path).parts or ("",)
    for part in (name, *reversed(folders)):
        words = (_SPLIT_WORDS.get(word) for word in re.split(r"[^a-z]+", part.lower()))
        if split := next((word for word in words if word), None):
            return split
    return ""


def split_of_value(value: str) -> str:
    """The split that a value of a column names; "" for none."""
    return _SPLIT_WORDS.get(value.strip().lower(), "")
