"""Measure the loader against ImageFolder, webdataset, mosaicml-streaming, litdata and SPDL, on the same images.

    python benchmarks/loader.py --photos data/utkface/crop_part1 --rival mosaicml=OTHER/bin/python --rival litdata=...

writes benchmarks/results/loader.json, and from it loader.md and loader.png; twenty minutes on two cores. Every
measurement is a process of its own, all take turns, and each gives the same: batches of 256 images, 64x64, float32
NCHW, normalised, shuffled, flipped at random. Rivals are set up as their documentation recommends for speed, and once
more with a decoder of ours that is faster (OpenCV and numpy). Those that are not installed here run in the environments
that `--rival` names, or are left out.
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import figures
from figures import Figure, Raw

# Only the standard library up here: the environments of rivals, which have no facepack, run this file too.

NUM_CORES = len(os.sched_getaffinity(0))
BATCH_SIZE, SIZE_PX = 256, 64
MEAN, STD = (0.5, 0.45, 0.42), (0.3, 0.29, 0.29)
IMPORTS = {"facepack": ("trainer.loader", "nvidia.dali.fn", "nvidia.dali.types")}
MIN_SECONDS, EPOCHS_BEFORE = 3.0, 1
MANY_IMAGES = 60_000
LINKS = {"remote": 0.0, "remote_slow": 10e6}
"""Bytes per second of each connection; 0: as fast as it gets."""
LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "webdataset", "mosaicml-streaming", "litdata")
OUR_LIBRARIES = ("facepack", "nvidia-dali-cuda120", "spdl", "spdl-io")


# In a process of its own: every function takes a job and gives epochs, each an iterable of batches


def facepack(job: Raw) -> Callable[[], Iterable[Any]]:
    """Our loader."""
    from trainer.augment import Normalize, RandomHorizontalFlip
    from trainer.loader import Loader, StagingSettings

    loader = Loader(
        job["build"],
        split="train",
        batch_size=BATCH_SIZE,
        augment=(RandomHorizontalFlip(), Normalize(MEAN, STD)),
        cache=job["cache"],
        targets=job.get("targets", ("Male",)),
        staging=StagingSettings(cache_folder=job.get("cache_folder", "")),
    )
    return lambda: (batch.images for batch in loader)


def imagefolder(job: Raw) -> Callable[[], Iterable[Any]]:
    """torchvision's ImageFolder and torch's DataLoader, workers kept between epochs."""
    import torch
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(job["folder"], _transform(job["resize"]))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=NUM_CORES, persistent_workers=True, prefetch_factor=4
    )
    return lambda: (images for images, _ in loader)


def _transform(resize: bool) -> Any:
    """torchvision's transforms, for what a library has decoded: pixels stay uint8 as long as they can."""
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToImage(),
            *([v2.Resize((SIZE_PX, SIZE_PX), antialias=True)] if resize else []),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def _pixels(content: bytes, resize: bool) -> Any:
    """Decode, resize, flip, normalise with OpenCV and numpy: float32 CHW. Faster than Pillow and torchvision."""
    import random

    import cv2
    import numpy as np

    cv2.setNumThreads(0)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if resize:
        image = cv2.resize(image, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)  # type: ignore[arg-type]
    step = -1 if random.random() < 0.5 else 1  # noqa: S311
    scaled = image[:, ::step, ::-1].astype(np.float32)  # type: ignore[index]
    scaled -= np.array(MEAN, np.float32) * 255
    scaled *= 1 / (np.array(STD, np.float32) * 255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


class _Decode:
    """`_pixels` as a thing that can be sent to workers."""

    def __init__(self, resize: bool, key: str = "") -> None:
        self._resize, self._key = resize, key

    def __call__(self, sample: Any) -> Any:
        return _pixels(sample[self._key] if self._key else sample, self._resize)


def webdataset(job: Raw) -> Callable[[], Iterable[Any]]:
    """WebLoader with batches made in the workers, as its documentation recommends; decoded as there, by Pillow."""
    import numpy as np
    import torch
    import webdataset as wds

    stored = wds.WebDataset(
        job["tars"], shardshuffle=len(job["tars"]), seed=0, workersplitter=wds.shardlists.split_by_worker
    ).shuffle(1000)
    if job["opencv"]:
        dataset = stored.map(_Decode(job["resize"], "jpg")).batched(BATCH_SIZE, collation_fn=np.stack)
    else:
        transform = _transform(job["resize"])
        dataset = stored.decode("pil").to_tuple("jpg").map_tuple(transform).batched(BATCH_SIZE)
    loader: Any = wds.WebLoader(dataset, batch_size=None, num_workers=NUM_CORES, persistent_workers=True)
    return lambda: (torch.as_tensor(batch if job["opencv"] else batch[0]) for batch in loader)


def mosaicml(job: Raw) -> Callable[[], Iterable[Any]]:
    """StreamingDataset over local MDS shards; its own jpeg column is decoded by Pillow."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    transform = _Decode(job["resize"]) if job["opencv"] else _transform(job["resize"])

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return transform(super().__getitem__(at)["image"])

    dataset = Decoded(local=job["folder"], shuffle=True, batch_size=BATCH_SIZE)
    loader: Any = DataLoader(
        dataset, batch_size=BATCH_SIZE, num_workers=NUM_CORES, persistent_workers=True, prefetch_factor=4
    )
    return lambda: loader


def litdata(job: Raw) -> Callable[[], Iterable[Any]]:
    """StreamingDataset and StreamingDataLoader over optimised chunks; its own JPEGs are decoded by torchvision."""
    from litdata import StreamingDataLoader, StreamingDataset

    transform = _Decode(job["resize"]) if job["opencv"] else _transform(job["resize"])

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            return transform(super().__getitem__(at)["image"])

    dataset = Decoded(job["folder"], shuffle=True)
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=NUM_CORES, persistent_workers=True
    )
    return lambda: loader


def spdl(job: Raw) -> Callable[[], Iterable[Any]]:
    """A pipeline of threads that decode and resize whole batches in C++, then one that converts."""
    import random

    import spdl.io
    import torch
    from spdl.pipeline import PipelineBuilder

    paths = [str(path) for path in sorted(Path(job["folder"]).glob("*/*"))]
    mean = torch.tensor(MEAN).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(STD).view(3, 1, 1) * 255)
    size = {"width": SIZE_PX, "height": SIZE_PX} if job["resize"] else {"width": None, "height": None}

    def decoded(batch: list[str]) -> Any:
        return spdl.io.load_image_batch(batch, pix_fmt="rgb24", device_config=None, **size)

    def converted(buffer: Any) -> Any:
        images = spdl.io.to_torch(buffer).permute(0, 3, 1, 2)
        flip = torch.rand(len(images)) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
        return (images.float() - mean) * scale

    def epoch() -> Iterator[Any]:
        random.shuffle(paths)
        pipeline = (
            PipelineBuilder()
            .add_source(paths)
            .aggregate(BATCH_SIZE)
            .pipe(decoded, concurrency=NUM_CORES)
            .pipe(converted, concurrency=1)
            .add_sink(4)
            .build(num_threads=NUM_CORES + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    return epoch


def turbojpeg(job: Raw) -> Callable[[], Iterable[Any]]:
    """A limit: libjpeg-turbo decodes the packed images in a thread per core, and nothing else is done."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(Path(job["folder"]).glob("*/*"))]

    def decoded(part: list[Any]) -> list[Any]:
        return [cv2.imdecode(content, cv2.IMREAD_COLOR) for content in part]

    def epoch() -> Iterator[Any]:
        parts = [contents[start : start + BATCH_SIZE] for start in range(0, len(contents), BATCH_SIZE)]
        with ThreadPoolExecutor(NUM_CORES) as pool:
            yield from pool.map(decoded, parts)

    return epoch


def gather(job: Raw) -> Callable[[], Iterable[Any]]:
    """A limit: rows of a decoded uint8 tensor in memory, chosen at random and converted to float32, by torch alone."""
    import torch

    images = torch.randint(0, 255, (job["num_images"], SIZE_PX, SIZE_PX, 3), dtype=torch.uint8)
    torch.set_num_threads(job["threads"])

    def epoch() -> Iterator[Any]:
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            yield images[rows].float()

    return epoch


def measured(name: str, job: Raw) -> Raw:
    """Whole epochs after the first, for some seconds; time to the first batch from the call that makes the loader."""
    for module in IMPORTS.get(name, ()):  # not counted
        importlib.import_module(module)
    begun = time.perf_counter()
    epoch = globals()[name](job)
    epochs, num_images, first_batch_s, first_epoch, seconds = 0, 0, 0.0, 0.0, 0.0
    while seconds < MIN_SECONDS:
        started, seen = time.perf_counter(), 0
        for batch in epoch():
            first_batch_s = first_batch_s or time.perf_counter() - begun
            seen += len(batch)
        took = time.perf_counter() - started
        if epochs >= EPOCHS_BEFORE:
            num_images, seconds = num_images + seen, seconds + took
        else:
            first_epoch = seen / took
        epochs += 1
    found = {"images_per_s": num_images / seconds, "first_epoch_images_per_s": first_epoch}
    return found | {"first_batch_s": first_batch_s, "epochs": epochs, "num_images": seen}


def converted(name: str, job: Raw) -> Raw:
    """Write a folder of images in a rival's own format: as bytes for OpenCV, else as the JPEGs that it knows itself."""
    paths = sorted(Path(job["from"]).glob("*/*"))
    read = _read_bytes if job["opencv"] else _open
    if name == "mosaicml":
        from streaming import MDSWriter

        with MDSWriter(out=job["to"], columns={"image": "bytes" if job["opencv"] else "jpeg"}) as writer:
            for path in paths:
                writer.write(read(str(path)))
    elif name == "litdata":
        from litdata import optimize

        optimize(read, [str(path) for path in paths], job["to"], chunk_bytes="64MB", num_workers=1)
    elif name == "webdataset":
        import webdataset as wds

        Path(job["to"]).mkdir()
        with wds.ShardWriter(f"{job['to']}/%05d.tar", maxcount=1000, verbose=0) as writer:
            for number, path in enumerate(paths):
                writer.write({"__key__": f"{number:08d}", "jpg": path.read_bytes()})
    return {}


def _read_bytes(path: str) -> Raw:
    return {"image": Path(path).read_bytes()}


def _open(path: str) -> Raw:
    """Pillow's lazy image: both rivals store the bytes of its file as they are."""
    from PIL import Image

    return {"image": Image.open(path)}


def versions_of(names: Iterable[str]) -> Raw:
    """Versions of what is installed here."""
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# Measuring


def child(verb: str, name: str, job: Raw, *, python: str) -> Raw:
    """Run a function of this file in a process of its own."""
    done = subprocess.run(
        [python, "-W", "ignore", __file__, "child", verb, name],
        input=json.dumps(job).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{verb} {name} failed:\n{done.stderr.decode()[-3000:]}")
    answer: Raw = json.loads(done.stdout.splitlines()[-1])
    return answer


def prepared(photos: Path, folder: Path, *, num_images: int) -> Raw:
    """The same images in every form: originals and packed ones in class folders, and our builds."""
    from facepack.builder import Place, build
    from facepack.configuration import Configuration
    from facepack.drawn import synthetic
    from facepack.manifest import MANIFEST_FILE, read_table
    from facepack.storage import Store

    source = folder / "celeba"
    synthetic.draw("celeba", source, num_images=10)  # for the label files; then as many rows as photos are wanted
    files = sorted(path for path in photos.iterdir() if path.suffix == ".jpg")
    _write_labels(source, num_images)
    shutil.rmtree(source / "img_align_celeba")
    (source / "img_align_celeba").mkdir()
    for number in range(num_images):
        (source / "img_align_celeba" / f"{number + 1:06d}.jpg").hardlink_to(_near(files[number % len(files)], folder))
    found: Raw = {"celeba": str(source)}
    for name, encoding in (("jpeg", "jpeg"), ("raw", "raw")):
        configuration = Configuration.of("celeba", size=str(SIZE_PX), encoding=encoding, split="100/0/0")  # type: ignore[arg-type]
        build(configuration, place=Place(str(source), str(folder / name), 0))
        found[name] = str(folder / name)
    store = Store(found["jpeg"])
    table = read_table(store, MANIFEST_FILE).to_pylist()
    for row in table:
        original, packed = (folder / kind / f"{row['Male']}" / f"{row['key']}.jpg" for kind in ("originals", "packed"))
        for path in (original, packed):
            path.parent.mkdir(parents=True, exist_ok=True)
        original.hardlink_to(source / row["source"])
        packed.write_bytes(store.read_range(row["shard"], start=row["offset"], length=row["size"]))
    found |= {"originals": str(folder / "originals"), "packed": str(folder / "packed"), "num_images": len(table)}
    return found


def _near(path: Path, folder: Path) -> Path:
    """A copy on the same file system, so that it can be linked to."""
    copy = folder / "photos" / path.name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    return copy


def _write_labels(source: Path, num_images: int) -> None:
    lines = (source / "list_attr_celeba.txt").read_text().splitlines()
    values = [line.split()[1:] for line in lines[2:]]
    names = [f"{number + 1:06d}.jpg" for number in range(num_images)]
    rows = [f"{name} {' '.join(values[number % len(values)])}" for number, name in enumerate(names)]
    (source / "list_attr_celeba.txt").write_text("\n".join([str(num_images), lines[1], *rows]) + "\n")
    (source / "list_eval_partition.txt").write_text("".join(f"{name} 0\n" for name in names))
    (source / "identity_CelebA.txt").write_text("".join(f"{name} 1\n" for name in names))


STREAMERS = ("webdataset", "mosaicml", "litdata")
LABELS: dict[str, tuple[str, str]] = {
    "gather 1": ("limit: gather and convert, 1 thread", "torch indexes decoded images and makes them float"),
    "gather all": ("limit: gather and convert, all threads", "the same, with torch's threads"),
    "turbojpeg": ("limit: libjpeg-turbo on all cores", "packed JPEGs decoded, nothing else"),
    "kept": (
        "facepack, images kept decoded",
        "second epoch on: rows of a uint8 array through DALI's flip and normalise",
    ),
    "raw": ("facepack, raw shards", "pixels from mapped tars through DALI's flip and normalise"),
    "jpeg": ("facepack, packed JPEG", "bytes from mapped tars through DALI's decoder"),
    "imagefolder packed": ("ImageFolder + DataLoader on packed files", "Pillow and torchvision, workers kept"),
    "webdataset packed": ("webdataset on packed JPEG", "our own tars; decode('pil'), batches made in the workers"),
    "mosaicml packed": ("mosaicml-streaming on packed JPEG", "MDS shards on the disk; their jpeg column: Pillow"),
    "litdata packed": ("litdata on packed JPEG", "optimised chunks on the disk; its own JPEGs: torchvision"),
    "webdataset packed opencv": ("webdataset on packed JPEG, with OpenCV", "our decoder in its workers"),
    "mosaicml packed opencv": ("mosaicml-streaming on packed JPEG, with OpenCV", "our decoder in its workers"),
    "litdata packed opencv": ("litdata on packed JPEG, with OpenCV", "our decoder in its workers"),
    "spdl packed": ("SPDL on packed files", "threads; batches decoded in C++"),
    "imagefolder originals": ("ImageFolder + DataLoader on originals", "what everybody begins with"),
    "webdataset originals": ("webdataset on originals", "as documented, resized on the fly"),
    "webdataset originals opencv": ("webdataset on originals, with OpenCV", "our decoder, resized on the fly"),
    "mosaicml originals": ("mosaicml-streaming on originals", "as documented, resized on the fly"),
    "mosaicml originals opencv": ("mosaicml-streaming on originals, with OpenCV", "our decoder, resized on the fly"),
    "litdata originals": ("litdata on originals", "as documented, resized on the fly"),
    "litdata originals opencv": ("litdata on originals, with OpenCV", "our decoder, resized on the fly"),
    "spdl originals": ("SPDL on originals", "decoded and resized in C++"),
}


def jobs(data: Raw, folder: Path, pythons: dict[str, str]) -> dict[str, tuple[str, Raw]]:
    """What takes turns: the function and its job, by name."""
    chosen: dict[str, tuple[str, Raw]] = {
        "gather 1": ("gather", {"num_images": data["num_images"], "threads": 1}),
        "gather all": ("gather", {"num_images": data["num_images"], "threads": NUM_CORES}),
        "turbojpeg": ("turbojpeg", {"folder": data["packed"]}),
        "kept": ("facepack", {"build": data["jpeg"], "cache": "ram"}),
        "raw": ("facepack", {"build": data["raw"], "cache": "none"}),
        "jpeg": ("facepack", {"build": data["jpeg"], "cache": "none"}),
    }
    for kind in ("packed", "originals"):
        resize = kind == "originals"
        for name in ("imagefolder", "spdl"):
            if name in pythons:
                chosen[f"{name} {kind}"] = (name, {"folder": data[kind], "resize": resize})
        for name in STREAMERS:
            for way in ("", " opencv") if name in pythons else ():
                job = {"from": data[kind], "to": str(folder / f"{name} {kind}{way}"), "opencv": bool(way)}
                if name == "webdataset" and kind == "packed":
                    job["to"] = data["jpeg"]
                elif not Path(job["to"]).exists():
                    child("convert", name, job, python=pythons[name])
                tars = sorted(str(path) for path in Path(job["to"]).glob("*.tar"))
                job |= {"folder": job["to"], "tars": tars, "resize": resize}
                chosen[f"{name} {kind}{way}"] = (name, job)
    return {name: chosen[name] for name in LABELS if name in chosen}


def measure(photos: Path, *, num_images: int, repeats: int, pythons: dict[str, str]) -> Raw:
    """Everything, as the JSON is to hold it."""
    results = figures.about(num_cores=NUM_CORES)
    results["versions"] = {"facepack": versions_of([*OUR_LIBRARIES, *LIBRARIES])}
    for name, python in pythons.items():
        if python != sys.executable:
            results["versions"][name] = child("versions", name, {}, python=python)
    results["repeats"] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = prepared(photos, folder, num_images=num_images)
        results["num_images"] = data["num_images"]
        chosen = jobs(data, folder, pythons)
        for number in range(repeats):
            repeat: dict[str, Raw] = {}
            for name, (function, job) in chosen.items():
                busy = figures.others_at_work(num_cores=NUM_CORES)
                python = pythons.get(function, sys.executable)
                repeat[name] = child("measure", function, job, python=python) | {"others_cores": busy}
                rate = repeat[name]["images_per_s"]
                print(f"repeat {number + 1}: {LABELS[name][0]} {rate:,.0f} images/s", flush=True)
            results["repeats"].append(repeat)
        results |= measure_remote(data["celeba"], folder, repeats=repeats)
    return results


def measure_remote(celeba: str, folder: Path, *, repeats: int) -> Raw:
    """Both links, as the JSON is to hold them."""
    build = many(Path(celeba), folder / "many")
    return {
        name: [remote(build, folder / f"{name} {number}", bytes_per_s=bytes_per_s) for number in range(repeats)]
        for name, bytes_per_s in LINKS.items()
    }


def many(given: Path, folder: Path) -> Path:
    """A packed build of so many images that starting is a small part of an epoch."""
    from facepack.builder import Place, build
    from facepack.configuration import Configuration

    source = folder / "celeba"
    shutil.copytree(given, source, ignore=lambda _folder, names: [name for name in names if name.endswith(".jpg")])
    photos = sorted((given / "img_align_celeba").iterdir())
    _write_labels(source, MANY_IMAGES)
    for number in range(MANY_IMAGES):
        (source / "img_align_celeba" / f"{number + 1:06d}.jpg").hardlink_to(photos[number % len(photos)])
    configuration = Configuration.of("celeba", size=str(SIZE_PX), split="100/0/0")
    build(configuration, place=Place(str(source), str(folder / "build"), 0))
    return folder / "build"


def remote(build: Path, folder: Path, *, bytes_per_s: float) -> Raw:
    """A packed build on an S3 server on loopback that answers 50 ms late, and sends so fast on each connection."""
    import warnings

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import boto3
    from faulty import Proxy
    from moto.server import ThreadedMotoServer

    from facepack.storage import Store

    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(f"http://{host}:{port}", latency_s=0.05)
    proxy.remembers = True
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": proxy.url, "AWS_ALLOW_HTTP": "true"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bench")
    store = Store("s3://bench/build")
    names = [path.name for path in build.iterdir()]
    for name in names:
        store.write(name, (build / name).read_bytes())
        store.read(name)  # once through the server, which is slow: from here on the proxy answers from memory
    tars = [name for name in names if name.endswith(".tar")]
    proxy.bytes_per_s = bytes_per_s
    begun = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.read, tars))
    link_s = time.perf_counter() - begun
    begun = time.perf_counter()
    store.read(tars[0])
    one_shard_s = time.perf_counter() - begun
    proxy.requests.clear()
    proxy.num_bytes = 0
    job = {"build": "s3://bench/build", "cache": "none", "cache_folder": str(folder)}
    found = child("measure", "facepack", job, python=sys.executable)
    found |= {"link_images_per_s": MANY_IMAGES / link_s, "one_shard_s": one_shard_s, "num_shards": len(tars)}
    found |= {"requests": sum(proxy.requests.values()), "num_bytes": proxy.num_bytes}
    proxy.stop()
    server.stop()
    return found


