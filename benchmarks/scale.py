"""Measure a loader over millions of rows: time and memory to construct it, and what it reads from the disk.

    python benchmarks/scale.py --photos data/celeba/img_align_celeba

writes benchmarks/results/scale.json. Photos are built once at 64x64; the build then stands there many times over, with
keys and shards of its own each time. What is read is counted by the kernel over an epoch of a build that is larger than
the memory of a control group (version 1, as root), and of which nothing is in the page cache at first.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import figures
import pyarrow as pa
import pyarrow.compute as pc
from figures import Raw

from facepack import manifest
from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.storage import Store

NUM_ROWS, NUM_READ = 2_000_000, 1_000_000
BATCH_SIZE = 256
GROUPS = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 3 << 29
"""Memory of the control group: of the process, and of the page cache of what it reads."""
LIMITED = """
mount --bind "$0" /sys/fs/cgroup/memory  # as a container sees its own limit
echo $$ > "$0/cgroup.procs"
exec "$@"
"""


def multiplied(packed: Path, out: Path, *, copies: int, is_linked: bool) -> None:
    """The build so many times over in one folder; its shards are links to the same, or copies."""
    out.mkdir()
    record = manifest.read_build(str(packed))
    table = manifest.read_table(Store(str(packed)), manifest.MANIFEST_FILE)
    parts, shards = [], []
    for number in range(copies):
        first = number * len(record.shards)
        names = {shard.name: f"train-{place:05d}.tar" for place, shard in enumerate(record.shards, start=first)}
        for old, new in names.items():
            if is_linked:
                (out / new).hardlink_to(packed / old)
            else:
                shutil.copyfile(packed / old, out / new)
        shards += [replace(shard, name=names[shard.name]) for shard in record.shards]
        renamed = pa.chunked_array([pa.array([names.get(name) for name in table["shard"].to_pylist()], pa.string())])
        keys = pc.binary_join_element_wise(table["key"], f"{number:04d}", "")
        part = table.set_column(table.column_names.index("shard"), "shard", renamed)
        parts.append(part.set_column(table.column_names.index("key"), "key", keys))
    whole = pa.concat_tables(parts).cast(table.schema).replace_schema_metadata(table.schema.metadata)
    manifest.write_table(Store(str(out)), manifest.MANIFEST_FILE, table=whole)
    (out / manifest.BUILD_FILE).write_bytes(replace(record, shards=shards).to_json())


def constructed(place: str) -> Raw:
    """Time and memory to construct a loader, in this process."""
    import resource

    from trainer.augment import Normalize, RandomHorizontalFlip
    from trainer.loader import Loader

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    import nvidia.dali.fn  # noqa: F401

    before, begun = resident_bytes(), time.perf_counter()
    steps = (RandomHorizontalFlip(), Normalize())
    loader = Loader(place, split="train", batch_size=BATCH_SIZE, augment=steps, cache="none")
    seconds = time.perf_counter() - begun
    kept = resident_bytes() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    num_rows = len(loader.rows)
    first = next(iter(loader))
    return {
        "num_rows": num_rows,
        "seconds": seconds,
        "bytes_per_row": kept / num_rows,
        "peak_bytes_per_row": peak / num_rows,
        "first_batch_s": time.perf_counter() - begun,
        "first_batch": len(first.rows),
    }


def read(place: str) -> Raw:
    """Bytes read from the disk by an epoch."""
    from trainer.augment import Normalize
    from trainer.loader import Loader

    def from_disk() -> int:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["read_bytes"])

    for file in Path(place).iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    loader = Loader(place, split="train", batch_size=BATCH_SIZE, augment=(Normalize(),), cache="none")
    before, begun, seen = from_disk(), time.perf_counter(), 0
    for batch in loader:
        seen += len(batch.rows)
    num_bytes = sum(shard.num_bytes for shard in manifest.read_build(place).shards)
    return {
        "num_images": seen,
        "images_per_s": seen / (time.perf_counter() - begun),
        "bytes_per_image": num_bytes / seen,
        "read_per_image": (from_disk() - before) / seen,
        "limit_bytes": LIMIT_BYTES,
        "build_bytes": num_bytes,
        "window_shards": loader.state_dict()["window"],
    }


def child(verb: str, place: Path, *, group: Path | None = None) -> Raw:
    """A function of this file in a process of its own, in a control group."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", verb, "--photos", str(place)]
    if group is not None:
        command = ["unshare", "--mount", "bash", "-c", LIMITED, str(group), *command]
    result: Raw = json.loads(subprocess.run(command, capture_output=True, check=True).stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure, write, and print; or be a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--child", choices=["constructed", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="where the builds are made, on a disk; by default a temporary folder")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({"constructed": constructed, "read": read}[arguments.child](str(arguments.photos))))
        return
    results = figures.about(num_cores=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        folder = Path(temporary)
        configuration = Configuration.of("folder", classes="none", split="100/0/0", size=64)
        build(configuration, place=Place(str(arguments.photos), str(folder / "packed"), 0))
        num_packed = manifest.total(manifest.read_build(str(folder / "packed")).counts)
        multiplied(folder / "packed", folder / "many", copies=-(-NUM_ROWS // num_packed), is_linked=True)
        results["construct"] = [child("constructed", folder / "many") for _ in range(3)]
        multiplied(folder / "packed", folder / "copies", copies=-(-NUM_READ // num_packed), is_linked=False)
        group = GROUPS / "facepack-scale"
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text(f"{LIMIT_BYTES}")
            results["disk"] = [child("read", folder / "copies", group=group) for _ in range(2)]
        finally:
            group.rmdir()
    text = json.dumps(results, indent=1)
    (Path(__file__).parent / "results" / "scale.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
