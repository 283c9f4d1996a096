"""Labelling: the class of each row, chosen among attributes, categories or age bins, and which rows are kept."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.choices import AgeBins, ClassChoice
from facepack.configuration import Configuration
from facepack.description import Description
from facepack.errors import FieldError, JobError

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Labelled:
    """The chosen rows with a column class (null where no classes were asked for), and a line on what was left out."""

    table: pa.Table
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def assign_classes(description: Description, table: pa.Table, *, configuration: Configuration) -> Labelled:
    """Give every row its class and leave out those that have none.

    Raises `FieldError` for classes that the dataset does not have, `JobError` where no row is left.
    """
    default = ClassChoice.of(description.default_classes) if description.default_classes else None
    choice = configuration.class_choice or default
    if configuration.bins is not None:
        names, codes = _age_classes(description, table, configuration.bins)
    elif choice is not None:
        names, codes = _classes(description, table, choice=choice, configuration=configuration)
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
    description: Description, table: pa.Table, *, choice: ClassChoice, configuration: Configuration
) -> tuple[list[str], Codes]:
    """Class names in order, and per row the number of its class or -1."""
    categories = description.labels_of("category")
    if not choice.column and description.attributes:
        return _attribute_classes(description, table, choice=choice, configuration=configuration)
    column = choice.column or (categories[0] if categories else "")
    if column not in categories:
        there = ", ".join(categories) or "none"
        raise FieldError("classes", choice.text, f"{description.name} has no classes {column!r}; it has: {there}")
    encoded = table[column].combine_chunks().dictionary_encode()
    present = [name for name in encoded.dictionary.to_pylist() if name is not None]
    counts = {
        row["values"]: row["counts"] for row in table[column].value_counts().to_pylist() if row["values"] is not None
    }
    listed = list(dict.fromkeys(description.labels[column].values.values()))
    order = [name for name in listed if name in counts] or sorted(present)
    ordered_counts = {name: counts[name] for name in order}
    names = _chosen_names(choice, ordered_counts, seed=configuration.seed, dataset=description.name)
    if choice.number:
        names = [name for name in order if name in names]
    numbers = {name: number for number, name in enumerate(names)}
    lookup = np.array([numbers.get(name, -1) for name in encoded.dictionary.to_pylist()] + [-1], np.int32)
    return names, lookup[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def _attribute_classes(
    description: Description, table: pa.Table, *, choice: ClassChoice, configuration: Configuration
) -> tuple[list[str], Codes]:
    """Classes by attribute; a row with several is of the first in order, or left out."""
    columns = {name: table[name].combine_chunks().fill_null(0).to_numpy() for name in description.attributes}
    counts = {name: int(column.sum()) for name, column in columns.items()}
    names = _chosen_names(choice, counts, seed=configuration.seed, dataset=description.name)
    codes = np.full(len(table), -1, np.int32)
    for number, name in reversed(list(enumerate(names))):
        codes[columns[name] == 1] = number
    if configuration.multiple == "drop":
        codes[sum(columns[name].astype(np.int32) for name in names) > 1] = -1
    return names, codes


def _chosen_names(choice: ClassChoice, counts: dict[str, int], *, seed: int, dataset: str) -> list[str]:
    """Names of the chosen classes: the rarest ascending, the commonest descending, as listed, or in order."""
    if choice.kind == "all":
        return list(counts)
    if choice.kind == "named":
        if unknown := [name for name in choice.names if name not in counts]:
            there = ", ".join(sorted(counts)) or "none"
            raise FieldError("classes", choice.text, f"{dataset} has no class {unknown[0]!r}; it has: {there}")
        return list(choice.names)
    if choice.number > len(counts):
        raise FieldError("classes", choice.text, f"{dataset} has {len(counts)} classes, expected 1 to {len(counts)}")
    orders: dict[str, Callable[[str], tuple[int, str]]] = {
        "rarest": lambda name: (counts[name], name),
        "commonest": lambda name: (-counts[name], name),
        # Big-endian, unlike every other number of a hash: published builds were chosen so.
        "random": lambda name: (int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]), name),
    }
    return sorted(counts, key=orders[choice.kind])[: choice.number]


def _age_classes(description: Description, table: pa.Table, choice: AgeBins) -> tuple[list[str], Codes]:
    """Classes by age in completed years."""
    ages = description.labels_of("age")
    column = choice.column or (ages[0] if ages else "")
    if column not in ages:
        there = ", ".join(ages) or "none"
        raise FieldError("age_bins", choice.text, f"{description.name} has no ages {column!r}; it has: {there}")
    return list(choice.bins.names), choice.bins.codes(pc.fill_null(table[column], -1.0).to_numpy())
