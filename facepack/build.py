"""Building: index, label and plan a dataset, then pack its shards in parallel and write what came of it."""

import hashlib
import logging
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from rich.table import Table

from facepack import dataset, manifest, terminal
from facepack.dataset import SPLITS, Description
from facepack.errors import JobError, UsageError
from facepack.index import Index, index
from facepack.label import label
from facepack.lock import LOCK_FILE, held
from facepack.manifest import Build, Configuration, Moments, Status
from facepack.plan import Plan, plan
from facepack.shard import ShardResult, ShardTask, pack
from facepack.storage import Source, Store, open_source

RAY_PAYS_AFTER_S = 20.0
"""Work for one process that is done sooner on two cores, although Ray takes some eight seconds to start and stop."""
_SHARD_SUFFIXES = (".tar", ".idx", ".parquet")
_PRIVATE = {"include_dashboard": False, "object_store_memory": 256 << 20}


@dataclass(frozen=True)
class Place:
    """Where a build reads, writes and runs; nothing here changes a byte."""

    src: str
    out: str
    workers: int | None = None
    ray_address: str = ""
    force: bool = False


@dataclass(frozen=True)
class Prepared:
    """A dataset indexed, labelled and planned: all that is known before an image is read."""

    description: Description
    source: Source
    index: Index
    plan: Plan
    configuration: Configuration


@dataclass(frozen=True)
class Outcome:
    """A complete build, and how it went: images of this run alone, seconds of packing and of everything else."""

    build: Build
    location: str
    num_images: int = 0
    packing_s: float = 0.0
    other_s: float = 0.0
    num_kept_shards: int = 0


def prepare(configuration: Configuration, *, src: str) -> Prepared:
    """Index, label and plan; raises `UsageError` or `JobError` before anything is written."""
    if configuration.align != "none":
        raise UsageError(
            f"--align {configuration.align}: not there yet; this version packs whole images (--align none)"
        )
    description = dataset.load(configuration.dataset)
    source = open_source(src, archives=description.archives)
    indexed = index(description, source, images=configuration.images)
    labelled = label(description, indexed.table, configuration=configuration)
    planned = plan(description, labelled, source=source, configuration=configuration)
    return Prepared(description, source, indexed, planned, configuration)


def build(configuration: Configuration, *, place: Place) -> Outcome:
    """Make a build, or finish one that was interrupted.

    Shards that are finished stay. Raises `JobError` where the place holds another build, another build is at work, a
    class has no image that can be packed, or something cannot be written.
    """
    begun = time.time()
    prepared = prepare(configuration, src=place.src)
    _warn(prepared)
    _check_classes(prepared)
    store = Store(place.out)
    _check_place(store, configuration)
    store.make()
    with held(store) as lock:
        _check_place(store, configuration)
        store.delete_temporary()
        tasks = _tasks(prepared, store)
        results = _finished(store, tasks, source=prepared.source, force=place.force)
        todo = [task for task in tasks if task.name not in results]
        if not todo and _is_complete(store, tasks):
            return Outcome(manifest.read_build(place.out), place.out, num_kept_shards=len(results))
        store.delete(manifest.BUILD_FILE)
        num_kept, num_images = len(results), sum(len(task.table) for task in todo)
        with terminal.ImageProgress(num_images) as progress:
            for result in _packed(todo, place=place, progress=progress):
                results[result.record.name.removesuffix(".tar")] = result
            packing_s = progress.seconds
        lock.check()
        store.delete_temporary()  # a worker that was killed, and replaced, left its file behind
        _delete_strays(store, tasks)
        made = _finish(prepared, store, [results[task.name] for task in tasks])
    return Outcome(made, place.out, num_images, packing_s, time.time() - begun - packing_s, num_kept)


# Before packing


def _warn(prepared: Prepared) -> None:
    """Say what is not as a user may think: rows that cannot be read, images left out, people in two splits."""
    for text in prepared.plan.notes:
        terminal.note(text)
    for why, number in (prepared.index.left_out or {}).items():
        terminal.note(f"{number:,} images left out: {why}")
    if unparsed := prepared.index.unparsed:
        terminal.warn(f"{len(unparsed):,} rows cannot be read (all are listed in {manifest.BUILD_FILE}):")
        for line in unparsed[:3]:
            terminal.note(f"  {line}")
    if number := prepared.plan.num_leaking:
        terminal.warn(f"{number:,} people are in more than one split; --split identity keeps them apart")


