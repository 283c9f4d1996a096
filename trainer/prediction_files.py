"""Prediction files: predictions as .csv, .jsonl or .parquet, written while they are made, or as a terminal's table."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from facepack.errors import FieldError
from facepack.storage import Store
from trainer.prediction import Prediction

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_PHOTOS = 40
"""So many photos are shown on a terminal, or in a picture; files hold all."""
PICTURE_SUFFIX = ".png"
_ROW_GROUP = 10_000

_COLUMNS = {
    "photo": pa.string(),
    "run": pa.string(),
    "face": pa.int32(),
    "x0": pa.float32(),
    "y0": pa.float32(),
    "x1": pa.float32(),
    "y1": pa.float32(),
    "likeliest": pa.string(),
    "number": pa.float32(),
    "problem": pa.string(),
}
"""Those of every table; the probabilities follow, a column "p_NAME" each."""

_Add = Callable[[Prediction], None]
_Names = Mapping[str, tuple[str, ...]]


def check_places(places: Sequence[str]) -> None:
    """Refuse a file whose kind nobody can write: `FieldError`."""
    for place in places:
        if _suffix(place) not in (*_WRITERS, PICTURE_SUFFIX):
            kinds = ", ".join((*_WRITERS, PICTURE_SUFFIX))
            raise FieldError("out", place, f"expected a file that ends in {kinds}")


def is_picture(place: str) -> bool:
    """True for a picture, False for a table."""
    return _suffix(place) == PICTURE_SUFFIX


def store_of(place: str) -> tuple[Store, str]:
    """Where a file is to be, in a folder or at a URL, and its name there; the folder is made."""
    folder, _, name = place.rpartition("/")
    store = Store(folder or ("/" if place.startswith("/") else "."))
    store.make()
    return store, name


def through(predictions: Iterable[Prediction], place: str, *, names: _Names) -> Iterator[Prediction]:
    """The same predictions, written to a file as they pass; it appears, whole, after the last one.

    `names` are classes or attributes by run, as `Predictor.names` has them. A .csv and a .parquet have a row per
    prediction: photo, run, face (its number, where faces are looked for), x0, y0, x1, y1, likeliest, number, problem,
    and a column p_NAME per class or attribute; a .jsonl has what `Prediction.to_dict` gives.
    """
    store, name = store_of(place)
    with store.writer(name) as file, _WRITERS[_suffix(place)](file, names) as add:
        for prediction in predictions:
            add(prediction)
            yield prediction


def _suffix(place: str) -> str:
    return PurePosixPath(place).suffix.lower()


@contextmanager
def _jsonl(file: IO[bytes], _names: _Names) -> Iterator[_Add]:
    def add(prediction: Prediction) -> None:
        file.write(json.dumps(prediction.to_dict()).encode() + b"\n")

    yield add


@contextmanager
def _csv(file: IO[bytes], names: _Names) -> Iterator[_Add]:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    rows = _Rows(names)
    writer = csv.DictWriter(text, [field.name for field in rows.schema], lineterminator="\n")
    writer.writeheader()

    def add(prediction: Prediction) -> None:
        writer.writerow(_rounded(rows.of(prediction)))

    yield add
    text.flush()
    text.detach()


@contextmanager
def _parquet(file: IO[bytes], names: _Names) -> Iterator[_Add]:
    rows = _Rows(names)
    pending: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, rows.schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(pending, schema=rows.schema))
            pending.clear()

        def add(prediction: Prediction) -> None:
            row = rows.of(prediction)
            # Names of files may be no UTF-8, which a Parquet string is.
            row["photo"] = row["photo"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            pending.append(row)
            if len(pending) == _ROW_GROUP:
                flush()

        yield add
        flush()


_WRITERS: dict[str, Callable[[IO[bytes], _Names], AbstractContextManager[_Add]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


class _Rows:
    """Predictions as flat rows, with the number of each face."""

    def __init__(self, names: _Names) -> None:
        distinct = dict.fromkeys(name for of_run in names.values() for name in of_run)
        self.schema = pa.schema(_COLUMNS | {f"p_{name}": pa.float32() for name in distinct})
        self._last, self._face = ("", ""), 0

    def of(self, prediction: Prediction) -> dict[str, Any]:
        """The row of the next prediction; columns that it has no value for are left out."""
        place = prediction.photo, prediction.run
        self._face = self._face + 1 if place == self._last else 1
        self._last = place
        row: dict[str, Any] = {"photo": prediction.photo, "run": prediction.run}
        if prediction.box is not None:
            row |= {"face": self._face} | dict(zip(("x0", "y0", "x1", "y1"), prediction.box, strict=True))
        if prediction.probabilities:
            row["likeliest"] = next(iter(prediction.probabilities))
        row |= {"number": prediction.number, "problem": prediction.problem or None}
        return row | {f"p_{name}": value for name, value in prediction.probabilities.items()}


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


# For people


@dataclass
class Tally:
    """Counts of predictions as they pass, and the first of them."""

    num_photos: int = 0
    num_predicted: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    """Predictions that could not be made, by reason."""
    shown: list[Prediction] = field(default_factory=list)
    """Those of the first photos."""
    _last: str | None = None

    def add(self, prediction: Prediction) -> None:
        """Count one more."""
        if prediction.photo != self._last:
            self.num_photos, self._last = self.num_photos + 1, prediction.photo
        if prediction.problem:
            self.problems[prediction.problem] += 1
        else:
            self.num_predicted += 1
        if self.num_photos <= SHOWN_PHOTOS:
            self.shown.append(prediction)

    @property
    def line(self) -> str:
        """How many photos there were, and what became of them."""
        reasons = "; ".join(f"{number:,} {reason}" for reason, number in self.problems.most_common())
        return (
            f"{self.num_photos:,} photos, {self.num_predicted:,} predictions{'; none for ' if reasons else ''}{reasons}"
        )


def table(predictions: Sequence[Prediction]) -> "Table":
    """A row per photo and face, a column per run, for a terminal."""
    from rich import box as rich_box
    from rich.table import Table

    names = list(dict.fromkeys(prediction.run for prediction in predictions))
    shown = Table(box=rich_box.SIMPLE_HEAD)
    for name in ("photo", *names):
        shown.add_column(name, overflow="fold")
    for photo in dict.fromkeys(prediction.photo for prediction in predictions):
        of_photo = [prediction for prediction in predictions if prediction.photo == photo]
        columns = [[prediction.lines for prediction in of_photo if prediction.run == name] for name in names]
        for number in range(max(map(len, columns))):
            cells = [", ".join(column[number]) if number < len(column) else "" for column in columns]
            shown.add_row(f"{Path(photo).name}{f' face {number + 1}' if number else ''}", *cells)
    return shown
