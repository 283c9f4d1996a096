"""Results of numbers: absolute errors of a split, by decade, beside those of the median."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainer import metrics, plots
from trainer.metrics import AGE_TOLERANCE_YEARS, Floats, Interval
from trainer.plots import Plot
from trainer.results.protocol import Cell, Figure, Mistake, ResultTable, SplitPredictions, columns_of, percent, percents


@dataclass(frozen=True)
class DecadeRow:
    """The errors of samples whose true value is in one decade."""

    decade: int
    """Its first year."""
    num: int
    error: float
    """Mean absolute error."""
    bias: float
    """Mean error: predicted less true."""
    interval: Interval | None = None
    """The 95 % interval of the error; None for a single sample, and in files of earlier versions."""


@dataclass(frozen=True)
class NumberResults:
    """The figures of a split whose samples have a number each, such as an age in years."""

    num: int
    loss: float
    absolute_error: float
    """Mean absolute error."""
    interval: Interval
    """Its 95 % interval."""
    median: float
    """The mean absolute error of always predicting the median."""
    cumulative_score: float
    """The share of samples with an error of at most five."""
    cumulative_interval: Interval
    """Its 95 % interval."""
    correlation: float
    per_decade: tuple[DecadeRow, ...]

    are_probabilities: ClassVar[bool] = False
    fits_thresholds: ClassVar[bool] = False
    mistakes_caption: ClassVar[str] = "The largest errors: the predicted number, how far it is off, the true number."

    @property
    def score(self) -> float:
        """Mean absolute error."""
        return self.absolute_error

    @property
    def baseline(self) -> float:
        """The mean absolute error of always predicting the median."""
        return self.median

    @staticmethod
    def sample_scores(split: SplitPredictions) -> Floats:
        """Absolute errors."""
        return np.asarray(np.abs(split.predictions[:, 0] - split.targets))

    @classmethod
    def of(cls, split: SplitPredictions) -> "NumberResults":
        """The figures of these predictions."""
        predicted, true = split.predictions[:, 0], split.targets
        errors = cls.sample_scores(split)
        decades = []
        for decade in np.unique(true // 10).astype(int):
            is_in = true // 10 == decade
            bias = float((predicted - true)[is_in].mean())
            limits = metrics.interval(errors[is_in]) if is_in.sum() > 1 else None
            decades.append(DecadeRow(int(10 * decade), int(is_in.sum()), float(errors[is_in].mean()), bias, limits))
        return cls(
            num=len(true),
            loss=float(split.losses.mean()),
            absolute_error=float(errors.mean()),
            interval=metrics.interval(errors),
            median=metrics.median_error(true),
            cumulative_score=metrics.cumulative_score(errors),
            cumulative_interval=metrics.interval(errors <= AGE_TOLERANCE_YEARS),
            correlation=metrics.correlation(predicted, true),
            per_decade=tuple(decades),
        )

    @staticmethod
    def best_thresholds(predictions: Floats, targets: npt.NDArray[Any]) -> None:
        """Nothing."""

    def headline(self) -> list[Figure]:
        """Mean absolute error, and the share of small errors."""
        within = f"within {AGE_TOLERANCE_YEARS} years"
        return [
            Figure(
                "mean absolute error",
                f"{self.absolute_error:.2f}",
                f"{self.interval[0]:.2f} to {self.interval[1]:.2f}; median {self.median:.2f}",
            ),
            Figure(
                within, percent(self.cumulative_score), f"{percents(self.cumulative_interval)}; of {self.num:,} images"
            ),
        ]

    def summary_line(self) -> str:
        """Loss, mean absolute error, and the share of small errors."""
        return (
            f"loss {self.loss:.4f}, absolute error {self.absolute_error:.4f} "
            f"({self.interval[0]:.4f} to {self.interval[1]:.4f}; median {self.median:.4f}), "
            f"within {AGE_TOLERANCE_YEARS} years {self.cumulative_score:.3f} "
            f"({self.cumulative_interval[0]:.3f} to {self.cumulative_interval[1]:.3f}), {self.num:,} images"
        )

    def facts(self) -> dict[str, str]:
        """The loss."""
        return {"loss": f"{self.loss:.4f}"}

    def tables(self, split: str) -> list[ResultTable]:
        """A row per decade."""
        columns = ("from", "images", "mean absolute error", "95 %", "mean error")
        rows = tuple(
            (
                Cell(f"{row.decade}"),
                Cell(f"{row.num:,}"),
                Cell(f"{row.error:.2f}"),
                Cell("{:.2f} to {:.2f}".format(*row.interval) if row.interval else ""),
                Cell(f"{row.bias:+.2f}"),
            )
            for row in self.per_decade
        )
        return [ResultTable(f"By decade on {split}", columns, rows)]

    def plots(self, split: str, *, names: tuple[str, ...], predictions: pa.Table | None) -> list[Plot]:  # noqa: ARG002
        """Predicted against true, the error by true value, and the cumulative score."""
        if predictions is None:
            return []
        true, predicted = (predictions[name].to_numpy() for name in ("target", "prediction"))
        share = f"Share of {split} with an error of at most so many years"
        return [
            plots.predicted_against_true(
                f"predicted-{split}", f"Predicted against true on {split}", true=true, predicted=predicted
            ),
            plots.error_by_value("error-by-age", f"Error against age on {split}", true=true, predicted=predicted),
            plots.cumulative_score("cumulative-score", share, true=true, predicted=predicted),
        ]

    def small_plot(self, name: str, title: str, *, names: tuple[str, ...]) -> Plot | None:  # noqa: ARG002
        """None."""
        return None

    @staticmethod
    def prediction_columns(split: SplitPredictions) -> dict[str, Any]:
        """The true and the predicted number, float32."""
        return {"target": split.targets.astype(np.float32), "prediction": split.predictions[:, 0]}

    @staticmethod
    def mistakes(predictions: pa.Table, *, names: tuple[str, ...]) -> list[Mistake]:  # noqa: ARG004
        """All samples, the largest error first."""
        rows, keys, true, predicted = columns_of(predictions)
        errors = [abs(mine - theirs) for mine, theirs in zip(predicted, true, strict=True)]
        return [
            Mistake(
                rows[number],
                keys[number],
                f"{predicted[number]:.1f}",
                f"{true[number]:g}",
                f"off by {errors[number]:.1f}",
                errors[number],
            )
            for number in np.argsort(-np.array(errors))
        ]

    @staticmethod
    def photo_lines(values: Sequence[tuple[str, float]]) -> list[str]:
        """The number with one decimal place."""
        return [f"{name} {value:.1f}" for name, value in values]
