"""Own people: who is on which image, by the table of `facepack people`, as a label of a new build."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.description import Description, Label
from facepack.errors import FieldError, JobError
from facepack.storage import Store

LABEL = "person"


@dataclass(frozen=True)
class OwnPeople:
    """The sources of a table of people with the number of the person on each, and the file; no file for none."""

    file: str = ""
    sources: pa.Array | None = None
    people: pa.Array | None = None

    @property
    def digest(self) -> str:
        """sha256 of who is on which image; empty without a file."""
        if self.sources is None or self.people is None:
            return ""
        order = pc.array_sort_indices(self.sources)
        lines = zip(self.sources.take(order).to_pylist(), self.people.take(order).to_pylist(), strict=True)
        text = "".join(f"{source}\t{person}\n" for source, person in lines)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def read_own_people(file: str) -> OwnPeople:
    """Read a Parquet file with the columns source and person; `FieldError` where it is none."""
    if not file:
        return OwnPeople()
    path = Path(file)
    try:
        table = manifest.read_table(Store(str(path.parent)), path.name, columns=["source", LABEL])
    except (OSError, JobError, pa.ArrowInvalid) as error:
        advice = "expected the people.parquet that facepack people writes into a build"
        raise FieldError("people", file, advice) from error
    return OwnPeople(file, table["source"].combine_chunks(), table[LABEL].combine_chunks())


def with_people(description: Description, table: pa.Table, *, own: OwnPeople) -> tuple[Description, pa.Table, str]:
    """Rows with the person on each as their first label of identities, and a note on those that the file leaves out.

    An image that it does not name, such as one without a face, is taken for a person of its own, so that a split by
    people has a place for it.
    """
    if own.sources is None or own.people is None:
        return description, table, ""
    places = pc.index_in(table["source"], value_set=own.sources)
    people = own.people.take(places.combine_chunks() if isinstance(places, pa.ChunkedArray) else places)
    is_left_out = np.asarray(people.is_null())
    numbers = people.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32).copy()
    first_free = int(pc.max(own.people).as_py() or 0) + 1
    numbers[is_left_out] = first_free + np.arange(int(is_left_out.sum()), dtype=np.int32)
    if LABEL in table.column_names:
        table = table.drop_columns([LABEL])
    labels = {LABEL: Label(kind="identity")} | description.labels
    num_left_out = int(is_left_out.sum())
    note = f"{num_left_out:,} images are not in {own.file}: each is taken for a person of its own"
    table = table.append_column(LABEL, pa.array(numbers, pa.int32()))
    return replace(description, labels=labels), table, note if num_left_out else ""
