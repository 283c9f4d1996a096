"""Node environment: the file of variables, packages and folders that go with a build to the nodes of a cluster."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facepack.errors import FieldError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET = re.compile(r"AWS_|AZURE_|GOOGLE_|GCS_|CLOUDSDK_|SECRET|TOKEN|KEY|PASS|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True)
class NodeEnvironment:
    """What workers get from the driver."""

    variables: dict[str, str] = field(default_factory=dict, repr=False)
    """All variables, which facepack itself carries: Ray would write them into its logs."""
    runtime_env: dict[str, Any] = field(default_factory=dict)
    """The rest, and the variables that are no secrets, in Ray's own form."""


def read_environment(path: str) -> NodeEnvironment:
    """Read a file in the form of Ray's runtime environments, YAML or JSON; `FieldError` for what is none.

    A variable without a value has that of this process, and ${NAME} in a value stands for one.
    """
    import yaml

    if not path:
        return NodeEnvironment()
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FieldError("ray_env", path, getattr(error, "strerror", "") or "not UTF-8") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise FieldError("ray_env", path, f"neither YAML nor JSON{line}") from error
    if not isinstance(content, dict):
        raise FieldError("ray_env", path, "expected the fields of a Ray runtime environment, such as env_vars and pip")
    given = content.pop("env_vars", None) or {}
    if not isinstance(given, dict):
        raise FieldError("ray_env", path, "env_vars are not names with values, such as AWS_REGION: us-east-1")
    variables = {f"{name}": _value(f"{name}", value, path) for name, value in given.items()}
    harmless = {name: value for name, value in variables.items() if not _SECRET.search(name)}
    return NodeEnvironment(variables, content | ({"env_vars": harmless} if harmless else {}))


def _value(name: str, value: object, path: str) -> str:
    """The value of a variable, with those of this process filled in."""
    text = f"${{{name}}}" if value is None else f"{value}"
    for other in _VARIABLE.findall(text):
        if other not in os.environ:
            raise FieldError("ray_env", path, f"env_vars {name} needs {other}, which is not set here")
    return _VARIABLE.sub(lambda match: os.environ[match[1]], text)
