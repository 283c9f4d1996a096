"""Indexing: label files and paths, as published and as found in the wild, become one typed row per image."""

import csv
import io
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepack.description import load_dataset
from facepack.errors import JobError, UsageError
from facepack.index import Index, index_dataset
from facepack.source import Source, open_source
from facepack.storage import Store
from facepack.table_rows import NO_IMAGES

ATTRIBUTES = load_dataset("celeba").attributes
APPA_HEADER = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
MORE_HEADER = "file,gender,race,makeup,time,happiness\n"
FAIRFACE_HEADER = "file,age,gender,race,service_test\n"
NAME_LETTERS = st.characters(categories=["L", "M", "Nd"], include_characters="'-. ,\"_()")
NAMES = st.text(NAME_LETTERS, min_size=1, max_size=12).filter(lambda name: not name.isdigit())


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(name: str, location: Path, *, images: str = "") -> Index:
    description = load_dataset(name)
    return index_dataset(description, open_source(str(location), archives=description.archives), images=images)


def read_paths(name: str, paths: Iterable[str]) -> Index:
    """Index a dataset whose rows are named by paths, without any file."""
    return index_dataset(load_dataset(name), Source(Store("nowhere"), frozenset(paths)))


def rows_of(found: Index, *columns: str) -> list[tuple[object, ...]]:
    return list(zip(*(found.table[name].to_pylist() for name in columns), strict=True))


def counts_of(column: pa.ChunkedArray) -> dict[object, int]:
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def attribute_row(file: str, positives: Iterable[str] = ()) -> str:
    return " ".join([file, *("1" if name in set(positives) else "-1" for name in ATTRIBUTES)])


def celeba_files(num_rows: int = 3, *, count_line: str = "") -> dict[str, str | bytes]:
    """CelebA's label files, in which only the first image is bald."""
    files = [f"{row + 1:06d}.jpg" for row in range(num_rows)]
    rows = [attribute_row(file, ["Bald"] if row == 0 else []) for row, file in enumerate(files)]
    return {
        "list_attr_celeba.txt": "\n".join([*([count_line] if count_line else []), " ".join(ATTRIBUTES), *rows]) + "\n",
        "list_eval_partition.txt": "".join(f"{file} {row % 3}\n" for row, file in enumerate(files)),
        "identity_CelebA.txt": "".join(f"{file} {7 + row}\n" for row, file in enumerate(files)),
    }


# CelebA's label files


def test_celeba_txt_with_crlf_double_spaces_and_count_line(tmp_path: Path) -> None:
    files = celeba_files(2, count_line="2")
    attributes = str(files["list_attr_celeba.txt"]).replace(" 1", "  1").replace("\n", " \r\n")
    partition = str(files["list_eval_partition.txt"]).replace("\n", "\r\n")
    write(tmp_path, files | {"list_attr_celeba.txt": attributes, "list_eval_partition.txt": partition})

    found = read("celeba", tmp_path)

    assert found.table.column_names == ["source", "official_split", *ATTRIBUTES, "identity"]
    assert rows_of(found, "source", "official_split", "Bald", "Young", "identity") == [
        ("img_align_celeba/000001.jpg", "train", 1, 0, 7),
        ("img_align_celeba/000002.jpg", "valid", 0, 0, 8),
    ]
    assert sum(pc.sum(found.table[name]).as_py() for name in ATTRIBUTES) == 1
    assert {str(found.table.schema.field(name).type) for name in ATTRIBUTES} == {"int8"}
    assert str(found.table.schema.field("identity").type) == "int32"
    assert (found.unparsed, found.left_out) == ((), {})


def test_tabs_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    files = celeba_files(3, count_line="3")
    plain = read("celeba", write(tmp_path / "plain", files))
    odd = "\ufeff" + str(files["list_attr_celeba.txt"]).replace(" -1", "\t-1").replace("\n", "\n\n")
    odd = odd.replace("3\n\n", "3\n", 1).replace("Young\n\n", "Young\n", 1)
    odd_read = read("celeba", write(tmp_path / "odd", files | {"list_attr_celeba.txt": odd}))
    assert odd_read.table.equals(plain.table)


@pytest.mark.parametrize(
    ("stated", "message"),
    [("4", "states 4 rows, there are 3"), ("202599", "states 202,599 rows")],
)
def test_count_line_that_disagrees_is_refused_with_both_numbers(stated: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, celeba_files(3, count_line=stated))
    with pytest.raises(JobError, match=rf"/list_attr_celeba\.txt: line 1 {message}"):
        read("celeba", tmp_path)


def test_count_line_may_be_absent(tmp_path: Path) -> None:
    with_line = read("celeba", write(tmp_path / "with", celeba_files(3, count_line="3")))
    without = read("celeba", write(tmp_path / "without", celeba_files(3)))
    assert len(without.table) == 3
    assert without.table.equals(with_line.table)


