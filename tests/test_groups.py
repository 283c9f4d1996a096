"""Groups and intervals: figures with the confidence that their numbers of images allow."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from trainer import metrics
from trainer.results import groups


@pytest.mark.parametrize(("num_right", "num"), [(8, 10), (0, 10), (10, 10), (160, 190), (1, 20_000)])
def test_interval_of_a_share_is_that_of_wilson(num_right: int, num: int) -> None:
    expected = stats.binomtest(num_right, num).proportion_ci(method="wilson")
    assert metrics.interval(np.arange(num) < num_right) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("num", [60, 3000])
def test_interval_of_a_mean_holds_it_as_often_as_it_says(num: int) -> None:
    rng = np.random.default_rng(1)
    intervals = [metrics.interval(rng.exponential(5.0, num)) for _ in range(200)]
    held = np.mean([low <= 5.0 <= high for low, high in intervals])
    assert 0.88 <= held <= 0.99
    assert metrics.interval(np.full(num, 3.0)) == pytest.approx((3.0, 3.0))


def test_categories_come_with_the_largest_gap_first_and_small_groups_make_none() -> None:
    num = 100
    scores = np.r_[np.ones(num), np.zeros(num // 2), np.ones(num // 2), [0.0]]
    gender = pa.array(["female"] * num + ["male"] * num + ["other"])
    hat = pa.array([0, 1] * num + [None], pa.int8())
    table = pa.table({"key": pa.array(["k"] * (2 * num + 1)), "gender": gender, "hat": hat})
    made = groups.by_category(scores, groups.columns_of(table, besides="class"))
    assert [(category.name, category.gap) for category in made] == [("gender", 0.5), ("hat", 0.0)]
    assert [(group.name, group.num, group.score) for group in made[0].groups] == [
        ("female", 100, 1.0),
        ("male", 100, 0.5),
        ("other", 1, 0.0),
    ]
    assert [group.name for group in made[1].groups] == ["hat", "not hat", "unknown"]
    assert made[0].groups[1].interval == pytest.approx((0.4038, 0.5962), abs=1e-4)
    (shown,) = groups.tables(made, split="test", score="accuracy")
    assert [cell.text for cell in shown.rows[0]] == ["gender", "female", "100", "100.0", "96.3 to 100.0", "50.0"]


def test_ages_are_grouped_by_decade_in_their_order_but_not_where_they_are_learnt() -> None:
    table = pa.table({"age": pa.array([101.0, 9.0, 35.0, None], pa.float32()), "number": pa.array([1.0, 2, 3, 4])})
    columns = groups.columns_of(table, besides="class")
    (category,) = groups.by_category(np.arange(4.0), columns)
    assert [group.name for group in category.groups] == ["0 to 9", "30 to 39", "100 to 109", "unknown"]
    assert groups.columns_of(table, besides="age") == {}
