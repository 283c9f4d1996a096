"""Train with the Trainer of Hugging Face; runs that it resumes are the same, also from the middle of an epoch.

python examples/hf_trainer.py BUILD
"""

import sys
import tempfile

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.loader import Batch, Loader


class Classifier(nn.Module):
    """A linear classifier that gives its loss, as the Trainer wants it, and counts the images it sees."""

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, num_classes))
        self.num_images = 0

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.num_images += len(images)
        logits = self.network(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Count(TrainerCallback):
    """Prints what each epoch saw."""

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, *, model: Classifier, **___: object
    ) -> None:
        print(f"epoch {round(state.epoch) - 1}: {model.num_images} images")
        model.num_images = 0


def arguments_of(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as the arguments of the network by name."""
    return {"images": batch.images, "labels": batch.targets["class"]}


def main(build: str) -> None:
    """Three epochs; `train(resume_from_checkpoint=True)` goes on in the middle of one."""
    loader = Loader(build, split="train", batch_size=16, device="cpu")
    model = Classifier(3 * loader.size_hw[0] * loader.size_hw[1], len(loader.targets["class"].names))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(folder, num_train_epochs=3, report_to=[], save_strategy="no", use_cpu=True)
        trainer = Trainer(model, settings, callbacks=[Count()])
        # What accelerate prepares tells the loader its epoch, and can skip what a run saw before it was stopped.
        batches = DataLoader(loader, batch_size=None, collate_fn=arguments_of)
        trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(batches)
        trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
