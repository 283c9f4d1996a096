"""Recipe: a training set-up, complete and written down, and how one of its fields is changed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from facepack.errors import UsageError, nearest
from trainer import calls, layers
from trainer.loading import augment as augmenting
from trainer.loading.augment import Augmentation, Normalize, RandomHorizontalFlip
from trainer.task import TASKS, Classes, Task

UNIT = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""ChannelStatistics in 0..1, as the published systems have them."""

IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's weights were trained with."""

FREEZE = ("none", "head", "last_block")

Augmentations = tuple[Augmentation, ...]
_CALLS: dict[str, Any] = {
    name: one
    for name, one in vars(augmenting).items()
    if isinstance(one, type) and hasattr(one, "graph") and one is not Augmentation
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a run, but for the data and the arithmetic of the machine."""

    build: str
    """The command that makes the build it is for; any build with the target will do."""
    network: str
    """A network of trainer/models with its settings, such as "simpsons_cnn(dropout=0.5)"."""
    task: Task = field(default_factory=Classes)
    augment: Augmentations = (RandomHorizontalFlip(), Normalize())
    """What is done to images in training."""
    eval_augment: Augmentations = (Normalize(),)
    """What is done to images elsewhere."""
    optimizer: Literal["adam", "adamw", "sgd", "adagrad"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.0
    """Of SGD."""
    weight_decay: float = 0.0
    schedule: Literal["constant", "inverse_time", "drop", "one_cycle"] = "constant"
    """Learning rate over the steps: `inverse_time` is lr / (1 + lr_decay * step); `drop` is lr, and lr * lr_decay once
    `drop_after` epochs are over; `one_cycle` climbs over `warmup` and falls to nothing along a cosine."""
    lr_decay: float = 0.0
    drop_after: int = 0
    warmup: float = 0.2
    """Part of the steps of `one_cycle` over which the learning rate climbs."""
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true"
    """Arithmetic: `auto` is bf16-mixed on a GPU, and on a CPU that has instructions for it, else 32-true."""
    clip_norm: float = 0.0
    """Longest gradient; 0 is any."""
    batch_size: int = 64
    """Over all ranks."""
    copies: int = 1
    """Times that an image comes in an epoch of training: the first time plain, then changed at random, but alike in
    every epoch, as a folder grown by changed copies gives. With 1 it is changed anew in every epoch."""
    epochs: int = 10
    seed: int = 0
    mixup: float = 0.0
    """Images and their losses are mixed in pairs, by a share from Beta(mixup, mixup) (Zhang et al. 2018); 0 is none."""
    balanced: bool = False
    """Every class equally often in training."""
    average: float = 0.0
    """Decay per step of the moving average of the weights that is evaluated in their place; 0 is none."""
    flip_at_test: bool = False
    """What an image and its mirror image say is averaged."""
    calibrate: bool = False
    """One temperature for all probabilities, from the validation split (Guo et al. 2017)."""
    monitor: Literal["loss", "score"] = "loss"
    """What makes an epoch the best one, on the validation split: the least loss, or the best score."""
    patience: int = 0
    """Epochs without a better one after which training stops; 0 trains to the end."""
    stop: Literal["patience", "above_mean"] = "patience"
    """`above_mean`: counts epochs in a row whose validation loss is above the mean of all before while the training
    loss is below its own, and stops when they are more than `patience` (S1's rule)."""
    weights: str = ""
    """What all layers but the head begin with: a finished run, a file, an address (https://...#sha256=...), or a
    published name such as IMAGENET1K_V1. Random, where it is empty."""
    freeze: str = "none"
    """What learns: all (`none`), the `head` alone (feature extraction), `last_block` and head, or all from a layer on
    (`from:layer3`). The layers before it stay as they are."""
    backbone_lr: float = 1.0
    """The learning rate of all layers but the head, as a share of `lr`."""
    score_train: bool = False
    """The train split is scored at the end, too, without augmentation."""
    negatives: str = ""
    """A build whose images are one more class, `other`, as many as the others have together."""
    negatives_times: int = 1
    """So many times as many of them are drawn for training. An epoch takes as many as of the others, the next one goes
    on with those that had no turn yet."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{one.name} {value}: expected a number")
        if not 0 <= self.seed < 1 << 31:
            raise UsageError(f"seed {self.seed}: expected 0 to 2,147,483,647")
        for name in ("lr", "batch_size", "epochs", "copies", "negatives_times"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)}: expected more than 0")
        for name in (
            "patience",
            "momentum",
            "weight_decay",
            "lr_decay",
            "drop_after",
            "clip_norm",
            "mixup",
            "backbone_lr",
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} {getattr(self, name)}: expected at least 0")
        for name in ("average", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: expected 0 <= {name} < 1")
        if self.schedule == "drop" and not (self.lr_decay > 0 and self.drop_after > 0):
            raise UsageError("schedule=drop: to what, and when? give --set lr_decay=0.1 --set drop_after=8 or the like")
        if self.freeze not in FREEZE and not self.freeze.startswith(f"{layers.FROM}"):
            raise UsageError(f"freeze={self.freeze}: expected {', '.join(FREEZE)} or {layers.FROM}<layer>")
        for name in ("augment", "eval_augment"):
            steps = getattr(self, name)
            augmenting.check(steps)
            if not steps or not isinstance(steps[-1], Normalize):
                raise UsageError(f"{name}: must end with Normalize(), as networks take numbers and no bytes")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON has them; tasks and augmentations as calls."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    def changed(self, settings: Iterable[str]) -> "Recipe":
        """With fields set by text such as "lr=0.01"; raises `UsageError` that names the field."""
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(f"--set {setting}: expected field=value, such as --set epochs=20")
            values[name.strip()] = text.strip()
        return replace(self, **_read(values, what="--set"))

    def differences(self, other: "Recipe") -> dict[str, tuple[str, str]]:
        """Fields in which another one differs: what they are here and there."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {name: (f"{mine[name]}", f"{theirs[name]}") for name in mine if mine[name] != theirs[name]}


def modern(recipe: Recipe, **own: Any) -> Recipe:
    """What the modern siblings have in common, and what each has of its own.

    AdamW over one cycle from a rate that is high for it, images mixed in pairs, mirror images asked, too; calibrated.
    """
    common: dict[str, Any] = {
        "optimizer": "adamw",
        "lr": 0.01,
        "lr_decay": 0.0,
        "weight_decay": 0.05,
        "schedule": "one_cycle",
        "precision": "auto",
        "batch_size": 32,
        "mixup": 0.2,
        "flip_at_test": True,
        "calibrate": True,
    }
    return replace(recipe, **(common | own))


def from_dict(content: dict[str, Any], *, where: str) -> Recipe:
    """Read back what `to_dict` gave; `UsageError` names what is wrong."""
    try:
        return Recipe(**_read(content, what=where))
    except TypeError as error:
        raise UsageError(f"{where}: not a recipe: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [repr(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else repr(value)


def _read(values: dict[str, Any], *, what: str) -> dict[str, Any]:
    """Values of fields out of text or JSON."""
    hints = get_type_hints(Recipe)
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{what}: no field {name!r}; {nearest(name, hints)}")
        if name == "task":
            read[name] = calls.made(value, TASKS, what="task")
        elif name in ("augment", "eval_augment"):
            read[name] = calls.made_list(value if isinstance(value, str) else f"[{','.join(value)}]", _CALLS, what=name)
        else:
            try:
                read[name] = TypeAdapter(hints[name]).validate_python(value)
            except ValidationError as error:
                raise UsageError(f"{what}: {name}={value}: {error.errors()[0]['msg'].lower()}") from error
    return read
