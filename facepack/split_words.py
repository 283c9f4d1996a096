"""Split words: the split that a path or a value names by a usual word."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_WORDS = {
    "train": "train training trn",
    "valid": "valid validation val dev development",
    "test": "test testing tst eval evaluation holdout",
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words.split()}


def split_in(path: str) -> str:
    """The split (train, valid, test) that a path names: a word of the file's name, else of its folders; "" for none."""
    *folders, name = PurePosixPath(path).parts or ("",)
    for part in (name, *reversed(folders)):
        words = (_SPLIT_OF_WORD.get(word) for word in re.split(r"[^a-z]+", part.lower()))
        if split := next((word for word in words if word), None):
            return split
    return ""


_FOLDER = re.compile(rf"({'|'.join(_SPLIT_OF_WORD)})[ _-]?(?:set|data|images|photos|split)?")


def folder_splits(paths: Sequence[str | None]) -> list[str | None]:
    """The split of each path by a folder of a usual name, all None unless a folder is for training or all have one."""
    of_folder: dict[str, str | None] = {}
    splits = []
    for path in paths:
        folder = (path or "").rpartition("/")[0]
        if folder not in of_folder:
            matches = (_FOLDER.fullmatch(part.lower()) for part in folder.split("/"))
            of_folder[folder] = next((_SPLIT_OF_WORD[match[1]] for match in matches if match), None)
        splits.append(of_folder[folder])
    return splits if "train" in splits or None not in splits else [None] * len(splits)


def split_of_value(value: str) -> str:
    """The split that a value of a column names; "" for none."""
    return _SPLIT_OF_WORD.get(value.strip().lower(), "")
