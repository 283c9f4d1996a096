"""results: a fourth kind of task is two classes; it trains, and is scored, shown and predicted with as any other."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from conftest import make, tiny, train

from trainer import comparison, evaluation, plots, report
from trainer import task as tasks
from trainer.metrics import Floats
from trainer.plots import Plot
from trainer.prediction import Predictor
from trainer.results.protocol import Cell, Figure, Mistake, Results, ResultTable, SplitPredictions
from trainer.run_record import RunRecord


@dataclass(frozen=True)
class RankResults:
    """Classes in an order, scored by how many places a prediction is off."""

    num: int
    loss: float
    places_off: float
    middle: float
    """Places off when the middle class is always predicted."""
    share_by_distance: tuple[float, ...]

    are_probabilities: ClassVar[bool] = True
    fits_thresholds: ClassVar[bool] = False
    mistakes_caption: ClassVar[str] = "The furthest first."

    @property
    def score(self) -> float:
        return self.places_off

    @property
    def interval(self) -> tuple[float, float]:
        return self.places_off, self.places_off

    @property
    def baseline(self) -> float:
        return self.middle

    @staticmethod
    def sample_scores(split: SplitPredictions) -> Floats:
        return np.asarray(np.abs(split.predictions.argmax(axis=1) - split.targets), np.float64)

    @classmethod
    def of(cls, split: SplitPredictions) -> "RankResults":
        off = np.abs(split.predictions.argmax(axis=1) - split.targets)
        middle = np.abs(len(split.names) // 2 - split.targets).mean()
        shares = tuple(float((off == distance).mean()) for distance in range(len(split.names)))
        return cls(len(off), float(split.losses.mean()), float(off.mean()), float(middle), shares)

    @staticmethod
    def best_thresholds(predictions: Floats, targets: npt.NDArray[Any]) -> None:
        """None."""

    def headline(self) -> list[Figure]:
        return [Figure("places off", f"{self.places_off:.2f}", f"middle {self.middle:.2f}")]

    def summary_line(self) -> str:
        return f"places off {self.places_off:.4f} (middle {self.middle:.4f}), {self.num:,} images"

    def facts(self) -> dict[str, str]:
        return {"exact": f"{100 * self.share_by_distance[0]:.0f} %"}

    def tables(self, split: str) -> list[ResultTable]:
        rows = tuple((Cell(f"{n}"), Cell(f"{share:.3f}", bar=share)) for n, share in enumerate(self.share_by_distance))
        return [ResultTable(f"Predictions by distance on {split}", ("places", "share"), rows)]

    def plots(self, split: str, *, names: tuple[str, ...], predictions: pa.Table | None) -> list[Plot]:  # noqa: ARG002
        line = plots.Line("share", self.share_by_distance)
        return [plots.curves(f"distance-{split}", "Shares by distance", [line], what="share")]

    def small_plot(self, name: str, title: str, *, names: tuple[str, ...]) -> Plot | None:  # noqa: ARG002
        return plots.curves(f"distance-{name}", title, [plots.Line("share", self.share_by_distance)], what="share")

    @staticmethod
    def prediction_columns(split: SplitPredictions) -> dict[str, Any]:
        return {"target": split.targets, "prediction": split.predictions.argmax(axis=1)}

    @staticmethod
    def mistakes(predictions: pa.Table, *, names: tuple[str, ...]) -> list[Mistake]:
        return [
            Mistake(row["row"], row["key"], names[row["prediction"]], names[row["target"]], "off", badness=1.0)
            for row in predictions.to_pylist()
            if row["prediction"] != row["target"]
        ]

    @staticmethod
    def photo_lines(values: Sequence[tuple[str, float]]) -> list[str]:
        return [f"probably {values[0][0]}"]


@dataclass(frozen=True)
class Ranks:
    """One of several classes in an order: as many sigmoids as there are steps between them."""

    target: str = "class"

    results: ClassVar[type[Results]] = RankResults
    greater_is_better: ClassVar[bool] = False
    score: ClassVar[str] = "places_off"

    @property
    def scored(self) -> "Ranks":
        return self

    def num_outputs(self, names: tuple[str, ...]) -> int:
        return len(names) - 1

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        above = (targets[:, None] > torch.arange(logits.shape[1], device=logits.device)).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(dim=1)

    def predictions(self, logits: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(logits[:, :1])
        above = torch.cat([ones, logits.sigmoid().cummin(dim=1).values, 0 * ones], dim=1)
        return above[:, :-1] - above[:, 1:]

    def scores(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (predictions.argmax(dim=1) - targets).abs().float()

    def prior_logits(self, targets: npt.NDArray[Any], num_names: int) -> torch.Tensor:
        above = [float((targets > step).mean()) for step in range(num_names - 1)]
        return torch.tensor(above, dtype=torch.float64).clamp(1e-7, 1 - 1e-7).logit()


def test_fourth_kind_needs_nothing_but_a_task_and_its_results(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tasks.TASKS, "Ranks", Ranks)
    make(celeba, tmp_path / "build", split="60/20/20")
    recipe = tiny(task=Ranks(), calibrate=True)
    assert recipe.to_dict()["task"] == "Ranks(target='class')"
    folder = train(tmp_path / "build", tmp_path / "run", recipe)
    record = RunRecord.read(folder)
    assert record.run.recipe.task == Ranks()
    results = record.results["test"]
    assert isinstance(results, RankResults)
    written = json.loads((folder / "scores.json").read_text())
    assert written["splits"]["test"] == {**asdict(results), "share_by_distance": list(results.share_by_distance)}
    predictions = record.predictions("test")
    assert predictions is not None
    off = np.abs(predictions["target"].to_numpy() - predictions["prediction"].to_numpy())
    assert results.places_off == pytest.approx(off.mean())
    assert evaluation.evaluate(folder, device="cpu").results["test"] == results
    page = report.write(folder).read_text()
    for text in (
        f"middle {results.middle:.2f}",
        "Predictions by distance",
        "Shares by distance",
        "The furthest first.",
    ):
        assert text in page
    compared = comparison.compare([folder, folder], out=tmp_path / "compare.html").read_text()
    assert f"{results.middle:.4f}" in compared
    (predicted,) = Predictor(folder, device="cpu")(sorted((celeba / "img_align_celeba").iterdir())[0])
    assert predicted.lines == (f"probably {next(iter(predicted.probabilities))}",)
    assert sum(predicted.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
