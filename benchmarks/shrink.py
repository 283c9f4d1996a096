"""Measure builds that shrink their photos: JPEGs decoded at a reduced scale, and in full.

    python benchmarks/shrink.py --large data/utkface --celeba data/celeba/img_align_celeba

writes benchmarks/results/shrink.json and shrink.md; four minutes on two cores. Photos of 200 pixels, and of CelebA
enlarged to the published 178x218, become 64. Every measurement is a process of its own, and all take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
from figures import Figure, Raw

NUM_CORES = len(os.sched_getaffinity(0))
SIZE_PX, QUALITY = 64, 95
PUBLISHED_WH, PUBLISHED_QUALITY = (178, 218), 90
NUM_IMAGES = 6000
GOALS = {"fast / full": 1.4, "share": 1.0}


# In a process of its own


def bare(folder: str) -> float:
    """Seconds to read, decode in full, resize and encode all photos in one thread."""
    import cv2

    from facepack import image

    cv2.setNumThreads(1)
    paths = sorted(Path(folder).rglob("*.jpg"))
    begun = time.perf_counter()
    for path in paths:
        small = image.resize(image.decode(path.read_bytes()), width_px=SIZE_PX, height_px=SIZE_PX)
        assert image.encode_jpeg(small, quality=QUALITY)
    return time.perf_counter() - begun


def built(folder: str, decode: str) -> float:
    """Seconds of packing all photos in this process."""
    from facepack.builder import Place, build
    from facepack.configuration import Configuration

    configuration = Configuration.of("folder", size=str(SIZE_PX), quality=QUALITY, decode=decode)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as out:
        outcome = build(configuration, place=Place(folder, f"{out}/build", workers=0))
    assert outcome.num_images == NUM_IMAGES
    return outcome.packing_s


# Measuring


def rate(*job: str, processes: int = 1) -> float:
    """Photos per second of some processes at once, each with all photos, as its slowest one says."""
    command = [sys.executable, __file__, "child", *job]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(processes)]
    seconds = []
    for process in running:
        stdout, stderr = process.communicate()
        if process.returncode:
            raise SystemExit(f"{job} failed:\n{stderr.decode()}")
        seconds.append(float(stdout.split()[-1]))
    return NUM_IMAGES * processes / max(seconds)


WAYS: dict[str, Callable[[str], float]] = {
    "full decode, resize, encode in one thread": lambda folder: rate("bare", folder),
    "facepack --decode full, one process": lambda folder: rate("built", folder, "full"),
    "facepack --decode fast, one process": lambda folder: rate("built", folder, "fast"),
    "facepack --decode full, a process per core": lambda folder: rate("built", folder, "full", processes=NUM_CORES),
    "facepack --decode fast, a process per core": lambda folder: rate("built", folder, "fast", processes=NUM_CORES),
}


def photos(source: Path, folder: Path, *, size_wh: tuple[int, int] | None) -> Path:
    """Photos of a folder under other names, again and again, enlarged where a size is given."""
    import cv2

    from facepack import image

    files = sorted(source.rglob("*.jpg"))[:NUM_IMAGES]
    (folder / "photos").mkdir(parents=True)
    for number in range(NUM_IMAGES):
        content = files[number % len(files)].read_bytes()
        if size_wh is not None:
            enlarged: Any = cv2.resize(image.decode(content), size_wh, interpolation=cv2.INTER_CUBIC)
            content = image.encode_jpeg(enlarged, quality=PUBLISHED_QUALITY)
        # A comment makes equal photos different files.
        comment = b"\xff\xfe" + (2 + 8).to_bytes(2, "big") + b"%08d" % number
        (folder / "photos" / f"{number:06d}.jpg").write_bytes(content[:2] + comment + content[2:])
    return folder


def measure(sources: dict[str, tuple[Path, tuple[int, int] | None]], *, repeats: int) -> Raw:
    """Everything, as the JSON is to hold it."""
    results: Raw = figures.about(num_cores=NUM_CORES) | {"others_cores": [], "sets": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (source, size_wh) in sources.items():
            folder = photos(source, Path(temporary, name), size_wh=size_wh)
            found = results["sets"][name] = []
            for _ in range(repeats):
                results["others_cores"].append(figures.others_at_work(num_cores=NUM_CORES))
                found.append({way: run(str(folder)) for way, run in WAYS.items()})
                print(name, {way: round(value) for way, value in found[-1].items()}, flush=True)
    return results


def all_figures(results: Raw) -> list[Figure]:
    """Every line of the tables: rates, then ratios within each repeat."""
    found = []
    for name, repeats in results["sets"].items():
        group = f"{NUM_IMAGES:,} photos of {name} to {SIZE_PX} pixels"
        limit, full, fast, full_all, fast_all = ([repeat[way] for repeat in repeats] for way in WAYS)
        found += [Figure(group, way, "images/s", tuple(repeat[way] for repeat in repeats), "") for way in WAYS]
        ratios: list[tuple[str, Any, float]] = [
            ("fast / full, one process", zip(fast, full, strict=True), GOALS["fast / full"]),
            ("fast / full, a process per core", zip(fast_all, full_all, strict=True), GOALS["fast / full"]),
            (
                "fast, a process per core / (one thread x cores)",
                ((one, other * NUM_CORES) for one, other in zip(fast_all, limit, strict=True)),
                GOALS["share"],
            ),
        ]
        for label, pairs, goal in ratios:
            ratio = Figure(group, label, "", tuple(one / other for one, other in pairs), "", f"at least {goal}")
            found.append(Figure(**(vars(ratio) | {"met": ratio.median >= goal})))
    return found


def markdown(results: Raw) -> str:
    """The page."""
    headline = figures.headline(results, command="python benchmarks/shrink.py", others_cores=results["others_cores"])
    lines = ["# Builds that shrink their photos", "", headline, "", "Median of the repeats (least to most)."]
    return "\n".join([*lines, *figures.tables(all_figures(results))]) + "\n"


def main() -> None:
    """Measure, write, and print where; or be a child."""
    if sys.argv[1:2] == ["child"]:
        print(bare(sys.argv[3]) if sys.argv[2] == "bare" else built(*sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=Path, required=True, help="folder of JPEGs of 200 pixels")
    parser.add_argument("--celeba", type=Path, required=True, help="folder of CelebA's JPEGs, of any size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    results = measure(
        {"200x200": (chosen.large, None), "178x218": (chosen.celeba, PUBLISHED_WH)}, repeats=chosen.repeats
    )
    (chosen.out / "shrink.json").write_text(json.dumps(results, indent=1) + "\n")
    (chosen.out / "shrink.md").write_text(markdown(results))
    print(chosen.out / "shrink.md")


if __name__ == "__main__":
    main()
