"""Leaving out: what a list of a user's own names is no part of a build, and counted."""

from pathlib import Path

import pytest
from conftest import make

from facepack import builder
from facepack.builder import Place
from facepack.configuration import Configuration
from facepack.drawn import synthetic
from facepack.errors import UsageError
from facepack.leave_out import LeaveOut, left_out_rows, read_leave_out
from facepack.manifest import read_build, read_table
from facepack.storage import Store

SOURCES = ["ann/1.jpg", "ann/2.jpg", "bob/1.jpg", "train/7.jpg_face.jpg"]


def write(folder: Path, text: str) -> str:
    """A list as a file."""
    (folder / "list.txt").write_text(text, encoding="utf-8")
    return str(folder / "list.txt")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("ann/1.jpg\nbob/1.jpg\n", [0, 2]),
        ("# blurred\n\n./ann/1.jpg  \n", [0]),
        ("img_name\n2.jpg\n", [1]),
        ("file_name,why\nann\\2.jpg,blurred\n", [1]),
        ("7.jpg\n", [3]),
    ],
)
def test_names_are_paths_or_their_ends_or_what_the_label_file_has(text: str, rows: list[int], tmp_path: Path) -> None:
    leave_out = read_leave_out(write(tmp_path, text))
    assert left_out_rows(leave_out, SOURCES, keys=[None, None, None, "7.jpg"]).rows == rows


def test_name_of_several_images_is_refused_with_all_of_them(tmp_path: Path) -> None:
    leave_out = read_leave_out(write(tmp_path, "2.jpg\n1.jpg\n"))
    with pytest.raises(UsageError, match=r"list.txt: line 2: 1.jpg is the name of 2 images, such as ann"):
        left_out_rows(leave_out, SOURCES, keys=[])


def test_names_of_nothing_are_named() -> None:
    left_out = left_out_rows(LeaveOut("x", ((3, "gone.jpg"),)), SOURCES, keys=[])
    assert (left_out.rows, left_out.notes) == ([], ("x names what is not there: gone.jpg (line 3)",))


def test_empty_or_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no image"):
        read_leave_out(write(tmp_path, "# nothing\n"))
    with pytest.raises(UsageError, match="No such file"):
        read_leave_out(str(tmp_path / "none.txt"))


def test_build_leaves_out_what_is_listed_and_counts_it(tmp_path: Path) -> None:
    """Check with APPA-REAL's list, which names photos where the build takes the faces."""
    synthetic.draw("appa_real", tmp_path / "src", num_images=12)
    names = sorted(path.name for path in (tmp_path / "src").rglob("*.jpg") if "_face" not in path.name)
    listed = write(tmp_path, "\n".join(["img_name", *names[:3]]))
    place = Place(str(tmp_path / "src"), str(tmp_path / "out"), workers=0, leave_out=listed)
    builder.build(Configuration.of("appa_real", images="face"), place=place)
    made = read_build(str(tmp_path / "out"))
    table = read_table(Store(str(tmp_path / "out")), "manifest.parquet")
    assert len(table) == 9
    assert not {f"{name}_face.jpg" for name in names[:3]} & {
        path.rpartition("/")[2] for path in table["source"].to_pylist()
    }
    assert made.left_out[f"listed in {listed}"] == 3
    assert len(made.configuration.leave_out) == 64
    with pytest.raises(Exception, match="holds another build"):
        make(tmp_path / "src", tmp_path / "out", dataset="appa_real", classes="", size="keep", images="face")
