"""Own descriptions: those that are not in facepack's folder, read from a file, and recorded with a build as text."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from facepack.description import Description, Example, load_dataset, parse_content, toml_content
from facepack.errors import FieldError, UsageError

SUFFIX = ".toml"
_NEEDLESS = {"num_images": 0, "homepage": "", "terms": "your own", "obtain": "", "citation": ""}
"""What a description of one's own need not say."""
_NO_EXAMPLES = (Example(files={}, rows=()),)


def read_description(path: Path) -> Description:
    """Read a description of one's own; `JobError` names the file and the first field that is wrong.

    Of the fields of a published dataset it needs only `index`: without a name of its own it has that of the file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such description; facepack datasets lists the datasets that need none")
    content = toml_content(path)
    own = {"name": path.stem, "title": path.stem, "examples": [{"files": {}, "rows": []}]}
    return parse_content(path, _NEEDLESS | own | content)


def recorded(description: Description) -> str:
    """A description as canonical text: what decides a build, and nothing of how it is fetched or tested."""
    deciding = replace(description, examples=_NO_EXAMPLES, files=(), hub="", quirks=(), size="", num_images=0)
    content = TypeAdapter(Description).dump_python(deciding, mode="json", exclude_defaults=True)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def is_known(description: Description) -> bool:
    """True for what is facepack's own description of a dataset, word for word where it decides a build."""
    try:
        return recorded(load_dataset(description.name)) == recorded(description)
    except UsageError:
        return False


@lru_cache(maxsize=16)
def from_record(text: str) -> Description:
    """The description in a recorded text; `FieldError` where it is none."""
    try:
        description: Description = TypeAdapter(Description).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "description"
        raise FieldError("description", "", f"field {field}: {first['msg']}") from error
    return description