def test_rows_that_cannot_be_cut_count_as_rows_of_the_count_line(tmp_path: Path) -> None:
    files = celeba_files(3, count_line="4")
    files["list_attr_celeba.txt"] = str(files["list_attr_celeba.txt"]) + "000004.jpg -1 -1\n"
    found = read("celeba", write(tmp_path, files))
    assert len(found.table) == 3
    assert found.unparsed == ("list_attr_celeba.txt: line 6: '000004.jpg -1 -1': 3 fields, expected 41",)


def test_celeba_csv_gives_the_same_labels_as_txt(tmp_path: Path) -> None:
    files = celeba_files(3)
    lines = str(files["list_attr_celeba.txt"]).splitlines()
    table = "\n".join([",".join(["image_id", *ATTRIBUTES]), *(line.replace(" ", ",") for line in lines[1:])])
    partition = "image_id,partition\n" + str(files["list_eval_partition.txt"]).replace(" ", ",")
    in_csv = {"list_attr_celeba.csv": table, "list_eval_partition.csv": partition}
    in_csv |= {"identity_CelebA.txt": str(files["identity_CelebA.txt"])}
    found = read("celeba", write(tmp_path / "csv", dict(in_csv)))
    assert found.table.equals(read("celeba", write(tmp_path / "txt", files)).table)


def test_celeba_csv_images_may_lie_in_a_folder_of_the_same_name(tmp_path: Path) -> None:
    """Check the layout that Kaggle's archive unpacks to."""
    table = ",".join(["image_id", *ATTRIBUTES]) + "\n1.jpg" + ",-1" * 40 + "\n"
    files: dict[str, str | bytes] = {
        "list_attr_celeba.csv": table,
        "list_eval_partition.csv": "image_id,partition\n1.jpg,2\n",
        "img_align_celeba/img_align_celeba/1.jpg": b"",
    }
    found = read("celeba", write(tmp_path, files))
    assert rows_of(found, "source", "official_split", "identity") == [
        ("img_align_celeba/img_align_celeba/1.jpg", "test", None)
    ]


def test_celeba_in_its_published_folders(tmp_path: Path) -> None:
    folders = {"list_attr_celeba.txt": "Anno", "list_eval_partition.txt": "Eval", "identity_CelebA.txt": "Anno"}
    files = {f"{folders[name]}/{name}": content for name, content in celeba_files(3).items()}
    found = read("celeba", write(tmp_path, files | {"Img/img_align_celeba/000001.jpg": b""}))
    assert rows_of(found, "source", "identity")[0] == ("Img/img_align_celeba/000001.jpg", 7)


def test_second_image_set_names_the_other_files(tmp_path: Path) -> None:
    write(tmp_path, celeba_files(1))
    assert rows_of(read("celeba", tmp_path, images="wild"), "source") == [("img_celeba/000001.jpg",)]


def test_missing_second_label_file_is_named_beside_what_is_there(tmp_path: Path) -> None:
    name = "CelebA-HQ-to-CelebA-mapping.txt"
    write(tmp_path, {name: "idx orig_idx orig_file\n0 1 000002.jpg\n", "list_attr_celeb.txt": "x"})
    message = r"CelebFaces Attributes \(CelebA\) as published: no list_attr_.*; there is list_attr_celeb.txt$"
    with pytest.raises(JobError, match=message):
        read("celeba", tmp_path)


def test_without_a_partition_no_row_has_a_split_and_a_line_says_so(tmp_path: Path) -> None:
    files = celeba_files()
    del files["list_eval_partition.txt"]
    found = read("celeba", write(tmp_path, files))
    assert found.table["official_split"].null_count == len(found.table) == 3
    assert found.notes == ("no official split here, for there is no list_eval_partition.txt",)


def test_missing_optional_label_file_gives_nulls(tmp_path: Path) -> None:
    files = celeba_files()
    del files["identity_CelebA.txt"]
    assert read("celeba", write(tmp_path, files)).table["identity"].null_count == 3


def test_missing_attribute_column_is_named(tmp_path: Path) -> None:
    files = celeba_files(1)
    header, row = str(files["list_attr_celeba.txt"]).splitlines()
    files["list_attr_celeba.txt"] = header.replace(" Young", "") + "\n" + row.rpartition(" ")[0] + "\n"
    with pytest.raises(JobError, match=r"/list_attr_celeba\.txt: no column 'Young'; it has file, 5_o_Clock_Shadow,"):
        read("celeba", write(tmp_path, files))


def test_folder_of_something_else_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path, {"notes.txt": "", "img_align_celeba/000001.jpg": b""})
    message = "no list_attr_celeba.txt, no Anno/list_attr_celeba.txt, no list_attr_celeba.csv"
    with pytest.raises(JobError, match=message):
        read("celeba", tmp_path)


