"""Found labels: what the columns of a table are that no description explains, by their usual names and their values."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from facepack.description import RESERVED, Label
from facepack.errors import FieldError, nearest
from facepack.label_values import MAX_AGE_YEARS, as_whole, looked_up, plain
from facepack.published_rows import Columns, FoundLabels
from facepack.split_words import split_of_value

SPLIT = "split"
"""The column of train, valid and test."""
_USUAL_NAMES = {
    "class": "class label class_name label_name classname class_label cls category target class_id label_id y",
    "split": "split partition subset fold_name usage set",
    "identity": "identity identity_id person person_id subject subject_id celeb_id celeb celebrity identity_name pid",
    "age": "age age_years real_age apparent_age age_in_years",
}
_UNKNOWN = frozenset(["", "nan", "null", "none", "n/a", "na", "?"])
_YES_NO = {"-1": "0", "0": "0", "1": "1"}
_MOST_NUMERIC_CLASSES = 1000


@dataclass(frozen=True)
class Named:
    """The columns that a user names: of images, classes, splits, identities and ages; empty for those to be found."""

    image: str = ""
    class_: str = ""
    split: str = ""
    identity: str = ""
    age: str = ""

    def check(self, names: Iterable[str], *, where: str) -> None:
        """Refuse a column that is not there."""
        there = list(names)
        for kind, name in vars(self).items():
            if name and name not in there:
                advice = f"{where} has no such column; {nearest(name, there)}"
                raise FieldError(f"labels_{kind.rstrip('_')}", name, advice)


@dataclass
class _Column:
    """A column: its distinct texts, and what is known of them."""

    name: str
    texts: list[str]
    num_rows: int
    num_unknown: int = 0
    unknown: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self.unknown = tuple(text for text in self.texts if text.strip().casefold() in _UNKNOWN)
        self.texts = [text for text in self.texts if text not in self.unknown]

    @property
    def is_number(self) -> bool:
        return bool(self.texts) and all(_number(text) is not None for text in self.texts)

    @property
    def is_attribute(self) -> bool:
        return bool(self.texts) and all(looked_up(text, _YES_NO) is not None for text in self.texts)

    @property
    def is_age(self) -> bool:
        return self.is_number and all(0 <= (_number(text) or 0) <= MAX_AGE_YEARS for text in self.texts)

    @property
    def is_split(self) -> bool:
        return bool(self.texts) and all(split_of_value(text) for text in self.texts)

    @property
    def has_classes(self) -> bool:
        """Whether its values come again, and are no numbers."""
        return not self.is_number and len(self.texts) > 1 and len(self.texts) < self.num_rows


def _number(text: str) -> float | None:
    try:
        number = float(text.replace("_", "no digit"))
    except ValueError:
        return None
    return None if number != number or abs(number) == float("inf") else number


def with_split(columns: Columns, named: Named) -> Columns:
    """The columns with that of the splits as `SPLIT` in facepack's words, if there is one."""
    names = [named.split] if named.split else _usual(columns, "split")
    for name in names:
        column = _column(name, columns[name])
        if not column.is_split and not named.split:
            continue
        if bad := [text for text in column.texts if not split_of_value(text)]:
            advice = f"{bad[0]!r} is no split; expected words such as train, val and test"
            raise FieldError("labels_split", name, advice)
        texts = _text(columns[name]).combine_chunks().dictionary_encode()
        words = pa.array([split_of_value(text) or None for text in texts.dictionary.to_pylist()], pa.string())
        rest = {other: values for other, values in columns.items() if other not in (name, SPLIT)}
        return {SPLIT: pa.chunked_array([words.take(texts.indices)])} | rest
    return columns


