"""Across page: the matrix of a recipe across builds as one page, with PNG, CSV and JSON beside it."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from facepack.page import rendered
from facepack.storage import Store
from trainer import plots
from trainer.across import FEWEST, MIXED, Cell, Matrix, Member
from trainer.loading.ranges import Ranges
from trainer.plots import Measured, Panel, Plot
from trainer.seen import Reason

PAGE_FILE, TABLE_FILE, DATA_FILE, PLOT_FILE = "across.html", "across.csv", "across.json", "across.png"


def write(matrix: Matrix, out: Path) -> Path:
    """Write across.html, across.csv, across.json and across.png into a folder; gives the page."""
    plot = _plot(matrix)
    shown: dict[str, Any] = {
        "matrix": matrix,
        "title": out.absolute().name,
        "plot": plot,
        "notes": notes(matrix),
        "reasons": [f"{reason}" for reason in Reason],
        "classes": _classes(matrix),
        "text": text_of,
        "percent": _percent,
        "few": FEWEST,
        "mixed": MIXED,
        "best": {member.name: matrix.best(member.name) for member in matrix.plan.members},
        "reports": dict(zip(matrix.plan.rows, (run.name for run in matrix.plan.runs), strict=True)),
    }
    store = Store(str(out))
    content = rendered(Path(__file__).with_name("across.html"), **shown)
    store.write(PAGE_FILE, content.encode("utf-8", "backslashreplace"))
    store.write(TABLE_FILE, _csv(matrix))
    store.write(DATA_FILE, _json(matrix))
    if plot is not None:
        store.write(PLOT_FILE, plot.png)
    return out / PAGE_FILE


def text_of(value: float, score: str) -> str:
    """A score for people: a share as a percentage, an error with two decimal places."""
    return _percent(value) if score == "accuracy" else f"{value:.2f}"


def table(matrix: Matrix) -> Any:
    """The matrix for a terminal: a table of rich."""
    from rich import box
    from rich.table import Table

    score = matrix.score.replace("_", " ") + (" %" if matrix.score == "accuracy" else "")
    shown = Table(box=box.SIMPLE_HEAD, caption=f"{score} (95 %), photos", caption_justify="left")
    shown.add_column("trained on")
    for member in matrix.plan.members:
        shown.add_column(f"on {member.name}", justify="right", overflow="fold")
    for row in matrix.plan.rows:
        cells = [matrix.cell(row, member.name) for member in matrix.plan.members]
        shown.add_row(row, *(_cell_text(cell, matrix.score) for cell in cells))
    return shown


def _cell_text(cell: Cell, score: str) -> str:
    if cell.score is None or cell.interval is None:
        return "none" if cell.num_all else "failed"
    low, high = (text_of(bound, score) for bound in cell.interval)
    own = " own" if cell.is_own else ""
    return f"{text_of(cell.score, score)}{own}\n{low} to {high}, {cell.num:,}"


def lines(matrix: Matrix) -> list[str]:
    """What a terminal says below the table: what was left out, pair by pair, and what else to know."""
    listed = []
    for member in matrix.plan.members:
        counts, num = matrix.left_out[member.name], member.photos.num
        if counts:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
            pairs = [each for each in matrix.overlaps if each.tested_on == member.name and each.num_seen]
            shared = "; ".join(f"{each.num_seen:,} with what {each.trained_on} trains on" for each in pairs)
            listed.append(f"{member.name}: {sum(counts.values()):,} of {num:,} photos left out ({reasons}): {shared}")
    return [*listed, *notes(matrix)]


def notes(matrix: Matrix) -> list[str]:
    """What a reader should know."""
    return [
        *matrix.plan.notes,
        *_floor_notes(matrix),
        *_class_notes(matrix),
        *_look_notes(matrix),
        *_people_notes(matrix),
    ]


def _floor_notes(matrix: Matrix) -> Iterator[str]:
    """The error that remains against the middles of age groups where every age is right."""
    buckets = matrix.plan.buckets
    if buckets is None:
        return
    ranges = Ranges(buckets.names, buckets.bounds)
    for member in matrix.plan.members:
        if ":" not in member.target:
            ages = member.truth(member.split).values
            codes = buckets.codes(ages)
            off = np.abs(ages - ranges.middles[codes])[codes >= 0]
            if len(off):
                yield (
                    f"Against the middle of its age group the true age itself is {off.mean():.2f} years off on "
                    f"{member.name}, so errors on age groups cannot come down to 0; the share in the right age group "
                    "is the figure that all builds have alike. A predicted age is rounded to whole years for it."
                )
                return


def _class_notes(matrix: Matrix) -> Iterator[str]:
    for cell in matrix.cells:
        if cell.unknown:
            counts = ", ".join(f"{number:,} of {name}" for name, number in cell.unknown.items())
            yield f"Trained on {cell.trained_on}, tested on {cell.tested_on}: left out {counts}, which it never learnt."


def _look_notes(matrix: Matrix) -> Iterator[str]:
    unhashed = [member.name for member in matrix.plan.members if not member.photos.are_hashed]
    if unhashed:
        yield f"There are no perceptual hashes in {_listed(unhashed)}: only the same files are left out."


def _people_notes(matrix: Matrix) -> Iterator[str]:
    unnamed = [member.name for member in matrix.plan.members if not member.photos.people.drop_null()]
    if unnamed:
        yield f"No people are named in {_listed(unnamed)}: one person may be in training and in a test."


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)


def _plot(matrix: Matrix) -> Plot | None:
    """Every figure with its interval, a panel per build that is tested on."""
    panels, scale = [], 100.0 if matrix.score == "accuracy" else 1.0
    for member in matrix.plan.members:
        cells = [cell for cell in matrix.cells if cell.tested_on == member.name]
        rows = [_measured(cell, scale) for cell in cells if cell.score is not None]
        baselines = [cell.baseline for cell in cells if cell.baseline is not None]
        if rows:
            panels.append(Panel(f"tested on {member.name}", rows, scale * baselines[0]))
    if not panels:
        return None
    what = matrix.score.replace("_", " ") + (" %" if scale > 1 else "")
    return plots.intervals("across", "Each figure with its 95 % interval", panels, what=what)


def _measured(cell: Cell, scale: float) -> Measured:
    low, high = cell.interval or (0.0, 0.0)
    return Measured(cell.trained_on, scale * (cell.score or 0.0), (scale * low, scale * high), cell.is_own)


def _classes(matrix: Matrix) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Photos per class in train and in the tested split, by build; nothing where a number is learnt."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for member in matrix.plan.members:
        by_split = [_class_counts(member, split) for split in ("train", member.split)]
        for name in dict.fromkeys([*by_split[0], *by_split[1]]):
            counts.setdefault(name, {})[member.name] = (by_split[0].get(name, 0), by_split[1].get(name, 0))
    return list(counts.items())


def _class_counts(member: Member, split: str) -> dict[str, int]:
    if not len(member.opened.rows(split)):
        return {}
    truth = member.truth(split)
    if not truth.names or truth.values.ndim > 1:
        return {}
    return dict(zip(truth.names, np.bincount(truth.values, minlength=len(truth.names)).tolist(), strict=True))


def _csv(matrix: Matrix) -> bytes:
    """A row per cell."""
    rows = []
    for cell in matrix.cells:
        low, high = cell.interval or (None, None)
        row: dict[str, Any] = {"trained_on": cell.trained_on, "tested_on": cell.tested_on, "images": cell.num}
        row |= {matrix.score: cell.score, f"{matrix.score}_low": low, f"{matrix.score}_high": high}
        row |= {
            "baseline": cell.baseline,
            "images_with_seen": cell.num_all,
            f"{matrix.score}_with_seen": cell.score_all,
        }
        if matrix.plan.buckets:
            share = cell.in_group
            bounds = share.interval if share else (None, None)
            row |= {"in_age_group": share.value if share else None}
            row |= {"in_age_group_low": bounds[0], "in_age_group_high": bounds[1]}
        rows.append(row | {"unknown_classes": sum(cell.unknown.values()), "problem": cell.problem})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(matrix: Matrix) -> bytes:
    plan = matrix.plan
    builds = [
        {
            "name": member.name,
            "location": member.location,
            "dataset": member.opened.build.dataset,
            "digest": member.opened.build.digest,
            "split": member.split,
            "target": member.target,
        }
        for member in plan.members
    ]
    content = {
        "recipe": plan.recipe.to_dict(),
        "score": matrix.score,
        "builds": builds,
        "cells": [asdict(cell) for cell in matrix.cells],
        "in_common": [asdict(overlap) for overlap in matrix.overlaps],
        "left_out": matrix.left_out,
        "notes": notes(matrix),
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
