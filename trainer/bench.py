"""Bench: how fast a build loads here, against other loaders on the same images, and what holds it back.

facepack bench builds/celeba-rarest4 --recipe celeba_rarest4_modern
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from facepack import image, manifest
from facepack.cores import num_cores
from facepack.errors import FieldError, JobError, UsageError
from facepack.manifest import Build, Status
from facepack.page import rendered
from facepack.storage import Store
from trainer import choosing, runs
from trainer.headspace import Headspace, measure_headspace
from trainer.loader import EngineSettings, FeedSettings, Loader, StagingSettings
from trainer.loading.augment import Augmentation, Normalize

log = logging.getLogger("facepack.trainer")

FEWEST_IMAGES = 256
_SHARE = {"probe": 0.02, "epoch": 0.07, "steady": 0.05, "rival": 0.14, "steps": 0.15}
"""Parts of the time limit: a look at the rate, an epoch, epochs from the second on, another loader, training steps."""
_FETCHED_AT_ONCE = 8

Note = Callable[[str], None]


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and for how long."""

    split: str = "train"
    batch_size: int = 128
    augment: tuple[Augmentation, ...] | None = None
    """By default what the loader does by default: normalised, in train also flipped."""
    device: str = ""
    num_threads: int = 0
    """Threads of the loader; 0: as many as it takes by itself."""
    seconds: float = 100.0
    """About how long the whole may take."""
    recipe: str = ""
    """The name of a recipe whose training steps are measured, too."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise FieldError("batch_size", self.batch_size, "expected at least 1")
        if not 5 <= self.seconds <= 3600:
            raise FieldError("seconds", self.seconds, "expected 5 to 3,600")


@dataclass(frozen=True)
class Rate:
    """One measured rate, over so many images."""

    name: str
    images_per_s: float
    num_images: int
    about: str = ""


@dataclass(frozen=True)
class BenchReport:
    """What was measured, and what it means."""

    build: str
    split: str
    num_images: int
    """Of the split."""
    num_measured: int
    """Images that each epoch was measured on."""
    image_bytes: float
    size_wh: tuple[int, int] | None
    """Width and height of the packed images, None where they differ."""
    batch_size: int
    augment: str
    rates: list[Rate]
    """The loader's own: the first epoch, the second, epochs of kept images."""
    rivals: list[Rate]
    limits: list[Rate]
    """What storage, decoding, augmentation and memory would each allow by themselves."""
    bottleneck: str
    advice: list[str]
    notes: list[str]
    machine: dict[str, str]
    versions: dict[str, str]
    seconds: float = 0.0
    headspace: Headspace | None = None
    """Training steps fed by the loader, against the same on one batch; None without a recipe."""

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1)

    def rate(self, name: str) -> float | None:
        """Images per second by name, None where it was not measured."""
        return next(
            (rate.images_per_s for rate in (*self.rates, *self.rivals, *self.limits) if rate.name == name), None
        )


@dataclass
class _Bench:
    """A measurement under way: the chosen rows of a build, and the rates so far."""

    build: str
    info: Build
    settings: BenchSettings
    rows: np.ndarray[Any, np.dtype[np.int64]]
    table: pa.Table
    cache_folder: str
    note: Note
    all_rows: np.ndarray[Any, np.dtype[np.int64]]
    """All packed rows of the split, of which `rows` is the start."""
    notes: list[str] = field(default_factory=list)

    def loader(self, *, cache: str = "none", augment: Sequence[Augmentation] | None = None, cold: str = "") -> Loader:
        """A loader over the chosen rows; `cold` names a cache folder of its own, where nothing is fetched yet."""
        settings = self.settings
        return Loader(
            self.build,
            split=settings.split,
            batch_size=settings.batch_size,
            augment=augment if augment is not None else settings.augment,
            cache=cache,  # type: ignore[arg-type] # checked by the loader
            targets=(),
            device=settings.device or None,
            rows=self.rows,
            engine=EngineSettings(num_threads=settings.num_threads),
            staging=StagingSettings(cache_folder=f"{self.cache_folder}/{cold or 'shards'}"),
        )

    def share_s(self, name: str) -> float:
        """Seconds that a part of the work may take."""
        return _SHARE[name] * self.settings.seconds


