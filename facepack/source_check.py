"""Source check: what a build says of its photos, against the source that it was made from."""

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from facepack import manifest
from facepack.errors import JobError
from facepack.manifest import MANIFEST_FILE, Status
from facepack.prepare import source_of
from facepack.source import Source
from facepack.storage import Store


def check_source(location: str, *, src: str, deep: bool = False) -> Iterator[str]:
    """Photos that a build calls missing or unreadable and the source has; with `deep`, also those of other bytes.

    Raises `JobError` where there is no complete build, or no source.
    """
    build = manifest.read_build(location)
    source = source_of(build.configuration.described, src)
    table = manifest.read_table(Store(location), MANIFEST_FILE).select(["source", "status", "source_sha256"])
    absent = pc.field("status").isin([Status.MISSING, Status.UNREADABLE]) & pc.field("source_sha256").is_null()
    yield from _readable(table.filter(absent), source)
    if deep:
        yield from _changed(table.filter(pc.field("source_sha256").is_valid()), source)


def _readable(table: pa.Table, source: Source) -> Iterator[str]:
    """Rows without content whose photo can be read."""
    is_there = pa.array(source.has(table["source"]))
    for row in table.filter(is_there).to_pylist():
        try:
            source.read(row["source"])
        except (OSError, JobError):
            continue
        yield f"manifest: {row['source']} is {row['status']}, {source.location} has it: build again with --force"


def _changed(table: pa.Table, source: Source) -> Iterator[str]:
    """Rows whose photo is gone, or has other bytes than when it was packed."""
    for batch in table.to_batches():
        for path, digest in zip(batch["source"].to_pylist(), batch["source_sha256"].to_pylist(), strict=True):
            try:
                is_same = hashlib.sha256(source.read(path)).hexdigest() == digest
            except (OSError, JobError):
                yield f"manifest: {path} is not in {source.location} any more"
            else:
                if not is_same:
                    yield f"manifest: {path} has other bytes in {source.location} than when it was packed"
