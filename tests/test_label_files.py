"""Label files beside photos are joined to them, win where they are there, and lose no photo and no row."""

import io
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import make
from PIL import Image
from scipy.io import savemat

from facepack import manifest
from facepack.description import TableFile, load_dataset
from facepack.errors import JobError
from facepack.index import Index, index_dataset
from facepack.label_file import PLACE, read_rows
from facepack.mat_files import read_mat
from facepack.source import open_source
from facepack.storage import Store
from facepack.verification import verify

LISTS = {
    "train": ["20_Ann_Lee_0001.jpg", "21_Ann_Lee_0002.jpg"],
    "valid": ["30_Bo_Ek_0003.jpg"],
    "test": ["40_Zoë_Núñez_0004.jpg"],
}


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 32, 3), len(path.name), np.uint8)).save(path, "JPEG")


def cacd(folder: Path, *, photos: str = "CACD2000", lists: str = "labels") -> Path:
    """Four photos of CACD, and the published lists with their names."""
    (folder / lists).mkdir(parents=True, exist_ok=True)
    for split, names in LISTS.items():
        lines = "".join(f"{number},{name},{int(name[:2]) - 14}\n" for number, name in enumerate(names))
        (folder / lists / f"cacd_{split}.csv").write_text(f",file,age\n{lines}")
        for name in names:
            photo(folder / photos / name)
    return folder


def index_of(folder: Path, name: str = "cacd", images: str = "") -> Index:
    description = load_dataset(name)
    return index_dataset(description, open_source(str(folder), archives=description.archives), images=images)


def splits(index: Index) -> dict[str, Any]:
    rows = index.table.select(["source", "official_split"]).to_pylist()
    return {row["source"].rpartition("/")[2]: row["official_split"] for row in rows}


def mat_of(**fields: Any) -> bytes:
    """A MAT file with one structure, as CACD's and IMDB-WIKI's publishers have them."""
    content = io.BytesIO()
    savemat(content, {"celebrityImageData": fields})
    return content.getvalue()