@pytest.mark.parametrize("content", ["", "3\n", " ".join(ATTRIBUTES) + "\n", "3\n" + " ".join(ATTRIBUTES) + "\n\n"])
def test_label_file_without_rows_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"/list_attr_celeba\.txt: (no rows|line 1 states 3 rows, there are 0)"):
        read("celeba", write(tmp_path, celeba_files() | {"list_attr_celeba.txt": content}))


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        (attribute_row("000002.jpg").replace(" -1", " 7", 1), "img_align_celeba/000002.jpg: 5_o_Clock_Shadow is '7'"),
        (
            attribute_row("000002.jpg")[:-3],
            "line 3: '000002.jpg -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -': 40 fields",
        ),
        (
            attribute_row("000002.jpg") + " 1",
            "line 3: '000002.jpg -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -': 42 fields",
        ),
        (attribute_row("000001.jpg", ["Young"]), "img_align_celeba/000001.jpg: named twice"),
    ],
)
def test_bad_row_is_listed_with_its_reason_and_the_others_kept(bad_row: str, reason: str, tmp_path: Path) -> None:
    files = celeba_files(3)
    whole = str(files["list_attr_celeba.txt"])
    files["list_attr_celeba.txt"] = whole.replace(attribute_row("000002.jpg"), bad_row)
    found = read("celeba", write(tmp_path, files))
    assert rows_of(found, "source", "Bald", "Young") == [
        ("img_align_celeba/000001.jpg", 1, 0),
        ("img_align_celeba/000003.jpg", 0, 0),
    ]
    assert len(found.unparsed) == 1
    assert found.unparsed[0].startswith(f"list_attr_celeba.txt: {reason}")


def test_row_without_a_line_in_the_second_file_has_null_there(tmp_path: Path) -> None:
    files = celeba_files(3) | {"list_eval_partition.txt": "000003.jpg 2\n000009.jpg 1\n000001.jpg 0\n"}
    found = read("celeba", write(tmp_path, files))
    assert found.table["official_split"].to_pylist() == ["train", None, "test"]
    assert found.unparsed == ()


def test_unknown_value_of_the_split_is_a_bad_row(tmp_path: Path) -> None:
    files = celeba_files(3) | {"list_eval_partition.txt": "000001.jpg 0\n000002.jpg 3\n000003.jpg 1\n"}
    found = read("celeba", write(tmp_path, files))
    assert found.table["official_split"].to_pylist() == ["train", "valid"]
    place = "list_eval_partition.txt, line 2, column partition"
    assert found.unparsed == (f"list_attr_celeba.txt: img_align_celeba/000002.jpg: split is '3' ({place})",)


def test_table_of_nothing_but_bad_rows_is_refused_with_the_first(tmp_path: Path) -> None:
    content = " ".join(ATTRIBUTES) + "\n" + "000001.jpg" + " 2" * 40 + "\n" + "000002.jpg 1\n"
    message = "list_attr_celeba.txt names no image that can be used; the first of 2 bad rows: "
    with pytest.raises(JobError, match=message):
        read("celeba", write(tmp_path, celeba_files() | {"list_attr_celeba.txt": content}))


@given(
    rows=st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=6),
    blanks=st.lists(st.sampled_from([" ", "  ", "   ", "\t", " \t "]), min_size=1, max_size=5),
    ends=st.lists(st.sampled_from(["\n", "\r\n", " \n", "  \r\n"]), min_size=1, max_size=3),
    negative=st.sampled_from(["-1", "0"]),
    count_line=st.booleans(),
)
def test_any_labels_in_any_spacing_are_read_back(
    rows: list[int], blanks: list[str], ends: list[str], negative: str, count_line: bool
) -> None:
    bits = [[row >> bit & 1 for bit in range(40)] for row in rows]
    blank, end = itertools.cycle(blanks), itertools.cycle(ends)

    def line(fields: Sequence[str]) -> str:
        return fields[0] + "".join(next(blank) + field for field in fields[1:]) + next(end)

    files = [f"{number:06d}.jpg" for number in range(len(bits))]
    labels = [[file, *("1" if bit else negative for bit in row)] for file, row in zip(files, bits, strict=True)]
    lines = [*([[str(len(bits))]] if count_line else []), ATTRIBUTES, *labels]
    content = "".join(map(line, lines))
    partition = "".join(line([file, "1"]) for file in files)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"list_attr_celeba.txt": content, "list_eval_partition.txt": partition})
        found = read("celeba", Path(folder))
    assert found.table["source"].to_pylist() == [f"img_align_celeba/{file}" for file in files]
    assert [[row[name] for name in ATTRIBUTES] for row in found.table.to_pylist()] == bits
    assert found.table["official_split"].to_pylist() == ["valid"] * len(bits)
    assert found.unparsed == ()


