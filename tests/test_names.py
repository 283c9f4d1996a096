"""Names: looked up as in a set, in order as in a sorted list, many at a time."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from facepack.names import Names, is_ascending

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=30)


@given(names=NAMES, others=NAMES)
def test_names_are_a_sorted_set(names: list[str], others: list[str]) -> None:
    some = Names.of(names)
    assert list(some) == sorted(set(names))
    assert len(some) == len(set(names))
    assert [name in some for name in others] == [name in names for name in others]
    asked = pa.chunked_array([pa.array(others[::2], pa.string()), pa.array(others[1::2], pa.string())])
    assert some.has(asked).tolist() == [name in names for name in asked.to_pylist()]
    assert some.without(asked).to_pylist() == sorted(set(names) - set(others))


def test_many_names_are_looked_up_at_once_and_nulls_are_none() -> None:
    names = Names.of(f"{number}.jpg" for number in range(5000))
    asked = pa.array([None, *(f"{number}.jpg" for number in range(4000, 6000))])
    rows = names.rows_of(asked)
    assert rows[0] == -1
    assert [names.array[int(row)].as_py() for row in rows[1:1001]] == asked.to_pylist()[1:1001]
    assert (rows[1001:] == -1).all()
    assert names.rows_of(asked) is rows
    assert not names.has(pa.array(["x"] * 2001)).any()


@given(names=NAMES, cut=st.integers(0, 30))
def test_ascending_is_sorted_without_repetition(names: list[str], cut: int) -> None:
    chunks = pa.chunked_array([pa.array(names[:cut], pa.string()), pa.array(names[cut:], pa.string())])
    assert is_ascending(chunks) == (names == sorted(set(names)))
