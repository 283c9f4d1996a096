"""Admission: what a machine lacks is named, and one that has everything is admitted."""

import dataclasses
import hashlib
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facepack import admission, lock, manifest, ray_guest
from facepack.admission import Ground, Terms, terms_of
from facepack.configuration import Configuration
from facepack.ray_guest import Letter, Packer
from facepack.source import open_source
from facepack.storage import Store


@pytest.fixture
def ground(celeba: Path, tmp_path: Path) -> Ground:
    """A source, and an output with the lock of a build."""
    shutil.copytree(celeba, tmp_path / "source")
    out = Store(str(tmp_path / "out"))
    out.make()
    out.write(lock.BUILD.lock_file, b'{"token": "ours"}')
    configuration = Configuration.of("celeba", size="32")
    return Ground(open_source(str(tmp_path / "source")), out, configuration, None, "ours")


def photos(ground: Ground) -> list[str]:
    return [path for path in ground.source.paths if path.endswith(".jpg")]


def terms(ground: Ground, number: int = 5) -> Terms:
    return terms_of(ground, photos(ground)[:number])


def letter_of(content: Terms, **changes: Any) -> Letter:
    versions = ray_guest.versions_of(["ray", *manifest.DECIDES_BYTES])
    letter = Letter(versions, ray_guest.code_digest(), {}, pickle.dumps(content))
    return dataclasses.replace(letter, **changes)


def test_terms_are_checksums_of_files_others_each_time(ground: Ground) -> None:
    first, second = (terms(ground, 300) for _ in range(2))
    assert len(first.sources) == len(second.sources) == admission.NUM_READ
    assert set(first.sources) != set(second.sources)
    assert len(first.packed) == admission.NUM_PACKED
    folder = Path(ground.source.location)
    assert first.sources == {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in first.sources}


def test_machine_with_everything_has_no_faults_and_leaves_no_trace(ground: Ground) -> None:
    assert ray_guest.node_faults(letter_of(terms(ground))) == []
    assert [path.name for path in Path(ground.store.location).iterdir()] == [lock.BUILD.lock_file]


def test_source_that_is_not_there_is_named(ground: Ground) -> None:
    content = terms(ground)
    shutil.rmtree(ground.source.location)
    (fault,) = admission.faults(content)
    assert fault == f"does not see {ground.source.location} ({next(iter(content.sources))} is not there)"


def test_file_with_other_bytes_is_named(ground: Ground) -> None:
    content = terms(ground)
    path = list(content.sources)[3]
    (Path(ground.source.location) / path).write_bytes(b"another copy")
    assert admission.faults(content) == [f"has other files in {ground.source.location} ({path} has other bytes)"]


def test_file_that_cannot_be_read_is_named_with_the_reason(ground: Ground) -> None:
    content = terms(ground)
    path = next(iter(content.sources))
    (Path(ground.source.location) / path).unlink()
    (Path(ground.source.location) / path).mkdir()
    assert admission.faults(content) == [f"cannot read {ground.source.location} ({path}: Is a directory)"]


@pytest.mark.parametrize("there", [None, b'{"token": "of another folder"}', b"no lock"])
def test_output_that_is_another_folder_is_named(ground: Ground, there: bytes | None) -> None:
    content = terms(ground)
    ground.store.delete(lock.BUILD.lock_file)
    if there is not None:
        ground.store.write(lock.BUILD.lock_file, there)
    (fault,) = admission.faults(content)
    assert fault == f"sees another folder at {ground.store.location}, without the lock of this build"


def test_output_that_cannot_be_written_is_named(ground: Ground) -> None:
    content = terms(ground)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as a full disk, which root may not write to either
    try:
        (fault,) = admission.faults(content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fault.startswith(f"cannot write to {ground.store.location} (")
    assert "File too large" in fault


def test_machine_that_packs_other_bytes_is_named(ground: Ground) -> None:
    content = terms(ground)
    path = list(content.packed)[1]
    other = dataclasses.replace(content, packed={**content.packed, path: "other"})
    assert admission.faults(other) == [f"packs {path} to other bytes: its processor or a library is another"]


def test_other_versions_are_named_before_anything_is_unpickled(ground: Ground) -> None:
    letter = letter_of(terms(ground), terms=b"of another facepack")
    versions = letter.versions | {"facepack": "9.9", "Python": "2.7"}
    here = letter.versions
    assert ray_guest.node_faults(dataclasses.replace(letter, versions=versions)) == [
        f"has Python {here['Python']}, the driver 2.7",
        f"has facepack {here['facepack']}, the driver 9.9",
    ]
    (fault,) = ray_guest.node_faults(dataclasses.replace(letter, code="of other modules"))
    assert fault == f"has another facepack of the same version {here['facepack']}: its modules differ"


def test_python_without_facepack_says_so(ground: Ground, tmp_path: Path) -> None:
    program = "import pickle, sys; from ray_guest import *; print(code_digest() == '')"
    shutil.copy(ray_guest.__file__, tmp_path / "ray_guest.py")
    command = [sys.executable, "-S", "-c", program]  # without the packages that are installed
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_variables_are_set_on_the_machine_and_shown_nowhere(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "before")
    letter = letter_of(terms(ground), variables={"AWS_SECRET_ACCESS_KEY": "hidden"})
    assert ray_guest.node_faults(letter) == []
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hidden"
    assert "hidden" not in repr(letter)


def test_worker_of_a_machine_with_faults_packs_nothing(ground: Ground) -> None:
    packer = Packer(letter_of(terms(ground), code="of other modules"))
    assert vars(packer)["_terms"] is None
