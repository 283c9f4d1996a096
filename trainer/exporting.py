"""Exporting: the network of a run as one file that needs no facepack, compared with the run on photos."""

import importlib.util
import io
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facepack.errors import FieldError, JobError, UsageError
from facepack.storage import Store
from trainer import evaluation, model_card, models, remote_runs, runs
from trainer.data import Data, Placement
from trainer.evaluation import Trained
from trainer.loading.augment import Normalize, normalizes
from trainer.runs import Run

log = logging.getLogger("facepack.trainer")

FOLDER = "export"
METADATA_FILE = "facepack.json"
"""The name of the metadata within a file of torch.export."""

_NUM_COMPARED = 64
_TOLERANCE = 1e-3
"""How far a logit may be off, absolutely or as a share of it: sums in another order differ by a hundredth of that."""
_CPU = torch.device("cpu")
_ALONE = "import sys; sys.modules.update(facepack=None, trainer=None)\nimport numpy\n"
_WHOLE_AND_ALONE = """
images = numpy.load(sys.argv[2])
parts = [run(images[:1]), run(images[1:])] if len(images) > 1 else [run(images)]
numpy.savez(sys.argv[3], logits=numpy.concatenate([part[0] for part in parts]),
    predictions=numpy.concatenate([part[1] for part in parts]))
"""
_BY_ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
run = lambda images: session.run(["logits", "predictions"], {"images": images})
"""
_BY_TORCH = """
import torch
module = torch.export.load(sys.argv[1]).module()
run = lambda images: [output.detach().numpy() for output in module(torch.from_numpy(images))]
"""


@dataclass(frozen=True)
class Comparison:
    """How far the outputs of a file are from those of its run."""

    num_photos: int
    """Photos of the run's build; 0 where it was not there."""
    largest_of_logits: float
    largest_of_predictions: float
    """Of probabilities, or of a number in its unit."""

    @property
    def line(self) -> str:
        """In words."""
        if not self.num_photos:
            return "not compared with the run, whose build is not there"
        largest = f"predictions differ by at most {self.largest_of_predictions:.2g}"
        return f"compared with the run on {self.num_photos} photos: {largest}"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    card: Path
    metadata: dict[str, str]
    comparison: Comparison


