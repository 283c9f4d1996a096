"""Inception-ResNet-v1 for faces, with the parameter names of facenet-pytorch, so that its published weights load."""

import torch
from torch import nn

from facepack.errors import UsageError
from trainer.layers import Size, with_last_block

_LEAST_PX = 75
_EMBEDDING = 512


def inception_resnet_v1(*, num_outputs: int, size_hw: Size, dropout: float = 0.6) -> nn.Module:
    """Inception-ResNet-v1 (Szegedy et al. 2016, as in FaceNet): 23.5 million parameters for 3 classes.

    Published weights: vggface2 (8,631 people, 27,910,327 parameters), casia-webface (10,575).
    Images of 75 pixels or more, 160 as published.
    """
    if min(size_hw) < _LEAST_PX:
        raise UsageError(
            f"network inception_resnet_v1: images of {size_hw[1]}x{size_hw[0]} pixels; it takes {_LEAST_PX} or more"
        )
    return with_last_block(_InceptionResnetV1(num_outputs, dropout), "block8")


class _InceptionResnetV1(nn.Module):
    def __init__(self, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv2d_1a = _Convolution(3, 32, 3, stride=2)
        self.conv2d_2a = _Convolution(32, 32, 3)
        self.conv2d_2b = _Convolution(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = _Convolution(64, 80, 1)
        self.conv2d_4a = _Convolution(80, 192, 3)
        self.conv2d_4b = _Convolution(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _Mixed(
            _Convolution(256, 384, 3, stride=2),
            nn.Sequential(
                _Convolution(256, 192, 1), _Convolution(192, 192, 3, padding=1), _Convolution(192, 256, 3, stride=2)
            ),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _Mixed(
            nn.Sequential(_Convolution(896, 256, 1), _Convolution(256, 384, 3, stride=2)),
            nn.Sequential(_Convolution(896, 256, 1), _Convolution(256, 256, 3, stride=2)),
            nn.Sequential(
                _Convolution(896, 256, 1), _Convolution(256, 256, 3, padding=1), _Convolution(256, 256, 3, stride=2)
            ),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_3 = nn.Sequential(*(_block8(scale=0.2) for _ in range(5)))
        self.block8 = _block8(scale=1.0, is_last=True)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1792, _EMBEDDING, bias=False)
        self.last_bn = nn.BatchNorm1d(_EMBEDDING, eps=0.001)
        self.logits = nn.Linear(_EMBEDDING, num_outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) to (batch, num_outputs)."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.dropout(self.avgpool_1a(self.block8(self.repeat_3(x))))
        logits: torch.Tensor = self.logits(self.last_bn(self.last_linear(x.flatten(1))))
        return logits


class _Convolution(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, before, height, width) to (batch, after, ...)."""
        outputs: torch.Tensor = self.relu(self.bn(self.conv(images)))
        return outputs


class _Branches(nn.Module):
    """Several ways side by side: branch0, branch1, ..."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self._num = len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def _joined(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(f"branch{number}")(images) for number in range(self._num)], dim=1)


class _Mixed(_Branches):
    """Branches whose channels are put side by side, at half the resolution."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, before, height, width) to (batch, after, about height / 2, about width / 2)."""
        return self._joined(images)


class _Residual(_Branches):
    """Branches whose channels a 1x1 convolution adds to what came in, scaled down."""

    def __init__(self, *branches: nn.Module, joined: int, channels: int, scale: float, is_last: bool = False) -> None:
        super().__init__(*branches)
        self._scale = scale
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.relu: nn.Module = nn.Identity() if is_last else nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        added: torch.Tensor = self.relu(images + self._scale * self.conv2d(self._joined(images)))
        return added


def _block35() -> nn.Module:
    return _Residual(
        _Convolution(256, 32, 1),
        nn.Sequential(_Convolution(256, 32, 1), _Convolution(32, 32, 3, padding=1)),
        nn.Sequential(_Convolution(256, 32, 1), _Convolution(32, 32, 3, padding=1), _Convolution(32, 32, 3, padding=1)),
        joined=96,
        channels=256,
        scale=0.17,
    )


def _block17() -> nn.Module:
    along, across = _Convolution(128, 128, (1, 7), padding=(0, 3)), _Convolution(128, 128, (7, 1), padding=(3, 0))
    way = nn.Sequential(_Convolution(896, 128, 1), along, across)
    return _Residual(_Convolution(896, 128, 1), way, joined=256, channels=896, scale=0.1)


def _block8(*, scale: float, is_last: bool = False) -> nn.Module:
    along, across = _Convolution(192, 192, (1, 3), padding=(0, 1)), _Convolution(192, 192, (3, 1), padding=(1, 0))
    way = nn.Sequential(_Convolution(1792, 192, 1), along, across)
    return _Residual(_Convolution(1792, 192, 1), way, joined=384, channels=1792, scale=scale, is_last=is_last)
