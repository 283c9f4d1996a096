"""Protocol of results: what the figures of a split are computed from, and what pages and commands show of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainer.metrics import Floats, Interval
from trainer.plots import Plot


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions for a split, sample by sample, beside the true values."""

    names: tuple[str, ...]
    """Classes or attributes in order; empty for a number."""
    predictions: Floats
    """(num, num_names) probabilities, or (num, 1) numbers."""
    targets: npt.NDArray[Any]
    """(num,), of attributes (num, num_names)."""
    losses: Floats
    """(num,)."""
    prior_loss: float | None = None
    """The loss of always predicting how frequent each class or attribute is."""
    thresholds: Floats | None = None
    """(num_names,) probabilities from which an attribute counts as present, for balanced accuracy."""


@dataclass(frozen=True)
class Figure:
    """A figure of the headline, and what is reached without looking at the image."""

    name: str
    value: str
    baseline: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a bar of 0..1 beside it, and whether it is worse than the baseline."""

    text: str
    bar: float | None = None
    is_worse: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A table for the page of a run."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the sample's row and key, what was predicted, what is true, and how bad it is."""

    row: int
    key: str
    predicted: str
    true: str
    size: str
    """How sure the prediction is, or how far off."""
    badness: float


class Results(Protocol):
    """The figures of a split: a frozen dataclass per kind of task, named by `Task.results`.

    Its fields are the split's entry in scores.json, and are read back strictly by their types.
    """

    are_probabilities: ClassVar[bool]
    """True where predictions are probabilities, which a temperature can calibrate."""
    fits_thresholds: ClassVar[bool]
    """True where `best_thresholds` gives any."""
    mistakes_caption: ClassVar[str]
    """What the pictures of mistakes show."""

    @property
    def num(self) -> int:
        """Samples of the split."""

    @property
    def loss(self) -> float:
        """Mean loss."""

    @property
    def score(self) -> float:
        """The mean of `Task.scores` over the split."""

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the score."""

    @property
    def baseline(self) -> float:
        """The score that is reached without looking at the image."""

    @staticmethod
    def sample_scores(split: SplitPredictions) -> Floats:
        """The score of each sample, (num,), whose mean is that of the split."""

    @classmethod
    def of(cls, split: SplitPredictions) -> "Results":
        """The figures of these predictions."""

    @staticmethod
    def best_thresholds(predictions: Floats, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """What is fitted on the validation split beside the temperature; None for nothing."""

    def headline(self) -> list[Figure]:
        """The few figures that matter."""

    def summary_line(self) -> str:
        """One line for a terminal."""

    def facts(self) -> dict[str, str]:
        """Further figures for the page, by name."""

    def tables(self, split: str) -> list[ResultTable]:
        """Tables for the page."""

    def plots(self, split: str, *, names: tuple[str, ...], predictions: pa.Table | None) -> list[Plot]:
        """Plots for the page; `predictions` are the rows of predictions.parquet where they are shown in full."""

    def small_plot(self, name: str, title: str, *, names: tuple[str, ...]) -> Plot | None:
        """A plot for the page that compares runs, or None."""

    @staticmethod
    def prediction_columns(split: SplitPredictions) -> dict[str, Any]:
        """The columns target and prediction of predictions.parquet, and probabilities where there are."""

    @staticmethod
    def mistakes(predictions: pa.Table, *, names: tuple[str, ...]) -> list[Mistake]:
        """The wrong rows of predictions.parquet, the worst first."""

    @staticmethod
    def photo_lines(values: Sequence[tuple[str, float]]) -> list[str]:
        """The prediction for one photo in words, out of names with probabilities, the likeliest first, or a number."""


# For classes of results


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f} %"


def percents(interval: Interval) -> str:
    """An interval of shares as percentages."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def limits_text(interval: Interval | None) -> str:
    """An interval in brackets behind its figure; nothing without one."""
    return "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"


def loss_text(loss: float, prior_loss: float | None) -> str:
    """A loss, and that of always predicting the frequencies."""
    return f"{loss:.4f}" + ("" if prior_loss is None else f" ({prior_loss:.4f} for frequencies alone)")


def probability_column(probabilities: Floats) -> pa.Array:
    """Probabilities (num, num_names) as a column of predictions.parquet."""
    return pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel(), pa.float32()), probabilities.shape[1])


def split_of(predictions: pa.Table, *, names: tuple[str, ...]) -> SplitPredictions:
    """What rows of predictions.parquet hold, without the losses, which are not there (0)."""
    targets = predictions["target"].to_pylist()
    if not names:
        numbers, true = predictions["prediction"].to_numpy()[:, None], np.array(targets, np.float32)
        return SplitPredictions(names, numbers, true, np.zeros(len(true)))
    if pa.types.is_list(predictions.schema.field("target").type):
        codes = np.array([[name in target for name in names] for target in targets], np.float32)
    else:
        codes = np.array([names.index(target) for target in targets], np.int64)
    return SplitPredictions(names, probabilities_of(predictions), codes, np.zeros(len(codes)))


def probabilities_of(predictions: pa.Table) -> npt.NDArray[np.float32]:
    """The probabilities (num, num_names) in rows of predictions.parquet."""
    column = predictions["probabilities"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(), np.float32).reshape(len(predictions), -1)


def columns_of(predictions: pa.Table) -> tuple[list[int], list[str], list[Any], list[Any]]:
    """Rows, keys, true values and predictions."""
    row, key, target, prediction = (predictions[name].to_pylist() for name in ("row", "key", "target", "prediction"))
    return row, key, target, prediction


def worst_first(mistakes: list[Mistake]) -> list[Mistake]:
    """Sorted by how bad they are; of equals in their order."""
    return sorted(mistakes, key=lambda mistake: -mistake.badness)
