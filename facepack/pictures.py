"""The pictures of a preview page: contact sheets, mean faces, detected faces and rejected photos."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack import align, image
from facepack.choices import MOST_PIXELS
from facepack.figures import counted
from facepack.manifest import Status
from facepack.manifest_rows import ManifestRows, RowIndex
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

    def __init__(self, classes: pa.ChunkedArray, *, class_names: list[str]) -> None:
        shown = class_names[:MAX_CLASSES] or [""]
        self.per_class = max(_MIN_PER_CLASS, min(_MAX_PER_CLASS, _NUM_PICTURES // len(shown)))
        if not class_names:
            self.per_class = 4 * _MAX_PER_CLASS
        self.images: dict[str, list[image.Pixels]] = {name: [] for name in shown}
        self.rows: dict[str, list[int]] = {name: [] for name in shown}
        encoded = classes.combine_chunks().fill_null("").dictionary_encode()
        self._codes, self._names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        self._num_pixels = 0
        self._num_rows = counted(encoded)

    def _class_of(self, row: int) -> str:
        name: str = self._names[self._codes[row]]
        return name

    def needs(self, row: int) -> bool:
        """True where the image of this row of the table would be shown."""
        name = self._class_of(row)
        limit = _MEAN_OF if self._num_pixels < _MAX_PIXELS else self.per_class
        return name in self.images and len(self.images[name]) < limit

    def add(self, row: int, image_hwc: image.Pixels) -> None:
        """Add an image, reduced."""
        self._num_pixels += image_hwc.shape[0] * image_hwc.shape[1]
        name = self._class_of(row)
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


def samples_of_build(build: OpenBuild, rows: ManifestRows, *, table: pa.Table) -> Samples:
    """Images of a build, whole shards at a time; in each they lie in random order, train first.

    `table` has all rows of the manifest, of which `Samples` counts those that are packed.
    """
    is_packed = pc.equal(table["status"], Status.PACKED)
    samples = Samples(table["class"].filter(is_packed), class_names=build.info.class_names)
    number_of = np.cumsum(np.asarray(is_packed)) - 1
    shards = RowIndex(rows).shards
    for record in build.info.shards[:_MAX_REMOTE_SHARDS] if build.is_remote else build.info.shards:
        content = build.shard(record.name)
        numbers = shards[record.name]
        places = rows.take(numbers).select(["offset", "size"])
        pairs = zip(places["offset"].to_pylist(), places["size"].to_pylist(), strict=True)
        for row, (offset, size) in zip(number_of[numbers].tolist(), pairs, strict=True):
            if samples.needs(row):
                encoded = bytes(content[offset : offset + size])
                samples.add(row, decode_bgr(encoded, build.info, where=f"{build.location}/{record.name}"))
        if samples.is_full:
            break
    return samples


def packed_pictures(build: OpenBuild, rows: pa.Table, *, captions: Sequence[str]) -> list[Picture]:
    """The packed images of some rows, by their columns shard, offset and size."""
    places = zip(*(rows[name].to_pylist() for name in ("shard", "offset", "size")), captions, strict=True)
    pictures = []
    for shard, offset, size, caption in places:
        content = bytes(build.shard(shard)[offset : offset + size])
        image_hwc = decode_bgr(content, build.info, where=f"{build.location}/{shard}")
        pictures.append(Picture(_uri(image_hwc, largest_px=_SOURCE_PX), printable(caption)))
    return pictures


def samples_of_source(source: Source, table: pa.Table) -> Samples:
    """Images of a dataset, in the order in which they would be packed; bad ones are passed over."""
    is_there = pc.equal(table["status"], THERE)
    classes, paths = table["class"].filter(is_there), table["source"].filter(is_there)
    samples = Samples(classes, class_names=sorted(filter(None, classes.unique().to_pylist())))
    for row, path in enumerate(paths.slice(0, 20 * _NUM_PICTURES + 1).to_pylist()):
        if samples.is_full:
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
    numbers, number = counted(pc.fill_null(good["class"], "")), samples.per_class
    sheets = []
    for name, images in samples.images.items():
        paths = good["source"].take(pa.array(samples.rows[name][:number], pa.int64())).to_pylist()
        pairs = zip(images[:number], paths, strict=True)
        thumbs = [Picture(_uri(image_hwc, largest_px=_THUMB_PX), printable(path)) for image_hwc, path in pairs]
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


def detected_faces(data: PreviewInput) -> list[Picture]:
    """Some photos with the box and the landmarks of the face that was cut out of them."""
    if data.source is None or not {"box", "landmarks"} <= set(data.few.column_names):
        return []
    rows = data.few.filter(pc.equal(data.few["status"], data.good))
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
    numbers = counted(data.table["status"])
    rejects = [_of_reason(reason, numbers[reason], data) for reason in Status if reason != Status.PACKED]
    return sorted((reject for reject in rejects if reject.number), key=lambda reject: -reject.number)


def _of_reason(reason: Status, number: int, data: PreviewInput) -> Reject:
    some, source = data.few.filter(pc.equal(data.few["status"], reason)), data.source
    paths = some["source"].to_pylist()
    if reason == Status.MISSING or source is None:
        return Reject(str(reason), number, reason.meaning, [], [printable(path) for path in paths])
    digests = some["source_sha256"].to_pylist() if "source_sha256" in some.column_names else [None] * len(some)
    pairs = zip(paths, digests, strict=True)
    pictures = [_rejected(path, reason, source, sha256=sha256) for path, sha256 in pairs]
    return Reject(str(reason), number, reason.meaning, pictures)


def first_rows(parts: Iterable[pa.Table]) -> pa.Table:
    """The first rows of each status, as many as are shown; of packed ones those with a face that was cut out."""
    few: list[pa.Table] = []
    numbers = Counter[str]()
    for part in parts:
        for status in part["status"].unique().to_pylist():
            rows = part.filter(pc.equal(part["status"], status))
            if status == Status.PACKED:
                rows = rows.filter(pc.or_(pc.is_valid(rows["box"]), pc.is_valid(rows["landmarks"])))
            few.append(rows.slice(0, _NUM_PER_REASON - numbers[status]))
            numbers[status] += len(few[-1])
    return pa.concat_tables(few)


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
