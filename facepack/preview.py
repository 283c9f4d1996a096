"""Preview: one self-contained page that shows what is in a build, or in a dataset before it is built."""

import hashlib
import io
import mmap
import webbrowser
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import typer

from facepack import align, image, manifest, terminal
from facepack.configuration import Configuration
from facepack.description import SPLITS, Description, dataset_names, load_dataset
from facepack.errors import JobError, UsageError
from facepack.manifest import Build, Status, people_in_several_splits
from facepack.page import jpeg_uri, rendered
from facepack.prepare import default_source, prepare
from facepack.source import Source, open_source
from facepack.storage import Store, is_url
from facepack.verification import check_manifest

THERE = "there"
"""The status of a row whose image is there, in a dataset that is not built yet."""

_THUMB_PX, _SOURCE_PX, _MEAN_PX = 112, 200, 200
_NUM_PICTURES, _MIN_PER_CLASS, _MAX_PER_CLASS, _NUM_PER_REASON = 240, 6, 24, 14
_MEAN_OF, _FEWEST_FOR_MEAN = 200, 12
_MAX_CLASSES, _MAX_BARS, _MAX_LEAKING = 60, 80, 8
_MAX_REMOTE_SHARDS, _MAX_PIXELS = 12, 300_000_000
_AGE_BIN_YEARS = 5
_EXCERPT = 60

# What the page shows


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart: how many images, and what else there is to say of them."""

    name: str
    number: int
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Bars under a title; `name` says what the bars are."""

    title: str
    name: str
    bars: list[Bar]

    @property
    def largest(self) -> int:
        """The length of the longest bar."""
        return max((bar.number for bar in self.bars), default=0) or 1


@dataclass(frozen=True)
class Picture:
    """An image as a data: URI, and what to say of it; without an image, the text stands in its place."""

    uri: str
    caption: str
    text: str = ""


@dataclass(frozen=True)
class Sheet:
    """Some images of a class, how many there are, and the mean of `mean_of` of them."""

    name: str
    number: int
    pictures: list[Picture]
    mean: str = ""
    mean_of: int = 0


@dataclass(frozen=True)
class Reject:
    """One reason, how many images it cost, and some of them."""

    reason: str
    number: int
    meaning: str
    pictures: list[Picture]
    paths: list[str] = field(default_factory=list)
    """Some of them by name, where there is no photo to show."""


@dataclass(frozen=True)
class Leaks:
    """People in more than one split: how many of how many, per pair of splits, and those with most images."""

    column: str
    number: int
    num_people: int
    pairs: list[tuple[str, int]]
    examples: list[tuple[str, dict[str, int]]]


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    title: str
    about: str
    good: str
    """What the images that count are: packed, or there."""
    facts: list[tuple[str, str]]
    notes: list[str]
    splits: dict[str, dict[str, int]]
    """Images per class ("" for all) and split."""
    charts: list[Chart]
    ages: list[Chart]
    sheets: list[Sheet]
    means: list[Sheet]
    found: list[Picture]
    rejects: list[Reject]
    leaks: Leaks | None
    num_hidden_classes: int = 0


@dataclass(frozen=True)
class Subject:
    """A build, or a dataset before it is built."""

    title: str
    about: str
    description: Description
    table: pa.Table
    """Rows with key, source, split, status, class and the labels."""
    class_names: list[str]
    good: str
    """The status of the rows that count: packed, or there."""
    source: Source | None
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of_build(location: str, *, src: str = "") -> Page:
    """Look into a build; rejected photos are shown where their source is at hand. Raises `JobError` without a build."""
    build = manifest.read_build(location)
    store = Store(location)
    try:
        table = manifest.read_table(store, manifest.MANIFEST_FILE)
    except FileNotFoundError as error:
        raise JobError(f"{location}: no {manifest.MANIFEST_FILE}; facepack verify names what is wrong") from error
    if problem := next(check_manifest(build, table), None):
        raise JobError(f"{location}: damaged ({problem}); facepack verify names all that is wrong")
    description = load_dataset(build.dataset)
    notes = []
    source = None
    try:
        source = open_source(src or default_source(build.dataset), archives=description.archives)
    except JobError as error:
        if src:
            raise
        notes.append(f"The photos themselves are not at hand ({error}), so none that was rejected can be shown.")
    if build.unparsed:
        notes.append(f"{len(build.unparsed):,} rows of the label files cannot be read, such as {build.unparsed[0]}.")
    notes += [f"{number:,} images left out: {why}." for why, number in build.left_out.items()]
    subject = Subject(
        title=_name(location),
        about=f"A facepack build of {description.title}",
        description=description,
        table=table,
        class_names=build.class_names,
        good=Status.PACKED,
        source=source,
        facts=_facts(build),
        notes=notes,
    )
    return _page(subject, _from_shards(store, build, table))


