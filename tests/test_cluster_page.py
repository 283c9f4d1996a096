"""docs/cluster.md: its files for Kubernetes and `ray up` have fields that these know, and its commands parse."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from typer.testing import CliRunner

from facepack.cli import app
from facepack.node_environment import read_environment

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def block(word: str) -> str:
    """The one YAML file of the page that has a word."""
    (text,) = [str(text) for text in BLOCKS if word in text]
    return text


def objects(required: str = "", **properties: Any) -> dict[str, Any]:
    """The schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in properties.items()},
    }


def lists(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
MOUNTS = lists(objects("name mountPath", name="string", mountPath="string"))
CONTAINER = objects(
    "name image resources",
    name="string",
    image="string",
    resources=objects(requests=TEXTS, limits=TEXTS),
    volumeMounts=MOUNTS,
)
VOLUMES = lists(objects("name", name="string", persistentVolumeClaim=objects("claimName", claimName="string")))
POD = objects("spec", spec=objects("containers", containers=lists(CONTAINER), volumes=VOLUMES))
RAY_JOB = objects(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=objects("name", name="string"),
    spec=objects(
        "entrypoint rayClusterSpec",
        entrypoint="string",
        shutdownAfterJobFinishes="boolean",
        ttlSecondsAfterFinished="integer",
        backoffLimit="integer",
        rayClusterSpec=objects(
            "headGroupSpec",
            rayVersion="string",
            enableInTreeAutoscaling="boolean",
            headGroupSpec=objects("template", rayStartParams=TEXTS, template=POD),
            workerGroupSpecs=lists(
                objects(
                    "groupName template maxReplicas minReplicas",
                    groupName="string",
                    replicas="integer",
                    minReplicas="integer",
                    maxReplicas="integer",
                    rayStartParams=TEXTS,
                    template=POD,
                )
            ),
        ),
    ),
)
"""The fields of KubeRay's RayJob that the page uses, with the types of its resource definition (ray.io/v1)."""


def test_ray_job_has_the_fields_of_its_resource_definition() -> None:
    jsonschema.validate(yaml.safe_load(block("RayJob")), RAY_JOB)


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason="KUBERAY_CRD names no ray.io_rayjobs.yaml")
def test_ray_job_is_valid_by_the_whole_resource_definition() -> None:
    definition = yaml.safe_load(Path(os.environ["KUBERAY_CRD"]).read_text(encoding="utf-8"))
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    jsonschema.validate(yaml.safe_load(block("RayJob")), strict(version["schema"]["openAPIV3Schema"]))


def strict(schema: Any) -> Any:
    """The same schema, by which fields that it does not have are refused."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: strict(part) for name, part in schema.items()}
    return {"additionalProperties": False} | parts if isinstance(schema.get("properties"), dict) else parts


def test_ray_up_accepts_its_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    content = yaml.safe_load(block("cluster_name"))
    jsonschema.validate(content, schema)
    assert content["head_node_type"] in content["available_node_types"]


def test_files_have_the_versions_that_are_pinned() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    job = yaml.safe_load(block("RayJob"))
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    assert f"ray=={pinned}" in block("cluster_name")
    assert f"rayproject/ray:{pinned}" in PAGE


def test_environment_of_the_page_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "STORE"):
        monkeypatch.setenv(name, name.lower())
    file = tmp_path / "nodes.yaml"
    file.write_text(block("env_vars"))
    environment = read_environment(str(file))
    assert environment.variables["AWS_ENDPOINT_URL"] == "http://store:9000"
    assert environment.runtime_env == {"pip": ["facepack==0.1.0"]}


COMMANDS = [
    *re.findall(r"(?<![`\w/])facepack build [^`\n\"]+", PAGE),
    *re.findall(r"`(facepack verify [^`]+)`", PAGE),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_have_options_that_there_are(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[1:]
    known = CliRunner().invoke(app, [words[0], "--help"], terminal_width=200).output
    assert words[0] in ("build", "verify")
    assert [word for word in words if word.startswith("--") and f" {word} " not in known.replace("\n", " ")] == []
