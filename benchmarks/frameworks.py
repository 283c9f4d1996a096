"""Count the images that frameworks and usual loops see in each epoch of a loader, against those in the split.

    python benchmarks/frameworks.py

writes benchmarks/results/frameworks.json, and from it frameworks.md; two minutes on two cores, on drawn images. Every
way trains, or loops, for three epochs; resumed ones stop after the first batch of the second epoch, and go on from
there with a loader of their own.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import figures
import torch
from figures import Raw
from torch import nn
from torch.utils.data import DataLoader

from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from trainer.loader import Batch, Loader

NUM_EPOCHS, NUM_IMAGES = 3, 400
LIBRARIES = ("facepack", "torch", "torchdata", "lightning", "accelerate", "transformers", "tqdm")

New = Callable[[], Loader]
"""Makes a loader, always the same."""
Epochs = list[list[int]]
"""The rows that each epoch saw, in order."""


def rows_of(batches: Iterable[Batch]) -> list[int]:
    """Rows in the order in which they came."""
    return [int(row) for batch in batches for row in batch.rows]


class Network(nn.Module):
    """The smallest network: the mean of each channel, and one linear layer. It notes the rows that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch."""
        self.seen += rows.tolist()
        logits = self.linear(images.mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def arguments(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as the arguments of the network by name."""
    return {"images": batch.images, "labels": batch.targets["class"], "rows": batch.rows}


# Loops


def each(loop: Callable[[Loader], Iterable[Batch]]) -> Callable[[New], Epochs]:
    """The epochs of one loader in a loop."""

    def epochs(new: New) -> Epochs:
        loader = new()
        return [rows_of(loop(loader)) for _ in range(NUM_EPOCHS)]

    return epochs


def after_a_look(new: New) -> Epochs:
    """Whole epochs after one batch was looked at: they are those from the second on."""
    loader = new()
    next(iter(loader))
    return [rows_of(loader) for _ in range(NUM_EPOCHS)]


def with_tqdm(loader: Loader) -> Iterable[Batch]:
    """A loop with a bar, which is not shown."""
    from tqdm import tqdm

    yield from tqdm(loader, disable=True)


def resumed(new: New) -> Epochs:
    """A loop of one's own, stopped and gone on with by the state of the loader."""
    first, second = new(), new()
    epochs = [rows_of(first), rows_of(islice(first, 1))]
    second.load_state_dict(first.state_dict())
    epochs[1] += rows_of(second)
    return [*epochs, rows_of(second)]


def torch_dataloader(new: New, *, num_workers: int = 0) -> Epochs:
    """A torch DataLoader whose dataset is the loader."""
    workers: Raw = {"multiprocessing_context": "spawn", "persistent_workers": True} if num_workers else {}
    batches: Any = DataLoader(new(), batch_size=None, num_workers=num_workers, **workers)
    return [rows_of(batches) for _ in range(NUM_EPOCHS)]


def torch_dataloader_2(new: New) -> Epochs:
    """The same with two workers."""
    return torch_dataloader(new, num_workers=2)


def stateful_dataloader(new: New) -> Epochs:
    """torchdata's StatefulDataLoader, stopped and gone on with by its own state."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    first, second = StatefulDataLoader(new(), batch_size=None), StatefulDataLoader(new(), batch_size=None)
    epochs = [rows_of(first), rows_of(islice(first, 1))]
    second.load_state_dict(first.state_dict())
    epochs[1] += rows_of(second)
    return [*epochs, rows_of(second)]


# Frameworks


def _lightning(new: New, folder: Path, **choices: Any) -> Any:
    """A trainer of Lightning, its module, and the loader."""
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network, self.epochs = Network(), dict[int, list[int]]()

        def training_step(self, batch: Batch) -> torch.Tensor:
            self.epochs.setdefault(self.current_epoch, []).extend(batch.rows.tolist())
            return self.network(**arguments(batch))["loss"]  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    quiet: Raw = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    choices = {"max_epochs": NUM_EPOCHS, "accelerator": "cpu", "enable_checkpointing": False} | quiet | choices
    return lightning.Trainer(default_root_dir=folder, **choices), Module(), new()


def lightning_fit(new: New, **choices: Any) -> Epochs:
    """Lightning's Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, module, loader = _lightning(new, Path(folder), **choices)
        trainer.fit(module, loader)
        return list(module.epochs.values())


def lightning_limited(new: New) -> Epochs:
    """The same with `limit_train_batches` of just an epoch."""
    return lightning_fit(new, limit_train_batches=len(new()))


def lightning_resumed(new: New) -> Epochs:
    """The same, stopped and gone on with by a checkpoint of Lightning."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    num_steps = len(new()) + 1
    with tempfile.TemporaryDirectory() as folder:
        keep = ModelCheckpoint(folder, filename="middle", every_n_train_steps=num_steps)
        stops: Raw = {"max_steps": num_steps, "enable_checkpointing": True, "callbacks": [keep]}
        first, module, loader = _lightning(new, Path(folder), **stops)
        first.fit(module, loader)
        second, other, rest = _lightning(new, Path(folder))
        second.fit(other, rest, ckpt_path=f"{folder}/middle.ckpt", weights_only=False)
        return [module.epochs.get(epoch, []) + other.epochs.get(epoch, []) for epoch in range(NUM_EPOCHS)]


def _accelerated(new: New) -> Any:
    """An accelerator, and a DataLoader that it prepared."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    return accelerator, accelerator.prepare(DataLoader(new(), batch_size=None))


def accelerate_prepared(new: New) -> Epochs:
    """accelerate's `prepare`."""
    _, batches = _accelerated(new)
    return [rows_of(batches) for _ in range(NUM_EPOCHS)]


