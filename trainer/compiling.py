"""Compiling: a network through torch.compile, and what to do where this machine cannot."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from facepack.errors import JobError, UsageError

_WITHOUT = "--set compile=false trains without"
_HOMES = ("torch._dynamo", "torch._inductor")
"""Where the errors of torch.compile are defined; to import them takes seconds."""


def compiled(network: nn.Module, device: torch.device) -> Any:
    """The network compiled for a device, over the same weights under the same names; it happens in the first steps.

    Every shape of batches is compiled by itself, so that the arithmetic of a step does not depend on the batches
    before it: a resumed run has seen others. Raises `UsageError` where there is no compiler.
    """
    if missing := _missing(device.type):
        raise UsageError(f"compile=true: torch.compile needs {missing}, which is not found here; {_WITHOUT}")
    return torch.compile(network, dynamic=False)


def _missing(device_type: str) -> str:
    """What compiling needs and does not find; empty where all is there."""
    if device_type == "cpu":
        names = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
    else:
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
        if importlib.util.find_spec("triton") is None:
            return "triton"
    return "" if any(map(shutil.which, names)) else f"the compiler {' or '.join(names)}"


@contextmanager
def failures_named() -> Iterator[None]:
    """Within it, what torch.compile fails at is a `JobError` of one line."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(_HOMES):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise JobError(f"compile=true: torch.compile failed ({first.strip()}); {_WITHOUT}") from error
