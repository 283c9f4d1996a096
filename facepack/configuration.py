"""The configuration of a build: all choices that decide its bytes."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

from pydantic import TypeAdapter, ValidationError

from facepack import own_description
from facepack.choices import MAX_PIXELS, MIN_SIDE_PX, MOST_PIXELS, AgeBins, Classes, Margin, Size, Split
from facepack.description import Description, load_dataset
from facepack.errors import FieldError, JobError, nearest
from facepack.hashing import json_digest

DEFAULT_QUALITY = 95
DEFAULT_SIZES = {"none": "keep", "crop": "120", "chip": "112"}
"""By alignment: whole photos keep their size; the published 120 px for crops; 112 px for chips."""
DEFAULT_MARGINS = {"none": "", "crop": "15", "chip": "25%"}
"""By alignment: the published 15 pixels of the photo around a crop, a quarter of the face around a chip."""
ARCFACE_MARGIN = "0%"
"""Around a chip by ArcFace's template, which has its own."""

_PARSED: dict[str, Any] = {
    "classes": Classes.of,
    "age_bins": AgeBins.of,
    "split": Split.of,
    "size": lambda value: Size.of(value) or "keep",
    "margin": lambda value: None if value in ("", None) else Margin.of(value),
}
"""Fields whose text has a grammar."""
_AT_LEAST_ONE = ("limit", "limit_per_class", "max_pixels", "min_per_class", "min_side", "samples_per_shard")
_LIMITS = ("min_face", "max_yaw", "max_roll", "min_brightness", "max_brightness", "min_contrast", "min_sharpness")
_LATER = ("near_duplicates", *_LIMITS)
"""Fields that are recorded only where they have a value, so that the digests of builds made before them still hold."""
_LOSSY = ("jpeg", "webp")
"""Encodings that have a quality."""


class Options(TypedDict, total=False):
    """What `Configuration.of` takes: the options of `facepack build` that decide bytes, as text or as plain values."""

    images: str
    classes: str | Sequence[str]
    multiple: Literal["first", "drop"]
    age_bins: str | Sequence[str]
    min_per_class: int | None
    limit_per_class: int | None
    limit: int | None
    split: str | Sequence[float]
    seed: int
    size: int | str | Sequence[int]
    fit: Literal["squash", "crop", "pad"]
    align: Literal["none", "crop", "chip"]
    margin: float | str
    template: Literal["dlib", "arcface"]
    on_several: Literal["reject", "largest", "all"]
    detector: Literal["hog", "cnn", "hog+cnn"]
    landmarks_from: Literal["model", "labels"]
    encoding: Literal["jpeg", "png", "webp", "raw"]
    quality: int
    max_pixels: int
    min_side: int
    decode: Literal["fast", "full"]
    keep_damaged: bool
    samples_per_shard: int
    near_duplicates: Literal["keep", "drop", "same-split"]
    min_face: float | None
    max_yaw: float | None
    max_roll: float | None
    min_brightness: float | None
    max_brightness: float | None
    min_contrast: float | None
    min_sharpness: float | None


