"""Location: the folder or URL of a build, out of what a user writes for it."""

import os
import re
from pathlib import Path

from facepack import manifest
from facepack.errors import FieldError
from facepack.storage import is_url

_CUT_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
"""The begin of a URL that went through `pathlib`, which takes its two slashes for one."""


def location_of(build: str | os.PathLike[str]) -> str:
    """The folder or URL of a build: `~` is expanded, a URL out of a `Path` mended, and build.json means its folder.

    Raises `FieldError` for what is neither text nor a path.
    """
    try:
        text = os.fspath(build)
    except TypeError as error:
        raise FieldError("build", repr(build), "expected a folder or a URL") from error
    if not isinstance(text, str) or not text:
        raise FieldError("build", repr(text), "expected a folder or a URL")
    text = _CUT_URL.sub(r"\1://", text, count=1) if _CUT_URL.match(text) else text
    folder, _, name = text.rpartition("/")
    if name in (manifest.BUILD_FILE, manifest.MANIFEST_FILE) and (is_url(text) or not Path(text).is_dir()):
        text = folder or ("/" if text.startswith("/") else ".")
    return text if is_url(text) else str(Path(text).expanduser())
