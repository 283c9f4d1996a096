"""Run record: all that the folder of a run holds, read back."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from facepack import manifest
from facepack.storage import Store
from trainer import evaluation, runs, scores
from trainer.results.protocol import Results
from trainer.runs import Run
from trainer.scores import Scores
from trainer.stopping import best_epoch


@dataclass(frozen=True)
class RunRecord:
    """A run under way or finished: what decided it, how it went, and how right its network is."""

    folder: Path
    run: Run
    history: list[dict[str, float]]
    """metrics.csv: a row per epoch."""
    times: list[dict[str, float]]
    """times.csv: seconds by purpose, a row per epoch."""
    scores: Scores[Results] | None
    """scores.json; None until the run has ended."""

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord":
        """Read the folder of a run; `JobError` where there is none, or it is damaged."""
        folder = Path(folder)
        run = runs.read(folder)
        history, times = (_rows(folder / name) for name in (runs.METRICS_FILE, runs.TIMES_FILE))
        return cls(folder, run, history, times, scores.read(folder, results=run.recipe.task.results))

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.absolute().name

    @property
    def results(self) -> dict[str, Results]:
        """The figures by split; empty until the run has ended."""
        return self.scores.splits if self.scores else {}

    @property
    def split(self) -> str:
        """The split that counts: test, where there is one; empty without any."""
        return self.scores.split if self.scores else ""

    @property
    def best_epoch(self) -> int | None:
        """Counted from 0; None before the first ended."""
        if self.scores:
            return self.scores.epoch
        return best_epoch(self.history, self.run.recipe) if self.history else None

    @property
    def seconds(self) -> float:
        """Training, validation and checkpoints of all epochs."""
        return sum(self.total(name) for name in ("train_s", "valid_s", "save_s"))

    def total(self, name: str) -> float:
        """The sum of a column of times.csv."""
        return sum(row.get(name, 0.0) for row in self.times)

    @property
    def images_per_s(self) -> float:
        """Mean over all epochs but the first, which reads and decodes, where there are several."""
        rates = [row["images_per_s"] for row in self.times]
        return float(np.mean(rates[1:] or rates)) if rates else 0.0

    def predictions(self, split: str) -> pa.Table | None:
        """The rows of predictions.parquet of a split; None where there are none.

        Columns: key, split, row (in the manifest), target, prediction, and probabilities but for numbers.
        """
        return predictions_in(self.folder, split) if split in self.results else None

    def network(self, device: str | torch.device | None = "cpu") -> nn.Module:
        """The best network, in evaluation mode; `JobError` where the run has not finished an epoch."""
        return evaluation.load_network(self.folder, self.run, device=evaluation.device_of(device)).network


def predictions_in(folder: Path, split: str) -> pa.Table | None:
    """The rows of a split in the predictions.parquet of a folder; None without the file."""
    if not (folder / runs.PREDICTIONS_FILE).exists():
        return None
    table = manifest.read_table(Store(str(folder)), runs.PREDICTIONS_FILE)
    return table.filter(pc.equal(table["split"], split))


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Short names that tell the folders of runs apart."""
    paths = [folder.absolute() for folder in folders]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [f"{path.parent.name}/{path.name}" for path in paths]


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
