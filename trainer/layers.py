"""Layers: the head and the last block of a network, and which layers learn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from facepack.errors import UsageError, nearest

Size = tuple[int, int]
"""Height and width in pixels."""

FROM = "from:"

_LARGE = 2.0
"""Times 1 / sqrt(inputs) from which the weights of a head are too large; He's and Glorot's stay below it."""


def with_last_block(network: nn.Module, name: str) -> nn.Module:
    """The network with the name of its last block before the head, which `freeze=last_block` lets learn."""
    network.last_block = name  # type: ignore[assignment] # torch types every attribute as a module
    return network


def with_head(network: nn.Module, name: str) -> nn.Module:
    """The network with the name of the layer that gives its logits."""
    network.head_name = name  # type: ignore[assignment] # torch types every attribute as a module
    return network


def with_calm_head(network: nn.Module) -> nn.Module:
    """The network whose head has weights of at most about 1 / sqrt(inputs).

    EfficientNets draw them by the number of outputs (Tan and Le 2019), which suits 1,000 classes. With four, logits are
    in the tens and the loss near 10, and the first steps spoil pretrained layers.
    """
    layer = network.get_submodule(head(network))
    if isinstance(layer, nn.Linear):
        usual = layer.in_features**-0.5
        with torch.no_grad():
            deviation = float(layer.weight.square().mean().sqrt())
            if deviation > _LARGE * usual:
                layer.weight.mul_(usual / deviation)
    return network


def head(network: nn.Module) -> str:
    """The layer that gives the logits: the one that is named so, the module called head, or the last linear layer."""
    if named := getattr(network, "head_name", ""):
        return str(named)
    names = [name for name, module in network.named_modules() if name == "head" or isinstance(module, nn.Linear)]
    if not names:
        raise UsageError("this network has no linear layer, so that nothing of it is a head")
    return "head" if "head" in names else names[-1]


def is_in(name: str, layer: str) -> bool:
    """True for the parameters and modules of a layer."""
    return name == layer or name.startswith(f"{layer}.")


def freeze(network: nn.Module, mode: str) -> None:
    """Freeze all that comes before what learns: `head`, `last_block` (and the head), or `from:<layer>`.

    Layers come in the order in which the network made them, which is the one they are gone through in. `none` freezes
    nothing. Raises `UsageError` for a layer that is not there.
    """
    if mode == "none":
        return
    first = _first_that_learns(network, mode)
    for name, weight in network.named_parameters():
        if is_in(name, first):
            return
        weight.requires_grad_(False)


def set_training(network: nn.Module) -> None:
    """Training mode, but for layers that are frozen, and what lies between them.

    Batch norm in them would go on moving its mean and variance towards the new images, though its weights stand still:
    layers that were trained with the old ones would no longer see what they learnt from. Their dropout would be noise.
    """
    network.train()
    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    learns = [any(weight.requires_grad for weight in leaf.parameters()) for leaf in leaves]
    frozen = [n for n, leaf in enumerate(leaves) if not learns[n] and any(True for _ in leaf.parameters())]
    last = max(frozen, default=-1)
    for leaf, is_learning in zip(leaves[: last + 1], learns, strict=False):
        if not is_learning:
            leaf.eval()


@contextmanager
def frozen_batch_norm_for_single_image(network: nn.Module, num_images: int) -> Iterator[None]:
    """Let batch norm use its running statistics where a batch is one image, as the last of an epoch may be.

    One image has no statistics; where it is down to one pixel, torch refuses to make any.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.training]
    if num_images > 1 or not norms:
        yield
        return
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _first_that_learns(network: nn.Module, mode: str) -> str:
    if mode == "head":
        return head(network)
    if mode == "last_block":
        name = getattr(network, "last_block", "")
        if not name:
            raise UsageError("freeze=last_block: this network has no blocks; give freeze=head or freeze=from:<layer>")
        return str(name)
    layer = mode.removeprefix(FROM)
    layers = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    if layer not in layers:
        parent = layer.rpartition(".")[0]
        parent = parent if parent in layers else ""
        siblings = [name for name in layers if name.rpartition(".")[0] == parent]
        raise UsageError(f"freeze={mode}: the network has no layer {layer!r} with weights; {nearest(layer, siblings)}")
    return layer
