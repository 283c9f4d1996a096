"""Evaluate: what a network says of every sample of a split, once each over all ranks, and how right it is."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed
from torch import nn

from facepack import manifest
from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import checkpoint, memory, metrics, models, runs
from trainer.data import Data, Mixture, Placement
from trainer.loading.loader import Loader
from trainer.recipe import Recipe
from trainer.runs import Run
from trainer.task import Task

_MAX_STEPS = 100
_FEWEST_TO_CALIBRATE = 50
_TEMPERATURES = (0.2, 5.0)


@dataclass(frozen=True)
class Predictions:
    """What a network said of a split, sample by sample in the order of the manifest."""

    rows: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.float32]
    """(num, num_outputs), before they become probabilities."""
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Trained:
    """A network ready to be asked, with what calibrates it."""

    network: nn.Module
    temperature: float = 1.0
    thresholds: npt.NDArray[np.float64] | None = None
    """Per attribute, for balanced accuracy."""
    epoch: int = 0


def load_network(folder: Path, run: Run, *, device: torch.device) -> Trained:
    """The best network of a run; `JobError` where it is not there or not of this run."""
    content = checkpoint.load(folder / runs.BEST_FILE)
    network = models.network(run.recipe.network, num_outputs=num_outputs(run), size_hw=run.size_hw)
    try:
        network.load_state_dict(content["network"])
        thresholds = content["thresholds"]
        kept = None if thresholds is None else np.array(thresholds)
        return Trained(
            network.to(device).to(memory_format=torch.channels_last).eval(),
            content["temperature"],
            kept,
            content["epoch"],
        )
    except (KeyError, RuntimeError, TypeError) as error:
        raise JobError(
            f"{folder / runs.BEST_FILE}: not the network of {folder}: {str(error).splitlines()[0]}"
        ) from error


def save_network(folder: Path, trained: Trained) -> None:
    """Write best.ckpt."""
    thresholds = None if trained.thresholds is None else trained.thresholds.tolist()
    content = {"network": trained.network.state_dict(), "epoch": trained.epoch}
    checkpoint.save(folder / runs.BEST_FILE, content | {"temperature": trained.temperature, "thresholds": thresholds})


def num_outputs(run: Run) -> int:
    """Outputs of the network of a run."""
    return run.recipe.task.num_outputs(run.names)


@torch.inference_mode()
def forward(network: nn.Module, images: torch.Tensor, *, run: Run) -> torch.Tensor:
    """Outputs, float32, averaged with those of the mirror images where the recipe says so."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=run.precision == "bf16-mixed"):
        outputs: torch.Tensor = network(images).float()
        if run.recipe.flip_at_test:
            outputs = (outputs + network(images.flip(3)).float()) / 2
    return outputs


