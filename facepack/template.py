"""Templates: where the landmarks of a face lie in a chip, and the similarity that brings them there."""

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

DLIB = np.array(
    [
        (0.2273300, 0.2213958),
        (0.7528140, 0.2212327),
        (0.4901270, 0.5156250),
        (0.2541490, 0.7802330),
        (0.7261040, 0.7802330),
    ]
)
"""Where dlib's chips have the middles of the eyes, the tip of the nose and the corners of the mouth: those of its mean
face, the eyes between the corners of its five-point chip. Parts of the side of a chip without padding, (5, 2)."""

ARCFACE = (
    np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]) / 112
)
"""Where ArcFace's have the same five (Deng et al. 2019; insightface's arcface_dst), parts of the side."""

DLIB_MODEL = np.array(
    [
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    ]
)
"""Where dlib's five-point chip has the points of its model (get_face_chip_details): the corners of the eyes, the outer
one first, and below the nose. Parts of the side of a chip without padding, (5, 2)."""


def of_labels(name: str, *, side_px: int, margin: float) -> Floats:
    """Where a template has the five published landmarks in a chip, in pixels (5, 2); `margin` as a part of the side."""
    points = ARCFACE if name == "arcface" else DLIB
    return (points + margin) / (2 * margin + 1) * side_px


def of_model(name: str, *, side_px: int, margin: float) -> Floats:
    """Where a template has the five points of dlib's model in a chip, in pixels (5, 2)."""
    points = DLIB_MODEL
    if name == "arcface":
        turn = similarities(DLIB[None], ARCFACE)[0]
        points = DLIB_MODEL @ turn[:, :2].T + turn[:, 2]
    return (points + margin) / (2 * margin + 1) * side_px


def arcface_of_model(landmarks: tuple[float, ...], *, side_px: int, margin: float) -> Floats:
    """The matrix (2, 3) that brings the five points of dlib's model (x0, y0, x1, y1, ...) to ArcFace's template.

    Its points are the corners of the eyes and the base of the nose, no mouth and no tip. So the middles of the eyes go
    to ArcFace's eyes, and the base of the nose to where ArcFace's template has it by dlib's mean face, in which both
    are known: 8.7 px of 112 below the tip.
    """
    corners = np.array(landmarks).reshape(-1, 2)
    points = np.array([corners[2:4].mean(axis=0), corners[:2].mean(axis=0), corners[4]])
    turn = similarities(DLIB[None], ARCFACE)[0]
    frame = np.array([*ARCFACE[:2], turn[:, :2] @ DLIB_MODEL[4] + turn[:, 2]])
    matrix: Floats = similarities(points[None], (frame + margin) / (2 * margin + 1) * side_px)[0]
    return matrix


def similarities(points: Floats, frame: Floats) -> Floats:
    """The matrices (num_rows, 2, 3) that turn, scale and move points (num_rows, num_points, 2) nearest to a frame.

    Least squares (Umeyama 1991, without reflection); in the plane a rotation with scale is one complex number. Without
    meaning where all points of a row are the same.
    """
    source, target = (array[..., 0] + 1j * array[..., 1] for array in (points, frame))
    centred = source - source.mean(axis=-1, keepdims=True)
    extent = (np.abs(centred) ** 2).sum(axis=-1)
    turn = (centred.conj() * (target - target.mean())).sum(axis=-1) / np.where(extent > 0, extent, 1)
    move = target.mean() - turn * source.mean(axis=-1)
    rows = np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])
    return np.ascontiguousarray(rows.transpose(2, 0, 1))


def warped(image_hwc: Pixels, matrix: Floats, *, side_px: int) -> Pixels:
    """A square of a photo (uint8 BGR HWC) by a similarity, black beyond its border, as dlib's chips.

    A face that is to shrink is first reduced by averaging areas, so that no pixel is passed over.
    """
    if float(np.hypot(matrix[0, 0], matrix[1, 0])) < 1:
        image_hwc, matrix = _reduced(image_hwc, matrix, side_px)
    if not image_hwc.size:
        return np.zeros((side_px, side_px, 3), np.uint8)
    # With a fourth channel OpenCV takes two thirds of the time.
    with_fourth: Pixels = cv2.cvtColor(image_hwc, cv2.COLOR_BGR2BGRA)  # type: ignore[assignment]
    square = cv2.warpAffine(with_fourth, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return cv2.cvtColor(square, cv2.COLOR_BGRA2BGR)  # type: ignore[return-value]


def _reduced(image_hwc: Pixels, matrix: Floats, side_px: int) -> tuple[Pixels, Floats]:
    """The part of a photo that the square shows, at about the scale of the square, and the matrix for it."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    corners = np.array([(x, y) for x in (0, side_px) for y in (0, side_px)], float)
    shown = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    border = 2 / scale
    left, top = (max(0, int(edge - border)) for edge in shown.min(axis=0))
    right, bottom = (int(edge + border) + 1 for edge in shown.max(axis=0))
    part_hwc = image_hwc[top : max(top, bottom), left : max(left, right)]
    height, width = part_hwc.shape[:2]
    if not part_hwc.size:
        return part_hwc, matrix
    small_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small_hwc = cv2.resize(part_hwc, small_wh, interpolation=cv2.INTER_AREA)
    across, down = width / small_wh[0], height / small_wh[1]
    # The middle of pixel i of the small image is (i + 1/2) * across - 1/2 of the part.
    back = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5], [0, 0, 1]])
    return small_hwc, matrix @ back  # type: ignore[return-value]