def of_dataset(name: str, *, src: str = "", images: str = "", classes: str = "") -> Page:
    """Look into a dataset before it is built: its labels as they are, its photos as they are."""
    configuration = Configuration.of(name, images=images, classes=classes)
    location = src or default_source(configuration.dataset)
    prepared = prepare(configuration, src=location)
    table = prepared.plan.table
    status = pc.if_else(pc.is_null(table["status"]), THERE, table["status"])
    table = table.set_column(table.column_names.index("status"), "status", status)
    notes = [f"{number:,} images left out: {why}." for why, number in prepared.index.left_out.items()]
    if unparsed := prepared.index.unparsed:
        notes.append(f"{len(unparsed):,} rows cannot be read, such as {unparsed[0]}.")
    num_there = pc.sum(pc.equal(table["status"], THERE)).as_py() or 0
    description = prepared.description
    subject = Subject(
        title=name,
        about=f"{description.title}, before it is built",
        description=description,
        table=table,
        class_names=list(prepared.plan.class_names),
        good=THERE,
        source=prepared.source,
        facts=[
            ("images", f"{num_there:,} of {len(table):,} there"),
            ("split", prepared.plan.split),
            ("terms", description.terms),
            ("source", location),
        ],
        notes=[*prepared.plan.notes, *notes],
    )
    return _page(subject, _from_source(prepared.source, table))


