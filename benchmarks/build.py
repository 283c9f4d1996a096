"""Measure a build without alignment against one thread times the cores, a plain script and img2dataset.

    python benchmarks/build.py --src data/celeba --img2dataset-python OTHER_VENV/bin/python

writes benchmarks/results/build.json, and from it build.md and build.png; ten minutes on two cores. Every measurement is
a process of its own, and all of them take turns (A B C, A B C, ...), so that a busy minute is shared by all.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import figures
from figures import Figure, Raw

# Only the standard library up here: img2dataset's Python, which has no facepack, runs this file too.

NUM_CORES = len(os.sched_getaffinity(0))
QUALITY = 95
SHARD_IMAGES = 1000
PUBLISHED_PX = 178, 218
"""Width and height of CelebA's aligned images."""
PUBLISHED_QUALITY = 90
LENGTHS = "short", "long", "published"
WARM_UP_IMAGES = 50
SAMPLE_EVERY_S = 0.05
LIBRARIES = ("facepack", "numpy", "opencv-python-headless", "pyarrow", "ray", "psutil", "matplotlib")
RIVAL_LIBRARIES = ("img2dataset", "opencv-python-headless", "albumentations", "numpy")


@dataclass(frozen=True)
class Settings:
    """What is measured, and with what."""

    src: str
    size: int
    repeats: int
    long_images: int
    img2dataset_python: str


@dataclass(frozen=True)
class Tree:
    """A CelebA folder, and a file with the paths of its images in the order in which facepack packs them."""

    folder: str
    list_file: str
    num_images: int


@dataclass(frozen=True)
class Measure:
    """One of the things that take turns: its name in tables, what it does, and how to run it."""

    label: str
    about: str
    run: Callable[[Tree, Settings], Raw]
    long_too: bool = True


# In a process of its own: every function takes one JSON object and gives one


def child_images(job: Raw) -> Raw:
    """Paths of all rows in the label files, and of those whose image is there, in stored order."""
    from facepack.configuration import Configuration
    from facepack.prepare import prepare_build

    plan = prepare_build(Configuration.of("celeba", size=str(job["size"])), src=job["src"]).plan
    paths = plan.table["source"].to_pylist()
    return {"all": sorted(paths), "present": paths[: plan.shards[-1].stop]}


def child_prepare(job: Raw) -> Raw:
    """Seconds to index, label and plan, and the most memory this process ever held."""
    from facepack.configuration import Configuration
    from facepack.prepare import prepare_build

    before_bytes = _peak_bytes()
    begun = time.perf_counter()
    prepared = prepare_build(Configuration.of("celeba", size=str(job["size"])), src=job["src"])
    seconds = time.perf_counter() - begun
    return {
        "num_rows": len(prepared.plan.table),
        "seconds": seconds,
        "peak_rss_bytes": _peak_bytes(),
        "imports_rss_bytes": before_bytes,
    }


def child_build(job: Raw) -> Raw:
    """One build, as the command does it."""
    from facepack.builder import Place, build
    from facepack.configuration import Configuration

    configuration = Configuration.of(
        dataset="celeba", size=str(job["size"]), quality=QUALITY, samples_per_shard=SHARD_IMAGES
    )
    outcome = build(configuration, place=Place(job["src"], job["out"], job["workers"]))
    num_packed = sum(shard.num_samples for shard in outcome.build.shards)
    return {"num_images": num_packed, "seconds": outcome.packing_s, "planning_s": outcome.planning_s}


def child_crew(job: Raw) -> Raw:
    """Some processes that begin together, each with its part of the images: from the first begin to the last end."""
    context = multiprocessing.get_context("spawn")
    number = job["processes"]
    barrier = context.Barrier(number)
    with context.Pool(number, initializer=_keep, initargs=(barrier,)) as pool:
        spans = pool.starmap(_member, [(job, part) for part in range(number)], chunksize=1)
    seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return {"num_images": len(_lines(job["list_file"])), "seconds": seconds}


