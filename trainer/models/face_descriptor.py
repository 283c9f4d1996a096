"""Face descriptors: who is on a chip, by the distance of dlib's descriptor from those of known people."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facepack.descriptor_network import CHIP_PX, NUM_VALUES, network
from facepack.errors import UsageError
from trainer.layers import Size

LIMITS = (0.6, 0.58, 0.56)
"""The distance from the mean of somebody's photos at which both answers are as likely, by their number: a mean of more
photos lies nearer to all of them. From CelebA's thumbnails (benchmarks/people.py)."""
_SCALE = 0.04
"""The distance in which the logit changes by one."""
_NEVER = -1e3


def face_descriptor(*, num_outputs: int, size_hw: Size, others: bool = True) -> nn.Module:
    """dlib's descriptor (King 2017) of a chip and of its mirror image, and the nearest of the people that are known.

    The logit of a person is how much nearer the image is to the mean of that person's photos than the limit between
    the same and another person. With `others` the last class is nobody of them: its logit is 0. Nothing is learnt
    but the means, so that one photo of a person is enough.
    """
    if tuple(size_hw) != (CHIP_PX, CHIP_PX):
        advice = f"describes chips of {CHIP_PX}x{CHIP_PX} pixels: facepack build ... --align chip --size {CHIP_PX}"
        raise UsageError(f"network face_descriptor: {advice}")
    network()  # without its file nothing begins
    return _FaceDescriptor(num_outputs, others=others)


class _FaceDescriptor(nn.Module):
    """The mean descriptor of each person, and the limit of its distance."""

    def __init__(self, num_outputs: int, *, others: bool) -> None:
        super().__init__()
        self._others = others
        self.means: torch.Tensor
        self.limits: torch.Tensor
        self.register_buffer("means", torch.zeros(num_outputs, NUM_VALUES))
        self.register_buffer("limits", torch.zeros(num_outputs))

    def features(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Descriptors (batch, 128) of chips in 0..1, (batch, 3, 150, 150)."""
        values = images.float().mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        chips = np.ascontiguousarray(values.cpu().numpy())
        both: npt.NDArray[np.float32] = (network()(chips) + network()(chips[:, :, ::-1])) / np.float32(2)
        return both

    def fit(self, features: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], *, seed: int) -> None:  # noqa: ARG002
        """Take the mean of each person's photos; the seed changes nothing."""
        points = torch.from_numpy(features).to(self.means)
        for person in range(len(self.means) - self._others):
            rows = np.flatnonzero(targets == person)
            if len(rows):
                self.means[person] = points[torch.from_numpy(rows).to(points.device)].mean(dim=0)
                self.limits[person] = LIMITS[min(len(rows), len(LIMITS)) - 1]

    def predict(self, features: npt.NDArray[np.float32]) -> torch.Tensor:
        """Logits, float32 (batch, num_outputs)."""
        distances = torch.cdist(torch.from_numpy(features).to(self.means), self.means)
        logits = (self.limits - distances) / _SCALE
        logits[:, self.limits == 0] = _NEVER  # nobody has seen this person
        if self._others:
            logits[:, -1] = 0
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Chips in 0..1, (batch, 3, 150, 150), to logits."""
        return self.predict(self.features(images))