def _check_classes(prepared: Prepared) -> None:
    """A class of which no image is there can never be learnt: say so before the work."""
    table = prepared.plan.table
    present = set(table["class"].filter(pc.is_null(table["status"])).unique().to_pylist())
    for name in prepared.plan.class_names:
        if name not in present:
            raise JobError(
                f"class {name}: none of its images is in {prepared.source.store.location}; leave it out of --classes"
            )


def _check_place(store: Store, configuration: Configuration) -> None:
    """Refuse a place that holds another build, or something else."""
    names = store.list()
    recorded = _recorded(store, names)
    if recorded is None:
        own = (LOCK_FILE, manifest.MANIFEST_FILE, *(f"{split}-" for split in SPLITS))
        if strangers := [name for name in names if not name.startswith(own)]:
            raise JobError(f"{store.location}: holds other files, such as {strangers[0]}; choose another --out")
        return
    there, versions = recorded
    differences = configuration.differences(there)
    differences += [
        f"{name} {versions.get(name)} there, {here} here"
        for name, here in manifest.versions().items()
        if versions.get(name) != here
    ]
    if differences:
        raise JobError(f"{store.location}: holds another build ({'; '.join(differences)}); choose another --out")


def _recorded(store: Store, names: list[str]) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Configuration and versions of what is in a place already: of the whole build, or of its first finished shard."""
    if manifest.BUILD_FILE in names:
        made = manifest.read_build(store.location)
        return made.configuration, made.versions
    for name in names:
        if name.endswith(".parquet") and name.startswith(SPLITS):
            kept = _kept_metadata(store, name)
            if "configuration" in kept:
                return kept["configuration"], kept["versions"]
    return None


def _kept_metadata(store: Store, name: str) -> dict[str, Any]:
    try:
        with store.open(name) as file:
            return manifest.metadata_of(pq.read_schema(file))
    except (FileNotFoundError, pa.ArrowInvalid, ValueError):
        return {}


def _tasks(prepared: Prepared, store: Store) -> list[ShardTask]:
    versions = manifest.versions()
    tasks = []
    for shard in prepared.plan.shards:
        # A copy: a slice would take the whole table along when it is sent to a worker.
        rows = prepared.plan.table.take(pa.array(range(shard.start, shard.stop)))
        source = prepared.source.subset(rows["source"].to_pylist())
        class_names = prepared.plan.class_names
        tasks.append(ShardTask(shard.name, rows, source, store, prepared.configuration, class_names, versions))
    return tasks


# What is finished already


def _finished(store: Store, tasks: list[ShardTask], *, source: Source, force: bool) -> dict[str, ShardResult]:
    """Results of the shards that need not be made again."""
    names = set(store.list())
    results = {}
    for task in tasks:
        if f"{task.name}.parquet" not in names:
            continue
        try:
            result = ShardResult.from_metadata(_kept_metadata(store, f"{task.name}.parquet"))
        except (KeyError, TypeError):
            continue
        if (
            result.digest == task.digest
            and _is_whole(store, result, names)
            and not _try_again(store, result, source, force)
        ):
            results[task.name] = result
    return results


def _is_whole(store: Store, result: ShardResult, names: set[str]) -> bool:
    """The files of a shard are there in the recorded size."""
    name = result.record.name
    if not result.record.num_samples:
        return name not in names
    has_index = f"{name.removesuffix('.tar')}.idx" in names
    return has_index and name in names and store.size(name) == result.record.num_bytes


def _try_again(store: Store, result: ShardResult, source: Source, force: bool) -> bool:
    """True where a shard has rejects, and trying again is asked for or the source of one has changed."""
    if set(result.statuses) <= {Status.PACKED}:
        return False
    return force or any(_has_changed(row, source) for row in _rejects(store, result))


def _rejects(store: Store, result: ShardResult) -> list[dict[str, Any]]:
    table = manifest.read_table(store, result.record.name.replace(".tar", ".parquet"))
    rows: list[dict[str, Any]] = table.filter(pc.field("status") != Status.PACKED).to_pylist()
    return rows


def _has_changed(row: dict[str, Any], source: Source) -> bool:
    try:
        return bool(hashlib.sha256(source.read(row["source"])).hexdigest() != row["source_sha256"])
    except OSError:
        return bool(row["source_sha256"])


def _is_complete(store: Store, tasks: list[ShardTask]) -> bool:
    names = set(store.list())
    return {manifest.BUILD_FILE, manifest.MANIFEST_FILE} <= names and not _strays(names, tasks)


def _strays(names: set[str], tasks: list[ShardTask]) -> list[str]:
    """Shard files that the plan does not have, as after a change of the source."""
    planned = {task.name + suffix for task in tasks for suffix in _SHARD_SUFFIXES}
    return sorted(name for name in names - planned if name.startswith(SPLITS) and name.endswith(_SHARD_SUFFIXES))


def _delete_strays(store: Store, tasks: list[ShardTask]) -> None:
    for name in _strays(set(store.list()), tasks):
        store.delete(name)


# Packing


def _packed(tasks: list[ShardTask], *, place: Place, progress: terminal.ImageProgress) -> Iterator[ShardResult]:
    """Pack shards, in this process or on Ray; results come in no particular order.

    Where the number of workers is left to us, the first shard is packed here and shows whether starting Ray pays.
    """
    if not tasks:
        return
    with terminal.silenced_libraries():
        workers = place.workers
        if workers is None and not place.ray_address:
            begun = time.time()
            yield pack(tasks[0], progress=progress.advance)
            tasks = tasks[1:]
            workers = 0 if (time.time() - begun) * len(tasks) < RAY_PAYS_AFTER_S else num_cores()
        if workers == 0:
            for task in tasks:
                yield pack(task, progress=progress.advance)
        elif tasks:
            yield from _packed_on_ray(tasks, workers=workers, address=place.ray_address, progress=progress)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Packer:
    """A Ray actor that packs shards, one a call."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Take one pickled task, give its pickled result, or the error that ends the build."""
        begun = time.time()
        task = pickle.loads(batch["task"][0])  # noqa: S301 - made by this build
        try:
            outcome: Any = pack(task)
        except (OSError, JobError) as error:
            outcome = error
        return {"outcome": [pickle.dumps((begun, outcome))]}


