"""Checkpoints: tensors and plain values, written whole or not at all, and read without running any code."""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from facepack.errors import JobError, UsageError
from facepack.storage import Store


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint: under its name it is whole. `OSError` on a full disk leaves the one before."""
    buffer = io.BytesIO()  # torch hides the reason where a file cannot be written
    torch.save(content, buffer)
    Store(str(path.parent)).write(path.name, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; `JobError` where there is none, or it holds more than tensors and values."""
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error names what torch warns of in a foreign file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such checkpoint; run facepack train (again)") from error
    except pickle.UnpicklingError as error:
        raise JobError(
            f"{path}: refused: it holds code, or is damaged; only tensors and plain values are read from a checkpoint"
        ) from error
    except (RuntimeError, EOFError, OSError, BadZipFile, ValueError, KeyError, AttributeError) as error:
        raise JobError(f"{path}: damaged ({(str(error) or 'it ends early').splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise JobError(f"{path}: not a checkpoint of facepack train")
    return content


def _safetensors(path: Path) -> dict[str, Any]:
    """Tensors by name."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UsageError(f"{path}: safetensors is not installed: pip install safetensors") from error
    try:
        content: dict[str, Any] = load_file(path)
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise JobError(f"{path}: damaged ({error})") from error
    return content
