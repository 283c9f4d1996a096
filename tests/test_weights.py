"""weights: found by name, file, address or run; downloads are whole and as published, or one clear line."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make, tiny, train
from torchvision.models import ResNet18_Weights
from web import Web

from facepack import download
from facepack.errors import JobError, UsageError
from trainer import layers, models, runs, weights

NETWORK = "resnet18()"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of torch for each test, and short waits."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def published() -> bytes:
    """A file of weights of 1,000 classes, as torchvision publishes them."""
    torch.manual_seed(3)
    network = models.network(NETWORK, num_outputs=1000, size_hw=(64, 64))
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    kept = io.BytesIO()
    torch.save(state, kept)
    return kept.getvalue()


def name_of(content: bytes) -> str:
    return f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def serve(monkeypatch: pytest.MonkeyPatch, web: Web, name: str) -> None:
    """Let torchvision's own record of its weights point to the server."""
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", f"{web.url}/{name}")


@pytest.mark.parametrize("given", ["IMAGENET1K_V1", "DEFAULT"])
def test_weights_by_name_are_fetched_once_checked_and_loaded(
    given: str, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = name_of(published)
    with Web({name: published}) as web:
        serve(monkeypatch, web, name)
        with caplog.at_level("INFO", logger="facepack.trainer"):
            found = weights.find(given, network="resnet18(dropout=0.1)")
        assert found is not None
        assert found.path == tmp_path / "torch" / "hub" / "checkpoints" / name, "where torchvision looks for it, too"
        assert found.sha256 == hashlib.sha256(published).hexdigest()
        assert caplog.messages == [f"fetching {web.url}/{name}"]
        assert weights.find(given, network=NETWORK) == found
        assert web.count(name) == 1
    network = models.network(NETWORK, num_outputs=3, size_hw=(64, 64))
    head = network.get_parameter("fc.weight").clone()
    weights.load_into(network, found, name=NETWORK)
    expected = torch.load(io.BytesIO(published), weights_only=True)
    for key, value in expected.items():
        if not layers.is_in(key, "fc"):
            assert torch.equal(network.state_dict()[key], value), key
    assert torch.equal(network.get_parameter("fc.weight"), head), "the head is new"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("other", "its sha256 is [0-9a-f]*, expected"),
        ("404", "the server says 404 Not Found"),
        ("long", "ended early|connection was lost"),
    ],
)
def test_weights_that_are_wrong_cut_off_or_absent_are_one_line_that_names_the_file(
    how: str, reason: str, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of(published)
    with Web({name: published}, lambda *_: how) as web:
        serve(monkeypatch, web, name)
        with pytest.raises(JobError, match=reason) as failed:
            weights.find("IMAGENET1K_V1", network=NETWORK)
    place = tmp_path / "torch" / "hub" / "checkpoints" / name
    assert f"or put the file at {place}, or give its place with --set weights=FILE" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert not place.exists()


def test_connection_that_breaks_once_is_gone_on_with(
    published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of(published)
    with Web({name: published}, lambda _, before: "cut" if before == 0 else "") as web:
        serve(monkeypatch, web, name)
        found = weights.find("IMAGENET1K_V1", network=NETWORK)
        assert found is not None
        assert found.path.read_bytes() == published
        assert web.asked[1][1].startswith("bytes="), "from where it broke"


def test_without_a_network_one_line_says_which_file_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Web({}) as web:
        serve(monkeypatch, web, "resnet18-0123abcd.pth")
    with pytest.raises(JobError, match=r"connection refused; .*put the file at .*resnet18-0123abcd\.pth"):
        weights.find("IMAGENET1K_V1", network=NETWORK)


def test_file_that_was_changed_in_the_cache_is_refused(
    published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of(published)
    with Web({name: published}) as web:
        serve(monkeypatch, web, name)
        place = tmp_path / "torch" / "hub" / "checkpoints" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(published[:-1])
        with pytest.raises(JobError, match="delete it, and it is fetched"):
            weights.find("IMAGENET1K_V1", network=NETWORK)


def test_best_checkpoint_of_a_run_may_be_given_as_a_file(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", size="32")
    run = train(tmp_path / "build", tmp_path / "run", tiny(epochs=1))
    network = models.network("small_resnet(widths=(8, 16))", num_outputs=4, size_hw=(32, 32))
    found = weights.find(str(run / runs.BEST_FILE), network="small_resnet()")
    assert found is not None
    weights.load_into(network, found, name="small_resnet()")


def test_weights_by_address_are_checked_by_its_fragment(published: bytes) -> None:
    digest = hashlib.sha256(published).hexdigest().upper()
    with Web({"my.pt": published, "third.pt": published}) as web:
        first = weights.find(f"{web.url}/my.pt#sha256={digest}", network=NETWORK)
        assert first is not None
        assert first.path.name.endswith("-my.pt")
        other = weights.find(f"{web.url}/there/my.pt", network=NETWORK)
        assert other is not None
        assert other.path != first.path, "two files of one name"
        with pytest.raises(JobError, match="expected 00"):
            weights.find(f"{web.url}/third.pt#sha256=00{digest[2:].lower()}", network=NETWORK)
        with pytest.raises(UsageError, match="#sha256="):
            weights.find(f"{web.url}/my.pt#md5={digest}", network=NETWORK)


@pytest.mark.parametrize(
    ("given", "network", "reason"),
    [
        ("IMAGENET1K_V9", NETWORK, "not a published name: there are IMAGENET1K_V1, DEFAULT"),
        ("vggface", "inception_resnet_v1()", "there are casia-webface, vggface2"),
        ("nowhere.pt", "simpsons_cnn()", "none are published"),
        ("ftp://host/file", NETWORK, "expected https://"),
    ],
)
def test_weights_that_are_not_known_are_named(given: str, network: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        weights.find(given, network=network)


def test_file_of_facenet_loads_strictly_but_for_its_head(tmp_path: Path) -> None:
    there = models.network("inception_resnet_v1()", num_outputs=8631, size_hw=(160, 160))
    torch.save(there.state_dict(), tmp_path / "vggface2.pt")
    network = models.network("inception_resnet_v1()", num_outputs=3, size_hw=(160, 160))
    found = weights.find(str(tmp_path / "vggface2.pt"), network="inception_resnet_v1()")
    assert found is not None
    weights.load_into(network, found, name="inception_resnet_v1()")
    for key, value in there.state_dict().items():
        assert key.startswith("logits.") or torch.equal(network.state_dict()[key], value)


def changed(state: dict[str, Any], how: str) -> dict[str, Any]:
    """A file of weights in which one thing is wrong."""
    if how == "one is missing":
        del state["layer3.0.conv1.weight"]
    elif how == "one too many":
        state["extra.weight"] = torch.zeros(1)
    elif how == "another shape":
        state["layer3.0.conv1.weight"] = torch.zeros(1, 1)
    elif how == "no tensor":
        state["layer3.0.conv1.weight"] = "none"
    return state


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("one is missing", r"layer3\.0\.conv1\.weight is missing; give the network they are of with --set 'network="),
        ("one too many", r"extra\.weight is not in the network; give the network"),
        ("another shape", r"layer3\.0\.conv1\.weight is 1x1, not 256x128x3x3; give the network"),
        ("no tensor", r"layer3\.0\.conv1\.weight is no tensor, not 256x128x3x3; give the network"),
    ],
)
def test_file_of_another_network_names_the_layer(how: str, reason: str, published: bytes, tmp_path: Path) -> None:
    state = changed(torch.load(io.BytesIO(published), weights_only=True), how)
    torch.save(state, tmp_path / "file.pt")
    found = weights.find(str(tmp_path / "file.pt"), network=NETWORK)
    assert found is not None
    network = models.network(NETWORK, num_outputs=3, size_hw=(64, 64))
    with pytest.raises(UsageError, match=rf"file\.pt: not of resnet18\(\): {reason}"):
        weights.load_into(network, found, name=NETWORK)


def test_head_of_other_classes_says_how_to_begin_without_it(published: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(published)
    found = weights.find(str(tmp_path / "file.pth"), network=NETWORK)
    assert found is not None
    network = models.network(NETWORK, num_outputs=3, size_hw=(64, 64))
    reason = r"fc\.bias is 1000, not 3, and 1 more like it; --set keep_head=false begins with a new head"
    with pytest.raises(UsageError, match=reason):
        weights.load_into(network, found, name=NETWORK, with_head=True)


def test_file_in_the_home_folder_is_found(published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file.pth").write_bytes(published)
    found = weights.find("~/file.pth", network=NETWORK)
    assert found is not None
    assert found.path == tmp_path / "file.pth"


def test_files_with_a_state_dict_inside_and_damaged_ones(published: bytes, tmp_path: Path) -> None:
    torch.save({"state_dict": torch.load(io.BytesIO(published), weights_only=True)}, tmp_path / "inside.pt")
    network = models.network(NETWORK, num_outputs=3, size_hw=(64, 64))
    found = weights.find(str(tmp_path / "inside.pt"), network=NETWORK)
    assert found is not None
    weights.load_into(network, found, name=NETWORK)
    (tmp_path / "damaged.pt").write_bytes(published[:5000])
    found = weights.find(str(tmp_path / "damaged.pt"), network=NETWORK)
    assert found is not None
    with pytest.raises(JobError, match="damaged"):
        weights.load_into(network, found, name=NETWORK)
    with pytest.raises(JobError, match="no run of facepack train"):
        weights.find(str(tmp_path), network=NETWORK)


def test_run_from_published_weights_learns_with_rates_of_its_own_and_records_the_file(
    celeba: Path, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(celeba, tmp_path / "build", size="32")
    (tmp_path / "file.pth").write_bytes(published)
    recipe = tiny(network=NETWORK, weights=str(tmp_path / "file.pth"), backbone_lr=0.0, epochs=1, mixup=0.0)
    run = train(tmp_path / "build", tmp_path / "run", recipe)
    assert runs.read(run).weights_digest == hashlib.sha256(published).hexdigest()
    begun = torch.load(io.BytesIO(published), weights_only=True)
    ended = torch.load(run / "last.ckpt", weights_only=True)["network"]
    assert torch.equal(ended["layer4.1.conv2.weight"], begun["layer4.1.conv2.weight"]), "a rate of 0"
    assert not torch.equal(ended["layer4.1.bn2.running_mean"], begun["layer4.1.bn2.running_mean"]), "not frozen"
    (tmp_path / "file.pth").unlink()
    train(tmp_path / "build", tmp_path / "run", recipe)  # what it began with is in its checkpoint
    assert runs.read(run).weights_digest == hashlib.sha256(published).hexdigest()
