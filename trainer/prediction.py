"""Prediction: what trained networks predict for photos, cut out and normalised as the images they learnt from."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from facepack import align, shard
from facepack.align import Aligner, Box
from facepack.errors import FieldError, UsageError
from facepack.hashing import sha256_of
from facepack.shard import Reject, Sample
from facepack.signature import IMAGE_SUFFIXES
from trainer import evaluation, runs
from trainer.loading.augment import normalizes
from trainer.loading.engines import new_pipeline
from trainer.loading.graphs import Graph
from trainer.loading.pipeline import Engine
from trainer.run_record import distinct_names
from trainer.runs import Run

if TYPE_CHECKING:
    from rich.table import Table

Photo: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""A file, the bytes of one, a PIL image, or pixels uint8 RGB (height, width, 3)."""


@dataclass(frozen=True)
class Prediction:
    """What one run predicts for one face of one photo, or why it predicts nothing."""

    photo: str
    """The file, or "photo 1" and so on for photos that are given as bytes or pixels."""
    run: str
    box: Box | None = None
    """The face, x0, y0, x1, y1 in pixels of the upright photo; None for a photo that is taken whole."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of classes or attributes by name, the likeliest first; empty for a number."""
    number: float | None = None
    """Such as an age in years; None for probabilities."""
    lines: tuple[str, ...] = ()
    """The prediction, or the problem, in words."""
    problem: str = ""
    """Why there is no prediction; empty where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "photo": self.photo,
            "run": self.run,
            "box": None if self.box is None else [round(side, 1) for side in self.box],
            "probabilities": {name: round(value, 6) for name, value in self.probabilities.items()},
            "number": None if self.number is None else round(self.number, 6),
            "problem": self.problem or None,
        }


class Predictor:
    """The networks of one or more runs, with all that their builds did to images.

    predictor = Predictor("runs/celeba_rarest4")
    predictor("me.jpg")[0].probabilities
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        *,
        device: str | torch.device | None = None,
        all_faces: bool = False,
        landmarks: str = "",
    ) -> None:
        """Load the networks of these runs.

        `device` is cpu or cuda, by default the GPU where there is one. `all_faces` predicts for every face of a photo;
        else a photo must have exactly one, where the build looked for faces. `landmarks` is the landmark model for
        runs on chips. Raises `JobError` where a run is not there or damaged, `UsageError` for settings that do not fit.
        """
        paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
        place = evaluation.device_of(device)
        pairs = zip(paths, distinct_names(paths), strict=True)
        self._networks = [_RunNetwork(path, name=name, device=place, landmarks=landmarks) for path, name in pairs]
        self._all_faces = all_faces
        if all_faces and all(network.run.data.configuration.align == "none" for network in self._networks):
            raise FieldError(
                "all_faces", "", "these runs were trained on whole photos, in which no faces were looked for"
            )

    def __call__(self, photos: Photo | Iterable[Photo]) -> list[Prediction]:
        """The predictions of all runs for the first photo, then for the second; a photo without one has a problem.

        One photo or several: paths, bytes of image files, PIL images, or pixels uint8 RGB (height, width, 3), also
        stacked (num, height, width, 3). A JPEG is decoded as the build decoded its own, at a reduced scale where it
        shrinks them; its pixels, given as such, may differ by a level or two. Raises `UsageError` for anything else.
        """
        predictions = []
        for number, photo in enumerate(_listed(photos), start=1):
            name = f"{photo}" if isinstance(photo, str | Path) else f"photo {number}"
            try:
                content = _content(photo)
            except OSError as error:
                problem = f"cannot be read: {error.strerror or error}"
                predictions += [_without(name, network.name, problem) for network in self._networks]
                continue
            for network in self._networks:
                predictions += network.predictions(content, photo=name, all_faces=self._all_faces)
        return predictions


