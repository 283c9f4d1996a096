"""What a preview page shows: bars, charts, pictures and rejects, and the rows that they are made from."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from facepack.description import Description
from facepack.source import Source

if TYPE_CHECKING:
    from facepack.people_pictures import PeopleSection
    from facepack.preview_quality import Measure
    from facepack.preview_twins import Twins

THERE = "there"
"""The status of a row whose image is there, in a dataset that is not built yet."""

MAX_CLASSES = 60
"""Classes that a page shows one by one."""


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart: a number of images, with a note beside it."""

    name: str
    number: int
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Bars under a title; `name` is the title of their axis."""

    title: str
    name: str
    bars: list[Bar]

    @property
    def largest(self) -> int:
        """The length of the longest bar."""
        return max((bar.number for bar in self.bars), default=0) or 1


@dataclass(frozen=True)
class Picture:
    """An image as a data: URI, with a caption; without an image, the text stands in its place."""

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
    """The status of the images that count: packed, or there."""
    facts: list[tuple[str, str]]
    notes: list[str]
    splits: dict[str, dict[str, int]]
    """Images per class ("" for all) and split."""
    charts: list[Chart]
    ages: list[Chart]
    sheets: list[Sheet]
    means: list[Sheet]
    faces: list[Picture]
    """Photos with the box and the landmarks of the face that was cut out of them."""
    rejects: list[Reject]
    leaks: Leaks | None
    num_hidden_classes: int = 0
    twins: "Twins | None" = None
    """Near-duplicates; None where nothing is known of them."""
    measures: "list[Measure]" = field(default_factory=list)
    """Of quality."""
    people: "PeopleSection | None" = None
    """People told by their faces; None where facepack people has not been asked."""


@dataclass(frozen=True)
class PreviewInput:
    """What a page is made from: a build, or a dataset before it is built."""

    title: str
    about: str
    description: Description
    table: pa.Table
    """Rows with source, split, status, class and the labels."""
    few: pa.Table
    """The first rows of each status with all that is known of them, of packed ones those with a face cut out."""
    class_names: list[str]
    good: str
    """The status of the rows that count: packed, or there."""
    source: Source | None
    """The photos themselves, None where they are not at hand."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
