"""Measure loading and training on a GPU against rivals, limits and one resident batch, within eight minutes.

    python benchmarks/gpu.py                 on a machine with a GPU; needs no network and no data
    python benchmarks/gpu.py --rehearse      the same code on the CPU with few images, to see that it runs

writes gpu.json, and from it gpu.md and gpu.png, into benchmarks/results (a rehearsal into a folder of its own). Parts
that the time does not allow any more are left out and named. The gpu-marked tests run first: no speed counts before
batches, resume and answers are those of the CPU.
"""

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import figures
import torch
from figures import Figure, Raw

from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from trainer import models, optim, recipes, training
from trainer.loader import EngineSettings, Loader
from trainer.loading.augment import Augmentation, Normalize, RandomHorizontalFlip, Resize
from trainer.recipe import Recipe

ROOT = Path(__file__).parents[1]
NUM_CORES = len(os.sched_getaffinity(0))
LIBRARIES = ("facepack", "torch", "torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "webdataset", "spdl")
CLASSES = {"Bald": 4547, "Mustache": 7751, "Gray_Hair": 6871, "Pale_Skin": 8303}
"""The classes of celeba_rarest4 and how many images each has."""
MEAN, STD = (0.5, 0.45, 0.42), (0.3, 0.29, 0.29)
END = (RandomHorizontalFlip(), Normalize(MEAN, STD))
PUBLISHED_S0_S = 30 * 60.0


@dataclass(frozen=True)
class Scale:
    """How large everything is, and where it runs."""

    device: str
    share: float
    """Part of CelebA's images of the four classes."""
    num_drawn: int
    """Distinct pictures among them."""
    batch_size: int
    large_batch: int
    seconds: float
    """Least time of a measurement."""
    s0_epochs: int
    resnet_px: int
    samples_per_shard: int
    """So many that every worker of a rival has a shard."""
    minutes: float


FULL = Scale("cuda", 1.0, 600, 512, 8192, 2.0, 250, 160, 1000, 8.0)
SMALL = Scale("cpu", 0.02, 60, 64, 256, 0.2, 2, 64, 50, 8.0)


# The images


def drawn(folder: Path, scale: Scale) -> Path:
    """A CelebA of the true size and class counts; few distinct pictures stand under many names."""
    source = folder / "celeba"
    synthetic.draw("celeba", source, num_images=scale.num_drawn)
    pictures = sorted((source / "img_align_celeba").iterdir())
    names = (source / "list_attr_celeba.txt").read_text().splitlines()[1].split()
    rows = []
    for name, number in CLASSES.items():
        values = " ".join("1" if one == name else "-1" for one in names)
        rows += [values] * max(40, int(number * scale.share))
    lines, parts, people = [f"{len(rows)}", " ".join(names)], [], []
    for number, values in enumerate(rows, start=1):
        path = source / "img_align_celeba" / f"{number:06d}.jpg"
        if not path.exists():
            path.hardlink_to(pictures[number % len(pictures)])
        lines.append(f"{path.name} {values}")
        parts.append(f"{path.name} 0")
        people.append(f"{path.name} 1")
    (source / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (source / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    (source / "identity_CelebA.txt").write_text("\n".join(people) + "\n")
    return source


def builds(source: Path, folder: Path, scale: Scale) -> dict[str, str]:
    """The photos as they are, and packed at 64x64 as JPEG and raw; and the build of celeba_rarest4."""
    wanted: dict[str, Raw] = {
        "keep": {"size": "keep", "split": "100/0/0"},
        "jpeg": {"size": "64", "split": "100/0/0"},
        "raw": {"size": "64", "split": "100/0/0", "encoding": "raw"},
        "s0": {"size": "64", "split": "64/16/20", "seed": 13},
    }
    for name, choices in wanted.items():
        sizes = {"samples_per_shard": scale.samples_per_shard}
        configuration = Configuration.of("celeba", classes=",".join(CLASSES), **choices, **sizes)  # type: ignore[arg-type]
        build(configuration, place=Place(str(source), str(folder / name), workers=0))
    return {name: str(folder / name) for name in wanted}


# Loading: every function gives epochs, each an iterable of batches on the device


Epochs = Callable[[], Iterable[torch.Tensor]]


def ours(location: str, *, scale: Scale, cache: str, batch_size: int, steps: tuple[Augmentation, ...] = ()) -> Epochs:
    """Our loader."""
    settings = EngineSettings(prefetch=3)
    augment = (*steps, *END)
    cached: Any = cache
    loader = Loader(
        location,
        split="train",
        batch_size=batch_size,
        augment=augment,
        cache=cached,
        device=scale.device,
        engine=settings,
    )
    return lambda: (batch.images for batch in loader)


def imagefolder(source: Path, *, scale: Scale, size_px: int) -> Epochs:
    """torchvision's ImageFolder and torch's DataLoader with a worker per core, pinned."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((size_px, size_px), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    loader = _dataloader(ImageFolder(str(source), transform), scale, batch_size=scale.batch_size, shuffle=True)
    return lambda: (images.to(scale.device, non_blocking=True) for images, _ in loader)


def webdataset(location: str, *, scale: Scale, size_px: int) -> Epochs:
    """webdataset over our own tars, decoded by OpenCV in a worker per core, normalised on the device."""
    import webdataset as wds

    tars = sorted(str(path) for path in Path(location).glob("*.tar"))
    dataset = (
        wds.WebDataset(tars, shardshuffle=len(tars), seed=0, workersplitter=wds.shardlists.split_by_worker)
        .shuffle(1000)
        .map(partial(_decoded, size_px=size_px))
        .batched(scale.batch_size, collation_fn=_stacked)
    )
    loader = _dataloader(dataset, scale, batch_size=None)
    mean, std = (255 * torch.tensor(one, device=scale.device).view(3, 1, 1) for one in (MEAN, STD))

    def epoch() -> Iterator[torch.Tensor]:
        for images in loader:
            pixels = images.to(scale.device, non_blocking=True).permute(0, 3, 1, 2).float()
            yield (pixels - mean) / std

    return epoch


def _decoded(sample: Raw, *, size_px: int) -> Any:
    import cv2
    import numpy as np

    cv2.setNumThreads(0)
    image: Any = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR)
    image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    step = -1 if np.random.random() < 0.5 else 1
    return np.ascontiguousarray(image[:, ::step, ::-1])


def _stacked(images: list[Any]) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.stack(images))


def _dataloader(dataset: Any, scale: Scale, **settings: Any) -> Any:
    num_workers = min(16, NUM_CORES)
    pinned = scale.device == "cuda"
    return torch.utils.data.DataLoader(
        dataset, num_workers=num_workers, persistent_workers=True, prefetch_factor=4, pin_memory=pinned, **settings
    )


def spdl(source: Path, *, scale: Scale, size_px: int) -> Epochs:
    """SPDL: threads that decode and resize whole batches in C++, normalised on the device."""
    import random

    import spdl.io
    from spdl.pipeline import PipelineBuilder

    paths = [str(path) for path in sorted(source.glob("*/*.jpg"))]
    mean, std = (255 * torch.tensor(one, device=scale.device).view(3, 1, 1) for one in (MEAN, STD))

    def decoded(batch: list[str]) -> Any:
        return spdl.io.load_image_batch(batch, pix_fmt="rgb24", device_config=None, width=size_px, height=size_px)

    def epoch() -> Iterator[torch.Tensor]:
        random.shuffle(paths)
        builder = PipelineBuilder().add_source(paths).aggregate(scale.batch_size).pipe(decoded, concurrency=NUM_CORES)
        pipeline = builder.add_sink(4).build(num_threads=NUM_CORES)
        with pipeline.auto_stop():
            for buffer in pipeline.get_iterator(timeout=60):
                images = spdl.io.to_torch(buffer).to(scale.device, non_blocking=True).permute(0, 3, 1, 2)
                yield (images.float() - mean) / std

    return epoch


def dali_reader(location: str, *, scale: Scale, size_px: int) -> Epochs:
    """DALI's own webdataset reader, decoder, resize and normalise, in batches of its pipeline."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    tars = sorted(str(path) for path in Path(location).glob("*.tar"))
    on_gpu = scale.device == "cuda"

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=scale.batch_size, num_threads=NUM_CORES, device_id=0 if on_gpu else None, prefetch_queue_depth=3
    )
    def pipe() -> Any:
        index = [tar.replace(".tar", ".idx") for tar in tars]
        settings: dict[str, Any] = {"random_shuffle": True, "pad_last_batch": True, "name": "reader"}
        encoded = fn.readers.webdataset(paths=tars, index_paths=index, ext=["jpg"], **settings)
        images = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
        images = fn.resize(images, size=(size_px, size_px))
        flip = fn.random.coin_flip()
        mean, std = ([255 * value for value in one] for one in (MEAN, STD))
        return fn.crop_mirror_normalize(images, mirror=flip, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")

    built = pipe()
    policy = LastBatchPolicy.PARTIAL
    iterator = DALIGenericIterator(built, ["images"], reader_name="reader", last_batch_policy=policy, auto_reset=True)
    return lambda: (batch[0]["images"] for batch in iterator)


def decode_alone(location: str, *, scale: Scale) -> Epochs:
    """A limit: one prepared batch of photos decoded again and again, and nothing else."""
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    first = Loader(location, split="train", batch_size=1, device="cpu").build.shards[0].name
    with tarfile.open(Path(location) / first) as tar:
        members = [one for one in tar.getmembers() if one.name.endswith(".jpg")]
        files = [tar.extractfile(one) for one in members[: scale.batch_size]]
        contents = [np.frombuffer(file.read(), np.uint8) for file in files if file is not None]
    batch = (contents * (scale.batch_size // len(contents) + 1))[: scale.batch_size]
    on_gpu = scale.device == "cuda"
    pipeline = Pipeline(batch_size=len(batch), num_threads=NUM_CORES, device_id=0 if on_gpu else None)
    with pipeline:
        encoded = fn.external_source(source=lambda: batch, batch=True)
        pipeline.set_outputs(fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB))
    pipeline.build()

    def epoch() -> Iterator[torch.Tensor]:
        for _ in range(8):
            pipeline.run()
            yield torch.empty(len(batch))

    return epoch


def gather(num: int, *, scale: Scale) -> Epochs:
    """A limit: rows of decoded uint8 images on the device, chosen at random."""
    images = torch.randint(0, 255, (num, 64 * 64 * 3), dtype=torch.uint8, device=scale.device)

    def epoch() -> Iterator[torch.Tensor]:
        for rows in torch.split(torch.randperm(num, device=scale.device), scale.large_batch):
            yield images.index_select(0, rows)

    return epoch


def rate(epochs: Epochs, *, scale: Scale) -> Raw:
    """Images per second of the first epoch, and of whole epochs after it for some seconds; and the memory used."""
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, num, seconds, number = 0.0, 0, 0.0, 0
    while seconds < scale.seconds or number < 2:
        begun, seen = time.perf_counter(), 0
        for images in epochs():
            seen += len(images)
        _synchronized(scale)
        took = time.perf_counter() - begun
        if number:
            num, seconds = num + seen, seconds + took
        else:
            first = seen / took
        number += 1
    return {"images_per_s": num / seconds, "first_epoch_images_per_s": first, "epochs": number} | memory(scale)


def _synchronized(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.synchronize()


def memory(scale: Scale) -> Raw:
    """Peak bytes of the process on the host, and what is taken on the device."""
    found = {"host_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if scale.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"device_bytes": total - free, "torch_peak_bytes": torch.cuda.max_memory_allocated()}
    return found


def loading(made: dict[str, str], source: Path, scale: Scale) -> dict[str, tuple[str, str, Callable[[], Epochs]]]:
    """What is measured: label, explanation, and what makes its epochs."""
    small = partial(ours, scale=scale, batch_size=scale.batch_size)
    large = partial(ours, scale=scale, batch_size=scale.large_batch)
    found: dict[str, tuple[str, str, Callable[[], Epochs]]] = {
        "gather": ("limit: gather on the device", "uint8 rows at random", partial(gather, _num(made), scale=scale)),
        "decode": ("limit: decode alone", "one batch of 178x218", partial(decode_alone, made["keep"], scale=scale)),
        "device": ("facepack, kept on the device", "flip and normalise", partial(large, made["jpeg"], cache="device")),
        "ram": ("facepack, kept in host memory", "copied, flipped", partial(large, made["jpeg"], cache="ram")),
        "raw": ("facepack, raw shards", "copied, flipped", partial(large, made["raw"], cache="none")),
        "jpeg": ("facepack, packed JPEG at 64", "decoded anew", partial(small, made["jpeg"], cache="none")),
    }
    for size_px in (64, 160):
        kept: dict[str, Any] = {"scale": scale, "size_px": size_px}
        steps = (Resize((size_px, size_px)),)
        found |= {
            f"mixed {size_px}": (
                f"facepack, 178x218 to {size_px}",
                "decoded and resized anew",
                partial(small, made["keep"], cache="none", steps=steps),
            ),
            f"imagefolder {size_px}": (
                f"ImageFolder, 178x218 to {size_px}",
                "workers",
                partial(imagefolder, source / "classes", **kept),
            ),
            f"webdataset {size_px}": (
                f"webdataset, 178x218 to {size_px}",
                "workers, OpenCV",
                partial(webdataset, made["keep"], **kept),
            ),
            f"spdl {size_px}": (f"SPDL, 178x218 to {size_px}", "threads", partial(spdl, source / "classes", **kept)),
            f"dali {size_px}": (
                f"DALI's reader, 178x218 to {size_px}",
                "one pipeline",
                partial(dali_reader, made["keep"], **kept),
            ),
        }
    return found


def _num(made: dict[str, str]) -> int:
    return Loader(made["jpeg"], split="train", batch_size=1, device="cpu").num_samples


def classes_as_folders(source: Path) -> None:
    """The photos in a folder per class, for rivals that want that."""
    lines = (source / "list_attr_celeba.txt").read_text().splitlines()
    names = lines[1].split()
    for line in lines[2:]:
        file, *values = line.split()
        folder = source / "classes" / names[values.index("1")]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).hardlink_to(source / "img_align_celeba" / file)


# Training


def cases(made: dict[str, str], scale: Scale) -> dict[str, tuple[Recipe, str]]:
    """Recipes and builds: celeba_rarest4, simpsons_cnn's network, and a ResNet-34 on larger crops of the photos."""
    normalised = (RandomHorizontalFlip(), Normalize())
    s0 = recipes.load("celeba_rarest4")
    s3 = replace(recipes.load("simpsons_cnn"), augment=normalised)
    size = (scale.resnet_px, scale.resnet_px)
    resnet = replace(
        s3,
        network="resnet34()",
        augment=(Resize(size), *normalised),
        precision="bf16-mixed",
        batch_size=scale.batch_size,
    )
    return {
        "celeba_rarest4": (s0, made["s0"]),
        "simpsons_cnn's network": (s3, made["s0"]),
        "resnet34": (resnet, made["keep"]),
    }


def train_rates(recipe: Recipe, location: str, *, scale: Scale) -> Raw:
    """Images per second and the share of time spent waiting, fed by the loader and by one resident batch."""
    cache: Any = "auto"
    loader = Loader(
        location,
        split="train",
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        cache=cache,
        device=scale.device,
        engine=EngineSettings(prefetch=3),
    )
    names = loader.targets["class"].names
    network: Any = models.network(recipe.network, num_outputs=len(names), size_hw=loader.size_hw)
    network = network.to(scale.device, memory_format=torch.channels_last).train()
    optimizer = optim.optimizer(recipe.optimizer, network)
    # Compiling for the CPU needs a C++ compiler, and says nothing of a GPU.
    forward = torch.compile(network) if scale.device == "cuda" else network

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        with torch.autocast(scale.device, torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
            outputs = forward(images.contiguous(memory_format=torch.channels_last))
        recipe.task.losses(outputs.float(), targets).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    first = next(iter(loader))
    resident = (first.images.clone(), first.targets["class"].clone())
    loader.load_state_dict(loader.state_dict() | {"consumed": 0})
    short = loader.num_samples % recipe.batch_size or recipe.batch_size
    for _ in range(5):  # compiles, for the batch at the end, too
        step(*resident)
        step(resident[0][:short], resident[1][:short])
    found: Raw = {"num": loader.num_samples, "epochs": []}
    num_whole = loader.num_samples // recipe.batch_size
    for _ in range(3):
        _synchronized(scale)
        begun, waited = time.perf_counter(), 0.0
        asked = begun
        for batch in loader:
            waited += time.perf_counter() - asked
            step(batch.images, batch.targets["class"])
            asked = time.perf_counter()
        _synchronized(scale)
        fed_s = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(num_whole):
            step(*resident)
        if num_whole < len(loader):
            step(resident[0][:short], resident[1][:short])
        _synchronized(scale)
        found["epochs"].append(
            {"fed_s": fed_s, "waited_s": waited, "resident_s": time.perf_counter() - begun, "cache": loader.cache}
        )
    loader.close()
    return found | memory(scale)


def s0_complete(location: str, folder: Path, *, scale: Scale) -> Raw:
    """celeba_rarest4 as published, all epochs, from the call to the scores."""
    recipe = replace(recipes.load("celeba_rarest4"), epochs=scale.s0_epochs)
    begun = time.perf_counter()
    settings = training.Settings(device=scale.device)
    training.train("celeba_rarest4", recipe, data=location, out=folder / "run", settings=settings)
    scores = json.loads((folder / "run" / "scores.json").read_text())["splits"]["test"]
    found = {"seconds": time.perf_counter() - begun, "epochs": recipe.epochs, "test_accuracy": scores["accuracy"]}
    return found | memory(scale)


# All of it


def gpu_tests(scale: Scale) -> Raw:
    """The tests that need a GPU; in a rehearsal how many there are."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests")]
    command += ["--collect-only"] if scale.device == "cpu" else []
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"exit_code": 124, "said": "not done in 240 s"}
    lines = ended.stdout.strip().splitlines()
    return {"exit_code": ended.returncode, "said": lines[-1] if lines else ended.stderr[-500:]}


def measure(scale: Scale) -> Raw:
    """Everything that the time allows, as the JSON is to hold it."""
    begun = time.monotonic()
    results: Raw = figures.about(num_cores=NUM_CORES) | {"device": scale.device, "others_cores": []}
    if scale.device == "cuda":
        results["hardware"]["gpu"] = torch.cuda.get_device_name()
    results["versions"] = {"python": sys.version.split()[0]} | {
        name: found for name in LIBRARIES if (found := _version(name))
    }
    results |= {"loading": {}, "training": {}, "left_out": {}}

    def tried(group: str, name: str, make: Callable[[], Raw]) -> None:
        if time.monotonic() - begun > 60 * scale.minutes:
            results["left_out"][f"{group}: {name}"] = "no time left"
            return
        results["others_cores"].append(figures.others_at_work(num_cores=NUM_CORES))
        try:
            found = make()
        except Exception as error:  # noqa: BLE001 - a rival that is not here, or fails: the others go on
            results["left_out"][f"{group}: {name}"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        else:
            results[group][name] = found
        gc.collect()
        print(f"{time.monotonic() - begun:5.0f} s  {group}: {name} {results[group].get(name, 'left out')}", flush=True)

    results["tests"] = gpu_tests(scale)
    print(f"{time.monotonic() - begun:5.0f} s  tests: {results['tests']}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = drawn(folder, scale)
        classes_as_folders(source)
        made = builds(source, folder, scale)
        results["num_images"] = _num(made)
        print(f"{time.monotonic() - begun:5.0f} s  {results['num_images']:,} images built", flush=True)
        results["s0"] = {}
        tried("s0", "complete", lambda: s0_complete(made["s0"], folder, scale=scale))
        for name, (recipe, location) in cases(made, scale).items():
            tried("training", name, partial(train_rates, recipe, location, scale=scale))
        for name, (_, _, make) in loading(made, source, scale).items():
            tried("loading", name, lambda make=make: rate(make(), scale=scale))  # type: ignore[misc]
        results["labels"] = {name: (label, about) for name, (label, about, _) in loading(made, source, scale).items()}
    results["minutes"] = (time.monotonic() - begun) / 60
    return results


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


# Figures


def all_figures(results: Raw) -> list[Figure]:
    """Every line of the tables."""
    return [*_loading_figures(results), *_training_figures(results), *_s0_figures(results)]


def _loading_figures(results: Raw) -> list[Figure]:
    rates = {name: one["images_per_s"] for name, one in results["loading"].items()}
    group = f"{results['num_images']:,} images, second epoch on"
    found = []
    for name, value in rates.items():
        label, about = results["labels"][name]
        found.append(Figure(group, label, "images/s", (value,), about))

    def ratio(label: str, above: float | None, below: float | None, goal: float, about: str) -> None:
        if above and below:
            value = above / below
            goals: tuple[str, Any] = (f"at least {goal:g}", value >= goal) if goal else ("", None)
            found.append(Figure(group, label, "", (value,), about, *goals))

    if "device" in rates:
        value = rates["device"] / 1e6
        found.append(Figure(group, "kept on the device, millions", "", (value,), "", "at least 2", value >= 2))
    ratio("kept on the device / gather", rates.get("device"), rates.get("gather"), 0.5, "the limit of memory")
    for size_px in (64, 160):
        names = [f"{name} {size_px}" for name in ("imagefolder", "webdataset", "spdl", "dali")]
        best = max((rates[name] for name in names if name in rates), default=None)
        ratio(f"178x218 to {size_px} / best rival", rates.get(f"mixed {size_px}"), best, 3.0, "on the same photos")
    ratio("178x218 to 64 / decode alone", rates.get("mixed 64"), rates.get("decode"), 0.0, "the limit of decoding")
    return found


def _training_figures(results: Raw) -> list[Figure]:
    found = []
    for name, case in results["training"].items():
        epochs = case["epochs"]
        for label, key in (("one batch, again and again", "resident_s"), ("facepack", "fed_s")):
            values = tuple(case["num"] / epoch[key] for epoch in epochs[1:])
            found.append(Figure(f"training {name}", label, "images/s", values, f"kept: {epochs[-1]['cache']}"))
        wait = tuple(100 * epoch["waited_s"] / epoch["fed_s"] for epoch in epochs[1:])
        found.append(Figure(f"training {name}", "facepack: waiting for data", "%", wait, "of the time of an epoch"))
        ratios = tuple(epoch["resident_s"] / epoch["fed_s"] for epoch in epochs)
        goals: tuple[str, Any] = ("", None)
        if name == "resnet34":
            goals = ("at least 0.97", statistics.median(ratios[1:]) >= 0.97)
        found.append(
            Figure(f"training {name}", "facepack / one batch", "", ratios[1:], "from the second epoch on", *goals)
        )
        goals = ("at least 0.9", ratios[0] >= 0.9) if name == "resnet34" else ("", None)
        found.append(Figure(f"training {name}", "facepack / one batch, first epoch", "", ratios[:1], "decodes", *goals))
    return found


def _s0_figures(results: Raw) -> list[Figure]:
    if "complete" not in results["s0"]:
        return []
    one = results["s0"]["complete"]
    group = f"celeba_rarest4 complete, {one['epochs']} epochs"
    seconds = one["seconds"]
    return [
        Figure(
            group, "facepack", "s", (seconds,), "with validation, checkpoints, scores", "at most 30 s", seconds <= 30
        ),
        Figure(group, "published / facepack", "times", (PUBLISHED_S0_S / seconds,), "30 minutes on a Quadro P600"),
    ]


def markdown(results: Raw) -> str:
    """The tables with what was measured on what."""
    gpu = results["hardware"].get("gpu", "no GPU: a rehearsal, whose figures mean nothing")
    memories = [one for group in ("loading", "training", "s0") for one in results[group].values()]
    most = {key: max(one.get(key, 0) for one in memories) / 2**30 for key in ("host_bytes", "device_bytes")}
    lines = [
        "# On a GPU",
        "",
        figures.headline(results, command="python benchmarks/gpu.py", others_cores=results["others_cores"]),
        "",
        f"- {gpu}; {results['minutes']:.1f} minutes in all",
        f"- versions: {', '.join(f'{name} {number}' for name, number in results['versions'].items())}",
        f"- tests that need a GPU: {results['tests']['said']}",
        f"- memory at most: {most['host_bytes']:.1f} GiB on the host, {most['device_bytes']:.1f} GiB on the device",
        *(f"- left out: {name} ({why})" for name, why in results["left_out"].items()),
        *figures.tables(all_figures(results)),
    ]
    return "\n".join(lines) + "\n"


def plot(results: Raw, file: Path) -> None:
    """Images per second of all."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    every = [figure for figure in all_figures(results) if figure.unit == "images/s"]
    groups = list(dict.fromkeys(figure.group for figure in every))
    heights = [max(1.5, 0.36 * sum(figure.group == group for figure in every) + 0.7) for group in groups]
    sizes = {"height_ratios": heights}
    shape, axes = plt.subplots(
        len(groups), figsize=(11, sum(heights)), layout="constrained", gridspec_kw=sizes, squeeze=False
    )
    for group, axis in zip(groups, axes[:, 0], strict=True):
        chosen = [figure for figure in every if figure.group == group]
        figures.bars(axis, chosen, unit="images/s", limits=("limit", "one batch"))
    shape.suptitle(results["hardware"].get("gpu", "rehearsal on a CPU"), fontsize=12)
    shape.savefig(file, dpi=110)
    plt.close(shape)


def main() -> None:
    """Measure, or only write table and plot again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with few images")
    parser.add_argument("--minutes", type=float, default=FULL.minutes, help="after which nothing new is begun")
    parser.add_argument("--results", type=Path, help="folder to write to [benchmarks/results, rehearsal]")
    parser.add_argument("--report-only", action="store_true", help="table and plot from the JSON that is there")
    chosen = parser.parse_args()
    folder = chosen.results or (Path("rehearsal") if chosen.rehearse else Path(__file__).parent / "results")
    file = folder / "gpu.json"
    if not chosen.report_only:
        scale = SMALL if chosen.rehearse else FULL
        if scale.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("no GPU here that torch can use; --rehearse runs the same code on the CPU")
        results = measure(replace(scale, minutes=chosen.minutes))
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(file.read_text())
    (folder / "gpu.md").write_text(markdown(results))
    plot(results, folder / "gpu.png")


if __name__ == "__main__":
    main()
