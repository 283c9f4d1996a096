"""Prediction: what trained networks predict for photos, cut out and normalised as the images they learnt from."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from facepack import align, shard
from facepack.align import Aligner, Box
from facepack.cores import num_cores
from facepack.errors import FieldError, UsageError
from facepack.hashing import sha256_of
from facepack.image import Pixels
from facepack.shard import Reject, Sample
from trainer import evaluation, photos, remote_runs, runs
from trainer.loading.augment import normalizes
from trainer.loading.engines import new_pipeline
from trainer.loading.graphs import Graph
from trainer.loading.pipeline import Engine, check_process
from trainer.photos import Photo
from trainer.run_record import distinct_names
from trainer.runs import Run

_BATCHES_AHEAD = 2

_Item = TypeVar("_Item")


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

    Threads may share one. It can be pickled, and is loaded anew in the other process; a process that is forked after
    one was made gets a `UsageError`.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        *,
        device: str | torch.device | None = None,
        all_faces: bool = False,
        landmarks: str = "",
        batch_size: int = 32,
    ) -> None:
        """Load the networks of these runs.

        `device` is cpu or cuda, by default the GPU where there is one. `all_faces` predicts for every face of a photo;
        else a photo must have exactly one, where the build looked for faces. `landmarks` is the landmark model for
        runs on chips. The networks get the faces of `batch_size` photos at once. Raises `JobError` where a run is not
        there or damaged, `UsageError` for settings that do not fit.
        """
        if batch_size < 1:
            raise FieldError("batch_size", f"{batch_size}", "expected 1 or more")
        locations = [folders] if isinstance(folders, str | Path) else folders
        paths = [remote_runs.folder_of(location) for location in locations]
        settings = {"device": device, "all_faces": all_faces, "landmarks": landmarks, "batch_size": batch_size}
        self._arguments = [path.absolute() for path in paths], settings
        place = evaluation.device_of(device)
        pairs = zip(paths, distinct_names(paths), strict=True)
        self._networks = [
            _RunNetwork(path, name=name, device=place, landmarks=landmarks, batch_size=batch_size)
            for path, name in pairs
        ]
        self._all_faces, self._batch_size = all_faces, batch_size
        if all_faces and all(network.run.data.configuration.align == "none" for network in self._networks):
            raise FieldError(
                "all_faces", "", "these runs were trained on whole photos, in which no faces were looked for"
            )
        self.device = place
        self._threads = ThreadPoolExecutor(num_cores(), "facepack-photos")
        self._num_at_once = torch.get_num_threads() if place.type == "cpu" else 1
        self._network_threads = _network_threads(self._num_at_once)

    def __getstate__(self) -> Any:
        return self._arguments

    def __setstate__(self, arguments: Any) -> None:
        paths, settings = arguments
        self.__init__(paths, **settings)  # type: ignore[misc] # a network is loaded, not sent

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Classes or attributes in order by the name of each run; none for a number."""
        return {network.name: network.run.names for network in self._networks}

    def __call__(self, given: Photo | Iterable[Photo]) -> list[Prediction]:
        """The predictions of all runs for the first photo, then for the second; a photo without one has a problem.

        One photo or several: paths, bytes of image files, PIL images, or pixels uint8 RGB (height, width, 3), also
        stacked (num, height, width, 3). A JPEG is decoded as the build decoded its own, at a reduced scale where it
        shrinks them; its pixels, given as such, may differ by a level or two. Raises `UsageError` for anything else.
        """
        return list(self.iterate(given))

    def iterate(self, given: Photo | Iterable[Photo]) -> Iterator[Prediction]:
        """The same one by one, for photos without end: a few batches are read ahead, and nothing else is kept."""
        check_process()
        coming: deque[list[Future[_Prepared]]] = deque()
        under_way: deque[Future[list[Prediction]]] = deque()
        numbered = enumerate(photos.listed(given), start=1)
        for batch in _batches(numbered, size=self._batch_size):
            coming.append([self._threads.submit(self._prepared, photo, number) for number, photo in batch])
            if len(coming) > _BATCHES_AHEAD:
                under_way.append(self._network_threads.submit(self._of_batch, coming.popleft()))
            if len(under_way) > self._num_at_once:
                yield from under_way.popleft().result()
        if not under_way:  # few photos, for which all threads of torch work on one batch at a time
            for futures in coming:
                yield from self._of_batch(futures)
            return
        under_way.extend(self._network_threads.submit(self._of_batch, futures) for futures in coming)
        while under_way:
            yield from under_way.popleft().result()

    def _prepared(self, photo: Photo, number: int) -> "_Prepared":
        """A photo decoded, and its faces cut out for each network."""
        name = photos.name_of(photo, number)
        try:
            content = photos.content_of(photo)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}" if error.strerror else f"{error}"
            return _Prepared(name, [[_Face(problem=problem)]] * len(self._networks))
        return _Prepared(name, [network.faces(content, all_faces=self._all_faces) for network in self._networks])

    def _of_batch(self, futures: Sequence["Future[_Prepared]"]) -> list[Prediction]:
        """The predictions for a batch, once its photos are decoded."""
        batch = [future.result() for future in futures]
        columns = []
        for number, network in enumerate(self._networks):
            pairs = [(photo.name, face) for photo in batch for face in photo.faces[number]]
            columns.append(iter(network.predictions(pairs)))
        pairs_of_all = [(column, faces) for photo in batch for column, faces in zip(columns, photo.faces, strict=True)]
        return [next(column) for column, faces in pairs_of_all for _ in faces]


