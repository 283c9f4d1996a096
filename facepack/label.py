"""Labelling: the class of each row, by attributes, a category or age bins, and which rows have one."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.choices import AgeBins, Classes
from facepack.configuration import Configuration
from facepack.description import Description
from facepack.errors import FieldError, JobError

NO_CLASS = "of no chosen class"
"""Why a row is left out."""
_NUM_NAMED = 5

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Labelled:
    """The rows with a class, in column class (null where no classes were asked for), and a line on those without.

    `left_out` counts the rows of classes that are too small, by reason; `warnings` name those classes.
    """

    table: pa.Table
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ClassCodes:
    """Class names in order, and per row the number of its class or -1."""

    names: tuple[str, ...]
    codes: Codes


def assign_classes(description: Description, table: pa.Table, *, configuration: Configuration) -> Labelled:
    """Give every row its class and leave out those that have none.

    Raises `FieldError` for classes that the dataset does not have, `JobError` where no row is left.
    """
    choice = configuration.class_choice or Classes.of(description.default_classes)
    is_default = configuration.class_choice is None and configuration.age_choice is None
    if is_default and choice is not None and not choice.column and not description.attributes:
        names = description.labels_of("category")[:1]
        choice = None if all(table[name].null_count == len(table) for name in names) else choice
    if configuration.age_choice is not None:
        classes = _age_classes(description, table, configuration.age_choice)
    elif choice is None or choice.kind == "none":
        if configuration.min_per_class is not None:
            raise FieldError("min_per_class", configuration.min_per_class, "no classes are chosen: give classes, too")
        return Labelled(table.append_column("class", pa.nulls(len(table), pa.string())), (), ())
    elif not choice.column and description.attributes:
        classes = _attribute_classes(description, table, choice=choice, configuration=configuration)
    else:
        classes = _categories(description, table, choice=choice, seed=configuration.seed)
    has_class = classes.codes >= 0
    if not has_class.any():
        raise JobError(f"{description.name}: no row is of any of the classes {', '.join(classes.names)}")
    notes = []
    if left_out := int((~has_class).sum()):
        notes.append(f"{left_out:,} of {len(table):,} rows are of no chosen class and left out")
        if is_default:
            notes[0] += f", such as {table['source'][int(np.argmin(has_class))]}; --classes none takes all"
    names = pa.DictionaryArray.from_arrays(pa.array(classes.codes, mask=~has_class), pa.array(classes.names))
    labelled = table.append_column("class", names.cast(pa.string())).filter(pa.array(has_class))
    counts = {NO_CLASS: left_out} if left_out else {}
    return _large_enough(Labelled(labelled, classes.names, tuple(notes), counts), configuration.min_per_class)


def _large_enough(labelled: Labelled, min_per_class: int | None) -> Labelled:
    """Leave out the classes of fewer rows than asked for."""
    table = labelled.table
    counts = {row["values"]: row["counts"] for row in table["class"].value_counts().to_pylist()}
    small = [name for name in labelled.class_names if counts.get(name, 0) < (min_per_class or 0)]
    if not small:
        return labelled
    class_names = tuple(name for name in labelled.class_names if name not in set(small))
    if not class_names:
        largest = max(counts.values())
        raise FieldError("min_per_class", min_per_class, f"the largest class has {largest:,} rows")
    kept = table.filter(pc.is_in(table["class"], value_set=pa.array(class_names)))
    number = len(table) - len(kept)
    warning = f"{_listed(small)}: fewer than {min_per_class:,} rows, so left out, {number:,} rows in all"
    left_out = {f"of a class of fewer than {min_per_class:,} rows": number} if number else {}
    left_out = labelled.left_out | left_out
    return replace(labelled, table=kept, class_names=class_names, left_out=left_out, warnings=(warning,))


def _listed(class_names: Sequence[str]) -> str:
    """The first of some classes by name."""
    more = f" and {len(class_names) - _NUM_NAMED:,} more" if len(class_names) > _NUM_NAMED else ""
    return f"class{'es' if len(class_names) > 1 else ''} {', '.join(class_names[:_NUM_NAMED])}{more}"


def _categories(description: Description, table: pa.Table, *, choice: Classes, seed: int) -> _ClassCodes:
    """Classes by the values of a category."""
    categories = description.labels_of("category")
    column = choice.column or (categories[0] if categories else "")
    if column not in categories:
        advice = f"{description.name} has no classes {column!r}; it has: {', '.join(categories) or 'none'}"
        raise FieldError("classes", choice, advice)
    encoded = table[column].combine_chunks().dictionary_encode()
    present = [name for name in encoded.dictionary.to_pylist() if name is not None]
    counts = {
        row["values"]: row["counts"] for row in table[column].value_counts().to_pylist() if row["values"] is not None
    }
    listed = list(dict.fromkeys(description.labels[column].values.values()))
    order = [name for name in listed if name in counts] or sorted(present)
    names = _class_names(choice, {name: counts[name] for name in order}, seed=seed, dataset=description.name)
    if choice.number:
        names = [name for name in order if name in names]
    numbers = {name: number for number, name in enumerate(names)}
    lookup = np.array([numbers.get(name, -1) for name in encoded.dictionary.to_pylist()] + [-1], np.int32)
    return _ClassCodes(tuple(names), lookup[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])


def _attribute_classes(
    description: Description, table: pa.Table, *, choice: Classes, configuration: Configuration
) -> _ClassCodes:
    """Classes by attribute; a row with several is of the first in order, or left out."""
    columns = {name: table[name].combine_chunks().fill_null(0).to_numpy() for name in description.attributes}
    counts = {name: int(column.sum()) for name, column in columns.items()}
    names = _class_names(choice, counts, seed=configuration.seed, dataset=description.name)
    codes = np.full(len(table), -1, np.int32)
    for number, name in reversed(list(enumerate(names))):
        codes[columns[name] == 1] = number
    if configuration.multiple == "drop":
        codes[sum(columns[name].astype(np.int32) for name in names) > 1] = -1
    return _ClassCodes(tuple(names), codes)


def _class_names(choice: Classes, counts: dict[str, int], *, seed: int, dataset: str) -> list[str]:
    """The classes that are chosen: rarest ascending, commonest descending, names as they are given."""
    if unknown := [name for name in choice.names if name not in counts]:
        advice = f"{dataset} has no class {unknown[0]!r}; it has: {', '.join(sorted(counts))}"
        raise FieldError("classes", choice, advice)
    if choice.kind == "all":
        names = [name for name in counts if name not in choice.names]
        if not names:
            raise FieldError("classes", choice, f"leaves out every class of {dataset}")
        return names
    if choice.kind == "names":
        return list(choice.names)
    if choice.number > len(counts):
        raise FieldError("classes", choice, f"{dataset} has {len(counts)} classes, expected 1 to {len(counts)}")
    orders: dict[str, Callable[[str], tuple[int | bytes, str]]] = {
        "rarest": lambda name: (counts[name], name),
        "commonest": lambda name: (-counts[name], name),
        "random": lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name),
    }
    return sorted(counts, key=orders[choice.kind])[: choice.number]


def _age_classes(description: Description, table: pa.Table, choice: AgeBins) -> _ClassCodes:
    """Classes by age in completed years: '1-4,5-27,28-' is 1 <= age < 5, 5 <= age < 28, 28 <= age."""
    ages = description.labels_of("age")
    column = choice.column or (ages[0] if ages else "")
    if column not in ages:
        advice = f"{description.name} has no ages {column!r}; it has: {', '.join(ages) or 'none'}"
        raise FieldError("age_bins", choice, advice)
    return _ClassCodes(choice.bins.names, choice.bins.codes(pc.fill_null(table[column], -1.0).to_numpy()))