def meaning_of(
    columns: Columns, *, named: Named | None = None, class_names: Mapping[str, Sequence[str]] | None = None
) -> FoundLabels:
    """What each column is: an attribute, a category, an age, an identity or a number.

    `class_names` are the names of whole numbers, by column. The classes are in the column that is named, else in one of
    a usual name, else in the only one whose values come again; `unclear` lists several of those.
    """
    named, class_names = named or Named(), class_names or {}
    all_columns = [_column(name, values) for name, values in columns.items() if name != SPLIT]
    class_column, unclear = _class_column(all_columns, columns, named=named, class_names=class_names)
    identity = named.identity or next(iter(_usual(columns, "identity")), "")
    ages = [named.age] if named.age else _usual(columns, "age")
    labels: dict[str, Label] = {}
    attributes: list[str] = []
    default = ""
    for column in sorted(all_columns, key=lambda column: column.name != class_column):
        name = _label_name(column.name, {*labels, *attributes})
        published = column.name if name != column.name else ""
        if column.name == class_column or column.name in class_names:
            names = class_names.get(column.name, ())
            unknown = (*column.unknown, "-1") if names else column.unknown
            labels[name] = Label(kind="category", column=published, values=_values_of(column, names), unknown=unknown)
            default = f"{name}:all" if column.name == class_column else default
        elif column.name == identity:
            labels[name] = Label(kind="identity", column=published, unknown=column.unknown)
        elif column.name in ages and column.is_age:
            labels[name] = Label(kind="age", column=published, unknown=column.unknown)
        elif column.is_attribute and not column.unknown and not published and not class_column:
            attributes.append(name)
        else:
            labels[name] = Label(kind=_other_kind(column), column=published, unknown=column.unknown)
    return FoundLabels(labels, tuple(attributes), default, unclear)


def _label_name(name: str, others: Collection[str]) -> str:
    """The name of a column as that of a label, which has no colon or comma and is none of facepack's own."""
    label = re.sub(r"[:,\x00-\x1f]", "_", name)
    label = f"label_{label}" if label in RESERVED else label
    while label in others:
        label += "_"
    return label


def _other_kind(column: _Column) -> Literal["attribute", "number", "category"]:
    if column.is_attribute:
        return "attribute"
    is_number = column.is_number and all((_number(text) or 0) >= 0 for text in column.texts)
    return "number" if is_number else "category"


def _class_column(
    all_columns: list[_Column], columns: Columns, *, named: Named, class_names: Mapping[str, Sequence[str]]
) -> tuple[str, tuple[str, ...]]:
    """The column of the classes, "" without one; and all that could be it where several could."""
    if named.class_:
        return named.class_, ()
    by_name = {column.name: column for column in all_columns}
    taken = {named.image, named.identity, named.age, *_usual(columns, "identity"), *_usual(columns, "age")}
    usual = [name for name in _usual(columns, "class") if name in by_name and by_name[name].texts]
    usual = [name for name in usual if name not in taken]
    for candidates in (
        [name for name in usual if not by_name[name].is_number or name in class_names],
        [name for name in usual if len(by_name[name].texts) <= _MOST_NUMERIC_CLASSES],
        [name for name in class_names if name in by_name and name not in taken],
        [column.name for column in all_columns if column.has_classes and column.name not in taken],
    ):
        if len(candidates) == 1:
            return candidates[0], ()
        if candidates:
            return "", tuple(candidates)
    return "", ()


def _values_of(column: _Column, names: Sequence[str]) -> dict[str, str]:
    """Published values and the names of their classes, in order; nothing where the values are the names."""
    if names:
        return {str(number): name for number, name in enumerate(names)}
    if not column.is_number:
        return {}
    return {text: as_whole(text) for text in sorted(column.texts, key=lambda text: (_number(text) or 0, text))}


def _usual(columns: Columns, kind: str) -> list[str]:
    """The columns with the usual names of a kind, the most usual first."""
    by_name = {_simple(name): name for name in reversed(columns)}
    return [by_name[name] for name in _USUAL_NAMES[kind].split() if name in by_name]


def _simple(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _column(name: str, values: pa.ChunkedArray) -> _Column:
    texts = [plain(text) for text in pc.unique(_text(values)).to_pylist() if text is not None]
    return _Column(name, list(dict.fromkeys(texts)), len(values))


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
