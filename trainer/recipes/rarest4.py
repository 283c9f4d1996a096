"""Four classes of CelebA, its rarest attributes: the published network (docs/systems.md) and its modern sibling."""

from trainer.loading.augment import CenterResizedCrop, Normalize, RandomHorizontalFlip, RandomResizedCrop
from trainer.optim import Adagrad, InverseTime
from trainer.recipe import UNIT, Recipe, modern
from trainer.task import Classes


def celeba_rarest4() -> Recipe:
    """The published four-class network: one convolution, Adagrad as in Keras, inverse-time decay, 250 epochs.

    Published on all 27,472 images: accuracy 0.8242, loss 0.4633 on test, in 30 minutes on a Quadro P600.
    Reached on part of the images: see celeba_rarest4_modern.
    """
    return Recipe(
        build="facepack build celeba --classes rarest4 --size 64 --split 64/16/20 --seed 13",
        network="rarest4_cnn(dropout=0.5)",
        augment=(UNIT,),
        eval_augment=(UNIT,),
        optimizer=Adagrad(lr=1e-3),
        schedule=InverseTime(decay=1e-5),
        batch_size=64,
        epochs=250,
    )


def celeba_rarest4_modern() -> Recipe:
    """A small residual network with flips, crops and mixing, one cycle and averaged weights; balanced, calibrated.

    Reached on the images of 89x109 among the first 10,000, 898 to train on: 0.753 of 255 test images (0.286 for the
    most frequent class), against 0.698 with celeba_rarest4. On 1,200 tight crops from the test partition, 664 to train
    on: 0.787 of 197 (0.284), against 0.650; 28 seconds, and 3 minutes, on two cores of an AMD EPYC.
    """
    return modern(
        celeba_rarest4(),
        network="small_resnet(widths=(32, 64, 128, 256), stem_stride=2, places=4, dropout=0.5)",
        task=Classes(label_smoothing=0.05),
        augment=(RandomResizedCrop(scale=(0.75, 1.0), ratio=(0.92, 1.08)), RandomHorizontalFlip(), Normalize()),
        eval_augment=(CenterResizedCrop(0.91), Normalize()),
        epochs=30,
        average=0.995,
        balanced=True,
    )
