"""A build on several machines: the same bytes, or one line that says why not, and never a lost image."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import digests, make
from machines import Machine, RayCluster, have_namespaces, ray_cluster, wait_until

from facepack.drawn import synthetic
from facepack.manifest import SHARD_FILE
from facepack.verification import verify

pytestmark = pytest.mark.skipif(not have_namespaces(), reason="machines of namespaces need root; see test_raylets")

QUICK = ("--size", "32", "--samples-per-shard", "20")
LONG = ("--size", "1200", "--samples-per-shard", "4")
"""Some seventy shards of a twentieth of a second each."""
LOG = "build.log"


def command(source: Path, out: Path, *choices: str) -> list[str]:
    words = ["build", "celeba", "--classes", "none", "--src", str(source), "--out", str(out)]
    return [sys.executable, "-m", "facepack", *words, *choices]


def lines(text: str) -> list[str]:
    """What a person reads, without how far it is."""
    return [line for line in text.splitlines() if "images/s" not in line]


def same(out: Path, reference: dict[str, str]) -> bool:
    """True where a build has the bytes of another one, beside its log."""
    return {name: digest for name, digest in digests(out).items() if name != LOG} == reference


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    synthetic.draw("celeba", folder, num_images=300)
    return folder


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("reference") / "build"
    make(source, out, classes="none", size="1200", samples_per_shard=4)
    return digests(out)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A cluster of two machines that no test harms."""
    with ray_cluster(tmp_path_factory.mktemp("shared"), num_nodes=2) as cluster:
        yield cluster


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RayCluster]:
    """A cluster of three machines for one test."""
    with ray_cluster(tmp_path / "cluster", num_nodes=3) as cluster:
        yield cluster


def test_build_on_two_machines_has_the_bytes_of_one_and_a_log_of_nodes(
    shared: RayCluster, source: Path, tmp_path: Path
) -> None:
    make(source, tmp_path / "here", classes="none", size="32", samples_per_shard=20)
    ended = shared.head.run(command(source, tmp_path / "there", *QUICK), RAY_ADDRESS=shared.address)
    assert ended.returncode == 0, ended.stderr
    assert f"working on the Ray cluster at {shared.address}, as RAY_ADDRESS has it" in ended.stderr
    here = digests(tmp_path / "here")
    assert same(tmp_path / "there", here)
    assert verify(tmp_path / "there", deep=True).problems == ()
    log = [json.loads(line) for line in (tmp_path / "there" / LOG).read_text().splitlines()]
    shards = [name for name in here if SHARD_FILE.fullmatch(name) and name.endswith(".parquet")]
    assert sorted(f"{line['shard']}.parquet" for line in log) == sorted(shards)
    assert {line["node"] for line in log} == {machine.address for machine in shared.machines.machines}
    assert b"10.91." not in (tmp_path / "there" / "build.json").read_bytes()


