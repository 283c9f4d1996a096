"""Measure finding and cropping faces against the sequential published way, and count the faces that both find.

    python benchmarks/align.py --celeba data/celeba --detect data/detect

writes benchmarks/results/align.json, and from it align.md and align.png; ten minutes on two cores. `--celeba` is a
CelebA folder with uncropped originals in img_celeba, `--detect` one with labels.csv (file, num_faces) and the photos
that it names, in folders by what they show: zero, one, several. `--detectors` measures only the detectors (hog, cnn,
hog+cnn) on these photos, and puts them into the results that are there; fifteen minutes.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import figures
import numpy as np
from figures import Figure, Raw

from facepack import align, image
from facepack.align import Aligner
from facepack.builder import Place, build
from facepack.configuration import Configuration

NUM_CORES = len(os.sched_getaffinity(0))
LIBRARIES = ("facepack", "dlib-bin", "numpy", "opencv-python-headless", "pyarrow", "ray")
PUBLISHED_MARGIN_PX, PUBLISHED_UP_PX, PUBLISHED_SIZE_PX = 15, 5, 120
SHARD_IMAGES = 50
WARM_UP_PHOTOS = 10

NOTES = {
    "dlib__examples_faces_2008_002079.jpg": "a team in rows: the first look finds one small face, so that a "
    "second is taken; it sees fewer of the eight than full upsampling, and several all the same",
    "037940.jpg": "the published way also takes a stain on the picture at the wall for a face (score 0.2)",
    "045947.jpg": "the published way also finds the face drawn on a T-shirt",
    "065618.jpg": "a woman in half profile: right here, lost in colour",
    "123122.jpg": "a woman in half profile: right here, lost in colour",
    "131479.jpg": "the published way also finds a marble bust on the table",
    "182974.jpg": "the published way also takes grapes for a face (score 0.01)",
    "190390.jpg": "a second, small face in the background that scores 0.02: lost here",
    "199759.jpg": "a man in half profile that scores 0.01 in colour and below 0 in grey: lost here",
}
"""What the difference is, by photo, found by looking at each."""


# In a process of its own: every function takes one JSON object and gives one


def child_published(job: Raw) -> Raw:
    """The script as published: one process, colour, always upsampled, crops written as files; not clamped."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    statuses: Counter[str] = Counter()
    begun = 0.0
    for number, path in enumerate(job["paths"]):
        if number == WARM_UP_PHOTOS:
            begun, statuses = time.perf_counter(), Counter()
        image_hwc = dlib.load_rgb_image(path)
        found = detector(image_hwc, 1)
        if len(found) != 1:
            statuses["no_face" if not found else "several_faces"] += 1
            continue
        x0, y0, x1, y1 = found[0].left(), found[0].top(), found[0].right(), found[0].bottom()
        wider = ((y1 - y0) - (x1 - x0)) // 2
        x0, x1, y0, y1 = (x0 - wider, x1 + wider, y0, y1) if wider > 0 else (x0, x1, y0 + wider, y1 - wider)
        x0, x1 = x0 - PUBLISHED_MARGIN_PX, x1 + PUBLISHED_MARGIN_PX
        y0, y1 = y0 - PUBLISHED_MARGIN_PX - PUBLISHED_UP_PX, y1 + PUBLISHED_MARGIN_PX - PUBLISHED_UP_PX
        height, width = image_hwc.shape[:2]
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            statuses["failed at the border"] += 1
            continue
        crop = cv2.resize(image_hwc[y0:y1, x0:x1, ::-1], (PUBLISHED_SIZE_PX, PUBLISHED_SIZE_PX))
        cv2.imwrite(f"{job['out']}/{number}.jpg", crop)
        statuses["packed"] += 1
    seconds = time.perf_counter() - begun
    return {"num_images": sum(statuses.values()), "seconds": seconds, "statuses": statuses}


def child_detection(job: Raw) -> Raw:
    """Our detection alone in one thread: files, or pixels in memory, to boxes."""
    cv2.setNumThreads(1)
    seconds, number = 0.0, 0
    for position, path in enumerate(job["paths"]):
        opened = time.perf_counter()
        image_hwc = image.decode(Path(path).read_bytes())
        decoded = time.perf_counter()
        align.find(cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY))  # type: ignore[arg-type]
        ended = time.perf_counter()
        if position >= WARM_UP_PHOTOS:
            seconds, number = seconds + ended - (opened if job["from_files"] else decoded), number + 1
    return {"num_images": number, "seconds": seconds}