@dataclass(frozen=True)
class Configuration:
    """All choices that decide the bytes of a build, each as its one text, which is what build.json records.

    Made by `Configuration.of`, which takes any way to write a value; a text that cannot be is a `FieldError` here, too.
    """

    dataset: str
    images: str = ""
    classes: str = ""
    multiple: Literal["first", "drop"] = "first"
    age_bins: str = ""
    min_per_class: int | None = None
    limit_per_class: int | None = None
    limit: int | None = None
    split: str = ""
    seed: int = 0
    size: str = "keep"
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How a whole photo of another shape takes on the size: squashed, cut to its middle, or with black borders."""
    align: Literal["none", "crop", "chip"] = "none"
    margin: str = ""
    """Around the face; empty for whole photos."""
    template: Literal["dlib", "arcface"] = "dlib"
    """Where the landmarks lie in a chip: as dlib's chips have them, or the five points of ArcFace at 112 pixels."""
    on_several: Literal["reject", "largest", "all"] = "reject"
    """What becomes of a photo of several faces; with all, every face of any photo is a sample of its own."""
    detector: Literal["hog", "cnn", "hog+cnn"] = "hog"
    """What finds faces: dlib's frontal HOG detector, its convolutional network, or that where HOG finds none."""
    mmod: str = ""
    """sha256 of the network of a detector with cnn."""
    landmarks_from: Literal["model", "labels"] = "model"
    """Whether a face is where a detector and a landmark model see it, or where its publisher's labels have it."""
    landmarks: str = ""
    """sha256 of the landmark model that places the eyes of a chip."""
    encoding: Literal["jpeg", "png", "webp", "raw"] = "jpeg"
    quality: int = DEFAULT_QUALITY
    max_pixels: int = MAX_PIXELS
    """The largest image that is decoded, by its header."""
    min_side: int = MIN_SIDE_PX
    """The shortest side of a photo, in pixels."""
    decode: Literal["fast", "full"] = "fast"
    """JPEGs that are shrunk to a half or less: decoded at a reduced scale, or whole."""
    keep_damaged: bool = False
    """Pack JPEGs that the decoder complains of."""
    samples_per_shard: int = 1000
    description: str = ""
    """The description of a dataset that facepack has none of, as `own_description.recorded` gives it."""
    leave_out: str = ""
    """sha256 of the names of images that a list of one's own leaves out."""
    near_duplicates: Literal["keep", "drop", "same-split"] = "keep"
    """What becomes of photos that look alike: packed, dropped but for the first by path, or kept in one split."""
    min_face: float | None = None
    """The least longer side of the box of a face, in pixels of the photo."""
    max_yaw: float | None = None
    """The most that a face may be turned to a side, in degrees."""
    max_roll: float | None = None
    """The most that the line of the eyes may be turned, in degrees."""
    min_brightness: float | None = None
    """The least mean of the grey levels of a packed picture, of 255."""
    max_brightness: float | None = None
    min_contrast: float | None = None
    """The least standard deviation of its grey levels."""
    min_sharpness: float | None = None
    """The least variance of its Laplacian."""
    people: str = ""
    """sha256 of who is on which image by a table of `facepack people`."""

    @classmethod
    def of(cls, dataset: str | Description, **options: Unpack[Options]) -> "Configuration":
        """A configuration from options as the command line or a program gives them; what is empty has its default.

            Configuration.of("celeba", classes="rarest4", size=64, split=(80, 10, 10))

        A dataset is a name, the path of a description of one's own (.toml), or a description. Raises `FieldError` for a
        value that cannot be, `UsageError` for an unknown dataset.
        """
        texts: dict[str, Any] = {name: value for name, value in options.items() if value not in ("", None)}
        if unknown := texts.keys() - Options.__annotations__.keys():
            name = min(unknown)
            raise FieldError(name, "", f"no such option; {nearest(name, Options.__annotations__)}")
        align = texts.get("align", "none")
        _check_choice("align", align)
        margin = ARCFACE_MARGIN if (align, texts.get("template")) == ("chip", "arcface") else DEFAULT_MARGINS[align]
        texts = {"size": DEFAULT_SIZES[align], "margin": margin} | texts
        for name, value in texts.items():
            if name in _PARSED:
                texts[name] = _text(name, value)
            elif _TYPES[name] in (int, int | None):
                texts[name] = _whole(name, value)
            elif name in _LIMITS:
                texts[name] = _number(name, value)
        if isinstance(dataset, str):
            is_own = dataset.endswith(own_description.SUFFIX)
            dataset = own_description.read_description(Path(dataset)) if is_own else load_dataset(dataset)
        if not own_description.is_known(dataset):
            texts["description"] = own_description.recorded(dataset)
        return cls(dataset.name, **texts)

    def __post_init__(self) -> None:
        for name in _CHOICES:
            _check_choice(name, getattr(self, name))
        for name in _PARSED:
            text = getattr(self, name)
            if (expected := _text(name, text)) != text:  # one way to write one value, for it is part of the digest
                raise FieldError(name, text, f"expected {expected!r}, its one way to be written")
        for name in _AT_LEAST_ONE:
            number = getattr(self, name)
            if number is not None and number < 1:
                raise FieldError(name, number, "expected at least 1")
        for name in _LIMITS:
            number = getattr(self, name)
            if number is not None and not 0 <= number < math.inf:
                raise FieldError(name, number, "expected 0 or more")
        if self.description and self.described.name != self.dataset:
            raise FieldError("description", "", f"is of {self.described.name}, the dataset is {self.dataset}")
        if not 1 <= self.quality <= 100:
            raise FieldError("quality", self.quality, "expected 1 to 100")
        if self.max_pixels > MOST_PIXELS:
            raise FieldError("max_pixels", self.max_pixels, f"expected at most {MOST_PIXELS:,}")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse what does not go together."""
        if self.classes and self.age_bins:
            raise FieldError("age_bins", self.age_bins, f"names the classes, as classes {self.classes} does: give one")
        if self.encoding not in _LOSSY and self.quality != DEFAULT_QUALITY:
            advice = f"needs encoding jpeg or webp, as {self.encoding} keeps pixels as they are"
            raise FieldError("quality", self.quality, advice)
        if self.fit != "squash" and (self.size_wh is None or self.align != "none"):
            why = "faces are cut out as squares" if self.size_wh is not None else "needs a size, such as 224 or 224x168"
            raise FieldError("fit", self.fit, why)
        if self.template != "dlib" and self.align != "chip":
            raise FieldError("template", self.template, "needs align chip, as only chips go by landmarks")
        if (self.min_brightness or 0) > (self.max_brightness or math.inf):
            raise FieldError("min_brightness", self.min_brightness, f"max_brightness is {self.max_brightness}")
        if self.align == "none" and self.min_face is not None:
            raise FieldError("min_face", self.min_face, "needs align crop or chip, as no face is looked for")
        if self.align != "chip" and self.landmarks_from != "labels":
            for name in ("max_yaw", "max_roll"):
                if getattr(self, name) is not None:
                    raise FieldError(name, getattr(self, name), "needs align chip, which looks for landmarks")
        if self.align == "none":
            several, labels = self.on_several != "reject", self.landmarks_from == "labels"
            detector = self.detector != "hog"
            unused_of = {"margin": self.margin, "on_several": several, "detector": detector, "landmarks_from": labels}
            for name, unused in unused_of.items():
                if unused:
                    advice = "needs align crop or chip, as whole photos have no face to go by"
                    raise FieldError(name, getattr(self, name), advice)
            return
        if self.landmarks_from == "labels" and self.detector != "hog":
            raise FieldError("detector", self.detector, "landmarks_from labels needs none")
        if self.landmarks_from == "labels" and self.on_several != "reject":
            raise FieldError("on_several", self.on_several, "needs a detector, as labels name one face of a photo")
        if self.align == "chip" and self.face_margin.unit == "px":
            raise FieldError("margin", self.margin, "the margin of a chip is a part of the face, such as 25%")
        if self.align == "chip" and self.size_wh is None:
            raise FieldError("size", self.size, "a chip has a size of its own, such as 112")
        if self.size_wh is not None and self.size_wh.width_px != self.size_wh.height_px:
            raise FieldError("size", self.size, f"faces are cut out as squares, such as {self.size_wh.width_px}")

    @cached_property
    def described(self) -> Description:
        """The description of the dataset; `UsageError` where it is unknown here."""
        return own_description.from_record(self.description) if self.description else load_dataset(self.dataset)

    @cached_property
    def size_wh(self) -> Size | None:
        """Width and height of the packed images in pixels, None where they keep their own."""
        return Size.of(self.size)

    @cached_property
    def face_margin(self) -> Margin:
        """The margin around a face; `FieldError` for whole photos, which have none."""
        return Margin.of(self.margin)

    @cached_property
    def split_rule(self) -> Split | None:
        """How rows are split, None where the dataset decides."""
        return Split.of(self.split)

    @cached_property
    def class_choice(self) -> Classes | None:
        """The classes, None where the dataset decides or ages are the classes."""
        return Classes.of(self.classes)

    @cached_property
    def age_choice(self) -> AgeBins | None:
        """The ages that are the classes, None where they are not."""
        return AgeBins.of(self.age_bins)

    @property
    def digest(self) -> str:
        """sha256 of the configuration in canonical JSON."""
        return json_digest(self.as_record())

    def as_record(self) -> dict[str, Any]:
        """The fields as a build records them."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _DEFAULTS[name]}

    def differences(self, other: "Configuration") -> list[str]:
        """The fields in which another one differs, as 'size: 64 there, 128 here'."""
        mine, theirs = asdict(self), asdict(other)
        if mine.pop("description") != theirs.pop("description"):
            mine["description"], theirs["description"] = "another", "one"
        return [f"{name}: {theirs[name]} there, {mine[name]} here" for name in mine if theirs[name] != mine[name]]


