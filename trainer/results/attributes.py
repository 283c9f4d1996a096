"""Results of attributes: accuracy and average precision of each attribute of a split, and their means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainer import metrics
from trainer.metrics import Floats, Interval
from trainer.plots import Plot
from trainer.results.protocol import (
    Cell,
    Figure,
    Mistake,
    ResultTable,
    SplitPredictions,
    columns_of,
    limits_text,
    loss_text,
    percent,
    percents,
    probabilities_of,
    probability_column,
    worst_first,
)

_MAX_MISTAKES_PER_ATTRIBUTE = 3


@dataclass(frozen=True)
class AttributeRow:
    """The figures of one attribute."""

    name: str
    positives: float
    """The share of samples that have it."""
    accuracy: float
    """At a probability of one half."""
    interval: Interval
    """The 95 % interval of the accuracy."""
    majority: float
    """The accuracy of always predicting the more frequent value."""
    balanced_accuracy: float | None
    """At the threshold that is best on the validation split; None where all samples are alike."""
    average_precision: float | None
    balanced_interval: Interval | None = None
    """The 95 % interval of the balanced accuracy; None without one, and in files of earlier versions."""


@dataclass(frozen=True)
class AttributeResults:
    """The figures of a split whose samples have several attributes each: means over the attributes."""

    num: int
    loss: float
    prior_loss: float | None
    positives: float
    accuracy: float
    interval: Interval
    """The 95 % interval of the accuracy, over samples."""
    majority: float
    balanced_accuracy: float | None
    average_precision: float | None
    per_attribute: tuple[AttributeRow, ...]
    balanced_interval: Interval | None = None
    """The 95 % interval of the balanced accuracy, over samples; None without one, and in files of earlier versions."""

    are_probabilities: ClassVar[bool] = True
    fits_thresholds: ClassVar[bool] = True
    mistakes_caption: ClassVar[str] = (
        "Up to three of each attribute, the most confident first: what was predicted, how confidently, what is true."
    )

    @property
    def score(self) -> float:
        """Accuracy."""
        return self.accuracy

    @property
    def baseline(self) -> float:
        """The accuracy of always predicting the more frequent value of each attribute."""
        return self.majority

    @staticmethod
    def sample_scores(split: SplitPredictions) -> Floats:
        """The share of attributes that are right, at a probability of one half."""
        return np.asarray(((split.predictions >= 0.5) == (split.targets >= 0.5)).mean(axis=1))

    @classmethod
    def of(cls, split: SplitPredictions) -> "AttributeResults":
        """The figures of these predictions; an attribute that all samples share has an accuracy alone."""
        thresholds = 0.5 if split.thresholds is None else split.thresholds
        true, is_above = split.targets >= 0.5, split.predictions >= thresholds
        rows = [
            _attribute_row(name, true[:, number], split.predictions[:, number], is_above=is_above[:, number])
            for number, name in enumerate(split.names)
        ]
        return cls(
            num=len(split.targets),
            loss=float(split.losses.mean()),
            prior_loss=split.prior_loss,
            positives=float(np.mean([row.positives for row in rows])),
            accuracy=float(np.mean([row.accuracy for row in rows])),
            interval=metrics.interval(cls.sample_scores(split)),
            majority=float(np.mean([row.majority for row in rows])),
            balanced_accuracy=_mean([row.balanced_accuracy for row in rows]),
            average_precision=_mean([row.average_precision for row in rows]),
            per_attribute=tuple(rows),
            balanced_interval=_balanced_interval(true, is_above),
        )

    @staticmethod
    def best_thresholds(predictions: Floats, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The probability per attribute that gives the best balanced accuracy."""
        return metrics.best_thresholds(predictions, targets)

    def headline(self) -> list[Figure]:
        """Accuracy, balanced accuracy and average precision."""
        baseline = f"{percents(self.interval)}; majority {percent(self.majority)}"
        figures = [Figure("accuracy", percent(self.accuracy), baseline)]
        if self.balanced_accuracy is not None and self.average_precision is not None:
            balanced = percent(self.balanced_accuracy)
            limits = f"{percents(self.balanced_interval)}; " if self.balanced_interval else ""
            figures.append(Figure("balanced accuracy", balanced, f"{limits}50 % for any constant prediction"))
            baseline = f"{self.positives:.3f} for any constant prediction"
            figures.append(Figure("average precision", f"{self.average_precision:.3f}", baseline))
        return figures

    def summary_line(self) -> str:
        """Loss, accuracy, balanced accuracy and average precision."""
        interval = f"{self.interval[0]:.4f} to {self.interval[1]:.4f}"
        accuracy = f"accuracy {self.accuracy:.4f} ({interval}; majority {self.majority:.4f})"
        parts = [f"loss {self.loss:.4f}", accuracy]
        if self.balanced_accuracy is not None and self.average_precision is not None:
            parts.append(f"balanced accuracy {self.balanced_accuracy:.4f}{limits_text(self.balanced_interval)}")
            parts.append(f"average precision {self.average_precision:.4f} (by chance {self.positives:.4f})")
        return ", ".join([*parts, f"{self.num:,} images"])

    def facts(self) -> dict[str, str]:
        """The loss."""
        return {"loss": loss_text(self.loss, self.prior_loss)}

    def tables(self, split: str) -> list[ResultTable]:
        """A row per attribute, the smallest gain over its majority first."""
        accuracy = ("accuracy %", "95 %", "majority %", "gained", "balanced accuracy %", "95 %")
        columns = ("attribute", "positive %", *accuracy, "average precision")
        rows = sorted(self.per_attribute, key=lambda row: row.accuracy - row.majority)
        note = (
            "Accuracy at a probability of one half; balanced accuracy at the threshold that is best on valid. "
            "The average precision of a constant prediction is the share of positives."
        )
        cells = tuple(_attribute_cells(row) for row in rows)
        return [ResultTable(f"Attributes on {split}, by gain over the majority", columns, cells, note)]

    def plots(self, split: str, *, names: tuple[str, ...], predictions: pa.Table | None) -> list[Plot]:  # noqa: ARG002
        """None."""
        return []

    def small_plot(self, name: str, title: str, *, names: tuple[str, ...]) -> Plot | None:  # noqa: ARG002
        """None."""
        return None

    @staticmethod
    def prediction_columns(split: SplitPredictions) -> dict[str, Any]:
        """The true and the predicted attributes (probability of at least one half) by name, and all probabilities."""
        names = np.array(split.names, object)
        listed = pa.list_(pa.string())  # or a split without a single name would be of another type than its neighbours
        return {
            "target": pa.array([names[row].tolist() for row in split.targets >= 0.5], listed),
            "prediction": pa.array([names[row].tolist() for row in split.predictions >= 0.5], listed),
            "probabilities": probability_column(split.predictions),
        }

    @staticmethod
    def mistakes(predictions: pa.Table, *, names: tuple[str, ...]) -> list[Mistake]:
        """The most confident mistakes, up to three per attribute."""
        rows, keys, targets, _ = columns_of(predictions)
        probabilities = probabilities_of(predictions)
        wrong: list[Mistake] = []
        for column, name in enumerate(names):
            true = np.array([name in target for target in targets])
            off = np.abs(probabilities[:, column] - true)
            for number in np.argsort(-off)[:_MAX_MISTAKES_PER_ATTRIBUTE]:
                if off[number] > 0.5:
                    words = (f"not {name}", name) if true[number] else (name, f"not {name}")
                    size = f"{100 * off[number]:.0f} %"
                    wrong.append(Mistake(rows[number], keys[number], *words, size, float(off[number])))
        return worst_first(wrong)

    @staticmethod
    def photo_lines(values: Sequence[tuple[str, float]]) -> list[str]:
        """The attributes with a probability of at least one half, or else the likeliest one."""
        present = [pair for pair in values if pair[1] >= 0.5] or values[:1]
        return [f"{name} {100 * value:.0f} %" for name, value in present]


