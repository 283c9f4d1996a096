"""experiment: recipes and settings side by side, in one table and page; what cannot be trained loses nothing."""

import csv
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import make, tiny
from typer.testing import CliRunner

from facepack.cli import app
from facepack.drawn import synthetic
from facepack.errors import JobError, UsageError
from trainer import experiments, recipes, runs, training

SMALL = ["network=small_resnet(widths=(8, 16))", "epochs=1", "batch_size=16", "precision=32-true"]


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experiment") / "build"
    make(celeba, out, split="60/20/20")
    return out


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / experiments.TABLE_FILE).open() as file:
        return list(csv.DictReader(file))


class Rows(HTMLParser):
    """Counts the rows of a page's first table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.number = 0
        self.feed(page.partition("</table>")[0])

    def handle_starttag(self, tag: str, _: object) -> None:
        self.number += tag == "tr"


def test_family_means_all_its_recipes_and_several_values_each_in_turn() -> None:
    names = [one.recipe_name for one in experiments.planned(["age_groups"], [], data=["build"])]
    assert names == recipes.families()["age_groups"]
    variants = ("batch_8", "plain", "unfrozen", "fast", "sgd_slow", "sgd")
    assert names[:7] == ["age_groups", *(f"age_groups_{one}" for one in variants)]
    assert names[7:] == ["age_groups_hog_svm", "age_groups_lbp_mlp"]
    assert [one.name for one in experiments.planned(["age_groups/age_groups"], [], data=["build"])] == ["age_groups"]
    plan = experiments.planned(
        ["cacd_age"], ["lr=0.1", "epochs=3", "lr=0.2", "batch_size=8", "batch_size=4"], data=["b"]
    )
    assert [one.name for one in plan] == [
        f"cacd_age-lr={lr}-batch_size={size}" for lr in ("0.1", "0.2") for size in (8, 4)
    ]
    assert {(one.recipe.optimizer.lr, one.recipe.batch_size, one.recipe.epochs) for one in plan} == {
        (lr, size, 3) for lr in (0.1, 0.2) for size in (8, 4)
    }
    on = experiments.planned(["cacd_age"], [], data=["a/clean", "a/mixed"])
    assert [(one.name, one.data) for one in on] == [("cacd_age-on=clean", "a/clean"), ("cacd_age-on=mixed", "a/mixed")]


def test_what_is_not_known_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(UsageError, match="did you mean cacd_age"):
        experiments.planned(["cacd_ages"], [], data=["build"])
    with pytest.raises(UsageError, match="cannot stand in one table: absolute error of cacd_age, accuracy of simpsons"):
        experiments.planned(["cacd_age", "simpsons_cnn"], [], data=["build"])
    with pytest.raises(UsageError, match="two runs of this name"):
        experiments.planned(["cacd_age"], ["lr=0.1", "lr=0.1"], data=["build"])
    with pytest.raises(UsageError, match="expected field=value"):
        experiments.planned(["cacd_age"], ["lr"], data=["build"])


def test_runs_are_side_by_side_and_a_second_call_trains_only_what_is_new(build: Path, tmp_path: Path) -> None:
    arguments = ["experiment", "celeba_rarest4_modern", "--data", str(build), "--out", str(tmp_path / "out")]
    arguments += [part for setting in SMALL for part in ("--set", setting)] + ["--device", "cpu"]
    first = CliRunner().invoke(app, [*arguments, "--set", "lr=0.01", "--set", "lr=0.02"])
    assert first.exit_code == 0, first.output
    rows = table_of(tmp_path / "out")
    assert [row["run"] for row in rows] == [f"celeba_rarest4_modern-lr={lr}" for lr in ("0.01", "0.02")]
    assert all(0 <= float(row["test_accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    assert [Path(row["build"]).name for row in rows] == ["build", "build"]
    page = (tmp_path / "out" / experiments.PAGE_FILE).read_text()
    assert Rows(page).number == 3
    assert "lr=0.02" in first.output
    kept = (tmp_path / "out" / "celeba_rarest4_modern-lr=0.01" / runs.BEST_FILE).stat().st_mtime_ns
    more = CliRunner().invoke(app, [*arguments, "--set", "lr=0.01", "--set", "lr=0.03"])
    assert more.exit_code == 0, more.output
    assert "celeba_rarest4_modern-lr=0.01 (1 of 2): is there" in more.output
    assert (tmp_path / "out" / "celeba_rarest4_modern-lr=0.01" / runs.BEST_FILE).stat().st_mtime_ns == kept
    names = [row["run"] for row in table_of(tmp_path / "out")]
    assert names == [f"celeba_rarest4_modern-lr={lr}" for lr in ("0.01", "0.03", "0.02")], "what was there stays"


def test_run_on_another_build_is_not_taken_for_this_one(build: Path, celeba: Path, tmp_path: Path) -> None:
    plan = experiments.planned(["celeba_rarest4_modern"], SMALL, data=[str(build)])
    experiments.run(plan, out=tmp_path / "out", settings=training.Settings(device="cpu"))
    make(celeba, tmp_path / "other", split="60/20/20", seed=5)
    other = experiments.planned(["celeba_rarest4_modern"], SMALL, data=[str(tmp_path / "other")])
    before = (tmp_path / "out" / experiments.TABLE_FILE).read_bytes()
    with pytest.raises(UsageError, match=r"holds another run .on another build"):
        experiments.run(other, out=tmp_path / "out", settings=training.Settings(device="cpu"))
    changed = experiments.planned(["celeba_rarest4_modern"], [*SMALL, "lr=0.02"], data=[str(build)])
    with pytest.raises(UsageError, match=r"holds another run .optimizer.lr 0\.01.*give another --out"):
        experiments.run(changed, out=tmp_path / "out", settings=training.Settings(device="cpu"))
    nowhere = experiments.planned(["celeba_rarest4_modern"], SMALL, data=[str(build), str(tmp_path / "nowhere")])
    with pytest.raises(JobError, match="nowhere"):
        experiments.run(nowhere, out=tmp_path / "new", settings=training.Settings(device="cpu"))
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "out" / experiments.TABLE_FILE).read_bytes() == before


def test_run_that_fails_is_named_and_the_others_are_kept(build: Path, tmp_path: Path) -> None:
    arguments = ["experiment", "celeba_rarest4_modern", "--data", str(build), "--out", str(tmp_path / "out")]
    arguments += [part for setting in SMALL for part in ("--set", setting)] + ["--device", "cpu"]
    arguments += ["--set", "optimizer=SGD", "--set", "lr=1e30", "--set", "lr=0.01"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 1
    assert "1 of 2 runs could not be trained: celeba_rarest4_modern-lr=1e30" in ended.output
    rows = {row["run"]: row for row in table_of(tmp_path / "out")}
    assert "the loss is" in rows["celeba_rarest4_modern-lr=1e30"]["problem"]
    assert float(rows["celeba_rarest4_modern-lr=0.01"]["test_accuracy"]) >= 0
    assert Rows((tmp_path / "out" / experiments.PAGE_FILE).read_text()).number == 2


def test_people_in_two_splits_are_told_beside_the_error_of_ages(tmp_path: Path) -> None:
    synthetic.draw("cacd", tmp_path / "cacd", num_images=160)
    for split, name in (("identity:60/20/20", "clean"), ("60/20/20", "mixed")):
        make(tmp_path / "cacd", tmp_path / name, dataset="cacd", classes="", split=split)
    plan = experiments.planned(["age_modern"], SMALL, data=[str(tmp_path / name) for name in ("clean", "mixed")])
    rows = experiments.run(plan, out=tmp_path / "out", settings=training.Settings(device="cpu"))
    clean, mixed = (row.figures for row in rows)
    assert (clean["build"], mixed["build"]) == ("clean", "mixed")
    assert clean["num_leaking"] == 0
    assert mixed["num_leaking"] > 0
    assert all(row["test_absolute_error"] > 0 and row["baseline"] > 0 for row in (clean, mixed))
    report = (tmp_path / "out" / "age_modern-on=clean" / runs.REPORT_FILE).read_text()
    for words in ("Error against age on test", "Share of test with an error of at most", "By decade on test"):
        assert words in report


def test_classical_rival_is_a_recipe_with_the_same_report_predictions_and_resume(build: Path, tmp_path: Path) -> None:
    recipe = tiny("age_groups_hog_svm", network="hog_svm(cell=8)", augment=RAW, eval_augment=RAW)
    for _ in range(2):
        training.train("hog", recipe, data=str(build), out=tmp_path / "run", settings=training.Settings(device="cpu"))
    with (tmp_path / "run" / runs.METRICS_FILE).open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["train_accuracy"]) > 0.9
    assert float(row["valid_accuracy"]) > 0.4
    arguments = ["evaluate", str(tmp_path / "run"), "--split", "test", "--device", "cpu"]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    assert "Confusion on train" in (tmp_path / "run" / runs.REPORT_FILE).read_text()
    wrong: list[tuple[dict[str, Any], str]] = [({"mixup": 0.2}, "mixup does"), ({"average": 0.9}, "average does not")]
    for settings, reason in wrong:
        with pytest.raises(UsageError, match=reason):
            changed = replace(recipe, **settings)
            training.train(
                "hog", changed, data=str(build), out=tmp_path / "other", settings=training.Settings(device="cpu")
            )


RAW = recipes.load("celeba_rarest4").augment


def test_run_is_resumed_by_its_folder_alone(build: Path, tmp_path: Path) -> None:
    recipe = tiny(epochs=1)
    training.train(
        "celeba_rarest4_modern", recipe, data=str(build), out=tmp_path / "run", settings=training.Settings(device="cpu")
    )
    before = (tmp_path / "run" / runs.BEST_FILE).read_bytes()
    ended = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "run"), "--device", "cpu"])
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "run" / runs.REPORT_FILE).exists()
    assert (tmp_path / "run" / runs.BEST_FILE).read_bytes() == before
    for wrong in (["celeba_rarest4", "--resume", str(tmp_path / "run")], [], ["celeba_rarest4"]):
        refused = CliRunner().invoke(app, ["train", *wrong])
        assert refused.exit_code == 2
        assert "--resume RUN" in refused.output