def child_img2dataset(job: Raw) -> Raw:
    """The whole of img2dataset on file:// addresses: from its first shard's begin to its last shard's end."""
    tempfile.tempdir = job["out"]  # what it imports leaves folders behind
    from img2dataset import download

    urls = Path(job["out"]) / "urls.txt"
    urls.write_text("".join(f"file://{Path(path).resolve()}\n" for path in _lines(job["list_file"])))
    begun = time.perf_counter()
    download(
        url_list=str(urls),
        output_folder=str(urls.parent / "shards"),
        output_format="webdataset",
        processes_count=NUM_CORES,
        thread_count=1,  # more threads are slower: nothing is waited for here
        image_size=job["size"],
        resize_mode="center_crop",
        encode_quality=QUALITY,
        number_sample_per_shard=SHARD_IMAGES,
    )
    whole_s = time.perf_counter() - begun
    shards = [json.loads(path.read_text()) for path in (urls.parent / "shards").glob("*_stats.json")]
    seconds = max(shard["end_time"] for shard in shards) - min(shard["start_time"] for shard in shards)
    return {"num_images": sum(shard["successes"] for shard in shards), "seconds": seconds, "whole_s": whole_s}


def child_versions(job: Raw) -> Raw:
    """Versions of libraries in this Python."""
    return {"python": platform.python_version()} | {name: version(name) for name in job["libraries"]}


