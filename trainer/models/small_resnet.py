"""A small residual network for faces of 28 to 128 pixels, quick enough to train on a CPU."""

from collections.abc import Sequence

import torch
from torch import nn

from trainer.layers import Size, with_last_block


def small_resnet(
    *,
    num_outputs: int,
    size_hw: Size,  # noqa: ARG001 - it takes any size
    widths: Sequence[int] = (64, 128, 256),
    depth: int = 1,
    stem_stride: int = 1,
    places: int = 1,
    dropout: float = 0.0,
) -> nn.Module:
    """Residual blocks, `depth` per width, each width but the first at half the resolution (He et al. 2016), then means.

    `places` is how many means there are along each side: 1 forgets where something was seen, 4 knows it, which aligned
    faces reward. `features` give (batch, widths[-1] * places^2), `head` is linear. Any image size.
    """
    layers: list[nn.Module] = [_convolution(3, widths[0], stride=stem_stride), nn.ReLU(inplace=True)]
    before = widths[0]
    for number, width in enumerate(widths):
        for block in range(depth):
            layers.append(_Block(before, width, stride=2 if number and not block else 1))
            before = width
    layers += [nn.AdaptiveAvgPool2d(places), nn.Flatten()]
    whole = nn.Sequential()
    whole.add_module("features", nn.Sequential(*layers))
    whole.add_module("head", nn.Sequential(nn.Dropout(dropout), nn.Linear(before * places**2, num_outputs)))
    return with_last_block(whole, f"features.{len(layers) - 3}")


class _Block(nn.Module):
    """Two convolutions added to what comes in."""

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        first, second = _convolution(before, width, stride=stride), _convolution(width, width)
        self.body = nn.Sequential(first, nn.ReLU(inplace=True), second)
        scale = second[1].weight
        assert isinstance(scale, torch.Tensor)
        nn.init.zeros_(scale)  # begins as what comes in: deeper networks start learning sooner (Goyal et al. 2017)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), _convolution(before, width, size=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, before, height, width) to (batch, width, height / stride, width / stride)."""
        added: torch.Tensor = self.body(images) + self.shortcut(images)
        return torch.relu_(added)


def _convolution(before: int, width: int, *, stride: int = 1, size: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(before, width, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(width))
