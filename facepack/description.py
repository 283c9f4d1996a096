"""Dataset descriptions: what is known about a dataset somebody else published, loaded from manifests/<dataset>.toml."""

import importlib.util
import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from facepack.errors import JobError, UsageError, nearest

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_OWN_NAMES = (
    "key source split status shard position offset size width height sha256 source_sha256 box landmarks class "
    "class_index face official_split duplicate_of published_box published_landmarks "
    "phash sharpness brightness contrast face_px yaw roll"
)
RESERVED = frozenset(_OWN_NAMES.split())
"""Names that labels cannot have: those of the manifest's own columns, and of what stands beside labels elsewhere."""
ATTRIBUTE_VALUES = {"-1": "0", "0": "0", "1": "1"}

_CLOSED = ConfigDict(extra="forbid")  # an unknown field is a typing error


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Label:
    """One label column of a dataset.

    `column` is its published name where that differs; `values` maps published values to ours: any other value is then
    an error of its row. `unknown` are the published values for what nobody knows. A number that is `optional` is a
    column only where a label file has it.
    """

    kind: Literal["attribute", "category", "age", "identity", "number"]
    about: str = ""
    column: str = ""
    values: dict[str, str] = Field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    optional: bool = False

    @model_validator(mode="after")
    def _may_be_optional(self) -> "Label":
        """Check that nothing else is chosen by a column that may not be there."""
        if self.optional and self.kind != "number":
            raise ValueError("only a number can be optional")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class TableFile:
    """One label file; `{split}` and the like in `path` become columns, and so do the groups of `extract` in the key.

    Files after the first are joined to it: their `key` to its column `on` (by default its key). The `labels` of an
    optional file that is not there are null. With `images` it is read for these image sets alone. Beside rows named by
    paths, `missing` is the path of the image of a row that no path names.
    """

    path: str
    format: Literal["csv", "spaces", "json", "folds", "mat"]
    key: str
    columns: tuple[str, ...] = ()
    count_line: bool = False
    optional: bool = False
    labels: tuple[str, ...] = ()
    extract: Pattern = ""
    on: str = ""
    rename: dict[str, str] = Field(default_factory=dict)
    images: tuple[str, ...] = ()
    missing: str = ""
    variable: str = ""
    """The structure of a MAT file, by default the only one."""
    age_from: tuple[str, str] | None = None
    """Fields of a MAT file, the year of a photo and the serial date of birth, which become a column age."""


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class LeftOut:
    """Image files that are there but no part of the dataset, and why; of rows of tables, by the text of a column.

    With `copy_of`, the path that a file is a copy of (groups as \\g<name>), only where that is there as well.
    """

    pattern: Pattern
    why: str
    copy_of: str = ""
    column: str = ""


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class TableIndex:
    """Rows named by label files. `images` gives per image set the places where the image of a row may lie."""

    kind: Literal["table"]
    about: str
    tables: tuple[TableFile, ...] = Field(min_length=1)
    images: dict[str, tuple[str, ...]] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    lacks: tuple[str, ...] = ()
    may_lack: tuple[str, ...] = ()
    """Labels that are null where the label files have no such column."""


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class PathPattern:
    """A form of image path; named groups become columns, `set` adds constant ones; `images` names its image set.

    With `split_folders` it holds only where the folders are those of splits.
    """

    pattern: Pattern
    set: dict[str, str] = Field(default_factory=dict)
    images: str = ""
    split_folders: bool = False


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class SplitFolders:
    """Names of folders that stand for splits: where one is called `train`, or all as one of the `others`.

    A folder around all others is then passed through: patterns begin below it.
    """

    train: Pattern
    others: Pattern


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class PathIndex:
    """Rows named by the paths of the images themselves; label files that are there are joined to them."""

    kind: Literal["paths"]
    about: str
    patterns: tuple[PathPattern, ...] = Field(min_length=1)
    split_folders: SplitFolders | None = None
    image_sets: tuple[str, ...] = ()
    """Those of its patterns, in the order in which they are looked for."""
    tables: tuple[TableFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class ParquetIndex:
    """Rows of Parquet files with embedded images, as on the Hugging Face Hub.

    `image` is the column of images. The split that the name of a file states becomes the column `split`.
    """

    kind: Literal["parquet"]
    about: str
    image: str = "image"
    split: str = "split"
    rename: dict[str, str] = Field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    tables: ClassVar[tuple[TableFile, ...]] = ()
    image_sets: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class OpenIndex:
    """Rows whose columns become labels as they are: of a user's own table, metadata, Parquet, WebDataset."""

    kind: Literal["open"]
    about: str
    lacks: tuple[str, ...] = ()
    tables: ClassVar[tuple[TableFile, ...]] = ()
    image_sets: ClassVar[tuple[str, ...]] = ()


Form = TableIndex | PathIndex | ParquetIndex | OpenIndex
"""A form in which a dataset lies."""


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class SplitRule:
    """Where the official split stands; `valid_percent` of its train rows become valid where the publisher has none."""

    column: str
    values: dict[str, Split] = Field(default_factory=dict)
    valid_percent: float = Field(default=0.0, ge=0, lt=100)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class FaceColumns:
    """Columns that say where the face of a photo is, in pixels of the photo."""

    box: tuple[str, str, str, str] | None = None
    """Left, top, width and height."""
    landmarks: Annotated[tuple[str, ...], Field(min_length=10, max_length=10)] | None = None
    """x and y of five points as a viewer sees them: left eye, right eye, nose, left and right corner of the mouth."""


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Example:
    """Files as published, and what must be read from them: the test of a description.

    `mats` are MAT files: the fields of their structure, which has the name of the file.
    """

    files: dict[str, str] = Field(default_factory=dict)
    mats: dict[str, dict[str, tuple[str | int | float, ...]]] = Field(default_factory=dict)
    rows: tuple[dict[str, str | int | float], ...]
    unparsed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class File:
    """One file as it is published: where it goes, where it comes from, and what is known of it."""

    path: str
    """Its place in the dataset's folder."""
    also: tuple[str, ...] = ()
    """Other places in which it may lie as well."""
    kind: str = "images"
    """`labels`, `images` or another word that `facepack fetch --only` takes."""
    optional: bool = False
    """Fetched only where its kind is asked for."""
    urls: tuple[str, ...] = ()
    """Direct addresses, tried in order."""
    drive: str = ""
    """Number of the file on Google Drive."""
    kaggle: str = ""
    """Name of a dataset on Kaggle, <owner>/<name>: the file is its archive."""
    page: str = ""
    """The page on which a person gets it, where none of the above says so."""
    pieces: bool = False
    """Published in pieces <url>aa, <url>ab, ... that are joined."""
    unpack: bool = False
    """Taken apart where it lies; other archives are read in place."""
    gives: str = ""
    """The file or folder that stands for it once it is taken apart."""
    num_files: int = Field(default=0, ge=0)
    """Files in the folder that it gives."""
    num_bytes: int = Field(default=0, ge=0)
    md5: Annotated[str, Field(pattern="^([0-9a-f]{32})?$")] = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="after")
    def _is_complete(self) -> "File":
        """Check that it names where it comes from, and what an archive gives."""
        if not (self.urls or self.drive or self.kaggle or self.page):
            raise ValueError(f"{self.path}: has neither urls, drive, kaggle nor page")
        if self.unpack and not self.gives:
            raise ValueError(f"{self.path}: unpack without gives")
        if any(Path(path).is_absolute() or ".." in Path(path).parts for path in (self.path, *self.also, self.gives)):
            raise ValueError(f"{self.path}: lies outside the folder of the dataset")
        return self

    @property
    def places(self) -> list[str]:
        """Where it may lie, or what it gives when it is taken apart."""
        published = [self.path, *self.also]
        unpacked = [str(Path(path).parent / self.gives) for path in published] if self.gives else []
        return list(dict.fromkeys([*published, *unpacked]))

    @property
    def source(self) -> str:
        """Where a person gets it."""
        if self.drive:
            return f"https://drive.google.com/file/d/{self.drive}/view"
        if self.kaggle:
            return f"https://www.kaggle.com/datasets/{self.kaggle}"
        return self.page or self.urls[0]


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Model:
    """Weights that somebody published: landmarks, or a network that recipes begin with."""

    name: str
    title: str
    homepage: str
    terms: str
    citation: str
    files: tuple[File, ...] = Field(min_length=1)
    num_images: int = 0
    network: str = ""
    """The network whose recipes take it by its name."""


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Description:
    """All that facepack knows about one dataset; the schema is explained in manifests/README.md."""

    name: str
    title: str
    num_images: int = Field(ge=0)
    homepage: str
    terms: str
    obtain: str
    citation: str
    index: tuple[Annotated[Form, Field(discriminator="kind")], ...] = Field(min_length=1)
    labels: dict[str, Label] = Field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    split: SplitRule | None = None
    faces: FaceColumns | None = None
    archives: dict[str, str] = Field(default_factory=dict)
    """Archives in the source that are read in place, each as if unpacked into a folder ("" for where it lies)."""
    files: tuple[File, ...] = ()
    hub: str = ""
    """The same dataset on the Hugging Face Hub, hf://datasets/OWNER/NAME[@REVISION]: fetched rather than `files`."""
    size: str = ""
    """What its files weigh, as its publishers or those who fetched them say."""
    quirks: tuple[str, ...] = ()
    """What surprises whoever reads its files for the first time."""
    duplicates: bool = False
    default_classes: str = ""
    examples: tuple[Example, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_agree(self) -> "Description":
        """Check that fields which name each other do."""
        if clash := set(self.labels) & set(self.attributes):
            raise ValueError(f"both in labels and attributes: {', '.join(sorted(clash))}")
        if clash := {*self.labels, *self.attributes} & RESERVED:
            raise ValueError(f"names of facepack's own columns cannot be labels: {', '.join(sorted(clash))}")
        for number, index in enumerate(self.index):
            of_tables = [name for table in index.tables for name in table.labels]
            if unknown := {*index.lacks, *getattr(index, "may_lack", ()), *of_tables} - set(self.labels):
                raise ValueError(f"index.{number}: no such label: {', '.join(sorted(unknown))}")
        return self

    @property
    def all_labels(self) -> dict[str, Label]:
        """Label columns in the order of the manifest: the attributes, then the others."""
        attribute = Label(kind="attribute", values=ATTRIBUTE_VALUES)
        return dict.fromkeys(self.attributes, attribute) | self.labels

    def labels_of(self, kind: str) -> list[str]:
        """Names of the label columns of one kind, in order."""
        return [name for name, label in self.all_labels.items() if label.kind == kind]

    @property
    def image_sets(self) -> list[str]:
        """Names that `--images` takes: the sets of images that the label files name."""
        names = [
            name
            for index in self.index
            for name in (index.images if isinstance(index, TableIndex) else index.image_sets)
        ]
        return list(dict.fromkeys(names))


Published = Description | Model
"""What somebody published and `facepack fetch` gets."""


def manifests_folder() -> Path:
    """The folder of the dataset descriptions: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "manifests"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "manifests"


def dataset_names() -> list[str]:
    """Names of all datasets: those of the files in the folder of descriptions."""
    return sorted(path.stem for path in manifests_folder().glob("*.toml"))


def model_names() -> list[str]:
    """Names of all models that can be fetched: those of the files in its folder models."""
    return sorted(path.stem for path in (manifests_folder() / "models").glob("*.toml"))


def data_folder() -> Path:
    """Where datasets and models are looked for: $FACEPACK_DATA, else data."""
    return Path(os.environ.get("FACEPACK_DATA") or "data")


def models_folder() -> Path:
    """Where models are looked for."""
    return data_folder() / "models"


def model_file(name: str) -> Path | None:
    """A file of dlib's models: in the folder of the models, or in the package face_recognition_models; None without."""
    places = [models_folder()]
    # Found, not imported: its own Python needs a pkg_resources that setuptools no longer has.
    package = importlib.util.find_spec("face_recognition_models")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "models")
    return next((place / name for place in places if (place / name).is_file()), None)


