"""Augmentations mean what they mean in torchvision: fixed ones give its pixels, random ones its distributions."""

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.transforms import v2

from facepack.errors import FieldError
from trainer.augment import (
    Augmentation,
    CenterCrop,
    CenterResizedCrop,
    ColorJitter,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Resize,
)
from trainer.loading import augment, opencv
from trainer.loading.augment import Parameters
from trainer.loading.batch_memory import BatchMemory
from trainer.loading.graphs import Graph
from trainer.loading.opencv_pipeline import OpenCvPipeline
from trainer.loading.pipeline import Engine, Pipeline, PipelineInput

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ENGINE = Engine(torch.device("cpu"), num_threads=2, prefetch=1)


def photos(number: int, *, width: int = 61, height: int = 47, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth pictures with colours, uint8 NHWC: waves of a few periods, and a bright corner that shows a flip."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pictures = []
    for _ in range(number):
        waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
        picture = 127 + 100 * np.stack(waves, axis=2)
        picture[: height // 5, : width // 5] = (250, 240, 20)
        pictures.append(picture)
    return np.stack(pictures).clip(0, 255).astype(np.uint8)


class Run(Protocol):
    """What an engine makes of a batch."""

    def __call__(self, images: npt.NDArray[np.uint8], steps: list[Augmentation], *, epoch: int = 0) -> torch.Tensor: ...


def run_dali(images: npt.NDArray[np.uint8], steps: list[Augmentation], *, epoch: int = 0) -> torch.Tensor:
    graph = Graph(tuple(steps), 0, False, MEAN, STD)
    parameters = parameters_of(graph, images, epoch=epoch)
    return Pipeline(graph, batch_size=len(images), engine=ENGINE).run_on(images, parameters)


def run_opencv(images: npt.NDArray[np.uint8], steps: list[Augmentation], *, epoch: int = 0) -> torch.Tensor:
    graph = Graph(tuple(steps), 0, False, MEAN, STD)
    parameters = parameters_of(graph, images, epoch=epoch)
    height, width = graph.sizes_after(np.array([images.shape[1:3]]))[0].tolist()
    return OpenCvPipeline(graph, size_hw=(height, width), engine=ENGINE).run_on(images, parameters)


@pytest.fixture(params=[run_dali, run_opencv], ids=["dali", "opencv"])
def run(request: pytest.FixtureRequest) -> Run:
    engine: Run = request.param
    return engine


def parameters_of(graph: Graph, images: npt.NDArray[np.uint8], *, epoch: int = 0) -> Parameters:
    """Parameters of a batch whose images have the first places in the order of an epoch."""
    sizes_hw = np.array([image.shape[:2] for image in images], np.int64)
    places = np.arange(len(images), dtype=np.int64)
    return graph.parameters(seed=0, epoch=epoch, places=places, sizes_hw=sizes_hw)[0]


def torchvision(images: npt.NDArray[np.uint8], transform: Callable[[Any], Any]) -> torch.Tensor:
    """What torchvision makes of each image, uint8 NHWC."""
    made = [transform(torch.from_numpy(image).permute(2, 0, 1)) for image in images]
    return torch.stack(made).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("step", "theirs"),
    [
        (Resize((32, 40)), v2.Resize((32, 40), antialias=True)),
        (Resize((90, 120)), v2.Resize((90, 120), antialias=True)),
        (Resize(24), v2.Resize(24, antialias=True)),
        (CenterCrop(30), v2.CenterCrop(30)),
        (CenterCrop((21, 34)), v2.CenterCrop((21, 34))),
        (CenterResizedCrop(0.8), v2.Compose([v2.CenterCrop((38, 49)), v2.Resize((47, 61), antialias=True)])),
        (RandomHorizontalFlip(1.0), v2.RandomHorizontalFlip(1.0)),
        (RandomHorizontalFlip(0.0), v2.RandomHorizontalFlip(0.0)),
        (RandomCrop((47, 61)), v2.RandomCrop((47, 61))),
        (RandomRotation((90.0, 90.0)), v2.RandomRotation((90.0, 90.0))),
        (RandomRotation((17.0, 17.0), fill=9), v2.RandomRotation((17.0, 17.0), fill=9)),
        (ColorJitter(brightness=(1.3, 1.3)), v2.ColorJitter(brightness=(1.3, 1.3))),
        (ColorJitter(contrast=(0.6, 0.6)), v2.ColorJitter(contrast=(0.6, 0.6))),
        (ColorJitter(contrast=(1.7, 1.7)), v2.ColorJitter(contrast=(1.7, 1.7))),
        (ColorJitter(saturation=(0.3, 0.3)), v2.ColorJitter(saturation=(0.3, 0.3))),
        (ColorJitter(saturation=(1.8, 1.8)), v2.ColorJitter(saturation=(1.8, 1.8))),
        (ColorJitter(hue=(0.2, 0.2)), v2.ColorJitter(hue=(0.2, 0.2))),
        (ColorJitter(hue=(-0.4, -0.4)), v2.ColorJitter(hue=(-0.4, -0.4))),
    ],
    ids=str,
)
def test_fixed_parameters_give_the_pixels_of_torchvision(run: Run, step: Augmentation, theirs: Any) -> None:
    images = photos(6)
    if isinstance(step, RandomRotation) and step.degrees == (90.0, 90.0):
        images = photos(6, width=48, height=48)
    ours = run(images, [step])
    expected = torchvision(images, theirs)
    assert ours.shape == expected.shape
    assert ours.dtype == torch.uint8
    difference = (ours.float() - expected.float()).abs()
    assert difference.mean() <= 1.0, f"{difference.mean():.2f} levels"


def test_normalised_batch_is_that_of_torchvision(run: Run) -> None:
    images = photos(5)
    ours = run(images, [RandomHorizontalFlip(1.0), Normalize(MEAN, STD)])
    theirs = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    expected = torch.stack([theirs(torch.from_numpy(image).permute(2, 0, 1)) for image in images])
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, expected, atol=1e-5)


