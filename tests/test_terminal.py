"""What a command shows: log lines, one line per error, and progress on a terminal and elsewhere."""

import logging

import pytest
import typer
from rich.progress import BarColumn, TextColumn

from facepack import terminal
from facepack.errors import FieldError, JobError, UsageError
from facepack.terminal import ByteProgress, ImageProgress, Meter, SampleProgress

log = logging.getLogger("facepack")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FieldError("age_bins", "x", "expected 1-4"), 2, "error: --age-bins x: expected 1-4\n"),
        (UsageError("give a build"), 2, "error: give a build\n"),
        (JobError("no such file"), 1, "error: no such file\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\n"),
        (KeyboardInterrupt(), 1, "interrupted: what is finished is kept; the same command goes on from there\n"),
    ],
)
def test_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, terminal.errors_as_lines(debug=False):
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr() == ("", line)


def test_log_lines_are_shown_inside_commands_only(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("before")
    with terminal.errors_as_lines(debug=False):
        log.info("labels.txt: [bold] %s", 3)
        log.warning("two people")
        logging.getLogger("facepack.trainer").info("epoch 1")
        log.debug("nobody sees it")
    log.info("after")
    assert capsys.readouterr() == ("", "labels.txt: [bold] 3\nwarning: two people\nepoch 1\n")


def test_meter_prints_a_line_now_and_then_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter(BarColumn(), line_every_s=0.0) as meter:
        meter.update(meter.add("packing", total=2), line=lambda: "1 of 2", advance=1)
    with Meter(BarColumn(), line_every_s=60.0) as meter:
        meter.update(meter.add("packing", total=2), line=lambda: "too early", advance=1)
    with Meter(BarColumn(), line_every_s=0.0, shown=False) as meter:
        meter.update(meter.add("packing", total=2), line=lambda: "of another rank", advance=1)
    assert capsys.readouterr() == ("", "1 of 2\n")


def test_meter_draws_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Meter(TextColumn("{task.description} {task.completed}"), line_every_s=0.0, stays=True) as meter:
        task = meter.add("packing", total=3)
        meter.update(task, line=lambda: "no line here", advance=1)
        meter.update(task, line=lambda: "no line here", completed=3)
    screen = capsys.readouterr().err
    assert "packing 3" in screen
    assert "no line here" not in screen


def test_images_are_counted_from_when_the_first_worker_began() -> None:
    with ImageProgress() as progress:
        progress.expect(100)
        progress.begin(2_000.0)
        progress.begin(1_000.0)
        progress.begin(3_000.0)
        progress.advance(40, 2)
        assert progress.seconds > 1e9
        assert progress.rate == pytest.approx(40 / progress.seconds)


def test_samples_and_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with SampleProgress() as samples, ByteProgress() as files:
        samples.expect(10)
        samples.advance(10)
        files.file("labels.txt", 100)(60)
        files.file("labels.txt", 100)(-60)
    assert capsys.readouterr() == ("", "")