def dataset_folder(name: str) -> Path:
    """The folder that a dataset, or a model, is looked for in."""
    return data_folder() / name if name in dataset_names() else models_folder()


def parse_description(path: Path) -> Description:
    """Read one description of a dataset; `JobError` names the file and the first field that is wrong."""
    description: Description = _parsed(path, toml_content(path), kind=Description)
    return description


def parse_content(path: Path, content: dict[str, Any]) -> Description:
    """A description from what stands in its file; `JobError` names the file and the first field that is wrong."""
    description: Description = _parsed(path, content, kind=Description, has_any_name=True)
    return description


def parse_model(path: Path) -> Model:
    """Read one description of a model; `JobError` names the file and the first field that is wrong."""
    model: Model = _parsed(path, toml_content(path), kind=Model)
    return model


def toml_content(path: Path) -> dict[str, Any]:
    """What stands in a TOML file; `JobError` where it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: not valid TOML: {error}") from error


def _parsed(path: Path, content: dict[str, Any], *, kind: Any, has_any_name: bool = False) -> Any:
    try:
        description = TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "description"
        raise JobError(f"{path}: field {field}: {first['msg']}") from error
    if description.name != path.stem and not has_any_name:
        raise JobError(f"{path}: field name: is {description.name!r}, the file is called {path.stem!r}")
    return description


@cache
def load_dataset(name: str) -> Description:
    """The description of a dataset; an unknown name is a `UsageError` that offers the nearest ones."""
    _check_known("dataset", name, dataset_names())
    return parse_description(manifests_folder() / f"{name}.toml")


@cache
def load_model(name: str) -> Model:
    """The description of a model; an unknown name is a `UsageError` that offers the nearest ones."""
    _check_known("model", name, model_names())
    return parse_model(manifests_folder() / "models" / f"{name}.toml")


def load_published(name: str) -> Published:
    """The description of a dataset, or else of a model; an unknown name is a `UsageError` that offers the nearest."""
    _check_known("dataset or model", name, [*dataset_names(), *model_names()])
    return load_dataset(name) if name in dataset_names() else load_model(name)


def load_fetched(name: str) -> Published:
    """What `facepack fetch` gets by a name: where a dataset and the model that learnt from it share it, the model."""
    return load_model(name) if name in model_names() else load_published(name)


def _check_known(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UsageError(f"unknown {what} {name!r}: {nearest(name, names)}")