def _peak_bytes() -> int:
    """The most resident memory of this process; getrusage would give that of its parent where that is more."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


# What the members of a crew do


def _keep(barrier: Any) -> None:
    globals()["_barrier"] = barrier


def _member(job: Raw, part: int) -> tuple[float, float]:
    """Wait until all are ready, work through every n-th image; Unix seconds of begin and end."""
    work = {"bare": _bare, "plain": _plain, "resizer": _resizer}[job["work"]]
    paths = _lines(job["list_file"])[part :: job["processes"]]
    for _ in work(paths[:WARM_UP_IMAGES], job | {"tar": os.devnull}):
        pass
    done = work(paths, job | {"tar": f"{job['out']}/{part}.tar"})
    globals()["_barrier"].wait()
    begun = time.time()
    num_bytes = sum(done)
    assert num_bytes
    return begun, time.time()


def _bare(paths: list[str], job: Raw) -> Iterator[int]:
    """Read, decode, resize and encode with the functions of facepack.image."""
    import cv2

    from facepack import image

    cv2.setNumThreads(1)
    size = job["size"]
    for path in paths:
        image_hwc = image.resize(image.decode(_read(path)), width_px=size, height_px=size)
        yield len(image.encode_jpeg(image_hwc, quality=QUALITY))


def _plain(paths: list[str], job: Raw) -> Iterator[int]:
    """What one would write in ten minutes: OpenCV and tarfile; no labels, checksums, index, or flush to the disk."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    size_wh = (job["size"], job["size"])
    with tarfile.open(job["tar"], "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in paths:
            image_hwc = cv2.imdecode(np.frombuffer(_read(path), np.uint8), cv2.IMREAD_COLOR)
            assert image_hwc is not None
            small = cv2.resize(image_hwc, size_wh, interpolation=cv2.INTER_AREA)
            content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
            info = tarfile.TarInfo(path.rpartition("/")[2])
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            yield len(content)


def _resizer(paths: list[str], job: Raw) -> Iterator[int]:
    """img2dataset's Resizer: the mode that gives a square filled by the image."""
    from img2dataset.resizer import Resizer

    resizer = Resizer(job["size"], "center_crop", False, encode_quality=QUALITY)
    for path in paths:
        content, *_, error = resizer(io.BytesIO(_read(path)))
        assert error is None, error
        yield len(content)


def _read(path: str) -> bytes:
    """As facepack reads a file of a folder."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.readall()


# Measuring


def child(name: str, job: Raw, *, python: str = sys.executable) -> Raw:
    """Run one of the functions above in a new process; adds the wall time of the whole process."""
    begun = time.perf_counter()
    done = subprocess.run(_command(name, job, python), capture_output=True, check=False)
    wall_s = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr.decode()}")
    return _answer(done.stdout) | {"wall_s": wall_s}


def _command(name: str, job: Raw, python: str) -> list[str]:
    return [python, __file__, "child", name, json.dumps(job)]


def _answer(stdout: bytes) -> Raw:
    answer: Raw = json.loads(stdout.splitlines()[-1])
    return answer


def crew(work: str, processes: int) -> Callable[[Tree, Settings], Raw]:
    """A measurement of so many processes at once."""

    def run(tree: Tree, settings: Settings) -> Raw:
        python = settings.img2dataset_python if work == "resizer" else sys.executable
        with tempfile.TemporaryDirectory() as out:
            job = {"work": work, "processes": processes, "out": out}
            return child("crew", job | {"list_file": tree.list_file, "size": settings.size}, python=python)

    return run


def build_with(workers: int) -> Callable[[Tree, Settings], Raw]:
    """A measurement of a whole build; fixed cost is the wall time of its process less packing."""

    def run(tree: Tree, settings: Settings) -> Raw:
        with tempfile.TemporaryDirectory() as out:
            raw = child("build", _build_job(tree, settings, out=out, workers=workers))
        assert raw["num_images"] == tree.num_images
        return raw | {"fixed_s": raw["wall_s"] - raw["seconds"]}

    return run


def builds_at_once(tree: Tree, settings: Settings) -> Raw:
    """A measurement of one whole build without Ray per core, all at once: the images of all in the longest packing."""
    with ThreadPoolExecutor(NUM_CORES) as pool:
        runs = list(pool.map(lambda _: build_with(0)(tree, settings), range(NUM_CORES)))
    return {"num_images": sum(run["num_images"] for run in runs), "seconds": max(run["seconds"] for run in runs)}


def _build_job(tree: Tree, settings: Settings, *, out: str, workers: int) -> Raw:
    return {"src": tree.folder, "out": f"{out}/build", "workers": workers, "size": settings.size}


def img2dataset(tree: Tree, settings: Settings) -> Raw:
    """A measurement of the whole of img2dataset."""
    with tempfile.TemporaryDirectory() as out:
        job = {"list_file": tree.list_file, "out": out, "size": settings.size}
        return child("img2dataset", job, python=settings.img2dataset_python)


MEASURES = {
    "one_thread": Measure(
        "one thread: read, decode, resize, encode",
        "the bare work of facepack.image on the same files in the same order; times the cores it is the limit",
        crew("bare", 1),
    ),
    "all_cores": Measure(
        "the same in one process per core",
        "what the machine really gives when all cores are at work; nothing is written",
        crew("bare", NUM_CORES),
    ),
    "plain": Measure(
        "plain multiprocessing script",
        "OpenCV and tarfile in one process per core: images alone, no labels, checksums, index, statistics or flush",
        crew("plain", NUM_CORES),
    ),
    "workers_0": Measure(
        "facepack --workers 0", "packing in the process of the command, without Ray; one core", build_with(0)
    ),
    "apart": Measure(
        "facepack --workers 0, one build per core at once",
        "what packing would reach if work were shared out for nothing",
        builds_at_once,
    ),
    "ray": Measure(
        "facepack on Ray, one worker per core",
        "from the first worker's first image to the last image done, all that a build promises included",
        build_with(NUM_CORES),
    ),
    "resizer": Measure(
        "img2dataset's Resizer in one process per core",
        "its center_crop mode fills the same square; only read, decode, resize and encode",
        crew("resizer", NUM_CORES),
        long_too=False,
    ),
    "img2dataset": Measure(
        "img2dataset, file:// to webdataset",
        "the whole tool with one process per core, from its first shard's begin to its last shard's end",
        img2dataset,
        long_too=False,
    ),
}


def take_turns(tree: Tree, settings: Settings, *, names: Iterable[str]) -> list[dict[str, Raw]]:
    """Per repeat, what each measurement gave."""
    repeats = []
    for number in range(settings.repeats):
        repeat: dict[str, Raw] = {}
        for name in names:
            busy = figures.others_at_work(num_cores=NUM_CORES)
            raw = repeat[name] = MEASURES[name].run(tree, settings) | {"others_cores": busy}
            raw["images_per_s"] = raw["num_images"] / raw["seconds"]
            print(
                f"{tree.num_images:,} images, repeat {number + 1}: {name} {raw['images_per_s']:,.0f} images/s",
                flush=True,
            )
        repeats.append(repeat)
    return repeats


def memory(tree: Tree, settings: Settings, *, workers: int) -> Raw:
    """Peak memory of a build's whole process tree; not one of the timed builds, as looking takes time."""
    with tempfile.TemporaryDirectory() as out:
        command = _command("build", _build_job(tree, settings, out=out, workers=workers), sys.executable)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            peak = {"pss_bytes": 0, "rss_bytes": 0, "num_processes": 0}
            while process.poll() is None:
                now = _tree_memory(process.pid)
                peak = {name: max(peak[name], now[name]) for name in peak}
                time.sleep(SAMPLE_EVERY_S)
    assert process.returncode == 0
    print(f"{tree.num_images:,} images, {workers} workers: {peak['pss_bytes'] / 1e6:,.0f} MB", flush=True)
    return {"num_images": tree.num_images, "workers": workers} | peak


def _tree_memory(pid: int) -> dict[str, int]:
    """Memory of a process and all below it: PSS counts a page shared by n processes 1/n in each, RSS whole in each."""
    import psutil

    pss_bytes = rss_bytes = num_processes = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for process in tree:
        try:
            held = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
        pss_bytes, rss_bytes, num_processes = pss_bytes + held.pss, rss_bytes + held.rss, num_processes + 1
    return {"pss_bytes": pss_bytes, "rss_bytes": rss_bytes, "num_processes": num_processes}


# CelebA folders of any length


def make_tree(folder: Path, settings: Settings, *, images: Raw, num_images: int) -> Tree:
    """The label files of the source, and links to its images under the names of as many rows as asked for."""
    src = Path(settings.src)
    paths = images["all"][:num_images]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    for path in src.iterdir():
        if path.is_file():
            _link(path, folder / path.name)
    present = images["present"]
    for number, path in enumerate(paths):
        _link(src / present[number % len(present)], folder / path)
    return listed(folder, settings)


def enlarge(folder: Path, settings: Settings, *, images: Raw) -> Settings:
    """The same images at the size in which CelebA is published, in a folder of their own."""
    import cv2

    from facepack.image import decode

    for path in Path(settings.src).iterdir():
        if path.is_file():
            _link(path, folder / path.name)
    for path in images["present"]:
        small = decode(_read(f"{settings.src}/{path}"))
        pixels = cv2.resize(small, PUBLISHED_PX, interpolation=cv2.INTER_CUBIC)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(f"{folder}/{path}", pixels, [cv2.IMWRITE_JPEG_QUALITY, PUBLISHED_QUALITY])
    return replace(settings, src=str(folder))


def _link(path: Path, to: Path) -> None:
    try:
        to.hardlink_to(path)
    except OSError:  # another file system
        to.symlink_to(path.resolve())


def listed(folder: Path, settings: Settings) -> Tree:
    """A CelebA folder with the list of its images; reads them all once, so that none comes from the disk later."""
    paths = [f"{folder}/{path}" for path in child("images", {"src": str(folder), "size": settings.size})["present"]]
    for path in paths:
        _read(path)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("".join(f"{path}\n" for path in paths))
    return Tree(str(folder), file.name, len(paths))


# The whole benchmark


def measure(settings: Settings) -> Raw:
    """Everything, as the JSON is to hold it."""
    images = child("images", {"src": settings.src, "size": settings.size})
    names = [name for name in MEASURES if settings.img2dataset_python or name not in ("resizer", "img2dataset")]
    results = about(settings)
    with tempfile.TemporaryDirectory() as temporary:

        def tree_of(num_images: int, *, of: Settings = settings) -> Tree:
            folder = Path(tempfile.mkdtemp(dir=temporary))
            return make_tree(folder, of, images=images, num_images=num_images)

        num_images = len(images["present"])
        small, long, whole = tree_of(num_images // 4), tree_of(settings.long_images), tree_of(len(images["all"]))
        given = listed(Path(settings.src).resolve(), settings)
        results["load_average_before"] = os.getloadavg()
        results["short"] = {"num_images": num_images, "repeats": take_turns(given, settings, names=names)}
        names = [name for name in names if MEASURES[name].long_too]
        results["long"] = {"num_images": long.num_images, "repeats": take_turns(long, settings, names=names)}
        (large := Path(temporary) / "published").mkdir()
        published = tree_of(settings.long_images // 2, of=enlarge(large, settings, images=images))
        results["published"] = {
            "num_images": published.num_images,
            "repeats": take_turns(published, settings, names=names),
        }
        results["prepare"] = [_prepare(given, settings) for _ in range(settings.repeats)]
        results["prepare_all_there"] = [_prepare(whole, settings) for _ in range(settings.repeats)]
        results["memory"] = [
            memory(tree, settings, workers=workers)
            for workers in (NUM_CORES, 0)
            for tree in (small, given, long, whole)
        ]
        for tree in (small, given, long, whole, published):
            Path(tree.list_file).unlink()
    return results


def _prepare(tree: Tree, settings: Settings) -> Raw:
    return child("prepare", {"src": tree.folder, "size": settings.size})


def about(settings: Settings) -> Raw:
    """Date, hardware, versions and settings."""
    versions = {"facepack": child("versions", {"libraries": LIBRARIES})}
    if settings.img2dataset_python:
        job = {"libraries": RIVAL_LIBRARIES}
        versions["img2dataset"] = child("versions", job, python=settings.img2dataset_python)
    for found in versions.values():
        del found["wall_s"]
    chosen = {name: value for name, value in asdict(settings).items() if name in ("size", "repeats")}
    return figures.about(num_cores=NUM_CORES) | {"versions": versions, "settings": chosen}


# Figures

_MEMORY = "peak memory of the whole process tree (PSS)"


def all_figures(results: Raw) -> list[Figure]:
    """All lines of the table."""
    found: list[Figure] = []
    for length in LENGTHS:
        found += _rates(results, length) + _ratios(results, length)
    return found + _fixed(results) + _prepared(results) + _memory(results)


def _rates(results: Raw, length: str) -> list[Figure]:
    group = _group(results, length)
    repeats = results[length]["repeats"]
    rates = [
        Figure(group, measured.label, "images/s", _each(repeats, name), measured.about)
        for name, measured in MEASURES.items()
        if name in repeats[0]
    ]
    limit = tuple(rate * results["hardware"]["cores"] for rate in rates[0].values)
    label = f"one thread x {results['hardware']['cores']} cores (the limit)"
    return [rates[0], Figure(group, label, "images/s", limit, "no build can be faster than the bare work"), *rates[1:]]


def _group(results: Raw, length: str) -> str:
    size = f" enlarged to the published {PUBLISHED_PX[0]}x{PUBLISHED_PX[1]}" if length == "published" else ""
    return f"{results[length]['num_images']:,} images{size}"


def _each(repeats: list[dict[str, Raw]], name: str, key: str = "images_per_s") -> tuple[float, ...]:
    return tuple(repeat[name][key] for repeat in repeats)


def _ratios(results: Raw, length: str) -> list[Figure]:
    """Ratios within each repeat, so that a slow minute slows both sides."""
    cores = results["hardware"]["cores"]
    repeats = results[length]["repeats"]
    rows = [
        (
            "ray",
            "one_thread",
            cores,
            "facepack on Ray / (one thread x cores)",
            "the share of the limit that a build reaches",
        ),
        (
            "ray",
            "all_cores",
            1,
            "facepack on Ray / one process per core",
            "the same against what the cores really give at once",
        ),
        (
            "workers_0",
            "one_thread",
            1,
            "facepack --workers 0 / one thread",
            "the price of tar, labels, checksums and statistics",
        ),
        (
            "apart",
            "one_thread",
            cores,
            "facepack --workers 0, one build per core / (one thread x cores)",
            "the most that a build on Ray could reach, if Ray took no time",
        ),
        (
            "all_cores",
            "one_thread",
            cores,
            "one process per core / (one thread x cores)",
            "what the machine loses by itself",
        ),
        ("ray", "plain", 1, "facepack on Ray / plain script", "above 1: faster than the script that keeps no promise"),
        ("ray", "resizer", 1, "facepack on Ray / img2dataset's Resizer", "above 1: faster, and it writes a build"),
        ("ray", "img2dataset", 1, "facepack on Ray / img2dataset", "both in steady state"),
    ]
    found = []
    for above, below, times, label, text in rows:
        if not {above, below} <= repeats[0].keys():
            continue
        pairs = zip(_each(repeats, above), _each(repeats, below), strict=True)
        values = tuple(a / (b * times) for a, b in pairs)
        goal, met = (
            ("at least 0.8", statistics.median(values) >= 0.8) if (above, times) == ("ray", cores) else ("", None)
        )
        found.append(Figure(_group(results, length), label, "", values, text, goal, met))
    return found


def _fixed(results: Raw) -> list[Figure]:
    """Wall time of the whole process less packing."""
    found = []
    for length in ("short", "long"):
        for name, goal_s in (("ray", 12.0), ("workers_0", 1.0)):
            values = _each(results[length]["repeats"], name, "fixed_s")
            label = f"{MEASURES[name].label}, {results[length]['num_images']:,} images"
            text = "start of Python, imports, label files, plan, manifest" + (
                ", start and end of Ray" if name == "ray" else ""
            )
            met = statistics.median(values) <= goal_s
            found.append(Figure("fixed cost", label, "s", values, text, f"at most {goal_s:g} s", met))
            if name == "workers_0":
                planning = _each(results[length]["repeats"], name, "planning_s")
                values = tuple(whole - part for whole, part in zip(values, planning, strict=True))
                text = "the same without index, label and plan of all 202,599 rows, which have a goal of their own"
                met = statistics.median(values) <= goal_s
                found.append(
                    Figure("fixed cost", f"{label}, but planning", "s", values, text, f"at most {goal_s:g} s", met)
                )
    return found


def _prepared(results: Raw) -> list[Figure]:
    """Index, label and plan."""
    found = []
    for name, there in (("prepare", f"{results['short']['num_images']:,}"), ("prepare_all_there", "all")):
        runs = results[name]
        label = f"{runs[0]['num_rows']:,} rows, {there} of the images there"
        seconds = tuple(run["seconds"] for run in runs)
        peaks = tuple(run["peak_rss_bytes"] / 1e6 for run in runs)
        own = (statistics.median(peaks), statistics.median(run["imports_rss_bytes"] / 1e6 for run in runs))
        text = "first call in a new process, imports not counted"
        met = (statistics.median(seconds) <= 2, own[0] <= 500)
        found.append(Figure("index, label, plan", label, "s", seconds, text, "at most 2 s", met[0]))
        text = f"peak RSS of the process; {own[1]:,.0f} MB of it are imports"
        found.append(Figure("index, label, plan", label, "MB", peaks, text, "at most 500 MB", met[1]))
    return found


def _memory(results: Raw) -> list[Figure]:
    """Peak of the whole process tree by number of images, and what every further image adds."""
    found = []
    for kind, chosen in (("facepack on Ray", True), ("facepack --workers 0", False)):
        runs = [run for run in results["memory"] if bool(run["workers"]) == chosen]
        for run in runs:
            peak = run["pss_bytes"] / 1e6
            rss = run["rss_bytes"] / 1e6
            text = f"processes: {run['num_processes']}; as RSS, which counts shared pages in each, {rss:,.0f} MB"
            label = f"{kind}, {run['num_images']:,} images"
            found.append(Figure(_MEMORY, label, "MB", (peak,), text, "below 2,500 MB", peak < 2500))
        first, last = runs[0], runs[-1]
        added = (last["pss_bytes"] - first["pss_bytes"]) / (last["num_images"] - first["num_images"])
        text = "their rows of the plan and of the manifest; pixels are held one image at a time"
        found.append(Figure(_MEMORY, f"{kind}, added by each further image", "bytes", (added,), text))
    return found


# Table and plot, made from the JSON


def markdown(results: Raw) -> str:
    """The table with what was measured on what."""
    versions = results["versions"]
    repeats = [repeat for length in LENGTHS for repeat in results[length]["repeats"]]
    busy = [raw["others_cores"] for repeat in repeats for raw in repeat.values()]
    lines = [
        "# Build",
        "",
        figures.headline(results, command="python benchmarks/build.py", others_cores=busy),
        "",
        *(
            f"- versions: {', '.join(f'{name} {number}' for name, number in found.items())}"
            for found in versions.values()
        ),
        f"- images: CelebA, to {results['settings']['size']} px, JPEG quality {QUALITY}; all files in the page cache. "
        "Where there are more images than the source has, they are links to the same files under other names.",
        f"- median of {results['settings']['repeats']} repeats that take turns (smallest to largest); ratios within "
        "each repeat. Memory is the largest of samples every 50 ms, in builds of their own.",
    ]
    if "img2dataset" not in versions:
        lines.append("- img2dataset was not measured: no --img2dataset-python was given.")
    lines += figures.tables(all_figures(results))
    return "\n".join(lines) + "\n"


def plot(results: Raw, file: Path) -> None:
    """Four panels: images/s of both lengths, fixed cost, peak memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    every = all_figures(results)
    panels = [
        ("images/s", [figure for figure in every if figure.unit == "images/s" and figure.group == group])
        for group in dict.fromkeys(figure.group for figure in every if figure.unit == "images/s")
    ]
    panels.append(("s", [figure for figure in every if figure.group == "fixed cost"]))
    panels.append(("MB", [figure for figure in every if figure.group == _MEMORY and figure.unit == "MB"]))
    shape, axes = plt.subplots(
        len(panels),
        1,
        figsize=(11, 13),
        height_ratios=[len(chosen) + 1.5 for _, chosen in panels],
        layout="constrained",
    )
    for axis, (unit, chosen) in zip(axes, panels, strict=True):
        if unit == "images/s":
            limit = 0.8 * chosen[1].median
            axis.axvline(limit, color="tab:red", linestyle="--", linewidth=1, zorder=0)
            axis.set_title("dashed: 0.8 of the limit", loc="right", color="tab:red", fontsize=9)
        figures.bars(axis, chosen, unit=unit, limits=("one thread x",))
    hardware = results["hardware"]
    shape.suptitle(
        f"facepack build, CelebA to {results['settings']['size']} px without alignment\n"
        f"{hardware['cpu']}, {hardware['cores']} cores; median of {results['settings']['repeats']}, "
        "lines from smallest to largest",
        fontsize=12,
    )
    shape.savefig(file, dpi=110)
    plt.close(shape)


def report(results: Raw, folder: Path) -> None:
    """Write the table and the plot."""
    (folder / "build.md").write_text(markdown(results))
    plot(results, folder / "build.png")


def main() -> None:
    """Measure, or only write table and plot again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", default="data/celeba", help="a CelebA folder, or a part of one")
    parser.add_argument("--size", type=int, default=64, help="pixels of the packed images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long-images", type=int, default=60_000, help="images of the longer builds")
    parser.add_argument("--img2dataset-python", default="", help="Python of an environment that has img2dataset")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.add_argument("--report-only", action="store_true", help="table and plot from the JSON that is there")
    chosen = vars(parser.parse_args())
    folder, report_only = chosen.pop("results"), chosen.pop("report_only")
    file = folder / "build.json"
    if not report_only:
        results = measure(Settings(**chosen))
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    report(json.loads(file.read_text()), folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        print(json.dumps(globals()[f"child_{sys.argv[2]}"](json.loads(sys.argv[3]))))
    else:
        main()
