"""One builder at a time, whatever became of the one before."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from facepack import lock
from facepack.errors import JobError
from facepack.storage import Store


def stale(folder: Path, **fields: object) -> None:
    """The lock of a process on this machine that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    content = {"pid": ended.pid, "started": "0", "machine": lock.this_machine(), "token": "x", "beat": time.time()}
    (folder / lock.BUILD.lock_file).write_text(json.dumps(content | fields))


def test_lock_is_there_while_held_and_gone_after(tmp_path: Path) -> None:
    with lock.held(Store(str(tmp_path)), work=lock.BUILD) as holder:
        holder.check()
        content = json.loads((tmp_path / lock.BUILD.lock_file).read_text())
        assert content.keys() == {"pid", "started", "machine", "token", "beat"}
    assert list(tmp_path.iterdir()) == []


def test_second_holder_is_refused(tmp_path: Path) -> None:
    with (
        lock.held(Store(str(tmp_path)), work=lock.BUILD),
        pytest.raises(JobError, match="another build is at work here"),
        lock.held(Store(str(tmp_path)), work=lock.BUILD),
    ):
        pytest.fail("two at once")


@pytest.mark.parametrize(
    ("work", "advice"),
    [
        (lock.BUILD, "another build is at work here; wait for it, or choose another --out"),
        (lock.FETCH, "another fetch is at work here; wait for it, or choose another --to"),
        (lock.RUN, "another run is at work here; wait for it, or choose another --out"),
    ],
)
def test_second_holder_is_told_which_option_chooses_another_place(tmp_path: Path, work: lock.Work, advice: str) -> None:
    with lock.held(Store(str(tmp_path)), work=work), pytest.raises(JobError, match=f": {advice}$"):
        lock.held(Store(str(tmp_path)), work=work).__enter__()


def test_different_works_do_not_keep_each_other_out(tmp_path: Path) -> None:
    with lock.held(Store(str(tmp_path)), work=lock.BUILD), lock.held(Store(str(tmp_path)), work=lock.FETCH):
        assert {path.name for path in tmp_path.iterdir()} == {"build.lock", "fetch.lock"}


def test_lock_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    stale(tmp_path)
    with lock.held(Store(str(tmp_path)), work=lock.BUILD) as holder:
        holder.check()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_another_machine_is_taken_over_after_a_minute_without_a_sign(tmp_path: Path) -> None:
    stale(tmp_path, machine="another")
    with pytest.raises(JobError, match="another build is at work"), lock.held(Store(str(tmp_path)), work=lock.BUILD):
        pytest.fail("it may be alive")
    stale(tmp_path, machine="another", beat=time.time() - lock.STALE_AFTER_S - 1)
    with lock.held(Store(str(tmp_path)), work=lock.BUILD) as holder:
        holder.check()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"beat": "soon"}', b"\xff", b"{"])
def test_lock_that_is_none_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / lock.BUILD.lock_file).write_bytes(content)
    with lock.held(Store(str(tmp_path)), work=lock.BUILD) as holder:
        holder.check()


def test_of_many_that_take_over_one_stale_lock_exactly_one_does(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        stale(folder)
        check_one_of_many(folder)


def check_one_of_many(folder: Path) -> None:
    inside, most, refused = [0], [0], [0]
    start, done, guard = threading.Barrier(8), threading.Event(), threading.Lock()

    def take() -> None:
        start.wait()
        try:
            with lock.held(Store(str(folder)), work=lock.BUILD):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                done.wait(5)
        except JobError:
            with guard:
                refused[0] += 1
                if refused[0] == 7:
                    done.set()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], refused[0]) == (1, 7)


def test_holder_that_lost_its_place_notices(tmp_path: Path) -> None:
    with lock.held(Store(str(tmp_path)), work=lock.BUILD) as holder:
        (tmp_path / lock.BUILD.lock_file).write_text('{"token": "another"}')
        with pytest.raises(JobError, match="took this place over"):
            holder.check()
    assert (tmp_path / lock.BUILD.lock_file).exists()


def test_process_numbers_of_another_container_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container on this machine has the machine's name and boot, but numbers of its own for processes."""
    here = lock.this_machine()
    read = Path.readlink
    elsewhere = Path("pid:[1]")
    monkeypatch.setattr(Path, "readlink", lambda path: elsewhere if str(path) == "/proc/self/ns/pid" else read(path))
    assert lock.this_machine() != here
    stale(tmp_path, machine=here)
    with pytest.raises(JobError, match="another build is at work"), lock.held(Store(str(tmp_path)), work=lock.BUILD):
        pytest.fail("it may be alive")
