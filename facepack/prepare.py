"""Preparing: a dataset indexed, labelled and planned, before any image is read."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from facepack.configuration import Configuration
from facepack.description import Description, dataset_folder, load_dataset
from facepack.errors import FieldError, JobError, UsageError
from facepack.index import Index, index_dataset
from facepack.label import assign_classes
from facepack.labelled_faces import NEEDED
from facepack.leave_out import read_leave_out
from facepack.plan import Plan, make_plan, rows_with_split
from facepack.source import Source, open_source


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
        rows = pa.BufferOutputStream()
        with pa.ipc.new_stream(rows, self.plan.table.schema) as stream:
            stream.write_table(self.plan.table)
        others = json.dumps([self.plan.class_names, self.index.unparsed, self.left_out], sort_keys=True)
        return hashlib.sha256(rows.getvalue().to_pybytes() + others.encode("utf-8", "replace")).hexdigest()


def prepare_build(configuration: Configuration, *, src: str, leave_out: str = "") -> Prepared:
    """Index, label and plan; raises `UsageError` or `JobError` before anything is written.

    `leave_out` is the file that lists images to leave out: the configuration gets its digest.
    """
    listed = read_leave_out(leave_out)
    if configuration.leave_out not in ("", listed.digest):
        raise UsageError(f"leave_out {leave_out or 'missing'}: another list than the configuration names")
    configuration = replace(configuration, leave_out=listed.digest)
    description = load_dataset(configuration.dataset)
    with fetch_offered(description, src):
        source = open_source(src, archives=description.archives)
        indexed = index_dataset(description, source, images=configuration.images, leave_out=listed)
        _check_labelled_faces(configuration, indexed, description)
    rows = rows_with_split(description, indexed.table, configuration=configuration)
    labelled = assign_classes(description, rows.table, configuration=configuration)
    planned = make_plan(description, labelled, source=source, configuration=configuration)
    left_out = indexed.left_out | rows.left_out | labelled.left_out
    warnings = indexed.notes + rows.warnings + labelled.warnings + planned.warnings
    return Prepared(description, source, indexed, planned, configuration, left_out, warnings)


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