# Figures


def all_figures(results: Raw) -> list[Figure]:
    """Rates, and ratios within each repeat, so that a slow minute slows both sides."""
    repeats = results["repeats"]

    def each(name: str, key: str = "images_per_s") -> tuple[float, ...]:
        return tuple(repeat[name][key] for repeat in repeats)

    def best(names: Iterable[str]) -> tuple[float, ...]:
        """In each repeat the fastest of some."""
        return tuple(max(repeat[name]["images_per_s"] for name in names if name in repeat) for repeat in repeats)

    group = f"{results['num_images']:,} images, second epoch on"
    found = [
        Figure(group, label, "images/s", each(name), about)
        for name, (label, about) in LABELS.items()
        if name in repeats[0]
    ]
    packed = [f"{name} packed" for name in STREAMERS]
    by_opencv = [f"{name} opencv" for name in packed]
    rivals = [name for name in LABELS if (" packed" in name or " originals" in name) and name in repeats[0]]
    limit = best(["gather 1", "gather all"])
    rows: list[tuple[str, tuple[float, ...], tuple[float, ...], float, str]] = [
        (
            "packed JPEG / ImageFolder on originals",
            each("jpeg"),
            each("imagefolder originals"),
            6.0,
            "what packing gains",
        ),
        (
            "packed JPEG / best of webdataset, mosaicml, litdata",
            each("jpeg"),
            best(packed),
            3.0,
            "on the same bytes, as documented",
        ),
        (
            "packed JPEG / best of them with OpenCV",
            each("jpeg"),
            best(by_opencv),
            0.0,
            "which none of them documents",
        ),
        ("raw / best rival", each("raw"), best(rivals), 3.0, "the best of all rows that are not ours"),
        ("images kept / gather and convert", each("kept"), limit, 0.6, "the faster of the two limits"),
        ("packed JPEG / libjpeg-turbo", each("jpeg"), each("turbojpeg"), 0.0, "decoding alone"),
    ]
    if "spdl packed" in repeats[0]:
        rows.insert(3, ("packed JPEG / SPDL on packed files", each("jpeg"), each("spdl packed"), 1.0, "ahead of it"))
    for label, above, below, goal, text in rows:
        values = tuple(a / b for a, b in zip(above, below, strict=True))
        met = statistics.median(values) >= goal if goal else None
        found.append(Figure(group, label, "", values, text, f"at least {goal:g}" if goal else "", met))
    first = each("jpeg", "first_batch_s")
    found.append(Figure(group, "facepack: time to the first batch", "s", first, "from the call that makes the loader"))
    return found + _remote_figures(results)


