"""evaluation: every sample once with its own prediction, figures that agree, and builds that do not fit refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make, tiny, train

from facepack.drawn import synthetic
from facepack.errors import JobError, UsageError
from trainer import checkpoint, evaluation, recipes, report, runs, scores
from trainer.data import OTHER, Data, Mixture, Placement
from trainer.evaluation import Predictions, Trained
from trainer.loader import Loader
from trainer.optim import AdamW
from trainer.recipe import Negatives
from trainer.results.classes import ClassResults
from trainer.task import Attributes, Number

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "build"
    make(celeba, out, split="60/20/20")
    return out


@pytest.fixture(scope="module")
def whole(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All drawn faces with their forty attributes, without classes."""
    out = tmp_path_factory.mktemp("evaluate") / "whole"
    make(celeba, out, split="60/20/20", classes="")
    return out


@pytest.fixture(scope="module")
def run(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(build, tmp_path_factory.mktemp("evaluate") / "run", tiny())


def test_predictions_hold_every_sample_of_valid_and_test_once(build: Path, run: Path) -> None:
    manifest = pq.read_table(build / "manifest.parquet")
    kept = manifest.filter(
        pc.and_(pc.is_in(manifest["split"], pc.pa.array(["valid", "test"])), pc.is_valid(manifest["shard"]))
    )
    predictions = pq.read_table(run / runs.PREDICTIONS_FILE)
    assert sorted(predictions["key"].to_pylist()) == sorted(kept["key"].to_pylist())
    classes = dict(zip(kept["key"].to_pylist(), kept["class"].to_pylist(), strict=True))
    assert all(classes[row["key"]] == row["target"] for row in predictions.to_pylist())
    probabilities = np.array(predictions["probabilities"].to_pylist())
    assert probabilities.shape == (len(kept), 4)
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    names = runs.read(run).names
    assert [names[number] for number in probabilities.argmax(axis=1)] == predictions["prediction"].to_pylist()


def test_figures_agree_with_the_predictions(run: Path) -> None:
    predictions = pq.read_table(run / runs.PREDICTIONS_FILE).to_pylist()
    written = json.loads((run / runs.SCORES_FILE).read_text())
    for split, figures in written["splits"].items():
        rows = [row for row in predictions if row["split"] == split]
        assert figures["num"] == len(rows)
        assert figures["accuracy"] == pytest.approx(np.mean([row["target"] == row["prediction"] for row in rows]))
        assert sum(map(sum, figures["confusion"])) == len(rows)
        assert sum(row["support"] for row in figures["per_class"]) == len(rows)


def test_evaluating_again_gives_the_same_bytes(run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in (runs.SCORES_FILE, runs.PREDICTIONS_FILE)}
    evaluated = evaluation.evaluate(run, device=CPU)
    assert evaluated.folder == run
    assert evaluated.scores == scores.read(run, results=ClassResults)
    assert before == {name: (run / name).read_bytes() for name in before}


def test_another_build_of_the_same_classes_is_scored_beside_the_runs_own(run: Path, tmp_path: Path) -> None:
    synthetic.draw("celeba", tmp_path / "celeba", num_images=120, seed=5)
    make(tmp_path / "celeba", tmp_path / "another", split="60/20/20", seed=3)
    before = (run / runs.SCORES_FILE).read_bytes()
    evaluated = evaluation.evaluate(run, data=str(tmp_path / "another"), device=CPU)
    assert evaluated.folder.name.startswith("on-another-")
    assert evaluated.folder.parent == run
    assert list(evaluated.results) == ["valid", "test"]
    assert (run / runs.SCORES_FILE).read_bytes() == before
    assert (evaluated.folder / runs.PREDICTIONS_FILE).exists()


def test_one_split_alone_leaves_the_results_of_the_others(run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in (runs.SCORES_FILE, runs.PREDICTIONS_FILE)}
    kept = json.loads(before[runs.SCORES_FILE])["splits"]
    evaluated = evaluation.evaluate(run, splits=["train"], device=CPU)
    assert set(evaluated.results) == {"train", "valid", "test"}
    written = json.loads((run / runs.SCORES_FILE).read_text())["splits"]
    assert {split: written[split] for split in kept} == kept
    rows = pq.read_table(run / runs.PREDICTIONS_FILE)
    assert rows["split"].to_pylist().count("test") == kept["test"]["num"]
    for name, content in before.items():
        (run / name).write_bytes(content)


def test_build_that_was_moved_is_known_again(run: Path, build: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(build, tmp_path / "moved")
    evaluated = evaluation.evaluate(tmp_path / "run", data=str(tmp_path / "moved"), device=CPU)
    assert evaluated.folder == tmp_path / "run"
    assert runs.read(tmp_path / "run").data.location == str(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(JobError, match="where the build of the run lies now, say with --data"):
        evaluation.evaluate(tmp_path / "run", device=CPU)


def test_build_with_other_classes_is_refused(celeba: Path, run: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "other", classes="Male,Young")
    with pytest.raises(UsageError, match=r"its classes are not those of .*: number 0 is Male there, Bald here"):
        evaluation.evaluate(run, data=str(tmp_path / "other"), device=CPU)
    make(celeba, tmp_path / "turned", classes="Mustache,Bald,Gray_Hair,Pale_Skin")
    with pytest.raises(UsageError, match="number 0 is Mustache there, Bald here"):
        evaluation.evaluate(run, data=str(tmp_path / "turned"), device=CPU)


def test_build_of_another_size_is_refused(celeba: Path, run: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "large", size="48")
    with pytest.raises(UsageError, match=r"images of 48x48 pixels; .* was trained on 32x32"):
        evaluation.evaluate(run, data=str(tmp_path / "large"), device=CPU)


def test_best_network_of_another_kind_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    checkpoint.save(tmp_path / runs.BEST_FILE, {"network": {}, "epoch": 0, "temperature": 1.0, "thresholds": None})
    with pytest.raises(JobError, match=r"best\.ckpt: not the network of"):
        evaluation.evaluate(tmp_path, device=CPU)


def test_attributes_are_scored_one_by_one(whole: Path, tmp_path: Path) -> None:
    recipe = tiny("celeba_attributes_modern")
    train(whole, tmp_path / "run", recipe)
    figures = json.loads((tmp_path / "run" / runs.SCORES_FILE).read_text())["splits"]["test"]
    assert len(figures["per_attribute"]) == 40
    mean = np.mean([row["accuracy"] for row in figures["per_attribute"]])
    assert figures["accuracy"] == pytest.approx(mean)
    assert figures["majority"] == pytest.approx(np.mean([row["majority"] for row in figures["per_attribute"]]))
    predictions = pq.read_table(tmp_path / "run" / runs.PREDICTIONS_FILE).to_pylist()
    manifest = {row["key"]: row for row in pq.read_table(whole / "manifest.parquet").to_pylist()}
    names = runs.read(tmp_path / "run").names
    for row in predictions[:20]:
        assert row["target"] == [name for name in names if manifest[row["key"]][name] == 1]


def test_ages_are_scored_in_years(tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "utkface", num_images=160)
    make(tmp_path / "utkface", tmp_path / "build", dataset="utkface", classes="", split="60/20/20")
    task = Number("age", loss="l1", middle=35.0, scale=10.0)
    recipe = tiny(task=task, balanced=False, calibrate=False, epochs=4)
    train(tmp_path / "build", tmp_path / "run", recipe)
    written = json.loads((tmp_path / "run" / runs.SCORES_FILE).read_text())
    figures, rows = written["splits"]["test"], pq.read_table(tmp_path / "run" / runs.PREDICTIONS_FILE).to_pylist()
    errors = [abs(row["target"] - row["prediction"]) for row in rows if row["split"] == "test"]
    assert figures["absolute_error"] == pytest.approx(np.mean(errors), abs=1e-4)
    assert figures["cumulative_score"] == pytest.approx(np.mean(np.array(errors) <= 5))
    assert written["score"] == "absolute_error"
    assert figures["interval"][0] < figures["absolute_error"] < figures["interval"][1]
    by_group = {category["name"]: category["groups"] for category in written["groups"]["test"]}
    assert set(by_group) == {"gender", "race"}
    for groups in by_group.values():
        assert sum(group["num"] for group in groups) == figures["num"]
        mean = sum(group["num"] * group["score"] for group in groups) / figures["num"]
        assert mean == pytest.approx(figures["absolute_error"], rel=1e-5)
    page = report.write(tmp_path / "run").read_text()
    assert "By group on test, the largest gap first" in page
    assert all(group["name"] in page for group in by_group["gender"])


def test_temperature_mends_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(3, p=row / row.sum()) for row in probabilities.astype(float)])
    found = Predictions(np.arange(4000), 3 * logits, targets)
    trained = Trained(torch.nn.Identity())
    calibrated = evaluation.calibrated(trained, found, recipe=tiny(calibrate=True))
    assert calibrated.temperature == pytest.approx(3.0, rel=0.1)
    assert calibrated.thresholds is None
    assert evaluation.calibrated(trained, found, recipe=tiny(calibrate=False)).temperature == 1.0


def test_temperature_of_a_perfect_or_tiny_split_stays_within_bounds() -> None:
    trained, targets = Trained(torch.nn.Identity()), np.arange(300) % 3
    outputs = (20 * np.eye(3, dtype=np.float32))[targets]
    assert (
        evaluation.calibrated(trained, Predictions(np.arange(300), outputs, targets), recipe=tiny()).temperature >= 0.2
    )
    few = Predictions(np.arange(9), outputs[:9], targets[:9])
    assert evaluation.calibrated(trained, few, recipe=tiny()).temperature == 1.0


def test_thresholds_of_attributes_come_from_valid() -> None:
    found = Predictions(np.arange(4), np.array([[-3], [-2], [-1], [0]], np.float32), np.array([[0], [0], [1], [1]]))
    recipe = tiny(task=Attributes(), calibrate=False)
    thresholds = evaluation.calibrated(Trained(torch.nn.Identity()), found, recipe=recipe).thresholds
    assert thresholds is not None
    assert 1 / (1 + np.exp(2)) < thresholds[0] < 1 / (1 + np.exp(1))


def own_photos(folder: Path) -> Path:
    """A build of one's own photos, 20 to train on: one class, unlike any face of the other build."""
    synthetic.draw("simpsons", folder / "drawn", num_images=60)
    unlike = {path.read_bytes(): path for path in sorted((folder / "drawn").rglob("*.jpg"))}
    for number, path in enumerate(list(unlike.values())[:30]):
        target = folder / "photos" / ("train" if number < 20 else "valid" if number < 25 else "test") / "me"
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).write_bytes(path.read_bytes())
    make(folder / "photos", folder / "own", dataset="folder", classes="all")
    return folder / "own"


