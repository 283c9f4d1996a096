"""Shards are the tars that tarfile writes, and every reader of the field reads them."""

import io
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import make
from hypothesis import given
from hypothesis import strategies as st

from facepack import image, manifest
from facepack.manifest import Build, Status
from facepack.shard import TarWriter, label_texts
from facepack.storage import Store


@pytest.fixture(scope="module")
def built(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "build"
    make(celeba, out)
    return out


@pytest.fixture(scope="module")
def table(built: Path) -> pa.Table:
    return manifest.read_table(Store(str(built)), manifest.MANIFEST_FILE)


@pytest.fixture(scope="module")
def build_json(built: Path) -> Build:
    return manifest.read_build(str(built))


contents = st.lists(st.tuples(st.binary(max_size=1500), st.binary(max_size=700)), max_size=20)


@given(contents)
def test_tar_is_byte_for_byte_that_of_tarfile(pairs: list[tuple[bytes, bytes]]) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(ours)
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, pair in enumerate(pairs):
            members = [(f"{number * 7919:016x}.{kind}", part) for kind, part in zip(("jpg", "json"), pair, strict=True)]
            offsets = writer.add_pair(members[0], members[1])
            for (name, content), offset in zip(members, offsets, strict=True):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                assert ours.getvalue()[offset : offset + len(content)] == content
    num_bytes, _ = writer.close()
    assert ours.getvalue() == theirs.getvalue()
    assert num_bytes == len(theirs.getvalue())


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)),
            st.one_of(st.none(), st.integers(0, 1)),
            st.one_of(st.none(), st.floats(0, 1e6, width=32)),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_labels_in_json_are_those_of_the_table(rows: list[tuple[str | None, int | None, float | None]]) -> None:
    names, attributes, ages = zip(*rows, strict=True)
    table = pa.table(
        {
            "key": [f"{row:016x}" for row in range(len(rows))],
            "source": [f'a "quoted" näme/{row}.jpg' for row in range(len(rows))],
            "class": ["Bald"] * len(rows),
            'odd "label"': pa.array(names, pa.string()),
            "Bald": pa.array(attributes, pa.int8()),
            "age": pa.array(ages, pa.float32()),
        }
    )
    for row, text in zip(table.to_pylist(), label_texts(table, ("Male", "Bald")), strict=True):
        expected = {name: value for name, value in row.items() if value is not None} | {"class_index": 1}
        read = json.loads(text)
        assert read.keys() == expected.keys()
        assert np.float32(read.pop("age", 0)) == np.float32(expected.pop("age", 0))
        assert read == expected


def test_tar_reads_every_sample_as_two_adjacent_members_without_time_or_owner(
    built: Path, table: pa.Table, build_json: Build
) -> None:
    packed = table.filter(pc.equal(table["status"], Status.PACKED))
    names = []
    for shard in build_json.shards:
        with tarfile.open(built / shard.name) as tar:
            members = tar.getmembers()
        assert all((m.mtime, m.uid, m.gid, m.uname, m.gname) == (0, 0, 0, "", "") for m in members)
        names += [member.name for member in members]
    assert names == [f"{key}.{kind}" for key in packed["key"].to_pylist() for kind in ("jpg", "json")]


def test_webdataset_reads_every_sample_with_its_labels(built: Path, table: pa.Table, build_json: Build) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        urls = [str(built / shard.name) for shard in build_json.shards]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    rows = {row["key"]: row for row in table.to_pylist() if row["status"] == Status.PACKED}
    assert [sample["__key__"] for sample in samples] == list(rows)
    for sample in samples:
        row, labels = rows[sample["__key__"]], sample["json"]
        assert (labels["class"], labels["source"]) == (row["class"], row["source"])
        assert labels["class_index"] == build_json.class_names.index(row["class"])
        assert labels["Bald"] == row["Bald"]


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_dali_reads_every_sample_by_the_index(celeba: Path, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "build"
    made = make(celeba, out, encoding=encoding).build
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nvidia.dali import fn, pipeline_def, types

        extension = {"jpeg": "jpg", "raw": "npy"}[encoding]
        paths = [str(out / shard.name) for shard in made.shards]

        @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
        def pipeline() -> Any:
            content, labels = fn.readers.webdataset(
                paths=paths,
                index_paths=[path.replace(".tar", ".idx") for path in paths],
                ext=[extension, "json"],
                missing_component_behavior="error",
            )
            if encoding == "raw":
                return content, labels
            return fn.decoders.image(content, device="cpu", output_type=types.RGB), labels

        pipe = pipeline()
        pipe.build()
        rows = manifest.read_table(Store(str(out)), manifest.MANIFEST_FILE)
        packed = rows.filter(pc.equal(rows["status"], Status.PACKED)).to_pylist()
        for row in packed:
            pixels, labels = (output.as_array()[0] for output in pipe.run())
            assert json.loads(bytes(labels))["key"] == row["key"]
            if encoding == "raw":
                assert image.decode_raw(bytes(pixels)).shape == (32, 32, 3)
            else:
                assert pixels.shape == (32, 32, 3)


def test_index_names_offset_size_and_name_of_both_members(built: Path, build_json: Build) -> None:
    for shard in build_json.shards:
        lines = (built / shard.name.replace(".tar", ".idx")).read_text().splitlines()
        assert lines[0] == f"v1.2 {shard.num_samples}"
        assert len(lines) == shard.num_samples + 1
        tar = (built / shard.name).read_bytes()
        for line in lines[1:]:
            kind, offset, size, name, json_kind, json_offset, json_size, json_name = line.split(" ")
            assert (kind, json_kind) == ("jpg", "json")
            image.decode(tar[int(offset) : int(offset) + int(size)])
            labels = json.loads(tar[int(json_offset) : int(json_offset) + int(json_size)])
            assert name == f"{labels['key']}.jpg"
            assert json_name == f"{labels['key']}.json"


def test_manifest_offsets_lead_to_the_images(built: Path, table: pa.Table) -> None:
    store = Store(str(built))
    for row in table.filter(pc.equal(table["status"], Status.PACKED)).slice(0, 50).to_pylist():
        content = store.read_range(row["shard"], start=row["offset"], length=row["size"])
        assert image.decode(content).shape == (row["height"], row["width"], 3)
