"""stopping: the best epoch, and the rules that end training."""

from conftest import tiny

from trainer import stopping
from trainer.recipe import Recipe
from trainer.stopping import LossAboveMean, Patience, ToTheEnd


def rows_of(train_losses: list[float], valid_losses: list[float]) -> list[dict[str, float]]:
    """A history."""
    pairs = enumerate(zip(train_losses, valid_losses, strict=True))
    return [{"epoch": n, "train_loss": t, "valid_loss": v, "valid_accuracy": -v} for n, (t, v) in pairs]


def is_over(history: list[dict[str, float]], recipe: Recipe) -> bool:
    """True where training ends after these epochs."""
    return recipe.stopping.is_over(history, best=stopping.best_epoch(history, recipe))


def test_patience_stops_after_so_many_epochs_without_a_better_one() -> None:
    recipe = tiny(stopping=Patience(2))
    history = rows_of([1.0] * 5, [3.0, 2.0, 2.5, 2.0, 1.0])
    stops = [is_over(history[: n + 1], recipe) for n in range(5)]
    assert stops == [False, False, False, True, False]
    assert stopping.best_epoch(history[:4], recipe) == 1


def test_published_rule_counts_epochs_above_the_mean_and_starts_again() -> None:
    recipe = tiny(stopping=LossAboveMean(rounds=1))
    train_losses, valid_losses = [2.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 2.0, 2.0, 2.0]
    history = rows_of(train_losses, valid_losses)
    # Means of what was before: 1, 1.5, 1.33, 1.5, 1.6. Above it: epochs 1, 3, 4, 5; epoch 2 starts the count again.
    stops = [is_over(history[: n + 1], recipe) for n in range(6)]
    assert stops == [False, False, False, False, True, True]


def test_best_epoch_is_the_first_of_equals_by_loss_or_by_score() -> None:
    history = rows_of([1.0] * 3, [2.0, 1.0, 1.0])
    assert stopping.best_epoch(history, tiny()) == 1
    history[2]["valid_accuracy"] = 0.5
    assert stopping.best_epoch(history, tiny(stopping=ToTheEnd(monitor="score"))) == 2
    without = [{"epoch": 0.0, "train_loss": 1.0}, {"epoch": 1.0, "train_loss": 2.0}]
    assert stopping.best_epoch(without, tiny()) == 1
    for rule in (Patience(1), LossAboveMean(rounds=0), ToTheEnd()):
        assert not is_over(without, tiny(stopping=rule)), "without a validation split"


def test_lowest_error_is_the_best_score_of_a_number() -> None:
    errors = enumerate([5.0, 3.0, 4.0])
    history = [{"epoch": n, "valid_loss": 1.0, "valid_absolute_error": error} for n, error in errors]
    assert stopping.best_epoch(history, tiny("age_modern", stopping=ToTheEnd(monitor="score"))) == 1