def measure_loading(
    build: str | Path, *, settings: BenchSettings | None = None, note: Note | None = None
) -> BenchReport:
    """Measure how fast a split of a build loads here, in about `settings.seconds`.

    `build` is a folder or URL. `note` is called with a line on what is being measured. Each epoch is measured on the
    same rows: as many, from the start of the split, as the time allows. Raises `JobError` without a build, `FieldError`
    for settings that do not fit it.
    """
    begun = time.monotonic()
    settings, note = settings or BenchSettings(), note or log.debug
    with tempfile.TemporaryDirectory(prefix="facepack-bench-") as folder:
        bench = _opened(str(build), settings, folder=folder, note=note)
        rates = _own_rates(bench)
        limits = _limits(bench, rates)
        rivals = _rivals(bench, Path(folder))
        headspace = _headspace(bench) if settings.recipe else None
    bottleneck, advice = explained(rates, limits, build=bench.info)
    if headspace is not None:
        advice.insert(0, headspace.summary())
    info, sizes = bench.info, _sizes(bench.table)
    return BenchReport(
        build=str(build),
        split=settings.split,
        num_images=sum(_packed(info, settings.split)),
        num_measured=len(bench.rows),
        image_bytes=float(pc.mean(bench.table["size"]).as_py()),
        size_wh=sizes,
        batch_size=settings.batch_size,
        augment="default" if settings.augment is None else "[" + ", ".join(map(repr, settings.augment)) + "]",
        rates=rates,
        rivals=rivals,
        limits=limits,
        bottleneck=bottleneck,
        advice=advice,
        notes=bench.notes,
        machine=runs.machine(torch.device(settings.device or "cpu")),
        versions=runs.versions(),
        seconds=time.monotonic() - begun,
        headspace=headspace,
    )


def write_page(report: BenchReport, out: Path) -> Path:
    """Write the report as one HTML page; gives its path."""
    fastest = max(rate.images_per_s for rate in (*report.rates, *report.rivals, *report.limits))
    content = rendered(Path(__file__).with_name("bench.html"), report=report, fastest=fastest)
    Store(str(out.parent)).make()
    Store(str(out.parent)).write(out.name, content.encode())
    return out


def lines_of(report: BenchReport) -> list[str]:
    """The report for a terminal: a line per rate, what holds it back, and what would change that."""
    groups = (("facepack", report.rates), ("others", report.rivals), ("limits", report.limits))
    lines = [
        f"{group + ':':<10}{rate.name:<14}{rate.images_per_s:>12,.0f} images/s  {rate.about}"
        for group, rates in groups
        for rate in rates
    ]
    if (steps := report.headspace) is not None:
        times = f"{1000 * steps.fed_s:,.1f} ms fed by the loader, {1000 * steps.resident_s:,.1f} ms on one batch"
        lines.append(f"training: {steps.recipe}, a step: {times}")
    return [*lines, f"{report.bottleneck} holds loading back", *report.advice, *report.notes]


# Opening


def _opened(build: str, settings: BenchSettings, *, folder: str, note: Note) -> _Bench:
    """Choose rows from the start of the split: as many as an epoch can load in its part of the time."""
    info = manifest.read_build(build)
    table = manifest.read_table(Store(info_location(build)), manifest.MANIFEST_FILE)
    chosen = pc.and_(pc.equal(table["split"], settings.split), pc.equal(table["status"], Status.PACKED))
    rows = np.flatnonzero(chosen.to_numpy()).astype(np.int64)
    if not len(rows):
        raise FieldError("split", settings.split, f"{build} has no packed image in it")
    if _sizes(table.take(pa.array(rows))) is None and settings.augment is None:
        raise FieldError("augment", "", 'the images differ in size: give --augment "[Resize((112, 112)), Normalize()]"')
    bench = _Bench(build, info, settings, rows[:FEWEST_IMAGES], table, folder, note, rows)
    note("looking at the rate")
    with bench.loader(cold="probe") as loader:
        rate = _steady(loader, seconds=bench.share_s("probe"))
    num = int(max(FEWEST_IMAGES, 2 * settings.batch_size, rate * bench.share_s("epoch")))
    bench.rows = rows[:num]
    bench.table = table.take(pa.array(bench.rows))
    if len(bench.rows) < len(rows):
        bench.notes.append(
            f"Measured on the first {len(bench.rows):,} of {len(rows):,} images, so that it ends in time."
        )
    return bench


def info_location(build: str) -> str:
    """Where a build lies, as `Store` takes it."""
    return build.rstrip("/") or "/"


def _packed(info: Build, split: str) -> list[int]:
    return [
        number
        for by_status in info.counts.get(split, {}).values()
        for status, number in by_status.items()
        if status == Status.PACKED
    ]