def predictions_of(network: nn.Module, loader: Loader | Mixture, *, run: Run) -> Predictions | None:
    """Ask about every sample of a loader; on ranks but the first None."""
    rows, outputs, targets = [], [], []
    name = run.recipe.task.target
    network.eval()
    for batch in loader:
        kept = batch.mask
        given = forward(network, batch.images, run=run)
        rows.append(batch.rows[kept].cpu())
        outputs.append(given[kept].cpu())
        targets.append(batch.targets[name][kept].cpu())
    part = tuple(torch.cat(one).numpy() for one in (rows, outputs, targets))
    every = _gathered(part)
    if every is None:
        return None
    joined = [np.concatenate(column) for column in zip(*every, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    assert len(np.unique(joined[0])) == len(joined[0]) == loader.num_samples, "every sample once"
    return Predictions(*(column[order] for column in joined))


def _gathered(part: Any) -> list[Any] | None:
    """The parts of all ranks on the first, in order."""
    if not torch.distributed.is_initialized():
        return [part]
    world_size, is_first = torch.distributed.get_world_size(), torch.distributed.get_rank() == 0
    every: list[Any] | None = [None] * world_size if is_first else None
    torch.distributed.gather_object(part, every)
    return every


def scored(found: Predictions, *, run: Run, trained: Trained) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """The figures of a split, and what the calibrated network says: (num, num_names) or (num, 1)."""
    task = run.recipe.task.scored
    outputs = torch.from_numpy(found.outputs) / trained.temperature
    said = task.predictions(outputs).numpy()
    losses = task.losses(outputs, torch.from_numpy(found.targets)).numpy()
    figures = metrics.scores(task, said, found.targets, losses=losses, names=run.names, thresholds=trained.thresholds)
    return figures, said


def calibrated(trained: Trained, found: Predictions, *, recipe: Recipe) -> Trained:
    """With the temperature that gives these answers the least loss, and thresholds that tell attributes apart best."""
    task = recipe.task.scored
    outputs, targets = torch.from_numpy(found.outputs), torch.from_numpy(found.targets)
    temperature = 1.0
    if recipe.calibrate and task.kind != "number" and len(found) >= _FEWEST_TO_CALIBRATE:
        temperature = _temperature(task, outputs.double(), targets)
    if task.kind != "attributes":
        return replace(trained, temperature=temperature)
    said = task.predictions(outputs / temperature).numpy()
    return replace(trained, temperature=temperature, thresholds=metrics.best_thresholds(said, found.targets))


def _temperature(task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The number that outputs are divided by for the least mean loss, within bounds that a small split needs."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = task.losses(outputs / log_temperature.exp(), targets).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = float(log_temperature.detach().exp())
    low, high = _TEMPERATURES
    return min(max(found, low), high) if math.isfinite(found) else 1.0


def evaluate(
    folder: Path, *, data: str = "", splits: Sequence[str] = (), device: torch.device
) -> tuple[dict[str, Any], Path]:
    """Ask the best network of a run about the valid and test splits (or others) of a build, by default its own.

    Writes scores.json and predictions.parquet: into the run's folder, or for another build into one below it; gives the
    figures and that folder. Raises `UsageError` for a build with other classes.
    """
    run = runs.read(folder)
    trained = load_network(folder, run, device=device)
    try:
        opened = Data(
            run.recipe,
            data or run.data.location,
            placement=Placement(device),
            statistics=run.statistics,
        )
    except JobError as error:
        hint = "" if data else "; where the build of the run lies now, say with --data"
        raise JobError(f"{error}{hint}") from error
    is_own = run.is_trained_on(opened.trained_on)
    if not data and not is_own:
        raise JobError(f"{run.data.location}: built anew since {folder} was trained; name it with --data to use it")
    if is_own and opened.location != run.data.location:  # it was moved
        run = replace(run, data=replace(run.data, location=opened.location))
        run.write(folder)
    chosen = list(splits) or [split for split in opened.splits if split != "train"] or opened.splits
    loaders = {split: opened.loader(split, is_train=False) for split in chosen}
    for loader in loaders.values():
        check_names(run, loader.targets[run.recipe.task.target].names, where=opened.location, folder=folder)
        if loader.size_hw != run.size_hw:
            size, expected = f"{loader.size_hw[1]}x{loader.size_hw[0]}", f"{run.size_hw[1]}x{run.size_hw[0]}"
            raise UsageError(f"{opened.location}: images of {size} pixels; {folder} was trained on {expected}")
    found = {}
    for split, loader in loaders.items():
        with loader, memory.keep_freed_memory(device):
            answered = predictions_of(trained.network, loader, run=run)
        assert answered is not None
        found[split] = answered
    out = folder if is_own else folder / f"on-{Path(opened.location).name}-{opened.build.plan_digest[:8]}"
    return write_results(found, run=run, trained=trained, data=opened, out=out), out


def check_names(run: Run, names: tuple[str, ...], *, where: str, folder: Path) -> None:
    """Refuse a build whose classes are others, or in another order, than those a run was trained on."""
    if names == run.names:
        return
    for number, name in enumerate(run.names):
        there = names[number] if number < len(names) else "nothing"
        if there != name:
            raise UsageError(
                f"{where}: its classes are not those of {folder}: number {number} is {there} there, {name} here; "
                "build it with the same --classes"
            )
    raise UsageError(f"{where}: has {len(names)} classes, {folder} was trained on {len(run.names)}")


def write_results(
    found: dict[str, Predictions], *, run: Run, trained: Trained, data: Data, out: Path
) -> dict[str, Any]:
    """Score the answers of some splits; write scores.json and predictions.parquet, where other splits stay."""
    scores: dict[str, Any] = {"score": run.recipe.task.score, "epoch": trained.epoch}
    scores |= {"temperature": trained.temperature, "splits": {}}
    tables = _kept(out, scores, besides=list(found))
    for split, answered in found.items():
        scores["splits"][split], said = scored(answered, run=run, trained=trained)
        tables.append(_table(answered, said, split=split, run=run, keys=data.keys(answered.rows)))
    out.mkdir(parents=True, exist_ok=True)
    store = Store(str(out))
    if tables:
        manifest.write_table(store, runs.PREDICTIONS_FILE, table=pa.concat_tables(tables))
    store.write(runs.SCORES_FILE, (json.dumps(scores, indent=1, ensure_ascii=False) + "\n").encode())
    return scores


def _kept(out: Path, scores: dict[str, Any], *, besides: list[str]) -> list[pa.Table]:
    """What was found before of other splits with the same network: its figures go into `scores`, its rows are given."""
    try:
        before = json.loads((out / runs.SCORES_FILE).read_bytes())
        table = manifest.read_table(Store(str(out)), runs.PREDICTIONS_FILE)
        if any(before[name] != scores[name] for name in ("score", "epoch", "temperature")):
            return []
        others = {split: figures for split, figures in before["splits"].items() if split not in besides}
    except (OSError, ValueError, KeyError, AttributeError, JobError):
        return []
    scores["splits"] |= others
    return [table.filter(pc.equal(table["split"], split)) for split in others]


def _table(found: Predictions, said: npt.NDArray[np.float32], *, split: str, run: Run, keys: list[str]) -> pa.Table:
    """predictions.parquet: key, split, row, target, prediction and probabilities, in the order of the names."""
    columns: dict[str, Any] = {"key": keys, "split": [split] * len(keys), "row": found.rows}
    kind = run.recipe.task.kind
    names = np.array(run.names, object)
    if kind == "classes":
        columns["target"], columns["prediction"] = names[found.targets], names[said.argmax(axis=1)]
    elif kind == "attributes":
        listed = pa.list_(pa.string())  # or a split without a single name would be of another type than its neighbours
        columns["target"] = pa.array([names[one].tolist() for one in found.targets >= 0.5], listed)
        columns["prediction"] = pa.array([names[one].tolist() for one in said >= 0.5], listed)
    else:
        columns["target"], columns["prediction"] = found.targets.astype(np.float32), said[:, 0]
    if kind != "number":
        flat = pa.array(said.ravel(), pa.float32())
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(flat, said.shape[1])
    metadata = {"names": list(run.names), "recipe": run.recipe_name}
    table = pa.table(columns)
    return table.replace_schema_metadata({manifest.METADATA_KEY: json.dumps(metadata)})
