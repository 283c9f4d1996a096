"""Listing: every file below a folder is named, or passed over for a reason."""

import os
import socket
import unicodedata
from pathlib import Path

import pytest

from facepack.listing import CIRCLES, CLOSED, DEAD_LINKS, HIDDEN, PIPES, is_hidden, listing_of
from facepack.source import open_source

NOBODY = 65534


def write(folder: Path, *names: str) -> None:
    """Write files with their names as content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


SYSTEM = [
    "@eaDir/1.jpg/SYNOPHOTO_THUMB.jpg",
    "$RECYCLE.BIN/1.jpg",
    "$Recycle.Bin/2.jpg",
    "__MACOSX/ann/._1.jpg",
    "ann/._1.jpg",
    "ann/.AppleDouble/1.jpg",
    "lost+found/1.jpg",
    "System Volume Information/1.jpg",
    "ann/Thumbs.db",
    "#recycle/1.jpg",
    ".git/objects/1",
]


def test_what_systems_put_there_is_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "ann/1.jpg", *SYSTEM)
    listing = listing_of(str(tmp_path))
    assert listing.names == ["ann/1.jpg"]
    assert listing.passed == {HIDDEN: sorted(SYSTEM)}
    assert all(map(is_hidden, SYSTEM))


def test_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "ann/1.jpg")
    os.mkfifo(tmp_path / "ann" / "pipe.jpg")
    (tmp_path / "ann" / "to_pipe.jpg").symlink_to("pipe.jpg")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("ann/socket.jpg")
        listing = listing_of(str(tmp_path))
    assert listing.names == ["ann/1.jpg"]
    assert listing.passed == {PIPES: ["ann/pipe.jpg", "ann/socket.jpg", "ann/to_pipe.jpg"]}


def test_links_are_followed_but_not_to_nothing_and_not_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "ann/1.jpg")
    (tmp_path / "bob").symlink_to("ann")
    (tmp_path / "ann" / "up").symlink_to("..")
    (tmp_path / "ann" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    listing = listing_of(str(tmp_path))
    assert listing.names == ["ann/1.jpg", "bob/1.jpg"]
    assert listing.passed == {
        CIRCLES: ["ann/up", "bob/up"],
        DEAD_LINKS: ["ann/gone.jpg", "bob/gone.jpg", "self.jpg"],
    }


def test_folders_that_cannot_be_opened_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "ann/1.jpg", "closed/2.jpg")
    monkeypatch.chdir(tmp_path)  # where somebody else may be, whatever is above it
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who opens every folder
            os.seteuid(NOBODY)
        listing = listing_of(".")
    finally:
        os.seteuid(user)
        (tmp_path / "closed").chmod(0o700)
    assert (listing.names, listing.passed) == (["ann/1.jpg"], {CLOSED: ["closed/"]})


def test_paths_are_composed_and_still_read(tmp_path: Path) -> None:
    """Check that a name in Unicode's other form, and one that is not UTF-8, are read under the name that is shown."""
    apart = unicodedata.normalize("NFD", "ann/Zoë.jpg")
    write(tmp_path, apart)
    (tmp_path / "ann" / os.fsdecode(b"Jos\xe9.jpg")).write_text("Latin-1")
    source = open_source(str(tmp_path))
    assert source.paths == ["ann/José.jpg", "ann/Zoë.jpg"]
    part = source.bare.placed(source.paths, source.places(source.paths))
    assert [part.read(path).decode() for path in source.paths] == ["Latin-1", apart]
    assert [part.size(path) for path in source.paths] == [7, len(apart.encode())]


def test_two_names_that_differ_in_their_form_alone_are_two_files(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "Zoë.jpg") for form in ("NFC", "NFD")]
    write(tmp_path, *names)
    source = open_source(str(tmp_path))
    assert {source.read(path).decode() for path in source.paths} == set(names)
    assert len(source.paths) == 2
