"""Recipes for any build: network, size, loss and number of steps follow from what is in it."""

import math
import re
from dataclasses import dataclass, replace

from facepack.errors import UsageError
from trainer.facts import Facts, Target
from trainer.layers import Size
from trainer.loading.augment import (
    CenterResizedCrop,
    ColorJitter,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from trainer.loading.targets import ATTRIBUTES, CLASS
from trainer.optim import AdamW
from trainer.recipe import Augmentations, Recipe, Start, modern
from trainer.stopping import ToTheEnd
from trainer.task import Attributes, Classes, Number, Ordinal, Task

MOST_THRESHOLDS = 300
"""Outputs up to which a number is learnt by the thresholds that it is above."""

_BUILD = "facepack build DATASET"
_FEWEST_STEPS, _MOST_STEPS = 600, 40_000
_FEWEST_EPOCHS, _MOST_EPOCHS = 5, 200
_FEW, _MANY, _VERY_MANY = 20_000, 50_000, 300_000
"""Images to train on, from which on batches, networks and images grow."""
_LEAST_SKEW = 4
"""How many times as many images the largest class has as the smallest one, for all to come equally often."""
_HIGHEST_LR = 0.02
_FEWEST_TO_SCORE = 1000
"""Images in valid, from which on a score says more than the loss."""
_SIDED = re.compile(r"(?:^|[^a-z])(?:left|right)(?:$|[^a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class _Kind:
    """What differs from task to task."""

    epochs: int
    """Over a few thousand images."""
    mixup: float


_NAMED, _NUMBER = _Kind(epochs=36, mixup=0.2), _Kind(epochs=70, mixup=0.0)


def classifier(facts: Facts) -> Recipe:
    """Classes of any build: its own, a category (--set target=gender), or bins (--set target=age:0-19,20-).

    A small residual network, or --set network=... with --set weights=...
    """
    target = facts.target(facts.asked.target or _default_classes(facts))
    if target.kind != "classes":
        raise UsageError(
            f"classifier: target {target.name} is {_called(target)}; give bins, such as --set "
            f"target={target.name}:0-19,20-, or take another recipe"
            if target.kind == "number"
            else "classifier: attributes are learnt by the recipe attributes"
        )
    return _fitted(facts, Classes(target.name, label_smoothing=0.05), target=target, kind=_NAMED)


def attributes(facts: Facts) -> Recipe:
    """All attributes of any build at once, each there or not."""
    if not facts.attributes:
        raise UsageError(f"attributes: the build has none; {_there_is(facts)}")
    return _fitted(facts, Attributes(), target=facts.target(ATTRIBUTES), kind=_NAMED)


def regressor(facts: Facts) -> Recipe:
    """A number of any build, such as an age, by one output and the absolute error (--set target=...)."""
    target = _number(facts, "regressor")
    middle, scale = (round(value, 3) for value in (target.mean, target.std))
    return _fitted(facts, Number(target.name, middle=middle, scale=scale or 1.0), target=target, kind=_NUMBER)


def ordinal(facts: Facts) -> Recipe:
    """A number of any build by the whole numbers it is above, which for ages is better than one output."""
    target = _number(facts, "ordinal")
    if not suits_ordinal(target):
        raise UsageError(
            f"ordinal: {target.name} is {target.low:g} to {target.high:g} in train, which gives no or too many "
            f"thresholds (at most {MOST_THRESHOLDS}); take the recipe regressor"
        )
    low, high = math.floor(target.low), math.ceil(target.high)
    return _fitted(facts, Ordinal(target.name, low=low, high=high), target=target, kind=_NUMBER)


def suits_ordinal(target: Target) -> bool:
    """True for numbers of which some, but not too many whole ones lie in the range of train."""
    return 2 <= math.ceil(target.high) - math.floor(target.low) <= MOST_THRESHOLDS


def _default_classes(facts: Facts) -> str:
    if facts.class_names:
        return CLASS
    if len(facts.categories) == 1:
        return facts.categories[0]
    choices = f"--set target={' or '.join(facts.categories)}" if facts.categories else _there_is(facts)
    raise UsageError(f"classifier: the build has no classes; {choices}")


def _number(facts: Facts, recipe_name: str) -> Target:
    names = facts.numbers
    if not facts.asked.target and not names:
        raise UsageError(f"{recipe_name}: the build has no numbers; {_there_is(facts)}")
    if not facts.asked.target and len(names) > 1 and names[0] != "age":
        raise UsageError(f"{recipe_name}: give --set target={' or '.join(names)}")
    target = facts.target(facts.asked.target or names[0])
    if target.kind != "number":
        raise UsageError(f"{recipe_name}: target {target.name} is {_called(target)}, not a number; take classifier")
    return target


def _called(target: Target) -> str:
    return {"classes": "a category", "attributes": "attributes", "number": "a number"}[target.kind]


def _there_is(facts: Facts) -> str:
    """What could be learnt instead."""
    parts = ["classes"] * (len(facts.class_names) > 1) + ["attributes"] * bool(facts.attributes)
    parts += [f"the number {name}" for name in facts.numbers] + [f"the category {name}" for name in facts.categories]
    return f"it has {', '.join(parts)}" if parts else "it has no labels to learn"


def _fitted(facts: Facts, task: Task, *, target: Target, kind: _Kind) -> Recipe:
    """The recipe of a task on these images."""
    num, size_hw = facts.num.get("train", 0), _size(facts)
    batch_size = facts.asked.batch_size or _batch_size(num)
    recipe = modern(
        Recipe(build=_BUILD, network=facts.asked.network or _network(num, size_hw), task=task),
        batch_size=batch_size,
        start=Start(facts.asked.weights, freeze=facts.asked.freeze),
        mixup=kind.mixup,
        calibrate=kind is _NAMED,
        balanced=_is_skewed(target),
        flip_at_test=not _has_sides(target),
        stopping=ToTheEnd("score" if facts.num.get("valid", 0) >= _FEWEST_TO_SCORE else "loss"),
    )
    recipe = _augmented(_paced(recipe, facts, kind=kind), facts, size_hw=size_hw)
    epochs = facts.asked.epochs or recipe.epochs
    return replace(recipe, average=_average(epochs * math.ceil(num / batch_size)))


def _paced(recipe: Recipe, facts: Facts, *, kind: _Kind) -> Recipe:
    """With learning rate and epochs: gentle and short where the network knows something, longer where it begins new."""
    num, root = facts.num.get("train", 0), math.sqrt(recipe.batch_size / 32)
    if facts.asked.weights:
        lr = (3e-3 if facts.asked.freeze == "head" else 1e-3) * root
        epochs = _epochs(num, recipe.batch_size, wanted=kind.epochs // 3, fewest_steps=_FEWEST_STEPS // 2)
        start = replace(recipe.start, backbone_lr=0.3)
        adam = AdamW(lr=round(lr, 5), weight_decay=0.05)
        return replace(recipe, optimizer=adam, epochs=epochs, start=start, clip_norm=1.0)
    lr = min(0.01 * root, _HIGHEST_LR)
    if facts.asked.network and not facts.asked.network.startswith("small_resnet"):
        lr = 1e-3 * root  # others begin with larger steps in their deeper layers
    epochs = _epochs(num, recipe.batch_size, wanted=kind.epochs, fewest_steps=_FEWEST_STEPS)
    return replace(recipe, optimizer=AdamW(lr=round(lr, 5), weight_decay=0.05), epochs=epochs)


def _epochs(num: int, batch_size: int, *, wanted: int, fewest_steps: int) -> int:
    """Epochs between the fewest and the most, of both epochs and steps."""
    steps_per_epoch = max(1, math.ceil(num / batch_size))
    epochs = min(max(wanted, math.ceil(fewest_steps / steps_per_epoch)), _MOST_EPOCHS)
    return max(_FEWEST_EPOCHS, min(epochs, _MOST_STEPS // steps_per_epoch))


def _average(num_steps: int) -> float:
    """The decay of averaged weights: over a tenth of the steps, 100 to 2,000."""
    return round(1 - 1 / min(max(num_steps / 10, 100), 2000), 5)


def _batch_size(num: int) -> int:
    return next((size for most, size in ((_FEW, 32), (_MANY, 64), (_VERY_MANY, 128)) if num < most), 256)


def _network(num: int, size_hw: Size) -> str:
    """A small residual network whose last images are about four to eight pixels wide."""
    width, depth = next(((w, d) for most, w, d in ((_FEW, 32, 1), (_MANY, 48, 1)) if num < most), (64, 2))
    side_px = min(size_hw)
    widths = [width * 2**number for number in range(3 if side_px < 24 else 4)]
    if side_px > 128:
        widths.insert(0, width // 2)
    stride, dropout = 1 if side_px < 48 else 2, 0.5 if num < _MANY else 0.2
    text = f"({', '.join(map(str, widths))})"
    depth_text = f"depth={depth}, " if depth > 1 else ""
    return f"small_resnet(widths={text}, {depth_text}stem_stride={stride}, places=4, dropout={dropout})"


def _size(facts: Facts) -> Size:
    """Height and width of the images that the network gets."""
    height, width = (int(side) for side in _middle(facts.sizes_hw.tolist()))
    if (known := facts.pretraining) is not None:
        if not known.takes_others:
            return known.side_px, known.side_px
        least, most = known.side_px / 2, float(known.side_px)
    elif facts.asked.network or facts.asked.weights:
        least, most = 0.0, math.inf
    else:
        least, most = 0.0, 128.0 if facts.num.get("train", 0) < _MANY else 224.0
    scale = max(min(1.0, most / max(height, width)), least / min(height, width))
    return (height, width) if scale == 1 else (round(height * scale), round(width * scale))


def _middle(sizes_hw: list[list[int]]) -> list[int]:
    """The size in the middle by area."""
    return sorted(sizes_hw, key=lambda size: size[0] * size[1])[len(sizes_hw) // 2]


def _augmented(recipe: Recipe, facts: Facts, *, size_hw: Size) -> Recipe:
    """With what is done to images: random parts and mirror images, and other colours for numbers."""
    aspect = size_hw[1] / size_hw[0]
    ratio = (round(0.9 * aspect, 3), round(1.1 * aspect, 3))
    is_that_size = len(facts.sizes_hw) == 1 and tuple(facts.sizes_hw[0].tolist()) == size_hw
    resized: Augmentations = () if is_that_size else (Resize(size_hw),)
    normalize = Normalize() if facts.pretraining is None else facts.pretraining.normalize
    random: Augmentations = (RandomResizedCrop(scale=(0.6, 1.0), ratio=ratio),)
    random += (RandomHorizontalFlip(),) if recipe.flip_at_test else ()
    random += () if recipe.task.results.are_probabilities else (ColorJitter(0.3, 0.3, 0.3),)
    return replace(
        recipe,
        augment=(*resized, *random, normalize),
        eval_augment=(*resized, CenterResizedCrop(0.9), normalize),
    )


def _is_skewed(target: Target) -> bool:
    """True where classes differ so much in number that the small ones would hardly be learnt."""
    counts = [num for name in target.names if (num := target.num(name, "train"))]
    return target.name == CLASS and len(counts) > 1 and max(counts) >= _LEAST_SKEW * min(counts)


def _has_sides(target: Target) -> bool:
    """True where a mirror image is of another class."""
    return any(_SIDED.search(name.replace("_", " ")) for name in (target.name, *target.names))