# CACD: everything stands in the file names


def test_cacd_names_with_apostrophe_hyphen_and_other_letters() -> None:
    paths = [
        "CACD2000/14_Elijah_O'Moore_0003.jpg",
        "CACD2000/53_Zoë_Núñez-Smith_0016.jpg",
        "CACD2000/62_Zoë_Núñez-Smith_0001.jpg",
        "CACD2000/20_张_0001.jpg",
    ]
    found = read_paths("cacd", paths)
    assert rows_of(found, "age", "name", "identity") == [
        (14, "Elijah_O'Moore", 0),
        (20, "张", 2),
        (53, "Zoë_Núñez-Smith", 1),
        (62, "Zoë_Núñez-Smith", 1),
    ]


def test_cacd_lists_take_the_age_from_the_name_and_the_split_from_the_file(tmp_path: Path) -> None:
    """Check that the published age column, 14 below the age, is not believed."""
    files: dict[str, str | bytes] = {
        "labels/cacd_train.csv": ",file,age\n7,53_Robin_Doe_0001.jpg,39\n8,17_Ann_Lee_0001.jpg,3\n",
        "labels/cacd_valid.csv": ",file,age\n0,62_Robin_Doe_0002.jpg,48\n",
        "labels/cacd_test.csv": ",file,age\r\n9,14_Ann_Lee_0002.jpg,0\r\n",
    }
    found = read("cacd", write(tmp_path, files))
    assert sorted(rows_of(found, "source", "official_split", "age", "identity")) == [
        ("CACD2000/14_Ann_Lee_0002.jpg", "test", 14, 0),
        ("CACD2000/17_Ann_Lee_0001.jpg", "train", 17, 0),
        ("CACD2000/53_Robin_Doe_0001.jpg", "train", 53, 1),
        ("CACD2000/62_Robin_Doe_0002.jpg", "valid", 62, 1),
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_label_file_may_have_any_usual_encoding(encoding: str, tmp_path: Path) -> None:
    write(tmp_path, {"labels/cacd_train.csv": ",file,age\n0,30_Beyoncé_0001.jpg,16\n".encode(encoding)})
    assert rows_of(read("cacd", tmp_path), "name") == [("Beyoncé",)]


PEOPLE = st.dictionaries(
    st.tuples(st.integers(0, 130), NAMES, st.integers(0, 9999)),
    st.none(),
    min_size=1,
    max_size=8,
)


@given(people=PEOPLE)
def test_any_cacd_name_is_read_back_from_its_path(people: dict[tuple[int, str, int], None]) -> None:
    composed = {(age, unicodedata.normalize("NFC", name), number) for age, name, number in people}
    by_path = {f"CACD2000/{age}_{name}_{number:04d}.jpg": (age, name) for age, name, number in composed}
    ranks = {name: rank for rank, name in enumerate(sorted({name for _, name in by_path.values()}))}
    found = read_paths("cacd", by_path)
    expected = [(path, age, name, ranks[name]) for path, (age, name) in sorted(by_path.items())]
    assert rows_of(found, "source", "age", "name", "identity") == expected
    assert found.unparsed == ()


@given(people=PEOPLE)
def test_any_cacd_name_is_read_back_from_a_list(people: dict[tuple[int, str, int], None]) -> None:
    """Check quoting as well: names with commas and quotation marks."""
    composed = {(age, unicodedata.normalize("NFC", name), number): None for age, name, number in people}
    by_file = {f"{age}_{name}_{number:04d}.jpg": (age, name) for age, name, number in composed}
    text = io.StringIO()
    csv.writer(text).writerows([["", "file", "age"], *([i, file, 0] for i, file in enumerate(by_file))])
    with tempfile.TemporaryDirectory() as folder:
        found = read("cacd", write(Path(folder), {"labels/cacd_test.csv": text.getvalue()}))
    expected = [(f"CACD2000/{file}", "test", age, name) for file, (age, name) in by_file.items()]
    assert rows_of(found, "source", "official_split", "age", "name") == expected


# AFAD, UTKFace, Simpsons: paths


def test_afad_same_file_name_under_both_genders_is_two_rows() -> None:
    paths = [
        "AFAD-Full/22/111/475-0.jpg",
        "AFAD-Full/22/112/475-0.jpg",
        "AFAD-Full/22/475-0.jpg",
        "AFAD-Full/README.md",
    ]
    found = read_paths("afad", paths)
    assert rows_of(found, "source", "age", "gender") == [(paths[0], 22, "male"), (paths[1], 22, "female")]
    assert len(found.unparsed) == 1
    assert found.unparsed[0].startswith("AFAD-Full/22/475-0.jpg: expected images in folders <age>/")


def test_ages_nobody_reaches_are_bad_rows() -> None:
    found = read_paths("afad", ["AFAD/130/111/1.jpg", "AFAD/131/111/1.jpg", "AFAD/0/111/1.jpg"])
    assert sorted(found.table["age"].to_pylist()) == [0, 130]
    assert len(found.unparsed) == 1
    assert found.unparsed[0].endswith("AFAD/131/111/1.jpg: age is '131'")


@pytest.mark.parametrize(
    "name",
    [
        "39_1_20170109142408075.jpg.chip.jpg",  # race missing
        "53__0_20170116184028385.jpg.chip.jpg",  # gender empty
        "61_3_1_20170109150557335.jpg.chip.jpg",  # no such gender
        "61_1_5_20170109150557335.jpg.chip.jpg",  # no such race
        "1000_1_1_20170109150557335.jpg.chip.jpg",  # age of four digits
        "26_1_1_2017.jpg.chip.jpg",  # stamp too short
    ],
)
def test_utkface_malformed_name_is_listed_and_the_others_kept(name: str) -> None:
    sound = "crop_part1/28_1_2_20170109150557335.jpg.chip.jpg"
    found = read_paths("utkface", [sound, f"crop_part1/{name}"])
    assert rows_of(found, "source", "age", "gender", "race") == [(sound, 28, "female", "asian")]
    assert len(found.unparsed) == 1
    assert f"crop_part1/{name}: " in found.unparsed[0]


def test_simpsons_nested_copy_is_left_out_and_counted() -> None:
    paths = [
        "simpsons_dataset/bart_simpson/pic_0000.jpg",
        "simpsons_dataset/lisa_simpson/pic_0000.jpg",
        "simpsons_dataset/simpsons_dataset/bart_simpson/pic_0000.jpg",
        "simpsons_dataset/simpsons_dataset/lisa_simpson/pic_0000.jpg",
        "kaggle_simpson_testset/kaggle_simpson_testset/charles_montgomery_burns_12.jpg",
        "kaggle_simpson_testset/charles_montgomery_burns_12.jpg",
        "frames_unlabelled/pic (1).jpg",
        "annotation.txt",
    ]
    found = read_paths("simpsons", paths)
    assert rows_of(found, "character", "official_split") == [
        ("charles_montgomery_burns", "test"),
        ("bart_simpson", "train"),
        ("lisa_simpson", "train"),
    ]
    assert found.left_out == {
        "copy of the training folder inside itself": 2,
        "copy of the test folder inside itself": 1,
        "no character is named": 1,
        NO_IMAGES: 1,
    }
    assert found.unparsed == ()


def test_own_photos_in_folders_with_and_without_split() -> None:
    split = read_paths(
        "folder", ["train/me/a.JPG", "val/me/b.png", "testing/others/c.webp", "loose.jpg", "train/x.txt"]
    )
    assert rows_of(split, "folder", "official_split") == [
        (None, None),
        ("others", "test"),
        ("me", "train"),
        ("me", "valid"),
    ]
    assert split.left_out == {NO_IMAGES: 1}
    plain = read_paths("folder", ["cats/1.jpg", "dogs/1.jpg"])
    assert rows_of(plain, "folder", "official_split") == [("cats", None), ("dogs", None)]


def test_images_of_which_no_path_fits_are_refused() -> None:
    with pytest.raises(JobError, match="not UTKFace as published: no images named <age>_<gender>_<race>_<time stamp>"):
        read_paths("utkface", ["crop_part1/portrait.jpg"])


# APPA-REAL and FairFace


def appa_files() -> dict[str, str | bytes]:
    return {
        "gt_avg_train.csv": APPA_HEADER + "000000.jpg,36,5.250000,1.146423,4\n000001.jpg,38,24.7,5.7,18\n",
        "gt_avg_valid.csv": APPA_HEADER + "000000.jpg,63,20.5,4.096819,18\n",
        "allcategories_train.csv": MORE_HEADER + "000000.jpg,male,caucasian,nomakeup,modernphoto,neutral\n",
        "allcategories_valid.csv": MORE_HEADER + "000000.jpg,female,asian,makeup,oldphoto,happy\n",
    }


def test_appa_real_photos_and_faces_are_two_image_sets(tmp_path: Path) -> None:
    write(tmp_path, appa_files())
    photos, faces = read("appa_real", tmp_path, images="photo"), read("appa_real", tmp_path, images="face")
    assert photos.table.equals(read("appa_real", tmp_path).table)
    assert photos.table["source"].to_pylist() == ["train/000000.jpg", "train/000001.jpg", "valid/000000.jpg"]
    assert faces.table["source"].to_pylist() == [f"{path}_face.jpg" for path in photos.table["source"].to_pylist()]
    assert faces.table.drop_columns("source").equals(photos.table.drop_columns("source"))


def test_appa_real_joins_by_file_and_split(tmp_path: Path) -> None:
    """Check that equal file names in two splits do not mix, and that a row of no annotation has null."""
    found = read("appa_real", write(tmp_path, appa_files()))
    assert rows_of(found, "official_split", "apparent_age", "real_age", "num_ratings", "gender", "time") == [
        ("train", 5.25, 4, 36, "male", "modernphoto"),
        ("train", pytest.approx(24.7), 18, 38, None, None),
        ("valid", 20.5, 18, 63, "female", "oldphoto"),
    ]


def test_appa_real_without_additional_annotations(tmp_path: Path) -> None:
    files = {name: content for name, content in appa_files().items() if name.startswith("gt_avg")}
    found = read("appa_real", write(tmp_path, files))
    assert found.table["real_age"].to_pylist() == [4, 18, 18]
    assert found.table["gender"].null_count == 3


@pytest.mark.parametrize("value", ["131", "nan", "-1", "", "about 30"])
def test_age_that_is_no_age_is_a_bad_row(value: str, tmp_path: Path) -> None:
    content = APPA_HEADER + f"1.jpg,3,30,1,30\n2.jpg,3,{value},1,30\n"
    found = read("appa_real", write(tmp_path, {"gt_avg_test.csv": content}))
    assert found.table["source"].to_pylist() == ["test/1.jpg"]
    assert found.unparsed == (
        f"gt_avg_test.csv: test/2.jpg: apparent_age is {value!r} (line 3, column apparent_age_avg)",
    )


def test_bad_row_of_a_later_file_is_named_rightly(tmp_path: Path) -> None:
    rows = "1.jpg,3,30,1,30\n2.jpg,3,30,1,30\n"
    bad = rows.replace("2.jpg,3,30", "2.jpg,3,old")
    files: dict[str, str | bytes] = {"gt_avg_train.csv": APPA_HEADER + rows, "gt_avg_valid.csv": APPA_HEADER + bad}
    found = read("appa_real", write(tmp_path, files))
    assert found.table["source"].to_pylist() == ["train/1.jpg", "train/2.jpg", "valid/1.jpg"]
    assert len(found.unparsed) == 1
    assert found.unparsed[0].endswith(": apparent_age is 'old' (gt_avg_valid.csv, line 3, column apparent_age_avg)")


def test_benchmark_list_gives_apparent_ages_without_real_ones(tmp_path: Path) -> None:
    rows = [{"img_path": "ChaLearn2016/valid/004113.jpg", "age": 35, "std_age": 4.5, "folder": 1}]
    found = read("appa_real", write(tmp_path, {"labels/CLAP2016.json": json.dumps(rows)}))
    assert rows_of(found, "source", "official_split", "apparent_age", "apparent_age_std", "real_age") == [
        ("valid/004113.jpg", "valid", 35, 4.5, None)
    ]


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("appa_real", "faces", "images faces: appa_real has no such image set; it has: photo, face"),
        ("utkface", "aligned", "images aligned: utkface has no such image set; it has: none"),
        ("fairface", "wide", "images wide: not with ground_truth.json beside the images; there are: photos"),
    ],
)
def test_unknown_image_set_is_wrong_usage(name: str, images: str, message: str, tmp_path: Path) -> None:
    rows = [{"filename": "1.jpg", "age": "0-2", "gender": "Male"}]
    files = appa_files() | {"ground_truth.json": json.dumps(rows), "28_1_2_20170109150557335.jpg": b""}
    with pytest.raises(UsageError, match=message):
        read(name, write(tmp_path, files), images=images)


