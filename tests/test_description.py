"""Dataset descriptions: each one does what its examples say, and a wrong one is refused with file and field."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from facepack import manifest
from facepack.description import RESERVED, SplitRule, dataset_names, load_dataset, manifests_folder, parse_description
from facepack.errors import JobError, UsageError
from facepack.index import index_dataset
from facepack.source import open_source

EXAMPLES = [(name, number) for name in dataset_names() for number in range(len(load_dataset(name).examples))]

SOUND = """
name = "toy"
title = "Toy"
num_images = 2
homepage = "https://example.org"
terms = "none"
obtain = "draw it"
citation = ""
attributes = ["Hat"]

[labels.age]
kind = "age"
column = "years"

[split]
column = "part"
values = { a = "train" }
valid_percent = 10

[[index]]
kind = "paths"
about = "images named <years>_<Hat>"
patterns = [{ pattern = '(?P<years>\\d+)_(?P<Hat>0|1)\\.jpg', set = { part = "a" } }]
left_out = [{ pattern = 'copy/.*', why = "a copy" }]

[[examples]]
rows = [{ source = "3_1.jpg", split = "train", age = 3, Hat = 1 }]
files = { "3_1.jpg" = "" }
"""


def write(folder: Path, content: str, *, name: str = "toy") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(content, encoding="utf-8")
    return path


def agrees(found: object, stated: object) -> bool:
    return found == (pytest.approx(stated) if isinstance(stated, int | float) else stated)


# What is in manifests/


def test_every_toml_in_the_folder_is_a_dataset() -> None:
    assert dataset_names() == sorted(path.stem for path in manifests_folder().glob("*.toml"))
    assert {"celeba", "cacd", "afad", "appa_real", "simpsons", "utkface", "fairface", "folder"} <= set(dataset_names())


@pytest.mark.parametrize("name", dataset_names())
def test_description_loads_under_its_own_name(name: str) -> None:
    assert load_dataset(name).name == name


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_example_gives_exactly_its_rows(name: str, number: int, tmp_path: Path) -> None:
    """Check that the files of an example are read as the rows it states, no more and no fewer."""
    description = load_dataset(name)
    example = description.examples[number]
    for path, fields in example.mats.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        kinds = {key: object if isinstance(values[0], str) else float for key, values in fields.items()}
        arrays = {key: np.array(values, kinds[key]) for key, values in fields.items()}
        savemat(tmp_path / path, {Path(path).stem: arrays})
    for path, content in example.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content.encode())

    found = index_dataset(description, open_source(str(tmp_path), archives=description.archives))

    rows = {row["source"]: row | {"split": row["official_split"]} for row in found.table.to_pylist()}
    assert sorted(rows) == sorted(str(row["source"]) for row in example.rows)
    for stated in example.rows:
        row = rows[str(stated["source"])]
        assert {field: row[field] for field in stated if not agrees(row[field], stated[field])} == {}
    for bad, stated_start in zip(sorted(found.unparsed), sorted(example.unparsed), strict=True):
        assert bad.startswith(stated_start)


@pytest.mark.parametrize("name", dataset_names())
def test_examples_show_a_split_where_the_dataset_has_one(name: str) -> None:
    """Check that a misspelt split column, which would give no split at all, cannot pass the examples."""
    description = load_dataset(name)
    shown = {row["split"] for example in description.examples for row in example.rows if "split" in row}
    assert bool(shown) == (description.split is not None)


def test_labels_come_in_the_order_of_the_manifest() -> None:
    celeba = load_dataset("celeba")
    assert list(celeba.all_labels) == [*celeba.attributes, "identity"]
    assert len(celeba.labels_of("attribute")) == 40
    assert load_dataset("appa_real").labels_of("age") == ["apparent_age", "real_age"]


def test_image_sets_are_those_of_the_label_files() -> None:
    assert load_dataset("celeba").image_sets == ["aligned", "wild", "hq"]
    assert load_dataset("appa_real").image_sets == ["photo", "face"]
    assert load_dataset("utkface").image_sets == []
    assert load_dataset("lfw").image_sets == ["original", "funneled", "deepfunneled"]


# A wrong description


def test_sound_description_is_read(tmp_path: Path) -> None:
    """Check that what the tests below break was whole before."""
    description = parse_description(write(tmp_path, SOUND))
    assert description.labels["age"].column == "years"
    assert description.split == SplitRule(column="part", values={"a": "train"}, valid_percent=10)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Toy"', 'title = "Toy"\ncolour = "red"', "field colour: Unexpected keyword argument"),
        ('column = "years"', 'colum = "years"', "field labels.age.colum: Unexpected keyword argument"),
        ("left_out =", "leftout =", "field index.0.paths.leftout: Unexpected keyword argument"),
        ("set = {", "sets = {", "field index.0.paths.patterns.0.sets: Unexpected keyword argument"),
        ("num_images = 2", 'num_images = "many"', "field num_images: Input should be a valid integer"),
        ("num_images = 2", "num_images = -1", "field num_images: Input should be greater than or equal to 0"),
        ('attributes = ["Hat"]', 'attributes = "Hat"', "field attributes: "),
        ('terms = "none"\n', "", "field terms: Field required"),
        (', why = "a copy"', "", "field index.0.paths.left_out.0.why: Field required"),
        (r"(?P<years>\d+)", r"(?P<years>\d+", "field index.0.paths.patterns.0.pattern: "),
        ("'copy/.*'", "'copy/**'", "field index.0.paths.left_out.0.pattern: "),
        ('kind = "age"', 'kind = "years"', "field labels.age.kind: Input should be 'attribute', 'category', 'age'"),
        ('kind = "paths"', 'kind = "files"', "field index.0: "),
        ('a = "train"', 'a = "training"', "field split.values.a: Input should be 'train', 'valid' or 'test'"),
        ("valid_percent = 10", "valid_percent = 100", "field split.valid_percent: Input should be less than 100"),
        ('about = "images', 'lacks = ["sex"]\nabout = "images', "index.0: no such label: sex"),
        ('attributes = ["Hat"]', 'attributes = ["class"]', "facepack's own columns cannot be labels: class"),
        ("[labels.age]", "[labels.split]", "facepack's own columns cannot be labels: split"),
        ('attributes = ["Hat"]', 'attributes = ["age"]', "both in labels and attributes: age"),
        ("source = ", "source = [1], path = ", "field examples.0.rows.0.source"),
        ("num_images = 2", "num_images = ", "not valid TOML: Invalid value (at line 4"),
    ],
)
def test_wrong_description_is_refused_with_file_and_field(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert SOUND.count(old) == 1
    path = write(tmp_path, SOUND.replace(old, new))
    with pytest.raises(JobError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}"):
        parse_description(path)


@pytest.mark.parametrize("table", ["index", "examples"])
def test_description_without_index_or_example_is_refused(table: str, tmp_path: Path) -> None:
    head, _, tail = SOUND.partition(f"[[{table}]]")
    path = write(tmp_path, head + (tail[tail.index("[[") :] if "[[" in tail else ""))
    with pytest.raises(JobError, match=f"field {table}: Field required"):
        parse_description(path)


def test_name_must_be_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND, name="toys")
    with pytest.raises(JobError, match="field name: is 'toy', the file is called 'toys'"):
        parse_description(path)


def test_description_cannot_be_changed() -> None:
    description = load_dataset("celeba")
    for field in dataclasses.fields(description):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(description, field.name, None)


# Finding one


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("celebA", "did you mean celeba?"),
        ("simpson", "did you mean simpsons?"),
        ("appareal", "did you mean appa_real?"),
        ("../celeba", "did you mean celeba"),
        ("xyzzy", "known are adience, afad, appa_real"),
    ],
)
def test_unknown_dataset_offers_the_nearest(wanted: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"unknown dataset {wanted!r}: {hint}")):
        load_dataset(wanted)


def test_reserved_names_are_those_of_the_manifest() -> None:
    assert (
        set(manifest.OWN_COLUMNS.names + manifest.MEASURED_COLUMNS.names + manifest.PUBLISHED_COLUMNS.names)
        | {"class_index", "official_split", manifest.FACE}
        == RESERVED
    )
