"""Shards come whole or not at all, from a network that fails, into a cache that is never above its limit."""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from conftest import make, use_s3
from faulty import Proxy

from facepack import manifest
from facepack.errors import FieldError, JobError
from facepack.manifest import ShardRecord
from facepack.storage import Store
from trainer.loading.shard_cache import OWN_FOLDER, CacheWaitError, ShardCache
from trainer.loading.staging import ShardStage, StagingSettings


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("staging") / "build"
    make(celeba, out, classes="", samples_per_shard=20)
    return out


@pytest.fixture
def proxy(s3_server: str, build: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The build in a bucket behind a proxy that a test may spoil."""
    proxy = Proxy(s3_server)
    use_s3(monkeypatch, proxy.url)
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="staging")
    store = Store("s3://staging/build")
    for path in build.iterdir():
        store.write(path.name, path.read_bytes())
    proxy.requests.clear()
    yield proxy
    proxy.stop()


def records(build: Path) -> list[ShardRecord]:
    return manifest.read_build(str(build)).shards


def staged(build: Path, cache: Path, **settings: Any) -> ShardStage:
    chosen = StagingSettings(cache_folder=str(cache), **settings)
    return ShardStage(Store("s3://staging/build"), records(build), settings=chosen)


def check(stage: ShardStage, build: Path, order: list[int] | None = None) -> None:
    """Ask for every shard and compare its bytes."""
    wanted = order if order is not None else list(range(len(records(build))))
    stage.expect(wanted)
    for number in wanted:
        assert bytes(stage.get(number)) == (build / records(build)[number].name).read_bytes()


def test_local_shards_are_opened_and_a_cut_one_is_refused(build: Path, tmp_path: Path) -> None:
    stage = ShardStage(Store(str(build)), records(build), settings=StagingSettings())
    for number, record in enumerate(records(build)):
        assert bytes(stage.get(number)) == (build / record.name).read_bytes()
    name = records(build)[0].name
    (tmp_path / name).write_bytes((build / name).read_bytes()[:-512])
    cut = ShardStage(Store(str(tmp_path)), records(build), settings=StagingSettings())
    with pytest.raises(JobError, match=rf"{name}: [\d,]+ bytes, build.json names"):
        cut.get(0)
    with pytest.raises(JobError, match="No such file or directory; the build is not whole"):
        cut.get(1)


def num_open(folder: Path) -> int:
    """Files of a folder that this process has open."""
    opened = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            opened += descriptor.readlink().parent == folder
    return opened


def test_local_shards_take_no_more_files_than_a_process_may_open(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    stage = ShardStage(Store(str(build)), records(build), settings=StagingSettings())
    held = stage.get(0)
    for _ in range(2):
        for number, record in enumerate(records(build)):
            assert bytes(stage.get(number)) == (build / record.name).read_bytes()
            assert num_open(build) <= 3  # two, and the one that is held
    assert bytes(held) == (build / records(build)[0].name).read_bytes()


def test_each_shard_is_one_request_and_none_the_second_time(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    first = staged(build, tmp_path)
    check(first, build)
    first.close()
    assert proxy.count("GET", ".tar") == len(records(build))
    assert sum(proxy.requests.values()) == len(records(build))
    second = staged(build, tmp_path)
    check(second, build)
    second.close()
    assert sum(proxy.requests.values()) == len(records(build))


@pytest.mark.parametrize("fault", ["reset", "503", "short", "wrong"])
def test_fault_that_passes_is_tried_again(build: Path, proxy: Proxy, tmp_path: Path, fault: str) -> None:
    proxy.fault = lambda path, before: fault if path.endswith(".tar") and not before else ""
    stage = staged(build, tmp_path)
    check(stage, build)
    stage.close()
    assert proxy.count("GET", ".tar") >= 2 * len(records(build))
    assert sorted(path.suffix for path in tmp_path.glob("*/*/*")) == [".tar"] * len(records(build))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("short", "only [0-9,]+ of [0-9,]+ bytes came"),
        ("wrong", "sha256 is [0-9a-f]+, build.json names"),
        ("gone", "the shard is gone"),
    ],
)
def test_fault_that_stays_is_an_error_with_shard_and_cause(
    build: Path, proxy: Proxy, tmp_path: Path, fault: str, cause: str
) -> None:
    name = records(build)[2].name
    proxy.fault = lambda path, _: fault if path.endswith(name) else ""
    stage = staged(build, tmp_path, attempts=2)
    with pytest.raises(JobError, match=rf"s3://staging/build/{name}: .*{cause}"):
        check(stage, build)
    stage.close()
    assert not list(tmp_path.rglob("*.partial"))


def test_shards_are_fetched_ahead_at_once(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    proxy.latency_s = 0.2
    stage = staged(build, tmp_path)
    begun = time.monotonic()
    check(stage, build)
    stage.close()
    assert time.monotonic() - begun < 0.2 * len(records(build))


def test_shards_needed_together_are_all_under_way_while_the_last_is_waited_for(
    build: Path, proxy: Proxy, tmp_path: Path
) -> None:
    num_shards = len(records(build))
    assert num_shards >= 10
    stage = staged(build, tmp_path, ahead=1)
    stage.expect(list(range(num_shards)), together=8)
    stage.get(7)  # fetched one after the other: all before it are here, without anybody waiting for them
    assert proxy.count("GET", ".tar") >= 8
    stage.close()


def test_shards_that_nobody_asks_for_any_more_do_not_hold_others_back(
    build: Path, proxy: Proxy, tmp_path: Path
) -> None:
    num_shards = len(records(build))
    stage = staged(build, tmp_path, ahead=2)
    stage.expect(list(range(num_shards)))
    stage.expect(list(range(num_shards - 1, 5, -1)))
    stage.get(num_shards - 1)
    stage.get(num_shards - 3)
    stage.close()
    asked = {path.rpartition("/")[2] for verb, path in proxy.requests if verb == "GET"}
    assert {records(build)[number].name for number in (num_shards - 1, num_shards - 2, num_shards - 3)} <= asked


def test_shard_taken_again_from_the_cache_is_not_taken_for_checked(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    stage = staged(build, tmp_path)
    check(stage, build, [0])
    assert stage.is_checked(0)
    stage.keep_only(set())
    check(stage, build, [0])
    assert not stage.is_checked(0)
    stage.close()


def folder_bytes(folder: Path) -> int:
    """All that a cache holds, at one moment: nothing comes while its lock is held."""
    own, held = folder / OWN_FOLDER, 0
    with (own / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for path in own.glob("*/*"):
            with suppress(FileNotFoundError):
                held += path.stat().st_size
    return held


def test_small_cache_works_and_is_never_exceeded(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    limit = 2 * max(record.num_bytes for record in records(build)) + 1000
    stage = staged(build, tmp_path, cache_bytes=limit)
    largest, done = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.is_set():
            largest = max(largest, folder_bytes(tmp_path))
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for _ in range(3):
        check(stage, build)
        stage.keep_only(set())
    done.set()
    watcher.join(timeout=10)
    stage.close()
    assert 0 < largest <= limit
    with pytest.raises(FieldError, match=r"cache_bytes 1,000: shard .* alone takes [0-9,]+"):
        staged(build, tmp_path, cache_bytes=1000)


def work_hard(folder: str, limit_bytes: int, seed: int, source: str) -> None:
    """Ask a shared cache for files in random order, and check every byte."""
    cache, rng = ShardCache(Path(folder), build="b", limit_bytes=limit_bytes), random.Random(seed)
    contents = [bytes([number]) * (5000 + 300 * number) for number in range(20)]
    for _ in range(200):
        content = rng.choice(contents)
        record = ShardRecord("x.tar", 1, len(content), hashlib.sha256(content).hexdigest())

        def stream(content: bytes = content) -> Iterator[bytes]:
            Path(source, f"{os.getpid()}-{time.monotonic_ns()}").touch()
            yield content[:1000]
            time.sleep(rng.random() * 0.002)
            yield content[1000:]

        assert bytes(cache.get(record, stream, stopped=threading.Event())) == content
        held = folder_bytes(Path(folder))
        assert held <= limit_bytes, held


def test_four_processes_share_a_small_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "fetched").mkdir()
    context = multiprocessing.get_context("spawn")
    jobs = [(str(tmp_path / "cache"), 60_000, seed, str(tmp_path / "fetched")) for seed in range(4)]
    with context.Pool(4) as pool:
        pool.starmap(work_hard, jobs)
    assert 20 <= len(list((tmp_path / "fetched").iterdir())) < 800
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    program = f"""
import sys, threading, time, hashlib
from pathlib import Path
from facepack.manifest import ShardRecord
from trainer.loading.shard_cache import OWN_FOLDER, CacheWaitError, ShardCache
def stream():
    yield b"a" * 1000
    print("under way", flush=True)
    time.sleep(60)
record = ShardRecord("x.tar", 1, 9000, "f" * 64)
ShardCache(Path({str(tmp_path)!r}), build="b", limit_bytes=10_000).get(record, stream, stopped=threading.Event())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert folder_bytes(tmp_path) == 9000  # reserved whole
        process.send_signal(signal.SIGKILL)
    content = b"b" * 8000
    record = ShardRecord("y.tar", 1, len(content), hashlib.sha256(content).hexdigest())
    cache = ShardCache(tmp_path, build="b", limit_bytes=10_000)
    assert bytes(cache.get(record, lambda: iter([content]), stopped=threading.Event())) == content
    assert folder_bytes(tmp_path) == 8000


def record_of(content: bytes) -> ShardRecord:
    return ShardRecord("x.tar", 1, len(content), hashlib.sha256(content).hexdigest())


def fetch(cache: ShardCache, content: bytes) -> bytes:
    """The content by way of the cache."""
    return bytes(cache.get(record_of(content), lambda: iter([content]), stopped=threading.Event()))


def refuse_flock(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    """As NFS, Lustre and FUSE mounts answer."""

    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)


@pytest.mark.parametrize("spans_builds", [False, True])
def test_files_of_others_are_neither_counted_nor_removed(tmp_path: Path, spans_builds: bool) -> None:
    own = tmp_path / OWN_FOLDER / "b"
    own.mkdir(parents=True)
    others = [tmp_path / "imagenet.tar", tmp_path / f"{'a' * 64}.tar", tmp_path / "x.partial", own / "notes.tar"]
    for path in others:
        path.write_bytes(bytes(20_000))
        os.utime(path, (1e9, 1e9))
    (own / f"{'c' * 64}.tar").symlink_to(others[0])
    cache = ShardCache(tmp_path, build="b", limit_bytes=10_000, spans_builds=spans_builds, wait_s=2)
    for number in range(3):
        assert fetch(cache, bytes([number]) * 6000) == bytes([number]) * 6000
    assert [path.stat().st_size for path in others] == [20_000] * 4
    assert (own / f"{'c' * 64}.tar").is_symlink()
    assert len(list(own.glob("*.tar"))) == 3  # the link, notes.tar and one shard


def test_builds_evict_each_other_only_under_a_limit_for_all(tmp_path: Path) -> None:
    big, small = bytes(9000), b"s" * 2000
    fetch(ShardCache(tmp_path, build="big", limit_bytes=9000), big)
    fetch(ShardCache(tmp_path, build="small", limit_bytes=2000), small)
    assert len(list(tmp_path.rglob("*.tar"))) == 2
    fetch(ShardCache(tmp_path, build="third", limit_bytes=5000, spans_builds=True), b"t" * 2500)
    held = sorted(path.parent.name for path in tmp_path.rglob("*.tar"))
    assert held == ["small", "third"]  # the one used longest ago went


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_file_system_without_flock_has_lock_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse_flock(monkeypatch, number)
    cache = ShardCache(tmp_path, build="b", limit_bytes=10_000)
    for value in range(3):
        fetch(cache, bytes([value]) * 6000)
    assert [path.suffix for path in tmp_path.glob("*/*/*")] == [".tar"]
    assert not list(tmp_path.rglob("?*.lock"))


def test_lock_file_of_a_process_that_is_gone_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch)
    cache = ShardCache(tmp_path, build="b", limit_bytes=10_000, wait_s=5)
    content = b"x" * 6000
    partial = cache.path(record_of(content)).with_suffix(".partial")
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    partial.with_name(f"{partial.name}.lock").write_text(f"{socket.gethostname()} {ended.stdout.decode().strip()} x")
    begun = time.monotonic()
    assert fetch(cache, content) == content
    assert time.monotonic() - begun < 2
    (tmp_path / OWN_FOLDER / ".lock.lock").write_text("another-computer 1 x")
    again = ShardCache(tmp_path, build="b", limit_bytes=20_000, wait_s=0.3)
    with pytest.raises(
        CacheWaitError, match=r"waited 0.3 s for the lock .*/\.lock, and nothing moved; end the process"
    ):
        again.get(record_of(b"y" * 100), lambda: iter([b"y" * 100]), stopped=threading.Event())