def test_steps_are_done_in_order(run: Run) -> None:
    images = photos(4)
    steps: list[Augmentation] = [
        Resize((40, 50)),
        RandomHorizontalFlip(1.0),
        CenterCrop(21),
        ColorJitter(brightness=(0.5, 0.5)),
    ]
    theirs = v2.Compose(
        [
            v2.Resize((40, 50), antialias=True),
            v2.RandomHorizontalFlip(1.0),
            v2.CenterCrop(21),
            v2.ColorJitter(brightness=(0.5, 0.5)),
        ]
    )
    assert (run(images, steps).float() - torchvision(images, theirs).float()).abs().mean() < 1


def spread(images: torch.Tensor) -> npt.NDArray[np.float64]:
    """Per channel the mean, standard deviation, least and greatest of the means of the images of a batch."""
    means = images.float().mean(dim=(1, 2)).numpy()
    return np.stack([means.mean(0), means.std(0), means.min(0), means.max(0)])


@pytest.mark.parametrize(
    ("step", "theirs"),
    [
        (RandomCrop(20), v2.RandomCrop(20)),
        (RandomHorizontalFlip(0.3), v2.RandomHorizontalFlip(0.3)),
        (RandomResizedCrop(24), v2.RandomResizedCrop(24, antialias=True)),
        (RandomResizedCrop((16, 30), (0.5, 0.9), (0.5, 2.0)), v2.RandomResizedCrop((16, 30), (0.5, 0.9), (0.5, 2.0))),
        (RandomResizedCrop(), v2.RandomResizedCrop((47, 61), antialias=True)),
        (RandomRotation(30.0), v2.RandomRotation(30)),
        (ColorJitter(brightness=0.4), v2.ColorJitter(brightness=0.4)),
        (ColorJitter(contrast=0.4), v2.ColorJitter(contrast=0.4)),
        (ColorJitter(saturation=0.4), v2.ColorJitter(saturation=0.4)),
        (ColorJitter(hue=0.3), v2.ColorJitter(hue=0.3)),
        (ColorJitter(0.4, 0.4, 0.4), v2.ColorJitter(0.4, 0.4, 0.4)),
    ],
    ids=str,
)
def test_random_parameters_have_the_distribution_of_torchvision(run: Run, step: Augmentation, theirs: Any) -> None:
    torch.manual_seed(0)
    images = np.repeat(photos(1, seed=3), 1500, axis=0)
    # The halves show where things are, not only how bright they are.
    half = 0.5 if isinstance(step, RandomHorizontalFlip) else 1.0
    ours, expected = run(images, [step]), torchvision(images, theirs)
    width = int(ours.shape[2] * half)
    ours_, expected_ = spread(ours[:, :, :width]), spread(expected[:, :, :width])
    assert np.abs(ours_[0] - expected_[0]).max() < 3  # mean
    assert np.abs(ours_[1] - expected_[1]).max() < 0.15 * expected_[1].max() + 0.7  # spread
    assert np.abs(ours_[2:] - expected_[2:]).max() < 0.25 * (expected_[3] - expected_[2]).max() + 2  # extremes


