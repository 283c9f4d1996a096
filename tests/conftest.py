"""What several tests need: drawn datasets, real data where it is, and builds to look into."""

import hashlib
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from moto.server import ThreadedMotoServer

from facepack.builder import Outcome, Place, build
from facepack.configuration import Configuration
from facepack.drawn import synthetic

if TYPE_CHECKING:
    from trainer.recipe import Recipe
    from trainer.watching import Watcher

# A busy machine makes examples slow, not wrong.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real label files and photos, or a skip where there is none."""
    folder = os.environ.get("FACEPACK_REAL_DATA")
    if not folder:
        pytest.skip("FACEPACK_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn CelebA of 300 images, not to be changed."""
    folder = tmp_path_factory.mktemp("celeba")
    synthetic.draw("celeba", folder, num_images=300)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real S3 API over HTTP on loopback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Make s3:// mean the server at an address."""
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


def make(source: Path | str, out: Path | str, *, workers: int = 0, force: bool = False, **choices: Any) -> Outcome:
    """Build in this process (or on Ray, with workers), by default CelebA's rarest four classes at 32 pixels."""
    choices = {"dataset": "celeba", "classes": "rarest4", "size": "32", "samples_per_shard": 40, **choices}
    configuration = Configuration.of(**choices)
    with warnings.catch_warnings():
        if workers:  # Ray waits one second for what it killed, and on a busy machine that is too short
            warnings.filterwarnings("ignore", r"subprocess \d+ is still running", ResourceWarning)
        return build(configuration, place=Place(str(source), str(out), workers=workers, force=force))


def tiny(name: str = "celeba_rarest4_modern", **choices: Any) -> "Recipe":
    """A recipe that learns for two seconds, with fields changed; settings of its parts by their bare names."""
    from trainer import recipes  # takes torch along

    small: dict[str, Any] = {
        "network": "small_resnet(widths=(8, 16))",
        "epochs": 2,
        "batch_size": 16,
        "precision": "32-true",
        "lr": 0.01,
    }
    recipe = recipes.load(name)
    choices = small | choices
    names = [field.name for field in fields(recipe)]
    recipe = replace(recipe, **{name: value for name, value in choices.items() if name in names})
    return recipe.changed(f"{name}={value}" for name, value in choices.items() if name not in names)


def train(
    build: Path | str, out: Path, recipe: "Recipe", *, watchers: "Sequence[Watcher]" = (), **settings: Any
) -> Path:
    """Train on the CPU, in this process; gives the folder of the run."""
    from trainer import training

    where = training.Settings(device="cpu", **settings)
    training.train("tiny", recipe, data=str(build), out=out, settings=where, watchers=watchers)
    return out


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hear_interrupts() -> None:
    """For a child process: tests run in the background of a shell ignore Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