def test_own_face_is_learnt_among_faces_drawn_from_another_build(whole: Path, tmp_path: Path) -> None:
    own = own_photos(tmp_path)
    base = train(whole, tmp_path / "base", tiny("celeba_attributes_modern", epochs=1))
    settings = {"weights": str(base), "negatives": str(whole), "network": "small_resnet(widths=(8, 16))", "epochs": 16}
    recipe = recipes.load("own_face_modern", [f"{name}={value}" for name, value in settings.items()])
    recipe = replace(
        recipe, augment=recipe.eval_augment, batch_size=8, optimizer=AdamW(lr=0.01, weight_decay=0.05), average=0.0
    )
    train(own, tmp_path / "run", recipe)
    run = runs.read(tmp_path / "run")
    assert run.names == ("me", OTHER)
    assert run.negatives is not None
    assert run.statistics == runs.read(base).statistics
    predictions = pq.read_table(tmp_path / "run" / runs.PREDICTIONS_FILE).to_pylist()
    assert [row["target"] for row in predictions].count("me") == [row["target"] for row in predictions].count(OTHER)
    keys = {row["key"] for row in predictions if row["target"] == OTHER}
    assert keys <= set(pq.read_table(whole / "manifest.parquet")["key"].to_pylist())
    figures = json.loads((tmp_path / "run" / runs.SCORES_FILE).read_text())["splits"]["test"]
    assert figures["accuracy"] >= 0.8
    results = evaluation.evaluate(tmp_path / "run", device=CPU).results["test"]
    assert results.score == figures["accuracy"]


