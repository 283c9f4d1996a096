"""Stopping: which epoch is the best, and whether training ends, as functions of the history alone."""

from trainer.recipe import Recipe

Row = dict[str, float]
"""An epoch, as metrics.csv has it."""


def best_epoch(history: list[Row], recipe: Recipe) -> int:
    """The epoch with the least validation loss or the best validation score, the first of equals; without, the last."""
    name, sign = ("valid_loss", 1.0) if recipe.monitor == "loss" else (f"valid_{recipe.task.score}", -1.0)
    if not recipe.task.greater_is_better:
        sign = 1.0
    if name not in history[-1]:
        return int(history[-1]["epoch"])
    values = [sign * row[name] for row in history]
    return int(history[values.index(min(values))]["epoch"])


def should_stop(history: list[Row], recipe: Recipe) -> bool:
    """True where the rule of the recipe ends training after these epochs."""
    if not recipe.patience or "valid_loss" not in history[-1]:
        return False
    if recipe.stop == "patience":
        return len(history) - 1 - best_epoch(history, recipe) >= recipe.patience
    counter = 0
    for number in range(1, len(history)):
        earlier, row = history[:number], history[number]
        mean_valid, mean_train = (sum(one[f"{kind}_loss"] for one in earlier) / number for kind in ("valid", "train"))
        counter = counter + 1 if row["valid_loss"] > mean_valid and row["train_loss"] < mean_train else 0
    return counter > recipe.patience
