"""Affine maps, blurs, erasing and policies: torchvision's pixels for fixed parameters, and both engines alike."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_augment import MEAN, STD, Run, parameters_of, photos, run_dali, run_opencv, torchvision
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as theirs

from facepack.errors import FieldError
from trainer.augment import (
    Augmentation,
    ColorJitter,
    GaussianBlur,
    Normalize,
    Pad,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    TrivialAugmentWide,
)
from trainer.loading.augment_policies import OPERATIONS
from trainer.loading.graphs import Graph


@pytest.fixture(params=[run_dali, run_opencv], ids=["dali", "opencv"])
def run(request: pytest.FixtureRequest) -> Run:
    engine: Run = request.param
    return engine


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Pad(5), v2.Pad(5)),
        (Pad((3, 7), fill=200), v2.Pad((3, 7), fill=200)),
        (Pad((1, 2, 3, 4), fill=(9.0, 99.0, 199.0)), v2.Pad((1, 2, 3, 4), fill=(9, 99, 199))),
        (RandomGrayscale(1.0), v2.RandomGrayscale(1.0)),
        (RandomGrayscale(0.0), v2.RandomGrayscale(0.0)),
        (GaussianBlur(5, 1.3), v2.GaussianBlur(5, 1.3)),
        (GaussianBlur((3, 9), 2.0), v2.GaussianBlur((3, 9), 2.0)),
        (RandomAffine((20.0, 20.0)), v2.RandomAffine((20.0, 20.0))),
        (RandomAffine(0.0, scale=(1.3, 1.3), fill=50), v2.RandomAffine(0, scale=(1.3, 1.3), fill=50)),
        (RandomAffine(0.0, shear=(11.0, 11.0)), v2.RandomAffine(0, shear=(11.0, 11.0))),
        (
            RandomAffine((-33.0, -33.0), scale=(0.8, 0.8), shear=(5.0, 5.0, -9.0, -9.0)),
            v2.RandomAffine((-33.0, -33.0), scale=(0.8, 0.8), shear=(5.0, 5.0, -9.0, -9.0)),
        ),
        (RandomErasing(0.0), v2.RandomErasing(0.0)),
    ],
    ids=str,
)
def test_fixed_parameters_give_the_pixels_of_torchvision(run: Run, step: Augmentation, expected: Any) -> None:
    images = photos(6)
    difference = (run(images, [step]).float() - torchvision(images, expected).float()).abs()
    assert difference.mean() <= 1.0, f"{difference.mean():.2f} levels"


def spread(images: torch.Tensor) -> np.ndarray:
    means = images.float().mean(dim=(1, 2)).numpy()
    return np.stack([means.mean(0), means.std(0), means.min(0), means.max(0)])


@pytest.mark.parametrize(
    ("step", "expected", "tolerance"),
    [
        (RandomGrayscale(0.4), v2.RandomGrayscale(0.4), 8),
        (RandomAffine(30, translate=(0.3, 0.2), scale=(0.7, 1.4), shear=20), None, 8),
        (RandomErasing(0.7, value=255.0), v2.RandomErasing(0.7, value=255), 8),
        (RandomErasing(1.0, scale=(0.4, 0.9), ratio=(0.5, 2.0)), None, 8),
        (RandAugment(), v2.RandAugment(), 12),
        (RandAugment(num_ops=1, magnitude=30), v2.RandAugment(1, 30), 14),
        (TrivialAugmentWide(), v2.TrivialAugmentWide(), 14),
    ],
    ids=str,
)
def test_random_parameters_have_the_distribution_of_torchvision(
    run: Run, step: Any, expected: Any, tolerance: float
) -> None:
    images = np.repeat(photos(1), 250, axis=0)
    if isinstance(step, RandomAffine):
        expected = v2.RandomAffine(30, translate=(0.3, 0.2), scale=(0.7, 1.4), shear=20)
    elif expected is None:
        expected = v2.RandomErasing(1.0, scale=(0.4, 0.9), ratio=(0.5, 2.0))
    torch.manual_seed(0)
    ours, others = spread(run(images, [step])), spread(torchvision(images, expected))
    assert np.abs(ours[:2] - others[:2]).max() < tolerance, (ours, others)


def strengths() -> dict[str, list[tuple[float, Any]]]:
    """Strengths of the operations of the wide space, and what torchvision makes of them."""

    def affine(image: Any, *, move: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Any:
        choices = {"angle": 0.0, "translate": list(move), "scale": 1.0, "shear": list(shear)}
        return theirs.affine(image, **choices, center=[0, 0] if any(shear) else None)

    slant = math.degrees(math.atan(0.99))
    return {
        "Identity": [(1.0, lambda image: image)],
        "ShearX": [(1.0, lambda image: affine(image, shear=(slant, 0.0)))],
        "ShearY": [(1.0, lambda image: affine(image, shear=(0.0, slant)))],
        "TranslateX": [(1.0, lambda image: affine(image, move=(32, 0)))],
        "TranslateY": [(1.0, lambda image: affine(image, move=(0, 32)))],
        "Rotate": [(0.2, lambda image: theirs.rotate(image, 27.0))],
        "Brightness": [(0.5, lambda image: theirs.adjust_brightness(image, 1.495))],
        "Color": [(0.5, lambda image: theirs.adjust_saturation(image, 1.495))],
        "Contrast": [(0.5, lambda image: theirs.adjust_contrast(image, 1.495))],
        "Sharpness": [(1.0, lambda image: theirs.adjust_sharpness(image, 1.99))],
        "Posterize": [(1.0, lambda image: theirs.posterize(image, 2)), (0.5, lambda image: theirs.posterize(image, 5))],
        "Solarize": [(0.4, lambda image: theirs.solarize(image, 153.0))],
        "AutoContrast": [(1.0, theirs.autocontrast)],
        "Equalize": [(1.0, theirs.equalize)],
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_policies_are_those_of_torchvision(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.loading.augmentation import RandomNumbers

    images = (photos(3, width=300, height=240).astype(float) * 0.8 + 20).astype(np.uint8)
    for share, operation in strengths()[name]:
        drawn = {"operation 0": OPERATIONS.index(name), "magnitude": round(share * 1000)}

        def integer(_: RandomNumbers, purpose: str, below: Any, drawn: dict[str, int] = drawn) -> Any:
            return np.full(len(below), drawn[purpose])

        monkeypatch.setattr(RandomNumbers, "integer", integer)
        monkeypatch.setattr(RandomNumbers, "uniform", lambda random, _purpose, **_: np.full(len(random.places), 0.9))
        ours = run(images, [TrivialAugmentWide(num_magnitude_bins=1001)])
        expected = torchvision(images, operation)
        difference = (ours.float() - expected.float()).abs().mean()
        assert difference <= 1.0, f"{share}: {difference:.2f} levels"


NOISE: Any = "random"
LISTS: list[list[Augmentation]] = [
    [RandAugment(num_ops=3, magnitude=12, fill=77), RandomHorizontalFlip(), Normalize()],
    [RandomResizedCrop(40), TrivialAugmentWide(), RandomHorizontalFlip(), Normalize(), RandomErasing(0.9)],
    [RandomHorizontalFlip(), RandomAffine(40, translate=(0.2, 0.2), scale=(0.6, 1.2), shear=(3.0, 9.0)), Pad(3)],
    [RandomGrayscale(0.5), GaussianBlur(7), RandomErasing(1.0, value=(1.0, 2.0, 250.0)), RandomHorizontalFlip(1.0)],
    [RandomHorizontalFlip(), ColorJitter(hue=0.1), Normalize(), RandomErasing(value=(0.5, -0.5, 2.0)), RandomErasing()],
]


@pytest.mark.parametrize("steps", LISTS, ids=str)
def test_both_engines_make_the_same_images(steps: list[Augmentation]) -> None:
    images = photos(60)
    dali, opencv = run_dali(images, steps, epoch=2), run_opencv(images, steps, epoch=2)
    assert (dali.shape, dali.dtype) == (opencv.shape, opencv.dtype)
    difference = (dali.float() - opencv.float()).abs()
    if dali.dtype == torch.float32:
        difference = difference * torch.tensor(STD)[None, :, None, None] * 255
    assert difference.mean() <= 1.0, f"{difference.mean():.2f} levels"
    assert difference.flatten(1).mean(dim=1).median() <= 1.0


def test_erasing_after_normalising_leaves_the_mean(run: Run) -> None:
    images = photos(50)
    made = run(images, [Normalize(MEAN, STD), RandomErasing(1.0)])
    plain = run(images, [Normalize(MEAN, STD)])
    is_erased = (made != plain).any(dim=1)
    assert (is_erased.flatten(1).any(dim=1)).float().mean() > 0.95
    assert (made.permute(0, 2, 3, 1)[is_erased] == 0).all()
    shares = is_erased.flatten(1).float().mean(dim=1)
    assert 0.1 < shares.mean() < 0.25, "2 to 33 % of the image"


def test_images_that_stay_plain_are_not_changed(run: Run) -> None:
    from trainer.loading.augmentation import RandomNumbers

    sizes_hw = np.array([[47, 61]] * 3)
    random = RandomNumbers(0, 0, 0, np.full(3, -1))
    for step in (RandAugment(), TrivialAugmentWide(), RandomAffine(30, translate=(0.5, 0.5)), RandomErasing(1.0)):
        parameters, after_hw = step.parameters(random, sizes_hw)
        assert after_hw.tolist() == sizes_hw.tolist()
        for name, values in parameters.items():
            if name.startswith("matrix"):
                assert np.allclose(values, [[1, 0, 0], [0, 1, 0]], atol=1e-5), step
            elif name.startswith(("code", "erased_hw")):
                assert not values.any(), step
    assert parameters_of(Graph((RandomGrayscale(0.5),), 0, False), photos(2)).keys() == {"0 matrix"}
    assert run(photos(2), [RandomGrayscale(0.0)]).numpy().tolist() == photos(2).tolist()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: GaussianBlur(4), "odd sides"),
        (lambda: GaussianBlur(5, sigma=(0.0, 1.0)), "more than 0"),
        (lambda: RandomErasing(value=NOISE), "noise is not drawn"),
        (lambda: RandAugment(magnitude=31), "expected 0 to 30"),
        (lambda: RandAugment(num_ops=0), "at least 1"),
        (lambda: TrivialAugmentWide(1), "at least 2"),
        (lambda: RandomAffine(0, translate=(2.0, 0.0)), "shares of 0 to 1"),
        (lambda: RandomAffine(0, scale=(0.0, 1.0)), "more than 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make: Any, why: str) -> None:
    with pytest.raises(FieldError, match=why):
        make()
