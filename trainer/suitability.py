"""Suitability: what a build cannot teach, refused before training, and what may be worth less than it seems."""

from collections.abc import Iterable, Iterator

import numpy as np

from facepack.errors import UsageError
from trainer import weights
from trainer.facts import Facts, Target
from trainer.layers import Size
from trainer.loading.augment import normalizes
from trainer.loading.graphs import Graph
from trainer.loading.targets import POINTS
from trainer.pretraining import pretraining_of
from trainer.recipe import Recipe

_FEW = 10
"""Images of a class in train, below which it is hardly learnt."""
_NUM_NAMED = 5
_SMALL_SHARE = 0.45
"""Of the side that weights were trained at, below which images are small for them."""


def of(recipe: Recipe, facts: Facts) -> list[str]:
    """Warnings before a recipe is trained on a build, a line each; `UsageError` for what cannot work."""
    target = checked_target(recipe, facts)
    _check_sizes(recipe, facts)
    return [*_of_splits(facts), *([] if target is None else _of_names(target, facts))]


def checked_target(recipe: Recipe, facts: Facts) -> Target | None:
    """What a recipe learns from a build, None for boxes and landmarks; `UsageError` for what cannot be learnt."""
    if recipe.task.target in POINTS:
        return None
    target = facts.target(recipe.task.target)
    _check_values(target, facts)
    if recipe.negatives is None:
        _check_several(target, facts)
    return target


def of_weights(recipe: Recipe, *, size_hw: Size) -> list[str]:
    """Warnings where weights of others were trained on images of another size, or normalised otherwise."""
    start = recipe.start
    if not start.weights or weights.run_of(start.weights) is not None:
        return []
    known, step, lines = pretraining_of(recipe.network, start.weights), normalizes(recipe.augment), []
    if known is None:
        return []
    if min(size_hw) < _SMALL_SHARE * known.side_px:
        lines.append(
            f"weights {start.weights} were trained on images of {known.side_px}x{known.side_px} pixels, these are "
            f"{size_hw[1]}x{size_hw[0]}: build with a larger --size, or enlarge them with "
            f"Resize(({known.side_px}, {known.side_px})) at the beginning of augment and eval_augment"
        )
    if step is not None and not step.mean:
        mean, std = (tuple(round(value, 3) for value in values) for values in (known.mean, known.std))
        lines.append(
            f"weights {start.weights} know images that are normalised by their own numbers, not the build's: "
            f"let augment and eval_augment end in Normalize({mean}, {std})"
        )
    return lines


def _of_splits(facts: Facts) -> Iterator[str]:
    """Splits that are missed; one without train is refused where it is loaded."""
    if not facts.num.get("valid") and not facts.num.get("test"):
        yield "no valid and no test split: nothing will be scored; build again with --split 80/10/10"
    elif not facts.num.get("valid"):
        yield "no valid split: the last epoch is taken for the best, and probabilities are not calibrated"
    elif not facts.num.get("test"):
        yield "no test split: the scores are those of valid, by which the best epoch was chosen"


def _check_values(target: Target, facts: Facts) -> None:
    """Refuse images without a value, by name."""
    if not target.missing:
        return
    num, num_all = sum(target.missing.values()), sum(facts.num.values())
    of_splits = ", ".join(f"{count:,} in {split}" for split, count in target.missing.items())
    named = _listed(target.missing_examples, num=num)
    raise UsageError(
        f"target {target.name}: {num:,} of {num_all:,} images have no value ({of_splits}): {named}; "
        "build again with --leave-out FILE that lists them, or choose another target"
    )


def _check_sizes(recipe: Recipe, facts: Facts) -> None:
    """Refuse images of several sizes that stay so."""
    if len(facts.sizes_hw) < 2:
        return
    after_hw = Graph(tuple(recipe.augment), 0, False).sizes_after(facts.sizes_hw)
    if len(np.unique(after_hw, axis=0)) > 1:
        first, last = (f"{width}x{height}" for height, width in (after_hw[0], after_hw[-1]))
        raise UsageError(
            f"the images are of {len(facts.sizes_hw):,} sizes, such as {first} and {last} pixels, and a batch takes "
            "one: build with --size, let augment and eval_augment begin with Resize((height, width)), or take a recipe "
            "for any build, such as classifier"
        )


def _check_several(target: Target, facts: Facts) -> None:
    """Refuse targets that are the same for all images to learn from."""
    num = facts.num.get("train", 0)
    if not num:
        return
    where = f"target {target.name}: all {num:,} images to learn from are"
    if target.kind == "number" and target.low == target.high:
        raise UsageError(f"{where} of {target.low:g}: there is nothing to learn")
    if target.kind == "classes":
        there = [name for name in target.names if target.num(name, "train")]
        if len(there) == 1:
            raise UsageError(f"{where} of one class, {there[0]}: there is nothing to tell apart")
    if target.kind == "attributes" and all(target.num(name, "train") in (0, num) for name in target.names):
        raise UsageError(f"{where} alike in every attribute: there is nothing to tell apart")


def _of_names(target: Target, facts: Facts) -> Iterator[str]:
    """Classes and attributes that cannot be learnt, or whose score cannot be known."""
    in_train = {name: target.num(name, "train") for name in target.names}
    num = facts.num.get("train", 0)
    if target.kind == "attributes":
        same = [name for name, count in in_train.items() if count in (0, num)]
        if same:
            yield f"the same in all images to learn from, so that nothing is learnt of it: {_listed(same)}"
        return
    scored = [split for split in ("valid", "test") if facts.num.get(split)]
    elsewhere = {name: sum(target.num(name, split) for split in scored) for name in target.names}
    if unlearnt := [name for name in target.names if elsewhere[name] and not in_train[name]]:
        num_lost = sum(elsewhere[name] for name in unlearnt)
        yield (
            f"not in train, so that all {num_lost:,} images of it in {' and '.join(scored)} count as wrong: "
            f"{_listed(unlearnt)}"
        )
    if scored and (unscored := [name for name in target.names if in_train[name] and not elsewhere[name]]):
        yield f"in train alone, so that nobody will know how right it is: {_listed(unscored)}"
    if few := [f"{name} ({count})" for name, count in in_train.items() if 0 < count < _FEW]:
        yield f"fewer than {_FEW} images in train, which hardly is enough to learn from: {_listed(few)}"


def _listed(names: Iterable[str], *, num: int = 0) -> str:
    """The first of some names, and how many more there are, of `num` in all."""
    names = list(names)
    shown = names[:_NUM_NAMED]
    num_more = max(num, len(names)) - len(shown)
    return f"{', '.join(shown)}{f' and {num_more:,} more' if num_more else ''}"
