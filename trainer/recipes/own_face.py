"""S4's transfer, one's own face among others', and its modern sibling."""

from trainer.augment import ColorJitter, Normalize, RandomHorizontalFlip, RandomResizedCrop, RandomRotation, Resize
from trainer.recipe import UNIT, Recipe, modern
from trainer.task import TwoClasses


def own_face() -> Recipe:
    """S4's transfer as published: convolutions of a celeba_attributes run (weights) frozen, 4,353 new weights.

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
        optimizer="adam",
        lr=1e-5,
        batch_size=20,
        epochs=150,
        weights="runs/celeba_attributes",
        freeze="head",
        negatives="builds/celeba",
    )


def own_face_modern() -> Recipe:
    """All of a celeba_attributes_modern run (weights) trained on slowly, with averaged weights; calibrated.

    Not measured on real photos of one person, which nobody had here; a test tells drawn characters from drawn faces.
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
        lr=5e-4,
        epochs=100,
        negatives_times=100,
        weights="runs/celeba_attributes_modern",
        freeze="none",
        mixup=0.0,
        average=0.95,
    )
