"""Measure loading with real augmentation, at the sizes people train at, against the loaders that they use.

    python benchmarks/augment.py --small data/utkface --large data/fairface --rival litdata=OTHER/bin/python ...

writes benchmarks/results/augment.json and augment.md. Photos of 200 and of 448 pixels become batches of 128 float32
images by RandomResizedCrop (112, 160 and 224), with and without ColorJitter(0.4, 0.4, 0.4, 0.1), a flip, and Normalize.
Every measurement is a process of its own, all take turns, and rivals are set up as their documentation has it. Those
that are not installed here run in the environments that `--rival` names, or are left out.
"""

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import figures
import loader as packed_loader
from figures import Raw

# Only the standard library up here: the environments of rivals, which have no facepack, run this file too.

NUM_CORES = len(os.sched_getaffinity(0))
BATCH_SIZE = 128
MEAN, STD = (0.5, 0.45, 0.42), (0.3, 0.29, 0.29)
JITTER = (0.4, 0.4, 0.4, 0.1)
SIZES_PX = (112, 160, 224)
MIN_SECONDS = 3.0
LIBRARIES = (*packed_loader.LIBRARIES, *packed_loader.OUR_LIBRARIES, "albumentations", "simplejpeg")
LABELS = {
    "kept": "facepack, images kept decoded",
    "jpeg": "facepack, from JPEG",
    "imagefolder_v1": "ImageFolder, torchvision v1",
    "imagefolder_v2": "ImageFolder, torchvision v2",
    "albumentations": "DataLoader, OpenCV and albumentations",
    "webdataset": "webdataset",
    "litdata": "litdata",
    "mosaicml": "mosaicml-streaming",
    "spdl": "SPDL",
}
OURS = ("kept", "jpeg", "imagefolder_v1", "imagefolder_v2")
"""What an environment with facepack can always measure."""
MODULES = {"mosaicml": "streaming"}
"""What a rival is imported as, where that is not its name."""


# In a process of its own: every function takes a job and gives epochs, each an iterable of batches


def facepack(job: Raw) -> Callable[[], Iterable[Any]]:
    """Our loader."""
    from trainer.augment import Augmentation, ColorJitter, Normalize, RandomHorizontalFlip, RandomResizedCrop
    from trainer.loader import Loader

    steps: list[Augmentation] = [RandomResizedCrop(job["size_px"]), RandomHorizontalFlip()]
    steps += [ColorJitter(*JITTER)] if job["jitter"] else []
    steps += [Normalize(MEAN, STD)]
    loader = Loader(job["build"], split="train", batch_size=BATCH_SIZE, augment=steps, cache=job["cache"])
    return lambda: (batch.images for batch in loader)


def kept(job: Raw) -> Callable[[], Iterable[Any]]:
    """With images kept decoded from the first epoch on."""
    return facepack(job | {"cache": "ram"})


def jpeg(job: Raw) -> Callable[[], Iterable[Any]]:
    """With every image decoded in every epoch."""
    return facepack(job | {"cache": "none"})