def test_mixture_goes_on_where_it_was(whole: Path, tmp_path: Path) -> None:
    own = own_photos(tmp_path)
    recipe = tiny(negatives=Negatives(str(whole)), batch_size=8)
    data = Data(recipe, str(own), placement=Placement(CPU))
    loader = data.loader("train", is_train=True)
    assert isinstance(loader, Mixture)
    assert (len(loader), loader.num_samples) == (5, 40)
    every = [batch.rows.tolist() for batch in loader]
    assert all(sum(row >= len(data.builds[0].table) for row in rows) == 4 for rows in every)
    again = data.loader("train", is_train=True)
    for batch in again:
        state = again.state_dict()
        assert batch.rows.tolist() == every[0]
        break
    rest = data.loader("train", is_train=True)
    rest.load_state_dict(state)
    assert [batch.rows.tolist() for batch in rest] == every[1:]


def test_more_negatives_take_turns_over_the_epochs(whole: Path, tmp_path: Path) -> None:
    own = own_photos(tmp_path)
    data = Data(tiny(negatives=Negatives(str(whole), times=3), batch_size=8), str(own), placement=Placement(CPU))
    first_row = len(data.builds[0].table)

    def others(loader: Loader | Mixture) -> list[list[int]]:
        return [[row for row in batch.rows.tolist() if row >= first_row] for batch in loader]

    loader = data.loader("train", is_train=True)
    epochs = [others(loader) for _ in range(6)]
    assert all([len(rows) for rows in epoch] == [4] * 5 for epoch in epochs)
    rounds = [{row for epoch in part for rows in epoch for row in rows} for part in (epochs[:3], epochs[3:])]
    assert len(rounds[0]) == 60
    assert rounds[0] == rounds[1]
    again = data.loader("train", is_train=True)
    assert others(again) == epochs[0]
    rest = data.loader("train", is_train=True)
    rest.load_state_dict(again.state_dict())
    assert [others(rest) for _ in range(3)] == epochs[1:4]
    for split in ("valid", "test"):
        assert data.loader(split, is_train=False).num_samples == 10


def test_split_in_which_nothing_is_predicted_fits_beside_others(celeba: Path, tmp_path: Path) -> None:
    """All forty probabilities of a softmax may be below one half."""
    make(celeba, tmp_path / "build", classes="", split="60/20/20")
    recipe = replace(tiny("celeba_attributes_adam_cross_entropy", epochs=1), network="small_resnet(widths=(8,))")
    train(tmp_path / "build", tmp_path / "run", recipe)
    table = pq.read_table(tmp_path / "run" / runs.PREDICTIONS_FILE)
    assert {str(table.schema.field(name).type.value_type) for name in ("target", "prediction")} == {"string"}
    assert set(table["split"].to_pylist()) == {"valid", "test"}


def test_too_few_negatives_are_refused(celeba: Path, tmp_path: Path) -> None:
    own = own_photos(tmp_path)
    make(celeba, tmp_path / "few", classes="", limit=10, split="80/10/10")
    data = Data(tiny(negatives=Negatives(str(tmp_path / "few"))), str(own), placement=Placement(CPU))
    with pytest.raises(UsageError, match="images in train, but 20 are needed"):
        data.loader("train", is_train=True)
