"""Recipe: a training set-up in parts, complete and written down."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_type_hints

from facepack.errors import UsageError
from trainer import calls, changes, checks, layers, optim
from trainer.changes import Part
from trainer.folds import Fold
from trainer.loading import augment
from trainer.loading.augment import Augmentation, Normalize, RandomHorizontalFlip
from trainer.optim import SGD, Adagrad, Adam, AdamW, Constant, Drop, InverseTime, OneCycle
from trainer.stopping import LossAboveMean, Patience, Stopping, ToTheEnd
from trainer.task import TASKS, Classes, Task

UNIT = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Images in 0..1, as the published systems have them."""

IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's weights were trained with."""

FREEZE = ("none", "head", "last_block")

Augmentations = tuple[Augmentation, ...]
AUGMENTATIONS: dict[str, Any] = {
    name: value
    for name, value in vars(augment).items()
    if isinstance(value, type) and hasattr(value, "graph") and value is not Augmentation
}


def augmentations_of(text: str) -> Augmentations:
    """Augmentations from text such as "[RandomCrop(56), Normalize()]"; `UsageError` names what is wrong."""
    augmentations: Augmentations = calls.made_list(text, AUGMENTATIONS, what="augment")
    return augmentations


@dataclass(frozen=True)
class Start:
    """What training begins with, and what of it learns."""

    weights: str = ""
    """The weights of all layers but the head: a finished run, a file, an address (https://...#sha256=...), or a
    published name such as IMAGENET1K_V1. Random, where it is empty."""
    keep_head: bool = False
    """The weights of the head, too, as of a run of the same classes."""
    freeze: str = "none"
    """What learns: all (`none`), the `head` alone (feature extraction), `last_block` and head, or all from a layer on
    (`from:layer3`). The layers before it stay as they are."""
    backbone_lr: float = 1.0
    """The learning rate of all layers but the head, as a share of the optimiser's."""

    def __post_init__(self) -> None:
        checks.check_finite(self)
        checks.check_not_negative(self, ["backbone_lr"])
        if self.freeze not in FREEZE and not self.freeze.startswith(layers.FROM):
            raise UsageError(f"freeze={self.freeze}: expected {', '.join(FREEZE)} or {layers.FROM}<layer>")


@dataclass(frozen=True)
class Negatives:
    """Images of another build as one more class, `other`, as many as the others have together."""

    build: str
    """Folder or URL of the build."""
    times: int = 1
    """So many times as many of them are drawn for training. An epoch takes as many as of the others, the next one goes
    on with those that had no turn yet."""

    def __post_init__(self) -> None:
        if not self.build:
            raise UsageError("negatives: no build; --set negatives=BUILD, or --set negatives= for none")
        checks.check_positive(self, ["times"])


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
    start: Start = field(default_factory=Start)
    """Initial weights, and which layers learn."""
    negatives: Negatives | None = None
    """One more class, drawn from another build."""
    optimizer: optim.Optimizer = field(default_factory=lambda: AdamW(lr=1e-3))
    schedule: optim.Schedule = field(default_factory=Constant)
    """The learning rate over the steps."""
    stopping: Stopping = field(default_factory=ToTheEnd)
    """Which epoch is the best one, and when training ends."""
    epochs: int = 10
    batch_size: int = 64
    """Over all ranks."""
    copies: int = 1
    """Times that an image comes in an epoch of training: the first time plain, then changed at random, but alike in
    every epoch, as a folder grown by changed copies gives. With 1 it is changed anew in every epoch."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, to need less memory. The step is the one of the whole
    batch, but that batch norm and mixup see a part at a time."""
    balanced: bool = False
    """Every class equally often in training."""
    balanced_by: str = ""
    """What comes equally often in training: an attribute, a category, or bins such as age:0-19,20-39,40-; of several
    with + between them, each combination that there is."""
    drawn_by: str = ""
    """How often each image is drawn in training: a column of the manifest, or a table with columns `key` (or `source`)
    and `weight`."""
    mixup: float = 0.0
    """Images and their losses are mixed in pairs, by a share from Beta(mixup, mixup) (Zhang et al. 2018); 0 is none."""
    clip_norm: float = 0.0
    """Longest gradient; 0 is any."""
    average: float = 0.0
    """Decay per step of the moving average of the weights that is evaluated in their place; 0 is none."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "32-true"
    """Arithmetic: `auto` is bf16-mixed on a GPU, and on a CPU that has instructions for it, else 32-true. `16-mixed` is
    float16 with a scaled loss, for GPUs without bfloat16."""
    compile: bool = False
    """torch.compile: faster steps on a GPU after a minute of compiling; needs a compiler on this machine."""
    flip_at_test: bool = False
    """The logits of an image and of its mirror image are averaged."""
    calibrate: bool = False
    """One temperature for all probabilities, from the validation split (Guo et al. 2017)."""
    score_train: bool = False
    """The train split is scored at the end, too, without augmentation."""
    fold: str = ""
    """Such as 2/5: all packed photos are split anew, by the seed, into five folds that divide no person. The second is
    the test split, and a tenth of the others the validation split. Empty: the splits of the build."""
    seed: int = 0

    def __post_init__(self) -> None:
        checks.check_finite(self)
        if not 0 <= self.seed < 1 << 31:
            raise UsageError(f"seed {self.seed}: expected 0 to 2,147,483,647")
        checks.check_positive(self, ["accumulate", "batch_size", "epochs", "copies"])
        checks.check_not_negative(self, ["clip_norm", "mixup"])
        checks.check_share(self, ["average"])
        self._check_drawing()
        if self.fold:
            Fold.of(self.fold)
        for name in ("augment", "eval_augment"):
            steps = getattr(self, name)
            augment.check_augmentations(steps)
            if augment.normalizes(steps) is None:
                raise UsageError(f"{name}: must end with Normalize(), as networks take numbers and no bytes")

    def _check_drawing(self) -> None:
        """Refuse several ways to draw images at once."""
        ways = [name for name in ("balanced", "balanced_by", "drawn_by") if getattr(self, name)]
        if len(ways) > 1:
            raise UsageError(f"{ways[0]} and {ways[1]}: images are drawn in one way; leave out one of both")
        if self.copies > 1 and (self.balanced_by or self.drawn_by):
            raise UsageError(f"{ways[0]}: not together with copies={self.copies}; --set copies=1")
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate {self.accumulate}: more parts than images in a batch of {self.batch_size}")

    def learning_rate(self, *, step: int, num_steps: int) -> float:
        """The learning rate of a step, counted from 0; of the head, where layers have rates of their own."""
        return self.schedule.learning_rate(self.optimizer.lr, step=step, num_steps=num_steps, num_epochs=self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON has them; parts and augmentations as calls, an empty text for no negatives."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    def settings(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as `to_dict` has them, with calls that leave out defaults."""
        changed = {item.name: getattr(self, item.name) for item in fields(self)}
        for item in fields(self):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            if changed[item.name] == default:
                del changed[item.name]
        return {name: _plain(value, short=True) for name, value in changed.items()}

    def changed(self, settings: Iterable[str]) -> "Recipe":
        """With fields set by text such as "epochs=3", "optimizer.lr=0.01", "optimizer=SGD(lr=0.01)" or "lr=0.01".

        A name without a part is that of a field, or of a setting that exactly one part has. Raises `UsageError` that
        names the setting.
        """
        texts, values = changes.values_of(settings, self, PARTS)
        return replace(self, **values, **_read(texts, what="--set"))

    def differences(self, other: "Recipe") -> dict[str, tuple[str, str]]:
        """Fields, and settings of parts of one kind, in which another recipe differs: their values here and there."""
        pairs = {item.name: (getattr(self, item.name), getattr(other, item.name)) for item in fields(self)}
        differing: dict[str, tuple[str, str]] = {}
        for name, (mine, theirs) in pairs.items():
            if name in PARTS and type(mine) is type(theirs) and mine is not None:
                settings = [
                    item.name for item in fields(mine) if getattr(mine, item.name) != getattr(theirs, item.name)
                ]
                differing |= {f"{name}.{key}": (f"{getattr(mine, key)}", f"{getattr(theirs, key)}") for key in settings}
            elif mine != theirs:
                differing[name] = f"{_plain(mine)}", f"{_plain(theirs)}"
        return differing


