"""One's own face among others': the published transfer (docs/systems.md) and its modern sibling."""

from trainer.loading.augment import (
    ColorJitter,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Resize,
)
from trainer.optim import Adam, AdamW
from trainer.recipe import UNIT, Negatives, Recipe, Start, modern
from trainer.task import Classes, TwoClasses


def own_face() -> Recipe:
    """The published transfer: convolutions of a celeba_attributes run (weights) frozen, 4,353 new weights.

    Own photos are a `folder` build of one class, the other is drawn from a CelebA build whose faces are cut out alike
    (negatives: facepack build celeba --images wild --align crop --margin 50% --size 192). A build of both needs none:
    --set negatives=
    Published on under 200 photos: accuracy 0.5457, loss 0.2469, which its author calls a failure.
    """
    return Recipe(
        build="facepack build folder --src my-photos --align crop --margin 50% --size 192",
        network="attributes_cnn()",
        task=TwoClasses(),
        augment=(
            RandomResizedCrop((192, 192), scale=(0.7, 1.0)),
            RandomRotation(15),
            RandomHorizontalFlip(),
            UNIT,
        ),
        eval_augment=(Resize((192, 192)), UNIT),
        optimizer=Adam(lr=1e-5),
        batch_size=20,
        epochs=150,
        start=Start(weights="runs/celeba_attributes", freeze="head"),
        negatives=Negatives("builds/celeba"),
    )


def own_face_modern() -> Recipe:
    """All of a celeba_attributes_modern run (weights) trained on among many others' faces, averaged and calibrated.

    Reached on 27 people of CelebA, each with three to five photos to train on (--size 96x112, aligned as published):
    accuracy 0.78 on two other photos of each and as many of others (0.5 for either class; 35 of 54 own photos and 49
    of 54 others right); 25 seconds each on two cores of an AMD EPYC. own_face got 0.49 on nine of them. The weights
    had seen most of these photos, and what is on them, but not who. On a hundred photos of one person it was not tried.
    """
    return modern(
        own_face(),
        build="facepack build folder --src my-photos --align crop --margin 50% --size 112",
        network="small_resnet(widths=(48, 96, 192, 384), stem_stride=2, places=4, dropout=0.5)",
        augment=(
            RandomResizedCrop((112, 96), scale=(0.5, 1.0)),
            RandomRotation(10),
            ColorJitter(0.4, 0.4, 0.4),
            RandomHorizontalFlip(),
            Normalize(),
        ),
        eval_augment=(Resize((112, 96)), Normalize()),
        optimizer=AdamW(lr=2e-3, weight_decay=0.05),
        epochs=150,
        negatives=Negatives("builds/celeba", times=100),
        start=Start(weights="runs/celeba_attributes_modern"),
        mixup=0.0,
        average=0.95,
    )


def own_face_descriptor() -> Recipe:
    """Who of some people is it, or nobody: by dlib's descriptors, from one photo of each person on.

    Own photos are a `folder` build with a folder for each person (one will do). `other` are the faces of a build of
    anybody else, made alike (negatives: facepack build celeba --align chip --size 150): they teach nothing, but show
    how often one is taken for somebody known. facepack predict --all-faces names each face of a photo; `other` is
    unknown.

    Measured on 27 people of CelebA's thumbnails, each with four to six photos to learn from, on two others of each and
    as many of others (benchmarks/people.py): accuracy 0.988, from one photo each 0.960; of strangers none of whom was
    seen before 1 in 100 is let in where 98.1 % of one's own photos are (from one photo 93.2 %). Logistic regression on
    the same descriptors against 400 others gets 0.982 and 0.901, so it is not used. own_face_modern gets 0.78.
    """
    return Recipe(
        build="facepack build folder --src my-people --align chip --size 150",
        network="face_descriptor()",
        task=Classes(),
        augment=(UNIT,),
        eval_augment=(UNIT,),
        negatives=Negatives("builds/celeba"),
        epochs=1,
    )
