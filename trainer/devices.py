"""Devices: the processes, the device and the arithmetic of a run."""

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric

from facepack.errors import UsageError
from trainer.recipe import Recipe

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def launched(device: str, recipe: Recipe) -> Fabric:
    """One process, or the ranks that torchrun started, on a device ("" is the GPU, if there is one)."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: no GPU here that torch can use")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu or cuda")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=name,
        devices=num_here,
        num_nodes=world_size // num_here,
        strategy="ddp" if world_size > 1 else "auto",
        precision=precision_of(recipe, name),
    )
    fabric.launch()
    return fabric


def precision_of(recipe: Recipe, device: str) -> Precision:
    """The arithmetic of a recipe on this machine; `UsageError` for float16 on a CPU, which has none."""
    if recipe.precision == "16-mixed" and device == "cpu":
        raise UsageError("precision=16-mixed: float16 needs a GPU; on a CPU give --set precision=bf16-mixed or auto")
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16-mixed" if device == "cuda" or _has_bf16() else "32-true"


def _has_bf16() -> bool:
    """True on processors with instructions for bfloat16; others imitate it, slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