class _Outputs(nn.Module):
    """A trained network from normalised images to logits and predictions, as the run predicts."""

    def __init__(self, trained: Trained, run: Run) -> None:
        super().__init__()
        self.network = trained.network
        self._task, self._temperature, self._flips = run.recipe.task, trained.temperature, run.recipe.flip_at_test

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (batch, num_outputs), and predictions: probabilities (batch, num_names), or numbers (batch, 1)."""
        logits = self.network(images)
        if self._flips:
            logits = (logits + self.network(images.flip(3))) / 2
        return logits, self._task.predictions(logits / self._temperature)


def export(folder: str | Path, *, kind: str = "onnx", out: str | Path = "", data: str = "") -> Exported:
    """Write the best network of a run for use without facepack, and a model card beside it.

    `kind` is onnx or torch-export, which hold the whole computation from normalised images to logits and predictions,
    or safetensors, which holds the weights. The file's metadata are those of `metadata_of`. `out` is the file, by
    default RUN/export/model.onnx, .safetensors or .pt2. The outputs are compared with the run's on photos of its build,
    or of `data`, in a process that cannot import facepack. Raises `UsageError` where a package is missing or the
    network cannot be exported, `JobError` where the outputs differ, and leaves no file then.
    """
    form = _form(kind)
    with remote_runs.changed(folder) as place:
        return _exported(place, form, out=out, data=data)


def _exported(folder: Path, form: "_Form", *, out: str | Path, data: str) -> Exported:
    run = runs.read(folder)
    trained = evaluation.load_network(folder, run, device=_CPU)
    if isinstance(trained.network, models.FitAtOnce):
        raise UsageError(f"{folder}: {run.recipe.network} is fitted by scikit-learn, and is no network to export")
    trained.network.to(memory_format=torch.contiguous_format)
    path = Path(out or folder / FOLDER / f"model{form.suffix}")
    outputs, photos = _Outputs(trained, run).eval(), _photos(run, data)
    metadata, write = metadata_of(run, trained), form.made(outputs, run)
    comparison = _compared(outputs, write(metadata), photos=photos, form=form)
    metadata["compared"] = json.dumps(asdict(comparison))
    Store(str(path.parent)).make()
    Store(str(path.parent)).write(path.name, write(metadata))
    card = path.parent / model_card.CARD_FILE
    text = model_card.text_of(folder, metadata, file_name=path.name, comparison=comparison.line)
    Store(str(path.parent)).write(card.name, text.encode())
    return Exported(path, card, metadata, comparison)


def metadata_of(run: Run, trained: Trained) -> dict[str, str]:
    """What the file of a network says of itself: texts, those of numbers and lists as JSON.

    size (width, height), mean and std (per channel RGB of pixels in 0..1), names (classes or attributes in order),
    target, crop (what the build did to photos), steps (what is done to its images before they are normalised),
    temperature (logits are divided by it), thresholds (per attribute, or null), flip_at_test, precision (that it was
    trained in; the file computes in float32), and where it is from.
    """
    recipe, configuration = run.recipe, run.data.configuration
    steps = run.statistics.filled(recipe.eval_augment)
    normalising = normalizes(steps)
    assert normalising is not None
    cutting = ("align", "margin", "template", "detector", "size", "fit", "encoding", "quality")
    values: dict[str, Any] = {
        "size": [run.size_hw[1], run.size_hw[0]],
        "mean": list(normalising.mean or ()),
        "std": list(normalising.std or ()),
        "names": list(run.names),
        "crop": {name: getattr(configuration, name) for name in cutting},
        "steps": [repr(step) for step in steps if not isinstance(step, Normalize)],
        "temperature": trained.temperature,
        "thresholds": None if trained.thresholds is None else trained.thresholds.tolist(),
        "flip_at_test": recipe.flip_at_test,
        "precision": run.precision,
        "epoch": trained.epoch + 1,
        "builds": [{"dataset": build.configuration.dataset, "digest": build.plan_digest} for build in run.builds],
        "versions": run.versions,
    }
    return {
        "input": "images: float32 (batch, 3, height, width), RGB, (pixels / 255 - mean) / std",
        "outputs": "logits; predictions: probabilities of names, or a number (batch, 1)",
        "network": recipe.network,
        "recipe": run.recipe_name,
        "task": repr(recipe.task),
        "target": recipe.task.target,
        **{name: json.dumps(value, ensure_ascii=False, default=str) for name, value in values.items()},
    }


# Forms


_Write = Callable[[dict[str, str]], bytes]


@dataclass(frozen=True)
class _Form:
    """A form of file: its suffix, the packages it needs, how it is made, and who reads it without facepack."""

    suffix: str
    packages: tuple[str, ...]
    made: Callable[[_Outputs, Run], _Write]
    """Traces the network once; what it gives makes the file's content with metadata."""
    reader: str


def _form(kind: str) -> _Form:
    if kind not in _FORMS:
        raise FieldError("format", kind, f"expected {', '.join(_FORMS)}")
    form = _FORMS[kind]
    for name in form.packages:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--format {kind} needs {name}, which is not installed: pip install 'facepack[export]'")
    return form


def _example(run: Run) -> torch.Tensor:
    return torch.zeros(2, 3, *run.size_hw)


def _program(outputs: _Outputs, run: Run) -> Any:
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(outputs, (_example(run),), dynamic_shapes={"images": {0: batch}})
    except Exception as error:  # whatever a network does that cannot be traced
        fault = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"network {run.recipe.network}: torch.export cannot trace it: {fault}") from error


