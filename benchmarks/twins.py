"""Measure near-duplicates and quality: recall and false alarms by radius, seconds to search, microseconds an image.

    python benchmarks/twins.py --data ../shared/data

writes benchmarks/results/twins.json and twins.md. Pairs are made from real photos: each is changed in one way, and is
recalled where the hash of the changed one is near. False alarms are pairs of different photos whose hashes are near; of
CelebA only those of two people count, of the others all do, among them pictures that do come twice. The search is over
as many hashes as CelebA has photos: of two of them blended, as there are not as many photos here.
"""

import argparse
import json
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import figures
import numpy as np
import numpy.typing as npt

from facepack import image
from facepack.hashing import Hashes
from facepack.near_duplicates import pairs_within
from facepack.perceptual_hash import mirrored, perceptual_hash
from facepack.quality import pose_of, quality_of

Pixels = npt.NDArray[np.uint8]

HERE = Path(__file__).parent
RADII = (2, 3, 4, 5, 6, 7, 8, 10)
SETS = {
    "CelebA 89x109": "celeba/img_align_celeba/*.jpg",
    "UTKFace 200x200": "utkface/crop_part1/*.jpg",
    "Simpsons 28x28": "simpsons/simpsons_dataset/*/*.jpg",
}
NUM_SEARCHED = 202_599
SIZES_WH = ((64, 64), (112, 112), (178, 218), (448, 448))
_NUM_CHANGED = 1000


def _scaled(image_hwc: Pixels, scale: float) -> Pixels:
    height, width = image_hwc.shape[:2]
    return image.resize(image_hwc, width_px=round(width * scale), height_px=round(height * scale))


def _cropped(image_hwc: Pixels, share: float) -> Pixels:
    """Without a share of each side, half of it at either end."""
    height, width = image_hwc.shape[:2]
    down, across = round(height * share / 2), round(width * share / 2)
    return np.ascontiguousarray(image_hwc[down : height - down, across : width - across])


def _encoded(image_hwc: Pixels, quality: int) -> Pixels:
    return image.decode(image.encode_jpeg(image_hwc, quality=quality))


CHANGES: dict[str, Callable[[Pixels], Any]] = {
    "half the size": lambda image_hwc: _scaled(image_hwc, 0.5),
    "twice the size": lambda image_hwc: _scaled(image_hwc, 2),
    "JPEG 50": lambda image_hwc: _encoded(image_hwc, 50),
    "JPEG 20": lambda image_hwc: _encoded(image_hwc, 20),
    "mirrored": lambda image_hwc: np.ascontiguousarray(image_hwc[:, ::-1]),
    "30 grey levels brighter": lambda image_hwc: cv2.convertScaleAbs(image_hwc, alpha=1, beta=30),
    "contrast 0.7": lambda image_hwc: cv2.convertScaleAbs(image_hwc, alpha=0.7),
    "2 % cropped": lambda image_hwc: _cropped(image_hwc, 0.02),
    "5 % cropped": lambda image_hwc: _cropped(image_hwc, 0.05),
    "10 % cropped": lambda image_hwc: _cropped(image_hwc, 0.1),
}


def hashes_of(images: list[Pixels]) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """The hash of each picture, and whether it has one."""
    numbers = [perceptual_hash(image_hwc) for image_hwc in images]
    return np.array([number or 0 for number in numbers], np.uint64), np.array([n is not None for n in numbers])


def distances(first: Hashes, second: Hashes) -> npt.NDArray[np.uint8]:
    """Bits in which hashes differ, of the mirror image where that is nearer."""
    return np.minimum(np.bitwise_count(first ^ second), np.bitwise_count(first ^ mirrored(second)))  # type: ignore[no-any-return]