def accelerate_resumed(new: New) -> Epochs:
    """The same, stopped and gone on with by `skip_first_batches`."""
    _, first = _accelerated(new)
    epochs = [rows_of(first), rows_of(islice(first, 1))]
    accelerator, second = _accelerated(new)
    second.set_epoch(1)
    epochs[1] += rows_of(accelerator.skip_first_batches(second, 1))
    second.set_epoch(2)
    return [*epochs, rows_of(second)]


def _hugging_face(new: New, folder: Path, *, stop_after: int = 0) -> Any:
    """A Trainer of Hugging Face with its network, which stops after some steps."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
            control.should_training_stop = state.global_step == stop_after

    choices: Raw = {"save_strategy": "steps", "save_steps": len(new()) + 1} if stop_after else {"save_strategy": "no"}
    settings = TrainingArguments(
        str(folder), num_train_epochs=NUM_EPOCHS, report_to=[], use_cpu=True, disable_tqdm=True, **choices
    )
    trainer = Trainer(Network(), settings, callbacks=[Stop()])
    batches: Any = DataLoader(new(), batch_size=None, collate_fn=arguments)  # type: ignore[arg-type]
    trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(batches)
    return trainer


def hugging_face(new: New) -> Epochs:
    """The Trainer of Hugging Face."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _hugging_face(new, Path(folder))
        trainer.train()
        return _cut(trainer.model.seen, new().num_samples)


def hugging_face_resumed(new: New) -> Epochs:
    """The same, stopped and gone on with by its checkpoint, which skips what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_hugging_face(new, Path(folder), stop_after=stop) for stop in (len(new()) + 1, -1))
        first.train()
        second.train(resume_from_checkpoint=True)
        return _cut(first.model.seen + second.model.seen, new().num_samples)


def _cut(seen: list[int], num_samples: int) -> Epochs:
    """What was seen, cut after each epoch; what is too much is an epoch more."""
    return [seen[start : start + num_samples] for start in range(0, len(seen), num_samples)]


WAYS: dict[str, Callable[[New], Epochs]] = {
    "for batch in loader": each(iter),
    "after next(iter(loader))": after_a_look,
    "islice(loader, len(loader))": each(lambda loader: islice(loader, len(loader))),
    "zip(range(len(loader)), loader)": each(
        lambda loader: (b for _, b in zip(range(len(loader)), loader, strict=True))
    ),
    "tqdm(loader)": each(with_tqdm),
    "state_dict in the middle of an epoch": resumed,
    "torch DataLoader, 0 workers": torch_dataloader,
    "torch DataLoader, 2 workers": torch_dataloader_2,
    "StatefulDataLoader, resumed in an epoch": stateful_dataloader,
    "Lightning fit": lightning_fit,
    "Lightning limit_train_batches": lightning_limited,
    "Lightning fit, resumed in an epoch": lightning_resumed,
    "accelerate prepare": accelerate_prepared,
    "accelerate skip_first_batches": accelerate_resumed,
    "Hugging Face Trainer": hugging_face,
    "Hugging Face Trainer, resumed in an epoch": hugging_face_resumed,
}


# Measuring


def measure(folder: Path) -> Raw:
    """Count in every way, on drawn images."""
    synthetic.draw("celeba", folder / "source", num_images=NUM_IMAGES)
    configuration = Configuration.of(dataset="celeba", classes="rarest4", size="32", samples_per_shard=40)
    build(configuration, place=Place(str(folder / "source"), str(folder / "build"), workers=0))

    def new() -> Loader:
        return Loader(folder / "build", split="train", batch_size=48, device="cpu")

    split = sorted(new().rows.tolist())
    ways = {}
    for name, count in WAYS.items():
        began = time.monotonic()
        epochs = count(new)
        is_whole = len(epochs) == NUM_EPOCHS and all(sorted(epoch) == split for epoch in epochs)
        seconds = round(time.monotonic() - began, 2)
        ways[name] = {"images": [len(epoch) for epoch in epochs], "each_once": is_whole, "seconds": seconds}
        print(f"{name}: {ways[name]['images']} of {len(split)}", flush=True)
    versions = {name: version(name) for name in LIBRARIES}
    num_cores = len(os.sched_getaffinity(0))
    return {**figures.about(num_cores=num_cores), "versions": versions, "num_split": len(split), "ways": ways}


def markdown(results: Raw) -> str:
    """The table with what was counted on what."""
    hardware = results["hardware"]
    machine = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['os']}"
    lines = [
        "# Frameworks",
        "",
        f"Made by `python benchmarks/frameworks.py` on {results['date']}: {machine}.",
        "",
        f"- versions: {', '.join(f'{name} {number}' for name, number in results['versions'].items())}",
        "- resumed: stopped after the first batch of the second epoch, and gone on with by a loader of its own",
        "",
        *table(results),
    ]
    return "\n".join(lines) + "\n"


def table(results: Raw) -> list[str]:
    """Lines of Markdown: a row per way."""
    lines = [
        f"| loop or framework | images seen per epoch, of {results['num_split']} in the split | each once |",
        "| --- | --- | --- |",
    ]
    for name, way in results["ways"].items():
        images = ", ".join(map(str, way["images"]))
        lines.append(f"| {name} | {images} | {'yes' if way['each_once'] else '**no**'} |")
    return lines


def main() -> None:
    """Count, or only write the table again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.add_argument("--report-only", action="store_true", help="the table from the JSON that is there")
    chosen = parser.parse_args()
    file = chosen.results / "frameworks.json"
    if not chosen.report_only:
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            results = measure(Path(folder))
        chosen.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    (chosen.results / "frameworks.md").write_text(markdown(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