def _sizes(table: pa.Table) -> tuple[int, int] | None:
    """The one size of all images, or None."""
    widths, heights = (table[name].unique().drop_null() for name in ("width", "height"))
    return (widths[0].as_py(), heights[0].as_py()) if len(widths) == len(heights) == 1 else None


# Measuring


def _own_rates(bench: _Bench) -> list[Rate]:
    """The loader as it is: the first epoch, the second, and epochs of images that are kept decoded."""
    num = len(bench.rows)
    bench.note("first and second epoch")
    with bench.loader(cold="cold") as loader:
        first = Rate("first epoch", _epoch(loader), num, "shards are fetched, opened and checked")
        rates = [first, Rate("second epoch", _steady(loader, seconds=bench.share_s("steady")), num, "decoded anew")]
    bench.note("epochs of kept images")
    with bench.loader(cache="auto") as loader:
        if loader.cache == "none":
            bench.notes.append("Decoded images do not fit into memory (or differ in size), so none were kept.")
            return rates
        _epoch(loader)
        where = "memory" if loader.cache == "ram" else "the GPU"
        kept = _steady(loader, seconds=bench.share_s("steady"))
        return [*rates, Rate("kept images", kept, num, f"decoded once, then kept in {where}")]


def _limits(bench: _Bench, rates: list[Rate]) -> list[Rate]:
    """What each part would allow if it were alone."""
    num = len(bench.rows)
    bench.note("storage")
    limits = [Rate("storage", _storage(bench), num, "whole shards read, nothing else")]
    bench.note("decoding")
    if _sizes(bench.table) is None:
        bench.notes.append("The images differ in size, so decoding and memory could not be measured alone.")
        return limits
    with bench.loader(augment=()) as loader:
        decoding = _steady(loader, seconds=bench.share_s("steady"))
    about = "pixels of raw shards" if bench.info.configuration.encoding == "raw" else "encoded images to pixels"
    limits.append(Rate("decoding", decoding, num, about))
    kept = next((rate.images_per_s for rate in rates if rate.name == "kept images"), None)
    if kept is None:
        return limits
    bench.note("memory")
    with bench.loader(cache="ram", augment=()) as loader:
        _epoch(loader)
        memory = _steady(loader, seconds=bench.share_s("steady"))
    seconds_each = 1 / kept - 1 / memory
    if seconds_each > 0:
        limits.append(Rate("augmentation", 1 / seconds_each, num, "what kept images still need"))
    limits.append(Rate("memory", memory, num, "kept pixels gathered into batches"))
    return limits


def _epoch(loader: Loader) -> float:
    """Images per second of one epoch, from asking for it to its end."""
    begun = time.perf_counter()
    num = sum(len(batch.rows) for batch in loader)
    _synchronize(loader)
    return num / (time.perf_counter() - begun)


def _steady(loader: Loader, *, seconds: float) -> float:
    """Images per second over whole epochs, for at least so long."""
    begun, num = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        num += sum(len(batch.rows) for batch in loader)
        _synchronize(loader)
    return num / (time.perf_counter() - begun)


def _synchronize(loader: Loader) -> None:
    """Wait for what a GPU still has to do."""
    if loader.cache == "device" or torch.cuda.is_available():
        torch.cuda.synchronize()


def _storage(bench: _Bench) -> float:
    """Images per second that reading their shards allows, several at once."""
    store = Store(info_location(bench.build))
    names = bench.table["shard"].unique().to_pylist()
    begun, num_bytes = time.perf_counter(), 0
    limit_s = bench.share_s("epoch")

    def read(name: str) -> int:
        return len(store.read(name)) if time.perf_counter() - begun < limit_s else 0

    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
        num_bytes = sum(pool.map(read, names))
    seconds = time.perf_counter() - begun
    of_image = sum(shard.num_bytes for shard in bench.info.shards) / sum(
        shard.num_samples for shard in bench.info.shards
    )
    return num_bytes / of_image / seconds


# Rivals


