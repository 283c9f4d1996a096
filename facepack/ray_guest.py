"""Guest: what runs first on a node of Ray; it travels by value, for the node may have no facepack, or another one."""

import hashlib
import os
import pickle
import platform
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOOKS_WITHIN_S = 25.0
"""Longest time that a node takes to read a few files."""


@dataclass(frozen=True)
class Letter:
    """What a node has to have: versions to compare, variables to set, and the rest for those that have facepack."""

    versions: dict[str, str]
    """Of Python, Ray, facepack and the libraries that decide bytes."""
    code: str
    """Digest of the modules of facepack."""
    variables: dict[str, str] = field(repr=False)
    """Credentials and the like; they are never logged."""
    terms: bytes = field(repr=False)
    """What is to be done and shown first, `facepack.ray_process.Terms`, pickled."""


def versions_of(names: list[str]) -> dict[str, str]:
    """Versions of Python, without its last number, and of packages; "none" for those that are not there."""
    versions = {"Python": platform.python_version().rpartition(".")[0]}
    for name in names:
        try:
            versions[name] = version(name) or "none"
        except PackageNotFoundError:
            versions[name] = "none"
    return versions


def code_digest() -> str:
    """sha256 of the modules of facepack and their names; empty where there is none."""
    spec = find_spec("facepack")
    if spec is None or spec.origin is None:  # a folder without modules is no package
        return ""
    digest = hashlib.sha256()
    package = Path(spec.origin).parent
    for path in sorted(package.rglob("*.py")):
        if path.parent.name != "manifests":  # which is elsewhere where facepack runs from its sources
            digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def node_faults(letter: Letter) -> list[str]:
    """What this node lacks, each fit to follow its name; the variables of the letter are set."""
    os.environ.update(letter.variables)
    here = versions_of([name for name in letter.versions if name != "Python"])
    code = code_digest()
    if not code:
        return [f"has no facepack (in {sys.executable})"]
    others = [
        f"has {name} {here[name]}, the driver {there}" for name, there in letter.versions.items() if here[name] != there
    ]
    if others or code != letter.code:
        return others or [f"has another facepack of the same version {here['facepack']}: its modules differ"]
    return _within_time(letter)


def _within_time(letter: Letter) -> list[str]:
    """The faults that facepack's own look at source and output finds, or that it does not end."""
    faults: list[str] = []

    def look() -> None:
        try:
            terms = pickle.loads(letter.terms)  # noqa: S301 - made by the driver
        except ImportError as error:
            faults.append(f"cannot import facepack: {error}")
        else:
            faults.extend(terms.faults())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOKS_WITHIN_S)
    if thread.is_alive():
        return [f"cannot read source and output within {LOOKS_WITHIN_S:.0f} s"]
    return faults


class Packer:
    """A Ray actor that packs shards, some a call; it holds the detector. A node with faults packs nothing."""

    def __init__(self, letter: Letter) -> None:
        self._faults = node_faults(letter)
        self._terms: Any = None if self._faults else pickle.loads(letter.terms)  # noqa: S301 - made by the driver

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Take pickled tasks, give pickled: when it began, the node, its faults, and pickled results."""
        import ray

        begun, packed = time.time(), b""
        if not self._faults:
            packed = self._terms.outcomes(batch["tasks"][0])
        outcome = begun, ray.get_runtime_context().get_node_id(), self._faults, packed
        return {"outcome": [pickle.dumps(outcome)]}
