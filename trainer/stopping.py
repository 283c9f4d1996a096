"""Stopping: which epoch is the best, and whether training ends, as functions of the history alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from facepack.errors import UsageError
from trainer import checks

if TYPE_CHECKING:
    from trainer.recipe import Recipe

Row = dict[str, float]
"""An epoch, as metrics.csv has it."""

Monitor = Literal["loss", "score"]
"""What makes an epoch the best one, on the validation split: the least loss, or the best score."""


class Stopping(Protocol):
    """A rule that ends training, and what it goes by."""

    @property
    def monitor(self) -> Monitor:
        """What makes an epoch the best one."""

    def is_over(self, history: list[Row], *, best: int) -> bool:
        """True where training ends after these epochs, of which `best` is the best one."""


@dataclass(frozen=True)
class ToTheEnd:
    """All epochs."""

    monitor: Monitor = "loss"

    def is_over(self, history: list[Row], *, best: int) -> bool:  # noqa: ARG002
        """Never."""
        return False


@dataclass(frozen=True)
class Patience:
    """Ends once so many epochs in a row were no better than the best one."""

    epochs: int
    monitor: Monitor = "loss"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"patience {self.epochs}: expected more than 0; stopping=ToTheEnd() trains all epochs")

    def is_over(self, history: list[Row], *, best: int) -> bool:
        """Without a validation split never."""
        return "valid_loss" in history[-1] and len(history) - 1 - best >= self.epochs


@dataclass(frozen=True)
class LossAboveMean:
    """Ends when the validation loss was above its mean for more than `rounds` epochs in a row, while training improved.

    The means are over all epochs before; an epoch counts only while the training loss is below its own mean. The rule
    of the published age groups: see docs/systems.md.
    """

    rounds: int

    monitor: ClassVar[Monitor] = "loss"

    def __post_init__(self) -> None:
        checks.check_not_negative(self, ["rounds"])

    def is_over(self, history: list[Row], *, best: int) -> bool:  # noqa: ARG002
        """Without a validation split never."""
        if "valid_loss" not in history[-1]:
            return False
        counter = 0
        for number in range(1, len(history)):
            earlier, row = history[:number], history[number]
            mean_valid, mean_train = (sum(past[f"{kind}_loss"] for past in earlier) / number for kind in _SPLITS)
            is_above = row["valid_loss"] > mean_valid and row["train_loss"] < mean_train
            counter = counter + 1 if is_above else 0
        return counter > self.rounds


_SPLITS = ("valid", "train")


def best_epoch(history: list[Row], recipe: "Recipe") -> int:
    """The epoch with the least validation loss or the best validation score, the first of equals; without, the last."""
    name, sign, task = "valid_loss", 1.0, recipe.task
    if recipe.stopping.monitor == "score":
        name, sign = f"valid_{task.score}", -1.0 if task.greater_is_better else 1.0
    if name not in history[-1]:
        return int(history[-1]["epoch"])
    values = [sign * row[name] for row in history]
    return int(history[values.index(min(values))]["epoch"])
