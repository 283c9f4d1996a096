"""Logs: what goes to TensorBoard, and on request to Weights & Biases."""

import uuid
from pathlib import Path
from typing import Any

from facepack.errors import UsageError
from facepack.storage import Store
from trainer.runs import Run

TENSORBOARD_FOLDER = "tensorboard"


class Logs:
    """Writers of a run; what a stopped run wrote after `step` is taken back, and its last epoch written again."""

    def __init__(self, folder: Path, run: Run, *, step: int, last: dict[str, float], wandb: bool) -> None:
        """Open TensorBoard events in the folder; `wandb` adds a run there (WANDB_MODE=offline needs no network)."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._wandb: Any = None
        if wandb:
            self._wandb = _wandb_run(folder, run)
        purge = int(last.get("step", step + 1))
        self._events: Any = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=min(purge, step + 1))
        if last:
            self.epoch(purge, last)

    def step(self, step: int, *, loss: float, lr: float) -> None:
        """Loss and learning rate of a step."""
        self._write(step, {"step/loss": loss, "step/lr": lr})

    def epoch(self, step: int, row: dict[str, float]) -> None:
        """Everything known of an epoch."""
        self._write(step, {f"epoch/{name}": value for name, value in row.items() if name not in ("epoch", "step")})

    def close(self) -> None:
        """Write what is pending."""
        self._events.close()
        if self._wandb is not None:
            self._wandb.finish()

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
    kept = id_file.read_text()
    return wandb.init(project="facepack", name=folder.name, id=kept, dir=folder, config=config, resume="allow")
