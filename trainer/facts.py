"""Facts: what a recipe that suits any build goes by, read from the manifests of the builds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.bins import Bins
from facepack.description import SPLITS, Split
from facepack.errors import UsageError, nearest
from facepack.manifest import Build, Status
from facepack.storage import Store
from trainer import weights
from trainer.loading.ranges import Ranges
from trainer.loading.targets import ATTRIBUTES, CLASS, MIDDLE
from trainer.pretraining import Pretraining, pretraining_of

Counts = Mapping[str, int]
"""Images by split."""
Kind = Literal["classes", "attributes", "number"]

_MOST_CATEGORIES, _FEWEST_OF_CATEGORY = 1000, 5
"""Texts of more values, or of fewer images a value, name people or files."""
_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Target:
    """What there is of a target in the packed images of the builds."""

    name: str
    kind: Kind
    names: tuple[str, ...] = ()
    """The classes or attributes."""
    counts: Mapping[str, Counts] = field(default_factory=dict)
    """Images of each class, or with each attribute, by split."""
    missing: Counts = field(default_factory=dict)
    """Images without a value, by split, where there are any."""
    missing_examples: tuple[str, ...] = ()
    """The sources of the first of them."""
    low: float = 0.0
    """The least number in train, as `high`, `mean` and `std` are of train."""
    high: float = 0.0
    mean: float = 0.0
    std: float = 0.0

    def num(self, name: str, split: str) -> int:
        """Images of a class, or with an attribute, in a split."""
        return self.counts[name].get(split, 0)


@dataclass(frozen=True)
class Asked:
    """What of a recipe was asked for, and so is not chosen; empty text and 0 for all else."""

    target: str = ""
    network: str = ""
    weights: str = ""
    freeze: str = "none"
    batch_size: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Facts:
    """The packed images of one build, or of several that are mixed, and what was asked for."""

    table: pa.Table
    """The rows of the manifests."""
    class_names: tuple[str, ...]
    asked: Asked = field(default_factory=Asked)
    pretraining: Pretraining | None = None
    """What the weights that were asked for expect; None for random and unknown ones."""

    def asking(self, asked: Asked) -> "Facts":
        """With what was asked for; a finished run as weights brings its network along."""
        run = weights.run_of(asked.weights)
        if run is not None and not asked.network:
            asked = replace(asked, network=run.recipe.network)
        known = (
            pretraining_of(asked.network, asked.weights) if asked.network and asked.weights and run is None else None
        )
        return replace(self, asked=asked, pretraining=known)

    @cached_property
    def num(self) -> Counts:
        """Packed images by split."""
        counts = {split: int(self._is_in(split).sum()) for split in SPLITS}
        return {split: count for split, count in counts.items() if count}

    @cached_property
    def sizes_hw(self) -> npt.NDArray[np.int64]:
        """The different heights and widths of images, int64 (num, 2)."""
        heights, widths = (self.column(name).cast(pa.int64()).to_numpy() for name in ("height", "width"))
        both = np.sort(pc.unique(pa.array(heights << 32 | widths)).to_numpy())
        return np.stack([both >> 32, both & 0xFFFFFFFF], axis=1)

    @property
    def attributes(self) -> list[str]:
        """Label columns that hold attributes."""
        return [name for name in self._labels if self.table.schema.field(name).type == pa.int8()]

    @property
    def numbers(self) -> list[str]:
        """Label columns that hold numbers, ages first."""
        names = [name for name in self._labels if pa.types.is_floating(self.table.schema.field(name).type)]
        return sorted(names, key=lambda name: "age" not in name.split("_"))

    @cached_property
    def categories(self) -> list[str]:
        """Label columns of few texts, each on several images."""
        names = [name for name in self._labels if _is_text(self.table.schema.field(name).type)]
        return [name for name in names if self._is_category(name)]

    def target(self, name: str) -> Target:
        """What there is of a target, as `trainer.loading.targets` names it; `UsageError` where there is none of it.

        Of FIRST|SECOND each image has the first that its build has.
        """
        known = [*([CLASS] if self.class_names else []), *([ATTRIBUTES] if self.attributes else []), *self._labels]
        choices = [choice for choice in name.split("|") if choice.partition(":")[0] in known]
        if not choices:
            column_name = name.partition(":")[0]
            raise UsageError(f"target {name}: the build has no such column; {nearest(column_name, known)}")
        if name == ATTRIBUTES:
            return self._attributes()
        columns = [self._read(choice) for choice in choices]
        column = pc.coalesce(*(values for values, _ in columns))
        names = columns[0][1]
        return self._number(name, column) if names is None else self._classes(name, column, names=names)

    def _read(self, name: str) -> tuple[pa.ChunkedArray, tuple[str, ...] | None]:
        """The values of a target, and the names that they are of; None for numbers."""
        column_name, colon, bins = name.partition(":")
        column = self.column(column_name)
        if colon and _is_text(column.type):
            return _of_ranges(column, name=name)
        if colon:
            return _binned(column, bins, name=name), Bins.of(bins, field=name).names
        if name == CLASS:
            return column, self.class_names
        if _is_text(column.type):
            return column, tuple(sorted(column.unique().drop_null().to_pylist()))
        return column, None

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the packed images; texts as such, not as dictionaries."""
        column = self.table[name].filter(self._is_packed)
        return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column

    @property
    def _labels(self) -> list[str]:
        return manifest.label_columns(self.table)

    @cached_property
    def _is_packed(self) -> pa.ChunkedArray:
        return pc.equal(self.table["status"], Status.PACKED)

    @cached_property
    def _splits(self) -> npt.NDArray[np.int64]:
        """The place of each packed image's split among `SPLITS`."""
        places = pc.index_in(self.column("split"), value_set=pa.array(SPLITS))
        numbers: npt.NDArray[np.int64] = places.to_numpy().astype(np.int64)
        return numbers

    def _is_in(self, split: Split) -> npt.NDArray[np.bool_]:
        is_in: npt.NDArray[np.bool_] = self._splits == SPLITS.index(split)
        return is_in

    def _is_category(self, name: str) -> bool:
        column = self.column(name)
        num = len(column.unique().drop_null())
        return bool(2 <= num <= min(_MOST_CATEGORIES, (len(column) - column.null_count) // _FEWEST_OF_CATEGORY))

    def _classes(self, name: str, column: pa.ChunkedArray, *, names: tuple[str, ...]) -> Target:
        table = pa.table({"name": column, "split": self.column("split")})
        rows = table.group_by(["name", "split"]).aggregate([([], "count_all")]).to_pylist()
        counts: dict[str, dict[str, int]] = {each: {} for each in names}
        for row in rows:
            if row["name"] in counts:
                counts[row["name"]][row["split"]] = row["count_all"]
        return Target(name, "classes", names, counts, **self._missing(pc.is_in(column, value_set=pa.array(names))))

    def _attributes(self) -> Target:
        names = tuple(self.attributes)
        counts: dict[str, dict[str, int]] = {}
        is_known = np.ones(len(self._splits), bool)
        for name in names:
            column = self.column(name)
            is_known &= pc.is_valid(column).to_numpy()
            has_it = pc.fill_null(column, 0).to_numpy() > 0
            nums = np.bincount(self._splits[has_it], minlength=len(SPLITS)).tolist()
            counts[name] = {str(split): num for split, num in zip(SPLITS, nums, strict=True) if num}
        return Target(ATTRIBUTES, "attributes", names, counts, **self._missing(pa.chunked_array([pa.array(is_known)])))

    def _number(self, name: str, column: pa.ChunkedArray) -> Target:
        values = column.cast(pa.float64()).to_numpy()
        is_known = np.isfinite(values)
        of_train = values[is_known & self._is_in("train")]
        missing = self._missing(pa.chunked_array([pa.array(is_known)]))
        if not len(of_train):
            return Target(name, "number", **missing)
        low, high, mean, std = (float(part(of_train)) for part in (np.min, np.max, np.mean, np.std))
        return Target(name, "number", low=low, high=high, mean=mean, std=std, **missing)

    def _missing(self, is_known: pa.ChunkedArray) -> dict[str, Any]:
        """The two fields of a target on what has no value."""
        without = pa.table({"split": self.column("split"), "source": self.column("source")}).filter(pc.invert(is_known))
        splits = without["split"].to_pylist()
        return {
            "missing": {split: splits.count(split) for split in SPLITS if split in splits},
            "missing_examples": tuple(without["source"].slice(0, _NUM_EXAMPLES).to_pylist()),
        }


def read(locations: Sequence[str]) -> Facts:
    """The facts of builds in folders or at URLs; `JobError` where one is no complete build."""
    builds = [manifest.read_build(location) for location in locations]
    return of(builds, [manifest.read_table(Store(location), manifest.MANIFEST_FILE) for location in locations])


def of(builds: Sequence[Build], tables: Sequence[pa.Table]) -> Facts:
    """The facts of builds, whose manifests are read already."""
    joined = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
    return Facts(joined, tuple(dict.fromkeys(name for build in builds for name in build.class_names)))


def _is_text(kind: pa.DataType) -> bool:
    is_words = pa.types.is_dictionary(kind) and _is_text(kind.value_type)
    return bool(is_words or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _of_ranges(column: pa.ChunkedArray, *, name: str) -> tuple[pa.ChunkedArray, tuple[str, ...] | None]:
    """A category of ranges as the numbers in their middles, or in bins."""
    ranges, text = Ranges.of(column.unique().drop_null().to_pylist()), name.partition(":")[2]
    if ranges is None:
        raise UsageError(f"target {name}: neither a number nor ranges of one, such as 20-29 and 70+")
    codes = pc.index_in(column, value_set=pa.array(ranges.names))
    if text == MIDDLE:
        return pc.take(pa.array(ranges.middles), codes), None
    names = Bins.of(text, field=name).names
    of_range = [names[code] if code >= 0 else None for code in ranges.codes_in(Bins.of(text, field=name))]
    return pc.take(pa.array(of_range, pa.string()), codes), names


def _binned(column: pa.ChunkedArray, text: str, *, name: str) -> pa.ChunkedArray:
    """The bin of each number by its name; null for none."""
    bins = Bins.of(text, field=name)
    values = column.cast(pa.float64()).to_numpy()
    codes = np.where(np.isfinite(values), bins.codes(np.nan_to_num(values, nan=-1.0)), -1)
    return pa.chunked_array([pa.array([bins.names[code] if code >= 0 else None for code in codes], pa.string())])
