"""Stores write whole files or none, and archives read like folders."""

import io
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from facepack.archive import OUTSIDE, Member
from facepack.errors import JobError, UsageError
from facepack.source import Source, open_source
from facepack.storage import Store

FILES = {"a/1.jpg": b"one" * 1000, "a/2 (x)#3.jpg": b"two", "b/dé ü.jpg": b"\0\1\2" * 333, "labels.txt": b"text\r\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def zipped(path: Path, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("a")
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def check_reads_all(source: Source) -> None:
    assert source.paths == sorted(FILES)
    for name, content in FILES.items():
        assert name in source
        assert source.read(name) == content
        assert source.size(name) == len(content)
    assert "c.jpg" not in source
    part = source.bare.placed(["a/1.jpg"], source.places(["a/1.jpg"]))
    assert part.paths == ["a/1.jpg"]
    assert part.read("a/1.jpg") == FILES["a/1.jpg"]


def test_folder_zip_and_tar_read_alike(folder: Path, tmp_path: Path) -> None:
    check_reads_all(open_source(str(folder)))
    check_reads_all(open_source(str(zipped(tmp_path / "deflated.zip"))))
    check_reads_all(open_source(str(zipped(tmp_path / "stored.zip", method=zipfile.ZIP_STORED))))
    check_reads_all(open_source(str(tarred(tmp_path / "plain.tar"))))


def test_hidden_files_are_passed_over(folder: Path, tmp_path: Path) -> None:
    for name in (".DS_Store", "a/._1.jpg", "__MACOSX/a/1.jpg", ".git/x.jpg"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"hidden")
    check_reads_all(open_source(str(folder)))
    with zipfile.ZipFile(zipped(tmp_path / "x.zip"), "a") as archive:
        archive.writestr("__MACOSX/._1.jpg", b"hidden")
    check_reads_all(open_source(str(tmp_path / "x.zip")))


def test_named_archives_in_a_folder_are_seen_as_unpacked_and_files_win(folder: Path) -> None:
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("a/1.jpg", b"another one")
        archive.writestr("c/9.jpg", b"nine")
    source = open_source(str(folder), archives={"more.zip": "", "absent.zip": ""})
    assert source.read("c/9.jpg") == b"nine"
    assert source.read("a/1.jpg") == FILES["a/1.jpg"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_inside_a_zip_is_an_error_of_that_file_alone(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "x.zip", method=method)
    content = bytearray(path.read_bytes())
    at = content.index(b"a/1.jpg") + len(b"a/1.jpg") + 5
    content[at] ^= 0xFF
    path.write_bytes(content)
    source = open_source(str(path))
    with pytest.raises(OSError, match=r"a/1\.jpg"):
        source.read("a/1.jpg")
    assert source.read("labels.txt") == FILES["labels.txt"]


def test_archive_cut_off_is_one_clear_error(tmp_path: Path) -> None:
    for path in (zipped(tmp_path / "x.zip"), tarred(tmp_path / "x.tar")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
        with pytest.raises(JobError, match="damaged archive"):
            open_source(str(path))


@pytest.mark.parametrize("cut", [False, True])
def test_damaged_header_in_a_tar_hides_no_image(tmp_path: Path, cut: bool) -> None:
    """What comes after it would have no row: tarfile takes such a header for the end."""
    path = tarred(tmp_path / "x.tar")
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[third + 20] ^= 1
    path.write_bytes(content[: third + 100] if cut else content)
    with pytest.raises(JobError, match=f"damaged archive .no header at byte {third:,}.*fetch it again"):
        open_source(str(path))


def test_tar_without_blocks_at_its_end_is_whole(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar")
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + 512])
    check_reads_all(open_source(str(path)))


def test_zip_entry_that_holds_more_than_it_states_is_read_no_further(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(200 << 20))
    source = open_source(str(path))
    for stated in (100, 1 << 40, 1 << 64):
        entry = source.members["bomb.jpg"]
        assert isinstance(entry, Member)
        member = replace(entry, num_bytes=stated)
        tracemalloc.start()
        with pytest.raises(OSError, match=r"bomb\.jpg"):
            Source(source.store, frozenset(), {"bomb.jpg": member}).read("bomb.jpg")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_name_in_a_zip_that_is_no_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é.jpg", b"x")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(JobError, match="damaged archive"):
        open_source(str(path))


def test_archive_that_cannot_be_read_in_place_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="unpack it"):
        open_source(str(tarred(tmp_path / "x.tar.gz", mode="w:gz")))
    with pytest.raises(JobError, match="unpack it"):
        open_source(str(zipped(tmp_path / "x.zip", method=zipfile.ZIP_LZMA)))


def test_missing_or_empty_source_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such folder"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(JobError, match="an empty folder"):
        open_source(str(tmp_path))
    (tmp_path / "labels.txt").write_text("labels")
    with pytest.raises(JobError, match=r"labels\.txt: a file; give the folder"):
        open_source(str(tmp_path / "labels.txt"))
    with pytest.raises(JobError, match="no such file"):
        open_source(str(tmp_path / "absent.zip"))


def test_links_are_followed_but_not_in_a_circle(folder: Path, tmp_path: Path) -> None:
    (folder / "a" / "again").symlink_to(folder)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "9.jpg").write_bytes(b"nine")
    (folder / "b" / "me").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(folder))
    assert source.paths == sorted([*FILES, "b/me/deep/9.jpg"])
    assert source.read("b/me/deep/9.jpg") == b"nine"


