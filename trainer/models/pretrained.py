"""The networks of torchvision that have published weights, with a head for what is learnt here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from facepack.errors import UsageError
from trainer.models import Size, with_last_block


def resnet18(*, num_outputs: int, size_hw: Size, dropout: float = 0.0) -> nn.Module:
    """ResNet-18 (He et al. 2016): 11.2 million parameters before the head."""
    return _of("resnet18", num_outputs, size_hw, dropout, last_block="layer4")


def resnet34(*, num_outputs: int, size_hw: Size, dropout: float = 0.0) -> nn.Module:
    """ResNet-34 (He et al. 2016), S2's network: 21.3 million parameters before the head."""
    return _of("resnet34", num_outputs, size_hw, dropout, last_block="layer4")


def resnet50(*, num_outputs: int, size_hw: Size, dropout: float = 0.0) -> nn.Module:
    """ResNet-50 (He et al. 2016): 23.5 million parameters before the head."""
    return _of("resnet50", num_outputs, size_hw, dropout, last_block="layer4")


def mobilenet_v2(*, num_outputs: int, size_hw: Size, dropout: float = 0.2) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018): 2.2 million parameters before the head."""
    return _of("mobilenet_v2", num_outputs, size_hw, dropout, last_block="features.17")


def mobilenet_v3_small(*, num_outputs: int, size_hw: Size, dropout: float = 0.2) -> nn.Module:
    """MobileNetV3, small (Howard et al. 2019): 1.5 million parameters before the head."""
    return _of("mobilenet_v3_small", num_outputs, size_hw, dropout, last_block="features.11")


def mobilenet_v3_large(*, num_outputs: int, size_hw: Size, dropout: float = 0.2) -> nn.Module:
    """MobileNetV3, large (Howard et al. 2019): 4.2 million parameters before the head."""
    return _of("mobilenet_v3_large", num_outputs, size_hw, dropout, last_block="features.15")


def vgg16(*, num_outputs: int, size_hw: Size, dropout: float = 0.5) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman 2015): 134 million parameters before the head, most in two dense layers."""
    return _of("vgg16", num_outputs, size_hw, dropout, last_block="features.24")


def efficientnet_b0(*, num_outputs: int, size_hw: Size, dropout: float = 0.2) -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019): 4.0 million parameters before the head."""
    return _of("efficientnet_b0", num_outputs, size_hw, dropout, last_block="features.7")


def convnext_tiny(*, num_outputs: int, size_hw: Size, dropout: float = 0.0) -> nn.Module:
    """ConvNeXt, tiny (Liu et al. 2022): 27.8 million parameters before the head."""
    return _of("convnext_tiny", num_outputs, size_hw, dropout, last_block="features.7")


def _of(name: str, num_outputs: int, size_hw: Size, dropout: float, *, last_block: str) -> nn.Module:
    """torchvision's network with its own parameter names, random weights, and dropout before its last layer."""
    try:
        from torchvision import models
    except ImportError as error:
        raise UsageError(f"network {name}: torchvision is not installed: pip install 'facepack[train]'") from error
    make: Callable[..., Any] = getattr(models, name)
    whole: nn.Module = make(weights=None, num_classes=num_outputs)
    before = [module for module in whole.modules() if isinstance(module, nn.Dropout)]
    for module in before:
        module.p = dropout
    if not before:
        path, linear = [(path, one) for path, one in whole.named_modules() if isinstance(one, nn.Linear)][-1]
        parent, _, last = path.rpartition(".")
        whole.get_submodule(parent).add_module(last, _DroppedLinear(linear, dropout))
    _check_size(whole, name, size_hw)
    return with_last_block(whole, last_block)


class _DroppedLinear(nn.Linear):
    """A linear layer behind dropout, with the parameter names that it has without."""

    def __init__(self, linear: nn.Linear, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self._dropout = dropout

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return super().forward(nn.functional.dropout(values, self._dropout, self.training))


def _check_size(network: nn.Module, name: str, size_hw: Size) -> None:
    """Refuse images of which a layer would have no pixel left."""
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, *size_hw))
    except RuntimeError as error:
        size = f"{size_hw[1]}x{size_hw[0]}"
        raise UsageError(f"network {name}: images of {size} pixels are too small for it") from error
    network.train()
