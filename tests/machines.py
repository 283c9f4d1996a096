"""Machines for tests: namespaces with network, processes and mounts of their own, and a Ray cluster over them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PORT = 6399
ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
}


def wait_until(is_so: Callable[[], object], *, within_s: float = 90.0, what: str = "") -> None:
    """Look again and again; a failure after some time."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)


def have_namespaces() -> bool:
    """True where this process may make networks and mounts."""
    tools = all(shutil.which(tool) for tool in ("ip", "unshare", "nsenter", "mount"))
    return tools and subprocess.run(["unshare", "-m", "-n", "true"], check=False, capture_output=True).returncode == 0


@dataclass
class Machine:
    """One of them: its processes die with `kill`."""

    name: str
    address: str
    folder: Path
    init: "subprocess.Popen[bytes]"
    running: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def entered(self) -> list[str]:
        """The command that runs another one on this machine."""
        (inside,) = psutil.Process(self.init.pid).children()
        return ["nsenter", "-t", str(inside.pid), "-m", "-n", "-p", "--"]

    def start(self, command: Sequence[str], **variables: str) -> "subprocess.Popen[str]":
        """Start a program here."""
        environment = os.environ | ENVIRONMENT | {"HOME": str(self.folder)} | variables
        process = subprocess.Popen(
            [*self.entered, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def run(self, command: Sequence[str], **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a program here to its end."""
        process = self.start(command, **variables)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def mount(self, folder: Path, *, over: Path) -> None:
        """Show one folder in the place of another."""
        assert self.run(["mount", "--bind", str(folder), str(over)]).returncode == 0

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of this machine with a word in their command lines."""
        (inside,) = psutil.Process(self.init.pid).children()
        space = Path(f"/proc/{inside.pid}/ns/pid").readlink()
        alive = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                if (
                    word in " ".join(process.info["cmdline"] or [])
                    and Path(f"/proc/{process.pid}/ns/pid").readlink() == space
                ):
                    alive.append(process)
            except OSError:
                continue
        return alive

    def cut(self) -> None:
        """Take its network away."""
        subprocess.run(["ip", "-n", self.name, "link", "set", "eth", "down"], check=True)

    def kill(self) -> None:
        """Everything on it ends at once, as when a machine loses its power."""
        for inside in psutil.Process(self.init.pid).children():
            inside.kill()  # the first process of its namespace takes all others along
        self.init.wait(10)
        for process in self.running:
            process.communicate()


class Machines:
    """A switch and what is plugged into it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._switch = folder, f"fp{os.getpid()}"
        self.machines: list[Machine] = []
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "br0", "up")

    def add(self, number: int) -> Machine:
        """One more machine; its address ends with the number."""
        name, address = f"{self._switch}-{number}", f"10.91.0.{number}"
        folder = self._folder / f"machine{number}"
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "eth", "netns", name, "type", "veth", "peer", "name", f"p{number}", "netns", self._switch)
        ip("-n", self._switch, "link", "set", f"p{number}", "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
        ip("-n", name, "link", "set", "eth", "up")
        Path("/tmp/ray").mkdir(exist_ok=True)
        mounts = f"mount --bind {folder}/ray /tmp/ray && mount -t tmpfs -o size=1g tmpfs /dev/shm && touch {folder}/up"
        reaper = "import os, time\nwhile True:\n  try: os.waitpid(-1, 0)\n  except ChildProcessError: time.sleep(0.1)"
        shell = f"{mounts} && exec {sys.executable} -c '{reaper}'"
        spaces = ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child"]
        init = subprocess.Popen(["ip", "netns", "exec", name, *spaces, "sh", "-c", shell], start_new_session=True)
        wait_until((folder / "up").exists, what=name)
        self.machines.append(Machine(name, address, folder, init))
        return self.machines[-1]

    def end(self) -> None:
        """All of them are gone."""
        for machine in self.machines:
            if machine.init.poll() is None:
                machine.kill()
            ip("netns", "del", machine.name)
        ip("netns", "del", self._switch)


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class RayCluster:
    """A Ray cluster over machines; the first is the head."""

    machines: Machines
    address: str

    @property
    def head(self) -> Machine:
        """The machine that the cluster began on."""
        return self.machines.machines[0]

    def join(self, number: int, *, num_cpus: int = 1, **variables: str) -> Machine:
        """One more machine, as a node of the cluster."""
        machine = self.machines.add(number)
        start_ray(machine, "--address", self.address, "--num-cpus", str(num_cpus), **variables)
        return machine


def start_ray(machine: Machine, *words: str, **variables: str) -> None:
    """Ray's daemons on a machine."""
    limits = ["--object-store-memory", str(100 << 20), "--disable-usage-stats"]
    started = machine.run([*RAY, "start", "--node-ip-address", machine.address, *limits, *words], **variables)
    assert started.returncode == 0, started.stderr


@contextmanager
def ray_cluster(folder: Path, *, num_nodes: int) -> Iterator[RayCluster]:
    """A cluster of so many machines with one core each."""
    machines = Machines(folder)
    try:
        head = machines.add(1)
        cluster = RayCluster(machines, f"{head.address}:{PORT}")
        start_ray(head, "--head", "--port", str(PORT), "--num-cpus", "1", "--include-dashboard", "false")
        for number in range(2, num_nodes + 1):
            cluster.join(number)
        yield cluster
    finally:
        machines.end()
