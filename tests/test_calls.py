"""calls: settings written as calls, read without running code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.errors import UsageError
from trainer import calls
from trainer.loading.augment import Normalize, RandomCrop, RandomResizedCrop

KNOWN = {one.__name__: one for one in (RandomCrop, RandomResizedCrop, Normalize)}


def test_call_makes_what_it_says() -> None:
    assert calls.made("RandomCrop(56)", KNOWN, what="augment") == RandomCrop(56)
    assert calls.made("RandomCrop(size=(5, 6))", KNOWN, what="augment") == RandomCrop((5, 6))
    assert calls.made_list("[RandomCrop(56), Normalize()]", KNOWN, what="augment") == (RandomCrop(56), Normalize())
    assert calls.made_list("RandomCrop(56), Normalize", KNOWN, what="augment") == (RandomCrop(56), Normalize())
    assert calls.made_list("[]", KNOWN, what="augment") == ()


def test_what_it_prints_makes_it_again() -> None:
    for one in (RandomCrop((5, 6)), RandomResizedCrop(scale=(0.5, 1.0)), Normalize((0.5, 0.5, 0.5), (1, 1, 1))):
        assert calls.made(repr(one), KNOWN, what="augment") == one


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("RandomCrap(56)", "did you mean RandomCrop"),
        ("RandomCrop()", "missing a required argument: 'size'"),
        ("RandomCrop(5, sise=5)", "unexpected keyword argument 'sise'"),
        ("RandomCrop(open('x'))", "expected a call such as"),
        ("os.remove('x')", "expected a call such as"),
        ("__import__('os')", "is not known"),
        ("RandomCrop(**{'size': 5})", "expected a call such as"),
        ("RandomCrop(5", "expected a call such as"),
        ("", "expected a call such as"),
    ],
)
def test_wrong_text_is_one_clear_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        calls.made(text, KNOWN, what="augment")
    assert "\n" not in str(refused.value)


@given(st.text(max_size=40))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(UsageError):
        calls.made(text, {}, what="augment")
    if text.strip():
        with pytest.raises(UsageError):
            calls.made_list(text, {}, what="augment") or calls.made("", {}, what="augment")
