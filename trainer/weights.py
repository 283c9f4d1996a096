"""Weights: what a network begins with, from a finished run, a file, an address, or by its publisher's name."""

import hashlib
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import torch
from torch import nn

from facepack import download
from facepack.description import load_model, model_names, models_folder
from facepack.download import Expected
from facepack.errors import JobError, UsageError
from facepack.storage import is_url
from trainer import calls, checkpoint, layers, runs

log = logging.getLogger("facepack.trainer")

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")


@dataclass(frozen=True)
class Weights:
    """A file of weights, and its sha256."""

    path: Path
    sha256: str
    run: runs.Run | None = None
    """The run that ended with them, where it is one."""


def run_of(source: str) -> runs.Run | None:
    """The run that initial weights come from, where it is one."""
    folder = Path(source).expanduser()
    return runs.read(folder) if source and (folder / runs.RUN_FILE).exists() else None


def find(source: str, *, network: str) -> Weights | None:
    """The file that a recipe begins with: of a run, a file, an address or a published name; None for none.

    Files from addresses are cached where torch caches its own (TORCH_HOME), under their name only when they are whole.
    Raises `UsageError` for an unknown name, `JobError` where a file cannot be fetched or is not as published.
    """
    if not source:
        return None
    folder = Path(source).expanduser()  # no shell does, after --set weights=
    if (folder / runs.RUN_FILE).exists():
        path = folder / runs.BEST_FILE
        return Weights(path, runs.digest_of(path), runs.read(folder))
    if folder.is_dir():
        raise JobError(f"weights {source}: no {runs.RUN_FILE} in this folder, so no run of facepack train")
    if folder.exists():
        return Weights(folder, runs.digest_of(folder))
    if is_url(source):
        return _from_address(source)
    return _by_name(source, network=calls.name_and_arguments(network, what="network")[0])


def load_into(network: nn.Module, weights: Weights, *, name: str, with_head: bool = False) -> None:
    """Take all layers but the head, or all; `UsageError` names the first layer that is not the same in both."""
    try:
        content = checkpoint.load(weights.path)
    except JobError as error:
        raise JobError(f"{error}; if it was fetched, delete it to have it fetched again") from error
    state = next((content[key] for key in ("network", "state_dict") if isinstance(content.get(key), dict)), content)
    head, own = layers.head(network), network.state_dict()
    state = _renamed(state, network)
    left = {key for key in (*own, *state) if not with_head and layers.is_in(key, head)}
    backbone = {key: value for key, value in state.items() if key not in left}
    needed = {key for key in own if key not in left and not key.endswith("num_batches_tracked")}
    odd = dict.fromkeys(sorted(needed - set(backbone)), "is missing")
    odd |= dict.fromkeys(sorted(set(backbone) - set(own)), "is not in the network")
    pairs = {key: (getattr(backbone[key], "shape", None), own[key].shape) for key in sorted(needed & set(backbone))}
    odd |= {key: f"is {_text(theirs)}, not {_text(mine)}" for key, (theirs, mine) in pairs.items() if theirs != mine}
    if odd:
        key, what = next(iter(odd.items()))
        more = f", and {len(odd) - 1:,} more like it" if len(odd) > 1 else ""
        hint = _hint(weights, is_head_alone=all(layers.is_in(name, head) for name in odd))
        raise UsageError(f"weights {weights.path}: not of {name}: {key} {what}{more}; {hint}")
    network.load_state_dict(backbone | {key: value for key, value in own.items() if key in left})


def _text(shape: tuple[int, ...] | None) -> str:
    """A shape such as 1000x1280."""
    return "no tensor" if shape is None else "x".join(map(str, shape)) or "one number"


def _hint(weights: Weights, *, is_head_alone: bool) -> str:
    """What to do about weights that do not fit."""
    if is_head_alone:
        return "--set keep_head=false begins with a new head"
    network = weights.run.recipe.network if weights.run else "..."
    return f"give the network they are of with --set 'network={network}'"


