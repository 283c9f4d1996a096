"""Train with the Trainer of Hugging Face; it calls `set_epoch`, so that runs it resumes after an epoch are the same.

python examples/hf_trainer.py BUILD
"""

import sys
import tempfile
from collections.abc import Iterator

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from trainer.loader import Loader


class Batches:
    """A loader whose batches are the arguments of the network by name."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.set_epoch = loader.set_epoch

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch, num_images = self._loader.epoch, 0
        for batch in self._loader:
            num_images += len(batch.rows)
            if self._loader.epoch != epoch:  # that was the last one
                print(f"epoch {epoch}: {num_images} images")
            yield {"images": batch.images, "labels": batch.targets["class"]}


class Classifier(nn.Module):
    """A linear classifier that gives its loss, as the Trainer wants it."""

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, num_classes))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(build: str) -> None:
    loader = Loader(build, split="train", batch_size=16, device="cpu")
    model = Classifier(3 * loader.size_hw[0] * loader.size_hw[1], len(loader.targets["class"].names))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, num_train_epochs=3, report_to=[], save_strategy="no", use_cpu=True)
        trainer = Trainer(model, arguments)
        trainer.get_train_dataloader = lambda: Batches(loader)
        trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