@dataclass(frozen=True)
class _Face:
    """A face of a photo, or a whole photo, as a pipeline takes it; or why it cannot be predicted."""

    box: Box | None = None
    image: npt.NDArray[np.uint8] | None = None
    """Encoded bytes, or pixels uint8 RGB HWC."""
    size_hw: tuple[int, int] = (0, 0)
    problem: str = ""


@dataclass(frozen=True)
class _Prepared:
    """A photo, with its faces for each network."""

    name: str
    faces: Sequence[Sequence[_Face]]


class _RunNetwork:
    """The network of a run, with all that its build did to images."""

    def __init__(self, folder: Path, *, name: str, device: torch.device, landmarks: str, batch_size: int) -> None:
        self.name = name
        self.run: Run = runs.read(folder)
        self._trained = evaluation.load_network(folder, self.run, device=device)
        # Whoever sees a new photo has no labels of it: the detector and the landmark model give nearly the same cut.
        configuration = replace(self.run.data.configuration, landmarks_from="model")
        file = align.landmarks_file(landmarks) if configuration.align == "chip" else None
        if file is not None and configuration.landmarks not in ("", sha256_of(file)):
            raise UsageError(f"{file}: another landmark model than {folder} was trained with")
        self._aligner = Aligner.of(configuration, landmarks=file)
        self._graph, self._batch_size = _graph(self.run), batch_size
        engine = Engine(device, 0, 1)
        self._pipeline = new_pipeline(self._graph, batch_size=batch_size, size_hw=self.run.size_hw, engine=engine)
        self._turn = threading.Lock()
        """A pipeline makes one batch at a time."""

    def faces(self, content: bytes | Pixels, *, all_faces: bool) -> list[_Face]:
        """What a build would hold of a photo, or of each face, as the pipeline takes it; from any thread."""
        configuration = self.run.data.configuration
        if all_faces and self._aligner is not None:
            configuration = replace(configuration, on_several="all", landmarks_from="model")
        outcomes = shard.outcomes_of(content, configuration, aligner=self._aligner)
        return [
            _Face(problem=outcome.status.meaning) if isinstance(outcome, Reject) else self._face(outcome)
            for outcome in outcomes
        ]

    def _face(self, sample: Sample) -> _Face:
        """The image as the loader would give it to its pipeline, or that the network was trained on another size."""
        height, width = size_hw = sample.image_hwc.shape[:2]
        expected = self.run.size_hw
        try:
            after_hw = tuple(self._graph.sizes_after(np.array([size_hw], np.int64))[0].tolist())
        except UsageError as error:
            return _Face(sample.box, problem=f"{error}")
        if after_hw != expected:
            problem = f"{width}x{height} pixels, but it was trained on {expected[1]}x{expected[0]}"
            return _Face(sample.box, problem=problem)
        image = np.frombuffer(sample.content, np.uint8)
        if not self._graph.is_encoded:
            image = np.ascontiguousarray(sample.image_hwc[:, :, ::-1])
        return _Face(sample.box, image, size_hw)

    def predictions(self, pairs: Sequence[tuple[str, _Face]]) -> list[Prediction]:
        """One for each face, beside the name of its photo."""
        faces = [face for _, face in pairs if face.image is not None]
        parts = [self._predicted(batch) for batch in _batches(faces, size=self._batch_size)]
        rows = (row for part in parts for row in part)
        return [
            _without(name, self.name, face.problem, box=face.box)
            if face.image is None
            else self._prediction(next(rows), photo=name, box=face.box)
            for name, face in pairs
        ]

    def _predicted(self, faces: Sequence[_Face]) -> npt.NDArray[np.float32]:
        """Probabilities (batch, num_names), or numbers (batch, 1): decoded and normalised by the loader's pipeline."""
        sizes_hw, places = np.array([face.size_hw for face in faces], np.int64), np.zeros(len(faces), np.int64)
        parameters, _ = self._graph.parameters(seed=0, epoch=0, places=places, sizes_hw=sizes_hw)
        with self._turn:
            images = self._pipeline.run_on([face.image for face in faces], parameters)
        logits = evaluation.forward(self._trained.network, images, run=self.run)
        predictions = self.run.recipe.task.predictions(logits / self._trained.temperature)
        return np.asarray(predictions.cpu().numpy(), np.float32)

    def _prediction(self, values: npt.NDArray[np.float32], *, photo: str, box: Box | None) -> Prediction:
        task = self.run.recipe.task
        pairs = zip(self.run.names or (task.target,), values.tolist(), strict=True)
        by_name = dict(sorted(pairs, key=lambda pair: -pair[1]))
        lines = tuple(task.results.photo_lines(list(by_name.items())))
        if task.results.are_probabilities:
            return Prediction(photo, self.name, box, probabilities=by_name, lines=lines)
        return Prediction(photo, self.name, box, number=float(values[0]), lines=lines)


