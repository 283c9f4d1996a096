"""Fit: trains a recipe on a build, step by step, so that a killed run goes on as if it never stopped."""

import csv
import io
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from facepack import terminal
from facepack.errors import JobError, UsageError
from facepack.lock import RUN, held
from facepack.storage import Store
from trainer import checkpoint, evaluation, layers, memory, models, optim, runs, weights
from trainer.data import Data, Mixture, Placement
from trainer.evaluation import Trained
from trainer.loading.loader import Batch, Loader
from trainer.logs import Logs
from trainer.progress import TrainingProgress
from trainer.recipe import Recipe
from trainer.runs import Run
from trainer.stopping import Row, best_epoch, should_stop

_CHECK_EVERY = 50
"""Steps between looks at the loss on a GPU, as each look waits for it."""
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Settings:
    """Where and how fast a run goes."""

    device: str = ""
    save_every_s: float = 60.0
    """Seconds between checkpoints within an epoch."""
    wandb: bool = False


@dataclass
class _State:
    """Where a run is, beside weights and optimiser."""

    epoch: int = 0
    step: int = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the epoch so far, over all ranks: loss, score, samples."""
    train_s: float = 0.0
    wait_s: float = 0.0
    save_s: float = 0.0
    history: list[Row] = field(default_factory=list)
    times: list[Row] = field(default_factory=list)
    ended: bool = False


def train(recipe_name: str, recipe: Recipe, *, data: str, out: Path, settings: Settings | None = None) -> Run:
    """Train a recipe on a build, into a folder; go on where the same run was stopped.

    Writes run.json, metrics.csv, times.csv, TensorBoard events, last.ckpt, best.ckpt, and at the end scores.json and
    predictions.parquet. Raises `UsageError` where the folder holds another run or the build does not fit the recipe,
    `JobError` where training fails.
    """
    settings = settings or Settings()
    fabric = _fabric(settings, recipe)
    out = out.absolute()
    trainer = _Trainer(fabric, recipe_name, recipe, data=data, out=out, settings=settings)
    if fabric.is_global_zero:
        Store(str(out)).make()
    with held(Store(str(out)), work=RUN) if fabric.is_global_zero else nullcontext():
        try:
            with memory.keep_freed_memory(fabric.device):
                trainer.set_up()
                trainer.train()
                return trainer.finish()
        except torch.OutOfMemoryError as error:
            raise JobError(f"the GPU has too little memory: --set batch_size={recipe.batch_size // 2}") from error


def is_first_rank() -> bool:
    """True in the process that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _fabric(settings: Settings, recipe: Recipe) -> Fabric:
    """One process, or the ranks that torchrun started."""
    wanted = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {wanted}: no GPU here that torch can use")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if wanted not in ("cpu", "cuda"):
        raise UsageError(f"--device {wanted}: expected cpu or cuda")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=wanted,
        devices=here,
        num_nodes=world_size // here,
        strategy="ddp" if world_size > 1 else "auto",
        precision=precision_of(recipe, wanted),
    )
    fabric.launch()
    return fabric


