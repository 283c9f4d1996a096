"""Summary: what a build holds, or would hold, as lines of text."""

from collections.abc import Sequence

import pyarrow.compute as pc

from facepack import descriptors, manifest
from facepack.builder import Outcome
from facepack.describing import Outcome as Described
from facepack.description import SPLITS
from facepack.face_places import FaceStatus
from facepack.manifest import Counts, Status
from facepack.plan import Plan

_MOST_LINES = 60
_NO_CLASSES = "(no classes)"


def outcome_lines(outcome: Outcome) -> list[str]:
    """What a build holds, its bytes, and how fast it was made."""
    build = outcome.build
    lines = _count_lines(build.counts, build.class_names)
    num_bytes = sum(shard.num_bytes for shard in build.shards)
    lines.append(f"{len(build.shards):,} shards, {num_bytes / 1e6:,.1f} MB in {outcome.location}")
    if build.num_padded:
        lines.append(f"{build.num_padded:,} crops reach over the border of their photo and were padded")
    if build.num_squashed:
        lines.append(
            f"{build.num_squashed:,} images are squashed to {build.configuration.size_wh}, their shapes changed "
            "by more than 5 %: --fit crop or --fit pad keeps their shapes"
        )
    if number := manifest.total(build.counts, statuses=[Status.NO_DECODER]):
        lines.append(f"{number:,} images: {Status.NO_DECODER.meaning}")
    if not outcome.other_s:
        return [*lines, "complete already, nothing to do"]
    finished_before = f"; shards finished before: {outcome.num_kept_shards:,}" if outcome.num_kept_shards else ""
    rate = outcome.num_images / max(outcome.packing_s, 1e-9)
    packing = f"{outcome.num_images:,} images in {outcome.packing_s:,.1f} s, {rate:,.0f} images/s"
    return [*lines, f"{packing}, and {outcome.other_s:,.1f} s for all else{finished_before}"]


def described_lines(outcome: Described) -> list[str]:
    """How the faces of a build were found, and how fast they were described."""
    lines = [
        f" {outcome.faces[status]:>9,} {status}: {status.meaning}" for status in FaceStatus if status in outcome.faces
    ]
    if not outcome.num_images:
        return [*lines, f"{outcome.location}: described already, nothing to do"]
    rate = outcome.num_images / max(outcome.seconds, 1e-9)
    before = f"; shards finished before: {outcome.num_kept_shards:,}" if outcome.num_kept_shards else ""
    took = f"{outcome.num_images:,} images in {outcome.seconds:,.1f} s, {rate:,.1f} images/s{before}"
    return [*lines, f"{took}; in {outcome.location}/{descriptors.FILE}"]


def plan_lines(plan: Plan) -> list[str]:
    """What a build would hold: rows per class and split, and how many of their images are there."""
    there = pc.if_else(pc.is_null(plan.table["status"]), "there", plan.table["status"])
    counts = manifest.count(plan.table.set_column(plan.table.column_names.index("status"), "status", there))
    splits = [split for split in SPLITS if split in counts]
    rows = []
    for name in plan.class_names[:_MOST_LINES] or (None,):
        numbers = [manifest.total(counts, split=split, class_name=name) for split in splits]
        present = manifest.total(counts, class_name=name, statuses=["there"])
        rows.append([name or _NO_CLASSES, *_texts(*numbers, sum(numbers), present)])
    table = _aligned(["class", *splits, "rows", "images there"], rows)
    shards = f"{len(plan.table):,} rows in {len(plan.shards):,} shards, split: {plan.split}"
    return [*table, *_more_classes(plan.class_names), shards]


def _count_lines(counts: Counts, class_names: list[str]) -> list[str]:
    """Packed images per class and split, and the rejected ones by reason."""
    splits = [split for split in SPLITS if split in counts]
    rows = []
    names: list[str | None] = [*class_names[:_MOST_LINES], None] if len(class_names) != 1 else [*class_names]
    for name in names:
        packed = [manifest.total(counts, split=split, class_name=name, statuses=[Status.PACKED]) for split in splits]
        rejected = manifest.total(counts, class_name=name) - sum(packed)
        title = name or ("all" if class_names else _NO_CLASSES)
        rows.append([title, *_texts(*packed, sum(packed), rejected)])
    by_status = {status: manifest.total(counts, statuses=[status]) for status in Status}
    rejects = [f"{number:,} {status}" for status, number in by_status.items() if number and status != Status.PACKED]
    table = _aligned(["class", *splits, "packed", "rejected"], rows)
    return [*table, *_more_classes(class_names), f"rejected: {', '.join(rejects) or 'none'}"]


def _texts(*numbers: int) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _more_classes(class_names: Sequence[str]) -> list[str]:
    number = len(class_names) - _MOST_LINES
    return [f"and {number:,} more classes"] if number > 0 else []


def _aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for first, *others in (header, *rows):
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append(f" {'  '.join(cells)}")
    return lines
