"""Near-duplicates in builds: hashed as they are packed, told of, dropped or kept in one split on request."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import digests, make

from facepack import preview
from facepack.errors import FieldError
from facepack.image import encode_jpeg, resize
from facepack.manifest import MEASURED_COLUMNS
from facepack.perceptual_hash import perceptual_hash
from facepack.reader import open_build
from facepack.verification import verify

NUM_SCENES = 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty photos, each again at half its size and coarser, and ten again mirrored; one of one colour."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(NUM_SCENES):
        noise_hwc = random.integers(0, 256, (12, 12, 3), np.uint8)
        photo_hwc = cv2.resize(noise_hwc, (120, 120), interpolation=cv2.INTER_CUBIC)
        (folder / f"a{number:02d}.jpg").write_bytes(encode_jpeg(photo_hwc, quality=95))  # type: ignore[arg-type]
        half_hwc = resize(photo_hwc, width_px=60, height_px=60)  # type: ignore[arg-type]
        (folder / f"b{number:02d}.jpg").write_bytes(encode_jpeg(half_hwc, quality=60))
        if number < 10:
            turned_hwc = np.ascontiguousarray(photo_hwc[:, ::-1])
            (folder / f"c{number:02d}.jpg").write_bytes(encode_jpeg(turned_hwc, quality=95))  # type: ignore[arg-type]
    (folder / "white.jpg").write_bytes(encode_jpeg(np.full((64, 64, 3), 255, np.uint8), quality=95))
    return folder


def make_photos(photos: Path, out: Path, **choices: Any) -> Path:
    """A build of the photos, as large as they are in PNG."""
    make(photos, out, dataset="folder", classes="none", split="50/25/25", size="64", encoding="png", **choices)
    return out


def test_manifest_has_the_hash_of_the_packed_pixels(photos: Path, tmp_path: Path) -> None:
    build = open_build(make_photos(photos, tmp_path / "build"))
    table = build.table.to_pylist()
    for number, row in enumerate(table):
        image_hwc = np.ascontiguousarray(build.image(number)[:, :, ::-1])
        assert row["phash"] == perceptual_hash(image_hwc)
    assert [row["source"] for row in table if row["phash"] is None] == ["white.jpg"]
    schema = pq.read_schema(tmp_path / "build" / "manifest.parquet")
    assert [schema.field(field.name) for field in MEASURED_COLUMNS] == list(MEASURED_COLUMNS)
    read = build.pandas().set_index("source")["phash"]
    assert {source: None if value is None else int(value) for source, value in read.dropna().items()} == {
        row["source"]: row["phash"] for row in table if row["phash"] is not None
    }


def test_verify_warns_of_pairs_in_two_splits_and_preview_shows_them(photos: Path, tmp_path: Path) -> None:
    out = make_photos(photos, tmp_path / "build")
    report = verify(out)
    assert report.is_sound
    split_of = {row["source"]: row["split"] for row in open_build(out).table.to_pylist()}
    apart = [
        (first, second)
        for number in range(NUM_SCENES)
        for first, second in (("a", "b"), ("a", "c"), ("b", "c"))
        if (number < 10 or second == "b")
        and split_of[f"{first}{number:02d}.jpg"] != split_of[f"{second}{number:02d}.jpg"]
    ]
    assert report.warnings[0].startswith(f"{len(apart):,} pairs of near-duplicates are in two splits (")
    page = preview.of_build(str(out))
    assert page.twins is not None
    assert page.twins.num_pairs == NUM_SCENES + 2 * 10  # those of one hash, too
    assert (page.twins.num_groups, page.twins.largest_group) == (NUM_SCENES, 3)
    assert (page.twins.num_in_two_splits, page.twins.num_without) == (len(apart), 1)
    assert len(page.twins.pairs) == 24
    assert "Pictures that come twice" in preview.html(page)


def test_drop_keeps_the_first_of_each_group_and_counts_the_others(photos: Path, tmp_path: Path) -> None:
    out = make_photos(photos, tmp_path / "build", near_duplicates="drop")
    statuses = {
        row["source"]: (row["status"], row["duplicate_of"])
        for row in pq.read_table(out / "manifest.parquet").to_pylist()
    }
    for source, (status, first) in statuses.items():
        if source[0] in "bc":
            assert (status, first) == ("near_duplicate", f"a{source[1:]}")
        else:
            assert (status, first) == ("packed", None)
    report = verify(out, deep=True)
    assert (report.problems, report.warnings, report.num_samples) == ((), (), NUM_SCENES + 1)
    again = make_photos(photos, tmp_path / "again", near_duplicates="drop")
    assert digests(again) == digests(out)


def test_same_split_keeps_each_group_together(photos: Path, tmp_path: Path) -> None:
    out = make_photos(photos, tmp_path / "build", near_duplicates="same-split")
    split_of = {row["source"]: row["split"] for row in open_build(out).table.to_pylist()}
    assert len(split_of) == 2 * NUM_SCENES + 10 + 1
    assert all(split_of[source] == split_of[f"a{source[1:]}"] for source in split_of if source[0] in "bc")
    assert set(split_of.values()) == {"train", "valid", "test"}
    assert verify(out).warnings == ()


def test_same_split_is_refused_where_the_split_is_official_and_keeps_people_together(
    celeba: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        FieldError, match="near_duplicates same-split: the official split says where each photo belongs"
    ):
        make(celeba, tmp_path / "build", near_duplicates="same-split")
    out = tmp_path / "people"
    make(celeba, out, classes="none", split="identity", near_duplicates="same-split")
    assert verify(out).problems == ()


def test_limits_reject_what_misses_them_with_a_status_each(photos: Path, tmp_path: Path) -> None:
    plain = pq.read_table(make_photos(photos, tmp_path / "plain") / "manifest.parquet").to_pylist()
    least = float(np.median([row["sharpness"] for row in plain]))
    out = make_photos(photos, tmp_path / "limits", min_sharpness=least, max_brightness=200)
    rows = {row["source"]: row for row in pq.read_table(out / "manifest.parquet").to_pylist()}
    for row in plain:
        expected = "too_bright" if row["brightness"] > 200 else "blurred" if row["sharpness"] < least else "packed"
        assert rows[row["source"]]["status"] == expected
        assert rows[row["source"]]["sharpness"] == row["sharpness"]
    assert rows["white.jpg"]["status"] == "too_bright"
    report = verify(out, deep=True)
    assert report.problems == ()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"min_face": 50}, "min_face 50.0: needs align crop or chip"),
        ({"max_yaw": 20}, "max_yaw 20.0: needs align chip"),
        ({"max_roll": -1}, "max_roll -1.0: expected 0 or more"),
        ({"min_sharpness": "sharp"}, "min_sharpness sharp: expected a number"),
        ({"min_brightness": 9, "max_brightness": 8}, "min_brightness 9.0: max_brightness is 8.0"),
    ],
)
def test_limits_that_cannot_be_are_refused(choices: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=message):
        make(tmp_path, tmp_path / "build", **choices)


def test_a_build_made_before_these_columns_is_sound_and_shown(photos: Path, tmp_path: Path) -> None:
    out = make_photos(photos, tmp_path / "build")
    assert not {"near_duplicates", "min_sharpness"} & set(json.loads((out / "build.json").read_text())["configuration"])
    for path in out.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(MEASURED_COLUMNS.names), path)
    report = verify(out, deep=True)
    assert (report.problems, report.warnings) == ((), ())
    page = preview.of_build(str(out))
    assert (page.twins, page.measures) == (None, [])
    assert "Quality" not in preview.html(page)
