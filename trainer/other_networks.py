"""Other networks: timm's and torchvision's by name, and functions of one's own."""

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepack.errors import UsageError, nearest
from trainer.layers import Size, with_calm_head, with_head, with_last_block


def maker(name: str) -> Callable[..., nn.Module]:
    """The function behind a name such as timm:convnext_tiny, torchvision:swin_t or mine.networks:small.

    It takes `num_outputs`, `size_hw` and settings of its own. Raises `UsageError` for what is not there.
    """
    where, _, what = name.partition(":")
    if where == "timm":
        return partial(_of_timm, what)
    return partial(_of_torchvision, what) if where == "torchvision" else _own(where, what)


def _of_timm(name: str, *, num_outputs: int, size_hw: Size, **settings: Any) -> nn.Module:
    """timm's network with its own parameter names, random weights, and a head of so many outputs."""
    try:
        import timm
    except ImportError as error:
        raise UsageError(f"network timm:{name}: timm is not installed: pip install 'facepack[timm]'") from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UsageError(f"network timm:{name}: timm has no such network; {nearest(architecture, timm.list_models())}")
    facts = timm.models.get_pretrained_cfg(architecture)
    if facts is not None and facts.fixed_input_size:
        settings = {"img_size": size_hw, **settings}
    network: Any = timm.create_model(architecture, num_classes=num_outputs, **settings)
    head = network.pretrained_cfg.get("classifier", "")
    if isinstance(head, str) and head:
        with_head(network, head)
    stages = getattr(network, "feature_info", None)
    stages = getattr(stages, "info", stages)
    last = stages[-1].get("module", "") if stages else ""
    layers = {path for path, layer in network.named_modules() if any(True for _ in layer.parameters())}
    _check(network, f"timm:{name}", num_outputs=num_outputs, size_hw=size_hw)
    network = with_calm_head(network)
    return with_last_block(network, last) if last in layers else network


def _of_torchvision(name: str, *, num_outputs: int, size_hw: Size, **settings: Any) -> nn.Module:
    """torchvision's classifier of any name, with random weights."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"network torchvision:{name}: there is no such classifier; {nearest(name, names)}")
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_outputs, **settings)
    _check(network, f"torchvision:{name}", num_outputs=num_outputs, size_hw=size_hw)
    return with_calm_head(network)


def _own(where: str, what: str) -> Callable[..., nn.Module]:
    """A function of one's own; its module is looked for in the current folder, too."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(where), what, None)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"network {where}:{what}: no module {where} here: {error}") from error
    finally:
        sys.path.remove(here)
    if not inspect.isfunction(function):
        raise UsageError(f"network {where}:{what}: {where} has no function {what!r}")
    names = inspect.signature(function).parameters
    if "num_outputs" not in names:
        raise UsageError(f"network {where}:{what}: the function must take num_outputs, and may take size_hw")
    return partial(_made_by, function, f"{where}:{what}")


def _made_by(
    function: Callable[..., nn.Module], name: str, *arguments: Any, num_outputs: int, size_hw: Size, **settings: Any
) -> nn.Module:
    """The network that a function of one's own makes."""
    named = {"num_outputs": num_outputs, **settings}
    if "size_hw" in inspect.signature(function).parameters:
        named["size_hw"] = size_hw
    network = function(*arguments, **named)
    if not isinstance(network, nn.Module):
        raise UsageError(f"network {name}: gives {type(network).__name__}, expected a torch.nn.Module")
    _check(network, name, num_outputs=num_outputs, size_hw=size_hw)
    return network


def _check(network: nn.Module, name: str, *, num_outputs: int, size_hw: Size) -> None:
    """Refuse images that a network cannot take, and networks that give other than logits."""
    size = f"{size_hw[1]}x{size_hw[0]}"
    try:
        with torch.inference_mode():
            logits = network.eval()(torch.zeros(1, 3, *size_hw))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"network {name}: does not take images of {size} pixels: {reason}") from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (1, num_outputs):
        raise UsageError(f"network {name}: gives {shape} for an image, expected logits of shape (1, {num_outputs})")
    network.train()