def _remote_figures(results: Raw) -> list[Figure]:
    return [figure for name in LINKS for figure in _figures_of_link(results, name)]


def _figures_of_link(results: Raw, name: str) -> list[Figure]:
    runs, is_limit = results[name], LINKS[name] > 0
    speed = f", {8 * LINKS[name] / 1e6:,.0f} Mbit/s a connection" if is_limit else ""
    group = f"{MANY_IMAGES:,} images from S3 over loopback, 50 ms late{speed}"

    def each(key: str) -> tuple[float, ...]:
        return tuple(float(run[key]) for run in runs)

    local = statistics.median(repeat["jpeg"]["images_per_s"] for repeat in results["repeats"])
    first = each("first_epoch_images_per_s")
    wait = tuple(run["first_batch_s"] - run["one_shard_s"] for run in runs)
    extra = tuple(float(run["requests"] - run["num_shards"]) for run in runs)
    again = tuple(run["images_per_s"] / local for run in runs)
    median = statistics.median
    found = [
        Figure(group, "the link alone", "images/s", each("link_images_per_s"), "all shards fetched, eight at once"),
        Figure(group, "facepack, first epoch", "images/s", first, "fetched, checked, decoded"),
    ]
    if is_limit:
        share = tuple(one / run["link_images_per_s"] for one, run in zip(first, runs, strict=True))
        label, text = "first epoch / the link alone", "the link is slower than decoding"
    else:
        share = tuple(one / local for one in first)
        label, text = "first epoch / local, second epoch on", "the link takes its part of the same cores"
    found.append(Figure(group, label, "", share, text, "at least 0.8", median(share) >= 0.8))
    met = median(again) >= 0.9
    return [
        *found,
        Figure(group, "facepack, second epoch on", "images/s", each("images_per_s"), "from the cache folder"),
        Figure(group, "second epoch / local", "", again, "the same shards on the disk", "at least 0.9", met),
        Figure(
            group,
            "time to the first batch less one shard's download",
            "s",
            wait,
            "manifest included",
            "at most 1 s",
            median(wait) <= 1,
        ),
        Figure(
            group,
            "requests beyond one per shard",
            "",
            extra,
            f"{runs[0]['requests']} requests for {runs[0]['num_shards']} shards, all epochs",
            "a handful",
            median(extra) <= 5,
        ),
        Figure(group, "bytes", "MB", tuple(value / 1e6 for value in each("num_bytes")), "all epochs together"),
    ]


