"""Measure the CPU time that augmentation takes per image, in one thread, on photos kept in memory.

    python benchmarks/augment_cpu.py --photos data/utkface --before OTHER_CHECKOUT

writes benchmarks/results/augment_cpu.json and augment_cpu.md; two minutes. Photos of 200x200 pixels become float32
batches of 128; `--before` names a checkout whose loader is measured in the same run, in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
from figures import Figure, Raw

NUM_IMAGES, BATCH_SIZE = 1024, 128
MIN_CPU_S = 2.0


def _steps(name: str) -> list[Any]:
    from trainer.augment import (
        ColorJitter,
        Normalize,
        RandomCrop,
        RandomHorizontalFlip,
        RandomResizedCrop,
        Resize,
    )

    normalize = Normalize((0.5, 0.45, 0.42), (0.3, 0.29, 0.29))
    crop, flip = RandomResizedCrop(160), RandomHorizontalFlip()
    lists: dict[str, list[Any]] = {
        "crop": [crop, flip, normalize],
        "jitter": [crop, flip, ColorJitter(0.4, 0.4, 0.4), normalize],
        "hue": [crop, flip, ColorJitter(0.4, 0.4, 0.4, 0.1), normalize],
        "age_groups": [ColorJitter(0.4, 0.4, 0.4), RandomCrop(140), flip, Resize((160, 160)), normalize],
        "flip": [flip, normalize],
    }
    return lists[name]


LISTS = {
    "crop": ("RandomResizedCrop(160), flip, Normalize", 270),
    "jitter": ("... and ColorJitter(0.4, 0.4, 0.4): on top", 220),
    "hue": ("... and hue 0.1: on top", 450),
    "age_groups": ("the list of age_groups", 420),
    "flip": ("flip, Normalize", 124),
}
"""What each list is called, and the microseconds it may take; two of them on top of the first."""


def measured(build: str, name: str) -> float:
    """Microseconds of CPU per image, of all threads of this process, in epochs after the first two."""
    from trainer.loader import EngineSettings, Loader

    engine = EngineSettings(num_threads=1)
    loader = Loader(build, split="train", batch_size=BATCH_SIZE, augment=_steps(name), cache="ram", engine=engine)
    spent, num_images, epochs = 0.0, 0, 0
    while spent < MIN_CPU_S:
        begun = time.process_time()
        seen = sum(len(batch.images) for batch in loader)
        if epochs > 1:
            spent, num_images = spent + time.process_time() - begun, num_images + seen
        epochs += 1
    return 1e6 * spent / num_images


def child(tree: Path, *job: str) -> float:
    """Measure in a process of its own, with the code of a checkout."""
    command = [sys.executable, "-W", "ignore", __file__, "child", *job]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tree)}, cwd=tree, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{tree} {job} failed:\n{done.stderr.decode()[-2000:]}")
    return float(done.stdout.split()[-1])


def built(photos: Path, out: str) -> str:
    """A build of raw pixels, 200x200."""
    from facepack.builder import Place, build
    from facepack.configuration import Configuration

    configuration = Configuration.of("utkface", limit=NUM_IMAGES, split="100/0/0", encoding="raw", size="200")
    build(configuration, place=Place(str(photos), out, workers=0))
    return out


def measure(trees: dict[str, Path], photos: Path, *, repeats: int) -> Raw:
    """Everything, as the JSON is to hold it."""
    results: Raw = figures.about(num_cores=len(os.sched_getaffinity(0))) | {"others_cores": [], "us": []}
    with tempfile.TemporaryDirectory() as folder:
        build = built(photos, f"{folder}/build")
        for _ in range(repeats):
            results["others_cores"].append(figures.others_at_work(num_cores=results["hardware"]["cores"]))
            results["us"].append(
                {tree: {name: child(path, build, name) for name in LISTS} for tree, path in trees.items()}
            )
            print(results["us"][-1], flush=True)
    return results


def all_figures(results: Raw) -> list[Figure]:
    """Every line of the table."""
    found = []
    for tree in results["us"][0]:
        for name, (label, goal) in LISTS.items():
            below: Callable[[Raw], float] = (lambda us: us["crop"]) if name in ("jitter", "hue") else lambda _: 0.0
            values = tuple(repeat[tree][name] - below(repeat[tree]) for repeat in results["us"])
            is_ours = tree == "now"
            met = bool(statistics.median(values) <= goal) if is_ours else None
            found.append(Figure(tree, label, "us", values, "", f"at most {goal} us" if is_ours else "", met))
    return found


def main() -> None:
    """Measure, write, and print where; or be a child."""
    if sys.argv[1:2] == ["child"]:
        print(measured(*sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="UTKFace's folder")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    trees = {"now": Path(__file__).parents[1]} | ({"before": chosen.before.resolve()} if chosen.before else {})
    results = measure(trees, chosen.photos, repeats=chosen.repeats)
    (chosen.out / "augment_cpu.json").write_text(json.dumps(results, indent=1) + "\n")
    headline = figures.headline(
        results, command="python benchmarks/augment_cpu.py", others_cores=results["others_cores"]
    )
    lines = ["# CPU time of augmentation", "", headline, "", "Per image of 200x200 pixels; median (least to most)."]
    (chosen.out / "augment_cpu.md").write_text("\n".join([*lines, *figures.tables(all_figures(results))]) + "\n")
    print(chosen.out / "augment_cpu.md")


if __name__ == "__main__":
    main()
