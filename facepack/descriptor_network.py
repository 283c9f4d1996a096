"""The descriptor network: dlib's face recognition ResNet by its own file, computed in batches by numpy."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facepack.description import model_file, models_folder
from facepack.errors import UsageError

FILE = "dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
"""Of dlib-models' file, in which alone the weights lie where they are read."""
CHIP_PX, CHIP_MARGIN = 150, 0.25
"""Side of the chips that it was trained on, and the margin around the face in them."""
NUM_VALUES = 128
"""Numbers of a descriptor."""
BATCH = 16
"""Chips at once: more take no less time each."""

_MEAN_RGB = np.array((122.782, 117.001, 104.298), np.float32)
_HALVING = (3, 7, 10, 13)
"""The residual blocks, counted from 0, that halve height and width."""
_HEADER = re.compile(rb"\x01\x02([\x01-\x04])", re.DOTALL)
"""How a tensor begins: the number 2 (its version), then the number of its samples, each after its length in bytes."""

_Floats = npt.NDArray[np.float32]


class _Convolution(NamedTuple):
    """Weights (side * side * inputs, outputs) and biases, with the affine layer behind it multiplied in."""

    weights: _Floats
    biases: _Floats
    side: int


class DescriptorNetwork:
    """The network (King 2017, dlib-models; after He et al. 2016, 29 convolutions), read from the bytes of its file.

    Its descriptors are those of dlib's `compute_face_descriptor` to seven digits. dlib takes 76 ms of a core for a
    chip, and no less in batches; here one takes 9 in a batch, 13 alone (an Intel Xeon with AVX-512).
    """

    def __init__(self, content: bytes) -> None:
        """Raises `UsageError` for another file."""
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise UsageError(f"{FILE}: another file than dlib-models publishes; {how_to_get()}")
        *layers, last = _tensors(content)
        pairs = zip(layers[::2], layers[1::2], strict=True)
        self._convolutions = [_convolution(*pair, side=3 if number else 7) for number, pair in enumerate(pairs)]
        self._last = last.reshape(-1, NUM_VALUES)

    def __call__(self, chips_rgb: npt.NDArray[np.uint8]) -> _Floats:
        """Describe chips, uint8 RGB (N, 150, 150, 3): float32 (N, 128).

        Descriptors of one person are nearer than about 0.6 (Euclidean) to each other.
        """
        batches = [self._batch(chips_rgb[start : start + BATCH]) for start in range(0, len(chips_rgb), BATCH)]
        return np.concatenate([np.zeros((0, NUM_VALUES), np.float32), *batches])

    def _batch(self, chips_rgb: npt.NDArray[np.uint8]) -> _Floats:
        first, *rest = self._convolutions
        values: _Floats = (chips_rgb.astype(np.float32) - _MEAN_RGB) / np.float32(256)
        values = _largest_of_3x3(_positive(_convolved(values, first, stride=2)))
        for block, (inner, outer) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
            if block in _HALVING:
                inside = _positive(_convolved(values, inner, stride=2))
                values = _added(_mean_of_2x2(values), _convolved(_bordered(inside), outer))
            else:
                inside = _positive(_convolved(_bordered(values), inner))
                values = _positive(values + _convolved(_bordered(inside), outer))
        described: _Floats = values.mean(axis=(1, 2)) @ self._last
        return described


@cache
def network() -> DescriptorNetwork:
    """The network of this machine's file, one per process; `UsageError` where there is none, or another one."""
    return DescriptorNetwork(network_file().read_bytes())


def network_file() -> Path:
    """The file of the network: among the models, or in the package face_recognition_models; `UsageError` without."""
    file = model_file(FILE)
    if file is None:
        raise UsageError(f"descriptors need {FILE}; {how_to_get()}")
    return file


def how_to_get() -> str:
    """What to do where the file is not there."""
    return (
        f"pip install 'facepack[landmarks]', or put the file from github.com/davisking/dlib-models in {models_folder()}"
    )


# Layers; images are (N, height, width, channels)


def _convolved(values: _Floats, layer: _Convolution, *, stride: int = 1) -> _Floats:
    windows = np.lib.stride_tricks.sliding_window_view(values, (layer.side, layer.side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    num, height, width = windows.shape[:3]
    outputs = windows.reshape(num * height * width, -1) @ layer.weights
    outputs += layer.biases
    return outputs.reshape(num, height, width, -1)


def _positive(values: _Floats) -> _Floats:
    return np.maximum(values, 0, out=values)


def _bordered(values: _Floats) -> _Floats:
    """With a border of zeros."""
    return np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _largest_of_3x3(values: _Floats) -> _Floats:
    """The maximum of each 3x3, every second one."""
    num = (values.shape[1] - 3) // 2 + 1
    starts = [slice(at, at + 2 * num - 1, 2) for at in range(3)]
    rows = np.maximum.reduce([values[:, start] for start in starts])
    largest: _Floats = np.maximum.reduce([rows[:, :, start] for start in starts])
    return largest


def _mean_of_2x2(values: _Floats) -> _Floats:
    num, side = len(values), values.shape[1] // 2
    means: _Floats = values[:, : 2 * side, : 2 * side].reshape(num, side, 2, side, 2, -1).mean(axis=(2, 4))
    return means


def _added(shortcut: _Floats, outputs: _Floats) -> _Floats:
    """The sum of two tensors, each filled up with zeros to the larger height, width and number of channels."""
    _, *shape = np.maximum(shortcut.shape, outputs.shape)
    total = np.zeros((len(outputs), *shape), np.float32)
    for part in (shortcut, outputs):
        _, height, width, channels = part.shape
        total[:, :height, :width, :channels] += part
    return _positive(total)


# The file


def _tensors(content: bytes) -> list[_Floats]:
    """The tensors of weights in the order of the layers: those of convolutions and affine layers, then the last one.

    dlib writes whole numbers with their length before them, and the numbers of a tensor as float32, lowest byte first.
    """
    tensors: list[_Floats] = []
    at = 0
    while header := _HEADER.search(content, at):
        sizes, begin = _whole_numbers(content, header.start() + 2)
        num_values = int(np.prod(sizes))
        is_tensor = min(sizes) >= 1 and sizes[2:] == [1, 1] and (sizes[1] in (1, NUM_VALUES)) and num_values >= 16
        if is_tensor and begin + 4 * num_values <= len(content):
            tensors.append(np.frombuffer(content, "<f4", num_values, begin))
            at = begin + 4 * num_values
        else:
            at = header.start() + 1
    return tensors


def _whole_numbers(content: bytes, at: int) -> tuple[list[int], int]:
    """The four sizes of a tensor, and where its values begin."""
    numbers = []
    for _ in range(4):
        length = content[at] & 0x0F if at < len(content) else 0
        numbers.append(int.from_bytes(content[at + 1 : at + 1 + length], "little"))
        at += 1 + length
    return numbers, at


def _convolution(filters: _Floats, affine: _Floats, *, side: int) -> _Convolution:
    """A convolution (filters, then biases) with the affine layer behind it (factors, then summands)."""
    factors, summands = affine.reshape(2, -1)
    num = len(factors)
    weights = filters[:-num].reshape(num, -1, side, side) * factors[:, None, None, None]
    flat = weights.transpose(2, 3, 1, 0).reshape(-1, num)
    return _Convolution(np.ascontiguousarray(flat), filters[-num:] * factors + summands, side)