def test_fairface_json(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "filename": "fairface_0001.jpg", "age": "50-59", "gender": "Male"},
        {"id": "2", "filename": "fairface_0002.jpg", "age": "more than 70", "gender": "Female"},
        {"id": "3", "filename": "fairface_0003.jpg", "age": "old", "gender": "Male"},
        {"id": "4", "filename": "fairface_0004.jpg", "age": "0-2"},
    ]
    found = read("fairface", write(tmp_path, {"ground_truth.json": json.dumps(rows)}))
    assert rows_of(found, "source", "age_group", "gender", "race", "official_split") == [
        ("fairface_0001.jpg", "50-59", "male", None, None),
        ("fairface_0002.jpg", "70+", "female", None, None),
        ("fairface_0004.jpg", "0-2", None, None, None),
    ]
    assert found.unparsed == ("ground_truth.json: fairface_0003.jpg: age_group is 'old' (entry 3, column age)",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not valid JSON: "),
        ("[]", "expected a list of objects"),
        ('{"filename": "1.jpg"}', "expected a list of objects"),
        ('["1.jpg"]', "expected a list of objects"),
        ('[{"name": "1.jpg", "age": "0-2"}]', "no column 'filename'; it has name, age"),
    ],
)
def test_json_of_another_form_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=rf"/ground_truth\.json: {message}"):
        read("fairface", write(tmp_path, {"ground_truth.json": content}))


