"""Pages as people meet them: on a phone, in grey, on paper, with a source file under every picture."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import browser
import pyarrow.parquet as pq
import pytest
from conftest import make, tiny, train
from typer.testing import CliRunner

from facepack import page, preview
from facepack.cli import app
from trainer import evaluation, evaluation_page, plots, report
from trainer.plots import Line

needs_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")


class Figures(HTMLParser):
    """Collects the pictures of a page with their alternative texts, and the captions under them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.alternatives: list[str] = []
        self.captions: list[str] = []
        self._in_caption = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")
        if tag == "figcaption":
            self._in_caption = True
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_caption = self._in_caption and tag != "figcaption"

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self.captions[-1] += data


@pytest.fixture(scope="module")
def run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    make(celeba, folder / "build", split="60/20/20")
    make(celeba, folder / "other", split="20/20/60", seed=3)
    return train(folder / "build", folder / "run", tiny())


def evaluated(run: Path, build: str) -> str:
    found = evaluation.evaluate(run, data=str(run.parent / build), device="cpu")
    return evaluation_page.write(found).read_text(encoding="utf-8")


@pytest.mark.parametrize("build", ["build", "other"])
def test_evaluation_page_shows_figures_of_each_split_with_their_intervals(run: Path, build: str) -> None:
    text = evaluated(run, build)
    folder = run if build == "build" else next(run.glob("on-other-*"))
    scores = json.loads((folder / "scores.json").read_text())["splits"]
    assert set(scores) == {"valid", "test"}
    for split, figures in scores.items():
        low, high = figures["interval"]
        assert f"{100 * figures['accuracy']:.1f} %" in text
        assert f"{100 * low:.1f} to {100 * high:.1f}; majority {100 * figures['majority']:.1f} %" in text
        assert f"Confusion on {split}" in text
        assert f"By group on {split}, the largest gap first" in text
    assert ("This is another build than the network was trained on" in text) == (build == "other")


@pytest.mark.parametrize("build", ["build", "other"])
def test_every_mistake_has_its_source_file_below(run: Path, build: str) -> None:
    figures = Figures(evaluated(run, build))
    table = pq.read_table(run.parent / build / "manifest.parquet").to_pylist()
    folder = run if build == "build" else next(run.glob("on-other-*"))
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    wrong = [row for row in rows if row["target"] != row["prediction"]]
    num_shown = sum(min(36, sum(row["split"] == split for row in wrong)) for split in ("valid", "test"))
    assert 0 < num_shown == len(figures.captions) == len(figures.alternatives)
    sources = {table[row["row"]]["source"] for row in wrong}
    assert all(any(caption.endswith(source) for source in sources) for caption in figures.captions)
    assert all(any(source in alternative for source in sources) for alternative in figures.alternatives)


def test_command_writes_a_page_for_another_build(run: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", f"{run}", "--data", f"{run.parent / 'other'}", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    place = next(run.glob("on-other-*"))
    assert f"{place}/evaluation.html: the page" in result.output
    assert (place / "evaluation.html").read_text(encoding="utf-8").count("<svg") == 2


def test_preview_has_source_files_under_its_pictures(run: Path) -> None:
    figures = Figures(preview.html(preview.page_of(str(run.parent / "build"))))
    sources = set(pq.read_table(run.parent / "build" / "manifest.parquet")["source"].to_pylist())
    assert figures.captions
    assert {caption.rpartition(": ")[2] for caption in figures.captions} <= sources
    assert "" not in figures.alternatives


def test_report_shows_what_a_run_went_on_with(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content["changes"] = [{"epoch": 1, "settings": {"epochs": "1, then 2"}}]
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    text = report.write(tmp_path / "run").read_text(encoding="utf-8")
    assert re.search(r"<td>1</td><td>epochs: 1, then 2", text)
    assert "What was changed on the way" not in report.write(run).read_text(encoding="utf-8")


def test_lines_differ_without_colour() -> None:
    lines = [
        Line(f"run {number} {split}", [1, 2, 3], number, split == "train")
        for number in range(4)
        for split in ("valid", "train")
    ]
    styles = [plots.style(line) for line in lines]
    looks = {(f"{style['linestyle']}", style["marker"]) for style in styles}
    assert len(looks) == len(lines)


def test_names_break_behind_underscores_and_are_escaped() -> None:
    assert page.soft("Heavy_Makeup") == "Heavy_<wbr>Makeup"
    assert page.soft("a/<b>.jpg") == "a/<wbr>&lt;b&gt;.<wbr>jpg"
    assert page.soft("0.95") == "0.95"


@pytest.mark.slow
@needs_chromium
def test_pages_fit_a_phone_and_break_no_word(run: Path, tmp_path: Path) -> None:
    evaluated(run, "build")
    (tmp_path / "preview.html").write_text(preview.html(preview.page_of(str(run.parent / "build"))))
    for path in (report.write(run), run / "evaluation.html", tmp_path / "preview.html"):
        for width in (400, 1200):
            assert browser.look(path, width_px=width) == {"outside": [], "broken": [], "scrolls": False}, path.name


@pytest.mark.slow
@needs_chromium
def test_page_prints_light_and_whole(run: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    browser.print_to(report.write(run), pdf)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.read_bytes().count(b"/Type /Page\n") + pdf.read_bytes().count(b"/Type /Page ") > 1
