"""Measure how many labels that were flipped `facepack doubt` points at, against the labels of the greatest loss.

    python benchmarks/suspects.py --celeba data/celeba --simpsons data/simpsons --work work --seeds 0 1 2

writes benchmarks/results/suspects.json, and from it suspects.md; half an hour a seed on two cores. Each case writes a
label file of which 5 % of the labels are flipped, builds it with `--labels`, and doubts all labels by folds; what is
in `--work` already is not made again.
"""

import argparse
import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from figures import Raw
from sklearn.metrics import average_precision_score

from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.found_labels import Named
from facepack.open_rows import OwnTable
from trainer import doubting, recipes
from trainer.doubts import held_out, scored
from trainer.doubts.photos import Photos

SHARE = 0.05
RAREST = ("Bald", "Mustache", "Gray_Hair", "Pale_Skin")
ATTRIBUTES = ("Male", "Smiling")
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Case:
    """What is flipped, how it is built, and what is trained on it."""

    size: str
    recipe: str
    settings: tuple[str, ...]
    num_folds: int


NETWORK = "network=small_resnet(widths=(16, 32, 64, 128), stem_stride=2, places=4, dropout=0.2)"
FAST = (NETWORK, "batch_size=64", "precision=32-true", "average=0.9", "mixup=0")
CASES = {
    "celeba_rarest4": Case("48", "celeba_rarest4_modern", (*FAST, "batch_size=32", "epochs=14"), 5),
    "simpsons": Case("keep", "simpsons_modern", (*FAST, "epochs=5"), 4),
    "celeba_attributes": Case("32x40", "celeba_attributes_modern", (*FAST, "epochs=3"), 2),
}
"""Small networks that learn in a minute."""

Row = dict[str, Any]
"""A row of a label file: image, identity where there is one, and labels."""


# Labels


def celeba_rows(source: Path) -> Iterator[tuple[str, dict[str, bool], str]]:
    """Name, attributes and person of each photo that is there."""
    lines = (source / "list_attr_celeba.txt").read_text().splitlines()
    names = lines[1].split()
    people = dict(line.split() for line in (source / "identity_CelebA.txt").read_text().splitlines() if line.strip())
    there = {path.name for path in (source / "img_align_celeba").iterdir()}
    for words in map(str.split, lines[2:]):
        if words and words[0] in there:
            yield words[0], dict(zip(names, (int(value) > 0 for value in words[1:]), strict=True)), people[words[0]]


def true_rows(case: str, source: Path) -> list[Row]:
    """The label file as it is published."""
    if case == "simpsons":
        paths = sorted((source / "simpsons_dataset").rglob("*.jpg"))
        return [{"image": f"{path.parent.name}/{path.name}", "class": path.parent.name} for path in paths]
    rows: list[Row] = []
    for name, attributes, person in celeba_rows(source):
        common: Row = {"image": name, "identity": person}
        if case == "celeba_attributes":
            rows.append(common | {attribute: int(attributes[attribute]) for attribute in ATTRIBUTES})
        elif classes := [attribute for attribute in RAREST if attributes[attribute]]:
            rows.append(common | {"class": classes[0]})
    return rows


def flipped(rows: list[Row], *, seed: int) -> list[Row]:
    """The same rows, 5 % of each label changed: to another class at random, or to the other value."""
    random, changed = np.random.default_rng(seed), [dict(row) for row in rows]
    columns = [name for name in rows[0] if name not in ("image", "identity")]
    for column in columns:
        values = sorted({row[column] for row in rows})
        for number in random.choice(len(rows), round(SHARE * len(rows)), replace=False):
            others = [value for value in values if value != rows[number][column]]
            changed[number][column] = others[random.integers(len(others))]
    return changed


# A case


def measure(case: str, *, source: Path, folder: Path, seed: int, only_finished: bool) -> list[Raw]:
    """A figure per label that was flipped: precision and recall of what looks wrong, and of the greatest losses."""
    chosen, rows = CASES[case], true_rows(case, source)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flipped(rows, seed=seed))
    photos = source / ("simpsons_dataset" if case == "simpsons" else "img_align_celeba")
    own = OwnTable(str(folder / "labels.csv"), Named())
    configuration = Configuration.of("folder", size=chosen.size)
    build(configuration, place=Place(str(photos), str(folder / "build"), workers=0, labels=own))
    recipe = recipes.load(chosen.recipe, [*chosen.settings, f"seed={seed}"])
    by_fold = held_out.by_fold(recipe, num_folds=chosen.num_folds)
    if not only_finished:
        doubting.by_folds(chosen.recipe, by_fold, data=str(folder / "build"), out=folder / "doubts")
    predictions = held_out.of_folds([path.parent for path in sorted((folder / "doubts").glob("fold-*/scores.json"))])
    doubts = scored.doubts_of(predictions)
    table = doubts.with_sources(Photos(predictions.run).sources(doubts.table["row"].to_numpy())).table
    true = {row["image"]: row for row in rows}
    return [
        figure_of(table.filter(pc.equal(table["label"], name)), true, case=case, seed=seed)
        for name in table["label"].unique().to_pylist()
    ]