def _network_threads(number: int) -> ThreadPoolExecutor:
    """So many threads that run networks, each with one thread of torch where there are several.

    Batches side by side take two thirds of the time of one after the other on as many threads of torch, which wait for
    each other after every layer.
    """
    if number == 1:
        return ThreadPoolExecutor(1, "facepack-networks")
    are_all_there = threading.Barrier(number)

    def begin() -> None:
        torch.get_num_threads()  # the first call of a thread takes the number of all, whatever was set before it
        torch.set_num_threads(1)
        are_all_there.wait()

    threads = ThreadPoolExecutor(number, "facepack-networks", initializer=begin)
    wait([threads.submit(int) for _ in range(number)])
    torch.set_num_threads(number)  # for threads to come, of whoever starts them: this is no setting of one thread alone
    return threads


def _without(photo: str, run: str, problem: str, *, box: Box | None = None) -> Prediction:
    return Prediction(photo, run, box, lines=(problem,), problem=problem)


def _batches(items: Iterable[_Item], *, size: int) -> Iterator[list[_Item]]:
    """Lists of so many of them; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _graph(run: Run) -> Graph:
    """What is done to an image of a run's build before its network gets it."""
    steps = run.statistics.filled(run.recipe.eval_augment)
    step = normalizes(steps)
    assert step is not None and step.mean is not None and step.std is not None
    return Graph(steps, 0, run.data.configuration.encoding != "raw", tuple(step.mean), tuple(step.std))
