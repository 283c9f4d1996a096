"""One build as others read it: Hugging Face datasets, timm, DuckDB, pandas, webdataset, DALI and tar."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import make
from PIL import Image

from facepack.manifest import read_build
from facepack.verification import verify

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
NAMES = ("ann", 'b "ö"\U0001f600', "no: 1")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten photos and a duplicate, in three splits and several shards."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("readers") / "build"
    for number, name in enumerate(NAMES):
        (source / name).mkdir()
        for photo in range(10):
            colour = (80 * number, 20 * photo, 60)
            Image.new("RGB", (40, 30), colour).save(source / name / f"{photo}.png")
    (source / NAMES[2] / "zz.png").write_bytes((source / NAMES[0] / "0.png").read_bytes())
    make(source, out, dataset="folder", classes="all", size="16x8", split="60/20/20", samples_per_shard=10)
    return out


@pytest.fixture(scope="module")
def packed(built: Path) -> pa.Table:
    table = pq.read_table(built / "manifest.parquet")
    return table.filter(pc.equal(table["status"], "packed"))


def expected(packed: pa.Table, split: str) -> Counter[tuple[str, int]]:
    """Key and number of the class of all images of a split."""
    rows = packed.filter(pc.equal(packed["split"], split)).select(["key", "class"]).to_pylist()
    assert rows
    return Counter((row["key"], NAMES.index(row["class"])) for row in rows)


def output_of(program: str, *arguments: str, folder: Path) -> Any:
    """The JSON that a program prints, run apart from this process, without a network."""
    offline = {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_build_is_sound(built: Path) -> None:
    assert verify(built, deep=True).problems == ()
    assert sorted(path.name for path in built.iterdir() if "-0" not in path.name) == [
        "README.md",
        "_info.json",
        "build.json",
        "manifest.parquet",
    ]


def test_hugging_face_datasets_give_images_and_labels_per_split(built: Path, packed: pa.Table, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    program = """
import json, sys, datasets
found = datasets.load_dataset(sys.argv[1])
names = found["train"].features["json"]["class_index"].names
rows = {
    split: [[row["__key__"].rpartition("/")[2], row["json"]["class_index"], row["json"]["class"], row["jpg"].size]
            for row in rows]
    for split, rows in found.items()
}
print(json.dumps([names, rows]))
"""
    names, rows = output_of(program, str(built), folder=tmp_path)
    assert names == list(NAMES)
    assert rows.keys() == set(SPLITS.values())
    for split, public in SPLITS.items():
        assert Counter((key, number) for key, number, _, _ in rows[public]) == expected(packed, split)
        assert all(name == NAMES[number] and size == [16, 8] for _, number, name, size in rows[public])


def test_info_for_timm_names_the_shards_of_each_split(built: Path, packed: pa.Table) -> None:
    info = json.loads((built / "_info.json").read_text(encoding="utf-8"))
    shards = {record.name: record.num_samples for record in read_build(str(built)).shards}
    assert info["class_names"] == list(NAMES)
    assert info["splits"]["valid"] == info["splits"]["validation"] | {"name": "valid"}
    for split in SPLITS:
        of_split = info["splits"][split]
        assert of_split["num_samples"] == expected(packed, split).total()
        assert dict(zip(of_split["filenames"], of_split["shard_lengths"], strict=True)) == {
            name: number for name, number in shards.items() if name.startswith(split)
        }


@pytest.mark.slow
def test_timm_gives_images_and_class_numbers(built: Path, packed: pa.Table, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    program = """
import json, sys, timm.data
found = {}
for split in ("train", "valid", "validation", "test"):
    dataset = timm.data.create_dataset("wds/build", root=sys.argv[1], split=split)
    found[split] = [len(dataset), [[image.size, int(target)] for image, target in dataset]]
print(json.dumps(found))
"""
    found = output_of(program, str(built), folder=tmp_path)
    assert found["valid"] == found["validation"]
    for split in SPLITS:
        number, samples = found[split]
        wanted = Counter(number for _, number in expected(packed, split).elements())
        assert (number, Counter(target for _, target in samples)) == (wanted.total(), wanted)
        assert all(size == [16, 8] for size, _ in samples)


def test_pandas_keeps_integers_though_some_rows_have_none(built: Path, packed: pa.Table) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(built / "manifest.parquet")
    types = {name: str(table[name].dtype) for name in ("position", "offset", "size", "width", "height")}
    assert types == {"position": "Int32", "offset": "Int64", "size": "Int64", "width": "Int32", "height": "Int32"}
    assert table["offset"].dropna().tolist() == packed["offset"].to_pylist()
    assert table["position"].isna().sum() == 1


def test_duckdb_keeps_integers_and_finds_what_a_duplicate_repeats(built: Path, packed: pa.Table) -> None:
    duckdb = pytest.importorskip("duckdb")
    where = f"'{built}/manifest*.parquet'"
    kinds = {row[0]: row[1] for row in duckdb.sql(f"DESCRIBE SELECT * FROM {where}").fetchall()}
    assert {name: kinds[name] for name in ("position", "offset", "width")} == {
        "position": "INTEGER",
        "offset": "BIGINT",
        "width": "INTEGER",
    }
    counts = duckdb.sql(f"SELECT class, count(*) FROM {where} WHERE status = 'packed' GROUP BY class").fetchall()
    assert dict(counts) == dict(Counter(packed["class"].to_pylist()))
    repeated = duckdb.sql(f"SELECT source, duplicate_of FROM {where} WHERE status = 'duplicate'").fetchall()
    assert repeated == [(f"{NAMES[2]}/zz.png", f"{NAMES[0]}/0.png")]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("split", SPLITS)
def test_webdataset_gives_every_sample(built: Path, packed: pa.Table, split: str) -> None:
    import webdataset

    shards = [str(built / record.name) for record in read_build(str(built)).shards if record.name.startswith(split)]
    samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8")
    found = Counter((sample["__key__"], sample["json"]["class_index"]) for sample in samples)
    assert found == expected(packed, split)


def test_dali_and_tar_give_every_sample(built: Path, packed: pa.Table) -> None:
    dali = pytest.importorskip("nvidia.dali")
    tars = sorted(built.glob("train-*.tar"))

    with dali.Pipeline(batch_size=6, num_threads=1, device_id=None) as pipeline:
        images, labels = dali.fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=["jpg", "json"],
        )
        pipeline.set_outputs(dali.fn.decoders.image(images), labels)
    pipeline.build()
    of_dali = []
    for _ in range(expected(packed, "train").total() // 6):
        images, labels = pipeline.run()
        assert all(images.at(row).shape == (8, 16, 3) for row in range(6))
        of_dali += [json.loads(bytes(labels.at(row))) for row in range(6)]
    assert Counter((row["key"], row["class_index"]) for row in of_dali) == expected(packed, "train")
    of_tar = []
    for path in tars:
        with tarfile.open(path) as tar:
            of_tar += [json.loads(tar.extractfile(name).read()) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[union-attr]
    assert of_tar == of_dali


@pytest.mark.parametrize("name", ["README.md", "_info.json"])
def test_what_opens_a_build_is_part_of_it(built: Path, name: str) -> None:
    content = (built / name).read_bytes()
    try:
        (built / name).write_bytes(content + b" ")
        assert any(problem.startswith(f"{name}: not as build.json") for problem in verify(built).problems)
        (built / name).unlink()
        assert any(problem.startswith(f"{name}: cannot be read") for problem in verify(built).problems)
    finally:
        (built / name).write_bytes(content)
    assert verify(built).problems == ()
