"""across: a recipe on several builds and all of them, tested on photos that no build trains on."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import browser
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import make, tiny, train
from typer.testing import CliRunner

import trainer
from facepack import manifest
from facepack.bins import Bins
from facepack.cli import app
from facepack.drawn import synthetic
from facepack.errors import FieldError, UsageError
from facepack.near_duplicates import RADIUS
from facepack.perceptual_hash import mirrored
from trainer import across, across_page, evaluation, runs, same_target, seen
from trainer.data import RunBuild
from trainer.loading.loader import Loader
from trainer.loading.ranges import Ranges
from trainer.run_record import RunRecord
from trainer.training import Settings

SMALL = ["network=small_resnet(widths=(8, 16))", "epochs=1", "batch_size=16", "precision=32-true"]


def opened(place: Path) -> RunBuild:
    return RunBuild.read(str(place), manifest.read_build(str(place)))


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UTKFace split in two ways, other photos of UTKFace and APPA-REAL, and FairFace with its age groups."""
    root = tmp_path_factory.mktemp("across")
    synthetic.draw("utkface", root / "utkface", num_images=120)
    synthetic.draw("appa_real", root / "appa_real", num_images=60)
    synthetic.draw("fairface", root / "fairface", num_images=90)
    for seed, (name, dataset, split) in enumerate(
        (
            ("one", "utkface", "60/20/20"),
            ("two", "utkface", "50/0/50"),
            ("appa", "appa_real", ""),
            ("groups", "fairface", "60/20/20"),
        )
    ):
        make(root / dataset, root / name, dataset=dataset, classes="", split=split, seed=seed)
    return root


@pytest.mark.parametrize(
    ("names", "bins", "middles"),
    [
        (["70+", "3-9", "0-2", "60-69"], "0-2,3-9,60-69,70-", [1.0, 6.0, 64.5, 74.5]),
        (["(25, 32)", "(0, 2)", "more than 70"], "0-2,25-32,70-", [1.0, 28.5, 73.5]),
        (["10 to 19", "20-29"], "10-19,20-29", [14.5, 24.5]),
    ],
)
def test_ranges_are_read_as_publishers_write_them(names: list[str], bins: str, middles: list[float]) -> None:
    ranges = Ranges.of(names)
    assert ranges is not None
    assert ranges.bins == bins
    assert ranges.middles.tolist() == middles
    assert ranges.codes_in(Bins.of(bins, field="bins")).tolist() == list(range(len(names)))


@pytest.mark.parametrize(
    "names", [["male", "female"], ["0-9", "5-12"], ["20-29"], [], ["0-9", "asian"], ["9-3", "10+"]]
)
def test_other_categories_are_no_ranges(names: list[str]) -> None:
    assert Ranges.of(names) is None


def test_middle_of_an_age_group_and_bins_of_groups_are_targets(builds: Path) -> None:
    names = ["age|age_group:middle", "age|age_group:0-19,20-59,60-"]
    with Loader(builds / "groups", split="test", batch_size=64, targets=names, device="cpu") as loader:
        (batch,) = list(loader)
    groups = pq.read_table(builds / "groups" / "manifest.parquet")["age_group"].to_pylist()
    for row, middle, code in zip(batch.rows.tolist(), *(batch.targets[name].tolist() for name in names), strict=True):
        first = int(groups[row].rstrip("+").split("-")[0])
        width = {0: 2, 3: 6}.get(first, 9)
        assert middle == first + width / 2
        assert loader.targets[names[1]].names[code] == ("0-19" if first < 20 else "20-59" if first < 60 else "60-")
    with Loader(builds / "one", split="test", batch_size=64, targets=names, device="cpu") as loader:
        (batch,) = list(loader)
    ages = pq.read_table(builds / "one" / "manifest.parquet")["age"].to_pylist()
    assert batch.targets[names[0]].tolist() == [ages[row] for row in batch.rows.tolist()]
    with pytest.raises(FieldError, match="of no whole bin, such as"):
        Loader(builds / "groups", split="train", batch_size=8, targets=["age_group:0-24,25-"])
    with pytest.raises(FieldError, match="gender is neither a number nor ranges of one"):
        Loader(builds / "groups", split="test", batch_size=8, targets=["gender:middle"])


