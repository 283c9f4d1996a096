"""A build on several Ray nodes of one machine, for machines on which no namespaces can be made."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import digests, make

from facepack.drawn import synthetic
from facepack.node_log import NAME


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    synthetic.draw("celeba", folder, num_images=120)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, of a core each."""
    from ray.cluster_utils import Cluster

    one = {"num_cpus": 1, "object_store_memory": 128 << 20}
    made = Cluster(initialize_head=True, head_node_args=one)
    try:
        made.add_node(**one)
        yield made
    finally:
        made.shutdown()


def build(source: Path, out: Path, address: str) -> "subprocess.CompletedProcess[str]":
    choices = ["--classes", "none", "--size", "32", "--samples-per-shard", "10"]
    words = ["build", "celeba", "--src", str(source), "--out", str(out), "--ray-address", address, *choices]
    command = [sys.executable, "-m", "facepack", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_build_on_two_nodes_has_the_bytes_of_one_process(source: Path, cluster: Any, tmp_path: Path) -> None:
    make(source, tmp_path / "reference", classes="none", size="32", samples_per_shard=10)
    ended = build(source, tmp_path / "build", cluster.address)
    assert ended.returncode == 0, ended.stderr
    assert f"working on the Ray cluster at {cluster.address}, as --ray-address has it" in ended.stderr
    made = digests(tmp_path / "build")
    assert made.pop(NAME)
    assert made == digests(tmp_path / "reference")


def test_address_at_which_no_head_runs_is_named_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    ended = build(source, tmp_path / "build", "127.0.0.1:9")
    assert ended.returncode == 1
    assert "Ray at 127.0.0.1:9" in ended.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("build/*.tar"))
