"""Local spread: a number is doubtful where it is far off for its neighbourhood, not for all."""

import numpy as np
import pytest

from trainer.doubts import spread


def test_spread_is_the_deviation_of_neighbours_and_their_median_the_centre() -> None:
    """Check five photos of one neighbourhood by hand: errors of 1, 2, 3, 4 and 100, off 3 by 2, 1, 0, 1 and 97."""
    predicted = np.array([50.0, 20.0, 30.0, 40.0, 10.0])
    centre, std = spread.local_spread(predicted + np.array([100.0, 2.0, 3.0, 4.0, 1.0]), predicted)
    assert centre.tolist() == [3.0] * 5
    assert std == pytest.approx([1.4826] * 5)


def test_same_error_is_doubtful_for_the_young_and_not_for_the_old() -> None:
    """Check errors of about 1 year below 50 and of 10 above, all labels 3 too high, and two that are 12 more."""
    random = np.random.default_rng(0)
    predicted = np.arange(1000) / 10
    given = predicted + 3 + np.where(predicted < 50, 1.0, 10.0) * np.clip(random.normal(size=1000), -2, 2)
    given[[200, 800]] = predicted[[200, 800]] + 3 + 12
    centre, std = spread.local_spread(given, predicted)
    doubt = np.abs(given - predicted - centre) / std
    assert doubt[200] > 10
    assert doubt[800] < 2
    assert np.flatnonzero(doubt > spread.LIMIT).tolist()[0] == 200
    assert std[:400].mean() == pytest.approx(1.0, rel=0.15)
    assert std[600:].mean() == pytest.approx(10.0, rel=0.15)


@pytest.mark.parametrize("num", [0, 1, 2, 101, 102])
def test_few_numbers_and_equal_ones_are_no_trouble(num: int) -> None:
    centre, std = spread.local_spread(np.full(num, 30.0), np.full(num, 30.0))
    assert centre.tolist() == [0.0] * num
    assert (std == 1e-6).all()
