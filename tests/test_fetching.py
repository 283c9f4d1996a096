"""fetch: from nothing to verified files, once; what cannot be had is output exactly, and nothing is half there."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import hear_interrupts
from typer.testing import CliRunner
from web import Web

import facepack
from facepack import download
from facepack.cli import app
from facepack.description import load_dataset, load_model
from facepack.errors import UsageError
from facepack.lock import FETCH, held
from facepack.storage import Store

TOY = """
name = "toy"
title = "Toy"
num_images = 4
homepage = "https://example.org"
terms = "non-commercial research only"
obtain = "here"
citation = ""

{files}
[[index]]
kind = "paths"
about = "images"
patterns = [{{ pattern = '(?:.*/)?[^/]+[.]jpg' }}]

[[examples]]
rows = []
files = {{}}
"""
PHOTOS = {f"faces/{number}.jpg": bytes([number]) * 3000 for number in range(4)}


def archive(kind: str) -> bytes:
    """The photos as published."""
    kept = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(kept, "w") as opened:
            for name, content in PHOTOS.items():
                opened.writestr(name, content)
        return kept.getvalue()
    with tarfile.open(fileobj=kept, mode=f"w:{kind}") as opened:  # type: ignore[call-overload]
        for name, content in PHOTOS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return kept.getvalue()


LABELS = b"name age\n" * 5000
XZ = archive("xz")
ZIP = archive("zip")


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of descriptions of its own, a data folder, and short waits."""
    folder = tmp_path / "manifests"
    (folder / "models").mkdir(parents=True)
    monkeypatch.setattr("facepack.description.manifests_folder", lambda: folder)
    monkeypatch.setenv("FACEPACK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    load_dataset.cache_clear()
    load_model.cache_clear()
    yield folder
    load_dataset.cache_clear()
    load_model.cache_clear()


def describe(folder: Path, *files: str, name: str = "toy") -> None:
    """Write the description of a dataset with these files."""
    blocks = "".join(f"[[files]]\n{one}\n\n" for one in files)
    (folder / f"{name}.toml").write_text(TOY.format(files=blocks))


def labels(web: Web, **more: str) -> str:
    facts = {"md5": hashlib.md5(LABELS).hexdigest(), **more}
    known = "\n".join(f'{key} = "{value}"' for key, value in facts.items())
    return f'path = "labels.txt"\nkind = "labels"\nurls = ["{web.url}/labels.txt"]\n{known}'


def faces(web: Web, *, pieces: bool = False) -> str:
    more = "pieces = true\n" if pieces else f'sha256 = "{hashlib.sha256(XZ).hexdigest()}"\n'
    return (
        f'path = "faces.tar.xz"\nurls = ["{web.url}/gone.xz", "{web.url}/faces.tar.xz"]\n'
        f'{more}unpack = true\ngives = "faces"\nnum_files = 4'
    )


def run(*arguments: str, accept: bool = True) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["fetch", "toy", *arguments, *(["--accept-terms"] if accept else [])])
    return ended.exit_code, ended.output