def _v1(job: Raw) -> Any:
    from torchvision import transforms

    jitter = [transforms.ColorJitter(*JITTER)] if job["jitter"] else []
    begun = [transforms.RandomResizedCrop(job["size_px"]), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*begun, *jitter, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def _v2(job: Raw) -> Any:
    import torch
    from torchvision.transforms import v2

    jitter = [v2.ColorJitter(*JITTER)] if job["jitter"] else []
    begun = [v2.ToImage(), v2.RandomResizedCrop(job["size_px"], antialias=True), v2.RandomHorizontalFlip()]
    return v2.Compose([*begun, *jitter, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def _loaded(dataset: Any, **choices: Any) -> Any:
    from torch.utils.data import DataLoader

    workers: dict[str, Any] = {"num_workers": NUM_CORES, "persistent_workers": True, "prefetch_factor": 4}
    return DataLoader(dataset, batch_size=BATCH_SIZE, **(workers | choices))


def imagefolder_v1(job: Raw) -> Callable[[], Iterable[Any]]:
    """What everybody begins with."""
    from torchvision.datasets import ImageFolder

    loader = _loaded(ImageFolder(job["folder"], _v1(job)), shuffle=True)
    return lambda: (images for images, _ in loader)


def imagefolder_v2(job: Raw) -> Callable[[], Iterable[Any]]:
    """The same with the newer transforms, on tensors."""
    from torchvision.datasets import ImageFolder

    loader = _loaded(ImageFolder(job["folder"], _v2(job)), shuffle=True)
    return lambda: (images for images, _ in loader)


class _Albumentations:
    """A dataset of files that OpenCV reads and albumentations changes, as its documentation has it."""

    def __init__(self, job: Raw) -> None:
        import albumentations
        from albumentations.pytorch import ToTensorV2

        jitter = [albumentations.ColorJitter(*JITTER, p=1)] if job["jitter"] else []
        begun = [albumentations.RandomResizedCrop((job["size_px"],) * 2), albumentations.HorizontalFlip()]
        self._transform = albumentations.Compose([*begun, *jitter, albumentations.Normalize(MEAN, STD), ToTensorV2()])
        self._paths = sorted(str(path) for path in Path(job["folder"]).glob("*/*"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> Any:
        import cv2

        cv2.setNumThreads(0)
        return self._transform(image=cv2.cvtColor(cv2.imread(self._paths[at]), cv2.COLOR_BGR2RGB))["image"]  # type: ignore[arg-type]


def albumentations(job: Raw) -> Callable[[], Iterable[Any]]:
    """The fastest augmentation on the CPU that is widely used."""
    loader = _loaded(_Albumentations(job), shuffle=True)
    return lambda: loader


def webdataset(job: Raw) -> Callable[[], Iterable[Any]]:
    """WebLoader with batches made in the workers, decoded by Pillow."""
    import webdataset as wds

    tars = job["tars"]
    stored = wds.WebDataset(tars, shardshuffle=len(tars), seed=0, workersplitter=wds.shardlists.split_by_worker)
    dataset = stored.shuffle(1000).decode("pil").to_tuple("jpg").map_tuple(_v2(job)).batched(BATCH_SIZE)
    loader: Any = wds.WebLoader(dataset, batch_size=None, num_workers=NUM_CORES, persistent_workers=True)
    return lambda: (batch[0] for batch in loader)


def mosaicml(job: Raw) -> Callable[[], Iterable[Any]]:
    """StreamingDataset over MDS shards on the disk."""
    from streaming import StreamingDataset

    transform = _v2(job)

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return transform(super().__getitem__(at)["image"])

    loader = _loaded(Decoded(local=job["to"], shuffle=True, batch_size=BATCH_SIZE))
    return lambda: loader


def litdata(job: Raw) -> Callable[[], Iterable[Any]]:
    """StreamingDataset over optimised chunks, decoded by torchvision."""
    from litdata import StreamingDataLoader, StreamingDataset

    transform = _v2(job)

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            return transform(super().__getitem__(at)["image"])

    loader = StreamingDataLoader(
        Decoded(job["to"], shuffle=True), batch_size=BATCH_SIZE, num_workers=NUM_CORES, persistent_workers=True
    )
    return lambda: loader


def spdl(job: Raw) -> Callable[[], Iterable[Any]]:
    """A pipeline of threads: images decoded in C++, then torchvision's transforms on tensors."""
    import spdl.io
    import torch
    from spdl.pipeline import PipelineBuilder

    torch.set_num_threads(1)
    paths = [str(path) for path in sorted(Path(job["folder"]).glob("*/*"))]
    transform = _v2(job)

    def made(path: str) -> Any:
        buffer = spdl.io.convert_frames(spdl.io.decode_packets(spdl.io.demux_image(path)))
        return transform(spdl.io.to_torch(buffer).permute(2, 0, 1))

    def epoch() -> Iterator[Any]:
        random.shuffle(paths)
        builder = PipelineBuilder().add_source(paths).pipe(made, concurrency=NUM_CORES).aggregate(BATCH_SIZE)
        pipeline = builder.pipe(torch.stack).add_sink(4).build(num_threads=NUM_CORES + 1)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    return epoch


def measured(name: str, job: Raw) -> Raw:
    """Images per second of whole epochs after the first, for some seconds."""
    epoch = globals()[name](job)
    num_images, seconds, epochs = 0, 0.0, 0
    while seconds < MIN_SECONDS:
        started, seen = time.perf_counter(), 0
        for batch in epoch():
            assert tuple(batch.shape[1:]) == (3, job["size_px"], job["size_px"])
            seen += len(batch)
        if epochs:
            num_images, seconds = num_images + seen, seconds + time.perf_counter() - started
        if not seen:
            raise SystemExit(f"{name} gave no image")
        epochs += 1
    return {"images_per_s": num_images / seconds, "num_images": seen}


# Measuring


def child(verb: str, name: str, job: Raw, *, python: str) -> Raw:
    """Run a function of this file in a process of its own."""
    command = [python, "-W", "ignore", __file__, "child", verb, name]
    done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{verb} {name} failed:\n{done.stderr.decode()[-3000:]}")
    result: Raw = json.loads(done.stdout.splitlines()[-1])
    return result


def prepared(photos: Path, folder: Path, *, num_images: int, pythons: dict[str, str]) -> Raw:
    """The same JPEGs in class folders, as a build that keeps their bytes, and in the forms of rivals."""
    from facepack.builder import Place, build
    from facepack.configuration import Configuration

    files = sorted(photos.rglob("*.jpg"))
    for number in range(num_images):
        copy = folder / "photos" / f"{number % 2}" / f"{number:06d}.jpg"
        copy.parent.mkdir(parents=True, exist_ok=True)
        # A comment makes equal photos different files, which a build packs both.
        content = files[number % len(files)].read_bytes()
        comment = b"\xff\xfe" + (2 + 8).to_bytes(2, "big") + b"%08d" % number
        copy.write_bytes(content[:2] + comment + content[2:])
    source, out = str(folder / "photos"), str(folder / "build")
    configuration = Configuration.of("folder", split="100/0/0", samples_per_shard=num_images // (2 * NUM_CORES))
    build(configuration, place=Place(source, out, 0))
    data: Raw = {"folder": source, "build": out, "tars": sorted(str(path) for path in Path(out).glob("*.tar"))}
    for name in ("mosaicml", "litdata"):
        if name in pythons:
            data[name] = str(folder / name)
            child("convert", name, {"from": source, "to": data[name], "opencv": False}, python=pythons[name])
    return data


def measure(photos: dict[str, Path], *, num_images: dict[str, int], repeats: int, pythons: dict[str, str]) -> Raw:
    """Everything, as the JSON is to hold it."""
    results = figures.about(num_cores=NUM_CORES) | {"repeats": [], "versions": {}}
    results["versions"]["here"] = packed_loader.versions_of(LIBRARIES)
    for name, python in pythons.items():
        if python != sys.executable:
            results["versions"][name] = child("versions", name, {}, python=python)
    with tempfile.TemporaryDirectory() as temporary:
        for kind, source in photos.items():
            folder = Path(temporary, kind)
            data = prepared(source, folder, num_images=num_images[kind], pythons=pythons)
            for size_px in SIZES_PX:
                for jitter in (False, True):
                    for number in range(repeats):
                        job = {"size_px": size_px, "jitter": jitter, "folder": data["folder"], "build": data["build"]}
                        rates = _rates(job | {"tars": data["tars"]}, data, pythons)
                        what = {"photos": kind, "size_px": size_px, "jitter": jitter, "repeat": number}
                        results["repeats"].append(what | rates)
                        print(what, {name: round(rate) for name, rate in rates["images_per_s"].items()}, flush=True)
    return results


def _rates(job: Raw, data: Raw, pythons: dict[str, str]) -> Raw:
    """Images per second of all that take turns, and how busy the machine was with other work."""
    rates, busy = {}, []
    for name in LABELS:
        if name in pythons:
            busy.append(figures.others_at_work(num_cores=NUM_CORES))
            own = job | {"to": data.get(name, "")}
            rates[name] = child("measure", name, own, python=pythons[name])["images_per_s"]
    return {"images_per_s": rates, "others_cores": statistics.median(busy)}


def table(results: Raw) -> str:
    """The page: a table per size of the photos, as ratios to ImageFolder with torchvision v2."""
    others = [repeat["others_cores"] for repeat in results["repeats"]]
    lines = ["# Loading with augmentation", ""]
    lines += [figures.headline(results, command="python benchmarks/augment.py", others_cores=others), ""]
    lines += [
        "Times the rate of ImageFolder with torchvision v2, median of the repeats (least to most); images/s of ours."
    ]
    for kind in dict.fromkeys(repeat["photos"] for repeat in results["repeats"]):
        measured_here = results["repeats"][0]["images_per_s"]
        names = [name for name in LABELS if name in measured_here and name != "imagefolder_v2"]
        titles = " | ".join(LABELS[name] for name in names)
        lines += ["", f"## Photos of {kind} pixels", "", f"| RandomResizedCrop | {titles} |"]
        lines += ["| --- |" + " ---: |" * len(names)]
        for size_px in SIZES_PX:
            for jitter in (False, True):
                chosen = [
                    repeat["images_per_s"]
                    for repeat in results["repeats"]
                    if (repeat["photos"], repeat["size_px"], repeat["jitter"]) == (kind, size_px, jitter)
                ]
                cells = [_cell([(rates[name], rates["imagefolder_v2"]) for rates in chosen], name) for name in names]
                lines += [f"| {size_px}{', jitter' if jitter else ''} | {' | '.join(cells)} |"]
    return "\n".join(lines) + "\n"


def _cell(pairs: list[tuple[float, float]], name: str) -> str:
    ratios = [rate / other for rate, other in pairs]
    text = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{text}; {statistics.median(rate for rate, _ in pairs):,.0f}/s" if name in ("kept", "jpeg") else text


def main() -> None:
    """Measure, write, and print where; or be a child."""
    if sys.argv[1:2] == ["child"]:
        verb, name = sys.argv[2:4]
        job = json.loads(sys.stdin.read() or "{}")
        if verb == "versions":
            result = packed_loader.versions_of(LIBRARIES)
        else:
            result = measured(name, job) if verb == "measure" else packed_loader.converted(name, job)
        print(json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=Path, required=True, help="folder of JPEGs of 200 pixels")
    parser.add_argument("--large", type=Path, required=True, help="folder of JPEGs of 448 pixels")
    parser.add_argument("--rival", action="append", default=[], help="NAME=PYTHON with that library")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    here = [name for name in LABELS if name in OURS or importlib.util.find_spec(MODULES.get(name, name))]
    pythons = dict.fromkeys(here, sys.executable) | dict(rival.split("=", 1) for rival in arguments.rival)
    photos = {"200": arguments.small, "448": arguments.large}
    results = measure(photos, num_images={"200": 4096, "448": 1536}, repeats=arguments.repeats, pythons=pythons)
    (arguments.out / "augment.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "augment.md").write_text(table(results))
    print(arguments.out / "augment.md")


if __name__ == "__main__":
    main()
