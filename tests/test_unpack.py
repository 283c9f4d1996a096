"""unpack: what is in an archive lands in the folder whole, or the archive is refused and nothing is left behind."""

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from facepack.errors import JobError
from facepack.unpack import Limits, extract

LIMITS = Limits(num_bytes=1 << 30, num_files=1000)
FILES = {"faces/a/1.jpg": b"one", "faces/b.txt": b"", "other/2.jpg": bytes(5000)}


def ignore(_: int) -> None:
    """Nobody watches."""


def tar(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as opened:  # type: ignore[call-overload]
        for info, content in entries:
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def made(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.mkdir("faces")
            for one, content in FILES.items():
                opened.writestr(one, content)
        return path
    mode = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[name.rpartition(".")[2]]
    return tar(path, [(named(one), content) for one, content in FILES.items()], mode)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_archive_lands_whole_and_again_changes_nothing(tmp_path: Path, name: str) -> None:
    archive, folder = made(tmp_path, name), tmp_path / "out"
    heard: list[int] = []
    for _ in range(2):
        assert extract(archive, folder, limits=LIMITS, last="faces", advance=heard.append) == 3
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES
    assert heard == [1, 2, 3] * 2
    assert {path.name for path in folder.iterdir()} == {"faces", "other"}


def test_single_file_is_unpacked_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "model.dat.bz2").write_bytes(bz2.compress(b"weights" * 1000))
    extract(tmp_path / "model.dat.bz2", tmp_path, limits=LIMITS, advance=ignore)
    assert (tmp_path / "model.dat").read_bytes() == b"weights" * 1000


def hostile(folder: Path, what: str) -> Path:
    path = folder / ("bad.zip" if what.startswith("zip") else "bad.tar")
    good = (named("good.jpg"), b"good")
    if what == "tar with a symbolic link":
        return tar(path, [good, (named("link", tarfile.SYMTYPE, "/etc/passwd"), b"")])
    if what == "tar with a hard link":
        return tar(path, [good, (named("link", tarfile.LNKTYPE, "../../x"), b"")])
    if what == "tar with a device":
        return tar(path, [good, (named("dev", tarfile.CHRTYPE), b"")])
    if what == "tar with a pipe":
        return tar(path, [good, (named("pipe", tarfile.FIFOTYPE), b"")])
    names = {"up": "../up.jpg", "absolute": "/tmp/absolute.jpg", "deep": "a/../../up.jpg", "windows": "..\\up.jpg"}
    if what.startswith("tar"):
        return tar(path, [good, (named(names[what.split()[-1]]), b"bad")])
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("good.jpg", b"good")
        info = zipfile.ZipInfo(names.get(what.split()[-1], "link"))
        if what == "zip with a symbolic link":
            info.external_attr = 0o120777 << 16
        opened.writestr(info, b"/etc/passwd")
    return path


@pytest.mark.parametrize(
    "what",
    [
        *(f"tar that goes {how}" for how in ("up", "absolute", "deep", "windows")),
        *(f"zip that goes {how}" for how in ("up", "absolute", "deep", "windows")),
        *(f"tar with a {how}" for how in ("symbolic link", "hard link", "device", "pipe")),
        "zip with a symbolic link",
    ],
)
def test_hostile_archive_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    (tmp_path / "in").mkdir()
    archive, folder = hostile(tmp_path / "in", what), tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(JobError, match=r"refused: .* (outside the folder|neither a file nor a folder)") as refused:
        extract(archive, folder, limits=LIMITS, advance=ignore)
    assert "\n" not in str(refused.value)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not Path("/tmp/absolute.jpg").exists()


def bomb(path: Path, kind: str) -> Path:
    """An archive of ten billion zeros; all compressors take parts one after the other, so one is made once."""
    info = named("zeros.jpg")
    info.size = 640 << 24
    packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    pack = packers.get(path.suffix[1:])
    if pack is not None:
        part = pack(bytes(1 << 24))
        path.write_bytes((pack(info.tobuf()) if kind.startswith("tar") else b"") + 640 * part)
        return path
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with deflated, deflated.open("zeros.jpg", "w") as file:
        for _ in range(70):
            file.write(bytes(1 << 24))
    stated = 100 if kind == "zip that lies" else 0xFFFFFFF0
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 70 << 24), struct.pack("<I", stated)))
    return path


