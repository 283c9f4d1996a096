"""Fingerprint: a checksum of all that a plan is made from, by which a plan that lies in a place is known to hold."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from facepack import manifest
from facepack.configuration import Configuration
from facepack.hashing import HashingFile, sha256_of
from facepack.leave_out import LeaveOut
from facepack.open_rows import OwnTable
from facepack.own_description import recorded
from facepack.source import Source


def fingerprint_of(configuration: Configuration, source: Source, *, leave_out: LeaveOut, own: OwnTable) -> str:
    """sha256 of configuration, versions, lists and tables of a user's own, and of what the source holds.

    Of its files these count: the names of all; size and times of those that are no images by their names, and where
    repeated photos are looked for, of all.
    """
    facts = {
        "configuration": configuration.as_record(),
        "description": recorded(configuration.described),
        "versions": manifest.versions(),
        "leave_out": [leave_out.file, leave_out.digest],
        "own": [asdict(own), sha256_of(Path(own.file)) if own.file and Path(own.file).is_file() else ""],
        "source": source.location,
        "passed": {why: list(paths) for why, paths in source.passed.items()},
    }
    hashed = HashingFile()
    hashed.write(json.dumps(facts, sort_keys=True, default=str).encode())
    with pa.ipc.new_stream(pa.PythonFile(hashed, "w"), pa.schema([("path", pa.string())])) as stream:
        stream.write_table(pa.table({"path": source.names.array}))
    archives = {member.archive for member in source.members.values()}
    opened = sorted({*archives, *(source.stored(path) for path in source.others if path in source.files)})
    hashed.write(source.store.stats(opened).tobytes())
    if configuration.described.duplicates or configuration.near_duplicates != "keep":
        loose = (source.stored(path) for path in source.files)
        hashed.write((source.store.stats(loose) if source.members else source.stats).tobytes())
    return hashed.hexdigest()
