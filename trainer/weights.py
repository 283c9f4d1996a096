"""Weights: what a network begins with, from a finished run, a file, an address, or by its publisher's name."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag

import torch
from torch import nn

from facepack import download, terminal
from facepack.description import load_model, model_names, models_folder
from facepack.download import Expected
from facepack.errors import JobError, UsageError
from facepack.storage import is_url
from trainer import calls, checkpoint, layers, models, runs

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")


@dataclass(frozen=True)
class Weights:
    """A file of weights, and its sha256."""

    path: Path
    sha256: str
    run: runs.Run | None = None
    """The run that they are of."""


def run_of(given: str) -> runs.Run | None:
    """The run that is meant, where it is one."""
    return runs.read(Path(given)) if given and (Path(given) / runs.RUN_FILE).exists() else None


def find(given: str, *, network: str) -> Weights | None:
    """The file that is meant by the field `weights` of a recipe; None for none.

    Files from addresses are kept where torch keeps its own (TORCH_HOME), under their name only when they are whole.
    Raises `UsageError` for a name that is not known, `JobError` where a file cannot be had or is not as published.
    """
    if not given:
        return None
    folder = Path(given)
    if (folder / runs.RUN_FILE).exists():
        path = folder / runs.BEST_FILE
        return Weights(path, runs.digest_of(path), runs.read(folder))
    if folder.is_dir():
        raise JobError(f"weights {given}: no {runs.RUN_FILE} in this folder, so no run of facepack train")
    if folder.exists():
        return Weights(folder, runs.digest_of(folder))
    if is_url(given):
        return _from_address(given)
    return _by_name(given, network=calls.name_and_arguments(network, what="network")[0])


def load_into(network: nn.Module, weights: Weights, *, name: str) -> None:
    """Take all layers but the head; `UsageError` names the first layer that is not the same in both."""
    try:
        content = checkpoint.load(weights.path)
    except JobError as error:
        raise JobError(f"{error}; if it was fetched, delete it to have it fetched again") from error
    kept = next((content[key] for key in ("network", "state_dict") if isinstance(content.get(key), dict)), content)
    head, own = layers.head(network), network.state_dict()
    taken = {key: value for key, value in kept.items() if not layers.is_in(key, head)}
    wanted = {key for key in own if not layers.is_in(key, head) and not key.endswith("num_batches_tracked")}
    odd = sorted(wanted - set(taken)) + sorted(set(taken) - set(own))
    odd += [key for key in sorted(wanted & set(taken)) if getattr(taken[key], "shape", None) != own[key].shape]
    if odd:
        hint = f"; give its network with --set 'network={weights.run.recipe.network}'" if weights.run else ""
        raise UsageError(
            f"weights {weights.path}: not of {name}: {odd[0]}"
            + (f" and {len(odd) - 1:,} more" if len(odd) > 1 else "")
            + f" differ or are missing{hint}"
        )
    network.load_state_dict(taken | {key: value for key, value in own.items() if layers.is_in(key, head)})


def _from_address(given: str) -> Weights:
    url, fragment = urldefrag(given)
    kind, _, digest = fragment.partition("=")
    if not url.startswith(("http://", "https://")) or (fragment and kind != "sha256"):
        raise UsageError(f"weights {given}: expected https://..., and #sha256=... at its end to have it checked")
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{download.name_of(url)}"
    return _fetched(url, name, Expected(sha256=digest.lower()))


def _by_name(given: str, *, network: str) -> Weights:
    every = [load_model(name) for name in model_names()]
    models_here = {one.name: one for one in every if one.network == network}
    if given in models_here:
        (file,) = models_here[given].files
        fetched = models_folder() / file.path  # by facepack fetch
        if fetched.exists():
            return Weights(fetched, runs.digest_of(fetched))
        terminal.note(f"{given}: {models_here[given].title}; terms: {models_here[given].terms}")
        return _fetched(file.urls[0], file.path, Expected(file.num_bytes or None, file.sha256, file.md5))
    published = _of_torchvision(network) | dict.fromkeys(models_here, "")
    if given not in published:
        known = f"there are {', '.join(published)}" if published else "none are published"
        if "/" in given:
            raise JobError(f"weights {given}: no such file, and no folder of a run of facepack train")
        raise UsageError(f"weights {given!r} of {network}: no such file or run, and not a published name: {known}")
    url = published[given]
    found = _HASH_IN_NAME.search(url)  # torchvision's names end in the first digits of the sha256
    return _fetched(url, download.name_of(url), Expected(sha256=found[1] if found else ""))


def _of_torchvision(network: str) -> dict[str, str]:
    """Addresses by name, the best last as DEFAULT."""
    if network not in {name for name, make in models.known().items() if make.__module__.endswith(".pretrained")}:
        return {}
    from torchvision.models import get_model_weights

    every = get_model_weights(network)
    return {name: every[name].url for name in every.__members__}


def _fetched(url: str, name: str, expected: Expected) -> Weights:
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        if not path.exists():
            terminal.note(f"fetching {url}")
            download.download_file(url, path, expected=expected)
        weights = Weights(path, runs.digest_of(path))
    except JobError as error:
        raise JobError(f"{error}; or put the file at {path}, or give its place with --set weights=FILE") from error
    if not weights.sha256.startswith(expected.sha256):
        raise JobError(
            f"{path}: its sha256 is {weights.sha256}, expected {expected.sha256}; delete it, and it is fetched"
        )
    return weights
