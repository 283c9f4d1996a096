"""facepack turns loose face images and odd label files into verified WebDataset shards with a Parquet manifest."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facepack.api import build
    from facepack.catalogue import datasets
    from facepack.fetching import fetch
    from facepack.reader import open_build
    from facepack.verification import verify

    __version__: str

__all__ = ["__version__", "build", "datasets", "fetch", "open_build", "verify"]

_MODULES = {
    "build": "api",
    "datasets": "catalogue",
    "fetch": "fetching",
    "open_build": "reader",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first used: `import facepack` alone takes no library along."""
    if name == "__version__":
        return metadata.version("facepack")
    if name not in _MODULES:
        raise AttributeError(f"module 'facepack' has no attribute {name!r}")
    return getattr(import_module(f"facepack.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
