"""Evaluation: predictions of a network for every sample of a split, once over all ranks, and how right they are."""

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
from torch import nn

from facepack import manifest
from facepack.errors import FieldError, JobError, UsageError
from facepack.hashing import json_digest
from facepack.storage import Store
from trainer import checkpoint, memory, models, ranks, remote_runs, runs, scores, seen
from trainer.data import Data, Mixture, Placement, TrainedOn
from trainer.loading.loader import Loader
from trainer.recipe import Recipe
from trainer.results import groups
from trainer.results.protocol import Results, SplitPredictions
from trainer.runs import Run
from trainer.scores import Scores
from trainer.task import Task

_MAX_STEPS = 100
_FEWEST_TO_CALIBRATE = 50
_TEMPERATURES = (0.2, 5.0)


@dataclass(frozen=True)
class Predictions:
    """The logits of a network for a split, sample by sample in the order of the manifest."""

    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    """(num, num_outputs)."""
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, mask: npt.NDArray[np.bool_]) -> "Predictions":
        """Those where the mask is true."""
        return Predictions(self.rows[mask], self.logits[mask], self.targets[mask])


@dataclass(frozen=True)
class Trained:
    """A trained network, with what calibrates it."""

    network: nn.Module
    temperature: float = 1.0
    thresholds: npt.NDArray[np.float64] | None = None
    """Per attribute, for balanced accuracy."""
    epoch: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run's network on a build, and the folder that they were written into."""

    folder: Path
    scores: Scores[Results]
    run: Run
    run_name: str
    """The name of the run's folder."""
    builds: list[TrainedOn]
    """The builds that it was scored on: rows of each are counted on after those of the builds before."""

    @property
    def is_own(self) -> bool:
        """True where these are the builds that the run was trained on."""
        return self.run.is_trained_on(self.builds)

    @property
    def results(self) -> dict[str, Results]:
        """The figures by split."""
        return self.scores.splits

    def seen_lines(self, splits: Sequence[str]) -> list[str]:
        """What the run met of splits in training, a line for each where there is something to say."""
        unknown = "what of it the run met in training is not known, as those builds are not at hand"
        lines = [self.scores.seen_line(each) if each in self.scores.seen else f"{each}: {unknown}" for each in splits]
        return [line for line in lines if line]


def device_of(device: str | torch.device | None = "") -> torch.device:
    """The device of this name; without one the GPU where there is one, else the CPU."""
    if isinstance(device, torch.device):
        return device
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise FieldError("device", name, "expected cpu, or cuda where there is a GPU that torch can use")
    return torch.device(name)


def load_network(folder: Path, run: Run, *, device: torch.device) -> Trained:
    """The best network of a run; `JobError` where it is not there or not of this run."""
    content = checkpoint.load(folder / runs.BEST_FILE)
    network = models.network(run.recipe.network, num_outputs=num_outputs(run), size_hw=run.size_hw)
    try:
        network.load_state_dict(content["network"])
        thresholds = None if content["thresholds"] is None else np.array(content["thresholds"])
        network = network.to(device).to(memory_format=torch.channels_last).eval()
        return Trained(network, content["temperature"], thresholds, content["epoch"])
    except (KeyError, RuntimeError, TypeError) as error:
        fault = str(error).splitlines()[0]
        raise JobError(f"{folder / runs.BEST_FILE}: not the network of {folder}: {fault}") from error


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
    """Logits, float32, averaged with those of the mirror images where the recipe has flip_at_test."""
    images = images.contiguous(memory_format=torch.channels_last)
    half = torch.float16 if run.precision == "16-mixed" else torch.bfloat16
    # On a CPU, where a run in float16 may be evaluated, too, that would be slow.
    is_mixed = run.precision == "bf16-mixed" or (run.precision == "16-mixed" and images.is_cuda)
    with torch.autocast(images.device.type, half, enabled=is_mixed):
        logits: torch.Tensor = network(images).float()
        if run.recipe.flip_at_test:
            logits = (logits + network(images.flip(3)).float()) / 2
    return logits


