"""The loader in DataLoader, StatefulDataLoader, Lightning, accelerate and Hugging Face's Trainer: exact rows."""

import copy
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import frameworks
import lightning
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from conftest import make
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from facepack.drawn import synthetic
from facepack.errors import UsageError
from trainer.augment import Normalize
from trainer.loader import Batch, EngineSettings, FeedSettings, Loader

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


# Lightning


class Module(lightning.LightningModule):  # type: ignore[misc]
    """Notes the rows of each epoch, and of each validation by the step before it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = frameworks.Network()
        self.epochs: dict[int, list[int]] = {}
        self.validated: dict[int, list[int]] = {}

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.epochs.setdefault(self.current_epoch, []).extend(batch.rows.tolist())
        loss: torch.Tensor = self.network(**frameworks.arguments(batch))["loss"]
        return loss

    def validation_step(self, batch: Batch) -> None:
        if not self.trainer.sanity_checking:
            self.validated.setdefault(self.global_step, []).extend(batch.rows.tolist())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(train: Any, valid: Any = None, *, checkpoint: Path | None = None, **choices: Any) -> Module:
    """Train for three epochs, or as chosen."""
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fixed: dict[str, Any] = {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": "callbacks" in choices}
    module = Module()
    trainer = lightning.Trainer(**(quiet | fixed | choices))
    trainer.fit(module, train, valid, ckpt_path=checkpoint, weights_only=False)
    return module


@pytest.mark.parametrize("interval", [2, 1.0])
def test_validation_in_the_middle_of_an_epoch_changes_no_row(build: Path, interval: float) -> None:
    module = fit(new(build), new(build, split="valid", batch_size=4), val_check_interval=interval)
    assert list(module.epochs.values()) == epochs(build, 3)
    assert list(module.validated) == ([2, 5, 8] if interval == 2 else [3, 6, 9])
    valid = frameworks.rows_of(new(build, split="valid", batch_size=4))
    assert all(rows == valid for rows in module.validated.values())


@pytest.mark.parametrize("num_steps", [2, 3, 5, 6])
def test_lightning_goes_on_from_every_step(build: Path, tmp_path: Path, num_steps: int) -> None:
    keep = ModelCheckpoint(tmp_path, filename="kept", every_n_train_steps=num_steps)
    before = fit(new(build), callbacks=[keep], max_steps=num_steps)
    after = fit(new(build), checkpoint=tmp_path / "kept.ckpt")
    assert [before.epochs.get(epoch, []) + after.epochs.get(epoch, []) for epoch in range(3)] == epochs(build, 3)


def test_lightning_goes_on_after_the_end_of_an_epoch(build: Path, tmp_path: Path) -> None:
    fit(new(build), new(build, split="valid"), callbacks=[ModelCheckpoint(tmp_path, filename="kept")], max_epochs=2)
    after = fit(new(build), new(build, split="valid"), checkpoint=tmp_path / "kept.ckpt")
    assert after.epochs == {2: epochs(build, 3)[2]}


class Data(lightning.LightningDataModule):  # type: ignore[misc]
    """A new loader for each epoch, as many make it."""

    def __init__(self, build: Path) -> None:
        super().__init__()
        self._build = build

    def train_dataloader(self) -> Loader:
        return new(self._build)


def test_new_loader_for_each_epoch_gives_that_epoch(build: Path) -> None:
    module = fit(Data(build), reload_dataloaders_every_n_epochs=1)
    assert list(module.epochs.values()) == epochs(build, 3)


def test_deep_copy_of_a_data_module_gives_the_same_epochs(build: Path) -> None:
    data = Data(build)
    data.loader = new(build)
    data.train_dataloader = lambda: data.loader  # type: ignore[method-assign]
    frameworks.rows_of(data.loader)
    other = copy.deepcopy(data)
    assert list(fit(other).epochs.values()) == epochs(build, 3)


def test_same_images_overfit_where_nothing_is_shuffled(build: Path) -> None:
    loader = new(build, feed=FeedSettings(shuffle=False))
    module = fit(loader, overfit_batches=2)
    assert list(module.epochs.values()) == [loader.rows[:40].tolist()] * 3


def test_one_loader_for_training_and_for_validation_within_an_epoch_is_refused(build: Path) -> None:
    loader = new(build)
    with pytest.raises(UsageError, match=r"this iterator of the loader is over: .*; two at once need two loaders$"):
        fit(loader, loader, val_check_interval=2)


# accelerate and Hugging Face


@pytest.mark.parametrize(("batch_size", "together"), [(4, None), (3, 2), (3, 4)])
@pytest.mark.parametrize("dispatches", [False, None])
def test_metrics_of_accelerate_have_every_sample(
    build: Path, batch_size: int, together: int | None, dispatches: bool | None
) -> None:
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatches))
    loader = new(build, batch_size=batch_size, split="train")
    batches = accelerator.prepare(DataLoader(loader, batch_size=together))
    gathered = [row for batch in batches for row in accelerator.gather_for_metrics(batch.rows).tolist()]
    assert sorted(gathered) == sorted(loader.rows.tolist())


@pytest.mark.parametrize("num_batches", [1, 3, 4, 5])
def test_stateful_dataloader_of_accelerate_goes_on_from_its_checkpoint(
    build: Path, tmp_path: Path, num_batches: int
) -> None:
    settings = DataLoaderConfiguration(use_stateful_dataloader=True, dispatch_batches=False)
    accelerator = Accelerator(cpu=True, dataloader_config=settings)
    batches = accelerator.prepare(DataLoader(new(build), batch_size=None))
    expected = epochs(build, 3)
    for epoch in range(-(-num_batches // 3)):
        batches.set_epoch(epoch)
        list(islice(batches, num_batches - 3 * epoch))
    accelerator.save_state(tmp_path)
    accelerator = Accelerator(cpu=True, dataloader_config=settings)
    rest = accelerator.prepare(DataLoader(new(build), batch_size=None))
    accelerator.load_state(tmp_path)
    epoch, num_taken = divmod(num_batches, 3)
    rest.set_epoch(epoch)
    assert frameworks.rows_of(rest) == expected[epoch][20 * num_taken :]
    rest.set_epoch(epoch + 1)
    assert frameworks.rows_of(rest) == expected[epoch + 1]


def test_batches_are_skipped_in_a_dataloader_and_not_in_a_loader(build: Path) -> None:
    skipped = skip_first_batches(DataLoader(new(build), batch_size=None), 2)
    assert frameworks.rows_of(skipped) == epochs(build, 1)[0][40:]
    with pytest.raises(AttributeError, match=r"a Loader has no dataset, it is one: .*\(loader, batch_size=N"):
        skip_first_batches(new(build), 2)


def test_state_that_set_epoch_puts_aside_is_told(build: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = new(build)
    list(loader)
    list(islice(loader, 1))
    again = new(build)
    again.load_state_dict(loader.state_dict())
    assert frameworks.rows_of(Accelerator(cpu=True).prepare(DataLoader(again, batch_size=None))) == epochs(build, 1)[0]
    assert caplog.messages == [
        "set_epoch(0) puts aside the state that was loaded: epoch 1, of which 20 samples were seen"
    ]


def test_trainer_of_hugging_face_takes_loaders_as_datasets(build: Path, tmp_path: Path) -> None:
    network = frameworks.Network()
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "use_cpu": True}
    settings |= {"num_train_epochs": 3, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    valid = new(build, split="valid", batch_size=4)
    trainer = Trainer(
        network,
        TrainingArguments(str(tmp_path), **settings),
        train_dataset=new(build),
        data_collator=lambda batches: frameworks.arguments(batches[0]),
        compute_metrics=lambda predicted: {"num": len(predicted.label_ids)},
    )
    trainer.train()
    assert network.seen == [row for epoch in epochs(build, 3) for row in epoch]
    assert trainer.evaluate(valid)["eval_num"] == valid.num_samples


def in_two(loader: Loader) -> list[Batch]:
    """The first of two random parts."""
    return [*iter(torch.utils.data.random_split(loader, [1, len(loader) - 1])[0])]


@pytest.mark.parametrize("ask", [lambda loader: loader[0], lambda loader: list(reversed(loader)), in_two])
def test_batch_by_its_number_is_refused(build: Path, ask: Any) -> None:
    with pytest.raises(UsageError, match=r"^a Loader gives batches in order, not by number: .*$"):
        ask(new(build))
