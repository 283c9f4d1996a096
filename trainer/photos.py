"""Photos: what a predictor takes, and the files, folders, patterns, lists and videos that name it."""

import glob
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from facepack import signature
from facepack.errors import UsageError
from facepack.image import Pixels
from facepack.signature import IMAGE_SUFFIXES, SIDECAR_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts", ".ts")
STANDARD_INPUT = "-"

_SHORT_OF = 0.95
"""The share of a video's announced frames below which it counts as cut short: some containers only estimate them."""


@dataclass(frozen=True)
class Named:
    """A photo with the name that its predictions carry."""

    name: str
    photo: "str | Path | bytes | Image.Image | npt.NDArray[np.uint8]"


@dataclass(frozen=True)
class Unreadable:
    """Something that was to give a photo, and why it gives none."""

    name: str
    problem: str


Photo: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8] | Named | Unreadable
"""A file, the bytes of one, a PIL image, or pixels uint8 RGB (height, width, 3); any of them with a name."""


def listed(photos: Photo | Iterable[Photo]) -> Iterable[Photo]:
    """Several photos, or the one; `UsageError` for what is neither."""
    is_single = isinstance(photos, str | Path | bytes | Image.Image | Named | Unreadable)
    if is_single or (isinstance(photos, np.ndarray) and photos.ndim < 4):
        return [cast(Photo, photos)]
    if not isinstance(photos, Iterable):
        raise UsageError(_unusable(photos))
    return cast(Iterable[Photo], photos)


def name_of(photo: Photo, number: int) -> str:
    """The name that predictions carry: a file's own, or "photo 3" for bytes and pixels."""
    if isinstance(photo, Named | Unreadable):
        return photo.name
    return f"{photo}" if isinstance(photo, str | Path) else f"photo {number}"


def content_of(photo: Photo) -> bytes | Pixels:
    """The bytes of an image file, or pixels uint8 BGR HWC. `OSError` where a file cannot be read."""
    if isinstance(photo, Named):
        return content_of(photo.photo)
    if isinstance(photo, Unreadable):
        raise OSError(photo.problem)
    if isinstance(photo, str | Path):
        return Path(photo).read_bytes()
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, Image.Image):
        return content_of(np.asarray(ImageOps.exif_transpose(photo).convert("RGB")))
    if not (isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3):
        raise UsageError(_unusable(photo))
    return np.ascontiguousarray(photo[:, :, ::-1])


def _unusable(photo: object) -> str:
    shape = f"{photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else type(photo).__name__
    return f"photo: {shape}; expected a path, bytes, a PIL image, or a uint8 RGB array (height, width, 3)"


# By name


@dataclass(frozen=True)
class Sources:
    """Images and videos by name, and what lay beside them."""

    photos: Sequence[Path | Named]
    """Files, videos among them, and an image from standard input."""
    num_passed: int = 0
    """Files in folders that are neither image nor video."""

    def each(self, *, every_s: float = 1.0) -> Iterator[Photo]:
        """The photos, and of videos a frame every so many seconds, or with 0 every frame."""
        for photo in self.photos:
            if isinstance(photo, Path) and is_video(photo):
                yield from frames(photo, every_s=every_s)
            else:
                yield photo

    @property
    def num_photos(self) -> int | None:
        """How many there are; None where videos are among them."""
        has_videos = any(isinstance(photo, Path) and is_video(photo) for photo in self.photos)
        return None if has_videos else len(self.photos)


def sources_of(names: Sequence[str | Path], *, standard_input: IO[bytes] | None = None) -> Sources:
    """Files, the images and videos in folders, files by a pattern such as "photos/**/*.jpg", and "-".

    "-" is standard input: an image file, or names, one per line (or ended by a zero byte, as find -print0 gives them),
    of which each becomes a photo, also where it is not there. Raises `UsageError` for a name that gives no photo.
    """
    photos: dict[Path | str, Path | Named] = {}
    num_passed = 0
    for name in names:
        if str(name) == STANDARD_INPUT:
            own, passed = _of_standard_input(standard_input or sys.stdin.buffer)
        else:
            own, passed = _of_name(Path(name))
        photos |= {photo if isinstance(photo, Path) else photo.name: photo for photo in own}
        num_passed += passed
    return Sources(list(photos.values()), num_passed)


def is_video(path: Path) -> bool:
    """True where a name ends as those of videos."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _of_name(path: Path) -> tuple[list[Path], int]:
    """The photos of a name, and the number of files that are passed over."""
    if path.is_dir():
        inside = [file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path))]
        photos = sorted(file for file in inside if _is_photo(file))
        if not photos:
            raise UsageError(f"{path}: no image in this folder")
        return photos, len(inside) - len(photos)
    if path.exists():
        return [path], 0
    if glob.has_magic(str(path)):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - of absolute patterns, too
        matching = [Path(name) for name in names if Path(name).is_file()]
        photos = [file for file in matching if _is_photo(file)]
        if photos:
            return photos, len(matching) - len(photos)
        raise UsageError(f"{path}: no image has a name like this")
    raise UsageError(f"{path}: no such photo")


def _of_standard_input(file: IO[bytes]) -> tuple[Sequence[Path | Named], int]:
    content = file.read()
    if signature.is_image(content[: signature.NUM_BYTES]):
        return [Named(STANDARD_INPUT, content)], 0
    lines = content.split(b"\0" if b"\0" in content else b"\n")
    names = [line.rstrip(b"\r").decode(errors="surrogateescape") for line in lines]
    paths = [Path(name) for name in names if name]
    if not paths:
        raise UsageError("standard input: neither an image nor names of photos, one per line")
    folders = {path: _of_name(path) for path in paths if path.is_dir()}
    photos = [photo for path in paths for photo in (folders[path][0] if path in folders else [path])]
    return photos, sum(passed for _, passed in folders.values())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_photo(file: Path) -> bool:
    """True for images and videos, by their names, or by how they begin."""
    suffix = file.suffix.lower()
    if suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        return True
    if suffix in SIDECAR_SUFFIXES:
        return False
    with file.open("rb") as opened:
        return signature.is_image(opened.read(signature.NUM_BYTES))


# Videos


def frames(video: Path, *, every_s: float) -> Iterator[Named | Unreadable]:
    """A frame of a video every so many seconds, upright, named "clip.mp4#t=1.500"; with 0 every frame.

    A video that cannot be read, or ends before it should, gives an `Unreadable` that says so.
    """
    capture = cv2.VideoCapture(str(video))
    try:
        yield from _sampled(capture, video, every_s=every_s)
    finally:
        capture.release()


def _sampled(capture: Any, video: Path, *, every_s: float) -> Iterator[Named | Unreadable]:
    if not capture.isOpened():
        problem = "no video that can be read" if video.exists() else "cannot be read: No such file or directory"
        yield Unreadable(str(video), problem)
        return
    num_frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS) or 25.0
    number, due_s, at_s = 0, 0.0, 0.0
    while capture.grab():
        # Some files have no times of their own.
        at_s = max(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, at_s) or number / rate
        number += 1
        if at_s + 0.5 / rate < due_s:
            continue
        due_s += every_s
        is_whole, frame_hwc = capture.retrieve()
        name = f"{video}#t={at_s:.3f}"
        if is_whole:
            yield Named(name, np.ascontiguousarray(frame_hwc[:, :, ::-1]))
        else:
            yield Unreadable(name, "this frame cannot be decoded")
    if number < _SHORT_OF * num_frames:
        yield Unreadable(f"{video}#t={at_s:.3f}", f"the video ends here, after {number:,} of {num_frames:,.0f} frames")
