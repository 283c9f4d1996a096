"""Summary: the closing table of a build, and the table of a plan."""

from collections.abc import Sequence

import pyarrow.compute as pc
from rich.table import Table

from facepack import manifest, terminal
from facepack.builder import Outcome
from facepack.description import SPLITS
from facepack.manifest import Counts, Status
from facepack.plan import Plan

_MOST_LINES = 60


def _table(*columns: str) -> Table:
    table = Table("class", *columns, box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _say_more(class_names: Sequence[str]) -> None:
    if len(class_names) > _MOST_LINES:
        terminal.out.print(f"and {len(class_names) - _MOST_LINES:,} more classes")


def show_counts(counts: Counts, class_names: list[str]) -> None:
    """Print packed images per class and split, and the rejected ones by reason."""
    splits = [split for split in SPLITS if split in counts]
    table = _table(*splits, "packed", "rejected")
    lines: list[str | None] = [*class_names[:_MOST_LINES], None] if len(class_names) != 1 else [*class_names]
    for name in lines:
        packed = [manifest.total(counts, split=split, class_name=name, statuses=[Status.PACKED]) for split in splits]
        rejected = manifest.total(counts, class_name=name) - sum(packed)
        title = name or ("all" if class_names else "(no classes)")
        style = "bold" if name is None and class_names else ""
        table.add_row(title, *(f"{number:,}" for number in (*packed, sum(packed), rejected)), style=style)
    terminal.out.print(table)
    _say_more(class_names)
    by_status = {status: manifest.total(counts, statuses=[status]) for status in Status}
    rejects = [f"{number:,} {status}" for status, number in by_status.items() if number and status != Status.PACKED]
    terminal.out.print(f"rejected: {', '.join(rejects) or 'none'}")


def show_plan(plan: Plan) -> None:
    """Print what a build would hold: rows per class and split, and how many of their images are there."""
    table = plan.table
    there = pc.if_else(pc.is_null(table["status"]), "there", table["status"])
    counts = manifest.count(table.set_column(table.column_names.index("status"), "status", there))
    splits = [split for split in SPLITS if split in counts]
    shown = _table(*splits, "rows", "images there")
    for name in plan.class_names[:_MOST_LINES] or (None,):
        rows = [manifest.total(counts, split=split, class_name=name) for split in splits]
        present = manifest.total(counts, class_name=name, statuses=["there"])
        shown.add_row(name or "(no classes)", *(f"{number:,}" for number in (*rows, sum(rows), present)))
    terminal.out.print(shown)
    _say_more(plan.class_names)
    terminal.out.print(f"{len(table):,} rows in {len(plan.shards):,} shards, split: {plan.split}")


def show_outcome(outcome: Outcome) -> None:
    """Print what a build holds, its bytes, and how fast it was made."""
    show_counts(outcome.build.counts, outcome.build.class_names)
    num_bytes = sum(shard.num_bytes for shard in outcome.build.shards)
    shards = f"{len(outcome.build.shards):,} shards, {num_bytes / 1e6:,.1f} MB in {outcome.location}"
    terminal.out.print(shards, soft_wrap=True)
    if number := outcome.build.num_padded:
        terminal.out.print(f"{number:,} crops reach over the border of their photo and were padded", soft_wrap=True)
    if not outcome.other_s:
        terminal.out.print("complete already, nothing to do")
        return
    before = f"; shards finished before: {outcome.num_kept_shards:,}" if outcome.num_kept_shards else ""
    rate = outcome.num_images / max(outcome.packing_s, 1e-9)
    packing = f"{outcome.num_images:,} images in {outcome.packing_s:,.1f} s, {rate:,.0f} images/s"
    terminal.out.print(f"{packing}, and {outcome.other_s:,.1f} s for all else{before}", soft_wrap=True)
