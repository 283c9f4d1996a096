"""From pictures to a report: the demo learns what is in the pictures, and nothing where labels are shuffled."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make, train

from facepack.drawn import synthetic
from trainer import recipes


@pytest.mark.slow
def test_demo_draws_builds_verifies_trains_and_shows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facepack", "demo", "--no-open"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "verified and decoded" in ended.stdout
    assert (tmp_path / "demo" / "preview.html").read_text().count("data:image/jpeg") > 50
    scores = json.loads((tmp_path / "demo" / "run" / "scores.json").read_text())["splits"]
    assert scores["test"]["accuracy"] >= 0.9
    assert scores["test"]["majority"] < 0.4
    report = (tmp_path / "demo" / "run" / "report.html").read_text()
    assert f"{100 * scores['test']['accuracy']:.1f} %" in report
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "epoch " not in again.stderr, "nothing is done twice"


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    synthetic.draw("celeba", tmp_path / "true", num_images=2000)
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for path in (tmp_path / "true").iterdir():
        (shuffled / path.name).symlink_to(path)
    lines = (tmp_path / "true" / "list_attr_celeba.txt").read_text().splitlines()
    names, labels = zip(*(line.split(" ", 1) for line in lines[2:]), strict=True)
    mixed = list(labels)
    random.Random(0).shuffle(mixed)
    (shuffled / "list_attr_celeba.txt").unlink()
    rows = [f"{name} {label}" for name, label in zip(names, mixed, strict=True)]
    (shuffled / "list_attr_celeba.txt").write_text("\n".join([*lines[:2], *rows]) + "\n")
    reached = {}
    for name in ("true", "shuffled"):
        make(tmp_path / name, tmp_path / f"{name}-build", size="64", split="60/20/20", samples_per_shard=1000)
        recipe = recipes.load("celeba_rarest4", ["epochs=12", "lr=0.015"])
        train(tmp_path / f"{name}-build", tmp_path / f"{name}-run", recipe)
        reached[name] = json.loads((tmp_path / f"{name}-run" / "scores.json").read_text())["splits"]["test"]
    assert reached["true"]["accuracy"] > 0.7
    assert reached["shuffled"]["accuracy"] < reached["shuffled"]["majority"] + 0.1
