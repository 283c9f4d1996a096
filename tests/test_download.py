"""download: a file is whole under its name, whatever the server does; what is here is not fetched again."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from web import Web

from facepack import download
from facepack.download import Expected
from facepack.errors import JobError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between tries."""
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)


def get(web: Web, path: Path, **known: object) -> Path:
    """Fetch the file of the server."""
    return download.download_file(f"{web.url}/file.bin", path, expected=Expected(**known))  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"sha256": SHA256[:8]}, {"num_bytes": len(CONTENT)}])
@pytest.mark.parametrize("how", ["", "redirect", "plain", "once cut", "once 503", "always cut once half"])
def test_file_arrives_whole(tmp_path: Path, how: str, known: dict[str, object]) -> None:
    def behaviour(_: str, before: int) -> str:
        times, _, word = how.rpartition(" ")
        if times == "always cut once":
            return "cut" if before < 4 else ""
        return word if before < {"": 99, "once": 1}[times] else ""

    heard: list[int] = []
    with Web({"file.bin": CONTENT}, behaviour) as web:
        path = download.download_file(
            f"{web.url}/file.bin",
            tmp_path / "deep" / "file.bin",
            expected=Expected(**known),  # type: ignore[arg-type]
            advance=heard.append,
        )
        assert path.read_bytes() == CONTENT
        assert sum(heard) == len(CONTENT)
        assert [one.name for one in path.parent.iterdir()] == ["file.bin"]
        asked = len(web.asked)
        download.download_file(f"{web.url}/file.bin", path)
        assert len(web.asked) == asked, "what is here is not asked for"
        if "cut" in how:
            num_cuts = len([1 for _, wanted in web.asked if wanted])
            assert web.num_bytes <= len(CONTENT) + num_cuts * (1 << 16), "no more than what was under way came twice"


def test_server_without_ranges_gives_the_file_from_its_beginning_again(tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:5000])
    with Web({"file.bin": CONTENT}, lambda *_: "plain") as web:
        assert get(web, tmp_path / "file.bin", sha256=SHA256).read_bytes() == CONTENT
        assert web.asked == [("file.bin", "bytes=5000-")]


def test_what_is_here_of_another_version_is_thrown_away(tmp_path: Path) -> None:
    with Web({"file.bin": CONTENT[::-1]}, lambda _, before: "cut" if before == 0 else "404") as web:
        with pytest.raises(JobError, match="404"):
            get(web, tmp_path / "file.bin")
        assert 0 < (tmp_path / "file.bin.part").stat().st_size < len(CONTENT)
        web.files["file.bin"], web.behaviour = CONTENT, lambda *_: ""
        assert get(web, tmp_path / "file.bin").read_bytes() == CONTENT


