"""The configuration of a build: all choices that decide its bytes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypedDict

from pydantic import TypeAdapter, ValidationError

from facepack.description import load_dataset
from facepack.errors import JobError, UsageError
from facepack.hashing import json_digest

DEFAULT_QUALITY = 95
_DEFAULT_SIZE = {"none": "keep", "crop": "120", "chip": "112"}
_DEFAULT_MARGIN = {"none": "", "crop": "15", "chip": "25%"}


class Options(TypedDict, total=False):
    """What `Configuration.of` takes: the options of `facepack build` that decide bytes."""

    images: str
    classes: str | Sequence[str]
    multiple: Literal["first", "drop"]
    age_bins: str
    limit_per_class: int | None
    limit: int | None
    split: str
    seed: int
    size: str | int | tuple[int, int]
    align: Literal["none", "crop", "chip"]
    margin: str | int
    on_several: Literal["reject", "largest"]
    encoding: Literal["jpeg", "raw"]
    quality: int
    samples_per_shard: int


@dataclass(frozen=True)
class Configuration:
    """All choices that decide the bytes of a build, as the command line gives them; a wrong one is a `UsageError`."""

    dataset: str
    images: str = ""
    classes: str = ""
    multiple: Literal["first", "drop"] = "first"
    age_bins: str = ""
    limit_per_class: int | None = None
    limit: int | None = None
    split: str = ""
    seed: int = 0
    size: str = ""
    """N, WxH or keep; where it is not given, keep for whole photos, the published 120 for crops, 112 for chips."""
    align: Literal["none", "crop", "chip"] = "none"
    margin: str = ""
    """Around the face: of a crop in pixels of the photo, as published 15, or in percent of the face; of a chip 25%."""
    on_several: Literal["reject", "largest"] = "reject"
    landmarks: str = ""
    """sha256 of the landmark model that places the eyes of a chip."""
    encoding: Literal["jpeg", "raw"] = "jpeg"
    quality: int = DEFAULT_QUALITY
    samples_per_shard: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.size or _DEFAULT_SIZE[self.align])
        object.__setattr__(self, "margin", self.margin or _DEFAULT_MARGIN[self.align])
        self._check_alignment()
        if self.size_wh is not None:  # one way to write one size, for it is part of the digest
            width_px, height_px = self.size_wh
            object.__setattr__(self, "size", f"{width_px}" if width_px == height_px else f"{width_px}x{height_px}")
        if self.classes and self.age_bins:
            raise UsageError("--classes and --age-bins both name the classes: give one of them")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: expected 1 to 100")
        if self.encoding == "raw" and self.quality != DEFAULT_QUALITY:
            raise UsageError("--quality: needs --encoding jpeg, as pixels are kept as they are")
        for name in ("limit", "limit_per_class", "samples_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected at least 1")

    @classmethod
    def of(cls, dataset: str, **options: Any) -> "Configuration":
        """A configuration from options as the command line takes them; an unknown dataset is a `UsageError`."""
        return cls(load_dataset(dataset).name, **options)

    @cached_property
    def size_wh(self) -> tuple[int, int] | None:
        """Width and height of the packed images in pixels, None where they keep their own."""
        if self.size == "keep":
            return None
        width, x, height = self.size.partition("x")
        try:
            size = int(width), int(height if x else width)
        except ValueError:
            size = (0, 0)
        if not all(8 <= side <= 4096 for side in size):
            raise UsageError(f"--size {self.size}: expected N, WxH (8 to 4096 pixels) or keep")
        return size

    @property
    def margin_value(self) -> tuple[float, Literal["px", "share"]]:
        """The margin around a face: pixels of the photo, or a share of the face's side (of a chip: dlib's padding)."""
        number, percent, rest = self.margin.partition("%")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= (200 if percent else 1000) or rest:
            raise UsageError(f"--margin {self.margin}: expected pixels, such as 15, or a part of the face, such as 25%")
        return (value / 100, "share") if percent else (value, "px")

    def _check_alignment(self) -> None:
        """Refuse what does not go together."""
        if self.align == "none":
            for name, unused in (("margin", self.margin), ("on-several", self.on_several != "reject")):
                if unused:
                    raise UsageError(f"--{name}: needs --align crop or chip, as whole photos have no face to go by")
            return
        value, unit = self.margin_value
        written = f"{value:g}" if unit == "px" else f"{100 * value:g}%"
        object.__setattr__(self, "margin", written)  # one way to write one margin, for it is part of the digest
        if self.align == "chip" and unit == "px":
            raise UsageError(f"--margin {self.margin}: the margin of a chip is a part of the face, such as 25%")
        if self.size_wh is None and self.align == "chip":
            raise UsageError("--size keep: a chip has a size of its own, such as --size 112")
        if self.size_wh is not None and self.size_wh[0] != self.size_wh[1]:
            raise UsageError(f"--size {self.size}: faces are cut out as squares, such as --size {self.size_wh[0]}")

    @property
    def digest(self) -> str:
        """sha256 of the configuration in canonical JSON."""
        return json_digest(asdict(self))

    def differences(self, other: "Configuration") -> list[str]:
        """The fields in which another one differs, as 'size: 64 there, 128 here'."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {theirs[name]} there, {mine[name]} here" for name in mine if theirs[name] != mine[name]]


def configuration_of(content: dict[str, Any], *, where: str) -> Configuration:
    """A recorded configuration; `JobError` names the field that is wrong."""
    try:
        return TypeAdapter(Configuration).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise JobError(f"{where}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"field {'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else f"not valid: {first['msg']}"
