"""The page shows what is in a build or a dataset: true numbers, real pictures, and nothing from elsewhere."""

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import make
from PIL import Image

from facepack import image, manifest, pictures, preview
from facepack.description import load_dataset
from facepack.drawn import synthetic
from facepack.errors import JobError, UsageError
from facepack.manifest import Status
from facepack.preview_model import Page, PreviewInput
from facepack.storage import Store


class Reader(HTMLParser):
    """Collects the text of a page, its pictures, and everything that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.pictures: list[bytes] = []
        self.loaded: list[str] = []
        self._hidden = self._goes_on = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("style", "script")
        self._goes_on = tag == "wbr"
        self.loaded += [tag] if tag in ("script", "link", "iframe") else []
        for name, value in attrs:
            if name in ("src", "href"):
                head, _, content = (value or "").partition(",")
                if head == "data:image/jpeg;base64":
                    self.pictures.append(base64.b64decode(content))
                else:
                    self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data.rstrip() if self._goes_on else f" {data.strip()}"
            self._goes_on = False


def read(page: Page) -> Reader:
    return Reader(preview.html(page))


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("preview") / "build"
    make(celeba, out, split="80/10/10")
    return out


def test_page_is_whole_in_itself(celeba: Path, build: Path) -> None:
    reader = read(preview.of_build(str(build), src=str(celeba)))
    assert reader.loaded == []
    assert "url(" not in preview.html(preview.of_build(str(build), src=str(celeba)))
    assert len(reader.pictures) > 50
    for content in reader.pictures:
        assert image.decode(content).size


def test_numbers_of_a_build_are_those_of_its_manifest(celeba: Path, build: Path) -> None:
    page = preview.of_build(str(build), src=str(celeba))
    made = manifest.read_build(str(build))
    for name in made.class_names:
        for split in ("train", "valid", "test"):
            number = manifest.total(made.counts, split=split, class_name=name, statuses=[Status.PACKED])
            assert page.splits[name][split] == number
    assert sum(page.splits[""].values()) == manifest.total(made.counts, statuses=[Status.PACKED])
    table = manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)
    classes, attributes = page.charts
    assert [bar.number for bar in classes.bars] == sorted(bar.number for bar in classes.bars)
    assert {bar.name: bar.number for bar in classes.bars} == {
        row["values"]: row["counts"] for row in table["class"].value_counts().to_pylist()
    }
    assert len(attributes.bars) == 40
    assert {bar.name: bar.number for bar in attributes.bars}["Smiling"] == pc.sum(table["Smiling"]).as_py()
    facts = dict(page.facts)
    assert facts["packed"] == f"{len(table):,} of {len(table):,} images"
    assert facts["digest"] == made.digest[:16]
    assert page.rejects == []


def test_mean_face_is_the_mean_of_the_packed_pixels(celeba: Path, tmp_path: Path) -> None:
    make(celeba, tmp_path / "build", classes="", limit=60, encoding="raw", split="100/0/0")
    page = preview.of_build(str(tmp_path / "build"), src=str(celeba))
    (sheet,) = page.sheets
    assert sheet.mean_of == sheet.number == 60
    shown = image.decode(base64.b64decode(sheet.mean.partition(",")[2]))
    made = manifest.read_build(str(tmp_path / "build"))
    assert made.mean is not None
    assert np.allclose(shown[:, :, ::-1].mean(axis=(0, 1)) / 255, made.mean, atol=0.01)
    assert {sheet.name for sheet in page.means} <= set(load_dataset("celeba").attributes)
    assert len(page.means) > 5


def test_people_in_two_splits_are_counted_and_named(celeba: Path, build: Path, tmp_path: Path) -> None:
    page = preview.of_build(str(build), src=str(celeba))
    rows = manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE).select(["identity", "split"]).to_pylist()
    splits: dict[int, set[str]] = {}
    for row in rows:
        splits.setdefault(row["identity"], set()).add(row["split"])
    assert page.leaks is not None
    assert page.leaks.number == sum(len(names) > 1 for names in splits.values()) > 0
    assert dict(page.leaks.pairs)["train and test"] == sum({"train", "test"} <= names for names in splits.values())
    assert f"{page.leaks.number:,} of {page.leaks.num_people:,} people" in re.sub(r"\s+", " ", read(page).text)
    make(celeba, tmp_path / "clean", split="identity")
    clean = preview.of_build(str(tmp_path / "clean"), src=str(celeba))
    assert clean.leaks is not None
    assert clean.leaks.number == 0
    assert "in one split only" in read(clean).text


def test_rejects_are_shown_by_reason_with_what_was_seen(celeba: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(celeba, source)
    paths = sorted((source / "img_align_celeba").iterdir())
    paths[0].unlink()
    paths[1].write_text("version https://example.org/<pointer>")
    paths[2].write_bytes(paths[3].read_bytes()[:900])
    paths[4].write_bytes(image.encode_jpeg(np.full((200, 200, 3), 90, np.uint8), quality=90))
    pair = np.hstack([image.decode(path.read_bytes()) for path in paths[5:7]])
    paths[7].write_bytes(image.encode_jpeg(pair, quality=95))
    make(source, tmp_path / "build", classes="", align="crop")
    page = preview.of_build(str(tmp_path / "build"), src=str(source))
    rejects = {reject.reason: reject for reject in page.rejects}
    assert {"missing", "not_an_image", "truncated", "no_face", "several_faces"} <= set(rejects)
    assert rejects["missing"].paths == [f"img_align_celeba/{paths[0].name}"]
    texts = {picture.caption: picture.text for picture in rejects["not_an_image"].pictures}
    assert texts == {f"img_align_celeba/{paths[1].name}": "37 bytes: version https://example.org/<pointer>"}
    assert "<pointer>" not in preview.html(page)  # escaped
    several = next(picture for picture in rejects["several_faces"].pictures if picture.caption.endswith(paths[7].name))
    shown = image.decode(base64.b64decode(several.uri.partition(",")[2])).astype(int)
    green = (shown[:, :, 1] - shown[:, :, 2] > 60) & (shown[:, :, 1] - shown[:, :, 0] > 60)
    assert green[:, : shown.shape[1] // 2].sum() > 50 < green[:, shown.shape[1] // 2 :].sum()  # a box around each
    assert len(page.faces) > 5


def test_without_its_source_a_build_is_shown_without_photos(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPACK_DATA", "/nowhere")
    page = preview.of_build(str(build))
    assert any("not at hand" in note for note in page.notes)
    assert len(page.sheets) == 4
    with pytest.raises(JobError, match="no such folder"):
        preview.of_build(str(build), src="/nowhere/else")


def test_dataset_before_it_is_built(tmp_path: Path) -> None:
    synthetic.draw("cacd", tmp_path, num_images=120)
    page = preview.of_dataset("cacd", src=str(tmp_path))
    assert dict(page.facts)["images"] == "120 of 120 there"
    (ages,) = page.ages
    assert sum(bar.number for bar in ages.bars) == 120
    assert page.leaks is not None
    assert (page.leaks.number, page.leaks.num_people) == (0, 6)  # split by identity unless told otherwise
    (sheet,) = page.sheets
    assert len(sheet.pictures) == 96
    assert read(page).loaded == []


def test_dataset_counts_labels_whether_or_not_the_image_is_there(celeba: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(celeba, source)
    for path in sorted((source / "img_align_celeba").iterdir())[:150]:
        path.unlink()
    whole, half = (preview.of_dataset("celeba", src=str(folder)) for folder in (celeba, source))
    assert [bar.number for bar in whole.charts[0].bars] == [bar.number for bar in half.charts[0].bars]
    assert all(bar.note == "" for bar in whole.charts[0].bars)
    assert all(bar.note.endswith(" there") for bar in half.charts[0].bars)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "<b>bold & co"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 40), (number * 60, 90, 90)).save(folder / f"{number}'\".png")
    (tmp_path / "photos" / "other").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "other" / "é.png")
    page = preview.of_dataset("folder", src=str(tmp_path / "photos"), classes="all")
    reader = read(page)
    assert "<b>bold & co" in reader.text
    assert "<b>bold" not in preview.html(page)


def test_hundreds_of_classes_stay_a_page(tmp_path: Path) -> None:
    for number in range(200):
        path = tmp_path / "photos" / f"person {number:03d}" / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(image.encode_jpeg(np.full((16, 16, 3), number, np.uint8), quality=90))
    make(tmp_path / "photos", tmp_path / "build", dataset="folder", classes="all", size="", split="100/0/0")
    page = preview.of_build(str(tmp_path / "build"), src=str(tmp_path / "photos"))
    assert len(page.sheets) == 60
    assert page.num_hidden_classes == 140
    assert len(page.charts[0].bars) == 81
    assert page.charts[0].bars[40].note == "and 120 more"


def test_page_and_chart_are_written(celeba: Path, build: Path, tmp_path: Path) -> None:
    written = preview.write_page(preview.page_of(str(build), src=str(celeba)), tmp_path / "page.html", png=True)
    assert written.chart == tmp_path / "page.png"
    assert written.num_bytes == written.page.stat().st_size
    assert written.page.read_text(encoding="utf-8").startswith("<!doctype html>")
    chart = cv2.imread(str(tmp_path / "page.png"))
    assert chart is not None
    assert chart.shape[1] > 400
    assert (chart.reshape(-1, 3) == (222, 111, 47)).all(axis=1).mean() > 0.05  # bars


def test_what_is_neither_build_nor_dataset_is_refused(celeba: Path, build: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean celeba"):
        preview.page_of("celebs")
    with pytest.raises(JobError, match=r"no build\.json"):
        preview.page_of(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="--images and --classes choose"):
        preview.page_of(str(build), src=str(celeba), classes="rarest4")
    content = (build / "train-00000.tar").read_bytes()
    shutil.copytree(build, tmp_path / "damaged")
    (tmp_path / "damaged" / "train-00000.tar").write_bytes(bytes(len(content)))
    with pytest.raises(JobError, match="facepack verify names what is wrong"):
        preview.of_build(str(tmp_path / "damaged"), src=str(celeba))


def test_damaged_manifest_is_one_clear_error(celeba: Path, build: Path, tmp_path: Path) -> None:
    table = pq.read_table(build / "manifest.parquet")
    offsets = pa.array([None] * len(table), pa.int64())
    at = table.column_names.index("offset")
    for number, wrong in enumerate(
        [pa.table({"x": [1]}), table.drop_columns(["class"]), table.slice(1), table.set_column(at, "offset", offsets)]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(build, copy)
        pq.write_table(wrong, copy / "manifest.parquet")
        with pytest.raises(JobError, match=r"damaged \(.*\); facepack verify names all"):
            preview.of_build(str(copy), src=str(celeba))
    (tmp_path / "0" / "manifest.parquet").unlink()
    with pytest.raises(JobError, match=r"no manifest\.parquet"):
        preview.of_build(str(tmp_path / "0"), src=str(celeba))


def test_photos_that_changed_since_are_not_shown_as_those_that_were_built(celeba: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(celeba, source)
    bad = source / "img_align_celeba" / "000001.jpg"
    bad.write_text("no image")
    make(source, tmp_path / "build", classes="", align="crop", limit=60)
    before = preview.of_build(str(tmp_path / "build"), src=str(source))
    assert before.faces
    for path in (source / "img_align_celeba").iterdir():
        path.write_bytes(image.encode_jpeg(np.full((218, 178, 3), 9, np.uint8), quality=90))
    after = preview.of_build(str(tmp_path / "build"), src=str(source))
    assert after.faces == []
    assert {picture.text for reject in after.rejects for picture in reject.pictures} <= {"the file has changed since"}
    assert [sheet.number for sheet in after.sheets] == [sheet.number for sheet in before.sheets]


def test_dollar_in_a_name_is_no_formula_and_a_page_is_no_png(tmp_path: Path) -> None:
    for name in (r"a$\frac$b", "other"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (len(name), 9, 9)).save(tmp_path / "photos" / name / "1.png")
    page = preview.page_of("folder", src=str(tmp_path / "photos"), classes="all")
    preview.write_page(page, tmp_path / "page.html", png=True)
    assert (tmp_path / "page.png").exists()
    with pytest.raises(UsageError, match="the page is HTML"):
        preview.write_page(page, tmp_path / "page.png")


def test_every_reject_reason_there_is_shows_on_the_page() -> None:
    reasons = [status for status in Status if status != Status.PACKED]
    rows = [(f"{status}.jpg", "train", str(status), None) for status in Status]
    table = pa.table(dict(zip(("source", "split", "status", "class"), zip(*rows, strict=True), strict=True)))
    data = PreviewInput("title", "about", load_dataset("celeba"), table, table, [], Status.PACKED, source=None)
    rejects = pictures.rejects(data)
    assert {reject.reason for reject in rejects} == set(reasons)
    assert {reject.reason: reject.paths for reject in rejects} == {status: [f"{status}.jpg"] for status in reasons}
    page = Page("title", "about", "packed", [], [], {"": {"train": 1}}, [], [], [], [], [], rejects, None)
    text = read(page).text
    assert [status for status in reasons if status not in text or status.meaning not in text] == []
