"""Local spread: how far a number is off, against how far those with predictions near to it are off."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LIMIT = 3.5
"""Robust standard deviations from which a number is doubtful (Iglewicz and Hoaglin 1993)."""
_WINDOW = 101
"""Neighbours, the photo itself among them."""
_MAD_TO_STD = 1.4826
"""Of normal noise, the standard deviation as a multiple of the median absolute deviation."""
_LEAST_SHARE = 0.1
"""The least local spread, as a share of the spread of all."""
_ROWS_AT_ONCE = 1 << 15


def local_spread(given: npt.NDArray[np.floating], predicted: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """How much higher a number is usually given than predicted, and the robust standard deviation of that, (num,) each.

    Both are of the 101 photos whose predictions are nearest by rank: their median, and the median absolute deviation
    from it, so that wrong labels among them hardly count. That is the modified z-score of Iglewicz and Hoaglin 1993,
    "How to Detect and Handle Outliers", made local as residuals are in Lei et al. 2018, "Distribution-Free Predictive
    Inference for Regression", section 5.2: networks err more for the old than for the young.
    """
    order = np.argsort(predicted, kind="stable")
    residuals = (given.astype(np.float64) - predicted)[order]
    num, window = len(residuals), min(_WINDOW, len(residuals))
    windows = np.lib.stride_tricks.sliding_window_view(residuals, window) if num else residuals.reshape(0, 1)
    centres, spreads = np.empty(len(windows)), np.empty(len(windows))
    for start in range(0, len(windows), _ROWS_AT_ONCE):
        some = windows[start : start + _ROWS_AT_ONCE]
        middle = np.median(some, axis=1)
        centres[start : start + len(some)] = middle
        spreads[start : start + len(some)] = _MAD_TO_STD * np.median(np.abs(some - middle[:, None]), axis=1)
    whole = _MAD_TO_STD * np.median(np.abs(residuals - np.median(residuals))) if num else 0.0
    nearest = np.clip(np.arange(num) - window // 2, 0, num - window)
    centre, spread = np.empty(num), np.empty(num)
    centre[order] = centres[nearest]
    spread[order] = np.maximum(spreads[nearest], max(_LEAST_SHARE * whole, 1e-6))
    return centre, spread
