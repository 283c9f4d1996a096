"""Fetch tools: files that need a log-in, got by gdown or Kaggle's client, or by a person who is told how."""

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from facepack.description import File
from facepack.errors import JobError
from facepack.published import expected_of

log = logging.getLogger("facepack")


def fetch_by_tool(file: File, path: Path) -> bool:
    """Fetch a file by gdown or by Kaggle's client; False where neither is installed and set up for it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
        if file.drive and (program := shutil.which("gdown")):
            command = [program, file.drive, "-O", f"{work}/{path.name}"]
        elif file.kaggle and (program := shutil.which("kaggle")) and _has_kaggle_key():
            command = [program, "datasets", "download", file.kaggle, "-p", work]
        else:
            return False
        log.info(f"{path.name}: {' '.join(command[:-2])}")
        ended = subprocess.run(command, stdout=2, check=False)  # noqa: S603 - both are programs of the user
        fetched = sorted(Path(work).iterdir())
        if ended.returncode or len(fetched) != 1:
            reason = f"exit code {ended.returncode}" if ended.returncode else f"{len(fetched)} files"
            raise JobError(f"{Path(command[0]).name}: {reason}; {instruction(file, path)}")
        expected_of(file).check(fetched[0], what=f"{path.name} from {file.source}")
        fetched[0].replace(path)
    return True


def _has_kaggle_key() -> bool:
    """True where Kaggle's client has what it logs in with."""
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    has_file = any((folder / name).exists() for name in ("kaggle.json", "access_token", "credentials.json"))
    return has_file or "KAGGLE_KEY" in os.environ or "KAGGLE_API_TOKEN" in os.environ


def instruction(file: File, path: Path) -> str:
    """What a person has to do to get a file."""
    tool = ""
    if file.drive and not shutil.which("gdown"):
        tool = " (with pip install gdown, facepack fetches it)"
    elif file.kaggle:
        tool = " (with pip install kaggle and its key, facepack fetches it)"
    return f"get {path.name} from {file.source}{tool}, put it at {path}, and run the same command: it is checked then"