def _renamed(state: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """Weights under the names of a network: as timm reads its own, or by their order where all shapes agree in it."""
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    if set(own) <= set(state) and all(getattr(state[key], "shape", ()) == own[key].shape for key in own):
        return state
    theirs = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    head = layers.head(network)
    pairs = list(zip(own.items(), theirs.items(), strict=False))
    agree = [
        mine.shape == getattr(value, "shape", None) for (key, mine), (_, value) in pairs if not layers.is_in(key, head)
    ]
    if len(own) == len(theirs) and not set(own) & set(theirs) and all(agree):
        log.info("weights: no name is the network's, but all shapes are: taken in their order")
        return {mine: value for (mine, _), (_, value) in pairs}
    remap = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    is_timms = type(network).__module__.startswith("timm.")
    renamed: dict[str, Any] = remap(state, network) if is_timms and remap is not None else state
    return renamed


def _from_address(address: str) -> Weights:
    url, fragment = urldefrag(address)
    kind, _, digest = fragment.partition("=")
    if not url.startswith(("http://", "https://")) or (fragment and kind != "sha256"):
        raise UsageError(f"weights {address}: expected https://..., and #sha256=... at its end to have it checked")
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{download.name_of(url)}"
    return _fetched(url, name, Expected(sha256=digest.lower()))


def _by_name(name: str, *, network: str) -> Weights:
    if network.startswith("timm:"):
        return _from_timm(name, architecture=network.removeprefix("timm:").partition(".")[0])
    described = {model.name: model for model in map(load_model, model_names()) if model.network == network}
    if name in described:
        (file,) = described[name].files
        path = models_folder() / file.path  # by facepack fetch
        if path.exists():
            return Weights(path, runs.digest_of(path))
        log.info("%s: %s; terms: %s", name, described[name].title, described[name].terms)
        return _fetched(file.urls[0], file.path, Expected(file.num_bytes or None, file.sha256, file.md5))
    urls = _urls_of_torchvision(network)
    if name not in urls:
        if "/" in name:
            raise JobError(f"weights {name}: no such file, and no folder of a run of facepack train")
        published = ", ".join([*urls, *described])
        choices = f"there are {published}" if published else "none are published"
        raise UsageError(f"weights {name!r} of {network}: no such file or run, and not a published name: {choices}")
    digits = _HASH_IN_NAME.search(urls[name])  # torchvision's names end in the first digits of the sha256
    return _fetched(urls[name], download.name_of(urls[name]), Expected(sha256=digits[1] if digits else ""))


def _from_timm(name: str, *, architecture: str) -> Weights:
    """Weights by the tag that timm gives them, such as in1k; DEFAULT is the first."""
    try:
        from timm.models import get_pretrained_cfg, list_pretrained
    except ImportError as error:
        raise UsageError("timm is not installed: pip install 'facepack[timm]'") from error
    tags = [full.partition(".")[2] for full in list_pretrained(f"{architecture}.*")]
    if not tags or name not in ("DEFAULT", *tags):
        choices = f"there are {', '.join(['DEFAULT', *tags])}" if tags else "none are published"
        raise UsageError(
            f"weights {name!r} of timm:{architecture}: no such file or run, and not a published name: {choices}"
        )
    facts = get_pretrained_cfg(architecture if name == "DEFAULT" else f"{architecture}.{name}")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if facts is None or not facts.hf_hub_id:
        raise UsageError(f"weights {name!r} of timm:{architecture}: not on the hub; give a file")
    file = facts.hf_hub_filename or "model.safetensors"
    url = f"{endpoint}/{facts.hf_hub_id}/resolve/main/{file}"
    return _fetched(url, f"{facts.hf_hub_id.replace('/', '--')}{Path(file).suffix}", Expected())


def _urls_of_torchvision(network: str) -> dict[str, str]:
    """Addresses by name, the best last as DEFAULT."""
    network = network.removeprefix("torchvision:")
    if network not in _torchvision_names():
        return {}
    from torchvision.models import get_model_weights

    published = get_model_weights(network)
    return {name: published[name].url for name in published.__members__}


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _fetched(url: str, name: str, expected: Expected) -> Weights:
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        if not path.exists():
            log.info("fetching %s", url)
            download.download_file(url, path, expected=expected)
        weights = Weights(path, runs.digest_of(path))
    except JobError as error:
        raise JobError(f"{error}; or put the file at {path}, or give its place with --set weights=FILE") from error
    if not weights.sha256.startswith(expected.sha256):
        raise JobError(
            f"{path}: its sha256 is {weights.sha256}, expected {expected.sha256}; delete it, and it is fetched"
        )
    return weights
