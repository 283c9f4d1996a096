"""The networks of torchvision that have published weights, with a head for what is learnt here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from facepack.errors import UsageError
from trainer.layers import Size, with_calm_head, with_last_block


@dataclass(frozen=True)
class _Published:
    """What differs from network to network."""

    last_block: str
    """The layer that `freeze=last_block` lets learn, with all after it."""
    dropout: float
    """Before the last layer, by default."""


NETWORKS = {
    "resnet18": _Published("layer4", dropout=0.0),  # He et al. 2016: 11.2 million parameters before the head
    "resnet34": _Published("layer4", dropout=0.0),  # 21.3 million
    "resnet50": _Published("layer4", dropout=0.0),  # 23.5 million
    "mobilenet_v2": _Published("features.17", dropout=0.2),  # Sandler et al. 2018: 2.2 million
    "mobilenet_v3_small": _Published("features.11", dropout=0.2),  # Howard et al. 2019: 1.5 million
    "mobilenet_v3_large": _Published("features.15", dropout=0.2),  # 4.2 million
    "vgg16": _Published("features.24", dropout=0.5),  # Simonyan and Zisserman 2015: 134 million, most in two layers
    "efficientnet_b0": _Published("features.7", dropout=0.2),  # Tan and Le 2019: 4.0 million
    "convnext_tiny": _Published("features.7", dropout=0.0),  # Liu et al. 2022: 27.8 million
}
"""The networks by torchvision's names; another one is another line."""


def _network(name: str, last_block: str, *, num_outputs: int, size_hw: Size, dropout: float) -> nn.Module:
    """torchvision's network with its own parameter names, random weights, and dropout before its last layer."""
    try:
        from torchvision import models
    except ImportError as error:
        raise UsageError(f"network {name}: torchvision is not installed: pip install 'facepack[train]'") from error
    make: Callable[..., Any] = getattr(models, name)
    network: nn.Module = make(weights=None, num_classes=num_outputs)
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    for module in dropouts:
        module.p = dropout
    if not dropouts:
        path, linear = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
        parent, _, last = path.rpartition(".")
        network.get_submodule(parent).add_module(last, _DroppedLinear(linear, dropout))
    _check_size(network, name, size_hw)
    return with_last_block(with_calm_head(network), last_block)


MAKERS: dict[str, Callable[..., nn.Module]] = {
    name: partial(_network, name, published.last_block, dropout=published.dropout)
    for name, published in NETWORKS.items()
}
"""Functions of (num_outputs, size_hw, dropout), as other modules of networks hold them."""


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
