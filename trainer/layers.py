"""Layers: the parts of a network that have names, its head and its last block, and which of them learn."""

import difflib

from torch import nn

from facepack.errors import UsageError

FROM = "from:"


def head(network: nn.Module) -> str:
    """The name of what gives the outputs: the module called head, or else the last linear layer."""
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
    """Training mode, but for layers that are frozen as a whole.

    Batch norm in them would go on moving its mean and variance towards the new images, though its weights stand still:
    layers that were trained with the old ones would no longer see what they learnt from. Their dropout would be noise.
    """
    network.train()
    for module in network.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def _first_that_learns(network: nn.Module, mode: str) -> str:
    if mode == "head":
        return head(network)
    if mode == "last_block":
        name = getattr(network, "last_block", "")
        if not name:
            raise UsageError("freeze=last_block: this network has no blocks; give freeze=head or freeze=from:<layer>")
        return str(name)
    layer = mode.removeprefix(FROM)
    known = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    if layer not in known:
        top = [name for name in known if "." not in name]
        near = difflib.get_close_matches(layer, known, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(top)}, and those below them"
        raise UsageError(f"freeze={mode}: the network has no layer {layer!r} with weights; {hint}")
    return layer
