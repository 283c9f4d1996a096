"""doubt: wrong labels are found, listed and left out; a stopped run of folds goes on; pages load nothing."""

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make, tiny, train
from typer.testing import CliRunner

from facepack import builder
from facepack.builder import Place
from facepack.cli import app
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from facepack.errors import JobError, UsageError
from facepack.leave_out import left_out_rows, read_leave_out
from facepack.manifest import read_build
from trainer import doubting, evaluation, training
from trainer.doubts import files, held_out
from trainer.loading.augment import Normalize
from trainer.recipe import Recipe
from trainer.task import Attributes, Number
from trainer.watching import EpochEnd, Watcher

COLOURS = {"blue": (230, 60, 40), "green": (40, 200, 60), "red": (50, 40, 220)}
WRONG = {"blue/green-03.png", "blue/red-07.png", "green/red-11.png", "red/blue-00.png"}
PER_COLOUR = 30


def draw_colours(folder: Path) -> Path:
    """Coloured photos in a folder per class, of which four lie in a wrong one."""
    random = np.random.default_rng(0)
    wrong_place = {path.rpartition("/")[2]: path for path in WRONG}
    for colour, bgr in COLOURS.items():
        for number in range(PER_COLOUR):
            name = f"{colour}-{number:02d}.png"
            path = folder / wrong_place.get(name, f"{colour}/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = random.integers(-30, 31, (16, 16, 3))
            cv2.imwrite(str(path), np.clip(np.array(bgr) + noise, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of coloured photos, beside their folder."""
    folder = tmp_path_factory.mktemp("colours")
    make(draw_colours(folder / "photos"), folder / "build", dataset="folder", classes="", size="keep")
    return folder / "build"


def quick(**choices: Any) -> Recipe:
    """A recipe that tells colours apart in a second."""
    plain = {"augment": (Normalize(),), "eval_augment": (Normalize(),), "mixup": 0.0, "average": 0.0}
    return tiny(**{"epochs": 6, "batch_size": 8, **plain, **choices})


def doubt(
    build: Path, out: Path, recipe: Recipe, watchers: Sequence[Watcher] = (), num_folds: int = 3
) -> doubting.Doubted:
    by_fold = held_out.by_fold(recipe, num_folds=num_folds)
    where = training.Settings(device="cpu")
    doubted = doubting.by_folds("tiny", by_fold, data=str(build), out=out, settings=where, watchers=watchers)
    assert doubted is not None
    return doubted


@pytest.fixture(scope="module")
def doubted(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> doubting.Doubted:
    return doubt(colours, tmp_path_factory.mktemp("doubts") / "out", quick())


def rows_of(doubted: doubting.Doubted) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(doubted.folder / "doubts.parquet").to_pylist()
    return rows


def test_photos_in_a_wrong_folder_are_the_ones_that_look_wrong(doubted: doubting.Doubted) -> None:
    rows = rows_of(doubted)
    assert {row["source"] for row in rows if row["is_doubtful"]} == WRONG
    assert {row["source"]: (row["given"], row["likely"]) for row in rows[:4]} == {
        path: (path.partition("/")[0], path.partition("/")[2].partition("-")[0]) for path in WRONG
    }
    assert doubted.line == "4 of 90 labels look wrong (4.4 %), of 4 photos"
    assert len({row["source"] for row in rows}) == len(rows) == 90


def test_build_without_the_listed_photos_lacks_exactly_these(doubted: doubting.Doubted, tmp_path: Path) -> None:
    assert doubted.list is not None
    with doubted.list.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["image"] for line in lines} == WRONG
    place = Place(str(draw_colours(tmp_path / "photos")), str(tmp_path / "out"), workers=0, leave_out=str(doubted.list))
    builder.build(Configuration.of("folder", size="keep"), place=place)
    made = read_build(str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "manifest.parquet")
    assert set(table["source"].to_pylist()) == {row["source"] for row in rows_of(doubted)} - WRONG
    assert made.left_out[f"listed in {doubted.list}"] == 4


def test_page_shows_the_pictures_with_their_files_and_loads_nothing(doubted: doubting.Doubted) -> None:
    page = doubted.page.read_text().replace("<wbr>", "")
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert all(page.count(f">{path}</div>") == 2 for path in WRONG), "among the worst, and under its class"
    assert page.count("data:image/jpeg;base64,") == 8
    assert "90" in page.partition("labels looked at")[2][:80]
    matrix = [re.findall(r"<td[^>]*>([^<]*)<", row) for row in page.split("<tr>") if row.count("<td") == 4]
    assert [row[0] for row in matrix] == ["blue", "green", "red"]


class StopAfter(Watcher):
    """Stops the run at the end of an epoch, as Ctrl-C does."""

    def __init__(self, num_epochs: int) -> None:
        self._left = num_epochs

    def after_epoch(self, end: EpochEnd) -> None:  # noqa: ARG002
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_stopped_folds_go_on_and_end_with_the_same_doubts(
    colours: Path, doubted: doubting.Doubted, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        doubt(colours, tmp_path, quick(), watchers=[StopAfter(8)])
    finished = tmp_path / "fold-1-of-3" / "scores.json"
    before = finished.stat().st_mtime_ns
    assert not (tmp_path / "fold-2-of-3" / "scores.json").exists()
    again = doubt(colours, tmp_path, quick())
    assert finished.stat().st_mtime_ns == before
    assert rows_of(again) == rows_of(doubted)
    assert (tmp_path / "leave-out.csv").read_bytes() == (doubted.folder / "leave-out.csv").read_bytes()


def test_place_of_other_folds_is_refused_before_anything_is_trained(colours: Path, doubted: doubting.Doubted) -> None:
    with pytest.raises(UsageError, match=r"fold-1-of-3: holds another run \(epochs 6\); give another --out"):
        doubt(colours, doubted.folder, quick(epochs=5))


def test_what_cannot_be_doubted_is_refused(colours: Path, tmp_path: Path) -> None:
    for recipe, num_folds, match in (
        (quick(), 1, "--folds 1: expected 2 to 100"),
        (quick(), 50, "50 folds: the build has 90 people or photos"),
        (replace(quick(), fold="1/3"), 3, "fold 1/3: --folds sets it"),
        (replace(quick(), task=Attributes(loss="softmax")), 3, "loss=softmax gives no probability"),
        (replace(quick(), task=Number()), 3, "no such column"),
    ):
        with pytest.raises(UsageError, match=match):
            doubt(colours, tmp_path / "out", recipe, num_folds=num_folds)


def test_run_is_doubted_by_its_own_held_out_splits(colours: Path, tmp_path: Path) -> None:
    folder = train(colours, tmp_path / "run", quick())
    ended = CliRunner().invoke(app, ["doubt", str(folder)])
    assert ended.exit_code == 0, ended.output
    rows = pq.read_table(folder / "doubts" / "doubts.parquet").to_pylist()
    assert {row["part"] for row in rows} == {"valid", "test"}
    table = pq.read_table(colours / "manifest.parquet").to_pylist()
    assert {row["source"] for row in rows} == {row["source"] for row in table if row["split"] in ("valid", "test")}
    assert f"of {len(rows)} labels look wrong" in ended.output


def test_run_without_predictions_or_build_is_refused(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no run.json"):
        doubting.by_run(tmp_path)
    copy = make(draw_colours(tmp_path / "photos"), tmp_path / "build", dataset="folder", classes="", size="keep")
    folder = train(tmp_path / "build", tmp_path / "run", quick(epochs=1))
    assert copy is not None
    (tmp_path / "build").rename(tmp_path / "moved")
    with pytest.raises(JobError, match=r"no build.json.*facepack evaluate RUN --data BUILD"):
        doubting.by_run(folder)


def test_run_of_a_fold_is_evaluated_on_that_fold_and_on_all_of_another_build(
    colours: Path, doubted: doubting.Doubted, tmp_path: Path
) -> None:
    fold = doubted.folder / "fold-1-of-3"
    own = evaluation.evaluate(fold, device="cpu")
    assert (own.results["test"].num, own.results["valid"].num) == (30, 6)
    other = draw_colours(tmp_path / "photos")
    make(other, tmp_path / "other", dataset="folder", classes="", size="keep", split="50/25/25")
    counts = read_build(str(tmp_path / "other")).counts
    elsewhere = evaluation.evaluate(fold, data=str(tmp_path / "other"), device="cpu")
    assert elsewhere.results["test"].num == sum(of_class["packed"] for of_class in counts["test"].values())


def test_network_that_knows_nothing_is_named_where_its_doubts_are(colours: Path, tmp_path: Path) -> None:
    doubted = doubt(colours, tmp_path, quick(epochs=1, lr=1e-9), num_folds=2)
    (problem,) = doubted.problems
    assert problem.startswith("the networks are no better than always predicting the most frequent: 0.")
    assert problem in doubted.page.read_text()


def test_doubtful_attributes_stand_side_by_side_in_the_list(tmp_path: Path) -> None:
    synthetic.draw("celeba", tmp_path / "src", num_images=40)
    make(tmp_path / "src", tmp_path / "build", classes="", split="60/20/20")
    recipe = tiny("celeba_attributes_modern", epochs=1)
    doubted = doubt(tmp_path / "build", tmp_path / "out", recipe, num_folds=2)
    rows = rows_of(doubted)
    assert len(rows) == 40 * 40
    assert {row["given"] for row in rows if row["label"] == "Male"} <= {"Male", "not Male"}
    with (tmp_path / "out" / "leave-out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert doubted.num_photos == len(lines) == len({line["image"] for line in lines})
    assert sum(line["given"].count(";") + 1 for line in lines) == doubted.num_doubtful


def test_no_doubt_writes_no_list_and_takes_an_earlier_one_away(tmp_path: Path, doubted: doubting.Doubted) -> None:
    table = pq.read_table(doubted.folder / "doubts.parquet")
    files.write(tmp_path, table)
    assert (tmp_path / "leave-out.csv").exists()
    files.write(tmp_path, table.filter(pa.array([False] * len(table))))
    assert not (tmp_path / "leave-out.csv").exists()


def test_names_that_a_list_cannot_have_are_left_away_and_given(tmp_path: Path) -> None:
    names = ["a,b.jpg", '#"c".jpg', " d.jpg", "é/e.jpg", "line\nbreak.jpg", "plain.jpg"]
    table = pa.table({"source": names, "given": ["A"] * 6, "likely": ["B"] * 6, "doubt": [1.0] * 6, "key": names})
    missed = files.write(tmp_path, table.append_column("is_doubtful", pa.array([True] * 6)))
    assert missed == [" d.jpg", "line\nbreak.jpg"]
    listed = read_leave_out(str(tmp_path / "leave-out.csv"))
    assert left_out_rows(listed, names, keys=[]).rows == [0, 1, 3, 5]