def test_random_numbers_depend_on_the_epoch_and_the_place_alone(run: Run) -> None:
    images = photos(8)
    steps: list[Augmentation] = [
        RandomResizedCrop(24),
        ColorJitter(0.4, 0.4, 0.4, 0.1),
        RandomHorizontalFlip(),
        Normalize(),
    ]
    first, again, other = run(images, steps), run(images, steps), run(images, steps, epoch=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crop_of_a_smaller_image_is_refused(run: Run) -> None:
    for step in (RandomCrop(50), CenterCrop(50)):
        with pytest.raises(FieldError, match=r"an image of 61x47 pixels is smaller; put a Resize before it"):
            run(photos(1), [step])


def test_share_of_the_middle_is_more_than_nothing_and_at_most_all() -> None:
    for share in (0.0, 1.2, -1.0):
        with pytest.raises(FieldError, match="expected more than 0, and at most 1"):
            CenterResizedCrop(share)


def test_lists_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FieldError, match="Normalize must come last"):
        augment.check_augmentations([Normalize(), RandomHorizontalFlip()])
    with pytest.raises(FieldError, match=r"augment RandomHorizontalFlip\(p=nan\): expected finite numbers"):
        augment.check_augmentations([RandomHorizontalFlip(float("nan"))])
    with pytest.raises(FieldError, match=r"augment .*: expected augmentations of trainer\.augment"):
        augment.check_augmentations([v2.RandomHorizontalFlip()])


def test_what_is_the_same_every_time_can_be_kept() -> None:
    assert augment.num_fixed([Resize(20), CenterCrop(16), RandomHorizontalFlip(), Normalize()]) == 2
    assert augment.num_fixed([RandomHorizontalFlip(), Resize(20)]) == 0
    assert augment.num_fixed([Resize(20)]) == 1


@pytest.mark.parametrize("is_running_ahead", [False, True])
@pytest.mark.parametrize("steps", [(RandomHorizontalFlip(), Normalize()), (Normalize(),)], ids=["drawn", "fixed"])
def test_images_on_the_device_come_by_a_source_of_their_own_and_keep_their_parameters(
    steps: tuple[Augmentation, ...], is_running_ahead: bool
) -> None:
    graph = Graph(steps, 0, False, MEAN, STD)
    batches = [photos(4, seed=seed) for seed in range(6)]
    expected = [run_dali(images, list(steps), epoch=epoch) for epoch, images in enumerate(batches)]
    waiting = iter(enumerate(batches))

    def source() -> PipelineInput:
        epoch, images = next(waiting)
        return PipelineInput(images, parameters_of(graph, images, epoch=epoch))

    engine = Engine(torch.device("cpu"), num_threads=2, prefetch=3 if is_running_ahead else 1)
    pipeline = Pipeline(graph, batch_size=4, engine=engine, source=source, images_on_device=True)
    for images in expected:
        assert torch.equal(pipeline.run(), images)
    with pytest.raises(StopIteration):
        pipeline.run()
    waiting = iter(enumerate(batches))
    assert torch.equal(pipeline.run(), expected[0])


def test_sizes_are_height_and_width(run: Run) -> None:
    steps = (Resize((20, 30)), CenterCrop((10, 25)), RandomCrop((9, 7)))
    graph = Graph(steps, 0, False)
    sizes_hw = np.array([[47, 61], [90, 50]], np.int64)
    assert graph.sizes_after(sizes_hw).tolist() == [[9, 7], [9, 7]]
    assert Graph((Resize(20),), 0, False).sizes_after(sizes_hw).tolist() == [[20, 25], [36, 20]]
    assert run(photos(2), list(steps)).shape == (2, 9, 7, 3)


LISTS: list[list[Augmentation]] = [
    [RandomResizedCrop(40), RandomHorizontalFlip(), Normalize()],
    [RandomHorizontalFlip(), RandomResizedCrop((30, 70)), Normalize()],
    [ColorJitter(0.4, 0.4, 0.4), RandomCrop(40), RandomHorizontalFlip(), Resize((32, 32)), Normalize()],
    [RandomResizedCrop(36), ColorJitter(0.8, 0.8, 0.8, 0.5), RandomHorizontalFlip()],
    [ColorJitter(contrast=(2.0, 3.0)), CenterResizedCrop(0.7), RandomRotation(30, fill=200.0), RandomHorizontalFlip(1)],
    [RandomHorizontalFlip(), ColorJitter(brightness=0.9), RandomHorizontalFlip(), RandomResizedCrop(), Normalize()],
    [Resize(30), CenterCrop(28)],
]


