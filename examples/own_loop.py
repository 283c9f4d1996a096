"""Train a small network in a loop of your own, stop it in the middle of an epoch, and go on exactly there.

python examples/own_loop.py BUILD
"""

import sys
from typing import Any

import torch
from torch import nn

from trainer.loader import FeedSettings, Loader


def main(build: str) -> None:
    """Three epochs, with a stop after the second batch of the second one."""
    settings = FeedSettings(drop_last=True)  # batch norm cannot learn from a last batch of one image
    loader = Loader(build, split="train", batch_size=16, device="cpu", feed=settings)
    num_classes = len(loader.targets["class"].names)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.append(nn.Linear(32, num_classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    state = _train(loader, network, optimizer, num_steps=len(loader) + 2)

    again = Loader(build, split="train", batch_size=16, device="cpu", feed=settings)  # in another process, as it were
    again.load_state_dict(state)  # beside those of the network and the optimiser
    _train(again, network, optimizer, num_steps=2 * len(loader) - 2)


def _train(loader: Loader, network: nn.Module, optimizer: torch.optim.Optimizer, *, num_steps: int) -> dict[str, Any]:
    """Train so many steps; returns the state of the loader."""
    step = 0
    while step < num_steps:
        epoch, num_images = loader.epoch, 0
        for batch in loader:
            loss = nn.functional.cross_entropy(network(batch.images), batch.targets["class"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step, num_images = step + 1, num_images + len(batch.rows)
            if step == num_steps:
                break
        print(f"epoch {epoch}: {num_images} images")
    return loader.state_dict()


if __name__ == "__main__":
    main(sys.argv[1])