def test_fairface_csv_of_both_splits(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "fairface_label_train.csv": FAIRFACE_HEADER + "train/1.jpg,50-59,Male,East Asian,True\n",
        "fairface_label_val.csv": FAIRFACE_HEADER + "val/1.jpg,more than 70,Female,Black,False\n",
    }
    found = read("fairface", write(tmp_path, files))
    assert rows_of(found, "source", "official_split", "age_group", "gender", "race") == [
        ("train/1.jpg", "train", "50-59", "male", "East Asian"),
        ("val/1.jpg", "valid", "70+", "female", "Black"),
    ]
    wide = read("fairface", tmp_path, images="wide").table["source"].to_pylist()
    assert wide == ["fairface-img-margin125-trainval/train/1.jpg", "fairface-img-margin125-trainval/val/1.jpg"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name,age,gender,race\n", "no column 'file'; it has name, age, gender, race"),
        ("file,years,gender,race\n", "no column 'age'; it has file, years, gender, race, split"),
    ],
)
def test_csv_with_another_header_is_refused(header: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, {"fairface_label_val.csv": header + "val/1.jpg,0-2,Male,Black\n"})
    with pytest.raises(JobError, match=rf"/fairface_label_val\.csv: {message}"):
        read("fairface", tmp_path)


# Where the files lie