def test_what_stands_for_a_target_is_found_and_its_absence_is_refused(builds: Path) -> None:
    one, appa, groups = (opened(builds / name) for name in ("one", "appa", "groups"))
    assert same_target.common_target("age", [one, appa, groups]) == "age|real_age|age_group:middle"
    assert same_target.common_target("apparent_age", [one, appa]) == "apparent_age|age"
    assert same_target.common_target("age", [one]) == "age"
    assert same_target.common_target("gender", [one, groups]) == "gender"
    ranges = same_target.ranges_of("age_group", groups)
    assert ranges is not None
    expected = f"age_group:{ranges.bins}|age:{ranges.bins}"
    assert same_target.common_target("age_group", [groups, one]) == expected
    assert same_target.common_target("age:0-19,20-", [one, groups]) == "age:0-19,20-|age_group:0-19,20-"
    with pytest.raises(UsageError, match=r"appa: no race_of_men to test on; it has apparent_age, real_age"):
        same_target.common_target("race_of_men", [appa, groups])
    with pytest.raises(UsageError, match=r"groups: no classes to test on"):
        same_target.common_target("class", [groups, one])


def test_photos_of_another_build_are_known_by_their_files(builds: Path) -> None:
    one, two = opened(builds / "one"), opened(builds / "two")
    tested = two.rows("test")
    masks = seen.seen_in(seen.Photos.of(two, tested), [seen.Photos.of(one, one.rows("train"))])
    trained = set(one.table.take(one.rows("train"))["source_sha256"].to_pylist())
    expected = [digest in trained for digest in two.table.take(tested)["source_sha256"].to_pylist()]
    assert 0 < sum(expected) < len(expected)
    assert masks[seen.Reason.PHOTO].tolist() == expected
    assert seen.counted(masks) == {"the same photo": sum(expected)}


def test_photos_that_look_alike_are_known_by_their_hashes(builds: Path) -> None:
    hashes = np.array([0b1111 << 60, 0b1 << 40, 2**64 - 1], np.uint64)
    near = hashes ^ np.array([(1 << RADIUS) - 1, (2 << RADIUS) - 1, 0], np.uint64)
    trained = replace(seen.Photos.of(opened(builds / "one"), np.arange(3)), hashes=pa.chunked_array([hashes]))
    tested = seen.Photos.of(opened(builds / "groups"), opened(builds / "groups").rows("test")[:4])
    tested = replace(tested, hashes=pa.chunked_array([pa.array([*near.tolist(), None], pa.uint64())]))
    masks = seen.seen_in(tested, [trained])
    assert masks[seen.Reason.LOOK].tolist() == [True, False, True, False], "one bit more is too far"
    assert tested.are_hashed
    turned = replace(trained, hashes=pa.chunked_array([mirrored(hashes)]))
    assert (seen.seen_in(tested, [turned])[seen.Reason.LOOK] == masks[seen.Reason.LOOK]).all()


def test_one_person_is_one_in_all_builds_of_a_dataset_but_not_in_another(tmp_path: Path) -> None:
    synthetic.draw("cacd", tmp_path / "cacd", num_images=120)
    for name, seed in (("one", 1), ("two", 2)):
        make(tmp_path / "cacd", tmp_path / name, dataset="cacd", classes="", split="identity:50/0/50", seed=seed)
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two")
    photos, trained = seen.Photos.of(two, two.rows("test")), seen.Photos.of(one, one.rows("train"))
    masks = seen.seen_in(photos, [trained])
    people = set(trained.people.to_pylist())
    is_known = np.array([person in people for person in photos.people.to_pylist()])
    assert is_known.any()
    assert (seen.any_of(masks, num=photos.num) == is_known).all(), "every photo of theirs is one of one build"
    assert all(person.startswith("cacd/") for person in people)
    strangers = replace(photos, people=photos.sources)
    assert not seen.seen_in(strangers, [trained])[seen.Reason.PERSON].any()


def test_evaluate_says_how_many_images_the_run_has_met_and_scores_without_them(builds: Path, tmp_path: Path) -> None:
    run = train(builds / "one", tmp_path / "run", tiny("age_modern", epochs=1))
    ended = CliRunner().invoke(app, ["evaluate", str(run), "--data", str(builds / "two"), "--split", "test"])
    assert ended.exit_code == 0, ended.output
    evaluated = evaluation.evaluate(run, data=str(builds / "two"), splits=["test"], device="cpu")
    one, two = opened(builds / "one"), opened(builds / "two")
    met = {*one.table.take(np.r_[one.rows("train"), one.rows("valid")])["source_sha256"].to_pylist()}
    is_met = np.array([digest in met for digest in two.table.take(two.rows("test"))["source_sha256"].to_pylist()])
    assert evaluated.scores.seen["test"] == {"the same photo": is_met.sum()}
    rows = pq.read_table(evaluated.folder / runs.PREDICTIONS_FILE)
    errors = np.abs(rows["target"].to_numpy() - rows["prediction"].to_numpy())
    assert evaluated.scores.unseen["test"].score == pytest.approx(errors[~is_met].mean(), rel=1e-5)
    assert evaluated.scores.splits["test"].score == pytest.approx(errors.mean(), rel=1e-5)
    line = f"test: {is_met.sum()} of {len(is_met)} images are of its training ({is_met.sum()} the same photo); without"
    assert line in ended.output
    own = evaluation.evaluate(run, splits=["test"], device="cpu")
    assert own.scores.seen["test"] == {}
    assert own.seen_lines(["test"]) == []


