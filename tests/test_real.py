"""The whole way on real label files and real photos."""

import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import make

from facepack import manifest
from facepack.manifest import Status
from facepack.storage import Store
from facepack.verification import verify

pytestmark = pytest.mark.real


def checked(source: Path, out: Path, **choices: Any) -> pa.Table:
    """Build, verify and decode; gives the manifest."""
    make(source, out, **{"samples_per_shard": 1000, **choices})
    report = verify(str(out), deep=True)
    assert report.problems == ()
    return manifest.read_table(Store(str(out)), manifest.MANIFEST_FILE)


def counts(table: pa.Table, name: str) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in table[name].value_counts().to_pylist()}


def test_celeba_rarest4(real_data: Path, tmp_path: Path) -> None:
    table = checked(real_data / "celeba", tmp_path / "build", classes="rarest4", size="64")
    assert len(table) == 27_472
    assert counts(table, "class") == {"Bald": 4547, "Mustache": 7751, "Gray_Hair": 6871, "Pale_Skin": 8303}
    there = {path.name for path in (real_data / "celeba" / "img_align_celeba").iterdir()}
    present = sum(Path(source).name in there for source in table["source"].to_pylist())
    assert counts(table, "status") == {Status.PACKED: present, Status.MISSING: 27_472 - present}
    assert present == 1369


def test_celeba_with_all_attributes(real_data: Path, tmp_path: Path) -> None:
    table = checked(real_data / "celeba", tmp_path / "build", classes="", size="64")
    assert len(table) == 202_599
    assert counts(table, "status") == {Status.PACKED: 10_000, Status.MISSING: 192_599}
    labels = manifest.label_columns(table)
    assert [table.schema.field(name).type for name in labels] == [pa.int8()] * 40 + [pa.int32()]
    assert counts(table, "split") == {"train": 162_770, "valid": 19_867, "test": 19_962}


def test_celeba_crops_have_a_test_split_alone(real_data: Path, tmp_path: Path) -> None:
    table = checked(real_data / "celeba_crops", tmp_path / "build", classes="rarest4", size="64")
    packed = table.filter(pc.equal(table["status"], Status.PACKED))
    assert counts(packed, "split") == {"test": len(packed)}
    assert manifest.read_build(str(tmp_path / "build")).mean is None


def test_simpsons_commonest10(real_data: Path, tmp_path: Path) -> None:
    table = checked(real_data / "simpsons", tmp_path / "build", dataset="simpsons", classes="commonest10")
    assert set(counts(table, "class").values()) == {800}
    assert list(manifest.read_build(str(tmp_path / "build")).class_names) == sorted(counts(table, "class"))
    assert counts(table, "split") == {"train": 6240, "valid": 1560, "test": 200}
    assert counts(table, "status") == {Status.PACKED: 8000}


def test_utkface_age_groups(real_data: Path, tmp_path: Path) -> None:
    choices = {"dataset": "utkface", "classes": "", "age_bins": "1-4,5-27,28-", "limit_per_class": 200}
    table = checked(real_data / "utkface", tmp_path / "build", split="60/20/20", **choices)
    assert counts(table, "class") == {"1-4": 200, "5-27": 200, "28-": 200}
    assert counts(table, "split") == {"train": 360, "valid": 120, "test": 120}


def test_utkface_whole(real_data: Path, tmp_path: Path) -> None:
    table = checked(real_data / "utkface", tmp_path / "build", dataset="utkface", classes="")
    assert len(table) == 4888
    assert len(manifest.read_build(str(tmp_path / "build")).unparsed) == 2
    unique = len(set(table.filter(pc.equal(table["status"], Status.PACKED))["source_sha256"].to_pylist()))
    assert counts(table, "status") == {Status.PACKED: unique, Status.DUPLICATE: 4888 - unique}


def test_fairface(real_data: Path, tmp_path: Path) -> None:
    table = checked(real_data / "fairface", tmp_path / "build", dataset="fairface", classes="all")
    groups = ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+"]
    assert manifest.read_build(str(tmp_path / "build")).class_names == groups
    assert set(counts(table, "class").values()) == {60}


def test_text_files_named_jpg_are_not_images(real_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / "crop_part1"
    shutil.copytree(real_data / "bad_inputs", source)
    bad = {path.name for path in (real_data / "bad_inputs").iterdir()}
    photos = sorted((real_data / "utkface" / "crop_part1").iterdir())
    for path in [path for path in photos if path.name not in bad][:30]:
        shutil.copy(path, source)
    table = checked(source.parent, tmp_path / "build", dataset="utkface", classes="")
    assert len(bad) == 20
    rejected = table.filter(pc.not_equal(table["status"], Status.PACKED))
    assert {Path(source).name for source in rejected["source"].to_pylist()} == bad
    assert counts(table, "status") == {Status.PACKED: 30, Status.NOT_AN_IMAGE: 20}


@pytest.fixture(scope="module")
def layouts(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real UTKFace photos as AFAD, CACD and APPA-REAL publish theirs."""
    script = real_data.parent / "tools" / "layouts.py"
    if not script.exists():
        pytest.skip("tools/layouts.py is not beside the real data")
    out = tmp_path_factory.mktemp("layouts")
    before = sys.argv
    sys.argv = [str(script), str(real_data / "utkface" / "crop_part1"), str(out)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    return out


@pytest.mark.parametrize("name", ["afad", "cacd", "appa_real"])
def test_layout_of_another_publisher(layouts: Path, tmp_path: Path, name: str) -> None:
    table = checked(layouts / name, tmp_path / "build", dataset=name, classes="")
    files = [path for path in (layouts / name).rglob("*.jpg") if not path.name.endswith("_face.jpg")]
    assert len(table) == len(files)
    assert counts(table, "status") == {Status.PACKED: len(files)}
    ages = table["apparent_age" if name == "appa_real" else "age"]
    assert ages.null_count == 0


def test_appa_real_faces_are_the_other_image_set(layouts: Path, tmp_path: Path) -> None:
    table = checked(layouts / "appa_real", tmp_path / "build", dataset="appa_real", classes="", images="face")
    assert all(source.endswith(".jpg_face.jpg") for source in table["source"].to_pylist())
    assert counts(table, "status") == {Status.PACKED: len(table)}


def test_cacd_splits_by_person(layouts: Path, tmp_path: Path) -> None:
    table = checked(layouts / "cacd", tmp_path / "build", dataset="cacd", classes="")
    assert table["identity"].null_count == 0
    pairs = table.group_by("identity").aggregate([("split", "count_distinct")])
    assert set(pairs["split_count_distinct"].to_pylist()) == {1}
