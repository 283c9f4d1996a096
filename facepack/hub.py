"""The Hugging Face Hub: which Parquet files a dataset has there, with their checksums and addresses."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import requests
from pydantic import ValidationError

from facepack.description import File, data_folder
from facepack.download import CONNECT_S, READ_S
from facepack.errors import JobError, UsageError

SCHEME = "hf://"
KIND = "hub"
"""What `facepack fetch --only` takes for the files of the Hub."""
RECORD = ".facepack-hub"
"""The list of the files, in the folder that they are fetched to."""
_LOCATION = re.compile(
    r"hf://datasets/(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>refs/(?:convert/\w+|pr/\d+)|[^/@]+))?(?P<folder>/.*)?"
)
_CONVERTED = "refs/convert/parquet"
"""The revision in which the Hub has a Parquet copy of most datasets."""


def is_hub(location: str) -> bool:
    """True for hf://..."""
    return location.startswith(SCHEME)


@dataclass(frozen=True)
class Repository:
    """A dataset on the Hub: OWNER/NAME, its revision, and the folder in it that is meant ("" for all of it)."""

    name: str
    revision: str = "main"
    folder: str = ""

    @classmethod
    def of(cls, location: str) -> "Repository":
        """Parse hf://datasets/OWNER/NAME[@REVISION][/FOLDER]; `UsageError` for anything else."""
        match = _LOCATION.fullmatch(location.rstrip("/"))
        if match is None:
            raise UsageError(
                f"{location}: expected hf://datasets/OWNER/NAME, @REVISION and /FOLDER after it if need be"
            )
        return cls(match["name"], unquote(match["revision"] or "main"), (match["folder"] or "").strip("/"))

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://datasets/{self.name}{revision}" + (f"/{self.folder}" if self.folder else "")

    @property
    def place(self) -> Path:
        """Where its files are kept on this machine."""
        return data_folder() / KIND / f"{self.name}@{quote(f'{self.revision}/{self.folder}'.rstrip('/'), safe='')}"

    def files(self) -> tuple[File, ...]:
        """Its Parquet files with size, sha256 and address, in order; `JobError` where they cannot be listed."""
        entries = [entry for entry in _entries(self) if entry.get("type") == "file"]
        inside = f"{self.folder}/" if self.folder else ""
        tables = [entry for entry in entries if f"{entry.get('path')}".startswith(inside)]
        tables = [entry for entry in tables if f"{entry['path']}".lower().endswith(".parquet")]
        if not tables:
            first = f", such as {entries[0].get('path')}" if entries else ""
            hint = "" if self.revision == _CONVERTED else f"; the Hub may have them at {self.converted}"
            raise JobError(f"{self}: no Parquet files among its {len(entries):,} files{first}{hint}")
        try:
            return tuple(sorted((self._file(entry) for entry in tables), key=lambda file: file.path))
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise JobError(f"{self}: the Hub's list of files is not as expected ({type(error).__name__})") from error

    @property
    def converted(self) -> "Repository":
        """The Hub's own Parquet copy."""
        return Repository(self.name, _CONVERTED)

    def _file(self, entry: dict[str, Any]) -> File:
        path, lfs = entry["path"], entry.get("lfs") or {}
        url = f"{endpoint()}/datasets/{self.name}/resolve/{quote(self.revision, safe='')}/{quote(path)}"
        return File(path=path, kind=KIND, urls=(url,), num_bytes=entry["size"], sha256=lfs.get("oid", ""))


def endpoint() -> str:
    """The address of the Hub: $HF_ENDPOINT, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def headers() -> dict[str, str]:
    """What a request to the Hub carries: the token in $HF_TOKEN, where there is one."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _entries(repository: Repository) -> Iterator[dict[str, Any]]:
    """All entries of the tree of a repository, page by page."""
    tree = f"{endpoint()}/api/datasets/{repository.name}/tree/{quote(repository.revision, safe='')}?recursive=true"
    url: str | None = tree
    while url:
        try:
            response = requests.get(url, headers=headers() | {"User-Agent": "facepack"}, timeout=(CONNECT_S, READ_S))
            entries = response.json() if response.status_code == 200 else []
        except requests.JSONDecodeError:
            entries = None
        except requests.RequestException as error:
            reason = f"the Hub at {endpoint()} cannot be reached ({type(error).__name__})"
            raise JobError(f"{repository}: {reason}; what was fetched before is in {repository.place}") from error
        if response.status_code != 200:
            raise JobError(f"{repository}: {_refusal(response.status_code, repository)}")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise JobError(f"{repository}: {url} gives no list of files")
        yield from entries
        following = response.links.get("next", {}).get("url")
        url = urljoin(tree, following) if following else None
        if url and urlsplit(url)[:2] != urlsplit(tree)[:2]:  # the token is for the Hub alone
            raise JobError(f"{repository}: its list of files goes on at another host, {urlsplit(url).netloc}")


def _refusal(status: int, repository: Repository) -> str:
    """What a status of the Hub means, and what to do."""
    if status in (401, 403, 404):
        page = f"{endpoint()}/datasets/{repository.name}"
        advice = f"see {page}, accept its terms there if it has any, and set HF_TOKEN if it is not for everybody"
        return f"the Hub says {status}: no such dataset or revision, or it is not open to you; {advice}"
    return f"the Hub says {status}; try again later"


def write_record(folder: Path, files: tuple[File, ...]) -> None:
    """Note which files belong into a folder."""
    facts = [{"path": file.path, "num_bytes": file.num_bytes, "sha256": file.sha256} for file in files]
    (folder / RECORD).write_text(json.dumps(facts), encoding="utf-8")


def recorded_files(folder: Path, repository: Repository) -> tuple[File, ...]:
    """The files that belong into a folder, as noted when they were fetched; none where nothing is noted."""
    try:
        facts = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return tuple(File(kind=KIND, page=f"{repository}", **fact) for fact in facts)
    except (OSError, ValueError, TypeError):
        return ()
