"""The networks of the published systems on Keras (docs/systems.md), layer by layer, with its initial weights."""

from itertools import pairwise

from torch import nn

from facepack.errors import UsageError
from trainer.layers import Size


def rarest4_cnn(*, num_outputs: int, size_hw: Size, dropout: float = 0.5) -> nn.Module:
    """The published four-class network: a convolution and two dense layers; 1,049,636 parameters for 4 at 64x64."""
    height, width = size_hw
    return _as_keras(
        nn.Sequential(
            nn.Conv2d(3, 32, 3, padding="same"),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(32 * (height // 2) * (width // 2), 32),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            nn.Linear(32, num_outputs),
        )
    )


def simpsons_cnn(*, num_outputs: int, size_hw: Size, dropout: float = 0.5) -> nn.Module:
    """The published network of the Simpsons: convolutions of 32, 128 and 512 channels.

    2,941,742 parameters for 18 classes at 64x64.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((3, 32, 128, 512)):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.MaxPool2d(2))
    height, width = (_after_convolutions(side, 3, "simpsons_cnn") // 2 for side in size_hw)
    if not height * width:
        raise UsageError(f"network simpsons_cnn: images of {size_hw[1]}x{size_hw[0]} pixels are too small for it")
    return _as_keras(
        nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(512 * height * width, 500),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(500, num_outputs),
        )
    )


def fully_connected(*, num_outputs: int, size_hw: Size, dropout: float = 0.5) -> nn.Module:
    """Its published comparison: two hidden layers of 512 and 256, and no convolution."""
    height, width = size_hw
    return _as_keras(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * height * width, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_outputs),
        )
    )


def attributes_cnn(*, num_outputs: int, size_hw: Size) -> nn.Module:
    """The published network of attributes: six convolutions of 32, a dense layer of 128 with a sigmoid.

    56,520 parameters for 40 attributes at 192x192. `features` are the convolutions, which the published transfer
    freezes; `head` is the rest.
    """
    height, width = (_after_convolutions(side, 6, "attributes_cnn") for side in size_hw)
    layers: list[nn.Module] = []
    for before in (3, 32, 32, 32, 32, 32):
        layers += [nn.Conv2d(before, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(32 * height * width, 128), nn.Sigmoid(), nn.Linear(128, num_outputs))
    whole = nn.Sequential()
    whole.add_module("features", nn.Sequential(*layers))
    whole.add_module("head", head)
    return _as_keras(whole)


def _after_convolutions(side_px: int, number: int, name: str) -> int:
    """Pixels that are left of a side after so many 3x3 "valid" convolutions with pools of 2."""
    left = side_px
    for _ in range(number):
        left = (left - 2) // 2
    if left < 1:
        raise UsageError(f"network {name}: images with a side of {side_px} pixels are too small for it")
    return left


def _as_keras(network: nn.Module) -> nn.Module:
    """Uniform weights of Glorot and Bengio (2010) and biases of zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
