"""Results of classes: accuracy, F1, calibration and confusion of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainer import metrics, plots
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

_MAX_CLASSES, _MAX_CONFUSED = 60, 12
_MAX_NAMES_OF_PHOTO, _LEAST_OF_PHOTO = 5, 0.01


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class."""

    name: str
    precision: float
    recall: float
    recall_interval: Interval | None
    """95 %; None without samples."""
    f1: float
    support: int


@dataclass(frozen=True)
class ClassResults:
    """The figures of a split whose samples are of one class each."""

    num: int
    loss: float
    prior_loss: float | None
    accuracy: float
    interval: Interval
    """The 95 % interval of the accuracy."""
    majority: float
    """The accuracy of always predicting the most frequent class."""
    balanced_accuracy: float
    macro_f1: float
    majority_macro_f1: float
    calibration_error: float
    per_class: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Samples by true class (rows) and predicted class (columns)."""
    balanced_interval: Interval | None = None
    """The 95 % interval of the balanced accuracy; None in files of earlier versions."""

    are_probabilities: ClassVar[bool] = True
    fits_thresholds: ClassVar[bool] = False
    mistakes_caption: ClassVar[str] = "The most confident first: the predicted class, its probability, the true class."

    @property
    def score(self) -> float:
        """Accuracy."""
        return self.accuracy

    @property
    def baseline(self) -> float:
        """The accuracy of always predicting the most frequent class."""
        return self.majority

    @staticmethod
    def sample_scores(split: SplitPredictions) -> Floats:
        """1 where the likeliest class is the true one."""
        return np.asarray(split.predictions.argmax(axis=1) == split.targets, np.float64)

    @classmethod
    def of(cls, split: SplitPredictions) -> "ClassResults":
        """The figures of these predictions; a class without samples does not count for means over classes."""
        from sklearn import metrics as sklearn_metrics  # here: it takes two seconds to import

        targets, codes = split.targets, np.arange(len(split.names))
        predicted = split.predictions.argmax(axis=1)
        by_class = sklearn_metrics.precision_recall_fscore_support(targets, predicted, labels=codes, zero_division=0.0)
        _, recall, f1, support = by_class
        is_there, majority = support > 0, float(support.max() / len(targets))
        is_right = cls.sample_scores(split)
        confusion = sklearn_metrics.confusion_matrix(targets, predicted, labels=codes)
        intervals = [metrics.interval(is_right[targets == code]) if support[code] else None for code in codes]
        of_classes = [limits for limits in intervals if limits is not None]
        return cls(
            num=len(targets),
            loss=float(split.losses.mean()),
            prior_loss=split.prior_loss,
            accuracy=float(is_right.mean()),
            interval=metrics.interval(is_right),
            majority=majority,
            balanced_accuracy=float(recall[is_there].mean()),
            macro_f1=float(f1[is_there].mean()),
            majority_macro_f1=float(2 * majority / (1 + majority) / is_there.sum()),
            calibration_error=metrics.calibration_error(split.predictions.max(axis=1), predicted == targets),
            per_class=tuple(
                ClassRow(
                    name=name,
                    precision=float(precision),
                    recall=float(share),
                    recall_interval=intervals[code],
                    f1=float(balance),
                    support=int(number),
                )
                for code, (name, precision, share, balance, number) in enumerate(
                    zip(split.names, *by_class, strict=True)
                )
            ),
            confusion=tuple(tuple(int(count) for count in row) for row in confusion),
            balanced_interval=metrics.interval_of_mean(recall[is_there].tolist(), of_classes),
        )

    @staticmethod
    def best_thresholds(predictions: Floats, targets: npt.NDArray[Any]) -> None:
        """Nothing: the likeliest class is predicted."""

    def headline(self) -> list[Figure]:
        """Accuracy and macro F1."""
        return [
            Figure("accuracy", percent(self.accuracy), f"{percents(self.interval)}; majority {percent(self.majority)}"),
            Figure("macro F1", f"{self.macro_f1:.3f}", f"majority {self.majority_macro_f1:.3f}"),
        ]

    def summary_line(self) -> str:
        """Loss, accuracy, balanced accuracy and macro F1."""
        return (
            f"loss {self.loss:.4f}, accuracy {self.accuracy:.4f} "
            f"({self.interval[0]:.4f} to {self.interval[1]:.4f}; majority {self.majority:.4f}), "
            f"balanced accuracy {self.balanced_accuracy:.4f}{limits_text(self.balanced_interval)}, "
            f"macro F1 {self.macro_f1:.4f} (majority {self.majority_macro_f1:.4f}), {self.num:,} images"
        )

    def facts(self) -> dict[str, str]:
        """Calibration error and loss."""
        return {"calibration error": f"{self.calibration_error:.3f}", "loss": loss_text(self.loss, self.prior_loss)}

    def tables(self, split: str) -> list[ResultTable]:
        """A row per class, the worst F1 first."""
        by_f1 = sorted(self.per_class, key=lambda row: row.f1)
        rows = tuple(
            (
                Cell(row.name),
                Cell(f"{row.precision:.3f}"),
                Cell(f"{row.recall:.3f}"),
                Cell("{:.3f} to {:.3f}".format(*row.recall_interval) if row.recall_interval else ""),
                Cell(f"{row.f1:.3f}", bar=row.f1),
                Cell(f"{row.support:,}"),
            )
            for row in by_f1[:_MAX_CLASSES]
        )
        num_hidden = len(by_f1) - len(rows)
        note = f"and {num_hidden:,} more classes" if num_hidden else ""
        columns = ("class", "precision", "recall", "95 %", "F1", "images")
        return [ResultTable(f"Classes on {split}, the worst first", columns, rows, note)]

    def plots(self, split: str, *, names: tuple[str, ...], predictions: pa.Table | None) -> list[Plot]:  # noqa: ARG002
        """The confusion matrix."""
        title = f"Confusion on {split}, each row adding up to one"
        return [plots.confusion(f"confusion-{split}", title, matrix=np.array(self.confusion), names=names)]

    def small_plot(self, name: str, title: str, *, names: tuple[str, ...]) -> Plot | None:
        """The confusion matrix, where its names can be read."""
        if len(names) > _MAX_CONFUSED:
            return None
        return plots.confusion(f"confusion-{name}", title, matrix=np.array(self.confusion), names=names)

    @staticmethod
    def prediction_columns(split: SplitPredictions) -> dict[str, Any]:
        """The true and the likeliest class by name, and all probabilities."""
        names = np.array(split.names, object)
        return {
            "target": names[split.targets],
            "prediction": names[split.predictions.argmax(axis=1)],
            "probabilities": probability_column(split.predictions),
        }

    @staticmethod
    def mistakes(predictions: pa.Table, *, names: tuple[str, ...]) -> list[Mistake]:  # noqa: ARG004
        """Samples of another class than predicted, the most confident first."""
        rows, keys, true, predicted = columns_of(predictions)
        highest = probabilities_of(predictions).max(axis=1)
        wrong = [
            Mistake(
                rows[number],
                keys[number],
                predicted[number],
                true[number],
                f"{100 * float(highest[number]):.0f} %",
                float(highest[number]),
            )
            for number in range(len(rows))
            if true[number] != predicted[number]
        ]
        return worst_first(wrong)

    @staticmethod
    def photo_lines(values: Sequence[tuple[str, float]]) -> list[str]:
        """The likeliest classes with their probabilities."""
        likely = [pair for pair in values[:_MAX_NAMES_OF_PHOTO] if pair[1] >= _LEAST_OF_PHOTO] or values[:1]
        return [f"{name} {100 * value:.0f} %" for name, value in likely]
