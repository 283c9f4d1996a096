"""Decoding at a reduced scale: JPEGs that a build shrinks lose less by it than by being JPEGs again."""

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import make
from PIL import Image

from facepack import image, shard
from facepack.configuration import Configuration
from facepack.image import BadImageError, Pixels
from facepack.manifest import read_build
from facepack.verification import verify

REAL = os.environ.get("FACEPACK_REAL_DATA", "")


def drawn(*, width: int = 300, height: int = 260, seed: int = 0) -> Pixels:
    """A picture with soft and sharp edges, BGR."""
    random = np.random.default_rng(seed)
    picture = cv2.resize(random.integers(0, 256, (9, 11, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y, radius = random.integers(0, width), random.integers(0, height), random.integers(5, 40)
        cv2.circle(picture, (int(x), int(y)), int(radius), random.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    return picture  # type: ignore[return-value]


def encoded(picture: Pixels, *, quality: int = 95, orientation: int = 0) -> bytes:
    content = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(picture[:, :, ::-1]).save(content, "JPEG", quality=quality, exif=exif)
    return content.getvalue()


def packed(content: bytes, **choices: Any) -> Pixels:
    return shard.transform(content, Configuration.of("folder", **choices)).image_hwc


def psnr(first: Pixels, second: Pixels) -> float:
    error = np.square(first.astype(float) - second.astype(float)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def photos() -> list[bytes]:
    """Real photos at hand, else drawn ones as soft as a lens, 200 pixels wide and high as UTKFace has them."""
    if not REAL:
        pictures = [drawn(width=200, height=200, seed=seed) for seed in range(40)]
        return [encoded(cv2.GaussianBlur(picture, (0, 0), 1)) for picture in pictures]  # type: ignore[arg-type]
    files = sorted(Path(REAL, "utkface").rglob("*.jpg"))[:300:3] or sorted(Path(REAL, "detect").rglob("*.jpg"))
    return [file.read_bytes() for file in files]


@pytest.mark.parametrize("size", [64, 96])
def test_loss_is_below_that_of_the_encoding(size: int) -> None:
    reduced, encodings = [], []
    for content in photos():
        try:
            full = packed(content, size=size, decode="full")
        except BadImageError:
            continue
        reduced.append(psnr(packed(content, size=size), full))
        again = cv2.imdecode(np.frombuffer(image.encode_jpeg(full, quality=95), np.uint8), cv2.IMREAD_COLOR)
        encodings.append(psnr(again, full))  # type: ignore[arg-type]
    assert np.median(reduced) >= 45
    assert min(reduced) >= 33
    assert np.median(reduced) > np.median(encodings)


def test_only_what_is_shrunk_to_a_half_is_changed() -> None:
    content = encoded(drawn(width=300, height=260))
    assert not np.array_equal(packed(content, size=64), packed(content, size=64, decode="full"))
    for choices in ({"size": 131}, {"size": "300x128"}, {"size": "keep"}):
        assert np.array_equal(packed(content, **choices), packed(content, **choices, decode="full")), choices


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_reduced_photos_are_upright_and_fit(orientation: int, fit: str) -> None:
    content = encoded(drawn(width=320, height=160), orientation=orientation)
    fast, full = (packed(content, size="40x100", fit=fit, decode=way) for way in ("fast", "full"))
    assert fast.shape == full.shape == (100, 40, 3)
    assert psnr(fast, full) >= 33


def test_way_of_decoding_is_part_of_the_build(tmp_path: Path) -> None:
    for number in range(4):
        file = tmp_path / "in" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(drawn(seed=number)))
    shards = []
    for way in ("fast", "full"):
        make(tmp_path / "in", tmp_path / way, dataset="folder", classes="", split="100/0/0", size=64, decode=way)
        assert verify(tmp_path / way, deep=True).is_sound
        assert read_build(str(tmp_path / way)).configuration.decode == way
        shards.append((tmp_path / way / "train-00000.tar").read_bytes())
    assert shards[0] != shards[1]


def test_damage_is_noticed_as_in_whole_photos() -> None:
    content = encoded(drawn(width=400, height=400), quality=90)
    half = len(content) // 2
    damaged = {
        "cut": content[:half],
        "closed": content[:half] + b"\xff\xd9",
        "a hole": content[:half] + bytes(500) + content[half + 500 :],
        "sound": content,
    }
    for name, case in damaged.items():
        results = []
        for way in ("fast", "full"):
            try:
                packed(case, size=64, decode=way)
                results.append("packed")
            except BadImageError as error:
                results.append(f"{error.status}")
        assert results[0] == results[1], name
        assert (results[0] == "packed") == (name == "sound")
