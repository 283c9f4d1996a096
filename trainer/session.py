"""Session: a training run under way, and last.ckpt, in which all of it is kept."""

import csv
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import (
    checkpoint,
    class_weights,
    compiling,
    evaluation,
    facts,
    layers,
    metrics,
    models,
    optim,
    ranks,
    runs,
    suitability,
    weights,
)
from trainer.data import Data, Mixture, Placement
from trainer.devices import precision_of
from trainer.evaluation import Trained
from trainer.facts import Facts
from trainer.loading.loader import Batch, Loader
from trainer.recipe import Recipe
from trainer.runs import Run
from trainer.stopping import Row, best_epoch
from trainer.task import Classes, TwoClasses
from trainer.watching import EpochEnd, RunStart
from trainer.weights import Weights

_LOGS_PER_EPOCH = 20

log = logging.getLogger("facepack.trainer")


@dataclass
class TrainingState:
    """How far a run is, beside weights and optimiser."""

    epoch: int = 0
    step: int = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the epoch so far, over all ranks: loss, score, samples."""
    train_s: float = 0.0
    wait_s: float = 0.0
    valid_s: float = 0.0
    save_s: float = 0.0
    history: list[Row] = field(default_factory=list)
    times: list[Row] = field(default_factory=list)
    ended: bool = False

    def begin_epoch(self) -> None:
        """Go to the next epoch."""
        self.epoch, self.sums = self.epoch + 1, (0.0, 0.0, 0.0)
        self.train_s = self.wait_s = self.valid_s = self.save_s = 0.0


class Session:
    """A run under way: its build, its network, how far it is, and its folder."""

    def __init__(
        self, fabric: Fabric, recipe_name: str, recipe: Recipe, *, data: str | list[str], folder: Path
    ) -> None:
        """Open the build and make the network; nothing is written yet. Raises `UsageError` or `JobError`."""
        self.fabric, self.folder = fabric, folder
        # What a run began with is in its checkpoint, and its source may be gone.
        resumed = runs.read(folder) if (folder / runs.LAST_FILE).exists() and _has_begun(folder) else None
        before = resumed or weights.run_of(recipe.start.weights)
        placement = Placement(fabric.device, fabric.global_rank, fabric.world_size)
        self.data = Data(recipe, data, placement=placement, statistics=before.statistics if before else None)
        lines = suitability.of(recipe, _facts(self.data))
        self.train_loader = self.data.loader("train", is_train=True)
        others = [split for split in self.data.splits if split != "train"]
        self.eval_loaders = {split: self.data.loader(split, is_train=False) for split in others}
        _check_sizes(self.train_loader, self.eval_loaders)
        lines += suitability.of_weights(recipe, size_hw=self.train_loader.size_hw)
        for line in lines if fabric.is_global_zero and resumed is None else ():
            log.warning("%s", line)
        task = class_weights.resolved(recipe.task, self.train_loader.targets[recipe.task.target])
        recipe = replace(recipe, task=task)
        # Last, for it may take long to fetch, and the build may not fit the recipe.
        initial = None if resumed else weights.find(recipe.start.weights, network=recipe.network)
        self.network = self._new_network(recipe, initial)
        digest = resumed.weights_digest if resumed else initial.sha256 if initial else ""
        self.run = self._run(recipe_name, recipe, weights_digest=digest)
        self.model: Any = self.network
        """The network as Fabric runs it: in the precision of the run, and on all ranks."""
        self.averaged: AveragedModel | None = None
        self.optimizer: Any = None
        """Fabric's, around torch's; None of a classifier that is fitted at once."""
        self.state = TrainingState()
        self.after_save: Callable[[], None] = lambda: None
        """Called on the first rank whenever a checkpoint was written."""

    @property
    def is_fit_at_once(self) -> bool:
        """True for classifiers that know no steps."""
        return isinstance(self.network, models.FitAtOnce)

    @property
    def num_epochs(self) -> int:
        """The most epochs that there are."""
        return 1 if self.is_fit_at_once else self.run.recipe.epochs

    @property
    def num_steps(self) -> int:
        """The most steps that there are."""
        return self.num_epochs * len(self.train_loader)

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return self.run.recipe.learning_rate(step=self.state.step, num_steps=self.num_steps)

    @property
    def log_every(self) -> int:
        """Steps between looks at the loss that logs take."""
        return max(1, len(self.train_loader) // _LOGS_PER_EPOCH)

    @property
    def start(self) -> RunStart:
        """Where the run is, for its watchers."""
        state = self.state
        return RunStart(
            run=self.run,
            folder=self.folder,
            step=state.step,
            num_steps=self.num_steps,
            num_epochs=self.num_epochs,
            log_every=self.log_every,
            last_row=state.history[-1] if state.history else None,
            is_first_rank=self.fabric.is_global_zero,
        )

    @property
    def best_network(self) -> nn.Module:
        """The network that is evaluated: with averaged weights where they are averaged."""
        if self.averaged is None:
            return self.network
        module: nn.Module = self.averaged.module
        return module

    @property
    def best_epoch(self) -> int:
        """The best epoch so far."""
        return best_epoch(self.state.history, self.run.recipe)

    def set_up(self) -> None:
        """Put network and optimiser on the device, and go on from the last checkpoint where there is one."""
        recipe, fabric = self.run.recipe, self.fabric
        content, has_begun = None, _has_begun(self.folder)
        if fabric.is_global_zero:
            Store(str(self.folder)).delete_temporary()  # of a run that was killed while it wrote
        if has_begun:
            self._check_begun()
            if (self.folder / runs.LAST_FILE).exists():
                content = checkpoint.load(self.folder / runs.LAST_FILE)
        self.network.to(fabric.device).to(memory_format=torch.channels_last)
        if recipe.average:
            average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        if not self.is_fit_at_once:
            self.optimizer = optim.optimizer(recipe.optimizer, self.network, backbone_lr=recipe.start.backbone_lr)
        if content is not None:
            self._restore(content)
        if self.optimizer is not None:
            module = compiling.compiled(self.network, fabric.device) if recipe.compile else self.network
            self.model, self.optimizer = fabric.setup(module, self.optimizer)
        if fabric.is_global_zero and not has_begun:
            self.run.write(self.folder)

    def batches(self) -> Iterator[Batch]:
        """The rest of the epoch; none where the run was stopped after its last step."""
        is_over = self.state.step >= (self.state.epoch + 1) * len(self.train_loader)
        return iter(()) if is_over else iter(self.train_loader)

    def end_epoch(self, validation: Row, *, keep_every: int = 0) -> EpochEnd:
        """Add an epoch to the history; write best.ckpt, last.ckpt, metrics.csv and times.csv.

        Every `keep_every` epochs, and not with 0, the checkpoint is kept under a name of its own as well.
        """
        state, recipe, began = self.state, self.run.recipe, time.monotonic()
        loss, score, num = state.sums
        row: Row = {"epoch": state.epoch, "step": state.step}
        row["lr"] = recipe.learning_rate(step=state.step - 1, num_steps=self.num_steps)
        name = f"train_{recipe.task.score}"
        row |= {"train_loss": loss / num, name: score / num}
        if isinstance(recipe.task, Classes | TwoClasses):  # each right or wrong, so that the share says it all
            row[f"{name}_low"], row[f"{name}_high"] = metrics.interval_of_sums(score, score, num=num)
        row |= validation
        state.history.append(row)
        times: Row = {"epoch": state.epoch, "images_per_s": num / max(state.train_s, 1e-9)}
        times |= {name: getattr(state, name) for name in ("train_s", "wait_s", "valid_s", "save_s")}
        state.times.append(times)
        best = self.best_epoch
        if is_best := best == state.epoch:
            self._save_best()
        state.ended = self.is_fit_at_once or recipe.stopping.is_over(state.history, best=best)
        state.begin_epoch()
        # First, for a run that is killed in between does this epoch again.
        if keep_every and state.epoch % keep_every == 0:
            self._save(runs.kept_file(state.epoch))
        self.save()
        times["save_s"] += time.monotonic() - began
        self.write_history()
        return EpochEnd(state.step, row, times, is_best)

    def save(self) -> None:
        """Write last.ckpt: everything that is needed to go on."""
        self._save(runs.LAST_FILE)
        if self.fabric.is_global_zero:
            self.after_save()

    def _save(self, name: str) -> None:
        if not self.fabric.is_global_zero:
            return
        content: dict[str, Any] = {item.name: getattr(self.state, item.name) for item in fields(TrainingState)}
        content["network"] = self.network.state_dict()
        content["averaged"] = None if self.averaged is None else self.averaged.state_dict()
        content["optimizer"] = None if self.optimizer is None else self.optimizer.state_dict()
        content["scaler"] = self.fabric.strategy.precision.state_dict()  # of the loss in float16
        content["loader"] = self.train_loader.state_dict()
        checkpoint.save(self.folder / name, content)

    def write_history(self) -> None:
        """Write metrics.csv and times.csv whole: no gap and no repeat, wherever a run was stopped."""
        if self.fabric.is_global_zero:
            store = Store(str(self.folder))
            store.write(runs.METRICS_FILE, _csv(self.state.history))
            store.write(runs.TIMES_FILE, _csv(self.state.times))

    def _new_network(self, recipe: Recipe, initial: Weights | None) -> nn.Module:
        """The network of the recipe with its initial weights, and what is frozen frozen; on the CPU."""
        torch.manual_seed(recipe.seed)
        num_outputs = recipe.task.num_outputs(self._names(recipe))
        network = models.network(recipe.network, num_outputs=num_outputs, size_hw=self.train_loader.size_hw)
        if initial is not None and not isinstance(network, models.FitAtOnce):  # which takes none, and is refused later
            with_head = recipe.start.keep_head
            if with_head and initial.run is not None:
                evaluation.check_names(initial.run, self._names(recipe), where=self.data.location, folder=initial.path)
            weights.load_into(network, initial, name=recipe.network, with_head=with_head)
        layers.freeze(network, recipe.start.freeze)
        return network

    def _names(self, recipe: Recipe) -> tuple[str, ...]:
        return self.train_loader.targets[recipe.task.target].names

    def _run(self, recipe_name: str, recipe: Recipe, *, weights_digest: str) -> Run:
        """What run.json holds."""
        parameters = list(self.network.parameters())
        build, *others = self.data.trained_on
        return Run(
            recipe_name=recipe_name,
            recipe=recipe,
            data=build,
            negatives=others[0] if recipe.negatives else None,
            more_data=[] if recipe.negatives else others,
            weights_digest=weights_digest,
            names=self._names(recipe),
            size_hw=self.train_loader.size_hw,
            statistics=self.data.statistics,
            num_weights=sum(weight.numel() for weight in parameters),
            num_learning=sum(weight.numel() for weight in parameters if weight.requires_grad),
            precision=precision_of(recipe, self.fabric.device.type),
            versions=runs.versions(),
            machine=runs.machine(self.fabric.device),
        )

    def _check_begun(self) -> None:
        """Refuse a folder of another run; warn where it was begun with other libraries."""
        begun = runs.read(self.folder)
        self.run.check_same(begun, folder=self.folder)
        if self.fabric.is_global_zero and (changed := self.run.changed_versions(begun)):
            log.warning("%s: begun with %s; it may not end with the same weights as with that", self.folder, changed)

    def _restore(self, content: dict[str, Any]) -> None:
        try:
            self.network.load_state_dict(content["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(content["averaged"])
            if self.optimizer is not None:
                self.optimizer.load_state_dict(content["optimizer"])
            if scaler := content.get("scaler"):
                self.fabric.strategy.precision.load_state_dict(scaler)
            self.train_loader.load_state_dict(content["loader"])
            self.state = TrainingState(**{item.name: content[item.name] for item in fields(TrainingState)})
            if self.state.history and not self.is_fit_at_once:  # by the rule of now, which may be another
                self.state.ended = self.run.recipe.stopping.is_over(self.state.history, best=self.best_epoch)
        except (KeyError, RuntimeError, TypeError, ValueError, UsageError) as error:
            file = self.folder / runs.LAST_FILE
            raise JobError(f"{file}: not of this run: {str(error).splitlines()[0]}; give another --out") from error

    def _save_best(self) -> None:
        if self.fabric.is_global_zero:
            evaluation.save_network(self.folder, Trained(self.best_network, epoch=self.state.epoch))

    def share_buffers(self) -> None:
        """Give all ranks the batch norm statistics of the first one, which are those that are saved."""
        # Not the count that the averaging keeps: it is the same everywhere, and stays on the CPU.
        ranks.share_buffers([self.network, self.best_network])


def _facts(data: Data) -> Facts:
    """What there is in the builds, without that of the negatives."""
    own = data.builds[: len(data.locations)]
    return facts.of([opened.build for opened in own], [opened.table for opened in own])


def _has_begun(folder: Path) -> bool:
    return (folder / runs.RUN_FILE).exists()


def _check_sizes(train_loader: Loader | Mixture, eval_loaders: dict[str, Loader | Mixture]) -> None:
    """Refuse augmentations that give images of different sizes."""
    for split, loader in eval_loaders.items():
        if loader.size_hw != train_loader.size_hw:
            train_size, size = (f"{width}x{height}" for height, width in (train_loader.size_hw, loader.size_hw))
            raise UsageError(f"augment gives images of {train_size} pixels, eval_augment on {split} {size}")


def _csv(rows: list[Row]) -> bytes:
    if not rows:
        return b""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