def _packed_on_ray(
    tasks: list[ShardTask], *, workers: int | None, address: str, progress: terminal.ImageProgress
) -> Iterator[ShardResult]:
    """One row per shard through a pool of actors."""
    with _ray(workers, address) as ray:
        # Long shards first, so that no worker is left with one at the end.
        ordered = sorted(tasks, key=lambda task: -len(task.table))
        rows = [{"task": pickle.dumps(task)} for task in ordered]
        size = min(workers or max(int(ray.cluster_resources().get("CPU", 1)), 1), len(tasks))
        outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Packer,
            batch_size=1,
            num_cpus=1,
            # Enough in hand that no worker waits for the driver, which looks up only ten times a second.
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=4),
        )
        for batch in outcomes.iter_batches(batch_size=None, prefetch_batches=0):
            for pickled in batch["outcome"]:
                begun, outcome = pickle.loads(pickled)  # noqa: S301 - made by our own workers
                progress.begin(begun)
                if isinstance(outcome, Exception):
                    raise outcome
                num_images = sum(outcome.statuses.values())
                progress.advance(num_images, num_images - outcome.statuses.get(Status.PACKED, 0))
                yield outcome


@contextmanager
def _ray(workers: int | None, address: str) -> Iterator[Any]:
    """A private Ray on this machine, the cluster at an address, or the Ray that this process has; quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    ours = not ray.is_initialized()
    if ours:
        where = {"address": address} if address else {"address": "local", "num_cpus": workers, **_PRIVATE}
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        if ours:
            ray.shutdown()


# After packing


def _finish(prepared: Prepared, store: Store, results: list[ShardResult]) -> Build:
    """Write the manifest, then build.json, which makes the build complete."""
    planned, configuration = prepared.plan, prepared.configuration
    table = _whole_table(prepared, store, results)
    counts = manifest.count(table)
    for name in planned.class_names:
        of_class = {split: {name: classes.get(name, {})} for split, classes in counts.items()}
        if not manifest.total(of_class, [Status.PACKED]):
            raise JobError(f"class {name}: none of its images can be packed; leave it out of --classes")
    if not manifest.total(counts, [Status.PACKED]):
        raise JobError(f"{prepared.source.store.location}: none of {len(table):,} images can be packed")
    metadata = {
        "dataset": configuration.dataset,
        "configuration": asdict(configuration),
        "class_names": planned.class_names,
    }
    labels = pa.schema([table.schema.field(name) for name in manifest.label_columns(table)])
    manifest.write_table(store, manifest.MANIFEST_FILE, table.cast(manifest.schema(labels, metadata)))
    train = [result.moments for result in results if result.record.name.startswith("train")]
    mean_std = sum(train, Moments()).mean_std()
    made = Build(
        dataset=configuration.dataset,
        configuration=asdict(configuration),
        digest=configuration.digest,
        versions=manifest.versions(),
        class_names=list(planned.class_names),
        counts=counts,
        mean=mean_std and mean_std[0],
        std=mean_std and mean_std[1],
        shards=[result.record for result in results if result.record.num_samples],
        unparsed=list(prepared.index.unparsed),
        left_out=prepared.index.left_out or {},
    )
    store.write(manifest.BUILD_FILE, made.to_json())
    return made


def _whole_table(prepared: Prepared, store: Store, results: list[ShardResult]) -> pa.Table:
    """The tables of all shards, then the rows that are in none."""
    parts = [manifest.read_table(store, result.record.name.replace(".tar", ".parquet")) for result in results]
    planned = prepared.plan.table
    rest = planned.slice(sum(len(part) for part in parts))
    labels = pa.schema([planned.schema.field(name) for name in manifest.label_columns(planned)])
    columns = {
        field.name: rest[field.name] if field.name in rest.column_names else pa.nulls(len(rest), field.type)
        for field in manifest.schema(labels)
    }
    unpacked = pa.table(columns, schema=manifest.schema(labels))
    return pa.concat_tables([part.replace_schema_metadata() for part in parts] + [unpacked])


# The command


def default_source(name: str) -> str:
    """Where the files of a dataset are looked for: $FACEPACK_DATA/<dataset>, else data/<dataset>."""
    return str(Path(os.environ.get("FACEPACK_DATA", "data")) / name)


def default_out(configuration: Configuration) -> str:
    """Where a build goes: builds/<dataset>[-<classes>]."""
    chosen = (configuration.classes or configuration.age_bins).replace(",", "-").replace(":", "-")
    return f"builds/{configuration.dataset}" + (f"-{chosen}" if chosen else "")


def summary(outcome: Outcome) -> None:
    """Print what a build holds: packed images per class and split, rejects by reason, bytes, images/s."""
    counts = outcome.build.counts
    splits = [split for split in SPLITS if split in counts]
    table = Table("class", *splits, "packed", "rejected", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    names = outcome.build.class_names or [""]
    for name in names:
        of_class = {str(split): {name: counts[split].get(name, {})} for split in splits}
        packed = [manifest.total({split: of_class[split]}, [Status.PACKED]) for split in splits]
        rejected = manifest.total(of_class) - sum(packed)
        table.add_row(
            name or "(no classes)", *(f"{number:,}" for number in packed), f"{sum(packed):,}", f"{rejected:,}"
        )
    if len(names) > 1:
        packed = [manifest.total({split: counts[split]}, [Status.PACKED]) for split in splits]
        whole = manifest.total(counts)
        table.add_row(
            "all", *(f"{number:,}" for number in packed), f"{sum(packed):,}", f"{whole - sum(packed):,}", style="bold"
        )
    terminal.out.print(table)
    by_status = {status: manifest.total(counts, [status]) for status in Status}
    rejects = [f"{number:,} {status}" for status, number in by_status.items() if number and status != Status.PACKED]
    terminal.out.print(f"rejected: {', '.join(rejects) or 'none'}")
    num_bytes = sum(shard.num_bytes for shard in outcome.build.shards)
    terminal.out.print(
        f"{len(outcome.build.shards):,} shards, {num_bytes / 1e6:,.1f} MB in {outcome.location}", soft_wrap=True
    )
    if outcome.num_images:
        kept = f"; shards finished before: {outcome.num_kept_shards:,}" if outcome.num_kept_shards else ""
        rate = outcome.num_images / max(outcome.packing_s, 1e-9)
        terminal.out.print(
            f"{outcome.num_images:,} images in {outcome.packing_s:,.1f} s, {rate:,.0f} images/s, "
            f"and {outcome.other_s:,.1f} s for all else{kept}",
            soft_wrap=True,
        )
    else:
        terminal.out.print("complete already, nothing to do")


def plan_summary(prepared: Prepared) -> None:
    """Print what a build would hold: rows per class and split, and how many of their images are there."""
    table = prepared.plan.table
    there = pc.if_else(pc.is_null(table["status"]), "there", table["status"])
    counts = manifest.count(table.set_column(table.column_names.index("status"), "status", there))
    shown = Table("class", *(split for split in SPLITS if split in counts), "rows", "images there", box=None)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name in prepared.plan.class_names or ("",):
        of_class = {split: {name: classes.get(name, {})} for split, classes in counts.items()}
        rows = [manifest.total({split: of_class[split]}) for split in of_class]
        numbers = (*rows, sum(rows), manifest.total(of_class, ["there"]))
        shown.add_row(name or "(no classes)", *(f"{number:,}" for number in numbers))
    terminal.out.print(shown)
    terminal.out.print(f"{len(table):,} rows in {len(prepared.plan.shards):,} shards, split: {prepared.plan.split}")


def command(
    dataset_: Annotated[str, typer.Argument(metavar="DATASET", help="A name that `facepack datasets` lists.")],
    src: Annotated[
        str, typer.Option(help="Folder, .zip, .tar or URL of the dataset. [$FACEPACK_DATA/DATASET or data/DATASET]")
    ] = "",
    out: Annotated[str, typer.Option(help="Folder or URL to build into. [builds/DATASET-CLASSES]")] = "",
    images: Annotated[str, typer.Option(help="Image set, where a dataset has several (celeba: aligned, wild).")] = "",
    classes: Annotated[
        str, typer.Option(help="rarestN, commonestN, randomN, all or A,B,...; COLUMN:... for another column.")
    ] = "",
    multiple: Annotated[
        str, typer.Option(help="An image of several chosen classes: first in order, or drop.")
    ] = "first",
    age_bins: Annotated[str, typer.Option(help="Classes by age in years, such as 1-4,5-27,28-.")] = "",
    limit_per_class: Annotated[int | None, typer.Option(help="At most so many rows per class.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows.")] = None,
    split: Annotated[str, typer.Option(help="official, identity or TRAIN/VALID/TEST. [official if there is one]")] = "",
    seed: Annotated[int, typer.Option(help="Decides split, order and random classes.")] = 0,
    size: Annotated[str, typer.Option(help="N, WxH in pixels, or keep.")] = "keep",
    align: Annotated[str, typer.Option(help="none (crop and chip are yet to come).")] = "none",
    encoding: Annotated[str, typer.Option(help="jpeg, or raw (uint8 RGB in .npy).")] = "jpeg",
    quality: Annotated[int, typer.Option(help="JPEG quality, 1 to 100.")] = 95,
    samples_per_shard: Annotated[int, typer.Option(help="At most so many samples in one tar.")] = 1000,
    workers: Annotated[
        int | None, typer.Option(help="Processes; 0 is this one, without Ray. [as many as cores, if it pays]")
    ] = None,
    ray_address: Annotated[str, typer.Option(help="A Ray cluster to run on.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Try rejected images again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only index, label and plan; write nothing.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Pack a dataset into shards with a manifest.

    Example: facepack build celeba --classes rarest4 --size 64
    """
    with terminal.errors_as_lines(debug=debug):
        configuration = Configuration(
            dataset=dataset.load(dataset_).name,
            images=images,
            classes=classes,
            multiple=_one_of("multiple", multiple, ("first", "drop")),
            age_bins=age_bins,
            limit_per_class=limit_per_class,
            limit=limit,
            split=split,
            seed=seed,
            size=size,
            align=_one_of("align", align, ("none", "crop", "chip")),
            encoding=_one_of("encoding", encoding, ("jpeg", "raw")),
            quality=quality,
            samples_per_shard=samples_per_shard,
        )
        src = src or default_source(configuration.dataset)
        if dry_run:
            prepared = prepare(configuration, src=src)
            _warn(prepared)
            plan_summary(prepared)
            return
        place = Place(src, out or default_out(configuration), workers, ray_address, force)
        summary(build(configuration, place=place))


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise UsageError(f"--{name} {value}: expected {' or '.join(choices)}")
    return value
