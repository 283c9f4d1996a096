"""Train with accelerate on any number of processes; its checkpoints hold where the loader is.

accelerate launch examples/accelerate_loop.py BUILD
"""

import sys
import tempfile

import torch
from accelerate import Accelerator
from torch import nn

from trainer.loader import Loader


def main(build: str) -> None:
    """Two epochs, with a checkpoint in the middle of the second, and its rest once more from there."""
    accelerator = Accelerator(cpu=True)
    loader = Loader(
        build,
        split="train",
        batch_size=16,  # over all processes
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    num_inputs = 3 * loader.size_hw[0] * loader.size_hw[1]
    network = nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, len(loader.targets["class"].names)))
    # The loader stays as it is: its batches are those of this process already, and on the device.
    network, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.01))
    accelerator.register_for_checkpointing(loader)
    with tempfile.TemporaryDirectory() as folder:
        for run in range(3):
            if run == 2:
                accelerator.load_state(folder)
            epoch, num_images = loader.epoch, 0
            for number, batch in enumerate(loader):
                losses = nn.functional.cross_entropy(network(batch.images), batch.targets["class"], reduction="none")
                accelerator.backward((losses * batch.mask).sum() / batch.mask.sum())
                optimizer.step()
                optimizer.zero_grad()
                num_images += int(batch.mask.sum())
                if run == 1 and number == 0:
                    accelerator.save_state(folder)
            print(f"epoch {epoch}: {num_images} images")


if __name__ == "__main__":
    main(sys.argv[1])