PARTS = {
    "task": Part(TASKS.values()),  # a live view: a task of one's own may be added
    "start": Part((Start,), from_text="weights"),
    "negatives": Part((Negatives,), from_text="build", is_optional=True),
    "optimizer": Part((SGD, Adam, AdamW, Adagrad)),
    "schedule": Part((Constant, InverseTime, Drop, OneCycle)),
    "stopping": Part((ToTheEnd, Patience, LossAboveMean), shorthands={"patience": (Patience, "epochs")}),
}
"""The fields of a recipe that have settings of their own, and their kinds."""


def modern(recipe: Recipe, **own: Any) -> Recipe:
    """What the modern siblings have in common, and what each has of its own.

    AdamW over one cycle from a rate that is high for it, images mixed in pairs, mirror images predicted, too;
    calibrated.
    """
    common: dict[str, Any] = {
        "optimizer": AdamW(lr=0.01, weight_decay=0.05),
        "schedule": OneCycle(warmup=0.2),
        "precision": "auto",
        "batch_size": 32,
        "mixup": 0.2,
        "flip_at_test": True,
        "calibrate": True,
    }
    return replace(recipe, **(common | own))


def from_dict(content: dict[str, Any], *, where: str) -> Recipe:
    """Read back what `to_dict` gave; `UsageError` names what is wrong."""
    names = {item.name for item in fields(Recipe)}
    if strange := [name for name in content if name not in names]:
        raise UsageError(f"{where}: of another version of facepack, whose recipes have {strange[0]!r}; train it again")
    try:
        parts = {name: changes.part_from_text(name, content[name], PARTS[name]) for name in content if name in PARTS}
        rest = _read({name: value for name, value in content.items() if name not in PARTS}, what=where)
        return Recipe(**parts, **rest)
    except TypeError as error:
        raise UsageError(f"{where}: not a recipe: {error}") from error


def _plain(value: Any, *, short: bool = False) -> Any:
    """A value as JSON has it; `short` leaves out settings that have their default."""
    if isinstance(value, tuple):
        return [_plain(step, short=short) for step in value]
    if short and is_dataclass(value):
        settings = [item.name for item in fields(value) if getattr(value, item.name) != item.default]
        return f"{type(value).__name__}({', '.join(f'{name}={getattr(value, name)!r}' for name in settings)})"
    if value is None:
        return ""
    return value if isinstance(value, str | int | float | bool) else repr(value)


def _read(values: dict[str, Any], *, what: str) -> dict[str, Any]:
    """Values of fields that are no parts, out of text or JSON."""
    hints = get_type_hints(Recipe)
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("augment", "eval_augment"):
            text = value if isinstance(value, str) else f"[{','.join(value)}]"
            read[name] = calls.made_list(text, AUGMENTATIONS, what=name)
        else:
            read[name] = changes.typed(value, hints[name], what=f"{what}: {name}={value}")
    return read
