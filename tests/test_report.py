"""report and comparison: pages that agree with the files of a run, load nothing, and show the mistakes."""

import json
import shutil
from pathlib import Path

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make, tiny, train, use_s3
from test_preview import Reader

from facepack.description import load_dataset
from facepack.drawn import synthetic
from facepack.errors import JobError, UsageError
from facepack.storage import Store
from trainer import comparison, evaluation, plots, report, runs


@pytest.fixture(scope="module")
def run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make(celeba, folder / "build", split="60/20/20")
    return train(folder / "build", folder / "run", tiny())


def page(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_page_agrees_with_the_files(run: Path) -> None:
    read = page(report.write(run))
    scores = json.loads((run / runs.SCORES_FILE).read_text())["splits"]
    assert f"{100 * scores['test']['accuracy']:.1f} %" in read.text
    assert f"majority {100 * scores['test']['majority']:.1f} %" in read.text
    for row in scores["test"]["per_class"]:
        assert row["name"] in read.text
        assert f"{row['f1']:.3f}" in read.text
    assert "people are in more than one split" in read.text
    assert "A facepack run of tiny" in read.text
    assert "RandomHorizontalFlip(p=0.5)" in read.text
    assert "waiting for the loader" in read.text


def test_page_and_plots_go_where_they_are_asked_for(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "mine.html"
    assert report.write(run, out=out) == out
    assert out.read_bytes() == report.write(run).read_bytes()
    assert sorted(path.name for path in out.parent.glob("*.png")) == sorted(path.name for path in run.glob("*.png"))


def test_page_loads_nothing_and_shows_every_mistake(run: Path) -> None:
    path = report.write(run)
    read = page(path)
    assert read.loaded == []
    predictions = pq.read_table(run / runs.PREDICTIONS_FILE).to_pylist()
    wrong = [row for row in predictions if row["split"] == "test" and row["target"] != row["prediction"]]
    assert wrong, "a network that never errs shows nothing"
    assert len(read.pictures) == min(len(wrong), 36)
    surest = max(wrong, key=lambda row: max(row["probabilities"]))
    table = pq.read_table(run.parent / "build" / "manifest.parquet").to_pylist()[surest["row"]]
    tar = (run.parent / "build" / table["shard"]).read_bytes()
    assert read.pictures[0] == tar[table["offset"] : table["offset"] + table["size"]]
    assert path.read_text(encoding="utf-8").count("<svg") == 4


def test_axes_say_predicted_and_true() -> None:
    matrix = np.eye(2)
    ages = np.array([10.0, 20.0, 31.0])
    for plot in (
        plots.confusion("a", "a", matrix=matrix, names=["x", "y"]),
        plots.predicted_against_true("b", "b", true=ages, predicted=ages + 1),
    ):
        assert "<!-- predicted -->" in plot.svg
        assert "<!-- true -->" in plot.svg


def test_people_are_counted_by_the_identities_that_the_description_names(tmp_path: Path) -> None:
    synthetic.draw("cacd", tmp_path / "cacd", num_images=120)
    make(tmp_path / "cacd", tmp_path / "build", dataset="cacd", classes="", split="60/20/20")
    folder = train(tmp_path / "build", tmp_path / "run", tiny("age_modern", epochs=1, lr=1e-3))
    table = pq.read_table(tmp_path / "build" / "manifest.parquet")
    rows = [row for row in table.to_pylist() if row["status"] == "packed"]
    (column,) = load_dataset("cacd").labels_of("identity")
    splits: dict[int, set[str]] = {}
    for row in rows:
        splits.setdefault(row[column], set()).add(row["split"])
    people = report.people_in_several_splits(runs.read(folder))
    assert people.num_people == len(splits)
    assert people.num_leaking == sum(len(names) > 1 for names in splits.values()) > 0


def test_dataset_without_identities_is_said_so(tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "utkface", num_images=120)
    make(tmp_path / "utkface", tmp_path / "build", dataset="utkface", classes="", split="60/20/20")
    folder = train(tmp_path / "build", tmp_path / "run", tiny("age_modern", epochs=1, lr=1e-3))
    assert report.people_in_several_splits(runs.read(folder)) == report.PeopleInSplits(None)
    assert "The dataset names no identities" in page(report.write(folder)).text


def test_plots_are_pngs_too_and_the_same_every_time(run: Path) -> None:
    report.write(run)
    names = ["curves-loss.png", "curves-accuracy.png", "confusion-test.png", "confusion-valid.png"]
    before = {name: (run / name).read_bytes() for name in [*names, "report.html"]}
    assert all(before[name].startswith(b"\x89PNG") for name in names)
    report.write(run)
    assert {name: (run / name).read_bytes() for name in before} == before


def test_run_whose_build_is_gone_has_a_page_without_pictures(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content["data"]["location"] = str(tmp_path / "gone")
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    read = page(report.write(tmp_path / "run"))
    assert "The build is not at hand, so no mistake can be shown" in read.text
    assert read.pictures == []


def test_run_that_has_not_ended_has_a_page(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for name in (runs.SCORES_FILE, runs.PREDICTIONS_FILE):
        (tmp_path / "run" / name).unlink()
    assert "This run has not ended" in page(report.write(tmp_path / "run")).text


def test_attributes_have_a_table_of_their_own(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", classes="", split="60/20/20", encoding="raw")
    read = page(report.write(train(tmp_path / "build", tmp_path / "run", tiny("celeba_attributes_modern", epochs=1))))
    assert "No_Beard" in read.text
    assert "average precision" in read.text
    assert read.pictures, "raw images are shown, too"


def test_page_of_runs_side_by_side_shows_what_differs(run: Path, tmp_path: Path) -> None:
    other = train(run.parent / "build", tmp_path / "other", tiny(lr=0.1))
    path = comparison.compare([run, other], out=tmp_path / "compare.html")
    read = page(path)
    assert "2 runs" in read.text
    assert " optimizer " in read.text
    assert "lr=0.1" in read.text
    assert " network " not in read.text.partition("In what they differ")[2]
    assert read.loaded == []


def test_runs_with_different_scores_cannot_be_compared(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "ages")
    content = json.loads((tmp_path / "ages" / "run.json").read_text())
    content["recipe"]["task"] = "Number()"
    (tmp_path / "ages" / "run.json").write_text(json.dumps(content))
    (tmp_path / "ages" / runs.SCORES_FILE).unlink()
    with pytest.raises(UsageError, match="its score is absolute_error, that of the first run accuracy"):
        comparison.compare([run, tmp_path / "ages"], out=tmp_path / "compare.html")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"recipe": {}}'])
def test_folder_that_holds_no_run_is_one_clear_line(tmp_path: Path, content: str) -> None:
    with pytest.raises(JobError, match=r"no run\.json, so no run"):
        report.write(tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(JobError, match=r"run\.json: (not valid|damaged)"):
        report.write(tmp_path)


def test_run_on_an_object_store_is_trained_scored_and_shown_as_any_other(
    run: Path, tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3_server)
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="report")
    for path in (run.parent / "build").iterdir():
        Store("s3://report/build").write(path.name, path.read_bytes())
    train("s3://report/build", tmp_path / "run", tiny())
    figures = [json.loads((one / runs.SCORES_FILE).read_text())["splits"] for one in (tmp_path / "run", run)]
    assert [one["test"]["num"] for one in figures] == [30, 30]
    read = page(report.write(tmp_path / "run"))
    assert "s3://report/build" in read.text
    assert len(read.pictures) == round(30 * (1 - figures[0]["test"]["accuracy"]))
    assert evaluation.evaluate(tmp_path / "run", device="cpu").folder == tmp_path / "run"
