"""The preview: one self-contained page that shows what is in a build, or in a dataset before it is built."""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from facepack import bar_chart, figures, manifest, pictures, preview_quality, preview_twins
from facepack.configuration import Configuration
from facepack.description import SPLITS, dataset_names, load_dataset
from facepack.errors import FieldError, JobError, UsageError
from facepack.manifest import Build, Status
from facepack.manifest_checks import check_manifest
from facepack.near_rows import near_rows
from facepack.page import rendered
from facepack.people_pictures import people_section
from facepack.pictures import Samples
from facepack.prepare import Prepared, default_source, prepare_build, source_of
from facepack.preview_model import MAX_CLASSES, THERE, Page, PreviewInput
from facepack.reader import open_build
from facepack.source import Source
from facepack.storage import Store, is_url

_LOOKED_AT = ["source", "status", "source_sha256", "box", "landmarks"]
_NOT_SHOWN = {*manifest.OWN_COLUMNS.names, *manifest.MEASURED_COLUMNS.names, *manifest.PUBLISHED_COLUMNS.names} - {
    *("source", "split", "status", "class")
}


def page_of(target: str, *, src: str = "", images: str = "", classes: str = "") -> Page:
    """The page of a build (folder or URL), or of a dataset by its name.

    `src` is where the photos lie, if not where they are looked for; `images` and `classes` choose among a dataset, as
    for `facepack build`. Raises `UsageError` or `JobError` where there is neither.
    """
    if not target:
        raise UsageError("give a build (folder or URL) or the name of a dataset")
    if target in dataset_names() and not Path(target, manifest.BUILD_FILE).exists():
        return of_dataset(target, src=src, images=images, classes=classes)
    if images or classes:
        raise UsageError("--images and --classes choose among a dataset; what a build holds is chosen already")
    if "/" not in target and not Path(target).exists():
        load_dataset(target)  # no folder: offers the datasets of similar name
    return of_build(target, src=src)


def of_build(location: str, *, src: str = "") -> Page:
    """Look into a build; rejected photos are shown where their source is at hand. Raises `JobError` without a build."""
    build = open_build(location)
    with build.manifest_rows() as rows:
        if problem := next(check_manifest(build.info, rows), None):
            raise JobError(f"{location}: damaged ({problem}); facepack verify names all that is wrong")
        table = pa.concat_tables(rows.parts([name for name in rows.schema.names if name not in _NOT_SHOWN]))
        samples = pictures.samples_of_build(build, rows, table=table)
        few = pictures.first_rows(rows.parts(_LOOKED_AT))
        near = near_rows(rows)
        measures = preview_quality.measures_of(build, rows)
    source, notes = _source_of(build.info, src)
    if unparsed := build.info.unparsed:
        notes.append(f"{len(unparsed):,} rows of the label files cannot be read, such as {unparsed[0]}.")
    notes += [f"{number:,} left out: {why}." for why, number in build.info.left_out.items()]
    description = build.info.configuration.described
    data = PreviewInput(
        title=_name(location),
        about=f"A facepack build of {description.title}",
        description=description,
        table=table,
        few=few,
        class_names=build.info.class_names,
        good=Status.PACKED,
        source=source,
        facts=_facts(build.info),
        notes=notes,
    )
    twins = None if near is None else preview_twins.twins_of(build, near)
    return replace(_page(data, samples), twins=twins, measures=measures, people=people_section(build))


def _source_of(info: Build, src: str) -> tuple[Source | None, list[str]]:
    """The photos of a build, and a note where they are not at hand; `JobError` where they are not at `src`."""
    try:
        return source_of(info.configuration.described, src or default_source(info.dataset)), []
    except JobError as error:
        if src:
            raise
        return None, [f"The photos themselves are not at hand ({error}), so rejected ones cannot be shown."]