def test_builds_that_are_gone_leave_it_open_what_a_run_has_met(builds: Path, tmp_path: Path) -> None:
    shutil.copytree(builds / "one", tmp_path / "gone")
    run = train(tmp_path / "gone", tmp_path / "run", tiny("age_modern", epochs=1))
    shutil.rmtree(tmp_path / "gone")
    evaluated = evaluation.evaluate(run, data=str(builds / "two"), splits=["test"], device="cpu")
    assert evaluated.scores.seen == {}
    (line,) = evaluated.seen_lines(["test"])
    assert "not known" in line


@pytest.fixture(scope="module")
def ended(builds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment across three builds."""
    out = tmp_path_factory.mktemp("ended") / "out"
    result = CliRunner().invoke(app, command(builds, out))
    assert result.exit_code == 0, result.output
    (out / "output.txt").write_text(result.output)
    return out


def command(builds: Path, out: Path) -> list[str]:
    places = [part for name in ("one", "two", "groups") for part in ("--data", str(builds / name))]
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return ["experiment", "age_modern", "--across", *places, *settings, "--out", str(out), "--device", "cpu"]


def test_every_run_is_tested_on_the_same_photos_that_no_build_trains_on(ended: Path, builds: Path) -> None:
    content = json.loads((ended / across_page.DATA_FILE).read_text())
    assert [(build["name"], build["split"], build["target"]) for build in content["builds"]] == [
        ("one", "test", "age"),
        ("two", "test", "age"),
        ("groups", "test", "age_group:middle"),
    ]
    cells = content["cells"]
    rows = ["one", "two", "groups", "all mixed"]
    assert [(cell["trained_on"], cell["tested_on"]) for cell in cells] == [
        (row, column) for row in rows for column in rows[:3]
    ]
    one, two = opened(builds / "one"), opened(builds / "two")
    met = {*two.table.take(two.rows("train"))["source_sha256"].to_pylist()}
    num_left = sum(digest not in met for digest in one.table.take(one.rows("test"))["source_sha256"].to_pylist())
    assert {cell["num"] for cell in cells if cell["tested_on"] == "one"} == {num_left}
    assert content["left_out"]["one"] == {"the same photo": len(one.rows("test")) - num_left}
    pairs = {(pair["trained_on"], pair["tested_on"]): pair["by_reason"] for pair in content["in_common"]}
    assert pairs["two", "one"] == content["left_out"]["one"]
    assert pairs["one", "one"] == pairs["groups", "one"] == {}
    with (ended / across_page.TABLE_FILE).open() as file:
        assert [float(row["absolute_error"]) for row in csv.DictReader(file)] == [cell["score"] for cell in cells]


def test_figures_of_the_matrix_are_those_of_the_predictions(ended: Path, builds: Path) -> None:
    cells = json.loads((ended / across_page.DATA_FILE).read_text())["cells"]
    cell = next(cell for cell in cells if (cell["trained_on"], cell["tested_on"]) == ("two", "groups"))
    (folder,) = (ended / "age_modern-on=two").glob("on-groups-*")
    table = pq.read_table(folder / runs.PREDICTIONS_FILE)
    predicted, true = (table[name].to_numpy() for name in ("prediction", "target"))
    assert cell["num"] == cell["num_all"] == len(opened(builds / "groups").rows("test"))
    assert cell["score"] == pytest.approx(np.abs(predicted - true).mean(), rel=1e-5)
    assert cell["interval"][0] < cell["score"] < cell["interval"][1]
    groups = opened(builds / "groups").table["age_group"].take(table["row"]).to_pylist()
    bounds = [
        (int(group.rstrip("+").split("-")[0]), int(group.split("-")[1]) if "-" in group else 999) for group in groups
    ]
    is_right = [low <= max(round(float(age)), 0) <= high for age, (low, high) in zip(predicted, bounds, strict=True)]
    assert cell["in_group"]["value"] == pytest.approx(np.mean(is_right))
    own = next(cell for cell in cells if cell["trained_on"] == cell["tested_on"] == "groups")
    assert own["is_own"]
    results = RunRecord.read(ended / "age_modern-on=groups").results["test"]
    assert own["score_all"] == pytest.approx(results.score, rel=1e-5)


def test_page_and_terminal_show_the_matrix_and_what_was_left_out(ended: Path) -> None:
    output, page = (ended / "output.txt").read_text(), (ended / across_page.PAGE_FILE).read_text()
    cells = json.loads((ended / across_page.DATA_FILE).read_text())["cells"]
    for cell in cells:
        assert f"{cell['score']:.2f}" in page
        assert f"{cell['score']:.2f}" in output
    assert "photos left out" in output
    for words in (
        "Photos left out of the tests",
        "Predicted age in the right age group, %",
        "age_group stands for years",
    ):
        assert words in page
    assert (ended / across_page.PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    assert (ended / "age_modern-on=all-mixed" / runs.REPORT_FILE).exists()


@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width_px", [400, 1200])
def test_page_fits_on_a_phone_without_broken_words(ended: Path, width_px: int) -> None:
    assert browser.look(ended / across_page.PAGE_FILE, width_px=width_px) == {
        "outside": [],
        "broken": [],
        "scrolls": False,
    }


def test_second_command_keeps_runs_and_tests_that_are_there(ended: Path, builds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(ended, out)
    shutil.rmtree(out / "age_modern-on=two")
    kept = [*out.glob("*/best.ckpt"), *out.glob("*/on-*/predictions.parquet")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) == 3 + 2 + 2 + 3
    result = CliRunner().invoke(app, command(builds, out))
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    for name in (across_page.TABLE_FILE, across_page.PLOT_FILE):
        assert (out / name).read_bytes() == (ended / name).read_bytes()


def test_library_goes_on_with_the_same_experiment(ended: Path, builds: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path / "out")
    settings = dict(setting.partition("=")[::2] for setting in SMALL)
    places = [builds / name for name in ("one", "two", "groups")]
    matrix = trainer.across_builds("age_modern", data=places, out=tmp_path / "out", device="cpu", **settings)
    cells = json.loads((ended / across_page.DATA_FILE).read_text())["cells"]
    assert [cell.score for cell in matrix.cells] == [cell["score"] for cell in cells]
    assert matrix.best("one") in matrix.plan.rows


def test_classes_that_a_build_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    for seed, (name, classes) in enumerate((("one", ["a", "b"]), ("two", ["b", "c"]))):
        synthetic.draw("folder", tmp_path / f"{name}-drawn", num_images=60, seed=seed)
        photos = sorted((tmp_path / f"{name}-drawn").rglob("*.jpg"))[:40]
        for number, path in enumerate(photos):
            place = tmp_path / name / "src" / classes[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / f"{name}{number}.jpg")
        make(tmp_path / name / "src", tmp_path / name / "build", dataset="folder", classes="all", split="50/20/30")
    places = [str(tmp_path / name / "build") for name in ("one", "two")]
    plan = across.planned(["simpsons_modern"], SMALL, data=places)
    assert [member.name for member in plan.members] == ["one/build", "two/build"]
    matrix, _ = across.run(plan, out=tmp_path / "out", settings=Settings(device="cpu"))
    table = pq.read_table(tmp_path / "two" / "build" / "manifest.parquet")
    tested = table.filter(pc.and_(pc.equal(table["split"], "test"), pc.equal(table["status"], "packed")))["class"]
    counts = {name: tested.to_pylist().count(name) for name in ("b", "c")}
    cell = matrix.cell("one/build", "two/build")
    assert (cell.unknown, cell.num) == ({"c": counts["c"]}, counts["b"])
    assert matrix.cell("all mixed", "two/build").unknown == {}
    page = across_page.write(matrix, tmp_path / "out").read_text()
    assert f"left out {counts['c']} of c, which it never learnt" in page
    assert "Photos per class" in page


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(builds: Path, tmp_path: Path) -> None:
    one, groups = str(builds / "one"), str(builds / "groups")
    refused = [
        (["age_modern"], [one], "give at least two"),
        (["age_modern"], [one, one], "the same build as"),
        (["age_modern", "cacd_age"], [one, groups], "takes one recipe"),
        (["simpsons_modern"], [one, groups], "no classes to test on"),
    ]
    make(builds / "utkface", tmp_path / "large", dataset="utkface", classes="", split="60/20/20", size="48")
    refused.append((["age_modern"], [one, str(tmp_path / "large")], "images of different sizes"))
    make(builds / "utkface", tmp_path / "untested", dataset="utkface", classes="", split="100/0/0")
    refused.append((["age_modern"], [one, str(tmp_path / "untested")], "neither a test nor a valid split"))
    for names, data, words in refused:
        with pytest.raises(UsageError, match=words):
            across.planned(names, SMALL, data=data)
    with pytest.raises(UsageError, match="one value per setting"):
        across.planned(["age_modern"], [*SMALL, "lr=0.1", "lr=0.2"], data=[one, groups])
