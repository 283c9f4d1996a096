"""Logs: what goes to TensorBoard, and on request to Weights & Biases."""

from pathlib import Path
from typing import Any

from facepack.errors import UsageError
from trainer.run import Run

TENSORBOARD_FOLDER = "tensorboard"


class Logs:
    """Writers of a run; what a stopped run wrote after `step` is taken back."""

    def __init__(self, folder: Path, run: Run, *, step: int, wandb: bool) -> None:
        """Open TensorBoard events in the folder; `wandb` adds a run there (WANDB_MODE=offline needs no network)."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._wandb: Any = None
        if wandb:
            self._wandb = _wandb_run(folder, run)
        purge = step + 1 if step else None
        self._events: Any = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=purge)

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
    return wandb.init(project="facepack", name=folder.name, id=folder.name, dir=folder, config=config, resume="allow")
