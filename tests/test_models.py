"""models: networks are their publishers', name by name and number by number; classical ones are scikit-learn's."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from facepack.errors import UsageError
from trainer import models
from trainer.models import pretrained

SIZE = (160, 160)
PRETRAINED = sorted(pretrained.NETWORKS)


@pytest.mark.parametrize(("num_classes", "num_weights"), [(8631, 27_910_327), (3, 23_484_163)])
def test_inception_is_facenets_in_names_shapes_and_answers(num_classes: int, num_weights: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

    torch.manual_seed(0)
    theirs = InceptionResnetV1(classify=True, num_classes=num_classes).eval()
    ours = models.network("inception_resnet_v1()", num_outputs=num_classes, size_hw=SIZE).eval()
    assert sum(one.numel() for one in ours.parameters()) == num_weights
    state = theirs.state_dict()
    shapes = {name: value.shape for name, value in state.items()}
    assert list(shapes.items()) == [(name, value.shape) for name, value in ours.state_dict().items()]
    for name, value in state.items():
        if value.is_floating_point():
            is_positive = name.endswith(("running_var", "bn.weight"))
            value.copy_(0.5 + torch.rand_like(value) if is_positive else 0.1 * torch.randn_like(value))
    ours.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, *SIZE)
    with torch.inference_mode():
        expected = theirs(images)
        assert expected.abs().max() > 0.1
        assert (ours(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_inception_refuses_images_that_are_too_small() -> None:
    with pytest.raises(UsageError, match="64x64 pixels; it takes 75 or more"):
        models.network("inception_resnet_v1()", num_outputs=3, size_hw=(64, 64))


@pytest.mark.parametrize("name", PRETRAINED)
def test_networks_of_torchvision_keep_its_names_and_have_dropout(name: str) -> None:
    from torchvision import models as theirs

    ours = models.network(f"{name}(dropout=0.4)", num_outputs=5, size_hw=(64, 64))
    with torch.device("meta"):  # shapes alone, without a hundred million random numbers
        expected = getattr(theirs, name)(weights=None, num_classes=5).state_dict()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in expected.items()
    }
    images = torch.randn(4, 3, 64, 64)
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d) or "StochasticDepth" in type(module).__name__:
            module.eval()
    with torch.inference_mode():
        assert not torch.equal(ours(images), ours(images)), "dropout in training"
        assert torch.equal(ours.eval()(images), ours(images))


def test_networks_refuse_images_that_are_too_small() -> None:
    with pytest.raises(UsageError, match="network vgg16: images of 8x8 pixels are too small for it"):
        models.network("vgg16()", num_outputs=5, size_hw=(8, 8))


def pictures(number: int) -> tuple[torch.Tensor, np.ndarray]:
    """Stripes in three directions under noise, in 0..1, and which."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    targets = rng.integers(0, 3, number)
    waves = [np.sin(0.6 * (x, y, x + y)[one] + rng.uniform(0, 6)) for one in targets]
    images = np.clip(0.5 + 0.3 * np.stack(waves)[:, None] + 0.15 * rng.normal(size=(number, 3, 48, 48)), 0, 1)
    return torch.from_numpy(images).float(), targets


@pytest.mark.parametrize("text", ["hog_svm(cell=8)", "hog_svm(cell=8, kernel='linear')", "lbp_mlp(grid=4)"])
def test_classical_ones_learn_and_are_kept_as_tensors(text: str) -> None:
    images, targets = pictures(120)
    network = models.network(text, num_outputs=3, size_hw=(48, 48))
    assert isinstance(network, models.FitAtOnce)
    features = network.features(images[:80])
    network.fit(features, targets[:80], seed=0)
    outputs = network(images[80:])
    assert (outputs.argmax(dim=1).numpy() == targets[80:]).mean() > 0.9
    again = models.network(text, num_outputs=3, size_hw=(48, 48))
    again.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(again(images[80:]), outputs)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_hog_svm_says_what_scikit_says(kernel: str) -> None:
    images, targets = pictures(90)
    network = models.network(f"hog_svm(cell=8, kernel='{kernel}', c=3.0)", num_outputs=3, size_hw=(48, 48))
    assert isinstance(network, models.FitAtOnce)
    features = network.features(images)
    network.fit(features[:60], targets[:60], seed=0)
    machine = OneVsRestClassifier(SVC(C=3.0, kernel=kernel, gamma="scale")).fit(features[:60], targets[:60])
    expected = machine.decision_function(features[60:])
    np.testing.assert_allclose(network.predict(features[60:]).numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_lbp_mlp_says_what_scikit_says(num_classes: int) -> None:
    images, targets = pictures(90)
    targets %= num_classes
    network = models.network("lbp_mlp(grid=4, hidden=8)", num_outputs=num_classes, size_hw=(48, 48))
    assert isinstance(network, models.FitAtOnce)
    features = network.features(images)
    network.fit(features[:60], targets[:60], seed=5)
    normalised = (features - features[:60].mean(axis=0)) / np.maximum(features[:60].std(axis=0), 1e-6)
    theirs = MLPClassifier((8,), alpha=1.0, max_iter=1000, random_state=5).fit(normalised[:60], targets[:60])
    expected = theirs.predict_proba(normalised[60:])
    np.testing.assert_allclose(network.predict(features[60:]).softmax(dim=1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("text", ["hog_svm(cell=8)", "lbp_mlp(grid=4)"])
def test_class_that_never_comes_is_never_said(text: str) -> None:
    images, targets = pictures(60)
    network = models.network(text, num_outputs=5, size_hw=(48, 48))
    assert isinstance(network, models.FitAtOnce)
    network.fit(network.features(images), targets, seed=0)
    assert set(network(images).argmax(dim=1).tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("text", ["hog_svm(cell=8)", "lbp_mlp(grid=4)"])
def test_one_class_alone_is_refused(text: str) -> None:
    images, targets = pictures(10)
    network = models.network(text, num_outputs=3, size_hw=(48, 48))
    assert isinstance(network, models.FitAtOnce)
    with pytest.raises(UsageError, match="of one class"):
        network.fit(network.features(images), np.zeros_like(targets), seed=0)


def test_classical_ones_refuse_what_they_cannot_take() -> None:
    for text, reason in (("hog_svm(cell=40)", "no block of 2x2"), ("lbp_mlp(grid=20)", "too small for its grid")):
        with pytest.raises(UsageError, match=reason):
            models.network(text, num_outputs=3, size_hw=(48, 48))
    with pytest.raises(UsageError, match="expected rbf or linear"):
        models.network("hog_svm(kernel='cubic')", num_outputs=3, size_hw=(48, 48))
    with pytest.raises(UsageError, match=r"pixels in 0\.\.1"):
        models.network("lbp_mlp(grid=4)", num_outputs=3, size_hw=(48, 48))(torch.randn(1, 3, 48, 48))
