"""Run: the folder of one execution of a recipe, and what run.json says of it."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from facepack import manifest
from facepack.errors import JobError, UsageError
from facepack.manifest import Build, Configuration
from facepack.storage import Store
from trainer import recipe as recipes
from trainer.data import Pixels
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
class TrainedOn:
    """What is kept of the build that a run was trained on."""

    location: str
    digest: str
    plan_digest: str
    configuration: Configuration
    class_names: list[str]
    counts: manifest.Counts
    mean: list[float] | None
    std: list[float] | None
    left_out: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, build: Build, location: str) -> "TrainedOn":
        """Take it from build.json."""
        kept = {name: getattr(build, name) for name in cls.__dataclass_fields__ if name != "location"}
        return cls(location=location, **kept)


@dataclass(frozen=True)
class Run:
    """What decides a run, and where it ran: run.json."""

    recipe_name: str
    recipe: Recipe
    data: TrainedOn
    names: tuple[str, ...]
    """What the outputs mean: classes or attributes in order; empty for a number."""
    size_px: tuple[int, int]
    """Height and width of the images that the network gets."""
    pixels: Pixels
    """What images are normalised by."""
    num_weights: int
    num_learning: int
    precision: str
    versions: dict[str, str]
    machine: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write run.json, whole."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("recipe", "data")}
        content |= {"recipe": self.recipe.to_dict(), "data": asdict(self.data), "pixels": asdict(self.pixels)}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        Store(str(folder)).write(RUN_FILE, text.encode())

    def check_same(self, other: "Run", *, folder: Path) -> None:
        """Refuse to go on with a run that another one began in this folder."""
        if self.recipe_name != other.recipe_name:
            raise UsageError(
                f"{folder}: holds a run of {other.recipe_name}; give another --out, or delete it for {self.recipe_name}"
            )
        found = self.recipe.differences(other.recipe)
        if self.data.plan_digest != other.data.plan_digest or self.data.digest != other.data.digest:
            found["data"] = (self.data.location, f"another build ({other.data.location})")
        if self.precision != other.precision:
            found["precision"] = (self.precision, other.precision)
        if found:
            told = "; ".join(f"{name}: {there} there, {here} here" for name, (here, there) in found.items())
            raise UsageError(f"{folder}: holds another run ({told}); give another --out, or delete it")


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
        data = TypeAdapter(TrainedOn).validate_json(json.dumps(content.pop("data")))
        rest = {name: content[name] for name in Run.__dataclass_fields__ if name not in ("recipe", "data")}
    except (KeyError, TypeError, AttributeError) as error:
        raise JobError(f"{folder / RUN_FILE}: damaged: {error} is missing") from error
    except (ValidationError, UsageError) as error:
        raise JobError(f"{folder / RUN_FILE}: damaged: {str(error).splitlines()[0]}") from error
    rest["pixels"] = Pixels(**{name: tuple(values) for name, values in rest["pixels"].items()})
    rest["names"], rest["size_px"] = tuple(rest["names"]), tuple(rest["size_px"])
    return Run(recipe=recipe, data=data, **rest)


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
    found = {"processor": _processor(), "cores": f"{os.cpu_count()}", "system": f"{platform.system()}"}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