def predictions_of(network: nn.Module, loader: Loader | Mixture, *, run: Run) -> Predictions | None:
    """The logits for every sample of a loader, over all ranks; None on ranks but the first."""
    rows, logits, targets = [], [], []
    name = run.recipe.task.target
    network.eval()
    for batch in loader:
        batch_logits = forward(network, batch.images, run=run)
        rows.append(batch.rows[batch.mask].cpu())
        logits.append(batch_logits[batch.mask].cpu())
        targets.append(batch.targets[name][batch.mask].cpu())
    parts = ranks.gathered(tuple(torch.cat(column).numpy() for column in (rows, logits, targets)))
    if parts is None:
        return None
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    assert len(np.unique(joined[0])) == len(joined[0]) == loader.num_samples, "every sample once"
    return Predictions(*(column[order] for column in joined))


def split_predictions(predictions: Predictions, *, run: Run, trained: Trained) -> SplitPredictions:
    """What the calibrated network predicts for a split, with the losses."""
    task = run.recipe.task.scored
    logits, targets = torch.from_numpy(predictions.logits) / trained.temperature, predictions.targets
    return SplitPredictions(
        names=run.names,
        predictions=task.predictions(logits).numpy(),
        targets=targets,
        losses=task.losses(logits, torch.from_numpy(targets)).numpy(),
        prior_loss=prior_loss(task, targets, num_names=len(run.names)),
        thresholds=trained.thresholds,
    )


def prior_loss(task: Task, targets: npt.NDArray[Any], *, num_names: int) -> float | None:
    """The loss of always predicting how frequent each class or attribute is; None for a number."""
    logits = task.prior_logits(targets, num_names)
    if logits is None:
        return None
    true = torch.from_numpy(targets if targets.ndim == 1 else targets.astype(np.float64))
    return float(task.losses(logits.expand(len(targets), -1), true).mean())


def calibrated(trained: Trained, predictions: Predictions, *, recipe: Recipe) -> Trained:
    """With the temperature and the thresholds that are fitted to these predictions (Guo et al. 2017)."""
    task = recipe.task.scored
    logits, targets = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.targets)
    temperature = 1.0
    if recipe.calibrate and task.results.are_probabilities and len(predictions) >= _FEWEST_TO_CALIBRATE:
        temperature = _temperature(task, logits.double(), targets)
    probabilities = task.predictions(logits / temperature).numpy()
    thresholds = task.results.best_thresholds(probabilities, predictions.targets)
    return replace(trained, temperature=temperature, thresholds=thresholds)


