"""The descriptor network gives dlib's own numbers, several times as fast."""

import dlib
import numpy as np
import pytest

from facepack import descriptor_network
from facepack.descriptor_network import CHIP_PX, NUM_VALUES, DescriptorNetwork, network_file
from facepack.errors import UsageError


@pytest.fixture(scope="module")
def network() -> DescriptorNetwork:
    return descriptor_network.network()


def chips(number: int) -> "np.typing.NDArray[np.uint8]":
    return np.random.default_rng(3).integers(0, 256, (number, CHIP_PX, CHIP_PX, 3), np.uint8)


def test_descriptors_are_those_of_dlib(network: DescriptorNetwork) -> None:
    theirs = dlib.face_recognition_model_v1(str(network_file())).compute_face_descriptor(list(chips(2)))
    ours = network(chips(2))
    assert ours.dtype == np.float32
    assert ours.shape == (2, NUM_VALUES)
    assert np.abs(ours - np.array(theirs)).max() < 2e-6
    assert np.abs(ours).max() > 0.1


def test_descriptor_does_not_depend_on_the_batch(network: DescriptorNetwork) -> None:
    together = network(chips(descriptor_network.BATCH + 1))
    assert np.abs(network(chips(1)) - together[:1]).max() < 2e-6
    assert network(chips(0)).shape == (0, NUM_VALUES)


def test_another_file_is_refused() -> None:
    content = network_file().read_bytes()
    with pytest.raises(UsageError, match="another file than dlib-models publishes"):
        DescriptorNetwork(content[:-1] + b"x")


def test_without_the_file_the_error_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptor_network, "FILE", "no_such_file.dat")
    with pytest.raises(UsageError, match=r"descriptors need no_such_file.dat; pip install 'facepack\[landmarks\]'"):
        network_file()
