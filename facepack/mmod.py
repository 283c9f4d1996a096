"""The mmod detector: dlib's convolutional network, which finds faces that turn away, in a second or more a photo."""

import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facepack.description import model_file, models_folder
from facepack.errors import FieldError, UsageError

FILE = "mmod_human_face_detector.dat"
LOOK_PX = 640
"""The longer side of a photo, in pixels, when it is looked at: its time grows with the number of pixels."""
MOST_ENLARGED = 2.0
"""How much a small photo is enlarged for that, at most."""
_WINDOW_PX = 80
"""The side of the network's window: what is smaller gets a border, for dlib cannot look at it."""
_turn = threading.Lock()
"""The network looks at one photo at a time, for it works on memory of its own."""


@dataclass(frozen=True)
class Network:
    """The network by the content of its file, so that workers on other machines need no such file."""

    content: bytes

    @classmethod
    def of(cls, file: Path) -> "Network":
        """Load it; `UsageError` where the file is another one."""
        network = cls(file.read_bytes())
        try:
            _loaded(network.content)
        except RuntimeError as error:
            raise UsageError(f"{file}: not a face detector of dlib; {_how_to_get()}") from error
        return network

    def boxes(self, image_hwc: npt.NDArray[np.uint8], *, scale: float) -> list[tuple[float, float, float, float]]:
        """The faces of a photo (uint8 BGR HWC) looked at scaled by a factor, the surest first: x0, y0, x1, y1.

        They are in pixels of the photo itself, right and bottom exclusive.
        """
        height, width = image_hwc.shape[:2]
        scaled_height, scaled_width = max(1, round(height * scale)), max(1, round(width * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled_hwc = cv2.resize(image_hwc, (scaled_width, scaled_height), interpolation=method)
        across, down = width / scaled_width, height / scaled_height
        below, behind = max(0, _WINDOW_PX - scaled_height), max(0, _WINDOW_PX - scaled_width)
        scaled_hwc = cv2.copyMakeBorder(scaled_hwc, 0, below, 0, behind, cv2.BORDER_REPLICATE)
        scaled_rgb = cv2.cvtColor(scaled_hwc, cv2.COLOR_BGR2RGB)
        with _turn:
            faces = _loaded(self.content)(scaled_rgb, 0)
        places = (face.rect for face in sorted(faces, key=lambda face: -face.confidence))
        return [
            (place.left() * across, place.top() * down, (place.right() + 1) * across, (place.bottom() + 1) * down)
            for place in places
        ]


def first_scale(image_hwc: npt.NDArray[np.uint8]) -> float:
    """The factor by which a photo (HWC) is scaled when it is first looked at."""
    return min(MOST_ENLARGED, LOOK_PX / float(max(image_hwc.shape[:2])))


@cache
def _loaded(content: bytes) -> Any:
    """dlib's detector (King 2015, max-margin object detection), one per process; it reads nothing but files."""
    import dlib

    with tempfile.NamedTemporaryFile(suffix=".dat") as file:
        file.write(content)
        file.flush()
        return dlib.cnn_face_detection_model_v1(file.name)


def detector_file() -> Path:
    """The file of the network: among the models, or in the package face_recognition_models; `FieldError` without."""
    file = model_file(FILE)
    if file is not None:
        return file
    raise FieldError("detector", "cnn", f"needs {FILE}; {_how_to_get()}")


def _how_to_get() -> str:
    return (
        f"pip install 'facepack[landmarks]', or put the file from github.com/davisking/dlib-models in {models_folder()}"
    )
