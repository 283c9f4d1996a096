"""Ray options: addresses, sizes and the file of variables as a user writes them."""

from pathlib import Path

import pytest

from facepack.builder import Place
from facepack.errors import FieldError
from facepack.node_environment import read_environment
from facepack.ray_options import Cluster, RayOptions, cluster_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"address": "ray://head:10001"},
            "ray_address ray://head:10001: Ray's client cannot pack; run facepack on a node",
        ),
        ({"address": "http://head:8265"}, "ray_address http://head:8265: that is for ray job submit, and no head"),
        ({"min_workers": 0}, "min_workers 0: expected 1 or more"),
        ({"worker_cpus": 0.0}, "worker_cpus 0.0: expected a number of cores"),
        ({"worker_cpus": float("nan")}, "worker_cpus nan: expected a number of cores"),
        ({"worker_memory": "much"}, "worker_memory much: expected a size such as 500MB or 2GB"),
        ({"worker_memory": "0GB"}, "worker_memory 0GB: expected a size"),
    ],
)
def test_option_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError) as refused:
        RayOptions(**options)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)


def test_least_number_of_workers_is_no_more_than_the_most() -> None:
    with pytest.raises(FieldError, match="min_workers 4: workers is 2, which is less"):
        Place("source", "out", 2, RayOptions(min_workers=4))


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("2GB", 2 * 10**9), ("500 MB", 500 * 10**6), ("1.5g", 15 * 10**8), ("1000", 1000), ("", 0)]
)
def test_memory_is_a_size(text: str, num_bytes: int) -> None:
    assert RayOptions(worker_memory=text).worker_memory_bytes == num_bytes


def test_cluster_is_that_of_the_option_then_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_of(RayOptions()) is None
    assert cluster_of(RayOptions("head:6379")) == Cluster("head:6379", "--ray-address")
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert cluster_of(RayOptions()) == Cluster("other:6379", "RAY_ADDRESS")
    assert cluster_of(RayOptions("head:6379")) == Cluster("head:6379", "--ray-address")
    assert cluster_of(RayOptions("local")) is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_of(RayOptions()) is None
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(FieldError, match="ray_address http://head:8265 of RAY_ADDRESS: that is for ray job submit"):
        cluster_of(RayOptions())


def test_variables_come_from_the_file_or_from_here_and_secrets_do_not_go_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("REGION", "eu-west-3")
    file = tmp_path / "env.yaml"
    file.write_text(
        "env_vars:\n  AWS_SECRET_ACCESS_KEY:\n  AWS_REGION: ${REGION}\n  OMP_NUM_THREADS: 1\npip: [pillow-heif]\n"
    )
    environment = read_environment(str(file))
    assert environment.variables == {
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_REGION": "eu-west-3",
        "OMP_NUM_THREADS": "1",
    }
    assert environment.runtime_env == {"pip": ["pillow-heif"], "env_vars": {"OMP_NUM_THREADS": "1"}}
    assert "hidden" not in repr(environment)
    assert read_environment("").variables == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("env_vars: {A: ${NOT_SET_HERE}}", "neither YAML nor JSON"),
        ("env_vars:\n  A: ${NOT_SET_HERE}", "env_vars A needs NOT_SET_HERE, which is not set here"),
        ("env_vars:\n  NOT_SET_HERE:", "env_vars NOT_SET_HERE needs NOT_SET_HERE, which is not set here"),
        ("env_vars: [A]", "env_vars are not names with values"),
        ("- A", "expected the fields of a Ray runtime environment"),
        ("", "expected the fields of a Ray runtime environment"),
    ],
)
def test_file_that_is_no_environment_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "env.yaml"
    file.write_text(text)
    with pytest.raises(FieldError) as refused:
        read_environment(str(file))
    assert str(refused.value).startswith(f"ray_env {file}: {reason}")


def test_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(FieldError, match=r"ray_env nowhere\.yaml: No such file or directory"):
        read_environment("nowhere.yaml")
