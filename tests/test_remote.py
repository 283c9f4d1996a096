"""Builds from and to an object store: a real S3 API over HTTP on loopback."""

import re
import shutil
from pathlib import Path
from typing import Any

import boto3
import pytest
from conftest import digests, make, use_s3

from facepack import manifest, preview
from facepack.errors import JobError
from facepack.lock import BUILD, held
from facepack.source import open_source
from facepack.storage import Store
from facepack.verification import verify


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty bucket of its own for each test."""
    use_s3(monkeypatch, s3_server)
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[-60:].strip("-")
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"


def put(folder: Path, location: str) -> str:
    store = Store(location)
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return location


def fetched(location: str, folder: Path) -> dict[str, str]:
    """Everything below a location, as the digests of a folder."""
    store = Store(location)
    for name in store.list():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(store.read(name))
    return digests(folder)


@pytest.fixture(scope="module")
def reference(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("reference") / "build"
    make(celeba, out)
    return digests(out)


def test_build_to_s3_has_the_same_bytes_and_is_verified_there(
    celeba: Path, bucket: str, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = f"{bucket}/builds/one"
    make(celeba, out)
    assert fetched(out, tmp_path / "fetched") == reference
    report = verify(out, deep=True)
    assert report.problems == ()
    assert report.num_samples > 100
    assert make(celeba, out).num_images == 0


def test_build_from_s3_has_the_same_bytes(celeba: Path, bucket: str, tmp_path: Path, reference: dict[str, str]) -> None:
    make(put(celeba, f"{bucket}/celeba"), tmp_path / "build")
    assert digests(tmp_path / "build") == reference


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_build_from_an_archive_on_s3_has_the_same_bytes(
    celeba: Path, bucket: str, tmp_path: Path, reference: dict[str, str], kind: str
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "celeba"), kind, celeba))
    Store(bucket).write(archive.name, archive.read_bytes())
    make(f"{bucket}/{archive.name}", tmp_path / "build")
    assert digests(tmp_path / "build") == reference


def test_unfinished_build_on_s3_goes_on_where_it_was(
    celeba: Path, bucket: str, tmp_path: Path, reference: dict[str, str]
) -> None:
    out = f"{bucket}/build"
    make(celeba, out)
    store = Store(out)
    for name in ("build.json", "manifest.parquet", "train-00001.parquet"):
        store.delete(name)
    assert 0 < make(celeba, out).num_images <= 40
    assert fetched(out, tmp_path / "fetched") == reference


def test_other_configuration_on_s3_is_refused(celeba: Path, bucket: str) -> None:
    out = f"{bucket}/build"
    make(celeba, out, limit=20)
    with pytest.raises(JobError, match="size: 32 there, 48 here"):
        make(celeba, out, limit=20, size="48")
    Store(out).delete("build.json")
    with pytest.raises(JobError, match="size: 32 there, 48 here"):
        make(celeba, out, limit=20, size="48")


def test_second_build_on_s3_is_refused(celeba: Path, bucket: str) -> None:
    store = Store(f"{bucket}/build")
    with held(store, work=BUILD), pytest.raises(JobError, match="another build is at work"):
        make(celeba, f"{bucket}/build")
    assert store.list() == []


def test_what_is_not_there_is_one_clear_error(bucket: str) -> None:
    Store(bucket).write("something/else/x", b"")
    Store(bucket).write("y", b"")
    for place in ("nothing", "something/nothing/at/all", "some"):
        beside = f"{bucket}/something has else/" if "/" in place else f"{bucket} has something/, y"
        with pytest.raises(JobError, match=f"{bucket}/{place}: no such prefix; {beside}"):
            open_source(f"{bucket}/{place}")
    with pytest.raises(JobError, match="no such file"):
        open_source(f"{bucket}/nothing.zip")
    with pytest.raises(JobError, match="no complete build"):
        manifest.read_build(f"{bucket}/something")
    with pytest.raises(JobError, match=f"no complete build.*; no such prefix; {bucket} has something/"):
        manifest.read_build(f"{bucket}/nothing")
    with pytest.raises(FileNotFoundError):
        Store(bucket).read("nothing")
    with pytest.raises(JobError, match="s3://no-such-bucket"):
        Store("s3://no-such-bucket/x").write("y", b"")


def test_store_creates_only_what_is_not_there(bucket: str) -> None:
    store = Store(bucket)
    store.create("lock", b"one")
    with pytest.raises(FileExistsError):
        store.create("lock", b"two")
    assert store.read("lock") == b"one"
    with store.open("lock") as file:
        assert (file.seek(-2, 2), file.read(), file.read(), file.seek(0), file.read(1)) == (1, b"ne", b"", 0, b"o")


def test_preview_of_a_build_on_an_object_store(celeba: Path, bucket: str) -> None:
    make(celeba, f"{bucket}/build")
    page = preview.of_build(f"{bucket}/build", src=str(celeba))
    assert page.title == "build"
    assert sum(sheet.number for sheet in page.sheets) == sum(page.splits[""].values()) > 0
    assert all(sheet.pictures for sheet in page.sheets)


def test_photos_on_an_object_store_are_aligned_to_the_same_bytes(celeba: Path, bucket: str, tmp_path: Path) -> None:
    choices: dict[str, Any] = {"classes": "", "align": "crop", "limit": 40}
    make(celeba, tmp_path / "build", **choices)
    make(put(celeba, f"{bucket}/source"), tmp_path / "remote", **choices)
    assert digests(tmp_path / "remote") == digests(tmp_path / "build")
