"""--labels: a table of a user's own, whose columns are found by names and values, or named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from parquet_files import photo
from typer.testing import CliRunner

from facepack.cli import app
from facepack.configuration import Configuration
from facepack.errors import FieldError, JobError, UsageError
from facepack.found_labels import Named
from facepack.open_rows import OwnTable
from facepack.prepare import Prepared, prepare_build
from facepack.table_rows import NO_IMAGES, UNNAMED
from facepack.verification import verify


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(photo(number))
    return folder


def prepared(folder: Path, table: Path, *, classes: str = "", **columns: str) -> Prepared:
    """A build of a folder with a table."""
    own = OwnTable(str(table), Named(**columns))
    return prepare_build(Configuration.of("folder", classes=classes), src=str(folder), own=own)


def classes_of(made: Prepared) -> dict[str, str | None]:
    table = made.plan.table
    return dict(sorted(zip(table["source"].to_pylist(), table["class"].to_pylist(), strict=True)))


GLAD_SAD = {"0.jpg": "glad", "1.jpg": "sad", "2.jpg": "sad"}


@pytest.mark.parametrize(
    "text",
    [
        "image,mood\n0.jpg,glad\n1.jpg,sad\n2.jpg,sad\n",
        "mood;foto\r\nglad;0.jpg\r\nsad;1.jpg\r\nsad;2.jpg\r\n",
        "\ufefffile_name\tmood\n0.jpg\tglad\n1.jpg\tsad\n2.jpg\tsad",
        "0.jpg,glad\n1.jpg,sad\n2.jpg,sad\n",
        "0.jpg glad\n1.jpg sad\n2.jpg   sad\n",
        "glad 0.jpg\nsad 1.jpg\nsad 2.jpg\n",
        "file mood\n0.jpg glad\n1.jpg sad\n2.jpg sad\n",
        "3\nimage_id mood\n0.jpg glad\n1.jpg sad\n2.jpg sad\n",
        'image|mood\n"0.jpg"|"glad"\n"1.jpg"|"sad"\n"2.jpg"|"sad"\n',
        "id,mood\n0,glad\n1,sad\n2,sad\n",
        "path,mood\n/home/me/photos/0.jpg,glad\n/home/me/photos/1.jpg,sad\n/home/me/photos/2.jpg,sad\n",
        "path,mood\nC:\\me\\0.jpg,glad\nC:\\me\\1.jpg,sad\nC:\\me\\2.jpg,sad\n",
        "path,mood\nphotos/0.jpg,glad\nphotos/1.jpg,sad\nphotos/2.jpg,sad\n",
        "path,mood\n./0.JPG,glad\n./1.JPG,sad\n./2.JPG,sad\n",
        "url,mood\nhttps://a.b/c/0.jpg?x=1,glad\nhttps://a.b/c/1.jpg,sad\nhttps://a.b/c/2.jpg#top,sad\n",
        "sep=;\nimage;mood\n0.jpg;glad\n1.jpg;sad\n2.jpg;sad\n",
        '[{"file": "0.jpg", "mood": "glad"}, {"file": "1.jpg", "mood": "sad"}, {"file": "2.jpg", "mood": "sad"}]',
        '{"file": "0.jpg", "mood": "glad"}\n{"file": "1.jpg", "mood": "sad"}\n{"file": "2.jpg", "mood": "sad"}\n',
        '{"0.jpg": "glad", "1.jpg": "sad", "2.jpg": "sad"}',
        '{"0.jpg": {"mood": "glad"}, "1.jpg": {"mood": "sad"}, "2.jpg": {"mood": "sad"}}',
        ",image,mood\n0,0.jpg,glad\n1,1.jpg,sad\n2,2.jpg,sad\n",
        'image,mood,words\n0.jpg,glad,"a, ""b""\nc"\n1.jpg,sad,d\n2.jpg,sad,e\n',
    ],
)
def test_tables_of_any_form(photos: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "my.table").write_text(text, encoding="utf-8")
    assert classes_of(prepared(photos, tmp_path / "my.table")) == GLAD_SAD


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_tables_of_any_encoding(photos: Path, tmp_path: Path, encoding: str) -> None:
    text = "Bild,Gefühl\n0.jpg,fröhlich\n1.jpg,müde\n2.jpg,müde\n"
    (tmp_path / "my.csv").write_bytes(text.encode(encoding))
    expected = {"0.jpg": "fröhlich", "1.jpg": "müde", "2.jpg": "müde"}
    assert classes_of(prepared(photos, tmp_path / "my.csv")) == expected


def test_parquet_as_a_table_with_structs_dictionaries_and_lists(photos: Path, tmp_path: Path) -> None:
    columns = {
        "file": ["0.jpg", "1.jpg", "2.jpg", None],
        "mood": pa.array(["glad", "sad", "sad", "sad"]).dictionary_encode(),
        "face": [{"age": 30, "box": [1, 2]}] * 4,
        "tags": [["a"]] * 4,
        "seen": [True, False, None, True],
    }
    pq.write_table(pa.table(columns), tmp_path / "my.parquet")
    made = prepared(photos, tmp_path / "my.parquet")
    assert classes_of(made) == GLAD_SAD
    rows = {row["source"]: (row["face.age"], row["seen"]) for row in made.plan.table.to_pylist()}
    assert rows == {"0.jpg": (30, 1), "1.jpg": (30, 0), "2.jpg": (30, None)}
    assert made.index.unparsed == ("my.parquet: None: no file name (row 4)",)
    assert made.warnings[0].startswith("my.parquet: not taken as labels: face.box (list<")


def test_all_that_does_not_fit_is_counted_with_examples(photos: Path, tmp_path: Path) -> None:
    lines = ["image,label", "0.jpg,a", "9.jpg,b", "1.jpg,b", "0.jpg,b", ",a", "2.jpg"]
    (photos / "my.csv").write_text("\n".join(lines))
    (photos / "notes.txt").write_text("x")
    made = prepared(photos, photos / "my.csv")
    assert classes_of(made) == {"0.jpg": "a", "1.jpg": "b", "9.jpg": "b"}
    assert made.index.passed == {UNNAMED: ["2.jpg", "3.jpg", "4.jpg", "5.jpg"], NO_IMAGES: ["notes.txt"]}
    assert made.index.unparsed == (
        "my.csv: line 7: '2.jpg': 1 fields, expected 2",
        "my.csv: 0.jpg: named twice (line 5)",
        "my.csv: None: no file name (line 6)",
    )
    assert "1 images are not there, such as 9.jpg: there is" in made.warnings[0]


def test_columns_are_named(photos: Path, tmp_path: Path) -> None:
    lines = [
        "a,b,c,d,e,f",
        *(f"{n}.jpg,{5 - n}.jpg,{n % 2},{'train,p' if n < 4 else 'VAL,q'},{20 + n}" for n in range(6)),
    ]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    with pytest.raises(FieldError, match=r"labels_image: .*my.csv has several columns of images: a, b; name the right"):
        prepared(photos, tmp_path / "my.csv")
    named = {"image": "b", "class_": "c", "split": "d", "identity": "e", "age": "f"}
    made = prepared(photos, tmp_path / "my.csv", **named)
    assert {
        row["source"]: [row[name] for name in ("class", "split", "e", "f", "a")] for row in made.plan.table.to_pylist()
    } == {f"{5 - n}.jpg": [f"{n % 2}", "train" if n < 4 else "valid", int(n > 3), 20 + n, f"{n}.jpg"] for n in range(6)}
    with pytest.raises(FieldError, match=r"labels_class g: .*my.csv has no such column; known are a, b, c, d, e, f"):
        prepared(photos, tmp_path / "my.csv", class_="g")
    with pytest.raises(FieldError, match="labels_split c: '0' is no split; expected words such as train"):
        prepared(photos, tmp_path / "my.csv", image="a", split="c")


def test_columns_of_usual_names(photos: Path, tmp_path: Path) -> None:
    lines = [
        "image,thumb,subset,person_id,age,label,hat",
        *(f"{n}.jpg,{n}.jpg,{'dev' if n else 'train'},x{n},3,{n % 2},{n % 3}h" for n in range(6)),
    ]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    made = prepared(photos, tmp_path / "my.csv")
    kinds = {name: label.kind for name, label in made.description.labels.items()}
    assert kinds == {"label": "category", "thumb": "category", "person_id": "identity", "age": "age", "hat": "category"}
    assert classes_of(made) == {f"{n}.jpg": f"{n % 2}" for n in range(6)}
    assert made.plan.table["split"].to_pylist().count("valid") == 5


def test_classes_none_takes_all_rows(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("image,mood\n0.jpg,glad\n1.jpg,\n2.jpg,glad\n")
    made = prepared(photos, tmp_path / "my.csv", classes="none")
    assert classes_of(made) == {"0.jpg": None, "1.jpg": None, "2.jpg": None}
    assert classes_of(prepared(photos, tmp_path / "my.csv", class_="mood")) == {"0.jpg": "glad", "2.jpg": "glad"}


def test_tables_that_cannot_be_are_refused_in_a_line(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "my.csv"
    with pytest.raises(UsageError, match=r"^labels .*my.csv: No such file"):
        prepared(photos, table)
    table.write_text("image,mood\nx.jpg,glad\ny.jpg,sad\n")
    with pytest.raises(JobError, match=r"my.csv: none of the columns image, mood names files of .*; image is 'x.jpg'"):
        prepared(photos, table)
    table.write_bytes(b"PK\x03\x04excel")
    with pytest.raises(JobError, match=r"my.csv: an Excel file or archive; save the table as CSV"):
        prepared(photos, table)
    table.write_text("")
    with pytest.raises(JobError, match=r"my.csv: "):
        prepared(photos, table)
    with pytest.raises(FieldError, match="labels_class mood: needs labels, the table"):
        OwnTable("", Named(class_="mood"))
    table.write_text("image,mood\n0.jpg,glad\n")
    with pytest.raises(FieldError, match=f"labels {table}: celeba has labels of its own"):
        prepare_build(Configuration.of("celeba"), src=str(photos), own=OwnTable(str(table)))


def test_a_build_by_the_command_line_is_whole_and_the_same_again(photos: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "my.csv", tmp_path / "out"
    table.write_text(
        "image;mood;person\n" + "".join(f"{n}.jpg;{'glad' if n % 2 else 'sad'};{n // 2}\n" for n in range(6))
    )
    words = ["build", "folder", "--src", photos, "--labels", table, "--labels-class", "mood", "--workers", "0"]
    for _ in range(2):
        ended = CliRunner().invoke(app, [str(word) for word in [*words, "--out", out]])
        assert ended.exit_code == 0, ended.output
    assert "complete already" in ended.output
    made = json.loads((out / "build.json").read_text())
    assert (made["class_names"], made["dataset"]) == (["glad", "sad"], "folder")
    assert verify(str(out), deep=True).problems == ()
    ended = CliRunner().invoke(app, [str(word) for word in [*words[:4], "--workers", "0", "--out", out]])
    assert (ended.exit_code, "holds another build" in ended.output) == (1, True)
