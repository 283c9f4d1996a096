"""Classical classifiers, features by hand and scikit-learn behind them, that are called as networks are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facepack.errors import UsageError
from trainer.layers import Size

Features = npt.NDArray[np.float32]
"""(num_images, num_features)."""


def hog_svm(
    *, num_outputs: int, size_hw: Size, cell: int = 16, orientations: int = 9, c: float = 10.0, kernel: str = "rbf"
) -> nn.Module:
    """Histograms of oriented gradients (Dalal and Triggs 2005), and one support vector machine per class.

    `cell` in pixels; `c` is the price of an error; `kernel` is rbf or linear. Logits are distances from the margins.
    """
    if min(size_hw) < 2 * cell:
        raise UsageError(f"network hog_svm: images of {size_hw[1]}x{size_hw[0]} pixels have no block of 2x2 cells")
    if kernel not in ("rbf", "linear"):
        raise UsageError(f"network hog_svm: kernel {kernel!r}: expected rbf or linear")
    return _HogSvm(num_outputs, cell=cell, orientations=orientations, c=c, kernel=kernel)


def lbp_mlp(
    *,
    num_outputs: int,
    size_hw: Size,
    points: int = 8,
    radius: int = 2,
    grid: int = 8,
    hidden: int = 32,
    alpha: float = 1.0,
) -> nn.Module:
    """Uniform local binary patterns (Ojala et al. 2002) counted over a grid, and a small neural network.

    `points` on a circle of `radius` pixels; `alpha` is the weight decay of the `hidden` units.
    """
    if min(size_hw) < grid * (2 * radius + 1):
        raise UsageError(f"network lbp_mlp: images of {size_hw[1]}x{size_hw[0]} pixels are too small for its grid")
    return _LbpMlp(num_outputs, points=points, radius=radius, grid=grid, hidden=hidden, alpha=alpha)


class _HogSvm(nn.Module):
    """Support vectors and their weights for each class, as buffers."""

    def __init__(self, num_outputs: int, *, cell: int, orientations: int, c: float, kernel: str) -> None:
        super().__init__()
        self._cell, self._orientations, self._c, self._kernel = cell, orientations, c, kernel
        self.vectors: torch.Tensor
        self.weights: torch.Tensor
        self.bias: torch.Tensor
        self.gamma: torch.Tensor
        self._set_buffers(np.zeros((1, 1)), np.zeros((num_outputs, 1)), bias=np.zeros(num_outputs), gamma=1.0)

    def features(self, images: torch.Tensor) -> Features:
        """Features of images in 0..1, (batch, 3, height, width)."""
        from skimage.feature import hog

        cells = {"pixels_per_cell": (self._cell, self._cell), "cells_per_block": (2, 2)}
        features = [hog(grey, orientations=self._orientations, **cells) for grey in _grey(images)]
        return np.stack(features).astype(np.float32)

    def fit(self, features: Features, targets: npt.NDArray[np.int64], *, seed: int) -> None:
        """Fit one machine per class against all others."""
        from sklearn.svm import SVC

        _check_several(targets)
        gamma = float(1.0 / (features.shape[1] * max(features.var(), 1e-12)))
        weights = np.zeros((len(self.bias), len(features)))
        bias = np.full(len(self.bias), -1.0)  # a class without images is never predicted
        for number in np.unique(targets):
            machine = SVC(C=self._c, kernel=self._kernel, gamma=gamma, random_state=seed)
            machine.fit(features, np.where(targets == number, 1, -1))
            weights[number, machine.support_] = machine.dual_coef_[0]
            bias[number] = machine.intercept_[0]
        used = np.flatnonzero(weights.any(axis=0))
        self._set_buffers(features[used], weights[:, used], bias=bias, gamma=gamma)

    def predict(self, features: Features) -> torch.Tensor:
        """Logits, float32 (batch, num_outputs)."""
        points = torch.from_numpy(features).to(self.vectors)
        if self._kernel == "linear":
            similarity = points @ self.vectors.T
        else:
            similarity = torch.exp(-self.gamma * torch.cdist(points, self.vectors).square())
        return similarity @ self.weights.T + self.bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, (batch, 3, height, width), to logits."""
        return self.predict(self.features(images))

    def _set_buffers(self, vectors: Any, weights: Any, *, bias: Any, gamma: float) -> None:
        device = self.bias.device if "bias" in dict(self.named_buffers()) else "cpu"
        for name, value in {"vectors": vectors, "weights": weights, "bias": bias, "gamma": gamma}.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32, device=device))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take as many support vectors as there are."""
        for name in ("vectors", "weights"):
            if isinstance(value := state_dict.get(prefix + name), torch.Tensor):
                setattr(self, name, torch.empty_like(value, device=self.bias.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _LbpMlp(nn.Module):
    """What features are normalised by, and two layers."""

    def __init__(self, num_outputs: int, *, points: int, radius: int, grid: int, hidden: int, alpha: float) -> None:
        super().__init__()
        self._points, self._radius, self._grid, self._alpha = points, radius, grid, alpha
        num_features = grid * grid * (points + 2)
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.hidden = nn.Linear(num_features, hidden)
        self.outputs = nn.Linear(hidden, num_outputs)
        self.requires_grad_(False)

    def features(self, images: torch.Tensor) -> Features:
        """Shares of each pattern in each part, of images in 0..1."""
        from skimage.feature import local_binary_pattern

        features = []
        for grey in _grey(images):
            as_bytes = (255 * grey).astype(np.uint8)
            codes = local_binary_pattern(as_bytes, self._points, self._radius, "uniform")
            rows = np.array_split(codes.astype(np.int64), self._grid)
            parts = [part.ravel() for row in rows for part in np.array_split(row, self._grid, axis=1)]
            shares = [np.bincount(part, minlength=self._points + 2) / part.size for part in parts]
            features.append(np.concatenate(shares))
        return np.stack(features).astype(np.float32)

    def fit(self, features: Features, targets: npt.NDArray[np.int64], *, seed: int) -> None:
        """Fit the two layers with Adam, as scikit-learn does."""
        from sklearn.neural_network import MLPClassifier

        _check_several(targets)
        self.mean.copy_(torch.from_numpy(features.mean(axis=0)))
        self.scale.copy_(torch.from_numpy(np.maximum(features.std(axis=0), 1e-6)))
        size = self.hidden.out_features
        network = MLPClassifier((size,), alpha=self._alpha, max_iter=1000, tol=1e-4, random_state=seed)
        network.fit(self._normalised(features).numpy(), targets)
        (first, second), (first_bias, second_bias) = network.coefs_, network.intercepts_
        self.hidden.weight.copy_(torch.from_numpy(first.T))
        self.hidden.bias.copy_(torch.from_numpy(first_bias))
        classes = torch.from_numpy(network.classes_)
        if len(classes) == 2:  # it has one output for two classes
            second, second_bias = np.hstack([-second, second]) / 2, np.concatenate([-second_bias, second_bias]) / 2
        self.outputs.weight.zero_()
        self.outputs.bias.fill_(-1e3)  # a class without images is never predicted
        self.outputs.weight[classes] = torch.from_numpy(second.T).float()
        self.outputs.bias[classes] = torch.from_numpy(second_bias).float()

    def predict(self, features: Features) -> torch.Tensor:
        """Logits, float32 (batch, num_outputs)."""
        values = self._normalised(features).to(self.mean.device)
        logits: torch.Tensor = self.outputs(torch.relu(self.hidden(values)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, (batch, 3, height, width), to logits."""
        return self.predict(self.features(images))

    def _normalised(self, features: Features) -> torch.Tensor:
        return (torch.from_numpy(features) - self.mean.cpu()) / self.scale.cpu()


def _check_several(targets: npt.NDArray[np.int64]) -> None:
    if len(np.unique(targets)) < 2:
        raise UsageError("all images to learn from are of one class")


def _grey(images: torch.Tensor) -> npt.NDArray[np.float64]:
    """Mean over the channels, (batch, height, width)."""
    grey: npt.NDArray[np.float64] = images.float().mean(dim=1).cpu().numpy().astype(np.float64)
    if grey.min() < -1e-6 or grey.max() > 1 + 1e-6:
        raise UsageError(
            "classical features are of pixels in 0..1: let augment and eval_augment end in "
            "Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))"
        )
    return grey