def test_machines_that_see_something_else_are_refused_by_name(shared: RayCluster, source: Path, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "build"
    empty.mkdir()
    stranger = shared.join(9)
    stranger.mount(empty, over=source)
    try:
        ended = shared.head.run(command(source, out, *QUICK, "--ray-address", shared.address))
    finally:
        stranger.kill()
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: node {stranger.address} does not see {source} (")
    assert not out.exists()


@pytest.mark.parametrize("keeps_times", [pytest.param(True, marks=pytest.mark.slow), False])
def test_copy_of_the_source_in_which_two_photos_differ_is_refused(
    shared: RayCluster, source: Path, tmp_path: Path, *, keeps_times: bool
) -> None:
    """Two of three hundred, which admission may well not read."""
    copy, out = tmp_path / "copy", tmp_path / "build"
    shutil.copytree(source, copy, copy_function=shutil.copy2 if keeps_times else shutil.copy)
    for photo in sorted(copy.rglob("*.jpg"))[100:102]:
        stat = photo.stat()
        photo.write_bytes(sorted(copy.rglob("*.jpg"))[7].read_bytes())
        os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for machine in shared.machines.machines[:2]:
        machine.mount(copy, over=source)
    driver = shared.join(10 + keeps_times, num_cpus=0)
    try:
        ended = driver.run(command(source, out, *QUICK, "--ray-address", shared.address))
    finally:
        driver.kill()
        for machine in shared.machines.machines[:2]:
            machine.run(["umount", str(source)])
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert any(last.startswith(f"error: node {machine.address} has other ") for machine in shared.machines.machines)


# Faults in the middle of a build


class Running:
    """A build on its way."""

    def __init__(self, cluster: RayCluster, source: Path, out: Path, *choices: str, on: Machine | None = None) -> None:
        self._out = out
        words = command(source, out, *LONG, "--ray-address", cluster.address, *choices)
        self.process = (on or cluster.head).start(words)

    def wait_for_shards(self, number: int) -> None:
        """Until so many shards are finished; a build that ends before is a failure."""
        wait_until(lambda: self.process.poll() is not None or len(self._shards()) >= number, what=f"{number} shards")
        assert self.process.poll() is None, self.process.communicate()

    def read_until(self, start: str) -> None:
        """Until it says a line; a build that ends before is a failure."""
        assert self.process.stderr is not None
        while not (line := self.process.stderr.readline()).startswith(start):
            assert line, "it ended"

    def _shards(self) -> list[Path]:
        return list(self._out.glob("*.parquet"))

    def end(self) -> tuple[int, list[str]]:
        """Its exit code, and what a person reads."""
        _, text = self.process.communicate(timeout=240)
        return self.process.returncode, lines(text)


def check_goes_on(cluster: RayCluster, source: Path, out: Path, reference: dict[str, str]) -> None:
    """The same command finishes what is there, with the same bytes."""
    code, said = Running(cluster, source, out).end()
    assert (code, same(out, reference)) == (0, True), said


@pytest.mark.slow
def test_machine_that_is_gone_is_named_and_its_shards_are_packed_elsewhere(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    running = Running(own, source, tmp_path / "build")
    running.wait_for_shards(5)
    lost = own.machines.machines[2]
    lost.kill()
    code, said = running.end()
    assert (code, same(tmp_path / "build", reference)) == (0, True), said
    assert f"node {lost.address} is lost; what it was packing is packed elsewhere" in said


@pytest.mark.slow
def test_worker_that_is_killed_is_told_and_replaced(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    running = Running(own, source, tmp_path / "build")
    running.wait_for_shards(5)
    machine = own.machines.machines[1]
    for worker in machine.processes("ray::MapWorker"):
        worker.kill()
    code, said = running.end()
    assert (code, same(tmp_path / "build", reference)) == (0, True), said
    assert f"a worker on node {machine.address} died; another one packs its shard" in said


@pytest.mark.slow
def test_source_that_disappears_from_a_machine_ends_the_build_and_nothing_is_missing(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    empty, out, machine = tmp_path / "empty", tmp_path / "build", own.machines.machines[1]
    empty.mkdir()
    running = Running(own, source, out)
    running.wait_for_shards(5)
    machine.mount(empty, over=source)
    code, said = running.end()
    assert code == 1
    assert said[-1].startswith(f"error: node {machine.address} ")
    machine.run(["umount", str(source)])
    check_goes_on(own, source, out, reference)


@pytest.mark.slow
def test_head_that_is_gone_is_said_at_once_and_ends_the_build(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = tmp_path / "build"
    running = Running(own, source, out)
    running.wait_for_shards(5)
    for server in own.head.processes("gcs_server"):
        server.kill()
    code, said = running.end()
    assert code == 1
    assert f"warning: Ray at {own.address}: its head does not respond; the build waits for a minute" in said
    assert "what is finished is kept, and the same command goes on from there" in said[-1]
    make(source, out, classes="none", size="1200", samples_per_shard=4)  # without Ray
    assert same(out, reference)


@pytest.mark.slow
def test_driver_that_loses_its_link_ends_with_a_line(own: RayCluster, source: Path, tmp_path: Path) -> None:
    machine = own.machines.machines[1]
    running = Running(own, source, tmp_path / "build", on=machine)
    running.wait_for_shards(5)
    machine.cut()
    code, said = running.end()
    assert code == 1
    assert said[-1].startswith(f"error: Ray at {own.address}: ")


@pytest.mark.slow
def test_driver_that_is_killed_leaves_no_worker_and_the_next_one_goes_on(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    running = Running(own, source, tmp_path / "build")
    running.wait_for_shards(5)
    for process in own.head.processes("facepack build"):
        process.kill()
    machines = own.machines.machines
    wait_until(lambda: not any(machine.processes("ray::MapWorker") for machine in machines), what="no worker is left")
    check_goes_on(own, source, tmp_path / "build", reference)


@pytest.mark.slow
def test_machine_that_joins_late_is_waited_for_and_gets_the_work(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = tmp_path / "build"
    running = Running(own, source, out, "--worker-cpus", "2")  # more than any machine has
    running.read_until("no worker has begun: 3 of 3 cores on 3 nodes are free")
    late = own.join(4, num_cpus=2)
    code, said = running.end()
    assert (code, same(out, reference)) == (0, True), said
    assert f"node {late.address} joined with 2 cores" in said
    assert {json.loads(line)["node"] for line in (out / LOG).read_text().splitlines()} == {late.address}


@pytest.mark.slow
def test_cores_that_others_hold_are_waited_for_and_that_is_said(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    release = tmp_path / "release"
    os.mkfifo(release)
    program = f"""
import ray
ray.init(address={own.address!r}, log_to_driver=False)
@ray.remote(num_cpus=1)
class Holder:
    def holds(self): return True
holders = [Holder.remote() for _ in range(3)]
ray.get([holder.holds.remote() for holder in holders])
print("held", flush=True)
open({str(release)!r}).read()
"""
    holding = own.head.start([sys.executable, "-c", program])
    assert holding.stdout is not None
    assert holding.stdout.readline() == "held\n"
    running = Running(own, source, tmp_path / "build")
    running.read_until("no worker has begun: 0 of 3 cores on 3 nodes are free")
    release.write_text("")
    code, said = running.end()
    assert (code, same(tmp_path / "build", reference)) == (0, True), said


@pytest.mark.slow
def test_of_two_drivers_the_second_is_refused(
    own: RayCluster, source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    running = Running(own, source, tmp_path / "build")
    running.wait_for_shards(1)
    code, said = Running(own, source, tmp_path / "build", on=own.machines.machines[1]).end()
    assert code == 1
    assert "another build is at work here" in said[-1]
    assert running.end()[0] == 0
    assert same(tmp_path / "build", reference)