def cells(*values: Any) -> Any:
    """A row of cells."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(-1, 1)


# CACD's lists


@pytest.mark.parametrize("photos", ["CACD2000", "data/CACD2000-centered", "labels/x/y"])
@pytest.mark.parametrize("lists", ["labels", "a/datasets", "."])
def test_published_lists_of_cacd_give_the_split_wherever_they_and_the_photos_lie(
    tmp_path: Path, photos: str, lists: str
) -> None:
    index = index_of(cacd(tmp_path, photos=photos, lists=lists))
    assert splits(index) == {name: split for split, names in LISTS.items() for name in names}
    assert index.unparsed == ()
    assert index.table["age"].to_pylist() == [20.0, 21.0, 30.0, 40.0]  # of the name, for the lists' are less 14


def test_official_split_of_cacd_is_the_default_and_photos_in_no_list_are_counted(tmp_path: Path) -> None:
    photo(cacd(tmp_path) / "CACD2000/50_Bo_Ek_0009.jpg")
    outcome = make(tmp_path, tmp_path / "b", dataset="cacd", classes="")
    totals = {split: manifest.total(outcome.build.counts, split=split) for split in ("train", "valid", "test")}
    assert totals == {"train": 2, "valid": 1, "test": 1}
    assert outcome.build.left_out == {"in no split, while others have one": 1}
    assert verify(str(tmp_path / "b")).problems == ()
    everyone = make(tmp_path, tmp_path / "c", dataset="cacd", classes="", split="80/10/10")
    assert manifest.total(everyone.build.counts) == 5


def test_rows_of_lists_without_a_photo_are_missing(tmp_path: Path) -> None:
    (cacd(tmp_path) / "CACD2000/21_Ann_Lee_0002.jpg").unlink()
    make(tmp_path, tmp_path / "b", dataset="cacd", classes="")
    rows = manifest.read_table(Store(str(tmp_path / "b")), manifest.MANIFEST_FILE).to_pylist()
    (missing,) = [row for row in rows if row["status"] == "missing"]
    assert missing["source"] == "CACD2000/21_Ann_Lee_0002.jpg"
    assert (missing["split"], missing["age"], missing["name"]) == ("train", 21.0, "Ann_Lee")


def test_names_of_lists_and_photos_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    cacd(tmp_path)
    name = LISTS["test"][0]
    (tmp_path / "CACD2000" / name).rename(tmp_path / "CACD2000" / unicodedata.normalize("NFD", name))
    index = index_of(tmp_path)
    assert len(index.table) == 4
    assert sorted(index.table["official_split"].to_pylist()) == ["test", "train", "train", "valid"]


def test_photo_in_two_lists_is_named(tmp_path: Path) -> None:
    cacd(tmp_path)
    with (tmp_path / "labels/cacd_train.csv").open("a") as file:
        file.write(f"7,{LISTS['valid'][0]},16\n")
    index = index_of(tmp_path)
    assert len(index.table) == 4
    assert [line.partition(": ")[2] for line in index.unparsed] == ["30_Bo_Ek_0003.jpg: named 2 times"]


def test_one_list_alone_makes_its_photos_the_build(tmp_path: Path) -> None:
    cacd(tmp_path)
    (tmp_path / "labels/cacd_valid.csv").unlink()
    (tmp_path / "labels/cacd_test.csv").unlink()
    assert list(splits(index_of(tmp_path)).values()) == ["train", "train", None, None]


def test_without_lists_cacd_is_as_before(tmp_path: Path) -> None:
    for names in LISTS.values():
        for name in names:
            photo(tmp_path / "CACD2000" / name)
    index = index_of(tmp_path)
    assert index.table.column_names == ["source", "official_split", "age", "identity", "name"]
    assert index.table["official_split"].null_count == 4


@pytest.mark.real
def test_real_lists_give_the_published_numbers(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").symlink_to(real_data / "cacd/labels")
    photo(tmp_path / "CACD2000/31_Milla_Jovovich_0005.jpg")
    index = index_of(tmp_path)
    counts = {row["values"]: row["counts"] for row in index.table["official_split"].value_counts().to_pylist()}
    assert counts == {"train": 114_804, "valid": 12_755, "test": 31_890} | ({None: 1} if None in counts else {})


# CACD's MAT file


def test_mat_file_of_cacd_gives_rank_and_year(tmp_path: Path) -> None:
    names = [name for names in LISTS.values() for name in names]
    content = mat_of(
        age=np.array([[20], [21], [30], [40]], np.uint8),
        identity=np.array([[1], [1], [2], [3]], np.uint16),
        year=np.array([[2004], [2005], [2006], [2007]], np.uint16),
        feature=np.zeros((4, 10)),
        rank=np.array([[3], [3], [1], [50]], np.uint8),
        name=cells(*names),
    )
    (cacd(tmp_path) / "celebrity2000_meta.mat").write_bytes(content)
    table = index_of(tmp_path).table
    assert table["year"].to_pylist() == [2004.0, 2005.0, 2006.0, 2007.0]
    assert table["rank"].to_pylist() == [3.0, 3.0, 1.0, 50.0]
    assert table.schema.field("year").type == pa.float32()


def test_mat_file_of_matlab_73_is_named_and_harms_nothing(tmp_path: Path) -> None:
    (cacd(tmp_path) / "celebrity2000_meta.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    index = index_of(tmp_path)
    (line,) = index.unparsed
    assert line.endswith("a MAT file of MATLAB 7.3 (HDF5), which is not read; save it again with -v7")
    assert len(index.table) == 4
    assert index.table["year"].null_count == 4


@pytest.mark.parametrize("content", [b"", b"text", mat_of(age=np.zeros(3))[:150], b"\0" * 500])
def test_damaged_mat_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (cacd(tmp_path) / "celebrity2000_meta.mat").write_bytes(content)
    with pytest.raises(JobError, match="celebrity2000_meta"):
        index_of(tmp_path)


def test_mat_file_without_the_field_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    (cacd(tmp_path) / "celebrity2000_meta.mat").write_bytes(mat_of(age=np.zeros((3, 1)), name=cells("a", "b", "c")))
    with pytest.raises(JobError, match="no field 'rank'; it has age, name"):
        index_of(tmp_path)


def test_values_of_mat_files_are_text_as_people_write_it() -> None:
    content = mat_of(
        name=cells("a.jpg", "", "c.jpg"),
        score=np.array([[2.0, -np.inf, np.nan]]),
        half=np.array([[0.5, 1e20, -3.0]]),
        odd=cells(np.zeros((2, 2)), np.array([[7]]), np.array(["x"])),
    )
    table = load_dataset("cacd").index[0].tables[1]
    columns, _ = read_mat(table.__class__(path="x.mat", format="mat", key="name"), "x.mat", content)
    assert columns.to_pydict() == {
        "name": ["a.jpg", None, "c.jpg"],
        "score": ["2", "-inf", None],
        "half": ["0.5", "100000000000000000000", "-3"],
        "odd": [None, "7", "x"],
    }


# Other formats


def test_blanks_after_commas_and_commas_at_ends_are_no_part_of_values() -> None:
    content = b'\xef\xbb\xbfClass_ID, Name, Sample_Num,\r\nn000001, "Ann, Lee",424, \r\n\r\nn000002, Bo\nn3,"C",1,,\n'
    table, unparsed = read_rows(TableFile(path="meta.csv", format="csv", key="Class_ID"), "meta.csv", content=content)
    assert table.to_pydict() == {
        "Class_ID": ["n000001", "n3"],
        "Name": ["Ann, Lee", "C"],
        "Sample_Num": ["424", "1"],
        PLACE: [2, 5],
    }
    assert unparsed == ["meta.csv: line 4: 'n000002,Bo': 2 fields, expected 3"]


def test_tabs_keep_blanks_and_commas() -> None:
    content = b"user_id\tage\tgender\t\n30@N\t(25, 32)\tf\t\n31@N\t\tm\t\n"
    table, unparsed = read_rows(TableFile(path="fold.txt", format="csv", key="user_id"), "fold.txt", content=content)
    assert table.drop_columns([PLACE]).to_pydict() == {
        "user_id": ["30@N", "31@N"],
        "age": ["(25, 32)", ""],
        "gender": ["f", "m"],
    }
    assert unparsed == []


def test_folds_are_numbered_by_their_counts() -> None:
    people = TableFile(path="people.txt", format="folds", key="name", columns=("name", "images"))
    content = b"2\n2\nAnn_Lee\t3\nBo_Ek\t1\n1\nZoe\t4\nodd line here\n"
    table, unparsed = read_rows(people, "people.txt", content=content)
    assert table.to_pydict() == {
        "name": ["Ann_Lee", "Bo_Ek", "Zoe"],
        "images": ["3", "1", "4"],
        "fold": ["1", "1", "2"],
        PLACE: [3, 4, 6],
    }
    assert unparsed == ["people.txt: line 7: 'odd line here': 3 fields, expected 2"]