def figure_of(table: pa.Table, true: dict[str, Row], *, case: str, seed: int) -> Raw:
    """The figures of one label, class or attribute."""
    label = table["label"][0].as_py()
    words = table["given"].to_pylist()
    given = words if label == "class" else [int(word == label) for word in words]
    is_wrong = np.array(
        [true[source][label] != value for source, value in zip(table["source"].to_pylist(), given, strict=True)]
    )
    is_doubtful = table["is_doubtful"].to_numpy(zero_copy_only=False)
    doubt, loss = table["doubt"].to_numpy(), -table["given_probability"].to_numpy()
    num = int(is_doubtful.sum())
    by_loss = np.argsort(-loss, kind="stable")[:num]
    right = table["given_probability"].to_numpy() > table["likely_probability"].to_numpy()
    return {
        "case": case,
        "label": label,
        "seed": seed,
        "photos": len(table),
        "flipped": int(is_wrong.sum()),
        "accuracy": float((right ^ is_wrong)[~is_wrong].mean()),
        "doubtful": num,
        **scores("", is_wrong, np.flatnonzero(is_doubtful)),
        **scores("loss_", is_wrong, by_loss),
        "average_precision": float(average_precision_score(is_wrong, doubt)),
        "loss_average_precision": float(average_precision_score(is_wrong, loss)),
    }


def scores(prefix: str, is_wrong: npt.NDArray[np.bool_], chosen: npt.NDArray[np.int64]) -> Raw:
    """Precision and recall of chosen labels."""
    num_right = int(is_wrong[chosen].sum())
    return {
        f"{prefix}precision": num_right / max(len(chosen), 1),
        f"{prefix}recall": num_right / max(int(is_wrong.sum()), 1),
    }


# Results


def markdown(results: Raw) -> str:
    """The table."""
    hardware = results["hardware"]
    lines = [
        "# Flipped labels that look wrong",
        "",
        f"Made by `{results['command']}` on {results['date']}: {hardware['cpu']}, {hardware['cores']} cores. "
        "Accuracy is that of the networks, each on its held-out fold, for labels that were not flipped.",
        "",
        "| labels | seed | photos | flipped | accuracy | look wrong | precision | recall | as many by loss: precision "
        "| recall | average precision | by loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for figure in results["figures"]:
        name = figure["case"] + ("" if figure["label"] == "class" else f", {figure['label']}")
        counts = " | ".join(f"{figure[key]:,}" for key in ("photos", "flipped"))
        shares = " | ".join(
            f"{figure[key]:.3f}"
            for key in (
                "precision",
                "recall",
                "loss_precision",
                "loss_recall",
                "average_precision",
                "loss_average_precision",
            )
        )
        lines.append(
            f"| {name} | {figure['seed']} | {counts} | {figure['accuracy']:.3f} | {figure['doubtful']:,} | {shares} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cases whose data is given, write and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--celeba", type=Path, help="folder with the label files and img_align_celeba")
    parser.add_argument("--simpsons", type=Path, help="folder with simpsons_dataset")
    parser.add_argument("--work", type=Path, required=True, help="folder for builds and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only-finished", action="store_true", help="train nothing; score the folds that are there")
    given = parser.parse_args()
    sources = {case: given.simpsons if case == "simpsons" else given.celeba for case in given.cases}
    measured = []
    for seed in given.seeds:
        for case, source in sources.items():
            if source is not None:
                folder = given.work / f"{case}-{seed}"
                measured += measure(case, source=source, folder=folder, seed=seed, only_finished=given.only_finished)
                print(json.dumps(measured[-1]), flush=True)
    command = "python benchmarks/suspects.py --celeba data/celeba --simpsons data/simpsons --work work"
    command += " --only-finished" * given.only_finished
    results = figures.about(num_cores=len(os.sched_getaffinity(0))) | {"command": command, "figures": measured}
    RESULTS.joinpath("suspects.json").write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.joinpath("suspects.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
