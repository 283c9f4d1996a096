"""Preparing: a dataset indexed, labelled and planned, before any image is read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from facepack.configuration import Configuration
from facepack.description import Description, OpenIndex, ParquetIndex, dataset_folder
from facepack.errors import FieldError, JobError, UsageError
from facepack.fetching import fetch
from facepack.hashing import HashingFile
from facepack.hub import is_hub
from facepack.index import Index, index_dataset
from facepack.label import assign_classes
from facepack.labelled_faces import NEEDED
from facepack.leave_out import read_leave_out
from facepack.open_rows import OwnTable
from facepack.own_description import recorded
from facepack.own_people import OwnPeople, read_own_people, with_people
from facepack.parquet_images import EmbeddedImage, embedded_images
from facepack.parquet_rows import parquet_files
from facepack.plan import Plan, make_plan, rows_with_split
from facepack.plan_head import Remarks
from facepack.source import Source, open_source
from facepack.webdataset import num_photos, with_shards

_MOST_LOOSE = 100
"""Images beside Parquet files and archives, beyond which these are not looked into."""


@dataclass(frozen=True)
class Prepared:
    """A dataset indexed, labelled and planned: all that is known before an image is read."""

    description: Description
    source: Source
    index: Index
    plan: Plan
    configuration: Configuration
    left_out: dict[str, int]
    """Images that are no part of the dataset and rows without a split, by reason."""
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of the plan, its classes and the rows outside it: with the images it decides the whole build."""
        hashed = HashingFile()
        with pa.ipc.new_stream(pa.PythonFile(hashed, "w"), self.plan.table.schema) as stream:
            stream.write_table(self.plan.table)
        others = json.dumps([self.plan.class_names, self.index.unparsed, self.left_out], sort_keys=True)
        hashed.write(others.encode("utf-8", "replace"))
        return hashed.hexdigest()

    @property
    def remarks(self) -> Remarks:
        """What a user is to know of it."""
        index, plan = self.index, self.plan
        return Remarks(plan.notes, self.warnings, index.unparsed, self.left_out, index.examples, plan.num_leaking)


def prepare_build(
    configuration: Configuration,
    *,
    src: str,
    leave_out: str = "",
    own: OwnTable | None = None,
    people: str = "",
    source: Source | None = None,
) -> Prepared:
    """Index, label and plan; raises `UsageError` or `JobError` before anything is written.

    `leave_out` is the file that lists images to leave out: the configuration gets its digest. `own` is a table of
    labels: the configuration gets the description of the labels found in it, or in the source. `people` is a table of
    who is on which image. `source` is what lies at `src`, where it is open already.
    """
    listed = read_leave_out(leave_out)
    if configuration.leave_out not in ("", listed.digest):
        raise UsageError(f"leave_out {leave_out or 'missing'}: another list than the configuration names")
    own_people = read_own_people(people)
    configuration = replace(configuration, leave_out=listed.digest, people=own_people.digest)
    description = configuration.described
    with fetch_offered(description, src):
        source = source or source_of(description, src)
        indexed = index_dataset(description, source, images=configuration.images, leave_out=listed, own=own)
        indexed = _with_people(indexed, own_people)
        description = indexed.description
        configuration = _with_description(configuration, indexed)
        _check_labelled_faces(configuration, indexed, description)
    pa.default_memory_pool().release_unused()
    rows = rows_with_split(description, indexed.table, configuration=configuration)
    labelled = assign_classes(description, rows.table, configuration=configuration)
    planned = make_plan(description, labelled, source=source, configuration=configuration)
    left_out = indexed.left_out | rows.left_out | labelled.left_out
    warnings = indexed.notes + rows.warnings + labelled.warnings + planned.warnings
    return Prepared(description, source, indexed, planned, configuration, left_out, warnings)


def _with_people(indexed: Index, own: OwnPeople) -> Index:
    """The index with who is on each image, by a table of one's own, if there is one."""
    description, table, note = with_people(indexed.description, indexed.table, own=own)
    return replace(indexed, description=description, table=table, notes=indexed.notes + ((note,) if note else ()))


def source_of(description: Description, src: str) -> Source:
    """The files of a dataset, and those inside the archives and Parquet files that its description reads in place.

    What is missing here of a dataset of the Hugging Face Hub (`src` hf://datasets/OWNER/NAME) is fetched.
    """
    location = str(fetch(src).folder) if is_hub(src) else src
    source = open_source(location, archives=description.archives)
    for form in description.index:
        if isinstance(form, ParquetIndex):
            source = source.with_members(embedded_images(source.store, parquet_files(source), column=form.image))
        elif isinstance(form, OpenIndex):
            source = _with_images_inside(source)
    return source


def _with_images_inside(source: Source) -> Source:
    """The source with the images in its Parquet files and shards, if these are more than lie beside them."""
    num_loose = num_photos(source.files if source.members else source.names)
    if num_loose > _MOST_LOOSE:
        return source
    inside = with_shards(source.with_members(embedded_images(source.store, parquet_files(source))))
    num_inside = sum(isinstance(member, EmbeddedImage) for member in inside.members.values())
    num_inside += num_photos(inside.members.keys() - source.members.keys())
    return inside if num_inside > num_loose else source


def _with_description(configuration: Configuration, indexed: Index) -> Configuration:
    """The configuration with the description of the labels that were found, where facepack knows none."""
    choice = configuration.class_choice
    is_open = choice is None or not (choice.column or choice.kind == "none")
    if indexed.unclear and is_open and configuration.age_choice is None:
        advice = f"each of the columns {', '.join(indexed.unclear)} could be the class; give COLUMN:all, or none"
        raise FieldError("classes", configuration.classes, advice)
    if indexed.description == configuration.described:
        return configuration
    return replace(configuration, description=recorded(indexed.description))


def _check_labelled_faces(configuration: Configuration, indexed: Index, description: Description) -> None:
    """Refuse to cut by labels where the label files with them are not there."""
    column = NEEDED.get(configuration.align, "") if configuration.landmarks_from == "labels" else ""
    if column in ("", *indexed.table.column_names):
        return
    what = column.removeprefix("published_").replace("box", "boxes")
    sets = f" of the image set {configuration.images or description.image_sets[0]}" if description.image_sets else ""
    advice = f"{description.name} has no {what}{sets} here"
    if "boxes" in [file.kind for file in description.files]:
        advice += f"; facepack fetch {description.name} --only boxes gets the files with them"
    raise FieldError("landmarks_from", configuration.landmarks_from, advice)


@contextmanager
def fetch_offered(description: Description, src: str) -> Iterator[None]:
    """Add to an error on what is missing from the dataset's own place how to get it."""
    try:
        yield
    except JobError as error:
        if description.files and src == default_source(description.name):
            raise JobError(f"{error}; facepack fetch {description.name} gets what is missing") from error
        raise


def default_source(name: str) -> str:
    """Where the files of a dataset are looked for: $FACEPACK_DATA/<dataset>, else data/<dataset>."""
    return str(dataset_folder(name))
