"""How pixels are packed: the fit of other shapes, encodings beside JPEG, and limits of the size."""

import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import digests, make
from PIL import Image

from facepack import headers, image, manifest
from facepack.configuration import DEFAULT_QUALITY
from facepack.manifest import Status
from facepack.reader import open_build
from facepack.summary import outcome_lines
from facepack.verification import verify
from trainer.loader import Loader


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of photos: eight of 64x48 pixels, a tall one, a small one."""
    source = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(8):
        name = source / ("ab"[number % 2]) / f"{number}.png"
        name.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((64, 48)).save(name)
    circle = np.full((160, 80, 3), 255, np.uint8)
    cv2.circle(circle, (40, 80), 20, (0, 0, 0), -1)
    Image.fromarray(circle).save(source / "a" / "tall.png")
    Image.fromarray(circle[:12, :20]).save(source / "b" / "small.png")
    return source


def built(photos: Path, out: Path, **choices: Any) -> Any:
    return make(photos, out, dataset="folder", **({"classes": "", "split": "100/0/0", "size": ""} | choices))


def pixels_of(out: Path, name: str) -> Any:
    """The packed pixels of a source, RGB HWC."""
    packed = open_build(str(out)).packed
    return packed.image(packed.table["source"].to_pylist().index(name))


# Fit


@pytest.mark.parametrize(
    ("fit", "expected", "num_squashed"), [("squash", (17, 9), 9), ("crop", (17, 17), 0), ("pad", (9, 9), 0)]
)
def test_circle_of_a_tall_photo_at_each_fit(
    photos: Path, tmp_path: Path, fit: str, expected: tuple[int, int], num_squashed: int
) -> None:
    outcome = built(photos, tmp_path / "out", size=32, fit=fit, encoding="png", min_side=20)
    assert verify(tmp_path / "out", deep=True).is_sound
    tall = pixels_of(tmp_path / "out", "a/tall.png")
    assert tall.shape == (32, 32, 3)
    inner = tall[:, 8:24] if fit == "pad" else tall  # without the borders of a photo twice as high as wide
    assert not tall[:, [0, 31]].any() or fit != "pad"
    rows, columns = np.nonzero(inner[:, :, 0] < 250)
    assert abs(np.ptp(columns) + 1 - expected[0]) <= 1
    assert abs(np.ptp(rows) + 1 - expected[1]) <= 1
    assert outcome.build.num_squashed == num_squashed
    lines = [line for line in outcome_lines(outcome) if "squashed" in line]
    assert bool(lines) == bool(num_squashed)
    assert not lines or lines == [
        "9 images are squashed to 32, their shapes changed by more than 5 %: --fit crop or --fit pad keeps their shapes"
    ]


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1), (33, 57), (57, 33), (8, 8), (4096, 4095)])
@pytest.mark.parametrize(("width_px", "height_px"), [(64, 64), (8, 4096), (178, 218)])
def test_any_shape_takes_on_any_size(width: int, height: int, width_px: int, height_px: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    size = {"width_px": width_px, "height_px": height_px}
    assert image.resize_padded(pixels, **size).shape == (height_px, width_px, 3)
    cut = image.cut_to_shape(pixels, **size)
    assert min(cut.shape[:2]) >= 1
    assert cut.shape[0] == height or cut.shape[1] == width, "it is as large as can be"


def test_shape_that_hardly_changes_is_not_called_squashed(tmp_path: Path) -> None:
    for number, width in enumerate((100, 104, 107)):
        (tmp_path / "in" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((100, width, 3), 9 * number, np.uint8)).save(tmp_path / "in" / "a" / f"{width}.png")
    assert built(tmp_path / "in", tmp_path / "out", size=50).build.num_squashed == 1


def test_count_of_squashed_images_is_verified(photos: Path, tmp_path: Path) -> None:
    built(photos, tmp_path / "out", size=32)
    build_json = tmp_path / "out" / manifest.BUILD_FILE
    build_json.write_text(build_json.read_text().replace('"num_squashed": 10', '"num_squashed": 1'))
    assert verify(tmp_path / "out").problems == ("build.json: num_squashed is 1, the sum over the shards' tables 10",)


# Encodings


@pytest.mark.parametrize("encoding", ["png", "webp"])
@pytest.mark.parametrize("size", ["", "32"])
def test_encoding_is_verified_and_the_loader_gives_its_pixels(
    photos: Path, tmp_path: Path, encoding: str, size: str
) -> None:
    source = tmp_path / "in"
    (source / "a").mkdir(parents=True)
    for path in sorted(photos.rglob("[0-9].png")):
        (source / "a" / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    built(source, out, encoding=encoding, size=size)
    assert verify(out, deep=True).problems == ()
    with tarfile.open(out / "train-00000.tar") as tar:
        members = [member.name.partition(".")[2] for member in tar]
        first = tar.extractfile(tar.getmembers()[0])
        assert first is not None
        assert headers.format_of(first.read()) == encoding.upper()
    assert members == [encoding, "json"] * 8
    build = open_build(str(out)).packed
    with Loader(str(out), split="train", batch_size=8, augment=()) as loader:
        (batch,) = list(loader)
    rows = batch.rows.tolist()
    expected = np.stack([build.image(row) for row in rows])
    given = np.asarray(batch.images)
    assert given.shape == expected.shape
    assert np.array_equal(given, expected)
    if encoding == "png" and not size:
        originals = [np.asarray(Image.open(source / name)) for name in build.table["source"].take(rows).to_pylist()]
        assert np.array_equal(given, np.stack(originals)), "PNG keeps every pixel"


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_bytes_are_the_same_every_time(photos: Path, tmp_path: Path, encoding: str) -> None:
    for name in ("once", "again"):
        built(photos, tmp_path / name, encoding=encoding, size=32, samples_per_shard=3)
    assert digests(tmp_path / "once") == digests(tmp_path / "again")


def test_quality_of_webp_makes_it_smaller_and_100_is_lossy_still() -> None:
    pixels: Any = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8), (5, 5), 0)
    low, default, high = (
        len(image.encode(pixels, encoding="webp", quality=quality)) for quality in (50, DEFAULT_QUALITY, 100)
    )
    assert low < default < high < len(image.encode(pixels, encoding="png", quality=DEFAULT_QUALITY))


def test_side_that_no_webp_can_have_is_too_large() -> None:
    wide = np.zeros((8, 16_384, 3), np.uint8)
    assert image.decode(image.encode(wide, encoding="png", quality=95)).shape == wide.shape
    with pytest.raises(image.BadImageError) as caught:
        image.encode(wide, encoding="webp", quality=95)
    assert caught.value.status == Status.TOO_LARGE
    assert image.decode(image.encode(wide[:, 1:], encoding="webp", quality=95)).shape == (8, 16_383, 3)


# Limits


def test_limits_of_the_size_give_a_status_each_and_are_recorded(photos: Path, tmp_path: Path) -> None:
    outcome = built(photos, tmp_path / "out", max_pixels=12_000, min_side=13)
    table = open_build(str(tmp_path / "out")).table
    by_source = dict(zip(table["source"].to_pylist(), table["status"].to_pylist(), strict=True))
    assert by_source["a/tall.png"] == Status.TOO_LARGE
    assert by_source["b/small.png"] == Status.TOO_SMALL
    assert set(by_source.values()) == {Status.PACKED, Status.TOO_LARGE, Status.TOO_SMALL}
    assert "rejected: 1 too_large, 1 too_small" in outcome_lines(outcome)
    recorded = manifest.read_build(str(tmp_path / "out")).configuration
    assert (recorded.max_pixels, recorded.min_side) == (12_000, 13)


def test_tiny_photos_can_be_asked_for() -> None:
    tiny = image.encode(np.zeros((3, 2, 3), np.uint8), encoding="png", quality=95)
    assert image.decode(tiny, min_side_px=1).shape == (3, 2, 3)
    assert image.decode_packed(tiny, encoding="png").shape == (3, 2, 3)


def test_photo_of_a_phone_of_200_megapixels_is_looked_into_where_it_is_asked_for() -> None:
    header = struct.pack(">4sIIBBBBB", b"IHDR", 16_320, 12_240, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(4) + b"IDAT"
    content = b"\x89PNG\r\n\x1a\n" + chunks
    assert headers.opened(content).size == (16_320, 12_240), "Pillow itself refuses that many"
    for max_pixels, status in ((64_000_000, Status.TOO_LARGE), (200_000_000, Status.TRUNCATED)):
        with pytest.raises(image.BadImageError, match=status):
            image.decode(content, max_pixels=max_pixels)
    with pytest.raises(image.BadImageError, match=Status.TRUNCATED):
        image.decode_packed(content, encoding="png")
