"""prediction_files: every prediction is in every file, and no file is there before it is whole."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from facepack.align import Box
from facepack.errors import FieldError
from trainer import prediction_files
from trainer.prediction import Prediction

NAMES = {"hair": ("Bald", "Grey"), "age": ()}
PREDICTIONS = [
    Prediction("a,b.jpg", "hair", Box(1, 2, 3, 4), probabilities={"Grey": 0.75, "Bald": 0.25}, lines=("Grey 75 %",)),
    Prediction("a,b.jpg", "hair", Box(5, 6, 7, 8.5), probabilities={"Bald": 1.0, "Grey": 0.0}, lines=("Bald 100 %",)),
    Prediction("a,b.jpg", "age", number=31.123456789, lines=("age 31.1",)),
    Prediction("\udcff.jpg", "age", lines=("no face",), problem="no face"),
]


def write(place: Path) -> None:
    passed = list(prediction_files.through(iter(PREDICTIONS), str(place), names=NAMES))
    assert passed == PREDICTIONS


def test_csv_has_a_row_for_each_prediction(tmp_path: Path) -> None:
    write(tmp_path / "new" / "a.csv")
    with (tmp_path / "new" / "a.csv").open(errors="surrogateescape", newline="") as file:
        first, second, third, fourth = csv.DictReader(file)
    assert list(first.values()) == ["a,b.jpg", "hair", "1", "1", "2", "3", "4", "Grey", "", "", "0.25", "0.75"]
    assert list(first)[-2:] == ["p_Bald", "p_Grey"]
    assert (second["face"], second["y1"], second["likeliest"]) == ("2", "8.5", "Bald")
    assert (third["number"], third["face"], third["p_Bald"]) == ("31.123457", "", "")
    assert (fourth["photo"], fourth["number"], fourth["problem"]) == ("\udcff.jpg", "", "no face")


def test_parquet_has_the_same_rows_by_type(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["p_Grey"] for row in rows] == [0.75, 0.0, None, None]
    assert [row["face"] for row in rows] == [1, 2, None, None]
    assert rows[2]["number"] == pytest.approx(31.123456, abs=1e-5)
    assert (rows[3]["photo"], rows[3]["problem"]) == ("\ufffd.jpg", "no face")


def test_json_lines_have_what_predictions_have(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [prediction.to_dict() for prediction in PREDICTIONS]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_no_file_is_left_where_predicting_ends_early(tmp_path: Path, kind: str) -> None:
    def broken() -> Iterator[Prediction]:
        yield PREDICTIONS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(prediction_files.through(broken(), f"{tmp_path}/a.{kind}", names=NAMES))
    assert list(tmp_path.iterdir()) == []


def test_other_kinds_of_files_are_refused() -> None:
    prediction_files.check_places(["a.csv", "s3://faces/A.PARQUET", "b.png", "b.jsonl"])
    with pytest.raises(FieldError, match=r"out a\.xlsx: expected a file that ends in \.csv, \.jsonl, \.parquet, \.png"):
        prediction_files.check_places(["a.xlsx"])


def test_tally_counts_photos_and_reasons() -> None:
    tally = prediction_files.Tally()
    for prediction in PREDICTIONS:
        tally.add(prediction)
    assert tally.line == "2 photos, 3 predictions; none for 1 no face"
    assert prediction_files.table(tally.shown).row_count == 3