def child_build(job: Raw) -> Raw:
    """One build, as the command does it."""
    configuration = Configuration.of("celeba", images="wild", align=job["align"], samples_per_shard=SHARD_IMAGES)
    outcome = build(configuration, place=Place(job["src"], job["out"], job["workers"]))
    statuses: Counter[str] = Counter()
    for classes in outcome.build.counts.values():
        for by_status in classes.values():
            statuses.update(by_status)
    del statuses["missing"]
    num_images, seconds = outcome.num_images, outcome.packing_s
    return {
        "num_images": num_images,
        "seconds": seconds,
        "statuses": statuses,
        "num_padded": outcome.build.num_padded,
        "other_s": outcome.other_s,
    }


def child_detector(job: Raw) -> Raw:
    """One detector on some photos: the number of faces in each, and seconds of CPU for all."""
    cv2.setNumThreads(1)
    chosen = Configuration.of("celeba", align="crop", on_several="all", detector=job["detector"])
    aligner = Aligner.of(chosen)
    assert aligner is not None
    numbers, seconds = [], 0.0
    for path in job["paths"]:
        image_hwc = image.decode(Path(path).read_bytes())
        begun = time.process_time()
        try:
            numbers.append(len(aligner.boxes(image_hwc)))
        except image.BadImageError:
            numbers.append(0)
        seconds += time.process_time() - begun
    return {"numbers": numbers, "seconds": seconds}


# Measuring


def child(name: str, job: Raw) -> Raw:
    """Run one of the functions above in a new process."""
    command = [sys.executable, __file__, "child", name]
    done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr.decode()}")
    answer: Raw = json.loads(done.stdout.splitlines()[-1])
    return answer


LABELS = {
    "published": (
        "published way, one process",
        "dlib in colour, always upsampled; reads, detects, crops and writes one photo after the other",
    ),
    "detection": ("our detection alone, one thread", "pixels in memory to boxes; nothing read, cut or written"),
    "from_files": ("our detection alone, one thread, from files", "the same with reading and decoding"),
    "at_once": ("our detection alone, one process per core", "what the machine gives when all cores are at work"),
    "crop_0": (
        "facepack --align crop, one process",
        "the whole build but for start and end: read, decode, detect, crop, encode, checksums, tar",
    ),
    "chip_0": ("facepack --align chip, one process", "the same, with landmarks and dlib's warp"),
    "crop": (
        "facepack --align crop on Ray, one worker per core",
        "from the first worker's first photo to the last photo done; the same photos twenty times over",
    ),
}
"""What takes turns: its name in tables, and what it does."""


def at_once(name: str, job: Raw) -> Raw:
    """The same in one process per core, whose rates add up."""
    with ThreadPoolExecutor(NUM_CORES) as pool:
        answers = list(pool.map(lambda _: child(name, job), range(NUM_CORES)))
    num_images = sum(answer["num_images"] for answer in answers)
    return {"num_images": num_images, "seconds": num_images / sum(a["num_images"] / a["seconds"] for a in answers)}


def runs(celeba: Path, long: Path) -> dict[str, Callable[[str], Raw]]:
    """By name, what measures it in an empty folder."""
    paths = [str(path) for path in sorted((celeba / "img_celeba").iterdir())]

    def built(kind: str, *, workers: int) -> Callable[[str], Raw]:
        src = str(long if workers else celeba)
        return lambda out: child("build", {"src": src, "out": f"{out}/build", "workers": workers, "align": kind})

    return {
        "published": lambda out: child("published", {"paths": paths, "out": out}),
        "detection": lambda _: child("detection", {"paths": paths, "from_files": False}),
        "from_files": lambda _: child("detection", {"paths": paths, "from_files": True}),
        "at_once": lambda _: at_once("detection", {"paths": paths, "from_files": False}),
        "crop_0": built("crop", workers=0),
        "chip_0": built("chip", workers=0),
        "crop": built("crop", workers=NUM_CORES),
    }


def lengthened(celeba: Path, folder: Path, *, times: int) -> Path:
    """A CelebA whose uncropped originals are there so many times under other names, for work of more than seconds."""
    (folder / "img_celeba").mkdir(parents=True)
    names = [line.split()[0] for line in (celeba / "list_eval_partition.txt").read_text().splitlines()]
    photos = sorted((celeba / "img_celeba").iterdir())
    for path in celeba.glob("*.txt"):
        shutil.copy(path, folder)
    for number, name in enumerate(names[: times * len(photos)]):
        shutil.copy(photos[number % len(photos)], folder / "img_celeba" / name)
    return folder


