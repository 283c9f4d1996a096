"""The trainer: from shards to trained networks and reports.

    import trainer

    run = trainer.train("celeba_rarest4", data="builds/celeba-rarest4", epochs=5)
    run.results["test"].accuracy
    trainer.Predictor(run.folder)("me.jpg")

These names are imported when they are first used, as they take torch along: `Loader`, `train`, `resume`,
`across_builds`, `evaluate`, `export`, `Predictor` and `recipes`. See docs/api.md.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer import recipes
    from trainer.api import across_builds, resume, train
    from trainer.evaluation import evaluate
    from trainer.exporting import export
    from trainer.loader import Loader
    from trainer.prediction import Predictor

__all__ = ["Loader", "Predictor", "across_builds", "evaluate", "export", "recipes", "resume", "train"]

_HOMES = {
    "Loader": "trainer.loader",
    "Predictor": "trainer.prediction",
    "across_builds": "trainer.api",
    "evaluate": "trainer.evaluation",
    "export": "trainer.exporting",
    "resume": "trainer.api",
    "train": "trainer.api",
}


def __getattr__(name: str) -> object:
    """Import a public name (PEP 562)."""
    if name == "recipes":
        return importlib.import_module("trainer.recipes")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
