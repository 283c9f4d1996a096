"""Three age groups: seven published experiments and two classical rivals (docs/systems.md), and a modern sibling."""

from dataclasses import replace

from trainer.loading.augment import (
    CenterCrop,
    ColorJitter,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from trainer.optim import SGD, Adam
from trainer.recipe import UNIT, Recipe, Start, modern
from trainer.stopping import LossAboveMean, ToTheEnd
from trainer.task import Classes

_VGGFACE2 = Start(weights="vggface2", freeze="from:block8")
_PLAIN = (CenterCrop(140), Resize((160, 160)), Normalize())


def age_groups() -> Recipe:
    """Published experiment 1: InceptionResnetV1 of VGGFace2, all before its last block frozen, batches of 32.

    Three groups of 200 photos, 120/40/40 of each in the order of their names. Published: valid 0.73, test 0.82.
    """
    return Recipe(
        build="facepack build utkface --age-bins 1-4,5-27,28- --limit-per-class 200 --split index:60/20/20 --size 160",
        network="inception_resnet_v1()",
        augment=(ColorJitter(0.4, 0.4, 0.4), RandomCrop(140), RandomHorizontalFlip(), Resize((160, 160)), Normalize()),
        eval_augment=_PLAIN,
        optimizer=Adam(lr=1e-4),
        batch_size=32,
        epochs=400,
        stopping=LossAboveMean(rounds=10),
        start=_VGGFACE2,
        score_train=True,
    )


def age_groups_batch_8() -> Recipe:
    """Published experiment 2: batches of 8. Published: valid 0.80, test 0.84."""
    return replace(age_groups(), batch_size=8)


def age_groups_plain() -> Recipe:
    """Published experiment 3: batches of 8, no augmentation. Published: valid 0.82, test 0.85."""
    return replace(age_groups_batch_8(), augment=_PLAIN)


def age_groups_unfrozen() -> Recipe:
    """Published experiment 4: batches of 8, nothing frozen. Published: overfits at once."""
    return replace(age_groups_batch_8(), start=replace(_VGGFACE2, freeze="none"))


def age_groups_fast() -> Recipe:
    """Published experiment 5: batches of 8, Adam at 1e-3. Published: overfits, stops at epoch 15."""
    return replace(age_groups_batch_8(), optimizer=Adam(lr=1e-3))


def age_groups_sgd_slow() -> Recipe:
    """Published experiment 6: batches of 8, SGD at 1e-5. Published: 400 epochs, and not at an end."""
    return replace(age_groups_batch_8(), optimizer=SGD(lr=1e-5))


def age_groups_sgd() -> Recipe:
    """Published experiment 7: batches of 8, SGD at 1e-4. Published: near experiment 2, after 350 epochs more."""
    return replace(age_groups_batch_8(), optimizer=SGD(lr=1e-4))


def age_groups_hog_svm() -> Recipe:
    """The first classical rival: histograms of oriented gradients and support vector machines. Published: 0.84."""
    plain = (CenterCrop(140), Resize((128, 128)), UNIT)
    return replace(
        age_groups(),
        network="hog_svm()",
        augment=plain,
        eval_augment=plain,
        epochs=1,
        stopping=ToTheEnd(),
        start=Start(),
        calibrate=True,
    )


def age_groups_lbp_mlp() -> Recipe:
    """The second classical rival: local binary patterns and a small neural network. Published: 0.60."""
    return replace(age_groups_hog_svm(), network="lbp_mlp()")


def age_groups_modern() -> Recipe:
    """A small residual network from random weights with flips, crops, colours and mixing; averaged, calibrated.

    Reached on 359 photos of UTKFace: 0.650 of 120 test photos (0.333 for the most frequent class). On them support
    vectors on histograms of gradients reach 0.808, and InceptionResnetV1 from random weights, nothing frozen, 0.658.
    """
    return modern(
        age_groups(),
        network="small_resnet(widths=(32, 64, 128, 256), stem_stride=2, places=4, dropout=0.5)",
        task=Classes(label_smoothing=0.05),
        augment=(
            Resize((80, 80)),
            RandomResizedCrop(scale=(0.5, 1.0), ratio=(0.9, 1.1)),
            RandomHorizontalFlip(),
            ColorJitter(0.3, 0.3, 0.3),
            Normalize(),
        ),
        eval_augment=(Resize((80, 80)), Normalize()),
        epochs=120,
        stopping=ToTheEnd(),
        start=Start(),
        average=0.99,
    )
