"""Measure training steps fed by the loader against the same steps on one batch in memory, and fed by ImageFolder.

    python benchmarks/fit.py --celeba data/celeba --simpsons data/simpsons --utkface data/utkface \\
        --appa-real data/appa_real --cacd data/cacd

writes benchmarks/results/fit.json, and from it fit.md and fit.png; thirty minutes on two cores. Each recipe runs
epochs that take turns: its steps fed by facepack, fed one resident batch again and again, and fed by torchvision's
ImageFolder and a DataLoader with a worker per core, from the same JPEGs with the same augmentation.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pyarrow.parquet as pq
import torch
from figures import Figure, Raw

from facepack.builder import Place, build
from facepack.configuration import Configuration
from trainer import memory, recipes
from trainer.data import Data, Placement
from trainer.headspace import Steps
from trainer.loader import Batch
from trainer.loading.augment import Normalize
from trainer.recipe import Recipe

NUM_CORES = len(os.sched_getaffinity(0))
LIBRARIES = ("facepack", "torch", "torchvision", "nvidia-dali-cuda120", "numpy")
GOAL = 1.03
WAYS = ("resident", "facepack", "ImageFolder")
CASES = {
    "celeba_rarest4": ("celeba", {"classes": "rarest4", "size": "64", "split": "90/5/5"}),
    "simpsons_cnn": ("simpsons", {"size": "64", "limit": 3000}),
    "simpsons_modern": ("simpsons", {"size": "32"}),
    "celeba_attributes": ("celeba", {"size": "192", "limit": 2000, "split": "90/5/5"}),
    "celeba_attributes_modern": ("celeba", {"size": "96x112", "limit": 60000, "split": "90/5/5"}),
    "age_groups": (
        "utkface",
        {"age_bins": "1-4,5-27,28-", "limit_per_class": 200, "split": "index:60/20/20", "size": "160"},
    ),
    "appa_real_age": ("appa_real", {"images": "face", "size": "120", "limit": 900}),
    "cacd_age": ("cacd", {"align": "crop", "size": "120", "split": "72/8/20", "limit": 1000}),
}
"""Recipe: dataset, and how it is built here."""


# One recipe


def measure_case(name: str, *, source: Path, folder: Path, repeats: int) -> Raw:
    """Seconds per epoch of all ways, and the first epoch of the loader, which decodes."""
    dataset, choices = CASES[name]
    configuration = Configuration.of(dataset, **choices)  # type: ignore[arg-type]
    build(configuration, place=Place(str(source), str(folder / "build"), workers=0))
    recipe = recipes.load(name)
    data = Data(recipe, str(folder / "build"), placement=Placement(torch.device("cpu")))
    loader = data.loader("train", is_train=True)
    target = recipe.task.target
    steps = Steps(recipe, names=loader.targets[target].names, size_hw=loader.size_hw)
    batches: list[Batch] = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == 2:
            break
    resident = (batches[0].images.clone(), batches[0].targets[target].clone())
    steps.epoch([resident] * 5)  # so that the first epoch is no slower for what is set up
    loader.load_state_dict(loader.state_dict() | {"consumed": 0})

    def ours() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((batch.images, batch.targets[target]) for batch in loader)

    ways: dict[str, Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]] = {
        "resident": lambda: [resident] * len(loader),
        "facepack": ours,
        "ImageFolder": image_folder(data, recipe, folder / "images", targets=resident[1]),
    }
    first_s = steps.epoch(ours())
    steps.epoch(ways["ImageFolder"]())  # starts its workers
    found: list[dict[str, float]] = []
    others: list[float] = []
    for _ in range(repeats):
        others.append(figures.others_at_work(num_cores=NUM_CORES))
        found.append({way: steps.epoch(make()) for way, make in ways.items()})
    return {"num": loader.num_samples, "first_s": first_s, "epochs": found, "others_cores": others}


def image_folder(
    data: Data, recipe: Recipe, folder: Path, *, targets: torch.Tensor
) -> Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]:
    """The images of the train split as files, through torchvision, with `targets` again and again."""
    from torch.utils.data import ConcatDataset, DataLoader
    from torchvision import datasets
    from torchvision.transforms import v2

    table = pq.read_table(Path(data.location) / "manifest.parquet").to_pylist()
    rows = [row for row in table if row["split"] == "train" and row["status"] == "packed"]
    for row in rows:
        path = folder / (row["class"] or "all") / f"{row['key']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with (Path(data.location) / row["shard"]).open("rb") as file:
            file.seek(row["offset"])
            path.write_bytes(file.read(row["size"]))
    steps: list[Any] = []
    for one in data.statistics.filled(recipe.augment):
        named = {field.name: getattr(one, field.name) for field in fields(one)}  # type: ignore[arg-type]
        if isinstance(one, Normalize):
            steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        if named.get("size", 0) is None:
            named["size"] = rows[0]["height"], rows[0]["width"]
        steps.append(getattr(v2, type(one).__name__)(**named))
    images = datasets.ImageFolder(str(folder), transform=v2.Compose(steps))
    workers: dict[str, Any] = {"num_workers": NUM_CORES, "persistent_workers": True}
    loader: Any = DataLoader(
        ConcatDataset([images] * recipe.copies), batch_size=recipe.batch_size, shuffle=True, **workers
    )

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((pixels, targets[: len(pixels)]) for pixels, _ in loader)

    return batches


# All of them


def measure(sources: dict[str, Path], *, names: list[str], repeats: int) -> Raw:
    """All recipes."""
    results: Raw = figures.about(num_cores=NUM_CORES)
    results["versions"] = {name: version(name) for name in LIBRARIES}
    results["cases"] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            source = sources[CASES[name][0]]
            with memory.keep_freed_memory(torch.device("cpu")):  # as `facepack train` does
                results["cases"][name] = measure_case(name, source=source, folder=Path(folder), repeats=repeats)
            print(name, results["cases"][name], flush=True)
    return results


def all_figures(results: Raw) -> list[Figure]:
    """Every line of the tables."""
    found = []
    for name, case in results["cases"].items():
        epochs = case["epochs"]
        for way in WAYS:
            rates = tuple(case["num"] / epoch[way] for epoch in epochs)
            label = "one batch, again and again" if way == "resident" else way
            found.append(Figure(name, label, "images/s", rates, ""))
        for way in WAYS[1:]:
            ratios = tuple(epoch[way] / epoch["resident"] for epoch in epochs)
            is_ours = way == "facepack"
            met = bool(statistics.median(ratios) <= GOAL) if is_ours else None
            goal = f"at most {GOAL}" if is_ours else ""
            found.append(Figure(name, f"{way} / one batch, time", "", ratios, "", goal, met))
        share = (case["first_s"] / statistics.median(epoch["resident"] for epoch in epochs),)
        found.append(Figure(name, "facepack's first epoch, which decodes / one batch, time", "", share, ""))
    return found


def markdown(results: Raw) -> str:
    """The tables with what was measured on what."""
    busy = [one for case in results["cases"].values() for one in case["others_cores"]]
    repeats = min(len(case["epochs"]) for case in results["cases"].values())
    lines = [
        "# Fit",
        "",
        figures.headline(results, command="python benchmarks/fit.py", others_cores=busy),
        "",
        f"- versions: {', '.join(f'{name} {number}' for name, number in results['versions'].items())}",
        f"- median of at least {repeats} epochs that take turns (smallest to largest); ratios within each turn.",
        *figures.tables(all_figures(results)),
    ]
    return "\n".join(lines) + "\n"


def plot(results: Raw, file: Path) -> None:
    """Images per second of all ways."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    every = [replace(figure, goal="") for figure in all_figures(results) if figure.unit]
    names = list(results["cases"])
    shape, axes = plt.subplots(len(names), figsize=(11, 1.9 * len(names)), layout="constrained")
    for name, axis in zip(names, np.atleast_1d(axes), strict=True):
        figures.bars(axis, [one for one in every if one.group == name], unit="images/s", limits=("one batch",))
    hardware = results["hardware"]
    shape.suptitle(f"Training: {hardware['cpu']}, {hardware['cores']} cores", fontsize=12)
    shape.savefig(file, dpi=110)
    plt.close(shape)


def main() -> None:
    """Measure, or only write table and plot again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--celeba", type=Path, default=Path("data/celeba"))
    parser.add_argument("--simpsons", type=Path, default=Path("data/simpsons"))
    parser.add_argument("--utkface", type=Path, default=Path("data/utkface"))
    parser.add_argument("--appa-real", type=Path, default=Path("data/appa_real"))
    parser.add_argument("--cacd", type=Path, default=Path("data/cacd"))
    parser.add_argument("--recipe", action="append", choices=CASES, help="measure only this one again; repeatable")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.add_argument("--report-only", action="store_true", help="table and plot from the JSON that is there")
    chosen = parser.parse_args()
    file = chosen.results / "fit.json"
    if not chosen.report_only:
        sources = {dataset: getattr(chosen, dataset).resolve() for dataset, _ in CASES.values()}
        results = measure(sources, names=chosen.recipe or list(CASES), repeats=chosen.repeats)
        if chosen.recipe and file.exists():
            results["cases"] = json.loads(file.read_text())["cases"] | results["cases"]
        chosen.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(file.read_text())
    (chosen.results / "fit.md").write_text(markdown(results))
    plot(results, chosen.results / "fit.png")


if __name__ == "__main__":
    main()
