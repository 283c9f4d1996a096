"""Predict: what trained networks say of photos, cut out and normalised as the images they learnt from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from facepack import align, image, shard, terminal
from facepack.align import Aligner, Box
from facepack.errors import JobError, UsageError
from facepack.hashing import sha256_of
from facepack.image import BadImageError, Pixels
from facepack.index import IMAGE_SUFFIXES
from facepack.manifest import Status
from facepack.shard import Sample
from trainer import evaluation, plots, runs
from trainer.evaluation import Trained
from trainer.loading.augment import Normalize
from trainer.loading.pipeline import Engine, Graph, Host, Pipeline
from trainer.plots import Panel
from trainer.runs import Run

_NUM_SAID = 5
_WORTH_SAYING = 0.01
_MAX_SHOWN, _SHOWN_PX = 40, 640


@dataclass(frozen=True)
class Answer:
    """What one run says of one face of one photo, or why it says nothing."""

    photo: Path
    run: str
    box: Box | None = None
    """In pixels of the upright photo; None for a photo that is taken whole."""
    said: tuple[tuple[str, float], ...] = ()
    """Names with their probabilities, the likeliest first; or the target with its number."""
    problem: str = ""
    is_number: bool = False
    """True for a number such as an age, False for probabilities."""

    @property
    def lines(self) -> list[str]:
        """One for each thing that is said."""
        if self.problem:
            return [self.problem]
        if self.is_number:
            return [f"{name} {value:.1f}" for name, value in self.said]
        worth = [pair for pair in self.said if pair[1] >= _WORTH_SAYING] or self.said[:1]
        return [f"{name} {100 * value:.0f} %" for name, value in worth]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        box = None if self.box is None else [round(side, 1) for side in self.box]
        said = {name: round(value, 6) for name, value in self.said}
        return {"photo": str(self.photo), "run": self.run, "box": box, "said": said, "problem": self.problem or None}


class Predictor:
    """A run's network, with all that its build did to images."""

    def __init__(self, folder: Path, *, device: torch.device, landmarks: str = "", name: str = "") -> None:
        """Load it; `landmarks` is the landmark model for chips. Raises `JobError`, `UsageError`."""
        self.name = name or folder.absolute().name
        self.run: Run = runs.read(folder)
        self._trained: Trained = evaluation.load_network(folder, self.run, device=device)
        configuration = self.run.data.configuration
        file = align.landmarks_file(landmarks) if configuration.align == "chip" else None
        if file is not None and sha256_of(file) != configuration.landmarks:
            raise UsageError(f"{file}: another landmark model than {folder} was trained with")
        self._aligner = Aligner.of(configuration, landmarks=file)
        self._graph = _graph(self.run)
        self._coming: list[Host] = []
        self._pipeline = Pipeline(self._graph, batch_size=1, engine=Engine(device, 1, 1), source=self._coming.pop)

    def __call__(self, photo: Path, *, all_faces: bool = False) -> list[Answer]:
        """Predictions for the one face of a photo, or for `all_faces`; a photo without an answer says why."""
        try:
            content = photo.read_bytes()
            return [self._answer(photo, one) for one in self._samples(content, all_faces=all_faces)]
        except BadImageError as error:
            return [self._no_answer(photo, error)]
        except OSError as error:
            return [Answer(photo, self.name, problem=f"cannot be read: {error.strerror or error}")]

    def _answer(self, photo: Path, sample: Sample | BadImageError) -> Answer:
        if isinstance(sample, BadImageError):
            return self._no_answer(photo, sample)
        try:
            said = self.predictions(sample)
        except UsageError as error:
            return Answer(photo, self.name, sample.box, problem=str(error))
        is_number = self.run.recipe.task.kind == "number"
        return Answer(photo, self.name, sample.box, self._in_words(said), is_number=is_number)

    def _no_answer(self, photo: Path, error: BadImageError) -> Answer:
        return Answer(photo, self.name, problem=error.status.meaning)

    def predictions(self, sample: Sample) -> npt.NDArray[np.float32]:
        """Probabilities (num_names,), or a number (1,), for one image as a build would hold it."""
        images = self._normalised(sample)
        outputs = evaluation.forward(self._trained.network, images, run=self.run) / self._trained.temperature
        return np.asarray(self.run.recipe.task.predictions(outputs)[0].cpu().numpy(), np.float32)

    def _samples(self, content: bytes, *, all_faces: bool) -> list[Sample | BadImageError]:
        """What a build would hold of a photo, or of each face, where it would hold it."""
        configuration = self.run.data.configuration
        if self._aligner is None or not all_faces:
            return [shard.transform(content, configuration, aligner=self._aligner)]
        photo_hwc = image.decode(content)
        boxes = align.find(cv2.cvtColor(photo_hwc, cv2.COLOR_BGR2GRAY))  # type: ignore[arg-type]
        if not boxes:
            raise BadImageError(Status.NO_FACE)
        found: list[Sample | BadImageError] = []
        for box in boxes:
            try:
                found.append(shard.finished(self._aligner.cut(photo_hwc, box), configuration))
            except BadImageError as error:
                found.append(error)
        return found

    def _normalised(self, sample: Sample) -> torch.Tensor:
        """The image as the loader would give it: decoded and normalised by the same pipeline, (1, 3, height, width)."""
        height, width = sample.image_hwc.shape[:2]
        sizes = np.array([[width, height]], np.int64)
        inputs, after = self._graph.inputs(seed=0, epoch=0, numbers=np.zeros(1, np.int64), sizes=sizes)
        run = self.run
        if (int(after[0, 1]), int(after[0, 0])) != run.size_hw:
            raise UsageError(f"{width}x{height} pixels, but it was trained on {run.size_hw[1]}x{run.size_hw[0]}")
        content = np.frombuffer(sample.content, np.uint8)
        if not self._graph.is_encoded:
            content = np.ascontiguousarray(sample.image_hwc[:, :, ::-1])
        self._coming.append(([content], *inputs.values()))
        return self._pipeline.run()

    def _in_words(self, said: npt.NDArray[np.float32]) -> tuple[tuple[str, float], ...]:
        run = self.run
        if run.recipe.task.kind == "number":
            return ((run.recipe.task.target, float(said[0])),)
        order: Sequence[int] = np.argsort(-said).tolist()
        if run.recipe.task.kind == "attributes":
            order = [one for one in order if said[one] >= 0.5] or order[:1]
        else:
            order = order[:_NUM_SAID]
        return tuple((run.names[number], float(said[number])) for number in order)


