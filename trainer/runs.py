"""Run: run.json, what decides one execution of a recipe and where it ran."""

import json
import platform
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import PlainValidator, TypeAdapter, ValidationError

from facepack import manifest
from facepack.configuration import first_fault
from facepack.cores import num_cores
from facepack.errors import JobError, UsageError
from facepack.hashing import sha256_of
from facepack.manifest import Status
from facepack.storage import Store
from trainer.data import ChannelStatistics, TrainedOn
from trainer.recipe import Recipe, from_dict
from trainer.scores import SCORES_FILE as SCORES_FILE

RUN_FILE = "run.json"
METRICS_FILE = "metrics.csv"
TIMES_FILE = "times.csv"
PREDICTIONS_FILE = "predictions.parquet"
REPORT_FILE = "report.html"
LAST_FILE, BEST_FILE = "last.ckpt", "best.ckpt"
KEPT_PREFIX = "epoch-"
"""Of the names of checkpoints that are kept."""

MAY_CHANGE = ("epochs", "stopping", "schedule")
"""Fields of the recipe that a run may go on with other values of."""

_LIBRARIES = ("facepack", "torch", "nvidia-dali-cuda120", "lightning-fabric", "scikit-learn", "numpy")


def _recipe(content: Any) -> Recipe:
    """A recipe as run.json holds it; pydantic reports the `UsageError`, which is a ValueError."""
    if not isinstance(content, dict):
        raise UsageError("not a recipe")
    return from_dict(content, where="recipe")


@dataclass(frozen=True)
class Change:
    """Settings that a run went on with from an epoch."""

    epoch: int
    """The number of epochs before."""
    settings: dict[str, str]
    """By name, "10, then 20"."""


@dataclass(frozen=True)
class Run:
    """What decides a run, and where it ran: run.json."""

    recipe_name: str
    recipe: Annotated[Recipe, PlainValidator(_recipe)]
    data: TrainedOn
    names: tuple[str, ...]
    """What is predicted: classes or attributes in order; empty for a number."""
    size_hw: tuple[int, int]
    """Height and width of the images that the network gets."""
    statistics: ChannelStatistics
    """What images are normalised by."""
    negatives: TrainedOn | None
    """The build that the class `other` was drawn from."""
    weights_digest: str
    """sha256 of the file of weights that it began with."""
    num_weights: int
    num_learning: int
    precision: str
    versions: dict[str, str]
    machine: dict[str, str]
    more_data: list[TrainedOn] = field(default_factory=list)
    """The other builds of a mixture."""
    changes: list[Change] = field(default_factory=list)
    """What it went on with, in order."""

    def write(self, folder: Path) -> None:
        """Write run.json, whole."""
        content = asdict(self) | {"recipe": self.recipe.to_dict()}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        Store(str(folder)).write(RUN_FILE, text.encode())

    def check_same(self, earlier: "Run", *, folder: Path) -> None:
        """Refuse to go on, in this folder, from a run that differs."""
        if self.recipe_name != earlier.recipe_name:
            advice = f"give another --out, or delete it for {self.recipe_name}"
            raise UsageError(f"{folder}: holds a run of {earlier.recipe_name}; {advice}")
        differences = self.recipe.differences(earlier.recipe)
        if not earlier.is_trained_on(self.builds):
            differences["data"] = (self.data.location, f"another build ({earlier.data.location})")
        if self.weights_digest != earlier.weights_digest:
            differences["weights"] = (self.weights_digest[:16], earlier.weights_digest[:16])
        if self.precision != earlier.precision:
            differences["precision"] = (self.precision, earlier.precision)
        if differences:
            listed = "; ".join(f"{name}: {there} there, {here} here" for name, (here, there) in differences.items())
            advice = "give another --out, or delete it"
            if all(name.partition(".")[0] in MAY_CHANGE for name in differences):
                settings = " ".join(f"--set {name}={here}" for name, (here, _) in differences.items())
                advice += f"; facepack train --resume {folder} {settings} goes on with it"
            raise UsageError(f"{folder}: holds another run ({listed}); {advice}")

    @property
    def builds(self) -> list[TrainedOn]:
        """The builds, and that of the negatives where there is one."""
        return [*self.mixed, *([self.negatives] if self.negatives else [])]

    @property
    def mixed(self) -> list[TrainedOn]:
        """The build, or all builds of a mixture."""
        return [self.data, *self.more_data]

    @property
    def locations(self) -> list[str]:
        """Where the builds of the mixture lie, or the one."""
        return [build.location for build in self.mixed]

    def moved(self, locations: list[str]) -> "Run":
        """The same run, whose builds lie elsewhere now."""
        first, *more = (replace(build, location=place) for build, place in zip(self.mixed, locations, strict=True))
        return replace(self, data=first, more_data=more)

    def num_packed(self, split: str, *, class_name: str | None = None) -> int:
        """Packed images of a split, in all builds of the mixture."""
        choice: dict[str, Any] = {"split": split, "class_name": class_name, "statuses": [Status.PACKED]}
        return sum(manifest.total(build.counts, **choice) for build in self.mixed)

    def is_trained_on(self, builds: list[TrainedOn]) -> bool:
        """True where these are the builds that it was trained on."""
        mine = [(build.digest, build.plan_digest) for build in self.builds]
        return mine == [(build.digest, build.plan_digest) for build in builds]

    def changed_versions(self, other: "Run") -> str:
        """The libraries that have another version in the other run, with that version."""
        pairs = other.versions.items()
        return ", ".join(f"{name} {number}" for name, number in pairs if self.versions.get(name) != number)


def read(folder: Path) -> Run:
    """Read run.json; `JobError` where there is none, or that names the wrong field."""
    try:
        content = (folder / RUN_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JobError(f"{folder}: no {RUN_FILE}, so no run of facepack train") from error
    try:
        return TypeAdapter(Run).validate_json(content, strict=True)
    except ValidationError as error:
        fault = first_fault(error)
        raise JobError(f"{folder / RUN_FILE}: damaged, or of another version ({fault}); train it again") from error


def kept_file(num_epochs: int) -> str:
    """The name of the checkpoint that is kept of a run after so many epochs."""
    return f"{KEPT_PREFIX}{num_epochs:04d}.ckpt"


def digest_of(path: Path) -> str:
    """sha256 of a checkpoint; `JobError` where it is not there."""
    try:
        return sha256_of(path)
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such checkpoint: its run has not finished an epoch") from error


def versions() -> dict[str, str]:
    """Versions of what decides results."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def machine(device: torch.device) -> dict[str, str]:
    """What it ran on; no names of machines or people."""
    machine = {"processor": _processor(), "cores": f"{num_cores()}", "system": f"{platform.system()}"}
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
