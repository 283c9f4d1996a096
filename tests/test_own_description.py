"""A description of one's own: built by its path, recorded with the build, and read back without its file."""

import json
from pathlib import Path

import pytest
from parquet_files import photo
from typer.testing import CliRunner

from facepack.builder import Place, build
from facepack.cli import app
from facepack.configuration import Configuration
from facepack.description import manifests_folder
from facepack.errors import JobError, UsageError
from facepack.preview import page_of
from facepack.verification import verify

OWN = """
[labels.mood]
kind = "category"

[labels.person]
kind = "identity"

[[index]]
kind = "paths"
about = "images <mood>_<person>.jpg"
patterns = [{ pattern = '(?P<mood>[a-z]+)_(?P<person>[0-9]+)[.]jpg' }]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A description of one's own, and its photos beside it."""
    for number in range(24):
        path = tmp_path / "photos" / f"{('glad', 'sad')[number % 2]}_{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(number))
    path = tmp_path / "moods.toml"
    path.write_text(OWN)
    return path


def run(*words: str | Path) -> tuple[int, str]:
    ended = CliRunner().invoke(app, [str(word) for word in words])
    return ended.exit_code, ended.output


def test_build_by_the_path_of_a_description(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--src", tmp_path / "photos", "--classes", "mood:all", "--workers", "0", "--out", out)
    code, output = run("build", own, *words)
    assert code == 0, output
    made = json.loads((out / "build.json").read_text())
    assert (made["dataset"], made["class_names"]) == ("moods", ["glad", "sad"])
    assert made["configuration"]["split"] == ""
    own.rename(tmp_path / "gone.toml")
    assert verify(str(out), deep=True).problems == ()
    assert page_of(str(out), src=str(tmp_path / "photos")).title == "out"


def test_changed_description_is_another_build(own: Path, tmp_path: Path) -> None:
    place = Place(str(tmp_path / "photos"), str(tmp_path / "out"), workers=0)
    build(Configuration.of(str(own)), place=place)
    own.write_text('quirks = ["none"]\n' + own.read_text())
    build(Configuration.of(str(own)), place=place)
    own.write_text(own.read_text().replace("[labels.person]", "[labels.human]\ncolumn = 'person'"))
    with pytest.raises(JobError, match=r"holds another build .description: one there, another here[.]?"):
        build(Configuration.of(str(own)), place=place)


def test_copy_of_a_known_description_is_that_dataset(tmp_path: Path) -> None:
    path = tmp_path / "folder.toml"
    path.write_text((manifests_folder() / "folder.toml").read_text())
    assert Configuration.of(str(path)) == Configuration.of("folder")


def test_what_is_wrong_with_it_is_named(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml: no such description"):
        Configuration.of(str(tmp_path / "none.toml"))
    own.write_text(OWN.replace('kind = "category"', 'kind = "mood"'))
    with pytest.raises(JobError, match=r"moods.toml: field labels.mood.kind: Input should be"):
        Configuration.of(str(own))
    own.write_text("[labels")
    with pytest.raises(JobError, match=r"moods.toml: not valid TOML"):
        Configuration.of(str(own))


def test_copy_of_a_description_under_another_name_is_read(tmp_path: Path) -> None:
    copy = tmp_path / "my.toml"
    copy.write_text((manifests_folder() / "utkface.toml").read_text())
    assert Configuration.of(str(copy)) == Configuration.of("utkface")
    copy.write_text(copy.read_text().replace('name = "utkface"', 'name = "mine"'))
    assert Configuration.of(str(copy)).dataset == "mine"