def test_zip_entries_are_named_as_they_would_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("./train/me/1.jpg", "train/../other/2.jpg", "../outside.jpg", "/absolute.jpg"):
            archive.writestr(name, b"x")
    source = open_source(str(tmp_path / "x.zip"))
    assert source.paths == ["absolute.jpg", "other/2.jpg", "train/me/1.jpg"]
    assert source.passed == {OUTSIDE: ["../outside.jpg"]}


def test_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="stopped"), store.writer("x.tar") as file:
        file.write(b"half")
        file.flush()
        assert next(tmp_path.iterdir()).name.startswith(".x.tar.")
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
    store.write("x.tar", b"whole")
    assert store.read("x.tar") == b"whole"
    assert store.list() == ["x.tar"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".x.tar.1234abcd.partial").write_bytes(b"half")
    (tmp_path / "x.tar").write_bytes(b"whole")
    Store(str(tmp_path)).delete_temporary()
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_create_succeeds_for_exactly_one_of_many(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def create(number: int) -> None:
        try:
            Store(str(tmp_path)).create("lock", str(number).encode())
            outcomes.append(str(number))
        except FileExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 15
    assert (tmp_path / "lock").read_text() in outcomes


def test_read_range_and_size(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", bytes(range(100)))
    assert store.read_range("x", start=10, length=5) == bytes(range(10, 15))
    assert store.read_range("x", start=98, length=5) == bytes((98, 99))
    assert store.size("x") == 100
    store.delete("x")
    store.delete("x")
    with pytest.raises(FileNotFoundError):
        store.read("x")


def test_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        Store(str(tmp_path / "file")).write("x", b"")


def test_what_is_not_there_is_deleted_on_every_store(tmp_path: Path) -> None:
    """Google's object store answers 404 where S3 does not; obstore's file:// does, too."""
    (tmp_path / "b").write_text("b")
    for store in (Store(str(tmp_path)), Store(f"file://{tmp_path}")):
        store.delete("absent")
        assert store.list() == ["b"]


@pytest.mark.parametrize("location", ["s3://bucket/faces#2", "gs://bucket/faces?secret", "https://host/b?sig=secret"])
def test_url_of_which_a_part_would_be_lost_is_refused(location: str) -> None:
    with pytest.raises(UsageError, match=r"cannot hold #; choose another|leave out what follows the \?") as caught:
        Store(location)
    assert "secret" not in str(caught.value)


def test_local_build_works_in_a_fork_of_a_process_that_used_object_storage(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(folder / "a" / "1.jpg")
    program = f"""
import os, obstore
from obstore.store import MemoryStore
from facepack.builder import Place, build
from facepack.configuration import Configuration
obstore.put(MemoryStore(), "x", b"y")  # its threads are in no forked process
child = os.fork()
if child == 0:
    place = Place({str(folder)!r}, {str(tmp_path / "out")!r}, 0)
    build(Configuration.of("folder", classes="none", split="100/0/0"), place=place)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "0\n", ended.stderr
    assert (tmp_path / "out" / "build.json").exists()
