"""Bins of a number are the same wherever they are written, and refused alike."""

import numpy as np
import pytest

from facepack.bins import Bins
from facepack.configuration import Configuration
from facepack.errors import FieldError

ADVICE = "expected ascending bins that do not overlap, such as 1-4,5-27,28-"


def test_bins_hold_both_ends_and_fractions_belong_to_the_number_below() -> None:
    bins = Bins.of("1-4, 5-27,28-", field="ages")
    assert bins.names == ("1-4", "5-27", "28-")
    assert bins.codes(np.array([0.9, 1, 4.9, 5, 27.9, 28, 130, np.nan])).tolist() == [-1, 0, 0, 1, 1, 2, 2, -1]
    assert f"{bins}" == "1-4,5-27,28-"


@pytest.mark.parametrize("text", ["1-10,5-20", "5-9,1-4", "9-1", "1-,30-40", "1-4,", "", "young", "1.5-3"])
def test_bins_that_overlap_descend_or_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(FieldError) as error:
        Bins.of(text, field="ages")
    shown = f" {text}" if text else ""
    assert str(error.value) == f"ages{shown}: {ADVICE}"


@pytest.mark.parametrize("text", ["1-10,5-20", "5-9,1-4", "1-4,"])
def test_configuration_refuses_the_same_bins_and_names_its_field(text: str) -> None:
    for written in (text, f"real_age:{text}"):
        with pytest.raises(FieldError) as error:
            Configuration.of("appa_real", age_bins=written)
        assert str(error.value) == f"age_bins {written}: {ADVICE}"
        assert error.value.as_option == f"--age-bins {written}: {ADVICE}"