def test_all_was_here_but_for_the_name(tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    with Web({"file.bin": CONTENT}) as web:
        assert get(web, tmp_path / "file.bin", sha256=SHA256).read_bytes() == CONTENT
        assert web.num_bytes == 0


@pytest.mark.parametrize(
    ("how", "known", "reason"),
    [
        ("404", {}, "the server says 404 Not Found"),
        ("403", {}, "the server says 403 Forbidden"),
        ("other", {"sha256": SHA256}, f"its sha256 is [0-9a-f]*, expected {SHA256}"),
        ("other", {"md5": "0" * 32}, "its md5 is"),
        ("", {"num_bytes": 17}, "1,024,000 bytes there, expected 17"),
        ("long", {}, "tried 5 times, the same command goes on from there"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_no_file(
    tmp_path: Path, how: str, known: dict[str, object], reason: str
) -> None:
    with Web({"file.bin": CONTENT}, lambda *_: how) as web:
        with pytest.raises(JobError, match=reason) as failed:
            get(web, tmp_path / "file.bin", **known)
        assert "\n" not in str(failed.value)
        assert web.url in str(failed.value)
    assert not (tmp_path / "file.bin").exists()
    if "sha256" in known:
        assert list(tmp_path.iterdir()) == [], "wrong bytes are not kept"


def test_patience_is_shown_for_as_long_as_the_server_asks(tmp_path: Path) -> None:
    with Web({"file.bin": CONTENT}, lambda _, before: "503" if before == 0 else "") as web:
        begun = time.monotonic()
        get(web, tmp_path / "file.bin")
        assert time.monotonic() - begun >= 1.0


def test_tries_are_bounded_where_nothing_new_comes(tmp_path: Path) -> None:
    with Web({"file.bin": CONTENT}, lambda *_: "cut plain") as web:
        with pytest.raises(JobError, match="tried 5 times"):
            get(web, tmp_path / "file.bin")
        assert len(web.asked) <= 7


def test_page_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with (
        Web({"file.bin": b"  <!DOCTYPE html><title>log in</title>"}) as web,
        pytest.raises(JobError, match="a web page, and not the file"),
    ):
        get(web, tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_one_that_waited_goes_on_where_the_other_one_failed(tmp_path: Path) -> None:
    def behaviour(_: str, before: int) -> str:
        return "cut" if before == 0 else "403" if before == 1 else ""

    outcomes: list[str] = []

    def ask() -> None:
        try:
            get(web, tmp_path / "file.bin")
            outcomes.append("whole")
        except JobError as error:
            outcomes.append(str(error))

    with Web({"file.bin": CONTENT}, behaviour) as web:
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted("403" in one for one in outcomes) == [False, True]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_no_server_is_one_line(tmp_path: Path) -> None:
    with Web({}) as web:
        url = web.url
    with pytest.raises(JobError, match="connection refused; tried 5 times"):
        download.download_file(f"{url}/file.bin", tmp_path / "file.bin")


def test_silent_server_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "READ_S", 0.2)
    with (
        Web({"file.bin": CONTENT}, lambda *_: "still") as web,
        pytest.raises(JobError, match=r"timed out.*tried 5 times"),
    ):
        get(web, tmp_path / "file.bin")


def test_full_disk_is_one_line_and_keeps_what_is_here() -> None:
    path = Path("/dev/shm") / f"facepack-{os.getpid()}"
    program = (
        "import resource, signal, sys; from pathlib import Path; from facepack import download;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000));"
        "download.download_file(sys.argv[1], Path(sys.argv[2]))"
    )
    try:
        with Web({"file.bin": CONTENT}) as web:
            command = [sys.executable, "-c", program, f"{web.url}/file.bin", str(path / "file.bin")]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert "JobError" in ended.stderr
            assert "make room and run the same command again" in ended.stderr
            sent = web.num_bytes
            get(web, path / "file.bin")
            assert (path / "file.bin").read_bytes() == CONTENT
            assert web.num_bytes - sent < len(CONTENT)
    finally:
        for one in path.iterdir():
            one.unlink()
        path.rmdir()


def test_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from facepack import download;"
        "download.download_file(sys.argv[1], Path(sys.argv[2]))"
    )
    with Web({"file.bin": CONTENT}, lambda _, before: "slow" if before == 0 else "") as web:
        command = [sys.executable, "-c", program, f"{web.url}/file.bin", str(tmp_path / "file.bin")]
        process = subprocess.Popen(command)
        partial = tmp_path / "file.bin.part"
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > 1 << 18):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        here = partial.stat().st_size
        assert 0 < here < len(CONTENT)
        get(web, tmp_path / "file.bin")
        assert (tmp_path / "file.bin").read_bytes() == CONTENT
        assert web.asked[-1] == ("file.bin", f"bytes={here}-")


def test_several_that_ask_at_once_fetch_it_once(tmp_path: Path) -> None:
    with Web({"file.bin": CONTENT}) as web:
        threads = [threading.Thread(target=get, args=(web, tmp_path / "file.bin")) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "file.bin").read_bytes() == CONTENT
        assert web.num_bytes == len(CONTENT)
        assert [one.name for one in tmp_path.iterdir()] == ["file.bin"]
