"""The pictures of a preview page: contact sheets, mean faces, detected faces and rejected photos."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import align, image
from facepack.choices import MOST_PIXELS
from facepack.manifest import Status
from facepack.page import jpeg_uri
from facepack.preview_model import MAX_CLASSES, THERE, Picture, PreviewInput, Reject, Sheet
from facepack.reader import OpenBuild, decode_bgr
from facepack.source import Source

_THUMB_PX, _SOURCE_PX, _MEAN_PX = 112, 200, 200
_NUM_PICTURES, _MIN_PER_CLASS, _MAX_PER_CLASS, _NUM_PER_REASON = 240, 6, 24, 14
_MEAN_OF, _FEWEST_FOR_MEAN = 200, 12
_MAX_REMOTE_SHARDS, _MAX_PIXELS = 12, 300_000_000
_EXCERPT = 60


class Samples:
    """Some images of each class, up to what a contact sheet and a mean need, from rows in random order."""

    def __init__(self, table: pa.Table, *, class_names: list[str]) -> None:
        shown = class_names[:MAX_CLASSES] or [""]
        self.per_class = max(_MIN_PER_CLASS, min(_MAX_PER_CLASS, _NUM_PICTURES // len(shown)))
        if not class_names:
            self.per_class = 4 * _MAX_PER_CLASS
        self.images: dict[str, list[image.Pixels]] = {name: [] for name in shown}
        self.rows: dict[str, list[int]] = {name: [] for name in shown}
        self._class_of = [name or "" for name in table["class"].to_pylist()]
        self._num_pixels = 0
        self._num_rows = Counter(name for name in self._class_of if name in self.images)

    def needs(self, row: int) -> bool:
        """True where the image of this row of the table would be shown."""
        name = self._class_of[row]
        limit = _MEAN_OF if self._num_pixels < _MAX_PIXELS else self.per_class
        return name in self.images and len(self.images[name]) < limit

    def add(self, row: int, image_hwc: image.Pixels) -> None:
        """Add an image, reduced."""
        self._num_pixels += image_hwc.shape[0] * image_hwc.shape[1]
        name = self._class_of[row]
        self.images[name].append(_reduced(image_hwc, _SOURCE_PX))
        self.rows[name].append(row)

    @property
    def is_full(self) -> bool:
        """True where every contact sheet is full."""
        return all(len(images) >= min(self.per_class, self._num_rows[name]) for name, images in self.images.items())


def _reduced(image_hwc: image.Pixels, largest_px: int) -> image.Pixels:
    height, width = image_hwc.shape[:2]
    scale = min(1.0, largest_px / max(height, width))
    return image.resize(image_hwc, width_px=max(1, round(width * scale)), height_px=max(1, round(height * scale)))


def samples_of_build(build: OpenBuild) -> Samples:
    """Images of a build, whole shards at a time; in each they lie in random order, train first."""
    packed = build.packed.table
    samples = Samples(packed, class_names=build.info.class_names)
    by_shard: dict[str, list[int]] = defaultdict(list)
    for row, shard in enumerate(packed["shard"].to_pylist()):
        by_shard[shard].append(row)
    offsets, sizes = packed["offset"].to_pylist(), packed["size"].to_pylist()
    for record in build.info.shards[:_MAX_REMOTE_SHARDS] if build.is_remote else build.info.shards:
        content = build.shard(record.name)
        for row in by_shard[record.name]:
            if samples.needs(row):
                encoded = bytes(content[offsets[row] : offsets[row] + sizes[row]])
                samples.add(row, decode_bgr(encoded, build.info, where=f"{build.location}/{record.name}"))
        if samples.is_full:
            break
    return samples


def samples_of_source(source: Source, table: pa.Table) -> Samples:
    """Images of a dataset, in the order in which they would be packed; bad ones are passed over."""
    there = table.filter(pc.field("status") == THERE)
    names = [name for name in there["class"].unique().to_pylist() if name]
    samples = Samples(there, class_names=sorted(names))
    for row, path in enumerate(there["source"].to_pylist()):
        if samples.is_full or row > 20 * _NUM_PICTURES:
            break
        if samples.needs(row):
            try:
                samples.add(row, image.decode(source.read(path)))
            except (image.BadImageError, OSError):
                continue
    return samples


def _uri(image_hwc: image.Pixels, *, largest_px: int) -> str:
    """A JPEG inside the page itself."""
    return jpeg_uri(image.encode_jpeg(_reduced(image_hwc, largest_px), quality=85))


def _mean(images: Sequence[image.Pixels]) -> str:
    """The mean of images of one shape; "" for too few or for several shapes, as faces must lie over faces."""
    if len(images) < _FEWEST_FOR_MEAN or len({image_hwc.shape for image_hwc in images}) > 1:
        return ""
    total: npt.NDArray[np.float64] = np.zeros(images[0].shape)
    for image_hwc in images:
        total += image_hwc
    return _uri(np.rint(total / len(images)).astype(np.uint8), largest_px=_MEAN_PX)


def contact_sheets(good: pa.Table, samples: Samples) -> list[Sheet]:
    """A contact sheet per class, with its mean face."""
    numbers = Counter(name or "" for name in good["class"].to_pylist())
    sources, number = good["source"].to_pylist(), samples.per_class
    sheets = []
    for name, images in samples.images.items():
        pairs = zip(images[:number], samples.rows[name][:number], strict=True)
        thumbs = [Picture(_uri(image_hwc, largest_px=_THUMB_PX), printable(sources[row])) for image_hwc, row in pairs]
        sheets.append(Sheet(name, numbers[name], thumbs, _mean(images), len(images)))
    return sheets


def attribute_means(data: PreviewInput, good: pa.Table, samples: Samples) -> list[Sheet]:
    """Without classes: the mean face of each attribute, over the images that were read."""
    if data.class_names or not samples.images.get(""):
        return []
    images, rows = samples.images[""], samples.rows[""]
    sheets = []
    for name in data.description.labels_of("attribute"):
        if name in good.column_names:
            values = good[name].take(pa.array(rows)).to_pylist()
            positive = [image_hwc for image_hwc, value in zip(images, values, strict=True) if value == 1]
            sheets.append(Sheet(name, len(positive), [], _mean(positive), len(positive)))
    return [sheet for sheet in sheets if sheet.mean]


def detected_faces(data: PreviewInput, good: pa.Table) -> list[Picture]:
    """Some photos with the box and the landmarks of the face that was cut out of them."""
    if data.source is None or not {"box", "landmarks"} <= set(good.column_names):
        return []
    has_face = pc.or_(pc.is_valid(good["box"]), pc.is_valid(good["landmarks"]))
    rows = good.filter(has_face).slice(0, _NUM_PER_REASON)
    pictures = []
    for row in rows.select(["source", "source_sha256", "box", "landmarks"]).to_pylist():
        try:
            content = data.source.read(row["source"])
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() != row["source_sha256"]:  # the box would be about another photo
            continue
        photo_hwc = image.decode(content, max_pixels=MOST_PIXELS, min_side_px=1, keep_damaged=True)
        boxes = [align.Box(*row["box"])] if row["box"] else []
        drawn_hwc = _with_boxes(photo_hwc, boxes, landmarks=row["landmarks"] or ())
        pictures.append(Picture(_uri(drawn_hwc, largest_px=_SOURCE_PX), printable(row["source"])))
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


def rejects(data: PreviewInput) -> list[Reject]:
    """Every reject reason with its number, and some of the photos, with the faces that are detected in them."""
    rejected = data.table.filter(pc.not_equal(data.table["status"], data.good))
    numbers = Counter(rejected["status"].to_pylist())
    reasons = [reason for reason in Status if reason != Status.PACKED and numbers[reason]]
    of_reason = [_of_reason(reason, rejected.filter(pc.field("status") == reason), data.source) for reason in reasons]
    return sorted(of_reason, key=lambda reject: -reject.number)


def _of_reason(reason: Status, rows: pa.Table, source: Source | None) -> Reject:
    some = rows.slice(0, _NUM_PER_REASON)
    paths = some["source"].to_pylist()
    if reason == Status.MISSING or source is None:
        return Reject(str(reason), len(rows), reason.meaning, [], [printable(path) for path in paths])
    digests = some["source_sha256"].to_pylist() if "source_sha256" in some.column_names else [None] * len(some)
    pairs = zip(paths, digests, strict=True)
    pictures = [_rejected(path, reason, source, sha256=sha256) for path, sha256 in pairs]
    return Reject(str(reason), len(rows), reason.meaning, pictures)


def _rejected(path: str, reason: Status, source: Source, *, sha256: str | None) -> Picture:
    """A rejected photo, or in words why it cannot be shown."""
    caption = printable(path)
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


def printable(path: str) -> str:
    """A path as text; bytes that are no text are shown by their numbers."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
