"""An opened build gives what was packed: rows, images and splits, from a folder or an object store."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import boto3
import cv2
import numpy as np
import pyarrow as pa
import pytest
from conftest import make, use_s3

import facepack
from facepack import manifest
from facepack.configuration import Configuration, Options
from facepack.errors import JobError, UsageError
from facepack.reader import OpenBuild, open_build
from facepack.storage import Store


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenBuild:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("build") / "build"
    shutil.copytree(celeba, source, dirs_exist_ok=True)
    (source / "img_align_celeba" / "000003.jpg").write_text("no image")
    make(source, out, classes="", split="80/10/10")
    return open_build(out)


def test_rows_are_those_of_the_manifest(build: OpenBuild) -> None:
    table = manifest.read_table(Store(build.location), manifest.MANIFEST_FILE)
    assert build.table.equals(table)
    assert len(build) == len(table) == 300
    assert len(build.packed) == 299
    assert build.pandas()["source"].tolist() == table["source"].to_pylist()
    assert build.info == manifest.read_build(build.location)


def test_image_is_the_packed_one_in_rgb(build: OpenBuild) -> None:
    packed = build.packed
    for row in (0, 7, -1):
        content = packed.bytes(row)
        assert hashlib.sha256(content).hexdigest() == packed.table["sha256"][row].as_py()
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert expected is not None
        image = packed.image(row)
        assert image.shape == (32, 32, 3)
        assert image.dtype == np.uint8
        assert np.array_equal(image, expected[:, :, ::-1])


def test_raw_image_is_the_stored_array(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", encoding="raw", limit=20, classes="")
    build = open_build(tmp_path / "build").packed
    assert np.array_equal(build.image(3), np.load(tmp_path_file(tmp_path, build.bytes(3))))


def tmp_path_file(folder: Path, content: bytes) -> Path:
    (folder / "image.npy").write_bytes(content)
    return folder / "image.npy"


def test_split_is_a_view_with_the_same_methods(build: OpenBuild) -> None:
    views = {name: build.split(name) for name in ("train", "valid", "test")}
    assert sum(len(view) for view in views.values()) == 299
    for name, view in views.items():
        assert set(view.table["split"].to_pylist()) == {name}
        assert build.table.take(pa.array(view.rows)).equals(view.table)
        assert np.array_equal(view.image(1), build.image(int(view.rows[1])))
    with pytest.raises(UsageError, match="no split 'val'; there are train, valid, test"):
        build.split("val")


def test_row_without_an_image_is_refused_with_its_reason(build: OpenBuild) -> None:
    (row,) = set(range(300)) - set(build.packed.rows.tolist())
    with pytest.raises(UsageError, match=r"000003\.jpg\) is not packed: not_an_image, text"):
        build.image(row)
    for outside in (300, -301):
        with pytest.raises(IndexError, match=f"row {outside} of 300"):
            build.image(outside)


def test_damaged_build_is_one_clear_error(build: OpenBuild, tmp_path: Path) -> None:
    copy = tmp_path / "build"
    shutil.copytree(build.location, copy)
    with (copy / "train-00000.tar").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(JobError, match=r"train-00000\.tar: ends early; facepack verify names what is wrong"):
        open_build(copy).split("train").image(0)
    (copy / "train-00000.tar").unlink()
    with pytest.raises(JobError, match=r"train-00000\.tar: cannot be read; facepack verify"):
        open_build(copy).split("train").image(0)
    (copy / "manifest.parquet").unlink()
    with pytest.raises(JobError, match=r"no manifest\.parquet"):
        len(open_build(copy))
    with pytest.raises(JobError, match=r"no build\.json"):
        open_build(tmp_path / "nothing")


def test_webdataset_has_the_row_of_the_manifest_by_key(build: OpenBuild) -> None:
    samples = list(build.webdataset("train").decode("rgb8"))
    train = build.split("train")
    assert [sample["__key__"] for sample in samples] == train.table["key"].to_pylist()
    for row in (0, 5):
        assert np.array_equal(samples[row]["jpg"], train.image(row)) or np.allclose(
            samples[row]["jpg"].astype(int), train.image(row).astype(int), atol=3
        )
        assert samples[row]["json"]["Smiling"] == train.table["Smiling"][row].as_py()
        assert samples[row]["json"]["source"] == train.table["source"][row].as_py()


def test_missing_package_is_one_clear_line(build: OpenBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for use in (build.pandas, lambda: build.webdataset("train")):
        with pytest.raises(UsageError, match=r"which is not installed: pip install (pandas|webdataset)"):
            use()


def test_build_on_an_object_store_is_read_alike(
    build: OpenBuild, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3_server)
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="reader", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for path in Path(build.location).iterdir():
        client.put_object(Bucket="reader", Key=f"build/{path.name}", Body=path.read_bytes())
    remote = open_build("s3://reader/build")
    assert remote.is_remote
    assert remote.table.equals(build.table)
    assert np.array_equal(remote.split("test").image(0), build.split("test").image(0))
    keys = [sample["__key__"] for sample in remote.webdataset("train")]
    assert keys == build.split("train").table["key"].to_pylist()
    assert remote.verify().is_sound


def test_options_of_the_library_are_those_of_a_configuration() -> None:
    fields = set(get_type_hints(Configuration)) - {"dataset", "description", "landmarks", "leave_out", "mmod", "people"}
    assert set(Options.__annotations__) == fields


def test_build_takes_options_or_a_configuration(celeba: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"classes": "rarest4", "size": "32", "limit": 40}
    first = facepack.build("celeba", src=celeba, out=tmp_path / "first", workers=0, **options)
    configuration = Configuration.of("celeba", **options)
    second = facepack.build(configuration, src=celeba, out=tmp_path / "second", workers=0)
    assert first.info == second.info
    assert first.location == str(tmp_path / "first")
    with pytest.raises(TypeError, match="takes no options, got size"):
        facepack.build(configuration, src=celeba, out=tmp_path / "third", size="64")
    with pytest.raises(UsageError, match="unknown dataset 'celebs': did you mean celeba"):
        facepack.build("celebs")