def _attribute_row(name: str, true: metrics.Truths, probabilities: Floats, *, is_above: metrics.Truths) -> AttributeRow:
    """`is_above` is where probabilities reach the threshold of the attribute."""
    from sklearn import metrics as sklearn_metrics  # here: it takes two seconds to import

    positives, is_right = float(true.mean()), (probabilities >= 0.5) == true
    is_mixed = 0 < positives < 1
    return AttributeRow(
        name=name,
        positives=positives,
        accuracy=float(is_right.mean()),
        interval=metrics.interval(is_right),
        majority=max(positives, 1 - positives),
        balanced_accuracy=metrics.balanced_accuracy(true, is_above) if is_mixed else None,
        balanced_interval=metrics.balanced_interval(true, is_above) if is_mixed else None,
        average_precision=float(sklearn_metrics.average_precision_score(true, probabilities)) if is_mixed else None,
    )


def _attribute_cells(row: AttributeRow) -> tuple[Cell, ...]:
    gained, precision = row.accuracy - row.majority, row.average_precision
    return (
        Cell(row.name),
        *(Cell(f"{100 * share:.1f}") for share in (row.positives, row.accuracy)),
        Cell(percents(row.interval)),
        Cell(f"{100 * row.majority:.1f}"),
        Cell(f"{100 * gained:+.1f}", is_worse=gained < 0),
        Cell("" if row.balanced_accuracy is None else f"{100 * row.balanced_accuracy:.1f}"),
        Cell(percents(row.balanced_interval) if row.balanced_interval else ""),
        Cell("" if precision is None else f"{precision:.3f}", bar=precision),
    )


def _balanced_interval(true: metrics.Truths, is_above: metrics.Truths) -> Interval | None:
    """That of the mean over the attributes that differ between samples; (num, num_names) each.

    The attributes of a sample are not independent, so it is over samples: each counts by how far it moves the mean.
    """
    shares = true.mean(axis=0)
    is_mixed = (shares > 0) & (shares < 1)
    if not is_mixed.any():
        return None
    true, is_right = true[:, is_mixed], (true == is_above)[:, is_mixed]
    weights = np.where(true, 0.5 / true.mean(axis=0), 0.5 / (~true).mean(axis=0))
    recalls = np.where(true, _recall(is_right, true), _recall(is_right, ~true))
    middle = float((weights * is_right).mean())
    low, high = metrics.interval(middle + (weights * (is_right - recalls)).mean(axis=1))
    return max(0.0, low), min(1.0, high)


def _recall(is_right: metrics.Truths, members: metrics.Truths) -> Floats:
    """The share of members that are right, per attribute (num_names,)."""
    return np.asarray((is_right & members).sum(axis=0) / members.sum(axis=0))


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None for none."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