def _rivals(bench: _Bench, folder: Path) -> list[Rate]:
    """Other loaders on the same images, each in a process of its own, as their documentation sets them up."""
    bench.note("writing the same images as files")
    files, tars = folder / "files", folder / "tars"
    _as_files(bench, files=files, tars=tars)
    names = {"torchvision": "ImageFolder, torchvision's transforms and a DataLoader"}
    if find_spec("webdataset") is not None:
        names["webdataset"] = "the build's own tars, WebLoader"
    else:
        bench.notes.append("webdataset is not installed, so it was not measured.")
    rates = []
    for name, about in names.items():
        bench.note(name)
        job = {
            "files": str(files),
            "tars": [str(path) for path in sorted(tars.glob("*.tar"))],
            "batch_size": bench.settings.batch_size,
            "workers": num_cores(),
            "seconds": bench.share_s("rival"),
            "augment": repr(list(bench.settings.augment or _default(bench))),
            "mean": bench.info.mean or [0.5] * 3,
            "std": bench.info.std or [0.5] * 3,
        }
        command = [sys.executable, "-W", "ignore", "-m", "trainer.rivals", name]
        ended = subprocess.run(  # noqa: S603 - our own module
            command, input=json.dumps(job), capture_output=True, text=True, check=False
        )
        if ended.returncode:
            reason = (ended.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            bench.notes.append(f"{name} could not be measured: {reason}")
            continue
        result = json.loads(ended.stdout.splitlines()[-1])
        bench.notes += result["notes"]
        rates.append(Rate(name, result["images_per_s"], result["num_images"], about))
    return rates


def _default(bench: _Bench) -> tuple[Augmentation, ...]:
    from trainer.loading.augment import RandomHorizontalFlip

    return (RandomHorizontalFlip(), Normalize()) if bench.settings.split == "train" else (Normalize(),)


def _as_files(bench: _Bench, *, files: Path, tars: Path) -> None:
    """Write the chosen images one by one, and the tars that hold them."""
    store = Store(info_location(bench.build))
    suffix = image.SUFFIXES[bench.info.configuration.encoding]
    (files / "all").mkdir(parents=True)
    tars.mkdir()
    for name in bench.table["shard"].unique().to_pylist():
        content = store.read(name)
        (tars / name).write_bytes(content)
        of_shard = bench.table.filter(pc.equal(bench.table["shard"], name))
        for row in of_shard.select(["key", "offset", "size"]).to_pylist():
            path = files / "all" / f"{row['key']}.{suffix}"
            path.write_bytes(content[row["offset"] : row["offset"] + row["size"]])


# Training


def _headspace(bench: _Bench) -> Headspace | None:
    """The steps of the recipe, fed by the loader and on one batch."""
    settings = bench.settings
    recipe = choosing.suited(settings.recipe, [], data=[bench.build])
    bench.note(f"steps of {settings.recipe}")

    def loader_of(num: int) -> Loader:
        return Loader(
            bench.build,
            split=settings.split,
            batch_size=recipe.batch_size,
            augment=settings.augment or recipe.augment,
            targets=(recipe.task.target,),
            device=settings.device or None,
            rows=bench.all_rows[:num],
            feed=FeedSettings(shuffle=True),
            engine=EngineSettings(num_threads=settings.num_threads),
            staging=StagingSettings(cache_folder=f"{bench.cache_folder}/shards"),
        )

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return measure_headspace(settings.recipe, recipe, loader_of, device=device, seconds=bench.share_s("steps"))
    except UsageError as error:
        bench.notes.append(f"Training steps were not measured: {error}")
        return None


# What it means


def explained(rates: list[Rate], limits: list[Rate], *, build: Build) -> tuple[str, list[str]]:
    """What holds loading back, as the name of a limit, and what would change it."""
    by_name = {rate.name: rate.images_per_s for rate in (*rates, *limits)}
    first, second, kept = (by_name.get(name) for name in ("first epoch", "second epoch", "kept images"))
    limit = {name: by_name[name] for name in ("storage", "decoding", "augmentation", "memory") if name in by_name}
    if not limit or first is None or second is None:
        raise JobError("nothing was measured")
    bottleneck = min(limit, key=lambda name: limit[name])
    advice = []
    if limit["storage"] < 1.5 * first:
        advice.append(
            f"The first epoch is held back by storage, which gives {limit['storage']:,.0f} images/s; "
            "smaller images (--size, --quality) or a nearer place would help, later epochs read the local cache."
        )
    if kept is not None and kept > 1.2 * second:
        advice.append(
            f"Keep decoded images (cache='auto' does where they fit): {kept:,.0f} images/s from the second epoch on "
            f"instead of {second:,.0f}."
        )
    if bottleneck == "decoding" and build.configuration.encoding != "raw":
        advice.append(
            "Decoding takes most of the time: build at the size that is trained on (--size), or with --encoding raw."
        )
    if bottleneck == "augmentation":
        advice.append(
            "Augmentation takes most of the time: build at a smaller --size, crop to fewer pixels, or leave out "
            "ColorJitter's hue and rotations, the slowest steps on a CPU."
        )
    if bottleneck == "memory":
        advice.append("Memory is the limit: nothing but smaller images or a GPU would make it faster.")
    return bottleneck, advice
