"""Logs: what goes to TensorBoard, and on request to Weights & Biases."""

import uuid
from pathlib import Path
from typing import Any

from facepack.errors import UsageError
from facepack.storage import Store
from trainer.runs import Run
from trainer.stopping import Row
from trainer.watching import EpochEnd, RunStart, StepEnd, Watcher

TENSORBOARD_FOLDER = "tensorboard"


class Logs(Watcher):
    """Writers of a run on the first rank; what a stopped run wrote after its last checkpoint is taken back."""

    def __init__(self, *, wandb: bool) -> None:
        """`wandb` adds a run in Weights & Biases (WANDB_MODE=offline needs no network)."""
        self._uses_wandb = wandb
        self._wandb: Any = None
        self._events: Any = None
        self._log_every = 1

    def begin(self, start: RunStart) -> None:
        """Open TensorBoard events in the folder of the run, and write its last epoch again."""
        if not start.is_first_rank:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        if self._uses_wandb:
            self._wandb = _wandb_run(start.folder, start.run)
        self._log_every = start.log_every
        last = start.last_row or {}
        purge = int(last.get("step", start.step + 1))
        purge_step = min(purge, start.step + 1)
        self._events = SummaryWriter(str(start.folder / TENSORBOARD_FOLDER), purge_step=purge_step)
        if last:
            self._write_epoch(purge, last)

    def after_step(self, end: StepEnd) -> None:
        """Write loss and learning rate of a step, now and then."""
        if self._events is not None and end.step % self._log_every == 0:
            self._write(end.step, {"step/loss": end.loss, "step/lr": end.lr})

    def after_epoch(self, end: EpochEnd) -> None:
        """Write all figures of an epoch."""
        if self._events is not None:
            self._write_epoch(end.step, end.row | end.times)

    def end(self) -> None:
        """Write what is pending."""
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write_epoch(self, step: int, row: Row) -> None:
        self._write(step, {f"epoch/{name}": value for name, value in row.items() if name not in ("epoch", "step")})

    def _write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)


def _wandb_run(folder: Path, run: Run) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UsageError("--wandb: Weights & Biases is not installed: pip install wandb") from error
    config = run.recipe.to_dict() | {"recipe": run.recipe_name, "build": run.data.digest}
    id_file = folder / "wandb" / "facepack-id"  # names repeat; a run that goes on must find itself
    if not id_file.exists():
        id_file.parent.mkdir(exist_ok=True)
        Store(str(id_file.parent)).write(id_file.name, uuid.uuid4().hex.encode())
    wandb_id = id_file.read_text()
    return wandb.init(project="facepack", name=folder.name, id=wandb_id, dir=folder, config=config, resume="allow")