LAYOUTS: dict[str, dict[str, str | bytes]] = {
    "celeba": celeba_files(3) | {"img_align_celeba/000001.jpg": b"one", "img_align_celeba/000002.jpg": b"two"},
    "appa_real": appa_files() | {"train/000000.jpg": b"one"},
    "cacd": {"CACD2000/14_Ann_Lee_0002.jpg": b"one", "CACD2000/53_Zoë_0001.jpg": b"two"},
    "simpsons": {"simpsons_dataset/bart_simpson/1.jpg": b"one", "kaggle_simpson_testset/bart_simpson_0.jpg": b"two"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_may_lie_one_folder_deeper(name: str, tmp_path: Path) -> None:
    plain = read(name, write(tmp_path / "plain", LAYOUTS[name])).table
    write(tmp_path / "deep/some folder", LAYOUTS[name])
    write(tmp_path / "deep", {"notes.txt": ""})
    deep = read(name, tmp_path / "deep").table
    assert deep["source"].to_pylist() == [f"some folder/{path}" for path in plain["source"].to_pylist()]
    assert deep.drop_columns("source").equals(plain.drop_columns("source"))


def test_label_files_of_the_shallowest_folder_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a/old/copy", celeba_files(1))
    write(tmp_path / "data", celeba_files(2))
    assert rows_of(read("celeba", tmp_path), "source") == [
        ("data/img_align_celeba/000001.jpg",),
        ("data/img_align_celeba/000002.jpg",),
    ]


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*")):
            opened.write(path, path.relative_to(folder))
    return archive


def tarred(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w") as opened:
        opened.add(folder, ".")
    return archive


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("pack", "suffix"), [(zipped, ".zip"), (tarred, ".tar")])
def test_archive_gives_the_table_of_the_folder(
    name: str, pack: Callable[[Path, Path], Path], suffix: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "folder", LAYOUTS[name])
    found = read(name, pack(folder, tmp_path / f"packed{suffix}"))
    assert found == read(name, folder)


def test_archive_beside_the_label_files_is_read_in_place(tmp_path: Path) -> None:
    folder = write(tmp_path / "celeba", LAYOUTS["celeba"])
    expected = read("celeba", folder)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for path in sorted((folder / "img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(folder / "img_align_celeba")

    description = load_dataset("celeba")
    source = open_source(str(folder), archives=description.archives)

    found = index_dataset(description, source)
    assert found == expected
    assert [path in source for path in found.table["source"].to_pylist()] == [True, True, False]
    assert source.read("img_align_celeba/000002.jpg") == b"two"


def test_archive_in_the_published_folder_of_images(tmp_path: Path) -> None:
    folder = write(tmp_path, celeba_files(1) | {"Img/readme.txt": ""})
    with zipfile.ZipFile(folder / "Img/img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/000001.jpg", b"one")
    assert read("celeba", folder).table["source"].to_pylist() == ["Img/img_align_celeba/000001.jpg"]


# Real label files


@pytest.fixture(scope="module")
def real_celeba(real_data: Path) -> Index:
    return read("celeba", real_data / "celeba")


@pytest.mark.real
def test_real_celeba_rows_splits_attributes_and_people(real_celeba: Index) -> None:
    table = real_celeba.table
    assert (len(table), real_celeba.unparsed) == (202_599, ())
    assert counts_of(table["official_split"]) == {"train": 162_770, "valid": 19_867, "test": 19_962}
    positives = {name: pc.sum(table[name]).as_py() for name in ("Bald", "Mustache", "Gray_Hair", "Pale_Skin")}
    assert positives == {"Bald": 4547, "Mustache": 8417, "Gray_Hair": 8499, "Pale_Skin": 8701}
    assert pc.count_distinct(table["identity"]).as_py() == 10_177
    assert sum(table[name].null_count for name in table.column_names) == 0


@pytest.mark.real
def test_real_celeba_crops_have_the_same_labels(real_data: Path, real_celeba: Index) -> None:
    assert read("celeba", real_data / "celeba_crops").table.equals(real_celeba.table)


@pytest.mark.real
def test_real_cacd_lists(real_data: Path) -> None:
    """Check the published numbers: 159,449 files, all distinct, and nearly every person in all three lists."""
    table = read("cacd", real_data / "cacd").table
    assert len(table) == pc.count_distinct(table["source"]).as_py() == 159_449
    assert counts_of(table["official_split"]) == {"train": 114_804, "valid": 12_755, "test": 31_890}
    assert sum(not path.isascii() for path in table["source"].to_pylist()) == 2015
    assert (pc.min(table["age"]).as_py(), pc.max(table["age"]).as_py()) == (14, 62)
    per_person = table.group_by("identity").aggregate([("official_split", "count_distinct")])
    assert counts_of(per_person["official_split_count_distinct"]) == {3: 1928, 2: 61, 1: 11}


@pytest.mark.real
def test_real_afad_listing(real_data: Path) -> None:
    lines = (real_data / "afad/labels/AFAD-Lite.filelist.tsv").read_text(encoding="utf-8").splitlines()
    found = read_paths("afad", (line.partition("\t")[0] for line in lines[1:]))
    assert (len(found.table), found.unparsed) == (59_344, ())
    same_name = [row for row in rows_of(found, "source", "age", "gender") if str(row[0]).endswith("/475-0.jpg")]
    assert same_name == [
        ("AFAD-Lite/22/111/475-0.jpg", 22, "male"),
        ("AFAD-Lite/22/112/475-0.jpg", 22, "female"),
    ]


@pytest.mark.real
def test_real_appa_real_benchmark_list(real_data: Path) -> None:
    found = read("appa_real", real_data / "appa_real")
    assert (len(found.table), found.unparsed) == (7591, ())
    assert counts_of(found.table["official_split"]) == {"train": 4113, "valid": 1500, "test": 1978}
    assert found.table["apparent_age"].null_count == 0


@pytest.mark.real
def test_real_utkface_names(real_data: Path) -> None:
    found = read("utkface", real_data / "utkface")
    assert len(found.table) == 4888
    assert [line.partition(":")[0] for line in found.unparsed] == [
        "crop_part1/61_1_20170109142408075.jpg.chip.jpg",
        "crop_part1/61_3_20170109150557335.jpg.chip.jpg",
    ]
    assert (pc.min(found.table["age"]).as_py(), pc.max(found.table["age"]).as_py()) == (1, 110)


@pytest.mark.real
def test_real_simpsons(real_data: Path) -> None:
    found = read("simpsons", real_data / "simpsons")
    assert counts_of(found.table["official_split"]) == {"train": 7800, "test": 200}
    assert set(counts_of(found.table["character"]).values()) == {800}
    assert (found.left_out, found.unparsed) == ({NO_IMAGES: 1, "no character is named": 66}, ())


@pytest.mark.real
def test_real_fairface(real_data: Path) -> None:
    found = read("fairface", real_data / "fairface")
    assert (len(found.table), found.unparsed) == (540, ())
    assert sum(counts_of(found.table["gender"]).values()) == 540


# The high-water mark is read from /proc: what getrusage tells a child includes the memory of its parent.
MEASURED = """
import sys
from pathlib import Path
from facepack.description import load_dataset
from facepack.index import index_dataset
from facepack.label import assign_classes
from facepack.configuration import Configuration
from facepack.plan import make_plan
from facepack.source import open_source
description = load_dataset("celeba")
configuration = Configuration.of("celeba", classes="rarest4", split="identity")
source = open_source(sys.argv[1])
labelled = assign_classes(description, index_dataset(description, source).table, configuration=configuration)
planned = make_plan(description, labelled, source=source, configuration=configuration)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(len(planned.table), int(status["VmHWM"].removesuffix("kB")) // 1024)
"""


@pytest.mark.real
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_real_celeba_is_planned_in_less_than_500_mb(real_data: Path) -> None:
    command = [sys.executable, "-c", MEASURED, str(real_data / "celeba")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    num_rows, peak_mb = map(int, printed.split())
    assert num_rows == 27_472
    assert peak_mb < 500