_TYPES = {field.name: field.type for field in fields(Configuration)}
_DEFAULTS = {field.name: field.default for field in fields(Configuration)}
_CHOICES = {name: get_args(kind) for name, kind in _TYPES.items() if getattr(kind, "__origin__", None) is Literal}
"""Fields with a closed choice."""


def _check_choice(name: str, value: object) -> None:
    choices = _CHOICES[name]
    if value not in choices:
        raise FieldError(name, value, f"expected {', '.join(choices[:-1])} or {choices[-1]}")


def _text(name: str, value: object) -> str:
    """The one text of a value of a field that has a grammar."""
    parsed = _PARSED[name](value)
    return "" if parsed is None else f"{parsed}"


def _whole(name: str, value: object) -> int:
    """A whole number, given as such or as text."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise FieldError(name, value, "expected a whole number")
    return number


def _number(name: str, value: object) -> float:
    """A number, given as such or as text."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise FieldError(name, value, "expected a number") from None


def configuration_of(content: dict[str, Any], *, where: str) -> Configuration:
    """A recorded configuration; `JobError` names the field that is wrong."""
    try:
        return TypeAdapter(Configuration).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise JobError(f"{where}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a recorded value, with the field that it is in."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    reason = f"{cause}" if isinstance(cause, FieldError) else first["msg"]
    return f"field {'.'.join(map(str, first['loc']))}: {reason}" if first["loc"] else f"not valid: {reason}"
