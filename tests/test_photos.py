"""photos: files, folders, patterns, lists and videos give their photos, and say what gives none."""

import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make

from facepack.errors import UsageError
from facepack.signature import IMAGE_SUFFIXES
from trainer import photos
from trainer.photos import Named, Unreadable


def names_of(names: list[str | Path], content: bytes = b"") -> list[str]:
    """Names of the photos, of which files are read from standard input where it has any."""
    sources = photos.sources_of(names, standard_input=io.BytesIO(content))
    return [photo.name if isinstance(photo, Named) else str(photo) for photo in sources.photos]


def video(path: Path, *, num_frames: int, rate: float = 10.0) -> Path:
    """A video whose frames are grey, each lighter than the one before."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (64, 48))
    for number in range(num_frames):
        writer.write(np.full((48, 64, 3), 10 + 4 * number, np.uint8))
    writer.release()
    return path


def test_folders_give_their_images_and_empty_ones_an_error(celeba: Path, tmp_path: Path) -> None:
    assert photos.sources_of([str(celeba / "img_align_celeba")]).num_photos == 300
    with pytest.raises(UsageError, match="no image in this folder"):
        photos.sources_of([str(tmp_path)])
    with pytest.raises(UsageError, match=r"nobody\.jpg: no such photo"):
        photos.sources_of([str(tmp_path / "nobody.jpg")])


def test_folders_give_the_very_files_that_a_build_takes(celeba: Path, tmp_path: Path) -> None:
    names = [f"photo{suffix}" for suffix in (*IMAGE_SUFFIXES, ".AVIF", ".txt", ".json", "")]
    assert {"photo.avif", "photo.heic", "photo.jfif", "photo.jp2", "photo.jxl"} < set(names)
    (tmp_path / "photos" / "me").mkdir(parents=True)
    for name in names:
        (tmp_path / "photos" / "me" / name).write_bytes(b"no picture")
    for name in ("photo.jpg", "without_suffix"):
        shutil.copy(celeba / "img_align_celeba" / "000001.jpg", tmp_path / "photos" / "me" / name)
    make(tmp_path / "photos", tmp_path / "build", dataset="folder", classes="", split="100/0/0")
    built = pq.read_table(tmp_path / "build" / "manifest.parquet")["source"].to_pylist()
    sources = photos.sources_of([tmp_path / "photos"])
    predicted = [str(Path(str(path)).relative_to(tmp_path / "photos")) for path in sources.photos]
    assert sorted(predicted) == sorted(built)
    assert (sources.num_photos, sources.num_passed) == (len(IMAGE_SUFFIXES) + 2, 3)


def test_patterns_give_the_images_of_such_names(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/3.txt"):
        (tmp_path / name).write_bytes(b"no picture")
    assert names_of([f"{tmp_path}/**/*.jpg"]) == [f"{tmp_path}/{name}" for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg")]
    assert photos.sources_of([f"{tmp_path}/a/b/3.*"]).num_passed == 1
    (tmp_path / "odd[1].jpg").write_bytes(b"no picture")
    assert names_of([tmp_path / "odd[1].jpg"]) == [f"{tmp_path}/odd[1].jpg"], "a file of this very name comes first"
    with pytest.raises(UsageError, match=r"\*\.png: no image has a name like this"):
        photos.sources_of([f"{tmp_path}/*.png"])


def test_standard_input_is_a_list_or_an_image(celeba: Path, tmp_path: Path) -> None:
    folder = celeba / "img_align_celeba"
    first, second = sorted(folder.iterdir())[:2]
    assert names_of(["-"], f"{first}\r\n\n{second}".encode()) == [str(first), str(second)]
    assert names_of(["-"], b"\0".join([b"two\nlines.jpg", str(second).encode(), b""])) == [
        "two\nlines.jpg",
        str(second),
    ]
    assert len(names_of(["-"], str(folder).encode())) == 300, "a folder in a list, too"
    assert names_of([first, "-"], f"{first}\n".encode()) == [str(first)], "each photo once"
    (image,) = photos.sources_of(["-"], standard_input=io.BytesIO(first.read_bytes())).photos
    assert image == Named("-", first.read_bytes())
    with pytest.raises(UsageError, match="standard input: neither an image nor names of photos"):
        names_of(["-"], b"\n")


def test_videos_give_a_frame_every_so_many_seconds(tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.avi", num_frames=25)
    sources = photos.sources_of([tmp_path])
    assert (sources.photos, sources.num_photos) == ([clip], None)
    sampled = [photo for photo in sources.each(every_s=1.0) if isinstance(photo, Named)]
    assert [frame.name for frame in sampled] == [f"{clip}#t={seconds}" for seconds in ("0.000", "1.000", "2.000")]
    greys = [float(np.mean(np.asarray(frame.photo))) for frame in sampled]
    assert greys == pytest.approx([10, 50, 90], abs=2)
    assert len(list(sources.each(every_s=0))) == 25, "every frame"


def test_videos_that_are_damaged_say_so(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    whole = video(tmp_path / "whole.avi", num_frames=40).read_bytes()
    (tmp_path / "short.avi").write_bytes(whole[: len(whole) // 2])
    (text,) = photos.frames(tmp_path / "text.mp4", every_s=1)
    assert text == Unreadable(str(tmp_path / "text.mp4"), "no video that can be read")
    *frames, end = photos.frames(tmp_path / "short.avi", every_s=0)
    assert 3 < len(frames) < 30
    assert isinstance(end, Unreadable)
    assert end.problem == f"the video ends here, after {len(frames)} of 40 frames"
    (absent,) = photos.frames(tmp_path / "absent.mp4", every_s=1)
    assert absent == Unreadable(str(tmp_path / "absent.mp4"), "cannot be read: No such file or directory")
