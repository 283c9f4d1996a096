"""datasets: the table and the pages tell what is known, and what is here."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import facepack
from facepack import catalogue
from facepack.cli import app
from facepack.description import dataset_names, load_dataset, load_model, model_names


def run(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["datasets", *arguments], env={"COLUMNS": "120"})
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_table_lists_every_dataset_and_model() -> None:
    output = run()
    assert [name for name in [*dataset_names(), *model_names()] if name not in output] == []
    assert "202,599" in output


def test_json_says_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(run("--json"))}
    assert list(rows) == dataset_names()
    assert rows["celeba"]["images"] == 202_599
    assert (rows["celeba"]["how"], rows["simpsons"]["how"], rows["appa_real"]["how"]) == (
        "Google Drive",
        "Kaggle",
        "direct",
    )
    assert {name for name, row in rows.items() if not row["non_commercial"]} == {
        *("fairface", "folder"),
        *("adience", "imdb_wiki", "lfw"),
    }
    assert {row["here"] for row in rows.values()} == {"no"}


@pytest.mark.parametrize("name", dataset_names())
def test_page_tells_all_of_a_dataset(name: str) -> None:
    description, output = load_dataset(name), run(name)
    parts = [description.title, description.citation, description.terms, *description.all_labels, *description.quirks]
    parts += [text for file in description.files for text in (file.path, file.source)]
    parts += [index.about for index in description.index]
    assert [part for part in parts if part not in output] == []


@pytest.mark.parametrize("name", model_names())
def test_page_tells_of_a_model(name: str) -> None:
    output = run(name)
    assert load_model(name).title in output
    assert load_model(name).files[0].path in output


def test_page_as_json_is_the_whole_description() -> None:
    assert json.loads(run("celeba", "--json"))["files"][0]["md5"] == "75e246fa4810816ffd6ee81facbd244c"


@pytest.mark.parametrize("name", dataset_names())
def test_descriptions_say_where_every_file_is_got(name: str) -> None:
    files = load_dataset(name).files
    assert name == "folder" or any(not file.optional for file in files)
    assert len({file.path for file in files}) == len(files)


@pytest.mark.real
def test_official_label_files_are_recognised_and_a_changed_one_is_not(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEPACK_DATA", str(real_data))
    output = run("celeba")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"):
        assert any(f"{name} (labels):" in line and "as published" in line for line in output.splitlines())
    assert "10,000 of 202,599 files" in output
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path))
    (tmp_path / "celeba").mkdir()
    shutil.copy(real_data / "celeba" / "list_eval_partition.txt", tmp_path / "celeba")
    changed = bytearray((real_data / "celeba" / "identity_CelebA.txt").read_bytes())
    changed[1000] ^= 1
    (tmp_path / "celeba" / "identity_CelebA.txt").write_bytes(changed)
    lines = run("celeba").splitlines()
    assert "as published" in next(line for line in lines if "list_eval_partition.txt (labels)" in line)
    assert "its md5 is" in next(line for line in lines if "identity_CelebA.txt (labels)" in line)
    fetched = CliRunner().invoke(app, ["fetch", "celeba", "--only", "labels", "--accept-terms"])
    assert fetched.exit_code == 1
    assert "identity_CelebA.txt: its md5 is" in fetched.output


def test_what_is_here_is_said_in_a_few_words(tmp_path: Path) -> None:
    description = load_dataset("celeba")
    assert catalogue.what_is_here(description, tmp_path / "nowhere") == "no"
    (tmp_path / "list_attr_celeba.txt").write_bytes(b"short")
    assert catalogue.what_is_here(description, tmp_path) == "5 bytes, expected 26,721,026"
    (tmp_path / "list_attr_celeba.txt").unlink()
    (tmp_path / "img_align_celeba").mkdir()
    assert catalogue.what_is_here(description, tmp_path) == "0 of 202,599"


def test_library_lists_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path))
    entries = {entry.name: entry for entry in facepack.datasets()}
    assert list(entries) == dataset_names()
    celeba = entries["celeba"]
    assert (celeba.title, celeba.images, celeba.here) == ("CelebFaces Attributes (CelebA)", 202_599, "no")
    assert celeba.labels == tuple(load_dataset("celeba").all_labels)
    assert celeba.folder == str(tmp_path / "celeba")
