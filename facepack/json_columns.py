"""JSON columns: the values of nested objects as columns of text."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa


def flat(value: Mapping[str, object], *, prefix: str = "") -> dict[str, str]:
    """The text of each value by its path, such as face.age; a list of one value is that value, others are no labels."""
    texts: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}" if prefix else f"{key}"
        if isinstance(item, list) and len(item) == 1:
            item = item[0]
        if isinstance(item, Mapping):
            texts |= flat(item, prefix=name)
        elif isinstance(item, bool):
            texts[name] = f"{int(item)}"
        elif isinstance(item, float):
            if not math.isnan(item):
                texts[name] = f"{int(item)}" if item.is_integer() and abs(item) < 2**53 else f"{item}"
        elif isinstance(item, (str, int)):
            texts[name] = f"{item}"
    return texts


def columns_of(rows: Sequence[Mapping[str, str]]) -> dict[str, pa.ChunkedArray]:
    """Rows of texts as dictionary-encoded columns, in the order in which their names come first."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _encoded(row.get(name) for row in rows) for name in names}


def _encoded(texts: Iterable[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string()).dictionary_encode()])