def counted(detect: Path, celeba: Path) -> list[Raw]:
    """Faces per photo: as labelled, as the published way finds them, and as we do."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    with (detect / "labels.csv").open() as file:
        photos = [(row["file"], detect / row["file"], row["num_faces"]) for row in csv.DictReader(file)]
    photos += [(f"img_celeba/{path.name}", path, "") for path in sorted((celeba / "img_celeba").iterdir())]
    found = []
    for name, path, expected in photos:
        image_hwc: Any = image.decode(path.read_bytes())
        published = len(detector(np.ascontiguousarray(image_hwc[:, :, ::-1]), 1))
        ours = len(align.find(cv2.cvtColor(image_hwc, cv2.COLOR_BGR2GRAY)))
        found.append({"photo": name, "expected": expected, "published": published, "facepack": ours})
    return found


def by_detector(celeba: Path, detect: Path) -> list[Raw]:
    """Per detector and kind of photos, how often it finds none, one or several faces, and CPU seconds for each photo.

    The turned faces are those of the uncropped photos, each with a celebrity's face, in which HOG finds none.
    """
    with (detect / "labels.csv").open() as file:
        labelled = [(row["file"].partition("/")[0], str(detect / row["file"])) for row in csv.DictReader(file)]
    kinds = {kind: [path for other, path in labelled if other == kind] for kind in ("zero", "one", "several")}
    wild = [str(path) for path in sorted((celeba / "img_celeba").iterdir())]
    by_hog = child("detector", {"detector": "hog", "paths": wild})["numbers"]
    kinds["turned"] = [path for path, number in zip(wild, by_hog, strict=True) if not number]
    rows = []
    for detector in ("hog", "hog+cnn", "cnn"):
        for kind, paths in kinds.items():
            raw = child("detector", {"detector": detector, "paths": paths})
            seen = Counter(seen_as(number) for number in raw["numbers"])
            row = {"detector": detector, "kind": kind, "num_photos": len(paths), "seen": seen}
            rows.append(row | {"cpu_s_per_photo": raw["seconds"] / max(1, len(paths))})
            print(rows[-1], flush=True)
    return rows


def measure(celeba: Path, detect: Path, *, repeats: int) -> Raw:
    """Everything, as the JSON is to hold it."""
    results = figures.about(num_cores=NUM_CORES)
    results["versions"] = {name: version(name) for name in LIBRARIES}
    results["repeats"] = []
    results["counted"] = counted(detect, celeba)
    with tempfile.TemporaryDirectory() as temporary:
        chosen = runs(celeba, lengthened(celeba, Path(temporary) / "long", times=20))
        for number in range(repeats):
            repeat: dict[str, Raw] = {}
            for name, run in chosen.items():
                busy = figures.others_at_work(num_cores=NUM_CORES)
                out = Path(temporary) / "out"
                out.mkdir()
                raw = repeat[name] = run(str(out)) | {"others_cores": busy}
                shutil.rmtree(out)
                raw["images_per_s"] = raw["num_images"] / raw["seconds"]
                print(f"repeat {number + 1}: {LABELS[name][0]} {raw['images_per_s']:.1f} photos/s", flush=True)
            results["repeats"].append(repeat)
    return results


# Figures


def all_figures(results: Raw) -> list[Figure]:
    """Rates, and ratios within each repeat, so that a slow minute slows both sides."""
    repeats, cores = results["repeats"], results["hardware"]["cores"]

    def each(name: str) -> tuple[float, ...]:
        return tuple(repeat[name]["images_per_s"] for repeat in repeats)

    group = "uncropped photos of CelebA (img_celeba)"
    found = [Figure(group, label, "photos/s", each(name), about) for name, (label, about) in LABELS.items()]
    limit = tuple(rate * cores for rate in each("detection"))
    label = f"our detection alone x {cores} cores (the limit)"
    found.insert(2, Figure(group, label, "photos/s", limit, "no aligned build can be faster than its detector"))
    rows = [
        ("crop_0", "published", 1, "facepack crop / published way, per core", 5.0, "the same photos, one process each"),
        ("chip_0", "published", 1, "facepack chip / published way, per core", None, "published: no landmarks"),
        ("crop", "detection", cores, f"facepack crop on Ray / (detection x {cores})", 0.9, "the rest is the price"),
        (
            "crop",
            "from_files",
            cores,
            f"facepack crop on Ray / (from files x {cores})",
            None,
            "the price of Ray and shards",
        ),
        (
            "crop",
            "at_once",
            1,
            "facepack crop on Ray / detection on all cores at once",
            None,
            "the machine's own loss apart",
        ),
        ("crop", "published", 1, f"facepack crop on Ray, {cores} cores / published way", None, "what a user gains"),
    ]
    for above, below, times, label, goal, text in rows:
        values = tuple(a / (b * times) for a, b in zip(each(above), each(below), strict=True))
        met = None if goal is None else statistics.median(values) >= goal
        found.append(Figure(group, label, "", values, text, f"at least {goal:g}" if goal else "", met))
    return found


def seen_as(number: int) -> str:
    """Zero, one or several."""
    return ("zero", "one")[number] if number < 2 else "several"


def detection_tables(results: Raw) -> list[str]:
    """Expected against found, both ways; what becomes of the uncropped photos; every difference with its cause."""
    rows = results["counted"]
    lines = [
        "",
        "## Faces found",
        "",
        "| photos | expected | published way | facepack |",
        "| --- | --- | ---: | ---: |",
    ]
    for kind in ("zero", "one", "several"):
        chosen = [row for row in rows if row["photo"].startswith(f"{kind}/")]
        right = [sum(seen_as(row[way]) == kind for row in chosen) for way in ("published", "facepack")]
        lines.append(f"| {len(chosen)} of detect/ | {kind} | {right[0]} right | {right[1]} right |")
    wild = [row for row in rows if row["photo"].startswith("img_celeba/")]
    for kind, status in (("one", "packed"), ("zero", "no_face"), ("several", "several_faces")):
        number = [sum(seen_as(row[way]) == kind for row in wild) for way in ("published", "facepack")]
        lines.append(f"| {len(wild)} of img_celeba | (not labelled) {status} | {number[0]} | {number[1]} |")
    first = results["repeats"][0]
    failed = first["published"]["statuses"].get("failed at the border", 0)
    lines += [
        "",
        f"Of the {first['published']['num_images']} timed photos the published crop failed at the border of {failed}; "
        f"facepack pads them ({first['crop_0']['num_padded']} of all {first['crop_0']['num_images']}).",
        "",
        "## Every photo on which the two differ",
        "",
        "| photo | expected | published way | facepack | looked at |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        if seen_as(row["published"]) != seen_as(row["facepack"]) or Path(row["photo"]).name in NOTES:
            note = NOTES.get(Path(row["photo"]).name, "")
            lines.append(f"| {row['photo']} | {row['expected']} | {row['published']} | {row['facepack']} | {note} |")
    return lines


def detector_table(rows: list[Raw]) -> list[str]:
    """A row per detector and kind of photos."""
    if not rows:
        return []
    names = {
        "turned": "of img_celeba in which HOG finds no face, though each shows one: half profiles, tilted, in shadow"
    }
    lines = [
        "",
        "## Detectors",
        "",
        "| --detector | photos | no face | one | several | CPU s a photo |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        photos = f"{row['num_photos']} {names.get(row['kind'], 'of detect/, expected: ' + row['kind'])}"
        numbers = " | ".join(str(row["seen"].get(kind, 0)) for kind in ("zero", "one", "several"))
        lines.append(f"| {row['detector']} | {photos} | {numbers} | {row['cpu_s_per_photo']:.3g} |")
    return lines


def markdown(results: Raw) -> str:
    """The tables with what was measured on what."""
    busy = [raw["others_cores"] for repeat in results["repeats"] for raw in repeat.values()]
    lines = [
        "# Align",
        "",
        figures.headline(results, command="python benchmarks/align.py", others_cores=busy),
        "",
        f"- versions: {', '.join(f'{name} {number}' for name, number in results['versions'].items())}",
        f"- median of {len(results['repeats'])} repeats that take turns (smallest to largest); ratios within each.",
        *figures.tables(all_figures(results)),
        *detection_tables(results),
        *detector_table(results.get("detectors", [])),
    ]
    return "\n".join(lines) + "\n"


def plot(results: Raw, file: Path) -> None:
    """Photos per second of all ways."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [figure for figure in all_figures(results) if figure.unit]
    shape, axis = plt.subplots(figsize=(11, 4.5), layout="constrained")
    figures.bars(axis, chosen, unit="photos/s", limits=("our detection",))
    hardware = results["hardware"]
    shape.suptitle(f"Finding and cutting out faces: {hardware['cpu']}, {hardware['cores']} cores", fontsize=12)
    shape.savefig(file, dpi=110)
    plt.close(shape)


def main() -> None:
    """Measure, or only write table and plot again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--celeba", type=Path, default=Path("data/celeba"))
    parser.add_argument("--detect", type=Path, default=Path("data/detect"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.add_argument("--detectors", action="store_true", help="measure only the detectors")
    parser.add_argument("--report-only", action="store_true", help="table and plot from the JSON that is there")
    chosen = parser.parse_args()
    file = chosen.results / "align.json"
    if chosen.detectors:
        results = json.loads(file.read_text())
        results["detectors"] = by_detector(chosen.celeba.resolve(), chosen.detect.resolve())
        file.write_text(json.dumps(results, indent=1) + "\n")
    elif not chosen.report_only:
        results = measure(chosen.celeba.resolve(), chosen.detect.resolve(), repeats=chosen.repeats)
        results["detectors"] = by_detector(chosen.celeba.resolve(), chosen.detect.resolve())
        chosen.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(file.read_text())
    (chosen.results / "align.md").write_text(markdown(results))
    plot(results, chosen.results / "align.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(globals()[f"child_{sys.argv[2]}"](json.load(sys.stdin))))
    else:
        main()
