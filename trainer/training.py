"""Training: trains a recipe on a build, step by step, so that a stopped run goes on as if it never stopped."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from facepack.errors import FieldError, JobError
from facepack.lock import RUN, held
from facepack.storage import Store
from trainer import (
    compiling,
    devices,
    evaluation,
    fit_at_once,
    headspace,
    layers,
    memory,
    metrics,
    ranks,
    remote_runs,
    runs,
    steps,
)
from trainer.interrupts import Interrupts
from trainer.logs import Logs
from trainer.recipe import Recipe
from trainer.runs import Run
from trainer.session import Session, TrainingState
from trainer.stopping import Row
from trainer.watching import StepEnd, Watcher, Watchers

_CHECK_EVERY = 50
"""Steps between looks at the loss on a GPU, as each look waits for it."""

log = logging.getLogger("facepack.trainer")


@dataclass(frozen=True)
class Settings:
    """Where and how fast a run goes."""

    device: str = ""
    save_every_s: float = 60.0
    """Seconds between checkpoints within an epoch."""
    wandb: bool = False
    keep_every: int = 0
    """Epochs between checkpoints that are kept; 0: only the last and the best are."""

    def __post_init__(self) -> None:
        if self.keep_every < 0:
            raise FieldError("keep_every", f"{self.keep_every}", "expected epochs between checkpoints, or 0 for none")


def train(
    recipe_name: str,
    recipe: Recipe,
    *,
    data: str | list[str],
    out: str | Path,
    settings: Settings | None = None,
    watchers: Sequence[Watcher] = (),
) -> Run:
    """Train a recipe on a build, into a folder or a URL; go on where the same run was stopped.

    Writes run.json, metrics.csv, times.csv, TensorBoard events, last.ckpt, best.ckpt, and at the end scores.json and
    predictions.parquet. `watchers` follow it, such as `trainer.progress.TrainingProgress()`. Raises `UsageError` where
    the folder holds another run or the build does not fit the recipe, `JobError` where training fails,
    `KeyboardInterrupt` where it is stopped.
    """
    settings = settings or Settings()
    fabric = devices.launched(settings.device, recipe)
    with remote_runs.opened(out, is_first_here=fabric.local_rank == 0) as place:
        session = Session(fabric, recipe_name, recipe, data=data, folder=place.folder)
        session.after_save = place.put
        return _trained(session, settings=settings, watchers=watchers)


def _trained(session: Session, *, settings: Settings, watchers: Sequence[Watcher]) -> Run:
    """Train and score, while no other process works in the folder."""
    fabric = session.fabric
    if session.is_fit_at_once:
        fit_at_once.check(session)
    store = Store(str(session.folder))
    if fabric.is_global_zero:
        store.make()
    with held(store, work=RUN) if fabric.is_global_zero else nullcontext(), memory.keep_freed_memory(fabric.device):
        try:
            session.set_up()
            with compiling.failures_named():
                _train(session, settings=settings, watchers=watchers)
            run = _score(session)
        except torch.OutOfMemoryError as error:
            parts = 2 * session.run.recipe.accumulate
            raise JobError(
                f"the GPU has too little memory: --set accumulate={parts}, or a smaller batch_size"
            ) from error
    session.after_save()
    return run


def is_first_rank() -> bool:
    """True in the process that writes."""
    return ranks.is_first_rank()


def _train(session: Session, *, settings: Settings, watchers: Sequence[Watcher]) -> None:
    """All epochs that are left, with all that follows them."""
    state, watcher = session.state, Watchers([Logs(wandb=settings.wandb), *watchers])
    if session.fabric.is_global_zero:
        if state.step and not state.ended and state.epoch < session.num_epochs:
            log.info("%s: going on from step %s, epoch %d", session.folder.name, f"{state.step:,}", state.epoch + 1)
        _warn_of_doubts(session.run)
    session.write_history()
    try:
        watcher.begin(session.start)
        if not session.is_fit_at_once:
            _train_by_steps(session, settings=settings, watcher=watcher)
        elif not state.ended:
            fit_at_once.fit(session, watcher=watcher)
            watcher.after_epoch(session.end_epoch(_validate(session)))
    finally:
        session.train_loader.close()
        watcher.end()


def _train_by_steps(session: Session, *, settings: Settings, watcher: Watcher) -> None:
    """The training loop."""
    state = session.state
    with Interrupts() as interrupts:
        while state.epoch < session.num_epochs and not state.ended:
            _train_epoch(session, interrupts, save_every_s=settings.save_every_s, watcher=watcher)
            checkpoint = session.end_epoch(_validate(session), keep_every=settings.keep_every)
            watcher.after_epoch(checkpoint)
            _report_waiting(session, checkpoint.times)


def _train_epoch(session: Session, interrupts: Interrupts, *, save_every_s: float, watcher: Watcher) -> None:
    """The rest of an epoch; `KeyboardInterrupt`, once it is saved, where one is requested on any rank."""
    state, world_size = session.state, session.fabric.world_size
    layers.set_training(session.network)
    sums = _EpochSums(session)
    saved = asked = time.monotonic()
    for batch in session.batches():
        state.wait_s += time.monotonic() - asked
        watcher.before_step(state.step, batch)

        stops, lr = interrupts.requested, session.learning_rate
        outcome = steps.take(session, batch, lr=lr, stops=stops)
        sums.add(outcome.sums, lr=lr, rows=batch.rows)
        # On one rank nobody else can stop, and reading from a GPU would mean waiting for it.
        stops = stops if world_size == 1 else bool(outcome.num_stops)

        now = time.monotonic()
        state.train_s += now - asked
        asked = now
        watcher.after_step(StepEnd(state.step, state.epoch, sums.last_loss, lr, world_size * len(batch.rows)))
        if stops or now - saved > save_every_s:
            sums.read()
            session.save()
            saved = asked = time.monotonic()
            state.save_s += saved - now
        if stops:
            raise KeyboardInterrupt
    sums.read()
    state.train_s += time.monotonic() - asked


def _report_waiting(session: Session, times: Row) -> None:
    """Log a line where one of the first epochs waited for data."""
    share, cache = times["wait_s"] / max(times["train_s"], 1e-9), session.train_loader.cache
    line = headspace.waiting_line(share, epoch=int(times["epoch"]), data=session.data, cache=cache)
    if line and session.fabric.is_global_zero:
        log.info("%s", line)


@torch.inference_mode()
def _validate(session: Session) -> Row:
    """Loss and score on the validation split, over all ranks; empty without one."""
    loader, state, device = session.eval_loaders.get("valid"), session.state, session.fabric.device
    if loader is None:
        return {}
    began = time.monotonic()
    session.share_buffers()
    network, task = session.best_network.eval(), session.run.recipe.task.scored
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in loader:
        logits = evaluation.forward(network, batch.images, run=session.run)
        targets = batch.targets[task.target]
        losses = (task.losses(logits, targets) * batch.mask).sum().double()
        scores = (task.scores(task.predictions(logits), targets) * batch.mask).double()
        sums += torch.stack([losses, scores.sum(), scores.square().sum(), batch.mask.sum().double()])
    loss, score, squares, num = ranks.summed(sums, device=device).tolist()
    if not math.isfinite(loss):
        raise JobError(f"the validation loss is {loss} after epoch {state.epoch + 1}; a lower --set lr may help")
    state.valid_s = time.monotonic() - began
    name, (low, high) = f"valid_{task.score}", metrics.interval_of_sums(score, squares, num=num)
    return {"valid_loss": loss / num, name: score / num, f"{name}_low": low, f"{name}_high": high}


def _score(session: Session) -> Run:
    """Calibrate the best network on the validation split, and score valid and test; write scores.json and the rest."""
    fabric, run, folder = session.fabric, session.run, session.folder
    ranks.wait_for_all()
    trained = evaluation.load_network(folder, run, device=fabric.device)
    best = session.best_epoch
    if trained.epoch != best and fabric.is_global_zero:
        log.warning("%s: of epoch %d; the best one was %d", folder / runs.BEST_FILE, trained.epoch + 1, best + 1)
    loaders = dict(session.eval_loaders)
    if run.recipe.score_train:
        loaders["train"] = session.data.loader("train", is_train=False)
    predictions = {}
    for split, loader in loaders.items():
        with loader:
            predictions[split] = evaluation.predictions_of(trained.network, loader, run=run)
    if fabric.is_global_zero:
        gathered = {split: part for split, part in predictions.items() if part is not None}
        if "valid" in gathered:
            trained = evaluation.calibrated(trained, gathered["valid"], recipe=run.recipe)
            evaluation.save_network(folder, trained)
        evaluation.write_results(gathered, run=run, trained=trained, data=session.data, out=folder)
    ranks.wait_for_all()
    return run


class _EpochSums:
    """Adds the losses of the steps to the state, and stops at the first that is no number."""

    def __init__(self, session: Session) -> None:
        self._data, self._state = session.data, session.state
        self._read_every = 1 if session.fabric.device.type == "cpu" else _CHECK_EVERY
        self._log_every = session.log_every
        self._pending: list[tuple[int, float, torch.Tensor, torch.Tensor]] = []
        self.last_loss = 0.0
        """Mean loss of the last batch that was read."""

    def add(self, sums: torch.Tensor, *, lr: float, rows: torch.Tensor) -> None:
        """Take the sums of a step: loss, score and samples, float64 (3,)."""
        self._pending.append((self._state.step, lr, sums, rows))
        if len(self._pending) >= self._read_every or self._state.step % self._log_every == 0:
            self.read()

    def read(self) -> None:
        """Add up what is pending; `JobError` names step, learning rate and keys of a batch gone wrong."""
        if not self._pending:
            return
        state: TrainingState = self._state
        values = torch.stack([sums for _, _, sums, _ in self._pending]).tolist()
        for (step, lr, _, rows), (loss, score, num) in zip(self._pending, values, strict=True):
            if not math.isfinite(loss):
                keys = ", ".join(self._data.keys(rows.cpu().numpy()))
                raise JobError(
                    f"the loss is {loss} at step {step:,} (epoch {state.epoch + 1}, learning rate {lr:g}); a lower "
                    f"--set lr, or --set clip_norm=1, may help. Keys of the batch: {keys}"
                )
            state.sums = (state.sums[0] + loss, state.sums[1] + score, state.sums[2] + num)
            self.last_loss = loss / max(num, 1.0)
        self._pending = []


def _warn_of_doubts(run: Run) -> None:
    """Warn of what may make a run worth less than it seems."""
    start, negatives, mine = run.recipe.start, run.negatives, run.data.configuration
    if start.freeze != "none" and not start.weights:
        log.warning("freeze=%s: without weights, the layers that stay as they are are random", start.freeze)
    if negatives is None:
        return
    theirs = negatives.configuration
    pairs = {name: (getattr(theirs, name), getattr(mine, name)) for name in ("align", "margin", "size", "encoding")}
    differing = [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]
    if differing:
        message = "negatives %s: cut out otherwise (%s); a network may go by that alone"
        log.warning(message, negatives.location, ", ".join(differing))
