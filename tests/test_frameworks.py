"""The loader in DataLoader, StatefulDataLoader, Lightning, accelerate and Hugging Face's Trainer: exact rows."""

import logging
from pathlib import Path
from typing import Any

import frameworks
import pytest
from conftest import make

from facepack.drawn import synthetic
from trainer.augment import Normalize
from trainer.loader import EngineSettings, Loader

pytestmark = pytest.mark.filterwarnings("ignore")  # frameworks warn of themselves, and of a machine without a GPU


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frameworks")
    synthetic.draw("celeba", folder / "source", num_images=120)
    make(folder / "source", folder / "build", samples_per_shard=20)
    return folder / "build"


def new(build: Path, **choices: Any) -> Loader:
    fixed: dict[str, Any] = {"split": "train", "batch_size": 20, "augment": (Normalize(),), "device": "cpu"}
    return Loader(build, **(fixed | {"engine": EngineSettings(num_threads=1)} | choices))


def epochs(build: Path, num: int) -> list[list[int]]:
    """The rows of whole epochs in order."""
    loader = new(build)
    return [frameworks.rows_of(loader) for _ in range(num)]


@pytest.mark.parametrize("way", [way for way in frameworks.WAYS if "2 workers" not in way])
def test_every_epoch_gives_its_rows_in_order(build: Path, way: str) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seen = frameworks.WAYS[way](lambda: new(build))
    assert seen == (epochs(build, 4)[1:] if way.startswith("after") else epochs(build, 3))


@pytest.mark.slow
def test_two_workers_give_their_rows_in_order(build: Path) -> None:
    assert frameworks.torch_dataloader(lambda: new(build), num_workers=2) == epochs(build, 3)
