"""Label files as people have them: any encoding, delimiters, blanks, commas at the ends, paths written otherwise."""

from pathlib import Path

import pytest

from facepack.description import load_dataset
from facepack.errors import JobError
from facepack.index import Index, index_dataset
from facepack.source import open_source
from facepack.table_rows import NO_IMAGES, UNNAMED

HEADER = "file,age,gender,race,service_test"


def fairface(folder: Path, rows: str, *images: str, header: str = HEADER) -> Index:
    """The rows of FairFace with this label file and these images."""
    (folder / "fairface_label_train.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    description = load_dataset("fairface")
    return index_dataset(description, open_source(str(folder), archives=description.archives))


def values(index: Index) -> list[tuple[object, ...]]:
    names = ["source", "age_group", "gender", "race", "service_test"]
    return [tuple(row[name] for name in names) for row in index.table.to_pylist()]


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        ("train/1.jpg,50-59,Male,Black,True\n", HEADER),
        ("train/1.jpg, 50-59, Male, Black, True\n", "file, age, gender, race, service_test"),
        ("train/1.jpg,50-59,Male,Black,True,\n", HEADER + ","),
        ("train/1.jpg,50-59,Male,Black,True,,\n", HEADER),
        ("train/1.jpg;50-59;Male;Black;True\n", HEADER.replace(",", ";")),
        ("train/1.jpg\t50-59\tMale\tBlack\tTrue\n", HEADER.replace(",", "\t")),
        ('"train/1.jpg", "50-59", "male", "Black", "TRUE"\n', HEADER),
        ("\ntrain/1.jpg,50-59,MALE,Black,1\n\n\n", HEADER),
        (" ./train/1.jpg ,50-59,Male,Black,yes\n", HEADER),
        ("train\\1.jpg,50-59,Male,Black,1.0\n", HEADER),
    ],
)
def test_rows_are_read_however_they_are_written(rows: str, header: str, tmp_path: Path) -> None:
    found = fairface(tmp_path, rows, "train/1.jpg", header=header)
    assert values(found) == [("train/1.jpg", "50-59", "male", "Black", 1)]
    assert (found.unparsed, found.left_out) == ((), {})


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("train/1.jpg", "train/1.JPG"),
        ("train/1.jpg", "Train/1.png"),
        ("train/1", "train/1.jpg"),
        ("train//1.jpg", "train/1.jpg"),
        ("/home/me/fairface/train/1.jpg", "train/1.jpg"),
        ("C:\\data\\train\\1.jpg", "train/1.jpg"),
        ("train/ 1.jpg", "train/1.jpg"),
    ],
)
def test_path_written_otherwise_is_the_one_file_that_it_means(written: str, there: str, tmp_path: Path) -> None:
    found = fairface(
        tmp_path, f"train/0.jpg,50-59,Male,Black,True\n{written},50-59,Male,Black,True\n", "train/0.jpg", there
    )
    assert [row[0] for row in values(found)] == ["train/0.jpg", there]
    if "\\" not in written or ":" in written:
        assert len(found.notes) == 1
        assert found.notes[0].startswith("1 images are written otherwise in the label file, such as ")
        assert found.notes[0].endswith(there)


def test_path_that_fits_two_files_is_not_guessed_but_shown_beside_what_is_there(tmp_path: Path) -> None:
    rows = "train/0.jpg,50-59,Male,Black,True\ntrain/1.jpg,50-59,Male,Black,True\n"
    found = fairface(tmp_path, rows, "train/0.jpg", "train/1.png", "train/1.webp")
    assert [row[0] for row in values(found)] == ["train/0.jpg", "train/1.jpg"]
    assert found.notes == ("1 images are not there, such as train/1.jpg: there is train/1.png, train/1.webp",)
    assert found.left_out == {UNNAMED: 2}
    assert found.examples == {UNNAMED: ["train/1.png", "train/1.webp"]}


def test_images_and_label_files_may_lie_in_different_folders(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    found = fairface(tmp_path / "labels", "train/1.jpg,50-59,Male,Black,True\n")
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "1.jpg").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("x")
    found = index_dataset(load_dataset("fairface"), open_source(str(tmp_path)))
    assert [row[0] for row in values(found)] == ["images/train/1.jpg"]
    assert (found.left_out, found.examples) == ({NO_IMAGES: 1}, {NO_IMAGES: ["README.txt"]})


def test_bad_values_are_named_with_line_and_column(tmp_path: Path) -> None:
    rows = "train/1.jpg,50-59,Male,Black,True\n\ntrain/2.jpg,50-59,Man,Black,True\ntrain/3.jpg,50-59\n"
    found = fairface(tmp_path, rows, "train/1.jpg")
    assert found.unparsed == (
        "fairface_label_train.csv: line 5: 'train/3.jpg,50-59': 2 fields, expected 5",
        "fairface_label_train.csv: train/2.jpg: gender is 'Man' (line 4, column gender)",
    )


def test_column_that_some_copies_lack_is_null(tmp_path: Path) -> None:
    found = fairface(tmp_path, "train/1.jpg,50-59,Male,Black\n", "train/1.jpg", header="file,age,gender,race")
    assert values(found) == [("train/1.jpg", "50-59", "male", "Black", None)]


def test_json_may_end_in_a_comma_or_be_an_object_a_line(tmp_path: Path) -> None:
    entry = '{"filename": "1.jpg", "age": "50-59", "gender": "Male"}'
    for text in (f"[{entry},]", f"{entry}\n{entry.replace('1.jpg', '2.jpg')}\n"):
        (tmp_path / "ground_truth.json").write_text(text)
        found = index_dataset(load_dataset("fairface"), open_source(str(tmp_path)))
        assert [row[1:3] for row in values(found)] == [("50-59", "male")] * text.count("filename")


def test_errors_name_the_place_that_was_given(tmp_path: Path) -> None:
    with pytest.raises(JobError) as refused:
        fairface(tmp_path, "train/1.jpg,1\n", header="path,age")
    assert f"{refused.value}" == f"{tmp_path}/fairface_label_train.csv: no column 'file'; it has path, age"
