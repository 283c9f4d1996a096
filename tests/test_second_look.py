"""Second look: what a worker could not read, or read otherwise, is never written down as it is."""

import logging
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import make

from facepack import builder, manifest, second_look
from facepack.admission import Ground
from facepack.builder import Place
from facepack.configuration import Configuration
from facepack.errors import JobError
from facepack.manifest import Status
from facepack.second_look import SecondLook
from facepack.shard import ShardResult
from facepack.sighting import sighting_of
from facepack.source import open_source
from facepack.source_check import check_source
from facepack.storage import Store


@pytest.fixture
def ground(celeba: Path, tmp_path: Path) -> Ground:
    """A build of a source of forty photos, one of which was not there when it was packed."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for path in sorted(celeba.rglob("*.jpg"))[:40]:
        shutil.copy(path, source)
    configuration = Configuration.of("folder", classes="none", split="100/0/0", samples_per_shard=40)
    prepared = builder.planned(configuration, place=Place(str(source), str(out), 0))
    hidden = sorted(source.iterdir())[7]
    content = hidden.read_bytes()

    class Hides:
        """Takes a photo away once all is planned."""

        seconds = 0.0

        def expect(self, num_images: int) -> None:  # noqa: ARG002 - of the protocol
            hidden.unlink()

        def begin(self, at: float) -> None: ...

        def advance(self, num_images: int, num_rejects: int) -> None: ...

    builder.build(configuration, place=Place(str(source), str(out), 0), progress=Hides())
    hidden.write_bytes(content)
    return Ground(prepared.source, Store(str(out)), configuration, None, "")


def result_in(ground: Ground) -> ShardResult:
    table = manifest.read_table(ground.store, "train-00000.parquet")
    return ShardResult.from_metadata(manifest.metadata_of(table))


def test_photo_that_a_worker_calls_missing_and_the_driver_reads_ends_the_build(ground: Ground) -> None:
    result = result_in(ground)
    assert result.statuses == {Status.MISSING: 1, Status.PACKED: 39}
    with pytest.raises(JobError, match=r"node b cannot read \d+\.jpg, which is in .*; train-00000.tar is not kept"):
        second_look.check_unread(result, ground=ground, node="b")
    assert "train-00000.parquet" not in ground.store.list()


def test_photo_that_is_really_gone_is_missing(ground: Ground) -> None:
    (Path(ground.source.location) / sorted(ground.source.files)[7]).unlink()
    second_look.check_unread(result_in(ground), ground=ground, node="b")
    assert "train-00000.parquet" in ground.store.list()


def test_photo_of_other_bytes_is_noticed(ground: Ground) -> None:
    second_look.check_some(result_in(ground), ground=ground, node="b")
    for path in Path(ground.source.location).iterdir():
        path.write_bytes(b"another copy")
    with pytest.raises(JobError, match=r"node b has other bytes in \d+\.jpg than are in .*; train-00000"):
        second_look.check_some(result_in(ground), ground=ground, node="b")


def test_copy_of_other_times_is_compared_in_full(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    result, paths, folder = result_in(ground), sorted(ground.source.files), Path(ground.source.location)
    caplog.set_level(logging.INFO)
    seen = sighting_of(ground.source, paths)
    assert seen[paths[0]] == ((folder / paths[0]).stat().st_size, (folder / paths[0]).stat().st_mtime_ns // 1000)
    second = SecondLook(ground)
    second.check(result, seen, node="b")
    assert "copy" not in caplog.text
    second.check(result, {path: (size, at - 7) for path, (size, at) in seen.items()}, node="b")
    second.check(result, {path: (size - 1, at) for path, (size, at) in seen.items()}, node="b")
    assert caplog.text.count("node b has a copy of") == 1


@pytest.mark.parametrize("change", ["size", "time"])
def test_the_one_file_of_a_copy_that_differs_is_named(ground: Ground, change: str) -> None:
    """After so many shards that none is looked at by the way."""
    result, paths, folder = result_in(ground), sorted(ground.source.files), Path(ground.source.location)
    second = SecondLook(ground)
    for _ in range(second_look.ALWAYS_COMPARED):
        second.check(result, sighting_of(ground.source, paths), node="b")
    seen = sighting_of(ground.source, paths)
    path = folder / paths[3]
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content + b" " if change == "size" else content[:-1] + b" ")
    if change == "size":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    message = f"node b has other bytes in {paths[3]} than are in {folder}; train-00000.tar is not kept"
    with pytest.raises(JobError, match=re.escape(message)):
        second.check(result, seen, node="b")
    assert "train-00000.parquet" not in ground.store.list()


def test_files_of_a_shard_are_archives_and_stored_names(tmp_path: Path, celeba: Path) -> None:
    (tmp_path / "Zo\u0065\u0308.jpg").write_bytes(b"decomposed")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(celeba.rglob("*.jpg"))[:3]:
            archive.write(path, path.name)
    source = open_source(str(tmp_path), archives={"photos.zip": ""})
    seen = sighting_of(source, [path for path in source.paths if path.endswith(".jpg")])
    assert sorted(seen) == ["Zo\u0065\u0308.jpg", "photos.zip"]
    assert seen["photos.zip"][0] == (tmp_path / "photos.zip").stat().st_size


def test_verify_names_what_a_build_calls_missing_and_the_source_has(ground: Ground, tmp_path: Path) -> None:
    name = sorted(ground.source.files)[7]
    location, src = ground.store.location, ground.source.location
    assert list(check_source(location, src=src)) == [
        f"manifest: {name} is missing, {src} has it: build again with --force"
    ]
    choices: dict[str, Any] = {"dataset": "folder", "classes": "none", "split": "100/0/0"}
    make(src, location, force=True, size="keep", **choices)
    assert list(check_source(location, src=src, deep=True)) == []
    (Path(src) / name).write_bytes(b"changed")
    assert list(check_source(location, src=src)) == []
    assert list(check_source(location, src=src, deep=True)) == [
        f"manifest: {name} has other bytes in {src} than when it was packed"
    ]
    assert set(open_source(src).files) == set(ground.source.files)