def test_waits_for_others_are_bounded_and_name_what_they_wait_for(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, build="b", limit_bytes=10_000, wait_s=0.3)
    under_way, done = threading.Event(), threading.Event()
    slow = b"s" * 9000

    def stream() -> Iterator[bytes]:
        yield slow[:1000]
        under_way.set()
        done.wait(30)
        yield slow[1000:]

    thread = threading.Thread(target=lambda: cache.get(record_of(slow), stream, stopped=threading.Event()))
    thread.start()
    under_way.wait(10)
    try:
        with pytest.raises(CacheWaitError, match=r"waited 0.3 s for .*\.partial, which another process fetches, and"):
            fetch(cache, slow)
        with pytest.raises(
            CacheWaitError, match=r"room for 8,000 bytes in .* of whose 10,000 other processes fetch 1 "
        ):
            fetch(cache, b"o" * 8000)
    finally:
        done.set()
        thread.join()
    assert fetch(cache, b"o" * 8000) == b"o" * 8000
    with pytest.raises(CacheWaitError, match=r"x\.tar: 10,001 bytes, the cache holds 10,000"):
        fetch(cache, bytes(10_001))


def test_folder_that_cannot_hold_a_cache_is_one_clear_line(build: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FieldError, match=r"cache_folder .*/file: Not a directory; name another with cache_folder"):
        staged(build, tmp_path / "file")


def test_local_shard_that_is_cut_while_it_is_read_is_an_error(build: Path, tmp_path: Path) -> None:
    for record in records(build):
        (tmp_path / record.name).write_bytes((build / record.name).read_bytes())
    stage = ShardStage(Store(str(tmp_path)), records(build), settings=StagingSettings())
    shard, name = stage.get(0), records(build)[0].name
    assert len(shard[-512:]) == 512
    os.truncate(tmp_path / name, 700)
    assert shard[:700] == (build / name).read_bytes()[:700]
    with pytest.raises(JobError, match=rf"{tmp_path}/{name}: cut while it was read; run facepack verify"):
        shard[600:1200]


def test_settings_that_make_no_sense_are_refused() -> None:
    for field in ("cache_bytes", "ahead", "attempts"):
        with pytest.raises(FieldError, match=f"{field} 0: expected at least 1"):
            StagingSettings(**{field: 0})  # type: ignore[arg-type]