def content_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".facepack-")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cut_up(content: bytes, number: int) -> dict[str, bytes]:
    """Pieces as `split` names them."""
    size = -(-len(content) // number)
    names = [f"faces.tar.xz{first}{second}" for first in "ab" for second in "abcdefghijklmnopqrstuvwxyz"]
    return {names[at]: content[at * size : (at + 1) * size] for at in range(number)}


def test_from_nothing_to_verified_files_and_a_second_call_fetches_nothing(toys: Path, tmp_path: Path) -> None:
    with Web({"labels.txt": LABELS, "faces.tar.xz": XZ}) as web:
        describe(toys, labels(web), faces(web))
        code, output = run()
        assert code == 0, output
        assert content_of(tmp_path / "data" / "toy") == {"labels.txt": LABELS, **PHOTOS}
        assert "gone.xz: the server says 404" in output, "the second address has it"
        asked = len(web.asked)
        code, output = run(accept=False)
        assert code == 0, output
        assert len(web.asked) == asked
        assert "labels.txt: 45,000 bytes, as published" in output
        assert "faces.tar.xz: 4 files" in output


@pytest.mark.parametrize("pieces", [False, True])
def test_on_a_terminal_bars_are_drawn_and_all_comes_as_well(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: bool
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Web({"labels.txt": LABELS, **(cut_up(XZ, 3) if pieces else {"faces.tar.xz": XZ})}) as web:
        describe(toys, labels(web), faces(web, pieces=pieces))
        code, output = run()
    assert code == 0, output
    assert "in all" in output
    assert content_of(tmp_path / "data" / "toy") == {"labels.txt": LABELS, **PHOTOS}


def test_terms_are_shown_and_accepted_once(toys: Path, tmp_path: Path) -> None:
    with Web({"labels.txt": LABELS}) as web:
        describe(toys, labels(web))
        code, output = run(accept=False)
        assert code == 2
        assert "non-commercial research only (https://example.org); accept them with --accept-terms" in output
        assert "its terms are: non-commercial research only" in run("--only", "labels")[1]
        (tmp_path / "data" / "toy" / ".facepack-terms").unlink()
        (tmp_path / "data" / "toy" / "labels.txt").unlink()
        web.asked.clear()
        assert run(accept=False)[0] == 2
        assert not web.asked
        assert run()[0] == 0
        (tmp_path / "data" / "toy" / "labels.txt").unlink()
        assert run(accept=False)[0] == 0


def test_only_files_of_a_kind(toys: Path, tmp_path: Path) -> None:
    with Web({"labels.txt": LABELS, "faces.tar.xz": XZ}) as web:
        describe(toys, labels(web), faces(web), labels(web).replace("labels", "extra") + "\noptional = true")
        assert run("--only", "labels")[0] == 0
        assert set(content_of(tmp_path / "data" / "toy")) == {"labels.txt"}
        code, output = run("--only", "label")
        assert code == 2
        assert "--only label: there are labels, images, extra" in output


@pytest.mark.parametrize("number", [1, 3, 28])
def test_pieces_are_joined_whatever_their_number(toys: Path, tmp_path: Path, number: int) -> None:
    pieces = cut_up(XZ, number)
    with Web(pieces, lambda name, before: "cut" if name.endswith("ab") and before == 0 else "") as web:
        describe(toys, faces(web, pieces=True))
        code, output = run()
        assert code == 0, output
        assert content_of(tmp_path / "data" / "toy") == PHOTOS
        assert not [path for path in (tmp_path / "data" / "toy").iterdir() if "pieces" in path.name]


def test_lost_piece_is_one_line_and_goes_on_when_it_is_there(toys: Path, tmp_path: Path) -> None:
    pieces = cut_up(XZ, 6)
    with Web({name: part for name, part in pieces.items() if not name.endswith("ad")}) as web:
        describe(toys, faces(web, pieces=True))
        code, output = run()
        assert code == 1
        assert "damaged" in output
        assert not (tmp_path / "data" / "toy" / "faces").exists(), "no photo of half an archive"
        web.files |= pieces
        web.asked.clear()
        code, output = run()
        assert code == 0, output
        assert {name[-2:] for name, _ in web.asked if name.startswith("faces")} == {"ad", "ae", "af", "ag", "ah"}
        assert content_of(tmp_path / "data" / "toy") == PHOTOS


@pytest.mark.parametrize("how", ["cut", "503", "redirect", "plain", "slow"])
def test_faults_that_pass_are_gone_through(toys: Path, tmp_path: Path, how: str) -> None:
    def behaviour(_: str, before: int) -> str:
        return "" if how in ("cut", "503") and before else how

    with Web({"labels.txt": LABELS, "faces.tar.xz": XZ}, behaviour) as web:
        describe(toys, labels(web), faces(web))
        code, output = run()
        assert code == 0, output
        assert content_of(tmp_path / "data" / "toy") == {"labels.txt": LABELS, **PHOTOS}


@pytest.mark.parametrize(
    ("how", "reason"), [("404", "404 Not Found"), ("other", "its md5 is"), ("long", "ended early")]
)
def test_file_that_cannot_be_had_stops_no_other(toys: Path, tmp_path: Path, how: str, reason: str) -> None:
    files = {"labels.txt": LABELS, "faces.tar.xz": XZ}
    with Web(files, lambda name, _: how if name == "labels.txt" else "") as web:
        describe(toys, labels(web), faces(web))
        code, output = run()
        assert code == 1
        assert reason in output or "connection was lost" in output
        assert "Traceback" not in output
        found = content_of(tmp_path / "data" / "toy")
        assert "labels.txt" not in found
        assert {name: found[name] for name in PHOTOS} == PHOTOS


def test_file_changed_by_one_byte_is_not_the_published_one(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_bytes(LABELS[:-1] + b"x")
    with Web({"labels.txt": LABELS}) as web:
        describe(toys, labels(web))
        code, output = run()
        assert code == 1
        assert "its md5 is" in output
        assert "move it away" in output
        assert (folder / "labels.txt").read_bytes() == LABELS[:-1] + b"x", "nobody's file is touched"
        assert not web.asked


def test_half_of_the_images_is_said_and_kept(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "toy" / "faces"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(b"mine")
    with Web({"faces.tar.xz": XZ}) as web:
        describe(toys, faces(web))
        code, output = run()
        assert code == 1
        assert "1 of 4 files; move it away to have all of it fetched" in output
        assert not web.asked


def test_wrong_pieces_of_one_address_do_not_hide_the_other(toys: Path, tmp_path: Path) -> None:
    right, wrong = cut_up(XZ, 3), cut_up(bytes(len(XZ)), 3)
    files = {f"a/{name}": part for name, part in wrong.items()} | {f"b/{name}": part for name, part in right.items()}
    with Web(files) as web:
        known = f'sha256 = "{hashlib.sha256(XZ).hexdigest()}"\n'
        block = faces(web, pieces=True).replace("gone.xz", "a/faces.tar.xz").replace("/faces.tar.xz", "/b/faces.tar.xz")
        describe(toys, block.replace("a/b/", "a/").replace("pieces = true\n", f"pieces = true\n{known}"))
        code, output = run()
        assert code == 0, output
        assert "its sha256 is" in output
        assert content_of(tmp_path / "data" / "toy").items() >= PHOTOS.items()


def test_one_failure_hides_no_other(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    (folder / "damaged.zip").write_bytes(b"no zip")
    damaged = DRIVE.replace("faces.zip", "damaged.zip").replace('gives = "faces"', 'gives = "other"')
    with Web({"faces.tar.xz": XZ}) as web:
        describe(toys, labels(web), damaged, DRIVE.replace('gives = "faces"', 'gives = "more"'), faces(web))
        code, output = run()
    assert code == 1
    for words in ("labels.txt: the server says 404", "damaged.zip: damaged", "move it away", "get faces.zip from"):
        assert words in output
    assert content_of(folder).items() >= PHOTOS.items()


def test_copy_in_another_place_is_found(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "toy" / "Img" / "faces"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"1")
    describe(toys, 'also = ["Img/faces.zip"]\n' + DRIVE)
    code, output = run()
    assert code == 0, output
    assert "faces.zip: 4 files" in output


DRIVE = 'path = "faces.zip"\ndrive = "0Bxyz"\ngives = "faces"\nnum_files = 4\nunpack = true'


def test_what_needs_a_log_in_is_said_and_checked_once_it_is_there(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    describe(toys, DRIVE + f'\nsha256 = "{hashlib.sha256(ZIP).hexdigest()}"')
    code, output = run()
    place = tmp_path / "data" / "toy" / "faces.zip"
    assert code == 1
    assert "get faces.zip from https://drive.google.com/file/d/0Bxyz/view" in output
    assert f"put it at {place}, and run the same command" in output
    place.write_bytes(b"<html>log in</html>")
    code, output = run()
    assert code == 1
    assert "faces.zip: a web page, and not the file; move it away" in output
    place.write_bytes(ZIP[:-1])
    assert "its sha256 is" in run()[1]
    place.write_bytes(ZIP)
    code, output = run()
    assert code == 0, output
    assert content_of(place.parent) == PHOTOS


def test_archives_that_are_read_in_place_stay_packed(toys: Path, tmp_path: Path) -> None:
    describe(toys, DRIVE.replace("\nunpack = true", ""))
    place = tmp_path / "data" / "toy" / "faces.zip"
    place.parent.mkdir(parents=True)
    place.write_bytes(ZIP)
    assert run()[0] == 0
    assert content_of(place.parent) == {"faces.zip": ZIP}


PROGRAM = """#!/bin/sh
[ -n "$FAIL" ] && exit 3
[ "$1" = datasets ] && cp "$TOY_ZIP" "$5/faces.zip" || cp "$TOY_ZIP" "$3"
"""


@pytest.mark.parametrize("program", ["gdown", "kaggle"])
def test_programs_for_a_place_are_used_where_they_are(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program).write_text(PROGRAM)
    (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "toy.zip").write_bytes(ZIP)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("TOY_ZIP", str(tmp_path / "toy.zip"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    describe(toys, DRIVE if program == "gdown" else DRIVE.replace('drive = "0Bxyz"', 'kaggle = "me/toy"'))
    if program == "kaggle":
        code, output = run()
        assert code == 1
        assert "https://www.kaggle.com/datasets/me/toy (with pip install kaggle and its key" in output
        (tmp_path / "kaggle").mkdir()
        (tmp_path / "kaggle" / "kaggle.json").write_text("{}")
    monkeypatch.setenv("FAIL", "1")
    code, output = run()
    assert code == 1
    assert f"{program}: exit code 3; get faces.zip from" in output
    monkeypatch.delenv("FAIL")
    code, output = run()
    assert code == 0, output
    assert content_of(tmp_path / "data" / "toy") == PHOTOS


def test_killed_and_called_again_nothing_is_fetched_twice(toys: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import facepack; from facepack import description;"
        "description.manifests_folder = lambda: Path(sys.argv[1]);"
        "facepack.fetch('toy', to=sys.argv[2], accept_terms=True)"
    )
    pieces = cut_up(os.urandom(1 << 20), 8)
    whole = b"".join(pieces.values())
    folder = tmp_path / "data" / "toy"
    with Web({**pieces, "labels.txt": LABELS}, lambda *_: "slow") as web:
        joined = faces(web, pieces=True).partition("unpack")[0].rstrip()
        describe(toys, labels(web), joined)
        command = [sys.executable, "-c", program, str(toys), str(folder)]
        for after_bytes in (100_000, 400_000, 900_000):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            while process.poll() is None and web.num_bytes < after_bytes:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
        web.behaviour = lambda *_: ""
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        assert content_of(folder) == {"labels.txt": LABELS, "faces.tar.xz": whole}
        twice = web.num_bytes - len(whole) - len(LABELS)
        assert twice <= 3 * 4 * (1 << 17), "what was under way when it was killed, at most"


def test_interrupt_ends_at_once_and_goes_on(toys: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from facepack import description; from facepack.cli import main;"
        "description.manifests_folder = lambda: Path(sys.argv.pop(1)); sys.argv[0] = 'facepack'; main()"
    )
    with Web({"labels.txt": LABELS * 20}, lambda *_: "slow") as web:
        describe(toys, f'path = "labels.txt"\nurls = ["{web.url}/labels.txt"]')
        program = program.replace("lambda: Path(sys.argv.pop(1))", f"lambda: Path({str(toys)!r})")
        command = [sys.executable, "-c", program, "fetch", "toy", "--accept-terms"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
        while process.poll() is None and web.num_bytes < 100_000:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=10)
        assert process.returncode == 1, output
        assert "the same command goes on from there" in output
        assert "Traceback" not in output
        web.behaviour = lambda *_: ""
        code, output = run()
        assert code == 0, output
        assert web.asked[-1][1].startswith("bytes=")


def test_second_fetch_at_once_is_refused(toys: Path, tmp_path: Path) -> None:
    with Web({"labels.txt": LABELS}) as web:
        describe(toys, labels(web))
        (tmp_path / "data" / "toy").mkdir(parents=True)
        with held(Store(str(tmp_path / "data" / "toy")), work=FETCH):
            code, output = run()
        assert code == 1
        assert "another fetch" in output
        assert not web.asked


def test_full_disk_is_one_line(toys: Path, tmp_path: Path) -> None:
    program = (
        "import resource, signal; from pathlib import Path; from facepack import description;"
        "from facepack.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        f"description.manifests_folder = lambda: Path({str(toys)!r}); main()"
    )
    with Web({"labels.txt": LABELS}) as web:
        describe(toys, labels(web))
        command = [sys.executable, "-c", program, "fetch", "toy", "--accept-terms"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "make room and run the same command again" in line


def write_checksums(toys: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the maintainers' script on these descriptions."""
    script = Path(__file__).parents[1] / "manifests" / "checksums.py"
    command = [sys.executable, str(script), "toy", "--data", str(folder), "--descriptions", str(toys)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    load_dataset.cache_clear()
    return ended


def test_checksums_are_filled_in_from_files_that_are_here(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_bytes(LABELS)
    with Web({}) as web:
        describe(toys, labels(web).partition("\nmd5")[0], faces(web))
    for _ in range(2):
        ended = write_checksums(toys, folder)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{toys / 'toy.toml'}: labels.txt\n"
        first, second = load_dataset("toy").files
        assert (first.num_bytes, first.sha256) == (45_000, hashlib.sha256(LABELS).hexdigest())
        assert second.num_bytes == 0
    (folder / "labels.txt").write_bytes(b"other")
    ended = write_checksums(toys, folder)
    assert ended.returncode == 1
    assert "5 bytes, expected 45,000" in ended.stderr
    assert load_dataset("toy").files[0].num_bytes == 45_000


def test_checksums_of_an_archive_that_was_unpacked_are_remembered(toys: Path, tmp_path: Path) -> None:
    with Web({"faces.tar.xz": XZ}) as web:
        block = faces(web).replace("num_files = 4", "num_files = 0").partition("sha256")[0]
        describe(toys, block + 'unpack = true\ngives = "faces"')
        code, output = run()
        assert code == 0, output
    assert write_checksums(toys, tmp_path / "data" / "toy").returncode == 0
    (file,) = load_dataset("toy").files
    assert (file.num_bytes, file.sha256, file.num_files) == (len(XZ), hashlib.sha256(XZ).hexdigest(), 4)


def test_library_gives_what_is_there_and_prints_nothing(
    toys: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="facepack")
    with Web({"labels.txt": LABELS, "faces.tar.xz": XZ}) as web:
        describe(toys, labels(web), faces(web))
        with pytest.raises(UsageError, match="accept_terms=True"):
            facepack.fetch("toy")
        fetched = facepack.fetch("toy", to=tmp_path / "here", accept_terms=True)
    assert fetched.is_complete
    assert fetched.folder == tmp_path / "here"
    assert {file.name: file.detail for file in fetched.files} == {
        "labels.txt": "45,000 bytes",
        "faces.tar.xz": "4 files",
    }
    assert capfd.readouterr() == ("", "")
    assert "labels.txt: 45,000 bytes" in caplog.messages


def test_library_names_what_a_person_has_to_get(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    describe(toys, DRIVE)
    fetched = facepack.fetch("toy", accept_terms=True)
    assert not fetched.is_complete
    (line,) = fetched.by_hand
    assert line.startswith("get faces.zip from https://drive.google.com/file/d/0Bxyz/view")


def test_model_goes_where_it_is_looked_for(toys: Path, tmp_path: Path) -> None:
    content = os.urandom(50_000)
    with Web({"net.pt": content}) as web:
        text = (
            'name = "net"\ntitle = "Net"\nhomepage = ""\nterms = "MIT"\ncitation = ""\n\n[[files]]\npath = "net.pt"\n'
        )
        (toys / "models" / "net.toml").write_text(text + f'urls = ["{web.url}/net.pt"]\n')
        ended = CliRunner().invoke(app, ["fetch", "net", "--accept-terms"])
        assert ended.exit_code == 0, ended.output
    assert (tmp_path / "data" / "models" / "net.pt").read_bytes() == content


def test_build_without_its_files_says_how_to_get_them(toys: Path, tmp_path: Path) -> None:
    with Web({}) as web:
        describe(toys, labels(web))
        ended = CliRunner().invoke(app, ["build", "toy", "--out", str(tmp_path / "build")])
        assert ended.exit_code == 1
        assert "facepack fetch toy gets what is missing" in ended.output
    ended = CliRunner().invoke(app, ["fetch", "nothing"])
    assert ended.exit_code == 2
    assert "unknown dataset or model 'nothing': known are toy" in ended.output


def test_own_photos_are_not_fetched_and_models_are_offered(toys: Path) -> None:
    describe(toys)
    code, output = run()
    assert code == 2
    assert "toy: nothing to fetch: here" in output
    (toys / "models" / "landmarks.toml").write_text("")
    ended = CliRunner().invoke(app, ["fetch", "landmark"])
    assert "did you mean landmarks" in ended.output