def _graph(run: Run) -> Graph:
    """What is done to an image of a run's build before its network sees it."""
    steps = run.statistics.filled(run.recipe.eval_augment)
    last = steps[-1]
    assert isinstance(last, Normalize) and last.mean is not None and last.std is not None
    return Graph(steps, 0, run.data.configuration.encoding != "raw", tuple(last.mean), tuple(last.std))


def photos_of(given: Sequence[str]) -> list[Path]:
    """Files, and the images in folders."""
    found: list[Path] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UsageError(f"{path}: no image in this folder")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such photo")
    return found


def predict(
    folders: Sequence[Path],
    photos: Sequence[Path],
    *,
    device: torch.device,
    all_faces: bool = False,
    landmarks: str = "",
) -> list[Answer]:
    """Ask runs about photos: the answers of all runs to the first photo, then to the second.

    Raises `UsageError` where `all_faces` are asked for and no run looks for faces.
    """
    names = runs.distinct_names(folders)
    pairs = zip(folders, names, strict=True)
    predictors = [Predictor(folder, device=device, landmarks=landmarks, name=name) for folder, name in pairs]
    if all_faces and all(one.run.data.configuration.align == "none" for one in predictors):
        raise UsageError("--all-faces: these runs were trained on whole photos, in which no faces were looked for")
    return [answer for photo in photos for predictor in predictors for answer in predictor(photo, all_faces=all_faces)]


# Showing


def picture(answers: Sequence[Answer]) -> bytes:
    """A PNG of the first forty photos, with faces marked and numbered, and what the runs say of each beside it."""
    panels = []
    for photo in list(dict.fromkeys(answer.photo for answer in answers))[:_MAX_SHOWN]:
        of_photo = [answer for answer in answers if answer.photo == photo]
        boxes = list(dict.fromkeys(answer.box for answer in of_photo if answer.box is not None))
        blocks = []
        for answer in of_photo:
            number = f"  face {boxes.index(answer.box) + 1}" if answer.box is not None and len(boxes) > 1 else ""
            blocks.append((f"{answer.run}{number}", answer.lines))
        shown_hwc, scale = _shown(photo)
        scaled = [tuple(side * scale for side in box) for box in boxes]
        panels.append(Panel(photo.name, shown_hwc, scaled, blocks))
    return plots.photos(panels)


def _shown(photo: Path) -> tuple[Pixels | None, float]:
    """RGB pixels of a photo, reduced, and by how much; None where it has none."""
    try:
        photo_hwc = image.decode(photo.read_bytes())
    except (BadImageError, OSError):
        return None, 1.0
    height, width = photo_hwc.shape[:2]
    scale = min(1.0, _SHOWN_PX / max(height, width))
    small_hwc = image.resize(photo_hwc, width_px=max(1, round(width * scale)), height_px=max(1, round(height * scale)))
    return np.ascontiguousarray(small_hwc[:, :, ::-1]), scale


def show(answers: Sequence[Answer], *, as_json: bool) -> None:
    """Print the answers, as a table or as JSON; `JobError` where there is not one."""
    if as_json:
        terminal.out.print(json.dumps([answer.to_dict() for answer in answers], indent=1), soft_wrap=True)
    else:
        terminal.out.print(_table(answers))
    if all(answer.problem for answer in answers):
        raise JobError(f"none of {len({answer.photo for answer in answers}):,} photos could be predicted")


def _table(answers: Sequence[Answer]) -> Any:
    """A row per photo and face, a column per run."""
    from rich import box as rich_box
    from rich.table import Table

    names = list(dict.fromkeys(answer.run for answer in answers))
    table = Table(box=rich_box.SIMPLE_HEAD)
    for name in ("photo", *names):
        table.add_column(name, overflow="fold")
    for photo in dict.fromkeys(answer.photo for answer in answers):
        by_run = {name: [one for one in answers if one.photo == photo and one.run == name] for name in names}
        for number in range(max(len(column) for column in by_run.values())):
            cells = [", ".join(column[number].lines) if number < len(column) else "" for column in by_run.values()]
            face = f" face {number + 1}" if number else ""
            table.add_row(f"{photo.name}{face}", *cells)
    return table