def recall(images: list[Pixels]) -> dict[str, dict[int, float]]:
    """By change and radius the share of pictures whose changed copy is near."""
    some = images[:: max(1, len(images) // _NUM_CHANGED)]
    plain, has = hashes_of(some)
    shares = {}
    for name, change in CHANGES.items():
        changed, has_changed = hashes_of([change(image_hwc) for image_hwc in some])
        near = np.where(has & has_changed, distances(plain, changed), 64)
        shares[name] = {radius: float((near <= radius).mean()) for radius in RADII}
    return shares


def false_alarms(hashes: Hashes, people: npt.NDArray[np.int64]) -> dict[int, float]:
    """By radius the pairs of different photos, of different people, that are near: per million pairs."""
    near = pairs_within(hashes, radius=max(RADII))
    is_other = people[near.first] != people[near.second]
    num_pairs = len(hashes) * (len(hashes) - 1) / 2
    return {r: float((is_other & (near.distance <= r)).sum() / num_pairs * 1e6) for r in RADII}


def people_of(data: Path, paths: list[Path]) -> npt.NDArray[np.int64]:
    """Who is on each photo of CelebA; everybody another elsewhere."""
    if "celeba" not in f"{paths[0]}":
        return np.arange(len(paths))
    lines = (data / "celeba" / "identity_CelebA.txt").read_text().splitlines()
    identities = dict(line.split() for line in lines)
    return np.array([int(identities[path.name]) for path in paths])


def seconds_to_search(images: list[Pixels]) -> dict[int, dict[str, float]]:
    """By radius the seconds to find all pairs among as many hashes as CelebA has photos, and the number of them."""
    random = np.random.default_rng(0)
    small = [image.resize(image_hwc, width_px=48, height_px=48) for image_hwc in images]
    chosen = random.integers(0, len(small), (NUM_SEARCHED, 2))
    weights = random.uniform(0.3, 0.7, NUM_SEARCHED)
    blends = (
        cv2.addWeighted(small[a], weight, small[b], 1 - weight, 0)
        for (a, b), weight in zip(chosen, weights, strict=True)
    )
    hashes, _ = hashes_of(list(blends))
    results = {}
    for radius in (4, 5, 6):
        began, cpu = time.perf_counter(), time.process_time()
        pairs = pairs_within(hashes, radius=radius)
        ended = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        results[radius] = ended | {"pairs": float(len(pairs))}
    return results


def microseconds() -> dict[str, dict[str, float]]:
    """By size and column the time to make it for one image, in one thread."""
    landmarks = (60.0, 40.0, 50.0, 40.0, 20.0, 40.0, 30.0, 40.0, 40.0, 60.0)
    results = {}
    for width, height in SIZES_WH:
        noise_hwc = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        photo_hwc = cv2.GaussianBlur(noise_hwc, (9, 9), 3)
        calls: dict[str, Callable[[], object]] = {
            "phash": lambda photo_hwc=photo_hwc: perceptual_hash(photo_hwc),  # type: ignore[misc]
            "quality": lambda photo_hwc=photo_hwc: quality_of(photo_hwc),  # type: ignore[misc]
            "yaw, roll": lambda: pose_of(landmarks, is_published=False),
            "encode (JPEG 95)": lambda photo_hwc=photo_hwc: image.encode_jpeg(photo_hwc, quality=95),  # type: ignore[misc]
        }
        results[f"{width}x{height}"] = {name: best_us(call) for name, call in calls.items()}
    return results


def best_us(call: Callable[[], object]) -> float:
    """Microseconds of a call: the least of twenty repeats of a hundred."""
    return min(timeit.repeat(call, number=100, repeat=20)) / 100 * 1e6


def as_text(results: dict[str, Any]) -> str:
    """The tables."""
    lines = [f"Measured {results['about']['date']}.", ""]
    for name, part in results["sets"].items():
        lines += [f"{name}, {part['num']:,} photos:", "", "| radius | " + " | ".join(map(str, RADII)) + " |"]
        lines.append("| --- |" + " ---: |" * len(RADII))
        for change, shares in part["recall"].items():
            lines.append(f"| {change} | " + " | ".join(f"{shares[str(radius)]:.3f}" for radius in RADII) + " |")
        alarms = part["false_alarms"]
        lines += [
            "| near pairs per million | " + " | ".join(f"{alarms[str(radius)]:.2f}" for radius in RADII) + " |",
            "",
        ]
    if "search" in results:
        lines += [
            f"Search among {NUM_SEARCHED:,}:",
            "",
            "| radius | s | CPU s | pairs |",
            "| ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {r} | {v['s']:.1f} | {v['cpu_s']:.1f} | {v['pairs']:,.0f} |" for r, v in results["search"].items()
        ]
        lines.append("")
    if "us" in results:
        columns = list(next(iter(results["us"].values())))
        lines += ["us an image:", "", "| size | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
        for size, v in results["us"].items():
            lines.append(f"| {size} | " + " | ".join(f"{v[name]:.1f}" for name in columns) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with celeba, utkface and simpsons")
    parser.add_argument("--only-times", action="store_true", help="measure only the times anew")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.only_times:
        images = [image.decode(path.read_bytes()) for path in sorted(arguments.data.glob(SETS["CelebA 89x109"]))[:1500]]
        written = json.loads((HERE / "results" / "twins.json").read_text())
        write(written | {"us": microseconds(), "search": seconds_to_search(images)})
        return
    results: dict[str, Any] = {"about": figures.about(num_cores=1), "sets": {}}
    for name, pattern in SETS.items():
        paths = sorted(arguments.data.glob(pattern))
        images = [image.decode(path.read_bytes(), keep_damaged=True) for path in paths]
        hashes, has = hashes_of(images)
        people = people_of(arguments.data, paths)
        alarms = false_alarms(hashes[has], people[has])
        results["sets"][name] = {"num": len(images), "recall": recall(images), "false_alarms": alarms}
        if name.startswith("CelebA"):
            results["search"] = seconds_to_search(images)
    results["us"] = microseconds()
    write(results)


def write(results: dict[str, Any]) -> None:
    """Write the figures, and the tables of them."""
    text = json.dumps(results, indent=1) + "\n"
    (HERE / "results" / "twins.json").write_text(text)
    (HERE / "results" / "twins.md").write_text(as_text(json.loads(text)))


if __name__ == "__main__":
    main()
