"""The figures of a preview page: images per split, class, attribute and age, and people in several splits."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import SPLITS, Description
from facepack.manifest import people_in_several_splits
from facepack.preview_model import MAX_CLASSES, THERE, Bar, Chart, Leaks, PreviewInput

_MAX_BARS, _MAX_LEAKING = 80, 8
_AGE_BIN_YEARS = 5


def images_per_split(good: pa.Table, class_names: list[str]) -> dict[str, dict[str, int]]:
    """Images per class and split; the sum over all classes last, under ""."""
    rows = good.group_by(["class", "split"]).aggregate([([], "count_all")]).to_pylist()
    pairs = Counter({(row["class"], row["split"]): row["count_all"] for row in rows})
    of_class = {name: {f"{split}": pairs[name, split] for split in SPLITS} for name in class_names[:MAX_CLASSES]}
    total = counted(good["split"])
    return of_class | {"": {f"{split}": total[split] for split in SPLITS}}


def charts(data: PreviewInput) -> Iterator[Chart]:
    """Classes, attributes, categories, the rarest first: of a build what is packed, of a dataset what is labelled."""
    table, is_good = data.table, pc.equal(data.table["status"], data.good)
    if data.class_names:
        yield Chart("Images per class", "Classes", _counted(table["class"], is_good, data.good))
    bars = []
    for name in data.description.labels_of("attribute"):
        if name in table.column_names:
            positive = pc.equal(table[name], 1)
            num_good = pc.sum(pc.and_(positive, is_good)).as_py() or 0
            bars.append(_bar(name, (pc.sum(positive).as_py() or 0, num_good), data.good))
    if bars:
        yield Chart("Images per attribute", "Attributes", _ascending(bars))
    for name in data.description.labels_of("category"):
        if name in table.column_names:
            yield Chart(f"Images per {name}", name.capitalize(), _counted(table[name], is_good, data.good))


def _bar(name: str, numbers: tuple[int, int], status: str) -> Bar:
    """A bar of all rows with a label, and of those that count."""
    num_rows, num_good = numbers
    if status == THERE:
        return Bar(name, num_rows, f"{num_good:,} there" if num_good < num_rows else "")
    return Bar(name, num_good, f"of {num_rows:,}" if num_good < num_rows else "")


def _counted(column: pa.ChunkedArray, is_good: Any, status: str) -> list[Bar]:
    rows, good = counted(column), counted(column.filter(is_good))
    return _ascending([_bar(str(name), (rows[name], good[name]), status) for name in rows if name is not None])


def counted(column: pa.ChunkedArray) -> Counter[Any]:
    """How often each value is there."""
    return Counter({row["values"]: row["counts"] for row in column.value_counts().to_pylist()})


def _ascending(bars: list[Bar]) -> list[Bar]:
    """The rarest first; of very many, both ends."""
    ordered = sorted(bars, key=lambda bar: (bar.number, bar.name))
    if len(ordered) <= _MAX_BARS:
        return ordered
    half = _MAX_BARS // 2
    between = [bar.number for bar in ordered[half:-half]]
    return [*ordered[:half], Bar("...", between[len(between) // 2], f"and {len(between):,} more"), *ordered[-half:]]


def age_charts(good: pa.Table, description: Description) -> list[Chart]:
    """A histogram of each column of ages, in bins of five years."""
    return [_ages(name, good[name]) for name in description.labels_of("age") if name in good.column_names]


def _ages(name: str, column: pa.ChunkedArray) -> Chart:
    ages = column.drop_null().to_numpy()
    numbers, counts = np.unique((ages // _AGE_BIN_YEARS).astype(int), return_counts=True)
    bins = Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    bars = [
        Bar(f"{number * _AGE_BIN_YEARS}-{(number + 1) * _AGE_BIN_YEARS - 1}", bins[number])
        for number in range(min(bins, default=0), max(bins, default=-1) + 1)
    ]
    mean = f", mean {ages.mean():.1f} years" if len(ages) else ""
    return Chart(f"{name.replace('_', ' ').capitalize()}{mean}", "Age in years", bars)


def leaks(good: pa.Table, description: Description) -> Iterator[Leaks]:
    """People whose images are in more than one split."""
    for column in description.labels_of("identity"):
        if column not in good.column_names or not len(good[column].drop_null()):
            continue
        shared: dict[int, Counter[str]] = defaultdict(Counter)
        for row in people_in_several_splits(good, column).to_pylist():
            shared[row[column]][row["split"]] = row["count"]
        num_people = len(good[column].drop_null().unique())
        pairs = [
            (f"{first} and {second}", sum(1 for splits in shared.values() if splits[first] and splits[second]))
            for first, second in (("train", "valid"), ("train", "test"), ("valid", "test"))
        ]
        largest = sorted(shared.items(), key=lambda item: (-item[1].total(), item[0]))[:_MAX_LEAKING]
        examples = [(f"{person}", {f"{split}": splits[split] for split in SPLITS}) for person, splits in largest]
        yield Leaks(column, len(shared), num_people, pairs, examples)
