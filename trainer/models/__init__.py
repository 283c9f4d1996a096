"""Networks by name: every public function of a module here makes one, beside torchvision's, timm's and one's own."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facepack.errors import UsageError
from trainer import calls, discovery, other_networks
from trainer.layers import Size
from trainer.models import pretrained


@runtime_checkable
class FitAtOnce(Protocol):
    """A classifier that is fitted at once, to the features of all images, and not step by step."""

    def features(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Features, (batch, num_features), of images (batch, 3, height, width)."""

    def fit(self, features: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], *, seed: int) -> None:
        """Fit it to the features and classes of all images."""

    def predict(self, features: npt.NDArray[np.float32]) -> torch.Tensor:
        """Logits, float32 (batch, num_outputs)."""


def known() -> dict[str, Callable[..., nn.Module]]:
    """All networks by name: functions of (num_outputs, size_hw) and settings of their own."""
    return discovery.functions_in(__name__, __path__) | pretrained.MAKERS


def network(text: str, *, num_outputs: int, size_hw: Size) -> nn.Module:
    """Make a network from text such as "simpsons_cnn(dropout=0.5)"; `UsageError` where that cannot be.

    "timm:convnext_tiny", "torchvision:swin_t" and "module:function(width=3)" name those from elsewhere.
    """
    name, arguments, settings = calls.name_and_arguments(text, what="network")
    function = other_networks.maker(name) if ":" in name else calls.look_up(name, known(), what="network")
    if fixed := {"num_outputs", "size_hw"} & set(settings):
        raise UsageError(f"network {name}: {' and '.join(sorted(fixed))} follow from the build")
    named: dict[str, Any] = {"num_outputs": num_outputs, "size_hw": size_hw, **settings}
    calls.bound(function, arguments, named, what=f"network {name}")
    try:
        made: nn.Module = function(*arguments, **named)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"network {text}: {error}") from error
    return made