@pytest.mark.parametrize("kind", ["zip", "zip that lies", "tar.gz", "tar.bz2", "tar.xz", "bz2"])
def test_bomb_of_zeros_is_refused_before_it_is_unpacked(tmp_path: Path, kind: str) -> None:
    archive = bomb(tmp_path / f"bomb.{kind.split()[0]}", kind)
    limits = Limits.of(archive, num_files=10)
    assert limits.num_bytes == 1 << 30
    with pytest.raises(JobError, match=r"refused|damaged"):
        extract(archive, tmp_path / "out", limits=limits, advance=ignore)
    assert list((tmp_path / "out").iterdir()) == []


def test_ten_million_entries_are_refused_without_reading_them(tmp_path: Path) -> None:
    directory_bytes = 47 * 10_000_000
    for number in (10_000_000, 3):  # as it says, and as it would have us believe
        archive = tmp_path / f"many-{number}.zip"
        short = min(number, 0xFFFF)
        with archive.open("wb") as file:
            file.seek(directory_bytes)
            if number > short:
                sizes = (number, number, directory_bytes, 0)
                file.write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *sizes))
            file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, short, short, directory_bytes, 0, 0))
        with pytest.raises(JobError, match=r"refused: [\d,]* entries"):
            extract(archive, tmp_path / "out", limits=LIMITS, advance=ignore)
    folders = tmp_path / "folders.tar.gz"
    tar(folders, [(named(f"{number}", tarfile.DIRTYPE), b"") for number in range(3001)], "w:gz")
    with pytest.raises(JobError, match="refused: more than 3,000 entries"):
        extract(folders, tmp_path / "out", limits=LIMITS, advance=ignore)
    many = tmp_path / "many.tar.gz"
    tar(many, [(named(f"{number}.jpg"), b"") for number in range(1001)], "w:gz")
    with pytest.raises(JobError, match="refused: more than 1,000 files"):
        extract(many, tmp_path / "out", limits=LIMITS, advance=ignore)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_damaged_archive_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    whole = made(tmp_path, name).read_bytes()
    at = len(whole) // 3
    flipped = whole[:at] + bytes(byte ^ 255 for byte in whole[at : at + 60]) + whole[at + 60 :]
    for content in (whole[: len(whole) // 2], b"", b"<html>not found</html>", flipped):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(JobError, match=r"a\.\S*: (damaged|holds no file|refused)") as refused:
            extract(tmp_path / name, tmp_path / "out", limits=LIMITS, advance=ignore)
        assert "\n" not in str(refused.value)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_name_that_would_fill_the_memory_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = named("long", kind)
    info.size = 640 << 24
    archive = tmp_path / "long.tar.gz"
    archive.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + 640 * gzip.compress(bytes(1 << 24)))
    with pytest.raises(JobError, match=r"refused: a name of 10,737,418,240 bytes"):
        extract(archive, tmp_path / "out", limits=LIMITS, advance=ignore)


def test_names_that_no_folder_can_hold_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((["a", "a/b"], ["x" * 300 + ".jpg"])):
        archive = tar(tmp_path / f"{number}.tar", [(named(name), b"1") for name in names])
        with pytest.raises(JobError, match=rf"{number}\.tar: refused: "):
            extract(archive, tmp_path / "out", limits=LIMITS, advance=ignore)
        assert list((tmp_path / "out").iterdir()) == []


def test_what_is_there_already_and_differs_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out" / "faces").mkdir(parents=True)
    (tmp_path / "out" / "faces" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(JobError, match=r"faces: is there already, and not as in a\.zip; move it away"):
        extract(made(tmp_path, "a.zip"), tmp_path / "out", limits=LIMITS, advance=ignore)
    assert [path.name for path in (tmp_path / "out").rglob("*.jpg")] == ["mine.jpg"]


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", [(named("big.jpg"), bytes(1 << 20))])
    program = (
        "import resource, signal, sys; from pathlib import Path; from facepack.unpack import Limits, extract;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000));"
        "extract(Path(sys.argv[1]), Path(sys.argv[2]), limits=Limits(1 << 30, 9), advance=lambda _: None)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(archive), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "make room and run the same command again" in ended.stderr
    assert os.listdir(tmp_path / "out") == []  # noqa: PTH208
