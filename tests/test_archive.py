"""Archives: every file in a .zip or .tar is a path of the source, or is passed over for a reason."""

import io
import os
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest

from facepack.archive import LOST_LINKS, ODD_KINDS, OUTSIDE, REPLACED
from facepack.errors import JobError
from facepack.listing import HIDDEN, PIPES
from facepack.source import open_source


def add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, to: str = ""
) -> None:
    """Add an entry of some kind to a .tar."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, to, len(content)
    archive.addfile(entry, io.BytesIO(content))


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        add(archive, "./ann/1.jpg", b"one")
        add(archive, "./bob/hard.jpg", kind=tarfile.LNKTYPE, to="./ann/1.jpg")
        add(archive, "./bob/soft.jpg", kind=tarfile.SYMTYPE, to="../ann/1.jpg")
        add(archive, "./bob/twice.jpg", kind=tarfile.SYMTYPE, to="soft.jpg")
        add(archive, "./eve", kind=tarfile.SYMTYPE, to="bob")
        add(archive, "./ann/circle", kind=tarfile.SYMTYPE, to="../ann")
        add(archive, "./ann/lost.jpg", kind=tarfile.SYMTYPE, to="/srv/photos/1.jpg")
        add(archive, "./ann/itself", kind=tarfile.SYMTYPE, to="itself")
    source = open_source(str(tmp_path / "s.tar"))
    names = ["hard.jpg", "soft.jpg", "twice.jpg"]
    assert source.paths == ["ann/1.jpg", *(f"bob/{name}" for name in names), *(f"eve/{name}" for name in names)]
    assert {source.read(path) for path in source.paths} == {b"one"}
    assert source.passed == {LOST_LINKS: ["ann/circle", "ann/itself", "ann/lost.jpg"]}


def test_joined_tars_are_read_to_the_end(tmp_path: Path) -> None:
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            add(archive, f"me/{number}.jpg", b"photo %d" % number)
            add(archive, "me/last.jpg", b"last %d" % number)
    (tmp_path / "all.tar").write_bytes(b"".join((tmp_path / f"{number}.tar").read_bytes() for number in range(3)))
    source = open_source(str(tmp_path / "all.tar"))
    assert source.paths == ["me/0.jpg", "me/1.jpg", "me/2.jpg", "me/last.jpg"]
    assert [source.read(path) for path in source.paths] == [b"photo 0", b"photo 1", b"photo 2", b"last 2"]
    assert source.passed == {REPLACED: ["me/last.jpg", "me/last.jpg"]}


def test_damage_between_joined_tars_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        add(archive, "me/1.jpg", b"x")
    (tmp_path / "all.tar").write_bytes((tmp_path / "s.tar").read_bytes() + b"no header".ljust(512, b"\0"))
    with pytest.raises(JobError, match=r"all.tar: a damaged archive \(.*\); fetch it again"):
        open_source(str(tmp_path / "all.tar"))


def test_what_is_no_file_in_a_tar_is_passed_over_by_reason(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        add(archive, "me/1.jpg", b"x")
        add(archive, "me/pipe.jpg", kind=tarfile.FIFOTYPE)
        add(archive, "me/@eaDir/1.jpg", b"x")
        add(archive, "../2.jpg", b"x")
        add(archive, "me/dump.jpg", kind=b"D")
    source = open_source(str(tmp_path / "s.tar"))
    assert source.paths == ["me/1.jpg"]
    assert source.passed == {
        PIPES: ["me/pipe.jpg"],
        HIDDEN: ["me/@eaDir/1.jpg"],
        OUTSIDE: ["../2.jpg"],
        ODD_KINDS: ["me/dump.jpg"],
    }


def test_names_in_a_tar_that_are_not_utf8_are_latin1(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "me/Zoë.jpg", b"x")
    source = open_source(str(tmp_path / "s.tar"))
    assert source.paths == ["me/Zoë.jpg"]
    assert source.read("me/Zoë.jpg") == b"x"


def zip_with(path: Path, *names: bytes, extra: bytes = b"", system: int = 3) -> str:
    """A .zip whose names are these very bytes, without the flag for UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.create_system, entry.extra = name.decode("cp437"), system, extra
            # A name beyond ASCII makes zipfile set the flag: the same bytes are put in afterwards.
            entry.filename = "".join(char if char.isascii() else "~" for char in entry.filename)
            archive.writestr(entry, name)
    content = path.read_bytes()
    for name in names:
        content = content.replace(bytes(byte if byte < 128 else 126 for byte in name), name)
    path.write_bytes(content)
    return str(path)


def test_zip_names_without_the_flag_are_utf8_where_they_can_be_else_code_page_437(tmp_path: Path) -> None:
    names = ["me/Zoë.jpg".encode(), "me/José.jpg".encode("cp437"), unicodedata.normalize("NFD", "me/Å.jpg").encode()]
    source = open_source(zip_with(tmp_path / "s.zip", *names))
    assert source.paths == ["me/José.jpg", "me/Zoë.jpg", "me/Å.jpg"]


def test_zip_names_in_the_unicode_field_win(tmp_path: Path) -> None:
    stored, true = "me/Zoë.jpg".encode("cp850"), "me/Zoë é.jpg".encode()
    body = b"\x01" + struct.pack("<I", zlib.crc32(stored)) + true
    source = open_source(zip_with(tmp_path / "s.zip", stored, extra=struct.pack("<HH", 0x7075, len(body)) + body))
    assert source.paths == ["me/Zoë é.jpg"]


def test_backslashes_in_a_zip_are_folders(tmp_path: Path) -> None:
    source = open_source(zip_with(tmp_path / "w.zip", b"ann\\1.jpg", b"bob\\", b"C:\\bob\\2.jpg", system=0))
    assert source.paths == ["ann/1.jpg", "bob/2.jpg"]


def test_links_in_a_zip_are_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("ann/1.jpg", b"one")
        entry = zipfile.ZipInfo("bob/1.jpg")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "../ann/1.jpg")
    source = open_source(str(tmp_path / "s.zip"))
    assert {path: source.read(path) for path in source.paths} == {"ann/1.jpg": b"one", "bob/1.jpg": b"one"}


@pytest.mark.parametrize("name", ["photos.cbz", "photos", "photos.download"])
def test_archives_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("ann/1.jpg", b"one")
    assert open_source(str(tmp_path / name)).paths == ["ann/1.jpg"]


@pytest.mark.parametrize(
    ("name", "start", "kind"),
    [
        ("s.tar.bz2", b"BZh9", "a compressed tar"),
        ("s.tar.zst", b"(\xb5/\xfd", "a compressed tar"),
        ("s.7z", b"7z\xbc\xaf\x27\x1c", "a .7z"),
        ("s.rar", b"Rar!\x1a\x07", "a .rar"),
    ],
)
def test_archives_that_cannot_be_read_in_place_are_named(tmp_path: Path, name: str, start: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(JobError) as refused:
        open_source(f"{tmp_path}/{name}")
    advice = "unpack it and give the folder as --src"
    assert f"{refused.value}" == f"{tmp_path}/{name}: {kind} cannot be read in place; {advice}"


def test_an_archive_beside_the_working_folder_is_named_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert os.listdir() == []  # noqa: PTH208
    with pytest.raises(JobError, match=r"^photos\.zip: no such file"):
        open_source("photos.zip")