def of_dataset(name: str, *, src: str = "", images: str = "", classes: str = "") -> Page:
    """Look into a dataset before it is built: its labels as they are, its photos as they are."""
    configuration = Configuration.of(name, images=images, classes=classes)
    location = src or default_source(name)
    prepared = prepare_build(configuration, src=location)
    table = prepared.plan.table
    status = pc.if_else(pc.is_null(table["status"]), THERE, table["status"])
    table = table.set_column(table.column_names.index("status"), "status", status)
    description = prepared.description
    data = PreviewInput(
        title=name,
        about=f"{description.title}, before it is built",
        description=description,
        table=table,
        few=pictures.first_rows([table]),
        class_names=list(prepared.plan.class_names),
        good=THERE,
        source=prepared.source,
        facts=_facts_before(prepared, table, location),
        notes=[*prepared.plan.notes, *_notes(prepared)],
    )
    return _page(data, pictures.samples_of_source(prepared.source, table))


def _facts_before(prepared: Prepared, table: pa.Table, location: str) -> list[tuple[str, str]]:
    num_there = pc.sum(pc.equal(table["status"], THERE)).as_py() or 0
    return [
        ("images", f"{num_there:,} of {len(table):,} there"),
        ("split", prepared.plan.split),
        ("terms", prepared.description.terms),
        ("source", location),
    ]


def _notes(prepared: Prepared) -> list[str]:
    notes = [f"{number:,} left out: {why}." for why, number in prepared.left_out.items()]
    notes += [f"{warning}." for warning in prepared.warnings]
    if unparsed := prepared.index.unparsed:
        notes.append(f"{len(unparsed):,} rows cannot be read, such as {unparsed[0]}.")
    return notes


def _size(configuration: Configuration) -> str:
    return configuration.size if configuration.fit == "squash" else f"{configuration.size} (fit: {configuration.fit})"


def _facts(build: Build) -> list[tuple[str, str]]:
    num_packed = manifest.total(build.counts, statuses=[Status.PACKED])
    configuration = build.configuration
    num_bytes = sum(shard.num_bytes for shard in build.shards)
    facts = [
        ("packed", f"{num_packed:,} of {manifest.total(build.counts):,} images"),
        ("shards", f"{len(build.shards):,}, {num_bytes / 1e6:,.1f} MB"),
        ("pixels", f"{_size(configuration)}, {configuration.encoding}, align {configuration.align}"),
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


def _page(data: PreviewInput, samples: Samples) -> Page:
    good = data.table.filter(pc.equal(data.table["status"], data.good))
    return Page(
        title=data.title,
        about=data.about,
        good=data.good,
        facts=data.facts,
        notes=data.notes,
        splits=figures.images_per_split(good, data.class_names),
        charts=list(figures.charts(data)),
        ages=figures.age_charts(good, data.description),
        sheets=pictures.contact_sheets(good, samples),
        means=pictures.attribute_means(data, good, samples),
        faces=pictures.detected_faces(data),
        rejects=pictures.rejects(data),
        leaks=next(figures.leaks(good, data.description), None),
        num_hidden_classes=max(0, len(data.class_names) - MAX_CLASSES),
    )


# Writing


@dataclass(frozen=True)
class Written:
    """The files of a preview: the page, and its first bar chart where there is one."""

    page: Path
    num_bytes: int
    chart: Path | None = None


def html(page: Page) -> str:
    """The page as one HTML file that loads nothing from anywhere."""
    return rendered(Path(__file__).with_name("preview.html"), page=page, splits=SPLITS)


def check_out(path: Path) -> None:
    """Refuse to write a page into a picture."""
    if path.suffix.lower() == ".png":
        raise FieldError("out", path, "the page is HTML; --png writes the chart beside it")


def write_page(page: Page, path: Path, *, png: bool = False) -> Written:
    """Write a page, and with `png` its first bar chart beside it."""
    check_out(path)
    folder, content = Store(str(path.parent)), html(page).encode("utf-8", "backslashreplace")
    folder.write(path.name, content)
    if not png or not page.charts:
        return Written(path, len(content))
    chart = path.with_suffix(".png")
    folder.write(chart.name, bar_chart.chart_png(page.charts[0]))
    return Written(path, len(content), chart)