def precision_of(recipe: Recipe, device: str) -> Literal["32-true", "bf16-mixed"]:
    """The arithmetic of a recipe on this machine."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16-mixed" if device == "cuda" or _has_bf16() else "32-true"


def _has_bf16() -> bool:
    """True on processors with instructions for bfloat16; others imitate it, slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class _Trainer:
    """A run under way."""

    def __init__(
        self, fabric: Fabric, recipe_name: str, recipe: Recipe, *, data: str, out: Path, settings: Settings
    ) -> None:
        self._fabric, self._recipe, self._out, self._settings = fabric, recipe, out, settings
        # What a run began with is in its checkpoint, and what it was need not be there any more.
        going_on = runs.read(out) if (out / runs.LAST_FILE).exists() and (out / runs.RUN_FILE).exists() else None
        place = Placement(fabric.device, fabric.global_rank, fabric.world_size)
        before = going_on or weights.run_of(recipe.weights)
        self._data = Data(recipe, data, placement=place, statistics=before.statistics if before else None)
        self._train_loader = self._data.loader("train", is_train=True)
        others = [split for split in self._data.splits if split != "train"]
        self._loaders = {split: self._data.loader(split, is_train=False) for split in others}
        self._task = recipe.task
        names = self._train_loader.targets[self._task.target].names
        size_hw = self._train_loader.size_hw
        for split, loader in self._loaders.items():
            if loader.size_hw != size_hw:
                raise UsageError(
                    f"augment gives images of {_size(size_hw)} pixels, eval_augment on {split} {_size(loader.size_hw)}"
                )
        # Last, for it may take long to come, and the build may not fit the recipe.
        begun = None if going_on else weights.find(recipe.weights, network=recipe.network)
        torch.manual_seed(recipe.seed)
        self._network = models.network(recipe.network, num_outputs=self._task.num_outputs(names), size_hw=size_hw)
        self._is_fit_at_once = isinstance(self._network, models.FitAtOnce)
        if self._is_fit_at_once:
            _check_solvable(recipe, fabric)
        if begun is not None:
            weights.load_into(self._network, begun, name=recipe.network)
        layers.freeze(self._network, recipe.freeze)
        learning = [weight.numel() for weight in self._network.parameters() if weight.requires_grad]
        self.run = Run(
            recipe_name=recipe_name,
            recipe=recipe,
            data=self._data.trained_on[0],
            negatives=self._data.trained_on[1] if recipe.negatives else None,
            weights_digest=going_on.weights_digest if going_on else begun.sha256 if begun else "",
            names=names,
            size_hw=size_hw,
            statistics=self._data.statistics,
            num_weights=sum(weight.numel() for weight in self._network.parameters()),
            num_learning=sum(learning),
            precision=precision_of(recipe, fabric.device.type),
            versions=runs.versions(),
            machine=runs.machine(fabric.device),
        )
        self._averaged: AveragedModel | None = None
        self._state = _State()
        self._num_steps = (1 if self._is_fit_at_once else recipe.epochs) * len(self._train_loader)

    def set_up(self) -> None:
        """Put network and optimiser on the device, and go on from the last checkpoint where there is one."""
        recipe, fabric = self._recipe, self._fabric
        kept = None
        if is_first := fabric.is_global_zero:
            Store(str(self._out)).delete_temporary()  # of a run that was killed while it wrote
        if has_begun := (self._out / runs.RUN_FILE).exists():
            began = runs.read(self._out)
            self.run.check_same(began, folder=self._out)
            if is_first and (changed := self.run.changed_versions(began)):
                terminal.warn(f"{self._out}: begun with {changed}; it may not end with the same weights as with that")
            if (self._out / runs.LAST_FILE).exists():
                kept = checkpoint.load(self._out / runs.LAST_FILE)
        self._network.to(fabric.device).to(memory_format=torch.channels_last)
        if recipe.average:
            average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(self._network, multi_avg_fn=average, use_buffers=True)
        optimizer = None if self._is_fit_at_once else optim.optimizer(recipe, self._network)
        if kept is not None:
            self._restore(kept, optimizer)
        self._model: nn.Module = self._network
        if optimizer is not None:
            self._model, self._optimizer = fabric.setup(self._network, optimizer)
        if is_first and not has_begun:
            self.run.write(self._out)

    # The loop

    def train(self) -> None:
        """All epochs that are left."""
        state, fabric = self._state, self._fabric
        is_first = fabric.is_global_zero
        if state.step and is_first and not state.ended and state.epoch < self._recipe.epochs:
            terminal.note(f"{self._out.name}: going on from step {state.step:,}, epoch {state.epoch + 1}")
        logs = None
        if is_first:
            self._warn()
            last = state.history[-1] if state.history else {}
            logs = Logs(self._out, self.run, step=state.step, last=last, wandb=self._settings.wandb)
        progress = TrainingProgress(num_steps=self._num_steps, done=state.step, shown=is_first)
        self._write_history()
        try:
            with progress, _interrupts() as interrupted:
                while state.epoch < self._recipe.epochs and not state.ended:
                    if self._is_fit_at_once:
                        self._solve(progress, interrupted)
                    else:
                        self._train_epoch(progress, logs, interrupted)
                    self._end_epoch(progress, logs)
        finally:
            self._train_loader.close()
            if logs is not None:
                logs.close()

    def _warn(self) -> None:
        """Say what may make a run worth less than it seems."""
        if self._recipe.freeze != "none" and not self._recipe.weights:
            terminal.warn(f"freeze={self._recipe.freeze}: without weights, the layers that stay as they are are random")
        if (others := self.run.negatives) is not None:
            fields = [(name, getattr(others.configuration, name)) for name in ("align", "margin", "size", "encoding")]
            mine = self.run.data.configuration
            differing = [
                f"{name} {value} there, {getattr(mine, name)} here"
                for name, value in fields
                if value != getattr(mine, name)
            ]
            if differing:
                told = ", ".join(differing)
                terminal.warn(
                    f"negatives {others.location}: cut out otherwise ({told}); a network may go by that alone"
                )

    def _train_epoch(self, progress: TrainingProgress, logs: Logs | None, interrupted: list[int]) -> None:
        """The rest of the current epoch."""
        state, recipe, fabric = self._state, self._recipe, self._fabric
        layers.set_training(self._network)
        watch = _Watch(self._data, every=1 if fabric.device.type == "cpu" else _CHECK_EVERY)
        log_every = max(1, len(self._train_loader) // 20)
        saved = asked = time.monotonic()
        for batch in self._train_loader:
            state.wait_s += time.monotonic() - asked
            lr = optim.learning_rate(recipe, step=state.step, num_steps=self._num_steps)
            sums, stops = self._step(batch, lr=lr, stops=bool(interrupted))
            state.step += 1
            watch.add(state, sums, lr=lr, rows=batch.rows)
            if logs is not None and state.step % log_every == 0:
                watch.look(state)
                logs.step(state.step, loss=watch.loss, lr=lr)
            now = time.monotonic()
            state.train_s += now - asked
            asked = now
            progress.advance(epoch=state.epoch, loss=watch.loss, num_images=fabric.world_size * len(batch.rows))
            if stops or now - saved > self._settings.save_every_s:
                watch.look(state)
                self._save()
                saved = asked = time.monotonic()
                state.save_s += saved - now
            if stops:
                raise KeyboardInterrupt
        watch.look(state)
        state.train_s += time.monotonic() - asked

    def _solve(self, progress: TrainingProgress, interrupted: list[int]) -> None:
        """Fit a classifier that is no network to the features of all images at once."""
        state, task, network = self._state, self._task, self._network
        assert isinstance(network, models.FitAtOnce)
        features, targets = [], []
        asked = time.monotonic()
        for batch in self._train_loader:
            state.wait_s += time.monotonic() - asked
            features.append(network.features(batch.images))
            targets.append(batch.targets[task.target].cpu())
            state.step += 1
            state.train_s += time.monotonic() - asked
            asked = time.monotonic()
            progress.advance(epoch=0, loss=0.0, num_images=len(batch.rows))
            if interrupted:
                raise KeyboardInterrupt
        every, wanted = np.concatenate(features), torch.cat(targets)
        network.fit(every, wanted.numpy(), seed=self._recipe.seed)
        outputs = network.predict(every).cpu()
        losses, scores = task.losses(outputs, wanted), task.scores(task.predictions(outputs), wanted)
        state.sums = (float(losses.double().sum()), float(scores.double().sum()), float(len(wanted)))
        state.train_s += time.monotonic() - asked

    def _step(self, batch: Batch, *, lr: float, stops: bool) -> tuple[torch.Tensor, bool]:
        """Learn from one batch; gives sums of loss, score and samples, float64 (3,), and whether any rank stops."""
        fabric, recipe, state = self._fabric, self._recipe, self._state
        # What is random in a step depends on the step alone, so that a run that goes on needs no state of it.
        torch.manual_seed((recipe.seed * _SEED_STRIDE + state.step) * fabric.world_size + fabric.global_rank)
        optim.set_learning_rate(self._optimizer, lr)
        targets = batch.targets[self._task.target]
        with layers.frozen_batch_norm_for_single_image(self._network, len(batch.images)):
            outputs, losses = self._losses(batch.images, targets)
        losses = losses * batch.mask
        num_here = batch.mask.sum()
        num_all, num_stops = _summed(torch.stack([num_here, num_here.new_tensor(int(stops))]), fabric)
        # Gradients are averaged over ranks: this makes them those of the mean over the whole batch.
        fabric.backward(losses.sum() * (fabric.world_size / num_all))
        if recipe.clip_norm:
            fabric.clip_gradients(self._model, self._optimizer, max_norm=recipe.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._averaged is not None:
            self._averaged.update_parameters(self._network)
        with torch.no_grad():
            scores = self._task.scores(self._task.predictions(outputs), targets) * batch.mask
            sums = torch.stack([losses.sum().double(), scores.sum().double(), num_here.double()])
            # On one rank nobody else can stop, and asking a GPU would mean waiting for it.
            return _summed(sums, fabric), stops if fabric.world_size == 1 else bool(num_stops)

    def _losses(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs, float32, and the loss of each sample."""
        images = images.contiguous(memory_format=torch.channels_last)
        if not self._recipe.mixup:
            outputs = self._model(images).float()
            return outputs, self._task.losses(outputs, targets)
        share = float(torch.distributions.Beta(self._recipe.mixup, self._recipe.mixup).sample())
        order = torch.randperm(len(images)).to(images.device)
        outputs = self._model(share * images + (1 - share) * images[order]).float()
        losses = share * self._task.losses(outputs, targets)
        return outputs, losses + (1 - share) * self._task.losses(outputs, targets[order])

    def _end_epoch(self, progress: TrainingProgress, logs: Logs | None) -> None:
        """Validate, keep what is best, and write it all down."""
        state, recipe, begun = self._state, self._recipe, time.monotonic()
        loss, score, num = state.sums
        row: Row = {"epoch": state.epoch, "step": state.step}
        row["lr"] = optim.learning_rate(recipe, step=state.step - 1, num_steps=self._num_steps)
        row |= {"train_loss": loss / num, f"train_{self._task.score}": score / num}
        if "valid" in self._loaders:
            loss, score, num_valid = self._validate(self._loaders["valid"])
            if not math.isfinite(loss):
                raise JobError(
                    f"the validation loss is {loss} after epoch {state.epoch + 1}; a lower --set lr may help"
                )
            row |= {"valid_loss": loss / num_valid, f"valid_{self._task.score}": score / num_valid}
        state.history.append(row)
        validated = time.monotonic()
        times: Row = {"epoch": state.epoch, "images_per_s": num / max(state.train_s, 1e-9)}
        times |= {"train_s": state.train_s, "wait_s": state.wait_s, "valid_s": validated - begun}
        best = best_epoch(state.history, recipe)
        if best == state.epoch:
            self._save_best()
        state.ended = self._is_fit_at_once or should_stop(state.history, recipe)
        times["save_s"] = state.save_s
        state.epoch, state.sums = state.epoch + 1, (0.0, 0.0, 0.0)
        state.train_s = state.wait_s = state.save_s = 0.0
        state.times.append(times)
        self._save()
        times["save_s"] += time.monotonic() - validated
        self._write_history()
        told = replace(recipe, epochs=1) if self._is_fit_at_once else recipe
        progress.line(_told(row, times, told, is_best=best == row["epoch"], score=self._task.score))
        if logs is not None:
            logs.epoch(state.step, row | times)

    @torch.inference_mode()
    def _validate(self, loader: Loader | Mixture) -> tuple[float, float, float]:
        """Sums of loss, score and samples over all ranks."""
        self._share_buffers()
        network, task = self._best_weights().eval(), self._task.scored
        sums = torch.zeros(3, dtype=torch.float64, device=self._fabric.device)
        for batch in loader:
            outputs = evaluation.forward(network, batch.images, run=self.run)
            targets = batch.targets[task.target]
            losses = (task.losses(outputs, targets) * batch.mask).sum().double()
            scores = (task.scores(task.predictions(outputs), targets) * batch.mask).sum().double()
            sums += torch.stack([losses, scores, batch.mask.sum().double()])
        loss, score, num = _summed(sums, self._fabric).tolist()
        return loss, score, num

    def _best_weights(self) -> nn.Module:
        """The network that is evaluated: with averaged weights where they are averaged."""
        if self._averaged is None:
            return self._network
        module: nn.Module = self._averaged.module
        return module

    def _share_buffers(self) -> None:
        """Give all ranks the statistics of the first one's batch norm, which are those that are kept."""
        if self._fabric.world_size > 1:
            # Not the count that the averaging keeps: it is the same everywhere, and stays on the CPU.
            for module in (self._network, self._best_weights()):  # in one order on all ranks
                for buffer in module.buffers():
                    torch.distributed.broadcast(buffer, 0)

    # Keeping

    def _save(self) -> None:
        """Write last.ckpt: everything that is needed to go on."""
        if not self._fabric.is_global_zero:
            return
        state = self._state
        content: dict[str, Any] = {name: getattr(state, name) for name in _State.__dataclass_fields__}
        content["network"] = self._network.state_dict()
        content["averaged"] = None if self._averaged is None else self._averaged.state_dict()
        content["optimizer"] = None if self._is_fit_at_once else self._optimizer.state_dict()
        content["loader"] = self._train_loader.state_dict()
        checkpoint.save(self._out / runs.LAST_FILE, content)

    def _restore(self, kept: dict[str, Any], optimizer: torch.optim.Optimizer | None) -> None:
        try:
            self._network.load_state_dict(kept["network"])
            if self._averaged is not None:
                self._averaged.load_state_dict(kept["averaged"])
            if optimizer is not None:
                optimizer.load_state_dict(kept["optimizer"])
            self._train_loader.load_state_dict(kept["loader"])
            self._state = _State(**{name: kept[name] for name in _State.__dataclass_fields__})
        except (KeyError, RuntimeError, TypeError, ValueError, UsageError) as error:
            file = self._out / runs.LAST_FILE
            raise JobError(f"{file}: not of this run: {str(error).splitlines()[0]}; give another --out") from error

    def _save_best(self) -> None:
        if self._fabric.is_global_zero:
            evaluation.save_network(self._out, Trained(self._best_weights(), epoch=self._state.epoch))

    def _write_history(self) -> None:
        """Write metrics.csv and times.csv whole: no gap and no repeat, wherever a run was stopped."""
        if self._fabric.is_global_zero:
            store = Store(str(self._out))
            store.write(runs.METRICS_FILE, _csv(self._state.history))
            store.write(runs.TIMES_FILE, _csv(self._state.times))

    # After the last epoch

    def finish(self) -> Run:
        """Take the best network, calibrate it on valid, and score valid and test."""
        fabric, recipe = self._fabric, self._recipe
        fabric.barrier()
        trained = evaluation.load_network(self._out, self.run, device=fabric.device)
        best = best_epoch(self._state.history, recipe)
        if trained.epoch != best and fabric.is_global_zero:
            terminal.warn(f"{self._out / runs.BEST_FILE}: of epoch {trained.epoch + 1}; the best one was {best + 1}")
        found = {}
        loaders = dict(self._loaders)
        if recipe.score_train:
            loaders["train"] = self._data.loader("train", is_train=False)
        for split, loader in loaders.items():
            with loader:
                found[split] = evaluation.predictions_of(trained.network, loader, run=self.run)
        if fabric.is_global_zero:
            every = {split: one for split, one in found.items() if one is not None}
            if "valid" in every:
                trained = evaluation.calibrated(trained, every["valid"], recipe=recipe)
                evaluation.save_network(self._out, trained)
            evaluation.write_results(every, run=self.run, trained=trained, data=self._data, out=self._out)
        fabric.barrier()
        return self.run


class _Watch:
    """Adds up the losses of the steps, and stops at the first that is no number."""

    def __init__(self, data: Data, *, every: int) -> None:
        self._data, self._every = data, every
        self._pending: list[tuple[int, float, torch.Tensor, torch.Tensor]] = []
        self.loss = 0.0
        """Mean loss of the last batch that was looked at."""

    def add(self, state: _State, sums: torch.Tensor, *, lr: float, rows: torch.Tensor) -> None:
        """Take the sums of a step."""
        self._pending.append((state.step, lr, sums, rows))
        if len(self._pending) >= self._every:
            self.look(state)

    def look(self, state: _State) -> None:
        """Add up what came since the last look; `JobError` names step, learning rate and keys of a batch gone wrong."""
        if not self._pending:
            return
        values = torch.stack([sums for _, _, sums, _ in self._pending]).tolist()
        for (step, lr, _, rows), (loss, score, num) in zip(self._pending, values, strict=True):
            if not math.isfinite(loss):
                keys = ", ".join(self._data.keys(rows.cpu().numpy()))
                raise JobError(
                    f"the loss is {loss} at step {step:,} (epoch {state.epoch + 1}, learning rate {lr:g}); a lower "
                    f"--set lr, or --set clip_norm=1, may help. Keys of the batch: {keys}"
                )
            state.sums = (state.sums[0] + loss, state.sums[1] + score, state.sums[2] + num)
            self.loss = loss / max(num, 1.0)
        self._pending = []


def _check_solvable(recipe: Recipe, fabric: Fabric) -> None:
    """Refuse what only steps can do."""
    name = recipe.network.partition("(")[0]
    if recipe.task.kind != "classes" or recipe.task.num_outputs(("", "")) != 2:
        raise UsageError(f"network {name}: tells classes apart and nothing else: give task=Classes()")
    wrong = [one for one in ("weights", "average", "mixup") if getattr(recipe, one)]
    if wrong:
        raise UsageError(f"network {name}: is fitted at once: {wrong[0]} does not apply to it")
    if fabric.world_size > 1:
        raise UsageError(f"network {name}: is fitted in one process; leave out torchrun")


def _summed(values: torch.Tensor, fabric: Fabric) -> torch.Tensor:
    """The sum over all ranks."""
    if fabric.world_size == 1:
        return values
    summed = values.to(fabric.device).clone()
    torch.distributed.all_reduce(summed)
    return summed


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, so that a step is finished and kept; a second one ends at once."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    try:
        before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread
        yield heard
        return
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def _csv(rows: list[Row]) -> bytes:
    if not rows:
        return b""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _told(row: Row, times: Row, recipe: Recipe, *, is_best: bool, score: str) -> str:
    """One line on an epoch."""
    what = score.replace("_", " ")
    parts = [f"epoch {row['epoch'] + 1:>3.0f} of {recipe.epochs}"]
    for split in ("train", "valid"):
        if f"{split}_loss" in row:
            parts += [f"{split} loss {row[f'{split}_loss']:.4f} {what} {row[f'{split}_{score}']:.4f}"]
    parts.append(
        f"{times['images_per_s']:,.0f} images/s, {100 * times['wait_s'] / max(times['train_s'], 1e-9):.1f} % waiting"
    )
    return ", ".join(parts) + (" *" if is_best else "")