def _temperature(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The number that logits are divided by for the least mean loss, within bounds that a small split needs."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = task.losses(logits / log_temperature.exp(), targets).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    temperature = float(log_temperature.detach().exp())
    low, high = _TEMPERATURES
    return min(max(temperature, low), high) if math.isfinite(temperature) else 1.0


def evaluate(
    folder: str | Path,
    *,
    data: str | Sequence[str] = "",
    splits: Sequence[str] = (),
    device: str | torch.device | None = "",
) -> Evaluation:
    """Score the best network of a run on splits of a build, by default on valid and test of its own; several are mixed.

    Writes scores.json and predictions.parquet: into the run's folder, or for another build into one below it. The
    results are those of all splits that scores.json holds. Raises `UsageError` for a build with other classes or of
    another image size, `JobError` where the run or the build is not there.
    """
    with remote_runs.changed(folder) as place:
        return _evaluated(place, data=data, splits=splits, device=device_of(device))


def _evaluated(folder: Path, *, data: str | Sequence[str], splits: Sequence[str], device: torch.device) -> Evaluation:
    run = runs.read(folder)
    trained = load_network(folder, run, device=device)
    opened = _opened(run, data, folder=folder, device=device)
    is_own = run.is_trained_on(opened.trained_on)
    if is_own and opened.locations != run.locations:  # it was moved
        run = run.moved(opened.locations)
        run.write(folder)
    names = list(splits) or [split for split in opened.splits if split != "train"] or opened.splits
    loaders = {split: opened.loader(split, is_train=False) for split in names}
    for loader in loaders.values():
        _check_fits(loader, run, where=opened.location, folder=folder)
    predictions = {}
    for split, loader in loaders.items():
        with loader, memory.keep_freed_memory(device):
            of_split = predictions_of(trained.network, loader, run=run)
        assert of_split is not None
        predictions[split] = of_split
    out = folder if is_own else folder_on(folder, opened)
    written = write_results(predictions, run=run, trained=trained, data=opened, out=out)
    return Evaluation(out, written, run=run, run_name=folder.absolute().name, builds=opened.trained_on)


def folder_on(folder: Path, data: Data) -> Path:
    """Where the scores of a run on builds that are not its own are kept."""
    place_name = "+".join(Path(location).name for location in data.locations)
    digest = json_digest([(opened.build.digest, opened.build.plan_digest) for opened in data.builds])
    return folder / f"on-{place_name}-{digest[:8]}"


def _opened(run: Run, data: str | Sequence[str], *, folder: Path, device: torch.device) -> Data:
    """The build that is named, or the run's own, which must not have changed."""
    place = Placement(device)
    try:
        opened = Data(run.recipe, data or run.locations, placement=place, statistics=run.statistics)
    except JobError as error:
        hint = "" if data else "; where the build of the run lies now, say with --data"
        raise JobError(f"{error}{hint}") from error
    if run.recipe.fold and not run.is_trained_on(opened.trained_on):  # the folds of another build mean nothing
        recipe = replace(run.recipe, fold="")
        opened = Data(recipe, data or run.locations, placement=place, statistics=run.statistics)
    if not data and not run.is_trained_on(opened.trained_on):
        raise JobError(
            f"{' and '.join(run.locations)}: built anew since {folder} was trained; name it with --data to use it"
        )
    return opened


def _check_fits(loader: Loader | Mixture, run: Run, *, where: str, folder: Path) -> None:
    """Refuse a build whose classes or image size are others than those of a run."""
    check_names(run, loader.targets[run.recipe.task.target].names, where=where, folder=folder)
    if loader.size_hw != run.size_hw:
        size, expected = f"{loader.size_hw[1]}x{loader.size_hw[0]}", f"{run.size_hw[1]}x{run.size_hw[0]}"
        raise UsageError(f"{where}: images of {size} pixels; {folder} was trained on {expected}")


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
    predictions: dict[str, Predictions], *, run: Run, trained: Trained, data: Data, out: Path
) -> Scores[Results]:
    """Score the predictions for some splits; write scores.json and predictions.parquet, where other splits stay."""
    task = run.recipe.task
    written, tables = _of_other_splits(out, run=run, trained=trained, besides=list(predictions))
    for split, of_split in predictions.items():
        computed = split_predictions(of_split, run=run, trained=trained)
        written.splits[split] = task.results.of(computed)
        scores_of_samples = task.results.sample_scores(computed)
        written.groups[split] = groups.by_category(scores_of_samples, data.categories(of_split.rows))
        masks = seen.by_run(run, data, split=split, rows=of_split.rows)
        if masks is not None:
            written.seen[split] = seen.counted(masks)
            is_new = ~seen.any_of(masks, num=len(of_split))
            if is_new.any() and not is_new.all():
                unseen = split_predictions(of_split.chosen(is_new), run=run, trained=trained)
                written.unseen[split] = task.results.of(unseen)
        own = {"key": data.keys(of_split.rows), "split": [split] * len(of_split), "row": of_split.rows}
        tables.append(pa.table(own | task.results.prediction_columns(computed)))
    out.mkdir(parents=True, exist_ok=True)
    if tables:
        metadata = {manifest.METADATA_KEY: json.dumps({"names": list(run.names), "recipe": run.recipe_name})}
        table = pa.concat_tables([table.replace_schema_metadata(metadata) for table in tables])
        manifest.write_table(Store(str(out)), runs.PREDICTIONS_FILE, table=table)
    written.write(out)
    return written


def _of_other_splits(
    out: Path, *, run: Run, trained: Trained, besides: list[str]
) -> tuple[Scores[Results], list[pa.Table]]:
    """Scores and predictions that the same network has for other splits, to add to."""
    none: Scores[Results] = Scores(run.recipe.task.score, trained.epoch, trained.temperature, {})
    try:
        earlier = scores.read(out, results=run.recipe.task.results)
        table = manifest.read_table(Store(str(out)), runs.PREDICTIONS_FILE)
    except (OSError, JobError):
        return none, []
    if earlier is None or replace(earlier, splits={}, groups={}, seen={}, unseen={}) != none:
        return none, []
    for by_split in (earlier.splits, earlier.groups, earlier.seen, earlier.unseen):
        for split in besides:
            by_split.pop(split, None)
    return earlier, [table.filter(pc.equal(table["split"], split)) for split in earlier.splits]
