"""layers: what a mode freezes, in networks of every kind; frozen batch norm stands still."""

import pytest
import torch

from facepack.errors import UsageError
from trainer import layers, models

HEADS = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "vgg16": "classifier.6",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
    "inception_resnet_v1": "logits",
    "small_resnet": "head",
    "attributes_cnn": "head",
    "simpsons_cnn": "14",
}


def made(name: str) -> torch.nn.Module:
    return models.network(f"{name}()", num_outputs=4, size_hw=(192, 192) if name == "attributes_cnn" else (80, 80))


@pytest.mark.parametrize("name", HEADS)
def test_head_alone_learns(name: str) -> None:
    network = made(name)
    assert layers.head(network) == HEADS[name]
    layers.freeze(network, "head")
    learning = {key for key, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {key for key, _ in network.named_parameters() if key.startswith(f"{HEADS[name]}.")}


@pytest.mark.parametrize(
    ("name", "block", "num_blocks_frozen"),
    [
        ("resnet34", "layer4", 4),
        ("mobilenet_v2", "features.17", 17),
        ("small_resnet", "features.4", 4),
        ("inception_resnet_v1", "block8", 14),
    ],
)
def test_last_block_and_all_after_it_learn(name: str, block: str, num_blocks_frozen: int) -> None:
    network, same = made(name), made(name)
    layers.freeze(network, "last_block")
    learning = [key for key, weight in network.named_parameters() if weight.requires_grad]
    every = [key for key, _ in network.named_parameters()]
    assert learning == every[every.index(next(key for key in every if layers.is_in(key, block))) :]
    assert any(layers.is_in(key, layers.head(network)) for key in learning)
    layers.freeze(same, f"from:{block}")
    assert [one.requires_grad for one in same.parameters()] == [one.requires_grad for one in network.parameters()]
    assert num_blocks_frozen > 0


def test_nothing_is_frozen_by_none() -> None:
    network = made("resnet18")
    layers.freeze(network, "none")
    assert all(weight.requires_grad for weight in network.parameters())


def test_frozen_batch_norm_and_dropout_stand_still_and_the_rest_learns() -> None:
    network = made("inception_resnet_v1")
    layers.freeze(network, "from:block8")
    layers.set_training(network)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(4, 3, 80, 80)).sum().backward()
    moved = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("block8.", "last_bn.")) for name in moved)
    assert network.get_submodule("dropout").training
    assert not network.get_submodule("repeat_3.0.branch0.bn").training


@pytest.mark.parametrize(("name", "dropout"), [("inception_resnet_v1", "dropout"), ("vgg16", "classifier.2")])
def test_dropout_between_frozen_layers_is_no_noise(name: str, dropout: str) -> None:
    network = made(name)
    layers.freeze(network, "head")
    layers.set_training(network)
    assert not network.get_submodule(dropout).training
    assert network.get_submodule(layers.head(network)).training


@pytest.mark.parametrize("name", ["resnet18", "inception_resnet_v1"])
def test_batch_of_one_pixel_each_can_be_learnt_from(name: str) -> None:
    network = made(name).train()
    images = torch.randn(1, 3, 80, 80) if name.startswith("inception") else torch.randn(1, 3, 32, 32)
    before = {key: value.clone() for key, value in network.named_buffers()}
    with layers.frozen_batch_norm_for_single_image(network, 1):
        network(images).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())
    assert all(module.training for module in network.modules())
    with layers.frozen_batch_norm_for_single_image(network, 2):
        network(torch.cat([images, images]))
    assert any(not torch.equal(value, before[key]) for key, value in network.named_buffers())


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("from:layer5", "no layer 'layer5' with weights; did you mean layer"),
        ("from:layer4.7", r"no layer 'layer4\.7' with weights; did you mean layer4\.[01]"),
        ("from:xyz", "known are conv1, bn1, layer1, layer2, layer3, layer4, fc"),
        ("from:relu", "no layer 'relu' with weights"),
    ],
)
def test_layer_that_is_not_there_is_named(mode: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        layers.freeze(made("resnet18"), mode)


def test_network_without_blocks_says_so() -> None:
    with pytest.raises(UsageError, match="has no blocks; give freeze=head"):
        layers.freeze(made("simpsons_cnn"), "last_block")
