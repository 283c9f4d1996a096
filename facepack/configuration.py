"""The configuration of a build: all choices that decide its bytes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from facepack.choices import AgeBins, ClassChoice, Margin, Size, SplitRule
from facepack.errors import FieldError, JobError, UsageError, nearest
from facepack.hashing import json_digest

DEFAULT_QUALITY = 95
_DEFAULT_SIZE = {"none": "keep", "crop": "120", "chip": "112"}
_DEFAULT_MARGIN = {"none": "", "crop": "15", "chip": "25%"}
_PARSERS = {
    "classes": ClassChoice.of,
    "age_bins": AgeBins.of,
    "split": SplitRule.of,
    "size": Size.of,
    "margin": Margin.of,
}
_CLOSED = {
    "multiple": ("first", "drop"),
    "align": ("none", "crop", "chip"),
    "on_several": ("reject", "largest"),
    "encoding": ("jpeg", "raw"),
}


@dataclass(frozen=True)
class Configuration:
    """All choices that decide the bytes of a build, as build.json records them: each in one way to write it.

    `Configuration.of` makes one from what a user writes. A wrong choice is a `FieldError`.
    """

    dataset: str
    images: str = ""
    classes: str = ""
    multiple: Literal["first", "drop"] = "first"
    age_bins: str = ""
    limit_per_class: int | None = None
    limit: int | None = None
    split: str = ""
    seed: int = 0
    size: str = "keep"
    """N, WxH or keep."""
    align: Literal["none", "crop", "chip"] = "none"
    margin: str = ""
    """Around the face: of a crop in pixels of the photo, as published 15, or in percent of the face; of a chip 25%."""
    on_several: Literal["reject", "largest"] = "reject"
    landmarks: str = ""
    """sha256 of the landmark model that places the eyes of a chip."""
    encoding: Literal["jpeg", "raw"] = "jpeg"
    quality: int = DEFAULT_QUALITY
    samples_per_shard: int = 1000

    @classmethod
    def of(cls, dataset: str, **options: Any) -> "Configuration":
        """Make one from the options of `facepack build`, with underscores for dashes, as text or as plain values.

            Configuration.of("celeba", classes=["Bald", "Male"], size=(96, 112), split="80/10/10")

        What is left out has its default: size keep for whole photos, the published 120 for crops, 112 for chips.
        Raises `UsageError` for an option that does not exist, `FieldError` for a value that cannot be.
        """
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise UsageError(f"{unknown[0]}: no such option; {nearest(unknown[0], names[1:])}")
        for name, choices in _CLOSED.items():
            if name in options and options[name] not in choices:
                raise FieldError(name, options[name], f"expected {', '.join(choices[:-1])} or {choices[-1]}")
        align = options.get("align", "none")
        given = {name: value for name, value in options.items() if not _is_empty(value)}
        given = {"size": _DEFAULT_SIZE[align], "margin": _DEFAULT_MARGIN[align]} | given
        texts = {name: _canonical(name, given[name]) for name in _PARSERS if not _is_empty(given.get(name, ""))}
        return cls(dataset, **(given | texts))

    def __post_init__(self) -> None:
        if self.classes and self.age_bins:
            raise FieldError("classes", self.classes, "age bins name the classes, too: give one of them")
        if not 1 <= self.quality <= 100:
            raise FieldError("quality", self.quality, "expected 1 to 100")
        if self.encoding == "raw" and self.quality != DEFAULT_QUALITY:
            raise FieldError("quality", self.quality, "needs encoding jpeg, as raw pixels are kept as they are")
        for name in ("limit", "limit_per_class", "samples_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FieldError(name, value, "expected at least 1")
        for name in _PARSERS:
            text = getattr(self, name)
            if text and _canonical(name, text) != text:
                raise FieldError(name, text, f"expected it written as {_canonical(name, text)}")
        self._check_alignment()

    def _check_alignment(self) -> None:
        """Refuse what does not go together."""
        size, margin = Size.of(self.size), self.face_margin
        if self.align == "none":
            if self.margin:
                raise FieldError("margin", "", "needs align crop or chip, as whole photos have no face to go by")
            if self.on_several != "reject":
                raise FieldError("on_several", "", "needs align crop or chip, as whole photos have no face to go by")
            return
        if self.align == "chip" and margin is not None and margin.unit == "px":
            raise FieldError("margin", self.margin, "the margin of a chip is a part of the face, such as 25%")
        if size is None and self.align == "chip":
            raise FieldError("size", "keep", "a chip has a size of its own, such as 112")
        if size is not None and size.width_px != size.height_px:
            raise FieldError("size", self.size, f"faces are cut out as squares, such as {size.width_px}")

    @cached_property
    def class_choice(self) -> ClassChoice | None:
        """The chosen classes, None where none were chosen."""
        return ClassChoice.of(self.classes) if self.classes else None

    @cached_property
    def bins(self) -> AgeBins | None:
        """Classes by age, None where none were chosen."""
        return AgeBins.of(self.age_bins) if self.age_bins else None

    @cached_property
    def split_rule(self) -> SplitRule | None:
        """The chosen split, None for the dataset's own."""
        return SplitRule.of(self.split) if self.split else None

    @cached_property
    def size_wh(self) -> tuple[int, int] | None:
        """Width and height of the packed images in pixels, None where they keep their own."""
        size = Size.of(self.size)
        return None if size is None else (size.width_px, size.height_px)

    @cached_property
    def face_margin(self) -> Margin | None:
        """The margin around a face, None where photos stay whole."""
        return Margin.of(self.margin) if self.margin else None

    @property
    def digest(self) -> str:
        """sha256 of the configuration in canonical JSON."""
        return json_digest(asdict(self))

    def with_landmarks(self, digest: str) -> "Configuration":
        """The same with the sha256 of a landmark model."""
        return replace(self, landmarks=digest)

    def differences(self, other: "Configuration") -> list[str]:
        """The fields in which another one differs, as 'size: 64 there, 128 here'."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {theirs[name]} there, {mine[name]} here" for name in mine if theirs[name] != mine[name]]


def _is_empty(value: Any) -> bool:
    """True for what stands for a default: "", or an empty list."""
    return isinstance(value, Sequence) and not len(value)


def _canonical(name: str, value: Any) -> str:
    """A parsed choice, written in its one way."""
    parsed = _PARSERS[name](value)
    return "keep" if parsed is None else f"{parsed}"


def configuration_of(content: dict[str, Any], *, where: str) -> Configuration:
    """A recorded configuration; `JobError` names the field that is wrong."""
    try:
        return TypeAdapter(Configuration).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise JobError(f"{where}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """The first field of a record that is wrong, and why."""
    first = error.errors(include_url=False)[0]
    return f"field {'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else f"not valid: {first['msg']}"
