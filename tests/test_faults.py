"""Kills, collisions and full disks: what is finished stays, what is not leaves no trace."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import digests, hear_interrupts, make

from facepack.errors import JobError
from facepack.verification import verify

SLOW = ("--classes", "rarest4", "--size", "1200", "--samples-per-shard", "8", "--limit", "120")
"""Some 15 shards of a tenth of a second each: time enough to be killed in the middle."""


def command(source: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "facepack", "build", "celeba", "--src", str(source), "--out", str(out), *SLOW, *more]


def start(source: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(source, out, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
        start_new_session=True,
    )


def finish(source: Path, out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(source, out, *more), capture_output=True, text=True, timeout=120, check=False)


def wait_for_shards(out: Path, number: int, process: "subprocess.Popen[str]") -> None:
    """Until so many shards are finished; a build that ends before is a failure."""
    deadline = time.monotonic() + 90
    while len(list(out.glob("*.parquet"))) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all it started, Ray's daemons included."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(parent.children(recursive=True), timeout=10)


def finished(out: Path) -> dict[str, int]:
    """When each finished shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*-*.parquet")}


@pytest.fixture(scope="module")
def reference(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("reference") / "build"
    assert finish(celeba, out, "--workers", "0").returncode == 0
    return digests(out)


def check_goes_on(celeba: Path, out: Path, reference: dict[str, str], *more: str) -> None:
    """After a kill: what has a final name is whole, is kept, and the same command ends with the same bytes."""
    final = {name: digest for name, digest in digests(out).items() if not name.startswith(".") and name != "build.lock"}
    assert "build.json" not in final
    assert final == {name: reference[name] for name in final}
    before = finished(out)
    assert 0 < len(before) < 15
    again = finish(celeba, out, *more)
    assert again.returncode == 0, again.stderr
    assert f"shards finished before: {len(before)}\n" in again.stdout
    after = finished(out)
    assert {name: after[name] for name in before} == before
    assert digests(out) == reference
    assert verify(str(out), deep=True).problems == ()


@pytest.mark.parametrize("shards", [1, 4, 9])
def test_killed_build_goes_on_where_it_was(
    celeba: Path, tmp_path: Path, reference: dict[str, str], shards: int
) -> None:
    out = tmp_path / "build"
    process = start(celeba, out, "--workers", "0")
    wait_for_shards(out, shards, process)
    process.kill()
    process.communicate()
    check_goes_on(celeba, out, reference, "--workers", "0")


def interrupted(source: Path, out: Path) -> None:
    """Kill a build that has finished some of its shards."""
    process = start(source, out, "--workers", "0")
    wait_for_shards(out, 2, process)
    process.kill()
    process.communicate()


GOES_ON = "going on by the plan that is there"


def test_interrupted_build_does_not_plan_again(celeba: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    out = tmp_path / "build"
    interrupted(celeba, out)
    again = finish(celeba, out, "--workers", "0")
    assert GOES_ON in again.stdout + again.stderr
    assert digests(out) == reference
    complete = finish(celeba, out, "--workers", "0")
    assert GOES_ON not in complete.stdout + complete.stderr


def test_plan_is_made_again_where_what_it_was_made_from_has_changed(celeba: Path, tmp_path: Path) -> None:
    source, out, listed = tmp_path / "source", tmp_path / "build", tmp_path / "out.txt"
    shutil.copytree(celeba, source)
    interrupted(source, out)
    plan = digests(out)[".build.plan"]
    labels = source / "list_attr_celeba.txt"
    listed.write_text("\n".join(path.name for path in sorted((source / "img_align_celeba").iterdir())[:3]))
    changes: list[tuple[Callable[[], object], tuple[str, ...]]] = [
        (lambda: None, ("--force",)),
        (lambda: labels.write_text(labels.read_text().replace("-1", " 1", 1)), ()),
        (lambda: (source / "img_align_celeba" / "more.jpg").write_bytes(b"x"), ()),
    ]
    for change, options in changes:
        copy = tmp_path / "copy"
        shutil.copytree(out, copy)
        change()
        ended = finish(source, copy, "--workers", "0", *options)
        assert ended.returncode == 0, ended.stderr
        assert GOES_ON not in ended.stdout + ended.stderr
        assert not list(copy.glob(".build.plan*"))
        assert verify(str(copy)).problems == ()
        shutil.rmtree(copy)
    other = finish(source, out, "--workers", "0", "--leave-out", str(listed))
    assert "holds another build (leave_out" in other.stderr
    assert digests(out)[".build.plan"] == plan


@pytest.mark.slow
def test_killed_ray_job_goes_on_where_it_was(celeba: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    out = tmp_path / "build"
    process = start(celeba, out, "--workers", "2")
    wait_for_shards(out, 3, process)
    kill_tree(process.pid)
    process.communicate()
    check_goes_on(celeba, out, reference, "--workers", "2")


@pytest.mark.slow
def test_killed_worker_is_replaced_and_the_bytes_are_the_same(
    celeba: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = tmp_path / "build"
    process = start(celeba, out, "--workers", "2")
    wait_for_shards(out, 2, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "MapWorker" in " ".join(child.cmdline())
    ]
    assert len(workers) >= 2
    workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert digests(out) == reference


def test_interrupt_ends_with_one_line_and_leaves_nothing_half_made(
    celeba: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = tmp_path / "build"
    process = start(celeba, out, "--workers", "0")
    wait_for_shards(out, 3, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: what is finished is kept" in errors
    assert "Traceback" not in errors
    assert not list(out.glob(".*.partial"))
    assert not (out / "build.lock").exists()
    check_goes_on(celeba, out, reference, "--workers", "0")


@pytest.mark.slow
def test_interrupt_of_a_ray_job_ends_with_one_line(celeba: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    out = tmp_path / "build"
    process = start(celeba, out, "--workers", "2")
    wait_for_shards(out, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: what is finished is kept" in errors
    assert "Traceback" not in errors
    assert not (out / "build.lock").exists()
    check_goes_on(celeba, out, reference, "--workers", "0")


def test_second_build_in_one_place_is_refused_and_the_first_ends_well(
    celeba: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = tmp_path / "build"
    process = start(celeba, out, "--workers", "0")
    wait_for_shards(out, 1, process)
    process.send_signal(signal.SIGSTOP)  # it must not end before the second one has begun
    second = finish(celeba, out, "--workers", "0")
    process.send_signal(signal.SIGCONT)
    assert second.returncode == 1, process.communicate(timeout=120)
    assert "another build is at work here" in second.stderr
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert digests(out) == reference


def test_of_many_builds_begun_at_once_one_goes_on(celeba: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    out = tmp_path / "build"
    processes = [start(celeba, out, "--workers", "0") for _ in range(4)]
    outcomes = [(process.communicate(timeout=120), process.returncode) for process in processes]
    codes = sorted(code for _, code in outcomes)
    assert codes[0] == 0
    assert set(codes) <= {0, 1}
    for (_, errors), code in outcomes:
        assert code == 0 or "another build" in errors
    assert digests(out) == reference


@pytest.fixture
def limited_disk() -> Iterator[None]:
    """No file may grow over 300 kB: the kernel refuses as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_file_that_cannot_be_written_ends_the_build_with_one_line(
    celeba: Path, tmp_path: Path, limited_disk: None
) -> None:
    out = tmp_path / "build"
    ended = finish(celeba, out, "--workers", "0")
    assert ended.returncode == 1
    assert ended.stderr.count("error:") == 1
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not out.exists()


def test_place_that_is_a_device_or_a_file_is_one_line(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", Path("/proc/facepack")):
        ended = finish(celeba, out, "--workers", "0")
        assert ended.returncode == 1
        assert ended.stderr.count("error:") == 1
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["manifest.parquet", "build.json"])
def test_disk_that_is_full_at_the_very_end_leaves_no_half_build(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, flush = tmp_path / "build", os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith(f".{name}."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobError, match=f"{name}: No space left on device; make room and run the same command again"):
        make(celeba, out)
    assert not {name, "build.json"} & {path.name for path in out.iterdir()}
    assert not list(out.glob(".*.partial"))
    monkeypatch.undo()
    make(celeba, out)
    make(celeba, tmp_path / "whole")
    assert digests(out) == digests(tmp_path / "whole")