def _onnx(outputs: _Outputs, run: Run) -> _Write:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about its own parts
        program = torch.onnx.export(
            _program(outputs, run),
            (_example(run),),
            input_names=["images"],
            output_names=["logits", "predictions"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "facepack"

    def write(metadata: dict[str, str]) -> bytes:
        del model.metadata_props[:]
        for name, text in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = name, text
        content: bytes = model.SerializeToString()
        return content

    return write


def _torch_export(outputs: _Outputs, run: Run) -> _Write:
    program = _program(outputs, run)

    def write(metadata: dict[str, str]) -> bytes:
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})
        return file.getvalue()

    return write


def _safetensors(outputs: _Outputs, _run: Run) -> _Write:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous().clone() for name, tensor in outputs.network.state_dict().items()}
    return lambda metadata: bytes(save(tensors, metadata))


_FORMS = {
    "onnx": _Form(".onnx", ("onnx", "onnxscript", "onnxruntime"), _onnx, _BY_ONNX),
    "safetensors": _Form(".safetensors", ("safetensors",), _safetensors, ""),
    "torch-export": _Form(".pt2", (), _torch_export, _BY_TORCH),
}
SUFFIXES = {kind: form.suffix for kind, form in _FORMS.items()}
"""Of files, by kind."""


# Comparing


def _photos(run: Run, data: str) -> npt.NDArray[np.float32]:
    """Photos of the run's build, normalised, (num, 3, height, width); none where it is not there."""
    try:
        opened = Data(run.recipe, data or run.locations, placement=Placement(_CPU), statistics=run.statistics)
    except JobError as error:
        if data:
            raise
        log.warning("%s; so nothing is compared: where the build lies now, say with --data", error)
        return np.empty((0, 3, *run.size_hw), np.float32)
    split = next(name for name in ("test", "valid", "train") if name in opened.splits)
    with opened.loader(split, is_train=False) as loader:
        if loader.size_hw != run.size_hw:
            raise UsageError(f"{opened.location}: images of another size than the run was trained on")
        batches = [batch.images[batch.mask] for batch in islice(loader, -(-_NUM_COMPARED // run.recipe.batch_size))]
    return torch.cat(batches)[:_NUM_COMPARED].numpy()


@torch.inference_mode()
def _compared(outputs: _Outputs, content: bytes, *, photos: npt.NDArray[np.float32], form: _Form) -> Comparison:
    """Outputs of a file against those of the run's network in float32; `JobError` where they are others."""
    if not len(photos):
        return Comparison(0, 0.0, 0.0)
    expected = [output.numpy() for output in outputs(torch.from_numpy(photos))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"model{form.suffix}")
        file.write_bytes(content)
        theirs = _outputs_alone(file, photos, form.reader) if form.reader else _reloaded(file, photos, outputs)
    differences = [float(np.abs(mine - other).max()) for mine, other in zip(expected, theirs, strict=True)]
    if not np.allclose(expected[0], theirs[0], atol=_TOLERANCE, rtol=_TOLERANCE):
        raise JobError(f"the exported network differs from the run's: logits by up to {differences[0]:.2g}")
    return Comparison(len(photos), *differences)


def _outputs_alone(file: Path, photos: npt.NDArray[np.float32], reader: str) -> list[npt.NDArray[np.float32]]:
    """What a file gives for photos in a process that cannot import facepack."""
    images, results = file.parent / "images.npy", file.parent / "outputs.npz"
    np.save(images, photos)
    command = [sys.executable, "-I", "-c", _ALONE + reader + _WHOLE_AND_ALONE, str(file), str(images), str(results)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - Python itself
    if ended.returncode:
        fault = (ended.stderr.strip() or "no message").splitlines()[-1]
        raise JobError(f"the exported network cannot be run without facepack: {fault}")
    with np.load(results) as arrays:
        return [arrays["logits"], arrays["predictions"]]


def _reloaded(file: Path, photos: npt.NDArray[np.float32], outputs: _Outputs) -> list[npt.NDArray[np.float32]]:
    """What the network gives with the weights of a file."""
    from safetensors.torch import load_file

    for parameter in outputs.network.parameters():
        parameter.zero_()  # so that what is not in the file shows
    outputs.network.load_state_dict(load_file(file))
    return [output.numpy() for output in outputs(torch.from_numpy(photos))]