@pytest.mark.parametrize("steps", LISTS, ids=str)
def test_both_engines_make_the_same_images(steps: list[Augmentation]) -> None:
    images = photos(40)
    dali, opencv = run_dali(images, steps, epoch=3), run_opencv(images, steps, epoch=3)
    assert (dali.shape, dali.dtype, dali.is_contiguous()) == (opencv.shape, opencv.dtype, opencv.is_contiguous())
    difference = (dali.float() - opencv.float()).abs()
    if dali.dtype == torch.float32:
        difference = difference * torch.tensor(STD)[None, :, None, None] * 255
    assert difference.mean() <= 1.0, f"{difference.mean():.2f} levels"
    per_image = difference.flatten(1).mean(dim=1)
    assert per_image.max() <= 2.5, f"{per_image.max():.2f} levels in image {per_image.argmax()}"


def test_encoded_images_are_decoded_alike() -> None:
    graph = Graph((Resize((31, 37)),), 0, True)
    settings = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 90], ".png": [], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95]}
    kinds = [".jpg", ".jpg", ".png", ".webp"]
    pictures = [photo[:, :, ::-1] for photo in photos(4)]
    pictures[1] = pictures[1][:, :, 0]  # a grey one
    contents = [cv2.imencode(kind, picture, settings[kind])[1] for kind, picture in zip(kinds, pictures, strict=True)]
    sizes_hw = np.array([picture.shape[:2] for picture in pictures], np.int64)
    places = np.arange(4)
    parameters = graph.parameters(seed=0, epoch=0, places=places, sizes_hw=sizes_hw)[0]
    dali = Pipeline(graph, batch_size=4, engine=ENGINE).run_on(contents, parameters)
    opencv = OpenCvPipeline(graph, size_hw=(31, 37), engine=ENGINE).run_on(contents, parameters)
    difference = (dali.float() - opencv.float()).abs().mean(dim=(1, 2, 3))
    assert difference.max() <= 1.0, difference.tolist()


@pytest.mark.parametrize("size_hw", [(60, 75), (47, 61), (24, 31), (40, 31)])
def test_jpeg_that_is_shrunk_at_once_is_decoded_at_a_reduced_scale(size_hw: tuple[int, int]) -> None:
    pictures = photos(8, width=244, height=188)
    contents = [cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for picture in pictures]
    graph = Graph((Resize(size_hw), Normalize()), 0, True, MEAN, STD)
    sizes_hw = np.array([[188, 244]] * 8)
    parameters = graph.parameters(seed=0, epoch=0, places=np.arange(8), sizes_hw=sizes_hw)[0]
    whole = Pipeline(graph, batch_size=8, engine=ENGINE).run_on(contents, parameters)
    reduced = OpenCvPipeline(graph, size_hw=size_hw, engine=ENGINE).run_on(contents, parameters)
    levels = (whole - reduced).abs() * torch.tensor(STD)[None, :, None, None] * 255
    assert 0 < levels.mean() <= 1.0
    factor = min(188 // size_hw[0], 244 // size_hw[1])
    assert opencv.decoded(contents[0], least_hw=size_hw).shape[0] == 188 // {2: 2, 3: 2}.get(factor, 4)
    assert opencv.decoded(contents[0], least_hw=(95, 10)).shape == (188, 244, 3)


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it() -> None:
    memory = BatchMemory((3, 5), np.float32, most_kept=2)
    first = torch.from_numpy(memory.take(4))
    part = first[1:2]
    address = first.data_ptr()
    del first
    other = memory.take(4)
    assert other.ctypes.data != address, "a view is still there"
    del part
    assert memory.take(3).ctypes.data == address
    held = [memory.take(2) for _ in range(5)]
    assert len({batch.ctypes.data for batch in held}) == 5


def test_damaged_image_is_an_error_of_the_whole_pipeline() -> None:
    graph = Graph((Resize((8, 8)),), 0, True)
    content = cv2.imencode(".jpg", photos(1)[0])[1][:300]
    parameters = graph.parameters(seed=0, epoch=0, places=np.arange(1), sizes_hw=np.array([[47, 61]]))[0]
    with pytest.raises(RuntimeError, match="JPEG"):
        OpenCvPipeline(graph, size_hw=(8, 8), engine=ENGINE).run_on([content], parameters)
