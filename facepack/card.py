"""Card: the files by which Hugging Face datasets and timm open a build, and its README.md for people."""

import json
from collections.abc import Iterator

import pyarrow as pa

from facepack import image, manifest
from facepack.description import SPLITS, dataset_names
from facepack.manifest import Build, Status

README_FILE = "README.md"
INFO_FILE = "_info.json"
NAMES = (README_FILE, INFO_FILE)
"""The files of a build that other readers open it by."""

_PUBLIC_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""What others call our splits."""
_OF_TAR = ("key", manifest.FACE, "source", "class")


def card_files(build: Build, schema: pa.Schema) -> dict[str, bytes]:
    """The content of both files by name, from build.json and the schema of the manifest alone."""
    return {README_FILE: _readme(build, schema).encode(), INFO_FILE: _info(build)}


def _info(build: Build) -> bytes:
    """What timm's reader wants to know of each split, under our name of it and the public one."""
    splits = {}
    for split in _splits(build):
        shards = [shard for shard in build.shards if shard.name.startswith(f"{split}-")]
        for name in dict.fromkeys((split, _PUBLIC_SPLITS[split])):
            splits[name] = {
                "name": name,
                "num_samples": sum(shard.num_samples for shard in shards),
                "filenames": [shard.name for shard in shards],
                "shard_lengths": [shard.num_samples for shard in shards],
                "alt_label": "class_index" if build.class_names else "",
            }
    info = {"num_classes": len(build.class_names), "class_names": build.class_names, "splits": splits}
    return (json.dumps(info, indent=1, ensure_ascii=False) + "\n").encode()


def _splits(build: Build) -> list[str]:
    """The splits that have a shard."""
    return [split for split in SPLITS if any(shard.name.startswith(f"{split}-") for shard in build.shards)]


def _readme(build: Build, schema: pa.Schema) -> str:
    """The card: front matter for Hugging Face datasets, then a page for people."""
    is_known = build.configuration.description or build.dataset in dataset_names()
    published = build.configuration.described if is_known else None
    title = published.title if published else build.dataset
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in _splits(build):
        lines += [f"  - split: {_PUBLIC_SPLITS[split]}", f"    path: {split}-*.tar"]
    if build.configuration.encoding != "raw":
        lines += ["dataset_info:", "- config_name: default", "  features:", *_features(build, schema)]
    lines += ["---", f"# {title}, as packed by facepack {build.versions.get('facepack', '')}", "", *_counts(build), ""]
    if published:
        lines += [f"Terms of the photos: {published.terms}. {published.homepage}".strip(), ""]
    text = "\n".join([*lines, *_HOW_TO_READ, ""])
    return text.replace("\nsource, packed", "\nface, packed") if manifest.FACE in schema.names else text


def _counts(build: Build) -> Iterator[str]:
    """A table of the packed images per split."""
    yield "| split | images |"
    yield "|---|---|"
    for split in _splits(build):
        yield f"| {split} | {manifest.total(build.counts, split=split, statuses=[Status.PACKED]):,} |"


_HOW_TO_READ = (
    "Every sample is an image and a `.json` with its labels, in shuffled order; `manifest.parquet` has one row per",
    "source, packed or not, and `build.json` says how the build was made. It opens as it is:",
    "",
    "    datasets.load_dataset(BUILD)                        # Hugging Face datasets",
    "    timm.data.create_dataset('wds/build', root=BUILD, split='train')",
    "    duckdb.sql(\"SELECT * FROM 'BUILD/manifest.parquet' WHERE status = 'packed'\")",
    "    facepack.open_build(BUILD)",
)


def _features(build: Build, schema: pa.Schema) -> Iterator[str]:
    """The columns that Hugging Face datasets give, so that a label that some rows lack is a null of its type."""
    yield f"  - name: {image.SUFFIXES[build.configuration.encoding]}"
    yield "    dtype: image"
    yield "  - name: json"
    yield "    struct:"
    for name in (*_OF_TAR, *manifest.label_columns(schema)):
        if (name == "class" and not build.class_names) or (name == manifest.FACE and name not in schema.names):
            continue
        yield f"    - name: {_quoted(name)}"
        yield f"      dtype: {_dtype(schema.field(name).type)}"
        if name == "class":
            yield "    - name: class_index"
            yield "      dtype:"
            yield "        class_label:"
            yield "          names:"
            yield from (f"            '{number}': {_quoted(text)}" for number, text in enumerate(build.class_names))
    for name in ("__key__", "__url__"):
        yield f"  - name: {name}"
        yield "    dtype: string"


def _dtype(kind: pa.DataType) -> str:
    """A type as Hugging Face datasets write it."""
    return {"float": "float32", "double": "float64"}.get(f"{kind}", f"{kind}")


def _quoted(text: str) -> str:
    """A text as a double-quoted scalar of YAML."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)
