"""Formats beside JPEG and PNG, as phones and archives have them: HEIC, AVIF, JPEG 2000; which way up, which picture."""

import io
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import digests, make
from PIL import Image, ImageOps
from pillow_heif import HeifImageFile, register_heif_opener
from test_colour import display_p3, in_p3

from facepack import headers, image, manifest
from facepack.errors import JobError
from facepack.manifest import Status
from facepack.reader import open_build
from facepack.summary import outcome_lines
from facepack.verification import verify

ORIENTATION, RESOLUTION_UNIT = 0x0112, 0x0128
RED, GREEN, BLUE, BLACK = "red", "green", "blue", "black"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.fixture(scope="module", autouse=True)
def written_by_pillow() -> None:
    """Let the tests write HEIC; facepack itself leaves Pillow's list of formats as it is."""
    register_heif_opener()


def quarters() -> Image.Image:
    """64 x 40 pixels: red and green above, blue and black below."""
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:20, :32, 0] = pixels[:20, 32:, 1] = pixels[20:, :32, 2] = 255
    return Image.fromarray(pixels)


def saved(picture: Image.Image, kind: str, *, tags: dict[int, int] | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    if tags:
        exif = Image.Exif()
        exif.update(tags)
        options["exif"] = exif.tobytes()
    picture.save(file, kind, **options)
    return file.getvalue()


def colours(pixels: Any) -> list[str]:
    """The colours in the middles of the quarters (RGB HWC), by rows."""
    names: dict[tuple[int, ...], str] = {(1, 0, 0): RED, (0, 1, 0): GREEN, (0, 0, 1): BLUE, (0, 0, 0): BLACK}
    height, width = pixels.shape[:2]
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [names.get(tuple(int(level > 128) for level in pixels[place]), "?") for place in places]


def decoded(content: bytes) -> Any:
    return image.decode(content)[:, :, ::-1]


def reference(content: bytes) -> Any:
    """The upright pixels by Pillow (libavif) and pillow-heif (libheif)."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


UPRIGHT = [RED, GREEN, BLUE, BLACK]
BY_ORIENTATION = {
    1: UPRIGHT,
    2: [GREEN, RED, BLACK, BLUE],
    3: [BLACK, BLUE, GREEN, RED],
    4: [BLUE, BLACK, RED, GREEN],
    5: [RED, BLUE, GREEN, BLACK],
    6: [BLUE, RED, BLACK, GREEN],
    7: [BLACK, GREEN, BLUE, RED],
    8: [GREEN, BLACK, RED, BLUE],
}

# Which way up


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_comes_upright_by_its_orientation(kind: str, orientation: int) -> None:
    content = saved(quarters(), kind, tags={ORIENTATION: orientation})
    pixels = decoded(content)
    assert colours(pixels) == BY_ORIENTATION[orientation]
    assert pixels.shape == reference(content).shape == ((64, 40, 3) if orientation > 4 else (40, 64, 3))
    assert colours(reference(content)) == colours(pixels)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("turned", [1, 3, 6, 5])
def test_exif_turns_no_avif_or_heic_a_second_time(kind: str, turned: int) -> None:
    tags = {RESOLUTION_UNIT: 8} | ({ORIENTATION: turned} if turned > 1 else {})
    content = saved(quarters(), kind, tags=tags)
    before, after = (tag.to_bytes(2, "big") + b"\0\3" for tag in (RESOLUTION_UNIT, ORIENTATION))
    assert content.count(before) == 1
    assert colours(decoded(content.replace(before, after))) == BY_ORIENTATION[turned], "by its irot and imir"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_orientation_in_xmp_alone_turns_nothing(kind: str) -> None:
    assert colours(decoded(saved(quarters(), kind, xmp=XMP))) == UPRIGHT


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_tiff_and_png_of_any_mode_come_upright(kind: str, mode: str) -> None:
    if (kind, mode) == ("PNG", "CMYK"):
        return
    grey = np.asarray(quarters().convert("L"))
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else quarters().convert(mode)
    pixels = decoded(saved(picture, kind, tags={ORIENTATION: 6}))
    plain = np.asarray(quarters() if mode in ("P", "RGBA", "CMYK") else quarters().convert("L").convert("RGB"))
    assert np.abs(pixels.astype(int) - np.rot90(plain, -1).astype(int)).max() <= 2


# Which picture


def test_animated_avif_gives_its_first_frame() -> None:
    others = [quarters().rotate(180), quarters().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    content = saved(quarters(), "AVIF", save_all=True, append_images=others, duration=100)
    assert content[8:12] == b"avis"
    assert colours(decoded(content)) == UPRIGHT


@pytest.mark.parametrize("primary", [0, 1])
def test_heic_of_several_images_gives_its_primary(primary: int) -> None:
    content = saved(quarters(), "HEIF", save_all=True, append_images=[quarters().rotate(180)], primary_index=primary)
    assert colours(decoded(content)) == (BY_ORIENTATION[3] if primary else UPRIGHT)


def test_heic_of_tiles_is_whole_at_an_odd_size() -> None:
    large = quarters().resize((1023, 701))
    content = saved(large, "HEIF", quality=95, tile_size=256)
    assert b"grid" in content
    pixels = decoded(content)
    assert pixels.shape == (701, 1023, 3)
    assert np.abs(pixels.astype(int) - np.asarray(large)).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "RGB"])
def test_modes_become_three_channels(kind: str, mode: str) -> None:
    options = {"irreversible": False} if kind == "JPEG2000" else {"quality": 100}
    pixels = decoded(saved(quarters().convert(mode), kind, **options))
    plain = np.asarray(quarters().convert(mode).convert("RGB"))
    middles = pixels[10::20, 16::32].astype(int)
    assert np.abs(middles - plain[10::20, 16::32]).max() <= 6


def test_sixteen_bits_of_jpeg_2000_become_the_upper_eight() -> None:
    levels = np.tile(np.arange(64, dtype=np.uint16) * 1000, (40, 1))
    content = saved(Image.fromarray(levels), "JPEG2000", irreversible=False)
    assert np.array_equal(decoded(content), np.repeat((levels >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}])
def test_jpeg_2000_keeps_its_pixels(options: dict[str, Any]) -> None:
    content = saved(quarters(), "JPEG2000", **options)
    assert np.array_equal(decoded(content), np.asarray(quarters()))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_colour_profiles_of_avif_and_heic_become_srgb(kind: str) -> None:
    stored = Image.open(io.BytesIO(in_p3((224, 172, 140), "PNG"))).convert("RGB")
    content = saved(stored, kind, quality=100, icc_profile=display_p3())
    assert np.abs(decoded(content).mean(axis=(0, 1)) - (224, 172, 140)).max() < 4


def test_colour_profile_of_jpeg_2000_becomes_srgb() -> None:
    stored = Image.open(io.BytesIO(in_p3((224, 172, 140), "PNG"))).convert("RGB")
    content = saved(stored, "JPEG2000")
    plain = b"\0\0\0\x0fcolr\1\0\0\0\0\0\x10"
    assert content.count(plain) == 1
    own = b"colr\2\0\0" + display_p3()
    box = (len(own) + 4).to_bytes(4, "big") + own
    at = content.index(b"jp2h") - 4
    length = int.from_bytes(content[at : at + 4], "big") + len(box) - len(plain)
    content = content[:at] + length.to_bytes(4, "big") + content[at + 4 :].replace(plain, box)
    assert np.abs(decoded(content).mean(axis=(0, 1)) - (224, 172, 140)).max() < 4


# Which format


@pytest.mark.parametrize(
    ("major", "others", "expected"),
    [
        (b"heic", [b"mif1"], "HEIF"),
        (b"heix", [], "HEIF"),
        (b"hevc", [], "HEIF"),
        (b"mif1", [b"heic"], "HEIF"),
        (b"msf1", [b"hevc"], "HEIF"),
        (b"mif1", [b"miaf", b"avif"], "AVIF"),
        (b"avis", [b"msf1"], "AVIF"),
        (b"qt  ", [], None),
        (b"isom", [b"mp41", b"avif"], None),
        (b"crx ", [], None),
    ],
)
def test_brands_name_the_format(major: bytes, others: list[bytes], expected: str | None) -> None:
    brands = b"ftyp" + major + bytes(4) + b"".join(others)
    assert headers.format_of((len(brands) + 4).to_bytes(4, "big") + brands + b"\0\0\0\x08mdat") == expected


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JPEG2000", "j2k", "avis"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
def test_file_that_ends_early_is_truncated(kind: str, share: float) -> None:
    options: dict[str, Any] = {"j2k": {"no_jp2": True}, "avis": {"save_all": True, "append_images": [quarters()]}}
    content = saved(quarters(), {"j2k": "JPEG2000", "avis": "AVIF"}.get(kind, kind), **options.get(kind, {}))
    assert image.decode(content + bytes(5)).shape == (40, 64, 3), "bytes after the end do no harm"
    with pytest.raises(image.BadImageError, match=Status.TRUNCATED):
        image.decode(content[: int(len(content) * share)])


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JPEG2000"])
def test_broken_bytes_have_a_status_and_limits_hold(kind: str) -> None:
    content = saved(quarters(), kind)
    with pytest.raises(image.BadImageError, match=Status.TOO_LARGE):
        image.decode(content, max_pixels=2000)
    with pytest.raises(image.BadImageError, match=Status.TOO_SMALL):
        image.decode(content, min_side_px=41)
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(content)
        for at in random.integers(12, len(content), 4):
            broken[at] = random.integers(256)
        try:
            assert image.decode(bytes(broken), min_side_px=1).shape[2] == 3
        except image.BadImageError as error:
            assert error.status in (Status.UNREADABLE, Status.TRUNCATED, Status.TOO_LARGE, Status.TOO_SMALL)


# Builds


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a phone's photos, some with the suffix of another format, all lying on their side."""
    folder = tmp_path_factory.mktemp("phone")
    turned = {ORIENTATION: 6}
    kinds = {
        "IMG_1.HEIC": "HEIF",
        "IMG_2.heif": "HEIF",
        "IMG_3.jpg": "HEIF",
        "IMG_4.heic": "JPEG",
        "IMG_5.avif": "AVIF",
        "IMG_6.png": "AVIF",
        "IMG_7.webp": "WEBP",
    }
    for number, (name, kind) in enumerate(kinds.items()):
        (folder / name).write_bytes(saved(quarters().resize((80, 50 + number)), kind, tags=turned))
    scan = quarters().rotate(-90, expand=True)
    (folder / "scan.jp2").write_bytes(saved(scan, "JPEG2000"))
    (folder / "scan.j2k").write_bytes(saved(scan.resize((20, 30)), "JPEG2000", no_jp2=True))
    return folder


CHOICES: dict[str, Any] = {"dataset": "folder", "classes": "none", "split": "100/0/0", "samples_per_shard": 4}


@pytest.mark.parametrize("size", ["keep", "24x40"])
def test_photos_of_a_phone_are_packed_upright(phone: Path, tmp_path: Path, size: str) -> None:
    outcome = make(phone, tmp_path / "out", size=size, **CHOICES)
    assert verify(tmp_path / "out", deep=True).problems == ()
    packed = open_build(str(tmp_path / "out")).packed
    assert packed.table.num_rows == 9
    assert manifest.total(outcome.build.counts, statuses=[Status.PACKED]) == 9
    for row in range(9):
        assert colours(packed.image(row)) == BY_ORIENTATION[6], packed.table["source"][row]


@pytest.mark.slow
def test_bytes_of_heic_are_the_same_with_workers(phone: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        make(phone, tmp_path / str(workers), workers=workers, size="keep", **CHOICES)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")


def test_without_pillow_heif_a_line_tells_how_to_get_it(
    phone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version_without_it(name: str) -> str:
        if name == "pillow-heif":
            raise PackageNotFoundError(name)
        return version(name)

    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        without.setattr(manifest, "version", version_without_it)
        headers.heif_file.cache_clear()
        outcome = make(phone, tmp_path / "out", size="keep", **CHOICES)
        by_source = dict(open_build(str(tmp_path / "out")).table.select(["source", "status"]).to_pandas().to_numpy())
        assert sorted(name for name, status in by_source.items() if status == Status.NO_DECODER) == [
            "IMG_1.HEIC",
            "IMG_2.heif",
            "IMG_3.jpg",
        ]
        (line,) = [line for line in outcome_lines(outcome) if "facepack[heif]" in line]
        assert line.startswith("3 images: ")
        only = tmp_path / "only"
        only.mkdir()
        (only / "IMG_1.HEIC").write_bytes((phone / "IMG_1.HEIC").read_bytes())
        with pytest.raises(JobError, match=r"1 no_decoder .*facepack\[heif\]"):
            make(only, tmp_path / "none", size="keep", **CHOICES)
    headers.heif_file.cache_clear()
    with pytest.raises(JobError, match=r"pillow-heif: none there, .* here\); choose another --out"):
        make(phone, tmp_path / "out", size="keep", **CHOICES)


def test_pillow_reads_what_it_read_before() -> None:
    Image.init()
    before = dict(Image.OPEN)
    assert isinstance(headers.opened(saved(quarters(), "HEIF")), HeifImageFile)
    assert before == Image.OPEN


def test_tiff_of_floats_is_whole_and_one_that_is_cut_is_not(tmp_path: Path) -> None:
    floats = np.linspace(0, 1, 40 * 50 * 3, dtype=np.float32).reshape(40, 50, 3)
    assert cv2.imwrite(str(tmp_path / "floats.tiff"), floats)
    content = (tmp_path / "floats.tiff").read_bytes()
    for cut, status in ((len(content), Status.UNREADABLE), (200, Status.TRUNCATED), (9, Status.TRUNCATED)):
        with pytest.raises(image.BadImageError) as raised:
            image.decode(content[:cut])
        assert raised.value.status == status, cut