class _RunNetwork:
    """The network of a run, with all that its build did to images."""

    def __init__(self, folder: Path, *, name: str, device: torch.device, landmarks: str) -> None:
        self.name = name
        self.run: Run = runs.read(folder)
        self._trained = evaluation.load_network(folder, self.run, device=device)
        # Whoever sees a new photo has no labels of it: the detector and the landmark model give nearly the same cut.
        configuration = replace(self.run.data.configuration, landmarks_from="model")
        file = align.landmarks_file(landmarks) if configuration.align == "chip" else None
        if file is not None and configuration.landmarks not in ("", sha256_of(file)):
            raise UsageError(f"{file}: another landmark model than {folder} was trained with")
        self._aligner = Aligner.of(configuration, landmarks=file)
        self._graph = _graph(self.run)
        engine = Engine(device, 1, 1)
        self._pipeline = new_pipeline(self._graph, batch_size=1, size_hw=self.run.size_hw, engine=engine)

    def predictions(self, content: bytes, *, photo: str, all_faces: bool) -> list[Prediction]:
        """For the one face of a photo, or for each."""
        predictions = []
        for sample in self._samples(content, all_faces=all_faces):
            if isinstance(sample, Reject):
                predictions.append(_without(photo, self.name, sample.status.meaning))
                continue
            try:
                values = self._predicted(sample)
            except UsageError as error:
                predictions.append(_without(photo, self.name, f"{error}", box=sample.box))
                continue
            predictions.append(self._prediction(values, photo=photo, box=sample.box))
        return predictions

    def _samples(self, content: bytes, *, all_faces: bool) -> list[Sample | Reject]:
        """What a build would hold of a photo, or of each face, where it would hold it."""
        configuration = self.run.data.configuration
        if all_faces and self._aligner is not None:
            configuration = replace(configuration, on_several="all", landmarks_from="model")
        return shard.outcomes_of(content, configuration, aligner=self._aligner)

    def _predicted(self, sample: Sample) -> npt.NDArray[np.float32]:
        """Probabilities (num_names,), or a number (1,), for one image as a build would hold it."""
        logits = evaluation.forward(self._trained.network, self._normalised(sample), run=self.run)
        predictions = self.run.recipe.task.predictions(logits / self._trained.temperature)
        return np.asarray(predictions[0].cpu().numpy(), np.float32)

    def _normalised(self, sample: Sample) -> torch.Tensor:
        """The image as the loader would give it: decoded and normalised by the same pipeline, (1, 3, height, width)."""
        height, width = sample.image_hwc.shape[:2]
        sizes_hw = np.array([[height, width]], np.int64)
        parameters, after_hw = self._graph.parameters(seed=0, epoch=0, places=np.zeros(1, np.int64), sizes_hw=sizes_hw)
        expected = self.run.size_hw
        if tuple(after_hw[0].tolist()) != expected:
            raise UsageError(f"{width}x{height} pixels, but it was trained on {expected[1]}x{expected[0]}")
        content = np.frombuffer(sample.content, np.uint8)
        if not self._graph.is_encoded:
            content = np.ascontiguousarray(sample.image_hwc[:, :, ::-1])
        return self._pipeline.run_on([content], parameters)

    def _prediction(self, values: npt.NDArray[np.float32], *, photo: str, box: Box | None) -> Prediction:
        task = self.run.recipe.task
        pairs = zip(self.run.names or (task.target,), values.tolist(), strict=True)
        by_name = dict(sorted(pairs, key=lambda pair: -pair[1]))
        lines = tuple(task.results.photo_lines(list(by_name.items())))
        if task.results.are_probabilities:
            return Prediction(photo, self.name, box, probabilities=by_name, lines=lines)
        return Prediction(photo, self.name, box, number=float(values[0]), lines=lines)


def _without(photo: str, run: str, problem: str, *, box: Box | None = None) -> Prediction:
    return Prediction(photo, run, box, lines=(problem,), problem=problem)


def _graph(run: Run) -> Graph:
    """What is done to an image of a run's build before its network gets it."""
    steps = run.statistics.filled(run.recipe.eval_augment)
    step = normalizes(steps)
    assert step is not None and step.mean is not None and step.std is not None
    return Graph(steps, 0, run.data.configuration.encoding != "raw", tuple(step.mean), tuple(step.std))


# Photos


def _listed(photos: Photo | Iterable[Photo]) -> list[Photo]:
    """Several photos, or the one."""
    if isinstance(photos, str | Path | bytes | Image.Image) or (isinstance(photos, np.ndarray) and photos.ndim < 4):
        return [photos]
    if not isinstance(photos, Iterable):
        raise UsageError(_unusable(photos))
    return list(photos)


def _content(photo: Photo) -> bytes:
    """The bytes of an image file: pixels as PNG, which loses nothing. `OSError` where a file cannot be read."""
    if isinstance(photo, str | Path):
        return Path(photo).read_bytes()
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, Image.Image):
        upright = ImageOps.exif_transpose(photo).convert("RGB")
        return _content(np.asarray(upright))
    if not (isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3):
        raise UsageError(_unusable(photo))
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(photo)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _unusable(photo: object) -> str:
    shape = f"{photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else type(photo).__name__
    return f"photo: {shape}; expected a path, bytes, a PIL image, or a uint8 RGB array (height, width, 3)"


def photos_of(names: Sequence[str | Path]) -> list[Path]:
    """Files, and the images in folders; `UsageError` where there are none."""
    photos: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UsageError(f"{path}: no image in this folder")
            photos += inside
        elif path.exists():
            photos.append(path)
        else:
            raise UsageError(f"{path}: no such photo")
    return photos


def table(predictions: Sequence[Prediction]) -> "Table":
    """A row per photo and face, a column per run, for a terminal."""
    from rich import box as rich_box
    from rich.table import Table

    names = list(dict.fromkeys(prediction.run for prediction in predictions))
    shown = Table(box=rich_box.SIMPLE_HEAD)
    for name in ("photo", *names):
        shown.add_column(name, overflow="fold")
    for photo in dict.fromkeys(prediction.photo for prediction in predictions):
        of_photo = [prediction for prediction in predictions if prediction.photo == photo]
        columns = [[prediction.lines for prediction in of_photo if prediction.run == name] for name in names]
        for number in range(max(map(len, columns))):
            cells = [", ".join(column[number]) if number < len(column) else "" for column in columns]
            shown.add_row(f"{Path(photo).name}{f' face {number + 1}' if number else ''}", *cells)
    return shown
