"""Bench: rates of a build, of its rivals and of its limits, and what they mean."""

from pathlib import Path

import pytest
import torch
from conftest import make

from facepack import manifest
from facepack.errors import FieldError, UsageError
from trainer import bench, recipes
from trainer.bench import BenchSettings, Rate, explained, lines_of, measure_loading, write_page
from trainer.data import Data, Placement
from trainer.headspace import Steps, waiting_line
from trainer.loading.augment import Augmentation, ColorJitter, Normalize, RandomHorizontalFlip, RandomResizedCrop
from trainer.rivals import transform


@pytest.mark.slow
def test_a_build_is_measured_against_others_and_its_limits(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build")
    steps = (RandomResizedCrop((24, 24)), Normalize())
    settings = BenchSettings(batch_size=32, seconds=12.0, augment=steps, recipe="celeba_rarest4_modern")
    report = measure_loading(tmp_path / "build", settings=settings)
    assert [rate.name for rate in report.rates] == ["first epoch", "second epoch", "kept images"]
    assert [rate.name for rate in report.rivals] == ["torchvision", "webdataset"]
    assert {"storage", "decoding", "memory"} <= {rate.name for rate in report.limits}
    assert all(rate.images_per_s > 0 for rate in (*report.rates, *report.rivals, *report.limits))
    assert report.size_wh == (32, 32)
    page = write_page(report, tmp_path / "bench.html").read_text(encoding="utf-8")
    assert "holds it back" in page
    assert "fed by the loader" in page
    assert any(line.startswith("others:   torchvision") for line in lines_of(report))


def test_the_lowest_limit_holds_it_back_and_kept_images_are_advised(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", classes="")
    info = manifest.read_build(str(tmp_path / "build"))
    rates = [Rate("first epoch", 900.0, 9), Rate("second epoch", 1000.0, 9), Rate("kept images", 5000.0, 9)]
    limits = [Rate("storage", 90_000.0, 9), Rate("decoding", 1200.0, 9), Rate("memory", 50_000.0, 9)]
    bottleneck, advice = explained(rates, limits, build=info)
    assert bottleneck == "decoding"
    assert "5,000 images/s from the second epoch on instead of 1,000" in advice[0]
    assert "--encoding raw" in advice[1]


def test_settings_that_cannot_be_are_refused(celeba: Path, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="seconds 1: expected 5 to 3,600"):
        BenchSettings(seconds=1)
    make(celeba, tmp_path / "build", classes="")
    with pytest.raises(FieldError, match=r"split best: .* has no packed image"):
        bench.measure_loading(tmp_path / "build", settings=BenchSettings(split="best", seconds=5))


def test_augmentations_are_torchvisions_by_name() -> None:
    steps: list[Augmentation] = [RandomResizedCrop((24, 24)), ColorJitter(0.4), RandomHorizontalFlip(), Normalize()]
    composed, notes = transform(steps, mean=[0.5] * 3, std=[0.2] * 3)
    assert len(composed.transforms) == 6
    assert notes == []


def test_a_run_that_waits_in_its_first_epochs_says_what_would_help(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build")
    data = Data(recipes.load("celeba_rarest4"), str(tmp_path / "build"), placement=Placement(torch.device("cpu")))

    def line(share: float, epoch: int, cache: str) -> str:
        return waiting_line(share, epoch=epoch, data=data, cache=cache)

    assert line(0.05, 0, "ram") == line(0.9, 2, "none") == ""
    assert "23 % of the epoch: images are decoded and kept in this first epoch" in line(0.234, 0, "ram")
    assert "--encoding raw" in line(0.1, 1, "none")
    assert "augmentation takes longer than the steps" in line(0.1, 1, "ram")
    assert f"facepack bench {tmp_path / 'build'} measures each part" in line(0.1, 1, "ram")


def test_a_classifier_that_is_fitted_at_once_has_no_steps_to_measure() -> None:
    recipe = recipes.load("celeba_rarest4", ["network=hog_svm"])
    with pytest.raises(UsageError, match="fitted at once"):
        Steps(recipe, names=("a", "b", "c", "d"), size_hw=(64, 64))
