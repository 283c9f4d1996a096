"""Split words: the split that a path or a value names by a usual word."""

import re
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


def split_of_value(value: str) -> str:
    """The split that a value of a column names; "" for none."""
    return _SPLIT_OF_WORD.get(value.strip().lower(), "")
