"""The command line as a person meets it: exit codes, one clear line, and what it prints."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from facepack.cli import app, main
from facepack.description import dataset_names
from facepack.drawn import synthetic


def facepack(*words: object, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "facepack", *(str(word) for word in words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"} | environment,
        timeout=120,
        check=False,
    )


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> "Callable[..., subprocess.CompletedProcess[str]]":
    """The command line in this process: torch is imported only once."""

    def run(*words: object, cwd: Path = Path()) -> "subprocess.CompletedProcess[str]":
        args = ["facepack", *map(str, words)]
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", args)
            capfd.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(args, int(ended.value.code or 0), printed.out, printed.err)

    return run


def check_refused(ended: "subprocess.CompletedProcess[str]", code: int, *texts: str) -> None:
    """One line of error with these texts, the exit code, no traceback."""
    assert ended.returncode == code, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, ended.stderr
    assert all(text in lines[0] for text in texts), lines[0]
    assert "Traceback" not in ended.stderr


def test_datasets_lists_every_description() -> None:
    ended = facepack("datasets")
    assert ended.returncode == 0
    assert all(name in ended.stdout for name in dataset_names())
    listed = json.loads(facepack("datasets", "--json").stdout)
    assert [entry["name"] for entry in listed] == dataset_names()


VERBS = [
    "datasets",
    "fetch",
    "build",
    "verify",
    "preview",
    "describe",
    "people",
    "train",
    "experiment",
    "evaluate",
    "doubt",
    "predict",
    "export",
    "report",
    "recipes",
    "bench",
    "demo",
]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_an_example(in_process: Callable[..., Any], verb: str) -> None:
    ended = in_process(*([verb] if verb else []), "--help")
    assert ended.returncode == 0
    assert not verb or f"Example: facepack {verb}" in ended.stdout


COMMANDS = {command.name: command for command in app.registered_commands}


def test_every_verb_is_tested() -> None:
    assert sorted(VERBS) == sorted(f"{name}" for name in COMMANDS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_default_of_every_option_is_in_the_help(verb: str) -> None:
    ended = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"})
    assert ended.exit_code == 0
    text = " ".join(ended.output.split())
    command: Any = typer.main.get_command(app)
    for parameter in command.commands[verb].params:
        is_flag = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
        if is_flag or parameter.required or parameter.name == "help":
            continue
        default = parameter.show_default if isinstance(parameter.show_default, str) else f"{parameter.default}"
        assert default not in ("", "None"), f"{verb} {parameter.name} shows no default"
        assert f"default: {default}]" in text or f"default: ({default})]" in text, f"{verb} {parameter.name}"


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_text_has_a_default_in_brackets(verb: str) -> None:
    command: Any = typer.main.get_command(app)
    for parameter in command.commands[verb].params:
        assert "[default" not in (parameter.help or ""), f"{verb} {parameter.name}"


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("--multiple", ("first", "drop")),
        ("--align", ("none", "crop", "chip")),
        ("--on-several", ("reject", "largest", "all")),
        ("--encoding", ("jpeg", "png", "webp", "raw")),
    ],
)
def test_closed_choices_are_shown(option: str, choices: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(app, ["build", "--help"], env={"COLUMNS": "200"})
    text = " ".join(ended.output.split())
    assert re.search(rf"{option} .?{'.'.join(choices)}", text)


def test_version_is_that_of_the_package() -> None:
    ended = facepack("--version")
    assert (ended.returncode, ended.stdout) == (0, f"facepack {version('facepack')}\n")


def test_command_line_that_cannot_be_read_is_one_line(in_process: Callable[..., Any]) -> None:
    check_refused(facepack("bild"), 2, "No such command 'bild'", "build")
    check_refused(in_process("build"), 2, "Missing argument 'DATASET'")
    check_refused(in_process("build", "celeba", "--seed", "x"), 2, "--seed")
    ended = in_process()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "build" in ended.stdout


def test_on_windows_it_is_one_line() -> None:
    program = "import sys; sys.modules['fcntl'] = None; from facepack.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "error: facepack runs on Linux and macOS\n"


def test_build_then_verify_then_again(celeba: Path, tmp_path: Path) -> None:
    words = ("build", "celeba", "--src", celeba, "--classes", "rarest4", "--size", "32", "--workers", "0")
    made = facepack(*words, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "Pale_Skin" in made.stdout
    assert "rejected: none" in made.stdout
    assert "images/s" in made.stdout
    out = tmp_path / "builds" / "celeba-rarest4"
    assert (out / "build.json").exists()
    verified = facepack("verify", out, "--deep")
    assert verified.returncode == 0
    assert verified.stdout.startswith("verified and decoded: ")
    assert "complete already, nothing to do" in facepack(*words, cwd=tmp_path).stdout


def test_source_is_found_in_the_data_folder(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "celeba").symlink_to(celeba)
    words = ("build", "celeba", "--classes", "Bald,Male", "--size", "32", "--limit", "20", "--workers", "0")
    assert facepack(*words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "builds" / "celeba-Bald-Male" / "build.json").exists()
    elsewhere = facepack(*words, "--out", tmp_path / "other", cwd=Path("/"), FACEPACK_DATA=str(tmp_path / "data"))
    assert elsewhere.returncode == 0


def test_dry_run_shows_the_plan_and_writes_nothing(
    in_process: Callable[..., Any], celeba: Path, tmp_path: Path
) -> None:
    ended = in_process("build", "celeba", "--src", celeba, "--classes", "rarest4", "--dry-run", cwd=tmp_path)
    assert ended.returncode == 0
    assert "Mustache" in ended.stdout
    assert "split: official" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("build", "celebs"), ("unknown dataset 'celebs'", "celeba")),
        (("build", "celeba", "--classes", "Balding"), ("has no class 'Balding'", "Bald")),
        (("build", "celeba", "--classes", "rarest99"), ("has 40 classes",)),
        (("build", "celeba", "--classes", "gender:all"), ("has no classes 'gender'",)),
        (("build", "celeba", "--age-bins", "1-4"), ("has no ages",)),
        (("build", "celeba", "--size", "big"), ("--size big", "keep")),
        (("build", "celeba", "--split", "half"), ("--split half", "80/10/10")),
        (("build", "celeba", "--quality", "101"), ("--quality 101",)),
        (("build", "celeba", "--limit", "0"), ("--limit 0",)),
        (("build", "celeba", "--encoding", "gif"), ("--encoding", "'gif' is not one of 'jpeg', 'png', 'webp', 'raw'")),
        (("build", "celeba", "--multiple", "all"), ("--multiple", "'all' is not one of 'first', 'drop'")),
        (("build", "celeba", "--align", "face"), ("--align", "'face' is not one of 'none', 'crop', 'chip'")),
        (
            ("build", "celeba", "--align", "crop", "--on-several", "both"),
            ("--on-several", "'both' is not one of 'reject', 'largest', 'all'"),
        ),
        (("build", "celeba", "--align", "crop", "--landmarks", "x.dat"), ("--landmarks x.dat", "align chip")),
        (("build", "celeba", "--align", "chip", "--landmarks", "x.dat"), ("--landmarks x.dat: no such file",)),
        (("build", "celeba", "--margin", "15"), ("--margin", "align crop or chip")),
        (("build", "celeba", "--workers", "-1"), ("--workers -1",)),
        (("build", "celeba", "--workers", "0", "--ray-address", "auto"), ("--ray-address auto", "workers 0")),
        (("build", "celeba", "--encoding", "raw", "--quality", "60"), ("--quality", "encoding jpeg")),
        (("build", "celeba", "--size", "64x"), ("--size 64x",)),
        (("build", "celeba", "--images", "huge"), ("--images huge", "aligned, wild")),
    ],
)
def test_wrong_usage_exits_2(
    in_process: Callable[..., Any], celeba: Path, tmp_path: Path, words: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    check_refused(in_process(*words, "--src", celeba, "--out", tmp_path / "build"), 2, *texts)
    assert not (tmp_path / "build").exists()


def test_names_that_look_like_markup_are_shown_as_they_are(
    in_process: Callable[..., Any], celeba: Path, tmp_path: Path
) -> None:
    for name in ("[bold]out", "a[", "[", ":x:", "b[[/c]"):
        words = ("build", "celeba", "--src", celeba, "--limit", "9", "--size", "32", "--workers", "0")
        ended = in_process(*words, "--out", tmp_path / name)
        assert ended.returncode == 0, ended.stderr
        assert f"MB in {tmp_path / name}\n" in ended.stdout
    assert ":x:" in in_process("build", ":x:").stderr


def test_missing_source_exits_1_and_names_it(in_process: Callable[..., Any], tmp_path: Path) -> None:
    check_refused(in_process("build", "celeba", cwd=tmp_path), 1, "data/celeba: no such folder", "--src")
    (tmp_path / "data" / "celeba").mkdir(parents=True)
    check_refused(in_process("build", "celeba", cwd=tmp_path), 1, "data/celeba: an empty folder")


def test_missing_label_file_exits_1_and_names_it(in_process: Callable[..., Any], celeba: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(celeba, source)
    (source / "list_eval_partition.txt").unlink()
    planned = in_process("build", "celeba", "--src", source, "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0
    assert planned.stderr == "warning: no official split here, for there is no list_eval_partition.txt\n"
    refused = in_process("build", "celeba", "--src", source, "--split", "official", cwd=tmp_path)
    check_refused(refused, 2, "--split official")
    (source / "list_attr_celeba.txt").unlink()
    check_refused(in_process("build", "celeba", "--src", source, cwd=tmp_path), 1, "list_attr_celeba.txt")


def test_label_file_without_a_column_exits_1_and_names_it(
    in_process: Callable[..., Any], celeba: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(celeba, source)
    path = source / "list_attr_celeba.txt"
    path.write_bytes(path.read_bytes().replace(b" Bald ", b" Balt ", 1))
    check_refused(in_process("build", "celeba", "--src", source, cwd=tmp_path), 1, "list_attr_celeba.txt", "'Bald'")


def test_no_image_at_all_exits_1(in_process: Callable[..., Any], celeba: Path, tmp_path: Path) -> None:
    for path in celeba.glob("*.txt"):
        shutil.copy(path, tmp_path)
    check_refused(in_process("build", "celeba", "--src", tmp_path), 1, "none of the 300 images is there")
    planned = in_process("build", "celeba", "--src", tmp_path, "--dry-run")
    assert planned.returncode == 0
    assert "300 rows in 0 shards" in planned.stdout
    assert f"none of the images is in {tmp_path}" in planned.stderr


def test_no_row_of_a_class_exits_1(in_process: Callable[..., Any], tmp_path: Path) -> None:
    synthetic.draw("afad", tmp_path / "afad", num_images=40)
    words = ("build", "afad", "--src", tmp_path / "afad", "--age-bins", "90-", "--out", tmp_path / "build")
    check_refused(in_process(*words), 1, "no row is of any of the classes 90-")


def test_damaged_archive_exits_1(in_process: Callable[..., Any], celeba: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "celeba"), "zip", celeba))
    archive.write_bytes(archive.read_bytes()[:-200])
    check_refused(
        in_process("build", "celeba", "--src", archive, "--out", tmp_path / "b"), 1, "celeba.zip", "damaged archive"
    )


def test_verify_of_a_changed_build_exits_1_and_names_the_change(
    in_process: Callable[..., Any], celeba: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    in_process("build", "celeba", "--src", celeba, "--size", "32", "--limit", "20", "--out", out, "--workers", "0")
    tar = next(iter(sorted(out.glob("*.tar"))))
    tar.write_bytes(tar.read_bytes().replace(b'"Male":', b'"Mole":', 1))
    ended = in_process("verify", out)
    assert f"wrong: {tar.name}: sha256 is" in ended.stderr
    assert "label Male is None in the tar" in ended.stderr
    check_refused(ended, 1, "2 disagreements")
    check_refused(in_process("verify", tmp_path / "nothing"), 1, "no complete build")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    ended = facepack("build", "celeba", "--src", tmp_path / "absent", "--debug")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_preview_writes_a_page_and_says_where(in_process: Callable[..., Any], celeba: Path, tmp_path: Path) -> None:
    ended = in_process("preview", "celeba", "--src", celeba, "--classes", "rarest4", "--png", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("celeba-preview.html: ")
    assert (tmp_path / "celeba-preview.html").exists()
    assert (tmp_path / "celeba-preview.png").exists()
    check_refused(in_process("preview", "celebs"), 2, "unknown dataset 'celebs'", "celeba")
    check_refused(in_process("preview", "builds/none", cwd=tmp_path), 1, "builds/none: no build.json")


TRAIN = ("train", "celeba_rarest4", "--data", "builds/celeba-rarest4")


@pytest.fixture(scope="module")
def trained(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which facepack built and trained by its own defaults: builds/celeba-rarest4, runs/celeba_rarest4."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("build", "celeba", "--src", celeba, "--classes", "rarest4", "--size", "64", "--split", "60/20/20")
    assert facepack(*words, "--workers", "0", cwd=folder).returncode == 0
    ended = facepack(*TRAIN, "--set", "epochs=2", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    assert "epoch   2 of 2" in ended.stderr
    assert re.search(r"test: loss [\d.]+, accuracy [\d.]+ \([\d.]+ to [\d.]+; majority [\d.]+\), ", ended.stdout)
    assert ended.stdout.endswith("runs/celeba_rarest4/report.html: the report\n")
    return folder


def test_train_again_says_what_is_there_and_refuses_another_run_in_its_place(
    in_process: Callable[..., Any], trained: Path
) -> None:
    again = in_process(*TRAIN, "--set", "epochs=2", cwd=trained)
    assert again.returncode == 0
    assert "epoch " not in again.stderr
    refused = in_process(*TRAIN, "--set", "epochs=3", cwd=trained)
    check_refused(refused, 2, "runs/celeba_rarest4: holds another run (epochs: 2 there, 3 here)", "give another --out")


def test_evaluate_predict_and_report_go_by_the_run_alone(
    in_process: Callable[..., Any], trained: Path, celeba: Path
) -> None:
    ended = in_process("evaluate", "runs/celeba_rarest4", "--split", "test", cwd=trained)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("test: loss ")
    photos = sorted((celeba / "img_align_celeba").iterdir())[:2]
    ended = in_process("predict", "runs/celeba_rarest4", *photos, cwd=trained)
    assert ended.returncode == 0, ended.stderr
    assert "Pale_Skin" in ended.stdout
    assert (trained / "predictions.png").read_bytes().startswith(b"\x89PNG")
    (trained / "no_photo.txt").write_text("no picture")
    told = in_process("predict", "runs/celeba_rarest4", photos[0], "--json", cwd=trained)
    assert json.loads(told.stdout)[0]["run"] == "celeba_rarest4"
    files = ("--out", "a.csv", "--out", "b/a.jsonl")
    ended = in_process("predict", "runs/celeba_rarest4", *photos, "builds", *files, cwd=trained)
    assert ended.returncode == 2, "no image in a build"
    ended = in_process("predict", "runs/celeba_rarest4", *photos, trained / "no_photo.txt", *files, cwd=trained)
    assert (trained / "a.csv").read_text().count("\n") == len((trained / "b/a.jsonl").read_text().split("\n")) == 4
    assert "3 photos, 2 predictions; none for 1 text, an empty file" in ended.stderr
    ended = in_process("report", "runs/celeba_rarest4", "runs/celeba_rarest4", cwd=trained)
    assert ended.stdout == "compare.html\n"
    assert in_process("report", "runs/celeba_rarest4", cwd=trained).stdout == "runs/celeba_rarest4/report.html\n"


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        (("train", "celeba_rarest5", "--data", "builds/celeba-rarest4"), 2, ["did you mean celeba_rarest4"]),
        (("train", "celeba_rarest4", "--data", "builds/none"), 1, ["builds/none: no build.json", "run facepack build"]),
        (
            ("train", "celeba_rarest4", "--data", "builds/celeba-rarest4", "--set", "epoch=3"),
            2,
            ["did you mean epochs"],
        ),
        (
            ("train", "celeba_rarest4", "--data", "builds/celeba-rarest4", "--device", "gpu"),
            2,
            ["expected cpu or cuda"],
        ),
        (
            ("train", "celeba_attributes", "--data", "builds/celeba-rarest4", "--out", "x", "--set", "task=Number()"),
            2,
            [],
        ),
        (
            ("train", "own_face", "--data", "builds/celeba-rarest4", "--set", "negatives="),
            1,
            ["weights runs/celeba_attributes: no such file, and no folder of a run"],
        ),
        (("evaluate", "runs/none"), 1, ["runs/none: no run.json"]),
        (("predict", "runs/none", "x.jpg"), 2, ["no such photo"]),
        (("predict", "runs/celeba_rarest4"), 2, ["give at least one photo"]),
        (("predict", "runs/celeba_rarest4", "--out", "a.xlsx"), 2, ["--out a.xlsx: expected a file that ends in .csv"]),
        (("report", "runs/none"), 1, ["runs/none: no run.json"]),
        (("recipes", "nothing_like_it"), 2, ["is not known"]),
    ],
)
def test_wrong_words_of_the_trainer_are_one_line(
    in_process: Callable[..., Any], trained: Path, words: tuple[str, ...], code: int, texts: list[str]
) -> None:
    before = sorted(path.name for path in trained.rglob("*"))
    check_refused(in_process(*words, cwd=trained), code, *texts)
    assert sorted(path.name for path in trained.rglob("*")) == before, "nothing is left behind"


def test_recipes_are_listed_and_shown_with_their_fields(in_process: Callable[..., Any]) -> None:
    listed = in_process("recipes")
    assert listed.returncode == 0
    assert len([line for line in listed.stdout.splitlines() if line.startswith("celeba_attributes")]) == 4
    shown = in_process("recipes", "celeba_rarest4").stdout
    assert "facepack build celeba --classes rarest4 --size 64" in shown
    assert "rarest4_cnn(dropout=0.5)" in shown


@pytest.mark.parametrize("address", ["foo", "127.0.0.1:1"])
def test_address_at_which_no_ray_is_exits_1_and_names_it(celeba: Path, tmp_path: Path, address: str) -> None:
    words = ("build", "celeba", "--classes", "rarest4", "--src", celeba, "--out", tmp_path / "build")
    check_refused(facepack(*words, "--ray-address", address), 1, f"Ray at {address}: ")