def _facts(build: Build) -> list[tuple[str, str]]:
    num_packed = manifest.total(build.counts, statuses=[Status.PACKED])
    configuration = build.configuration
    num_bytes = sum(shard.num_bytes for shard in build.shards)
    facts = [
        ("packed", f"{num_packed:,} of {manifest.total(build.counts):,} images"),
        ("shards", f"{len(build.shards):,}, {num_bytes / 1e6:,.1f} MB"),
        ("pixels", f"{configuration.size}, {configuration.encoding}, align {configuration.align}"),
        ("split and seed", f"{configuration.split or 'by default'}, {configuration.seed}"),
    ]
    if build.mean and build.std:
        pairs = zip(build.mean, build.std, strict=True)
        facts.append(("mean and std of train, RGB", ", ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in pairs)))
    if build.num_padded:
        facts.append(("padded", f"{build.num_padded:,} crops reach over the border of their photo"))
    facts.append(("digest", build.digest[:16]))
    return [*facts, ("made by", ", ".join(f"{name} {number}" for name, number in build.versions.items()))]


def _name(location: str) -> str:
    """What a build is called: the last part of where it is."""
    return location.rstrip("/").rpartition("/")[2] if is_url(location) else Path(location).absolute().name


# Pictures


class _Wanted:
    """Collects images per group, up to what a contact sheet and a mean need, from rows in random order."""

    def __init__(self, table: pa.Table, *, groups: list[str]) -> None:
        shown = groups[:_MAX_CLASSES] or [""]
        self.per_group = max(_MIN_PER_CLASS, min(_MAX_PER_CLASS, _NUM_PICTURES // len(shown)))
        if not groups:
            self.per_group = 4 * _MAX_PER_CLASS
        self.images: dict[str, list[image.Pixels]] = {name: [] for name in shown}
        self.rows: dict[str, list[int]] = {name: [] for name in shown}
        self._classes = [name or "" for name in table["class"].to_pylist()]
        self._num_pixels = 0
        self._left = Counter(name for name in self._classes if name in self.images)

    def takes(self, row: int) -> bool:
        """True where the image of this row of the table is wanted."""
        name = self._classes[row]
        limit = _MEAN_OF if self._num_pixels < _MAX_PIXELS else self.per_group
        return name in self.images and len(self.images[name]) < limit

    def add(self, row: int, image_hwc: image.Pixels) -> None:
        """Keep an image, reduced."""
        self._num_pixels += image_hwc.shape[0] * image_hwc.shape[1]
        name = self._classes[row]
        self.images[name].append(_reduced(image_hwc, _SOURCE_PX))
        self.rows[name].append(row)

    @property
    def is_full(self) -> bool:
        """True where every contact sheet is full."""
        return all(len(images) >= min(self.per_group, self._left[name]) for name, images in self.images.items())


def _reduced(image_hwc: image.Pixels, largest_px: int) -> image.Pixels:
    height, width = image_hwc.shape[:2]
    scale = min(1.0, largest_px / max(height, width))
    return image.resize(image_hwc, width_px=max(1, round(width * scale)), height_px=max(1, round(height * scale)))


def _from_shards(store: Store, build: Build, table: pa.Table) -> "_Wanted":
    """Images of a build, whole shards at a time; in each they lie in random order, train first."""
    wanted = _Wanted(table.filter(pc.field("status") == Status.PACKED), groups=build.class_names)
    rows = table.filter(pc.field("status") == Status.PACKED).select(["shard", "offset", "size"])
    by_shard: dict[str, list[int]] = defaultdict(list)
    for number, shard in enumerate(rows["shard"].to_pylist()):
        by_shard[shard].append(number)
    offsets, sizes = rows["offset"].to_pylist(), rows["size"].to_pylist()
    for record in build.shards[:_MAX_REMOTE_SHARDS] if store.is_remote else build.shards:
        content = _content(store, record.name)
        for number in by_shard[record.name]:
            if wanted.takes(number):
                encoded = bytes(content[offsets[number] : offsets[number] + sizes[number]])
                wanted.add(number, _decoded(encoded, build, where=record.name))
        if wanted.is_full:
            break
    return wanted


def _content(store: Store, name: str) -> memoryview:
    """A shard, mapped where it is a file."""
    path = store.path(name)
    try:
        if path is None:
            return memoryview(store.read(name))
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except (OSError, ValueError) as error:
        raise JobError(f"{store.location}/{name}: cannot be read; facepack verify names what is wrong") from error


def _decoded(encoded: bytes, build: Build, *, where: str) -> image.Pixels:
    try:
        return image.decode_packed(encoded, encoding=build.configuration.encoding)
    except (image.BadImageError, ValueError) as error:
        raise JobError(f"{where}: damaged; facepack verify names what is wrong") from error


def _from_source(source: Source, table: pa.Table) -> "_Wanted":
    """Images of a dataset, in the order in which they would be packed; bad ones are passed over."""
    there = table.filter(pc.field("status") == THERE)
    names = [name for name in there["class"].unique().to_pylist() if name]
    wanted = _Wanted(there, groups=sorted(names))
    for number, path in enumerate(there["source"].to_pylist()):
        if wanted.is_full or number > 20 * _NUM_PICTURES:
            break
        if wanted.takes(number):
            try:
                wanted.add(number, image.decode(source.read(path)))
            except (image.BadImageError, OSError):
                continue
    return wanted


def _uri(image_hwc: image.Pixels, *, largest_px: int) -> str:
    """A JPEG inside the page itself."""
    return jpeg_uri(image.encode_jpeg(_reduced(image_hwc, largest_px), quality=85))


def _mean(images: Sequence[image.Pixels]) -> str:
    """The mean of images of one shape, none where they are too few or of several shapes: faces must lie over faces."""
    if len(images) < _FEWEST_FOR_MEAN or len({one.shape for one in images}) > 1:
        return ""
    total: npt.NDArray[np.float64] = np.zeros(images[0].shape)
    for one in images:
        total += one
    return _uri(np.rint(total / len(images)).astype(np.uint8), largest_px=_MEAN_PX)


# Numbers


def _page(subject: Subject, wanted: _Wanted) -> Page:
    table, good = subject.table, pc.equal(subject.table["status"], subject.good)
    kept = table.filter(good)
    return Page(
        title=subject.title,
        about=subject.about,
        good=subject.good,
        facts=subject.facts,
        notes=subject.notes,
        splits=_splits(kept, subject.class_names),
        charts=list(_charts(subject, good)),
        ages=[_ages(name, kept[name]) for name in subject.description.labels_of("age") if name in kept.column_names],
        sheets=_sheets(kept, wanted),
        means=_means(subject, kept, wanted),
        found=_found(subject, kept),
        rejects=_rejects(subject),
        leaks=next(_leaks(subject, kept), None),
        num_hidden_classes=max(0, len(subject.class_names) - _MAX_CLASSES),
    )


def _splits(kept: pa.Table, class_names: list[str]) -> dict[str, dict[str, int]]:
    """Images per class and split; the sum over all classes last."""
    pairs = Counter(zip(kept["class"].to_pylist(), kept["split"].to_pylist(), strict=True))
    of_class = {name: {f"{split}": pairs[name, split] for split in SPLITS} for name in class_names[:_MAX_CLASSES]}
    total = Counter(kept["split"].to_pylist())
    return of_class | {"": {f"{split}": total[split] for split in SPLITS}}


def _charts(subject: Subject, good: Any) -> Iterator[Chart]:
    """Classes, attributes, categories, the rarest first: of a build what is packed, of a dataset what is labelled."""
    table, description = subject.table, subject.description
    if subject.class_names:
        yield Chart("Images per class", "Classes", _counted(table["class"], good, subject.good))
    names = [name for name in description.labels_of("attribute") if name in table.column_names]
    bars = []
    for name in names:
        positive = pc.equal(table[name], 1)
        kept = pc.sum(pc.and_(positive, good)).as_py() or 0
        bars.append(_bar(name, pc.sum(positive).as_py() or 0, kept, subject.good))
    if bars:
        yield Chart("Images per attribute", "Attributes", _ascending(bars))
    for name in description.labels_of("category"):
        if name in table.column_names:
            yield Chart(f"Images per {name}", name.capitalize(), _counted(table[name], good, subject.good))


def _bar(name: str, every: int, kept: int, status: str) -> Bar:
    if status == THERE:
        return Bar(name, every, f"{kept:,} there" if kept < every else "")
    return Bar(name, kept, f"of {every:,}" if kept < every else "")


def _counted(column: pa.ChunkedArray, good: Any, status: str) -> list[Bar]:
    every, kept = Counter(column.to_pylist()), Counter(column.filter(good).to_pylist())
    return _ascending([_bar(str(name), every[name], kept[name], status) for name in every if name is not None])


def _ascending(bars: list[Bar]) -> list[Bar]:
    """The rarest first; of very many, both ends."""
    ordered = sorted(bars, key=lambda bar: (bar.number, bar.name))
    if len(ordered) <= _MAX_BARS:
        return ordered
    half = _MAX_BARS // 2
    between = [bar.number for bar in ordered[half:-half]]
    return [*ordered[:half], Bar("...", between[len(between) // 2], f"and {len(between):,} more"), *ordered[-half:]]


def _ages(name: str, column: pa.ChunkedArray) -> Chart:
    """A histogram in bins of five years."""
    ages = column.drop_null().to_numpy()
    bins = Counter((ages // _AGE_BIN_YEARS).astype(int).tolist())
    bars = [
        Bar(f"{number * _AGE_BIN_YEARS}-{(number + 1) * _AGE_BIN_YEARS - 1}", bins[number])
        for number in range(min(bins, default=0), max(bins, default=-1) + 1)
    ]
    mean = f", mean {ages.mean():.1f} years" if len(ages) else ""
    return Chart(f"{name.replace('_', ' ').capitalize()}{mean}", "Age in years", bars)


def _sheets(kept: pa.Table, wanted: _Wanted) -> list[Sheet]:
    """A contact sheet per class, with its mean face."""
    numbers = Counter(name or "" for name in kept["class"].to_pylist())
    sources = kept["source"].to_pylist()
    return [
        Sheet(
            name,
            numbers[name],
            [
                Picture(_uri(one, largest_px=_THUMB_PX), _printable(sources[row]))
                for one, row in zip(images[: wanted.per_group], wanted.rows[name][: wanted.per_group], strict=True)
            ],
            _mean(images),
            len(images),
        )
        for name, images in wanted.images.items()
    ]


def _means(subject: Subject, kept: pa.Table, wanted: _Wanted) -> list[Sheet]:
    """Without classes: the mean face of each attribute, over the images that were read."""
    if subject.class_names or not wanted.images.get(""):
        return []
    images, rows = wanted.images[""], wanted.rows[""]
    sheets = []
    for name in subject.description.labels_of("attribute"):
        if name in kept.column_names:
            has = kept[name].take(pa.array(rows)).to_pylist()
            chosen = [one for one, positive in zip(images, has, strict=True) if positive == 1]
            sheets.append(Sheet(name, len(chosen), [], _mean(chosen), len(chosen)))
    return [sheet for sheet in sheets if sheet.mean]


def _found(subject: Subject, kept: pa.Table) -> list[Picture]:
    """Some photos with the box and the landmarks of the face that was cut out of them."""
    if subject.source is None or "box" not in kept.column_names:
        return []
    rows = kept.filter(pc.is_valid(kept["box"])).slice(0, _NUM_PER_REASON)
    pictures = []
    for row in rows.select(["source", "source_sha256", "box", "landmarks"]).to_pylist():
        try:
            content = subject.source.read(row["source"])
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() != row["source_sha256"]:  # the box would be about another photo
            continue
        photo_hwc = image.decode(content)
        boxes = [align.Box(*row["box"])]
        drawn_hwc = _with_boxes(photo_hwc, boxes, landmarks=row["landmarks"] or ())
        pictures.append(Picture(_uri(drawn_hwc, largest_px=_SOURCE_PX), _printable(row["source"])))
    return pictures


def _with_boxes(
    photo_hwc: image.Pixels, boxes: Iterable[align.Box], *, landmarks: Sequence[float] = ()
) -> image.Pixels:
    """A reduced photo with faces marked."""
    small_hwc = np.ascontiguousarray(_reduced(photo_hwc, 2 * _SOURCE_PX)).copy()
    scale = small_hwc.shape[1] / photo_hwc.shape[1]
    for box in boxes:
        x0, y0, x1, y1 = (round(side * scale) for side in box)
        cv2.rectangle(small_hwc, (x0, y0), (x1, y1), (60, 200, 40), 3, cv2.LINE_AA)
    for x, y in zip(landmarks[::2], landmarks[1::2], strict=True):
        cv2.circle(small_hwc, (round(x * scale), round(y * scale)), 3, (40, 140, 255), -1, cv2.LINE_AA)
    return small_hwc


def _rejects(subject: Subject) -> list[Reject]:
    """Every reason with its number, and some of the photos, with the faces that were found in them."""
    lost = subject.table.filter(pc.not_equal(subject.table["status"], subject.good))
    numbers = Counter(lost["status"].to_pylist())
    rejects = []
    for reason in Status:
        if reason == Status.PACKED or not numbers[reason]:
            continue
        some = lost.filter(pc.field("status") == reason).slice(0, _NUM_PER_REASON)
        paths = some["source"].to_pylist()
        if reason == Status.MISSING or subject.source is None:
            rejects.append(
                Reject(str(reason), numbers[reason], reason.meaning, [], [_printable(path) for path in paths])
            )
        else:
            known = some["source_sha256"].to_pylist() if "source_sha256" in some.column_names else [None] * len(some)
            pairs = zip(paths, known, strict=True)
            pictures = [_rejected(path, reason, subject.source, sha256=sha256) for path, sha256 in pairs]
            rejects.append(Reject(str(reason), numbers[reason], reason.meaning, pictures))
    return sorted(rejects, key=lambda reject: -reject.number)


def _rejected(path: str, reason: Status, source: Source, *, sha256: str | None) -> Picture:
    """A rejected photo, or what can be said of it."""
    caption = _printable(path)
    try:
        content = source.read(path)
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            return Picture("", caption, "the file has changed since")
        photo_hwc = image.decode(content)
    except OSError as error:
        return Picture("", caption, f"cannot be read: {error.strerror or 'not there'}")
    except image.BadImageError:
        return Picture("", caption, f"{len(content):,} bytes: {_excerpt(content)}" if content else "an empty file")
    boxes = []
    if reason in (Status.NO_FACE, Status.SEVERAL_FACES):
        boxes = align.find(cv2.cvtColor(photo_hwc, cv2.COLOR_BGR2GRAY))  # type: ignore[arg-type]
    return Picture(_uri(_with_boxes(photo_hwc, boxes), largest_px=_SOURCE_PX), caption)


def _excerpt(content: bytes) -> str:
    """How a file begins, as far as it can be printed."""
    text = content[:_EXCERPT].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else "·" for letter in text)


def _printable(path: str) -> str:
    """A path as text; bytes that are no text are shown as such."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _leaks(subject: Subject, kept: pa.Table) -> Iterator[Leaks]:
    """People whose images are in more than one split."""
    for column in subject.description.labels_of("identity"):
        if column not in kept.column_names or not len(kept[column].drop_null()):
            continue
        shared: dict[int, Counter[str]] = defaultdict(Counter)
        for row in people_in_several_splits(kept, column).to_pylist():
            shared[row[column]][row["split"]] = row["count"]
        num_people = len(kept[column].drop_null().unique())
        pairs = [
            (f"{first} and {second}", sum(1 for splits in shared.values() if splits[first] and splits[second]))
            for first, second in (("train", "valid"), ("train", "test"), ("valid", "test"))
        ]
        largest = sorted(shared.items(), key=lambda item: (-item[1].total(), item[0]))[:_MAX_LEAKING]
        examples = [(f"{person}", {f"{split}": splits[split] for split in SPLITS}) for person, splits in largest]
        yield Leaks(column, len(shared), num_people, pairs, examples)


# Writing


def html(page: Page) -> str:
    """The page as one HTML file that loads nothing from anywhere."""
    return rendered(Path(__file__).with_name("preview.html"), page=page, splits=SPLITS)


def chart_png(chart: Chart) -> bytes:
    """The bar chart of S0 as a PNG: images per attribute or class, ascending."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shape, axis = plt.subplots(figsize=(max(6.0, 0.3 * len(chart.bars) + 2), 5.0), layout="constrained")
    names, numbers = [bar.name for bar in chart.bars], [bar.number for bar in chart.bars]
    axis.bar(names, numbers, color="#2f6fde")
    axis.set(xlabel=chart.name, ylabel="N. of images")
    for label in axis.get_xticklabels():
        label.set_parse_math(False)  # "$" in a name is no formula
    axis.tick_params(axis="x", rotation=90 if len(names) > 6 else 0)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    shape.savefig(file, dpi=120, format="png")
    plt.close(shape)
    return file.getvalue()


# The command


def command(
    target: Annotated[str, typer.Argument(metavar="BUILD|DATASET", help="A build (folder or URL), or a dataset.")],
    src: Annotated[str, typer.Option(help="Where the photos lie. [$FACEPACK_DATA/DATASET or data/DATASET]")] = "",
    out: Annotated[Path | None, typer.Option(help="The page to write. [NAME-preview.html]")] = None,
    png: Annotated[bool, typer.Option("--png", help="Write the first bar chart as a PNG, too.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    images: Annotated[str, typer.Option(help="Image set of a dataset that has several.")] = "",
    classes: Annotated[str, typer.Option(help="Classes of a dataset, as for facepack build.")] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show a build, or a dataset before it is built, as one HTML page.

    Example: facepack preview builds/celeba-rarest4 --open
    """
    with terminal.errors_as_lines(debug=debug):
        write(target, src=src, out=out, png=png, images=images, classes=classes, show=show)


def write(
    target: str,
    *,
    src: str = "",
    out: Path | None = None,
    png: bool = False,
    images: str = "",
    classes: str = "",
    show: bool = False,
) -> Path:
    """Write the page of a build or a dataset, and say where it is."""
    if not target:
        raise UsageError("give a build (folder or URL) or the name of a dataset")
    if out is not None and out.suffix.lower() == ".png":
        raise UsageError(f"--out {out}: the page is HTML; --png writes the chart beside it")
    with terminal.silenced_libraries():
        if target in dataset_names() and not Path(target, manifest.BUILD_FILE).exists():
            page = of_dataset(target, src=src, images=images, classes=classes)
        elif images or classes:
            raise UsageError("--images and --classes choose among a dataset; what a build holds is chosen already")
        else:
            if "/" not in target and not Path(target).exists():
                load_dataset(target)  # no folder: offers the datasets of similar name
            page = of_build(target, src=src)
    path = out or Path(f"{page.title}-preview.html")
    folder, content = Store(str(path.parent)), html(page).encode("utf-8", "backslashreplace")
    folder.write(path.name, content)
    terminal.out.print(f"{path}: {len(content) / 1e6:,.1f} MB, {page.about}", soft_wrap=True)
    if png and page.charts:
        folder.write(path.with_suffix(".png").name, chart_png(page.charts[0]))
        terminal.out.print(f"{path.with_suffix('.png')}: {page.charts[0].title.lower()}", soft_wrap=True)
    elif png:
        terminal.note("no chart for --png: neither classes nor attributes nor categories")
    if show:
        webbrowser.open(path.absolute().as_uri())
    return path
