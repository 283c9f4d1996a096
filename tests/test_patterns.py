"""Patterns: matched at once as Python's re matches them one by one."""

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.description import PathIndex, dataset_names, load_dataset
from facepack.patterns import fully_matched

FORMS = [form for name in dataset_names() for form in load_dataset(name).index if isinstance(form, PathIndex)]
PATTERNS = sorted(
    {pattern.pattern for form in FORMS for pattern in form.patterns}
    | {rule.pattern for form in FORMS for rule in form.left_out}
)
OTHERS = [r"(?P<a>x)?(?P<b>y*)", r"(?P<a>.+?)(?P<b>\d*)", r"(x)(?P<a>y)", r"a|(?P<b>ab)", r"(?P<a>\w+)$", r"[^/]+"]
PARTS = [
    "train",
    "Val",
    "img",
    "n000123",
    "0001_01",
    ".jpg",
    ".png",
    "/",
    "_",
    "7",
    "25",
    "é",
    "x",
    "y",
    "\n",
    "\u0663",
]


@pytest.mark.parametrize("pattern", [*PATTERNS, *OTHERS])
@given(texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=7).map("".join), max_size=12))
def test_many_texts_match_as_each_does(pattern: str, texts: list[str]) -> None:
    matches = [re.fullmatch(pattern, text) for text in texts]
    is_match, groups = fully_matched(pattern, pa.array(texts, pa.string()))
    assert is_match.tolist() == [match is not None for match in matches]
    for name in re.compile(pattern).groupindex:
        assert groups[name].to_pylist() == [match[name] for match in matches if match]
