"""Labelling: the class of each row, chosen among attributes, categories or age bins, and which rows are kept."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.bins import Bins
from facepack.configuration import Configuration
from facepack.description import Description
from facepack.errors import JobError, UsageError

_COUNTED = re.compile(r"(rarest|commonest|random)(\d+)")

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Labelled:
    """The chosen rows with a column class (null where no classes were asked for), and a line on what was left out."""

    table: pa.Table
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def assign_classes(description: Description, table: pa.Table, *, configuration: Configuration) -> Labelled:
    """Give every row its class and leave out those that have none.

    Raises `UsageError` for classes that the dataset does not have, `JobError` where no row is left.
    """
    wanted = configuration.classes or ("" if configuration.age_bins else description.default_classes)
    if configuration.age_bins:
        names, codes = _age_classes(description, table, configuration.age_bins)
    elif wanted:
        names, codes = _classes(description, table, wanted=wanted, configuration=configuration)
    else:
        return Labelled(table.append_column("class", pa.nulls(len(table), pa.string())), (), ())
    chosen = codes >= 0
    if not chosen.any():
        raise JobError(f"{description.name}: no row is of any of the classes {', '.join(names)}")
    notes = []
    if left_out := int((~chosen).sum()):
        notes.append(f"{left_out:,} of {len(table):,} rows are of no chosen class and left out")
    classes = pa.DictionaryArray.from_arrays(pa.array(codes, mask=~chosen), pa.array(names)).cast(pa.string())
    labelled = table.append_column("class", classes).filter(pa.array(chosen))
    return Labelled(labelled, tuple(names), tuple(notes))


def _classes(
    description: Description, table: pa.Table, *, wanted: str, configuration: Configuration
) -> tuple[list[str], Codes]:
    """Class names in order, and per row the number of its class or -1."""
    column, _, chosen = wanted.rpartition(":")
    categories = description.labels_of("category")
    if not column and description.attributes:
        return _attribute_classes(description, table, chosen=chosen, configuration=configuration)
    column = column or (categories[0] if categories else "")
    if column not in categories:
        known = ", ".join(categories) or "none"
        raise UsageError(f"--classes {wanted}: {description.name} has no classes {column!r}; it has: {known}")
    encoded = table[column].combine_chunks().dictionary_encode()
    present = [name for name in encoded.dictionary.to_pylist() if name is not None]
    counts = {
        row["values"]: row["counts"] for row in table[column].value_counts().to_pylist() if row["values"] is not None
    }
    listed = list(dict.fromkeys(description.labels[column].values.values()))
    order = [name for name in listed if name in counts] or sorted(present)
    names = _pick(chosen, {name: counts[name] for name in order}, seed=configuration.seed, dataset=description.name)
    if _COUNTED.fullmatch(chosen):
        names = [name for name in order if name in names]
    numbers = {name: number for number, name in enumerate(names)}
    lookup = np.array([numbers.get(name, -1) for name in encoded.dictionary.to_pylist()] + [-1], np.int32)
    return names, lookup[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def _attribute_classes(
    description: Description, table: pa.Table, *, chosen: str, configuration: Configuration
) -> tuple[list[str], Codes]:
    """Classes by attribute; a row with several is of the first in order, or left out."""
    columns = {name: table[name].combine_chunks().fill_null(0).to_numpy() for name in description.attributes}
    counts = {name: int(column.sum()) for name, column in columns.items()}
    names = _pick(chosen, counts, seed=configuration.seed, dataset=description.name)
    codes = np.full(len(table), -1, np.int32)
    for number, name in reversed(list(enumerate(names))):
        codes[columns[name] == 1] = number
    if configuration.multiple == "drop":
        codes[sum(columns[name].astype(np.int32) for name in names) > 1] = -1
    return names, codes


def _pick(chosen: str, counts: dict[str, int], *, seed: int, dataset: str) -> list[str]:
    """Names by rarestN (ascending), commonestN (descending), randomN, all, or a list."""
    if chosen == "all":
        return list(counts)
    if match := _COUNTED.fullmatch(chosen):
        number = int(match[2])
        if not 1 <= number <= len(counts):
            raise UsageError(f"--classes {chosen}: {dataset} has {len(counts)} classes, expected 1 to {len(counts)}")
        orders = {
            "rarest": lambda name: (counts[name], name),
            "commonest": lambda name: (-counts[name], name),
            "random": lambda name: (int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]), name),
        }
        return sorted(counts, key=orders[match[1]])[:number]
    names = [name.strip() for name in chosen.split(",")]
    if unknown := [name for name in names if name not in counts]:
        raise UsageError(
            f"--classes {chosen}: {dataset} has no class {unknown[0]!r}; it has: {', '.join(sorted(counts))}"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"--classes {chosen}: a class is named twice")
    return names


def _age_classes(description: Description, table: pa.Table, wanted: str) -> tuple[list[str], Codes]:
    """Classes by age in completed years: '1-4,5-27,28-' is 1 <= age < 5, 5 <= age < 28, 28 <= age."""
    column, _, chosen = wanted.rpartition(":")
    ages = description.labels_of("age")
    column = column or (ages[0] if ages else "")
    if column not in ages:
        raise UsageError(
            f"--age-bins {wanted}: {description.name} has no ages {column!r}; it has: {', '.join(ages) or 'none'}"
        )
    bins = Bins.of(chosen, what=f"--age-bins {wanted}")
    return list(bins.names), bins.codes(pc.fill_null(table[column], -1.0).to_numpy())
