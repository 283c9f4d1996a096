"""Run: the folder of one execution of a recipe, and what run.json says of it."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from facepack.cores import num_cores
from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import recipe as recipes
from trainer.data import ChannelStatistics, TrainedOn
from trainer.recipe import Recipe

RUN_FILE = "run.json"
METRICS_FILE = "metrics.csv"
TIMES_FILE = "times.csv"
SCORES_FILE = "scores.json"
PREDICTIONS_FILE = "predictions.parquet"
REPORT_FILE = "report.html"
LAST_FILE, BEST_FILE = "last.ckpt", "best.ckpt"

_LIBRARIES = ("facepack", "torch", "nvidia-dali-cuda120", "lightning-fabric", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Run:
    """What decides a run, and where it ran: run.json."""

    recipe_name: str
    recipe: Recipe
    data: TrainedOn
    names: tuple[str, ...]
    """What the outputs mean: classes or attributes in order; empty for a number."""
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

    def write(self, folder: Path) -> None:
        """Write run.json, whole."""
        content = asdict(self) | {"recipe": self.recipe.to_dict()}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        Store(str(folder)).write(RUN_FILE, text.encode())

    def check_same(self, other: "Run", *, folder: Path) -> None:
        """Refuse to go on with a run that another one began in this folder."""
        if self.recipe_name != other.recipe_name:
            raise UsageError(
                f"{folder}: holds a run of {other.recipe_name}; give another --out, or delete it for {self.recipe_name}"
            )
        found = self.recipe.differences(other.recipe)
        if not other.is_trained_on([self.data, *([self.negatives] if self.negatives else [])]):
            found["data"] = (self.data.location, f"another build ({other.data.location})")
        if self.weights_digest != other.weights_digest:
            found["weights"] = (self.weights_digest[:16], other.weights_digest[:16])
        if self.precision != other.precision:
            found["precision"] = (self.precision, other.precision)
        if found:
            told = "; ".join(f"{name}: {there} there, {here} here" for name, (here, there) in found.items())
            raise UsageError(f"{folder}: holds another run ({told}); give another --out, or delete it")

    def is_trained_on(self, parts: list[TrainedOn]) -> bool:
        """True where these are the build, and the one of the negatives, that it was trained on."""
        mine = [self.data, *([self.negatives] if self.negatives else [])]
        return [(one.digest, one.plan_digest) for one in mine] == [(one.digest, one.plan_digest) for one in parts]

    def changed_versions(self, other: "Run") -> str:
        """The libraries whose version was another one there, with that version."""
        pairs = other.versions.items()
        return ", ".join(f"{name} {number}" for name, number in pairs if self.versions.get(name) != number)


def read(folder: Path) -> Run:
    """Read run.json; `JobError` where there is no run, or which field is wrong."""
    try:
        content = json.loads((folder / RUN_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JobError(f"{folder}: no {RUN_FILE}, so no run of facepack train") from error
    except ValueError as error:
        raise JobError(f"{folder / RUN_FILE}: not valid: {error}") from error
    try:
        recipe = recipes.from_dict(content.pop("recipe"), where=f"{folder / RUN_FILE}")
        rest = {name: content[name] for name in Run.__dataclass_fields__ if name != "recipe"}
        parts = {name: _part(rest.pop(name)) for name in ("data", "negatives")}
        rest["statistics"] = ChannelStatistics(**{name: tuple(values) for name, values in rest["statistics"].items()})
        rest["names"], rest["size_hw"] = tuple(rest["names"]), tuple(rest["size_hw"])
        return Run(recipe=recipe, **parts, **rest)
    except (KeyError, TypeError, AttributeError) as error:
        raise JobError(f"{folder / RUN_FILE}: damaged: {error} is missing") from error
    except (ValidationError, UsageError) as error:
        raise JobError(f"{folder / RUN_FILE}: damaged: {str(error).splitlines()[0]}") from error


def _part(content: Any) -> Any:
    """What is kept of a build, or None."""
    return TypeAdapter(TrainedOn | None).validate_json(json.dumps(content))


def digest_of(path: Path) -> str:
    """sha256 of a file; `JobError` where it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such checkpoint: the run of it has not come to the end of an epoch") from error


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Short names that tell runs apart."""
    paths = [folder.absolute() for folder in folders]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [f"{path.parent.name}/{path.name}" for path in paths]


def versions() -> dict[str, str]:
    """Versions of what decides results."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> dict[str, str]:
    """What it ran on; no names of machines or people."""
    found = {"processor": _processor(), "cores": f"{num_cores()}", "system": f"{platform.system()}"}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
