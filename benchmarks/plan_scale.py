"""Measure builds of very many rows: seconds and memory to plan, to build, to verify and to preview.

    python benchmarks/plan_scale.py --src data/celeba --before ../before

writes benchmarks/results/plan_scale.json. CelebA's label files are repeated, with other names of images. To plan, no
image is there; to build, each is a link to a small one, which is packed as it is. Every figure is that of a process of
its own: `facepack` with --workers 0, its seconds, its CPU time and the most memory that it took. `--before` is another
checkout, which is measured likewise.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import figures
from figures import Raw

HERE = Path(__file__).parents[1]
LABELS = ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt")
IMAGES = "img_align_celeba"
SIDE_PX = 16
LINKS = 50_000
"""Names of one file: fewer than file systems allow."""
BUILD = "build celeba --classes none --size keep --workers 0 --src {src} --out {out}"
PLANNED, BUILT = (200_000, 2_000_000, 20_000_000), (200_000, 2_000_000)
"""Numbers of rows."""


def write_labels(published: Path, folder: Path, num_rows: int) -> None:
    """The label files with so many rows, those of the published ones again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LABELS:
        lines = [line for line in (published / name).read_text().splitlines() if line.strip()]
        header = []
        if name == LABELS[0]:
            header, lines = [f"{num_rows}", lines[1]], lines[2:]
        values = islice(cycle([line[line.index(" ") :] for line in lines]), num_rows)
        with (folder / name).open("w") as file:
            file.writelines(f"{line}\n" for line in header)
            file.writelines(f"{image}{value}\n" for image, value in zip(image_names(num_rows), values, strict=True))


def image_names(num_rows: int) -> Iterator[str]:
    """The names of images, as long as CelebA's."""
    return (f"{number:08d}.jpg" for number in range(1, num_rows + 1))


def link_images(folder: Path, num_rows: int) -> None:
    """An image for each row: links to small ones of noise."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0)
    (folder / IMAGES).mkdir()
    for number, name in enumerate(image_names(num_rows)):
        if number % LINKS == 0:
            pixels = noise.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            first = folder / IMAGES / name
            first.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        else:
            (folder / IMAGES / name).hardlink_to(first)


def measured(checkout: Path, arguments: str) -> Raw:
    """Run facepack of a checkout; `SystemExit` with what it printed where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "facepack", *arguments.split()]
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd="/")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        sys.exit(f"{checkout}: facepack {arguments}\n{text}")
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
        "said": next((line for line in text.splitlines() if "for all else" in line), ""),
    }


def main() -> None:
    """Measure, write, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, required=True, help="folder with the label files of CelebA")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--most", type=int, default=max(PLANNED), help="most rows")
    parser.add_argument("--most-before", type=int, default=2_000_000, help="most rows that the other one plans")
    parser.add_argument("--plan-alone", action="store_true", help="build nothing, which takes ten minutes")
    parser.add_argument("--work", type=Path, help="where the files are made, on a disk; by default a temporary folder")
    arguments = parser.parse_args()
    checkouts = {"now": HERE} | ({"before": arguments.before.resolve()} if arguments.before else {})
    results = figures.about(num_cores=len(os.sched_getaffinity(0))) | {"plan": [], "build": []}
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        src, out = Path(temporary) / "src", Path(temporary) / "out"
        for num_rows in (number for number in PLANNED if number <= arguments.most):
            write_labels(arguments.src, src / f"{num_rows}", num_rows)
            for name, checkout in checkouts.items():
                if name == "now" or num_rows <= arguments.most_before:
                    planned = measured(checkout, BUILD.format(src=src / f"{num_rows}", out=out) + " --dry-run")
                    results["plan"].append({"checkout": name, "num_rows": num_rows} | planned)
                    print(results["plan"][-1], flush=True)
        for num_rows in (number for number in BUILT if number <= arguments.most and not arguments.plan_alone):
            link_images(src / f"{num_rows}", num_rows)
            place = out / f"{num_rows}"
            verbs = {
                "build": BUILD.format(src=src / f"{num_rows}", out=place),
                "verify": f"verify {place}",
                "preview": f"preview {place} --src {src / f'{num_rows}'} --out {out / 'preview.html'}",
            }
            for verb, command in verbs.items():
                results["build"].append({"verb": verb, "num_rows": num_rows} | measured(HERE, command))
                print(results["build"][-1], flush=True)
    (HERE / "benchmarks" / "results" / "plan_scale.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