def markdown(results: Raw) -> str:
    """The tables with what was measured on what."""
    busy = [raw["others_cores"] for repeat in results["repeats"] for raw in repeat.values()]
    lines = [
        "# Loader",
        "",
        figures.headline(results, command="python benchmarks/loader.py", others_cores=busy),
        "",
        *(
            f"- versions for {name}: {', '.join(f'{library} {number}' for library, number in found.items())}"
            for name, found in results["versions"].items()
        ),
        f"- UTKFace's photos (200x200) under as many names as needed; {SIZE_PX}x{SIZE_PX}, batches of {BATCH_SIZE}, "
        "float32 NCHW, normalised, shuffled, flipped; all files in the page cache.",
        f"- median of {len(results['repeats'])} repeats that take turns (smallest to largest); ratios within each.",
        *figures.tables(all_figures(results)),
    ]
    return "\n".join(lines) + "\n"


def plot(results: Raw, file: Path) -> None:
    """Images per second of all."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [figure for figure in all_figures(results) if figure.unit == "images/s" and "S3" not in figure.group]
    shape, axis = plt.subplots(figsize=(11, 7), layout="constrained")
    figures.bars(axis, chosen, unit="images/s", limits=("limit",))
    hardware = results["hardware"]
    shape.suptitle(f"Loading {SIZE_PX}x{SIZE_PX} images: {hardware['cpu']}, {hardware['cores']} cores", fontsize=12)
    shape.savefig(file, dpi=110)
    plt.close(shape)


def main() -> None:
    """Measure, or only write table and plot again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("data/utkface/crop_part1"), help="a folder of JPEGs")
    parser.add_argument("--num-images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--rival", action="append", default=[], metavar="NAME=PYTHON", help="where a rival is installed"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.add_argument("--remote-only", action="store_true", help="measure object storage again, keep the rest")
    parser.add_argument("--report-only", action="store_true", help="table and plot from the JSON that is there")
    chosen = parser.parse_args()
    file = chosen.results / "loader.json"
    if chosen.remote_only:
        with tempfile.TemporaryDirectory() as folder:
            data = prepared(chosen.photos, Path(folder), num_images=1000)
            results = json.loads(file.read_text())
            results |= measure_remote(data["celeba"], Path(folder), repeats=chosen.repeats)
            file.write_text(json.dumps(results, indent=1) + "\n")
    elif not chosen.report_only:
        pythons = {"imagefolder": sys.executable, "webdataset": sys.executable}
        pythons |= dict(pair.split("=", 1) for pair in chosen.rival)
        results = measure(chosen.photos, num_images=chosen.num_images, repeats=chosen.repeats, pythons=pythons)
        chosen.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(file.read_text())
    (chosen.results / "loader.md").write_text(markdown(results))
    plot(results, chosen.results / "loader.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        verb, name = sys.argv[2:4]
        job = json.load(sys.stdin)
        verbs = {"measure": measured, "convert": converted, "versions": lambda _name, _job: versions_of(LIBRARIES)}
        print(json.dumps(verbs[verb](name, job)))
    else:
        main()
