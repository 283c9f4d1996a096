"""The Hugging Face Hub: its files are fetched over its own API, resumed, checked, and built from."""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from parquet_files import write_celeba
from typer.testing import CliRunner
from web import serving

from facepack import catalogue, download
from facepack.cli import app
from facepack.description import load_dataset
from facepack.errors import JobError, UsageError
from facepack.fetching import fetch
from facepack.hub import Repository
from facepack.lock import FETCH

TREE = "/api/datasets/flwrlabs/celeba/tree/main"
RESOLVE = "/datasets/flwrlabs/celeba/resolve/main/"


class Hub:
    """A server on loopback with the Hub's API: trees in pages of three, files by way of another address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = ""
        self.cut: set[str] = set()
        """Files whose connection breaks in the middle, once each."""
        self.spoilt: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self._server = serving(self._answer)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _tree(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "data"}]
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                entry = {"type": "file", "oid": "1" * 40, "size": len(content)}
                entry["path"] = path.relative_to(self.folder).as_posix()
                if path.suffix == ".parquet":
                    entry["lfs"] = {
                        "oid": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 132,
                    }
                entries.append(entry)
        return entries

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = unquote(handler.path).partition("?")
        self.asked.append((path, handler.headers.get("Range", "")))
        token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.token and token != self.token:
            self._send(handler, 401, b"")
        elif path == TREE and "recursive=true" in query:
            start = int(query.partition("cursor=")[2] or 0)
            entries = self._tree()
            more = {"Link": f'<{self.url}{TREE}?recursive=true&cursor={start + 3}>; rel="next"'}
            content = json.dumps(entries[start : start + 3]).encode()
            self._send(handler, 200, content, more if start + 3 < len(entries) else {})
        elif path.startswith(RESOLVE) and (self.folder / path.removeprefix(RESOLVE)).is_file():
            self._send(handler, 302, b"", {"Location": f"{self.url}/cdn/{path.removeprefix(RESOLVE)}"})
        elif path.startswith("/cdn/"):
            self._file(handler, path.removeprefix("/cdn/"))
        else:
            self._send(handler, 404, b"")

    def _file(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        content = (self.folder / name).read_bytes()
        if name in self.spoilt:
            content = bytes(len(content))
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        part = content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.send_header("ETag", f'"{name}"')
        handler.end_headers()
        if name in self.cut:
            self.cut.remove(name)
            part = part[: len(part) // 2]
            handler.close_connection = True
        handler.wfile.write(part)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with CelebA, an empty data folder, and short waits."""
    write_celeba(tmp_path / "hub", train=480)
    (tmp_path / "hub" / "README.md").write_text("CelebA")
    running = Hub(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    yield running
    running.close()


def run(*words: str | Path) -> tuple[int, str]:
    ended = CliRunner().invoke(app, [str(word) for word in words])
    return ended.exit_code, ended.output


def parquet_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_celeba_comes_from_the_hub_and_is_built(hub: Hub, tmp_path: Path) -> None:
    code, output = run("fetch", "celeba")
    assert (code, "accept them with --accept-terms" in output) == (2, True)
    hub.cut = {"data/train-00000-of-00002.parquet"}
    code, output = run("fetch", "celeba", "--accept-terms")
    assert code == 0, output
    folder = tmp_path / "data" / "celeba"
    assert parquet_of(folder) == parquet_of(tmp_path / "hub")
    resumed = [wanted for path, wanted in hub.asked if path == "/cdn/data/train-00000-of-00002.parquet"]
    size = (folder / "data" / "train-00000-of-00002.parquet").stat().st_size
    assert resumed == ["", f"bytes={(size // 2) >> 16 << 16}-"]
    assert {entry.name: entry.here for entry in catalogue.datasets()}["celeba"] == "complete"
    hub.asked.clear()
    assert run("fetch", "celeba", "--accept-terms")[0] == 0
    assert {path for path, _ in hub.asked} == {TREE}
    code, output = run("build", "celeba", "--classes", "rarest4", "--workers", "0", "--out", tmp_path / "out")
    assert code == 0, output


def test_dataset_of_the_hub_is_a_source(hub: Hub, tmp_path: Path) -> None:
    words = ("build", "celeba", "--classes", "Bald,Male", "--workers", "0")
    code, output = run(*words, "--src", "hf://datasets/flwrlabs/celeba@main", "--out", tmp_path / "out")
    assert code == 0, output
    assert parquet_of(tmp_path / "data" / "hub" / "flwrlabs" / "celeba@main") == parquet_of(hub.folder)
    run(*words, "--src", hub.folder, "--out", tmp_path / "other")
    assert (tmp_path / "out" / "train-00000.tar").read_bytes() == (tmp_path / "other" / "train-00000.tar").read_bytes()


def test_file_that_is_not_the_hubs_is_refused_and_left_as_it_is(hub: Hub, tmp_path: Path) -> None:
    hub.spoilt = {"data/test-00000-of-00001.parquet"}
    with pytest.raises(JobError, match=r"its sha256 is .*, expected"):
        fetch("hf://datasets/flwrlabs/celeba")
    folder = tmp_path / "data" / "hub" / "flwrlabs" / "celeba@main"
    assert sorted(parquet_of(folder)) == sorted(set(parquet_of(hub.folder)) - hub.spoilt)
    hub.spoilt.clear()
    assert fetch("hf://datasets/flwrlabs/celeba").is_complete
    path = folder / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(JobError, match=r"test-00000-of-00001.parquet: its sha256 is .*move it away"):
        fetch("hf://datasets/flwrlabs/celeba")
    path.rename(folder / "data" / "test-00000-of-00002.parquet")
    with pytest.raises(JobError, match=r"holds data/test-00000-of-00002.parquet, not a file of hf://datasets/flwr"):
        fetch("hf://datasets/flwrlabs/celeba")
    assert not (folder / FETCH.lock_file).exists()


def test_token_opens_what_is_not_for_everybody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(JobError, match=r"the Hub says 401.*set HF_TOKEN"):
        fetch("hf://datasets/flwrlabs/celeba")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch("hf://datasets/flwrlabs/celeba").is_complete


def test_official_files_that_are_here_stay_the_way(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "celeba"
    folder.mkdir(parents=True)
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(JobError, match=r"list_eval_partition.txt: 13 bytes, expected 2,836,386"):
        fetch("celeba", accept_terms=True)
    assert hub.asked == []
    assert fetch("celeba", only=["hub"], accept_terms=True).is_complete


def test_what_the_hub_lacks_is_named(hub: Hub) -> None:
    with pytest.raises(JobError, match=r"hf://datasets/no/such@v1: the Hub says 404"):
        fetch("hf://datasets/no/such@v1")
    for path in hub.folder.rglob("*.parquet"):
        path.unlink()
    with pytest.raises(JobError, match=r"no Parquet files .* such as README.md; .*celeba@refs/convert/parquet"):
        fetch("hf://datasets/flwrlabs/celeba")
    hub.close()
    with pytest.raises(JobError, match=r"the Hub at http://127.0.0.1:\d+ cannot be reached"):
        fetch("hf://datasets/flwrlabs/celeba")


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("hf://datasets/flwrlabs/celeba", ("flwrlabs/celeba", "main", "")),
        ("hf://datasets/mnist/", ("mnist", "main", "")),
        ("hf://datasets/a/b@v1.2", ("a/b", "v1.2", "")),
        ("hf://datasets/a/b@refs/convert/parquet", ("a/b", "refs/convert/parquet", "")),
        ("hf://datasets/a/b@refs/convert/parquet/default", ("a/b", "refs/convert/parquet", "default")),
        ("hf://datasets/a/b@refs%2Fpr%2F3/x/y", ("a/b", "refs/pr/3", "x/y")),
    ],
)
def test_location_is_parsed(location: str, parts: tuple[str, str, str]) -> None:
    assert Repository.of(location) == Repository(*parts)


@pytest.mark.parametrize("location", ["hf://a/b", "hf://models/a/b", "hf://datasets/", "hf://datasets/a b/c"])
def test_other_location_is_refused(location: str) -> None:
    with pytest.raises(UsageError, match="expected hf://datasets/OWNER/NAME"):
        fetch(location)


def test_celeba_names_its_place_on_the_hub() -> None:
    assert load_dataset("celeba").hub == "hf://datasets/flwrlabs/celeba"
