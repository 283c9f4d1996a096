"""Train and validate with Lightning's Trainer; its checkpoints hold where the loader is.

python examples/lightning_fit.py BUILD
"""

import sys
from typing import Any

import lightning
import torch
from torch import nn

from trainer.loader import Batch, Loader


class Classifier(lightning.LightningModule):
    """A linear classifier that counts the images it sees."""

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, num_classes))
        self.num_images = 0

    def training_step(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch."""
        self.num_images += len(batch.rows)
        return nn.functional.cross_entropy(self.network(batch.images), batch.targets["class"])

    def validation_step(self, batch: Batch) -> None:
        """Log the accuracy."""
        is_right = self.network(batch.images).argmax(1) == batch.targets["class"]
        self.log("accuracy", is_right.float().mean(), batch_size=len(batch.rows))

    def on_train_epoch_end(self) -> None:
        """Print what the epoch saw."""
        print(f"epoch {self.current_epoch}: {self.num_images} images")
        self.num_images = 0

    def configure_optimizers(self) -> Any:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main(build: str) -> None:
    """Three epochs; `fit(..., ckpt_path=...)` goes on in the middle of one."""
    train, valid = (Loader(build, split=split, batch_size=16, device="cpu") for split in ("train", "valid"))
    model = Classifier(3 * train.size_hw[0] * train.size_hw[1], len(train.targets["class"].names))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", enable_checkpointing=False, **quiet)
    trainer.fit(model, train, valid)


if __name__ == "__main__":
    main(sys.argv[1])
