"""Drawing: portraits of nobody and cartoon characters, as small photos.

Nothing is downloaded and nobody is shown: the pictures are polygons. A face is drawn in face units: the origin lies
between the eyes, u points right, v down, and 1 is half the width of the face. What a face wears and shows is a set of
CelebA's attribute names, its traits, in every dataset.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Rgb = tuple[float, float, float]

SUBPIXEL_BITS = 4
INK: Rgb = (38, 30, 34)
WHITE: Rgb = (250, 249, 246)

HAIR_RGB = {
    "Black_Hair": (34, 28, 30),
    "Brown_Hair": (98, 60, 34),
    "Blond_Hair": (226, 186, 98),
    "Gray_Hair": (196, 198, 204),
}
AUBURN_RGB = (140, 58, 28)
PALE_RGB = (255, 242, 236)
SKIN_RGB = ((228, 174, 140), (218, 160, 120), (202, 142, 102), (164, 108, 74), (120, 78, 54))
EYE_RGB = ((74, 48, 30), (96, 66, 36), (70, 110, 140), (84, 120, 78), (110, 120, 126))
CLOTH_RGB = (
    (52, 74, 110),
    (140, 44, 52),
    (64, 104, 84),
    (222, 214, 200),
    (44, 44, 52),
    (196, 140, 60),
    (120, 88, 140),
    (150, 176, 196),
)

# Right half of each hair style, from the ear to the crown: its outer edge, and its edge on the face.
HAIR_STYLES = {
    "short": (
        ((1.04, 0.02), (1.12, -0.55), (0.84, -1.27), (0, -1.6)),
        ((0.95, 0.02), (0.9, -0.5), (0.62, -0.86), (0, -0.8)),
    ),
    "bob": (((1.12, 1.05), (1.3, 0.3), (1.0, -1.1), (0, -1.6)), ((0.8, 1.0), (0.9, 0.3), (0.76, -0.6), (0.04, -0.95))),
    "long": (((1.3, 2.2), (1.3, 0.4), (1.02, -1.08), (0, -1.6)), ((0.84, 2.2), (0.9, 0.4), (0.78, -0.6), (0.04, -1.0))),
    "bun": (
        ((1.02, 0.02), (1.1, -0.55), (0.82, -1.25), (0, -1.56)),
        ((0.96, 0.0), (0.9, -0.55), (0.6, -0.95), (0, -0.98)),
    ),
    "curly": (
        ((1.1, 0.3), (1.28, -0.5), (0.96, -1.38), (0, -1.72)),
        ((0.93, 0.2), (0.88, -0.5), (0.62, -0.82), (0, -0.8)),
    ),
}


@dataclass(frozen=True)
class Canvas:
    """Something to paint on: a uint8 HWC RGB image and the way from face units to its pixels."""

    image_hwc: Image
    matrix: Points
    turn: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Face:
    """One person on one photo. The shapes run from -1 to 1 and stay with the person, as the colours do."""

    age_years: float
    traits: frozenset[str]
    hair: str
    hair_rgb: Rgb
    skin_rgb: Rgb
    eye_rgb: Rgb
    jaw: float
    eyes: float
    nose: float
    mouth: float

    def has(self, *traits: str) -> bool:
        return not self.traits.isdisjoint(traits)

    @property
    def childhood(self) -> float:
        """1 for a baby, 0 from 16 years on."""
        return max(0.0, 1 - self.age_years / 16)

    @property
    def oldness(self) -> float:
        """0 up to 30 years, 1 at 90."""
        return min(max(0.0, (self.age_years - 30) / 60), 1.0)


def rng_of(seed: int, dataset: str, *numbers: int) -> Generator:
    """The random numbers of one thing, which do not depend on what else is drawn."""
    return np.random.default_rng([seed, zlib.crc32(dataset.encode()), *numbers])


# ------------------------------------------------------------------------------------------------ lines and areas


@lru_cache
def _spline(num_points: int, closed: bool, steps: int = 6) -> Points:
    """Weights, (num_points x steps, num_points), of a Catmull-Rom curve through its points."""
    weights = np.zeros((num_points * steps, num_points))
    for row, at in enumerate(
        np.linspace(0, num_points if closed else num_points - 1, len(weights), endpoint=not closed)
    ):
        k, t = int(at), at % 1
        factors = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
        for point, factor in zip(range(k - 1, k + 3), factors, strict=True):
            weights[row, point % num_points if closed else min(max(point, 0), num_points - 1)] += factor / 2
    return weights


def _curve(points: ArrayLike) -> Points:
    """A smooth line through some points."""
    array = np.asarray(points, float)
    line: Points = _spline(len(array), False) @ array
    return line


def _loop(points: ArrayLike) -> Points:
    """A smooth closed line through some points."""
    array = np.asarray(points, float)
    line: Points = _spline(len(array), True) @ array
    return line


ROUND = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], axis=1)


def _oval(u: float, v: float, width: float, height: float) -> Points:
    return ROUND * (width, height) + (u, v)


def _mirror(points: Points) -> Points:
    """The same outline on the other side of the face, passed the other way round."""
    return points[::-1] * (-1, 1)


def _both(points: ArrayLike) -> list[Points]:
    points = np.asarray(points, float)
    return [points, _mirror(points)]


def _across(half: ArrayLike) -> Points:
    """Control points from the right end over the middle, which is the last point, to the left end."""
    half = np.asarray(half, float)
    return np.concatenate([half, _mirror(half)[1:]])


def _tint(rgb: Rgb, factor: float) -> Rgb:
    """Darker below 1, towards white above."""
    if factor <= 1:
        return rgb[0] * factor, rgb[1] * factor, rgb[2] * factor
    return _mix(rgb, (255, 255, 255), factor - 1)


def _mix(rgb: Rgb, other: Rgb, share: float) -> Rgb:
    r, g, b = (a + (z - a) * share for a, z in zip(rgb, other, strict=True))
    return r, g, b


def _place(canvas: Canvas, points: Points) -> NDArray[np.int32]:
    """Where points fall, in fractions of a pixel; what lies in the middle of the face moves as the head turns."""
    depth = np.maximum(0, 1 - points[:, :1] ** 2 - (points[:, 1:] / 1.5) ** 2)
    points_px = (points + depth * canvas.turn) @ canvas.matrix[:, :2].T + canvas.matrix[:, 2]
    placed: NDArray[np.int32] = np.rint(points_px * 2**SUBPIXEL_BITS).astype(np.int32)
    return placed


def _fill(canvas: Canvas, areas: Points | list[Points], rgb: Rgb) -> None:
    for area in areas if isinstance(areas, list) else [areas]:
        cv2.fillPoly(canvas.image_hwc, [_place(canvas, area)], rgb, cv2.LINE_AA, SUBPIXEL_BITS)


def _stroke(canvas: Canvas, lines: Points | list[Points], rgb: Rgb, *, width: float, closed: bool = False) -> None:
    """Draw lines whose width is in face units, at least a pixel."""
    placed = [_place(canvas, line) for line in (lines if isinstance(lines, list) else [lines])]
    width_px = max(1, round(width * abs(canvas.matrix[0, 0])))
    cv2.polylines(canvas.image_hwc, placed, closed, rgb, width_px, cv2.LINE_AA, SUBPIXEL_BITS)


def _shade(canvas: Canvas, blobs: Iterable[tuple[Points | list[Points], float | Rgb]]) -> None:
    """Darken (below 1) or brighten softly: areas and their factors, the later over the earlier, blurred as one."""
    height, width = canvas.image_hwc.shape[:2]
    small = Canvas(np.full((height // 4 + 1, width // 4 + 1, 3), 128, np.uint8), canvas.matrix / 4, canvas.turn)
    for areas, factor in blobs:
        _fill(
            small,
            areas,
            _tint((128, 128, 128), factor) if isinstance(factor, int | float) and factor <= 1 else _level(factor),
        )
    cv2.GaussianBlur(small.image_hwc, (0, 0), 0.09 * abs(small.matrix[0, 0]) + 0.4, dst=small.image_hwc)
    _multiply(canvas.image_hwc, small.image_hwc)


def _level(factor: float | Rgb) -> Rgb:
    red, green, blue = (factor,) * 3 if isinstance(factor, int | float) else factor
    return 128 * red, 128 * green, 128 * blue


def _multiply(image_hwc: Image, factors_hwc: Image) -> None:
    """Multiply an image in place by a smaller one that is stretched over it, in which 128 means 1."""
    stretched = cv2.resize(factors_hwc, image_hwc.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    cv2.multiply(image_hwc, stretched, dst=image_hwc, scale=1 / 128)


# ------------------------------------------------------------------------------------------------ the parts of a face


def _head_outline(face: Face) -> Points:
    wide = 1 + 0.07 * face.jaw + 0.1 * face.has("Chubby") + 0.06 * face.has("Male") - 0.06 * face.has("Oval_Face")
    long = 1 - 0.2 * face.childhood + 0.05 * face.has("Oval_Face") + 0.03 * face.jaw
    round_ = 0.12 * face.childhood + 0.1 * face.has("Chubby")
    right = [(0.0, 1.47 * long), (0.34 * wide, 1.37 * long), ((0.7 + round_) * wide, 0.98 * long), (0.93 * wide, 0.45)]
    right += [(1.0, -0.1), (0.95, -0.68), (0.62, -1.22), (0.0, -1.4)]
    return _loop(np.concatenate([right, _mirror(np.asarray(right))[1:-1]]))


def _paint_body(canvas: Canvas, face: Face, rng: Generator) -> None:
    cloth = CLOTH_RGB[rng.integers(len(CLOTH_RGB))]
    broad = (1.0 + 0.12 * face.has("Male")) * (1 - 0.35 * face.childhood)
    neck = np.array(
        [(0.52, 0.8), (0.5, 1.62), (0.7, 1.85), (0.75, 2.6), (-0.75, 2.6), (-0.7, 1.85), (-0.5, 1.62), (-0.52, 0.8)]
    )
    _fill(canvas, neck * (broad, 1), _tint(face.skin_rgb, 0.93))
    side = [(3.0, 6.0), (2.45, 2.75), (2.0, 2.2), (0.98, 1.86), (0.62, 1.68)]
    neckline = [(0.45, 1.98), (0, 2.1 + 0.3 * (not face.has("Male")))]
    _fill(canvas, _curve(_across(side + neckline)) * (broad, 1), cloth)
    if face.has("Wearing_Necktie"):
        _fill(canvas, [area * (broad, 1) for area in _both([(0.0, 2.3), (0.5, 1.62), (0.74, 1.8), (0.4, 2.5)])], WHITE)
        tie = CLOTH_RGB[rng.integers(3)] if cloth not in CLOTH_RGB[:3] else (200, 160, 60)
        _fill(canvas, np.array([(-0.17, 2.0), (0.17, 2.0), (0.1, 2.24), (0.26, 4.0), (-0.26, 4.0), (-0.1, 2.24)]), tie)
    if face.has("Wearing_Necklace"):
        beads = _curve([(-0.6, 1.72), (-0.32, 2.0), (0, 2.1), (0.32, 2.0), (0.6, 1.72)])[::3]
        _fill(canvas, [_oval(u, v, 0.065, 0.065) for u, v in beads], (238, 204, 110))


def _paint_head(canvas: Canvas, face: Face, light: float) -> None:
    """Skin and its shading; light is -1 from the left, 1 from the right."""
    outline, skin = _head_outline(face), face.skin_rgb
    ear = _loop([(0.95, -0.18), (1.14, -0.2), (1.17, 0.05), (1.07, 0.36), (0.94, 0.34)])
    _fill(canvas, _both(ear), _tint(skin, 0.95))
    _stroke(canvas, _both(ear[4:16] * 0.94 + (0.05, 0.0)), _tint(skin, 0.72), width=0.035)
    _shade(canvas, [(outline + np.array((-0.12 * light, 0.26)), 0.68), (outline, 1.0)])
    _fill(canvas, outline, skin)
    _shade(canvas, _skin_shading(face, outline, light))


def _skin_shading(face: Face, outline: Points, light: float) -> list[tuple[Points | list[Points], float | Rgb]]:
    old, dark = face.oldness, -light if light else 1.0
    flush = (1.06, 0.74, 0.74) if face.has("Rosy_Cheeks") else (1.02, 0.95, 0.94)
    cheek = 0.32 if not face.has("High_Cheekbones") else 0.24
    blobs: list[tuple[Points | list[Points], float | Rgb]] = [
        (outline, 0.85),
        (outline * 0.84 + (0.1 * light, 0.0), 1.0),
        (_oval(0.1 * light, -0.75, 0.5, 0.32), 1.07),
        (_both(_oval(0.4, -0.04, 0.27, 0.2)), (0.9, 0.85, 0.83)),
        (_both(_oval(0.56, cheek + 0.1, 0.25, 0.19)), flush),
        (_loop([(0.16 * dark, -0.1), (0.02, 0.1), (0.02, 0.5), (0.26 * dark, 0.56)]), 0.85),
        (_oval(0.02 * light, 0.45, 0.08, 0.1), 1.12),
        (_oval(0, 1.13, 0.24, 0.06), 0.86),
        (_oval(0, 1.3, 0.2, 0.09), 1.05),
    ]
    if face.has("High_Cheekbones"):
        blobs += [(_both(_oval(0.62, 0.2, 0.2, 0.09)), 1.1), (_both(_oval(0.7, 0.62, 0.1, 0.26)), 0.86)]
    if face.has("5_o_Clock_Shadow"):
        jaw = _across([(0.92, 0.35), (0.8, 1.0), (0.36, 1.4), (0, 1.46)])
        blobs.append(
            (
                np.concatenate([_curve(jaw), _curve(_across([(0.6, 0.75), (0.36, 0.66), (0, 0.66)]))[::-1]]),
                (0.76, 0.8, 0.86),
            )
        )
    if face.has("Bags_Under_Eyes"):
        blobs.append((_both(_oval(0.4, 0.2, 0.2, 0.06)), (0.76, 0.7, 0.76)))
    if old:
        blobs += [
            (_both(_oval(0.62, 0.85, 0.12, 0.25)), 1 - 0.16 * old),
            (_both(_oval(0.4, 0.2, 0.18, 0.05)), 1 - 0.2 * old),
        ]
    return blobs


def _paint_wrinkles(canvas: Canvas, face: Face) -> None:
    old, dark = face.oldness, _tint(face.skin_rgb, 0.97 - 0.3 * face.oldness)
    smile = 0.5 * face.has("Smiling")
    if old + smile > 0.2:
        fold = _curve([(0.27, 0.56), (0.42, 0.72), (0.47, 0.95)])
        _stroke(canvas, _both(fold), _tint(face.skin_rgb, 0.95 - 0.2 * old - 0.2 * smile), width=0.03)
    if face.has("Double_Chin"):
        _stroke(canvas, _curve([(-0.36, 1.4), (0, 1.6), (0.36, 1.4)]), _tint(face.skin_rgb, 0.72), width=0.045)
    if old > 0.1:
        rows = [
            _curve([(-0.45, v + 0.03), (0, v - 0.02), (0.45, v + 0.03)])
            for v in (-0.58, -0.72, -0.86)[: 1 + round(3 * old)]
        ]
        _stroke(canvas, rows, dark, width=0.025)
    if old > 0.25:
        feet = [np.array([(0.62, 0.0), (0.8, v)]) for v in (-0.1, 0.02, 0.13)]
        _stroke(canvas, [line for foot in feet for line in _both(foot)], dark, width=0.025)
        _stroke(canvas, _both(_curve([(0.26, 0.16), (0.4, 0.24), (0.56, 0.17)])), dark, width=0.03)


def _paint_eyes(canvas: Canvas, face: Face, rng: Generator) -> None:
    size = 1.1 * (1 + 0.12 * face.eyes) * (1 + 0.35 * face.childhood)
    gap, width = 0.41 + 0.02 * face.eyes, 0.165 * size
    height = width * (0.3 if face.has("Narrow_Eyes") else 0.64) * (0.85 if face.has("Smiling") else 1)
    upper = _curve([(-width, 0.02), (-0.4 * width, -height), (0.35 * width, -0.95 * height), (width, -0.01)])
    lower = _curve([(width, -0.01), (0.4 * width, 0.8 * height), (-0.4 * width, 0.75 * height), (-width, 0.02)])
    look = rng.uniform(-0.3, 0.3) * width
    lid = np.concatenate([upper, _curve([(width, -0.03), (0, -1.2 * height - 0.035), (-width, -0.02)])])
    made_up = face.has("Heavy_Makeup")
    for side in (-gap, gap):
        at = np.array([side, 0.0])
        _fill(canvas, np.concatenate([upper, lower]) + at, WHITE)
        iris = min(0.62 * width, 1.15 * height)
        _fill(canvas, _oval(side + look, -0.1 * height, iris, iris), face.eye_rgb)
        _fill(canvas, _oval(side + look, -0.1 * height, 0.5 * iris, 0.5 * iris), INK)
        _fill(canvas, _oval(side + look - 0.3 * iris, -0.45 * iris, 0.22 * iris, 0.22 * iris), WHITE)
        _fill(canvas, lid * (np.sign(side), 1) + at, (128, 92, 140) if made_up else _tint(face.skin_rgb, 0.84))
        lash = 0.06 if made_up else 0.035 if face.has("Male") else 0.045
        _stroke(canvas, upper * (np.sign(side), 1) + at, _tint(face.skin_rgb, 0.22), width=lash)
    _paint_brows(canvas, face, gap)


def _paint_brows(canvas: Canvas, face: Face, gap: float) -> None:
    thick = (0.13 if face.has("Bushy_Eyebrows") else 0.085 if face.has("Male") else 0.06) * (1 - 0.5 * face.childhood)
    peak = -0.1 if face.has("Arched_Eyebrows") else -0.02
    top = _curve([(gap - 0.21, -0.31), (gap + 0.05, -0.35 + peak), (gap + 0.27, -0.23)])
    bottom = _curve([(gap + 0.27, -0.23), (gap + 0.04, -0.35 + peak + thick), (gap - 0.2, -0.31 + thick)])
    _fill(canvas, _both(np.concatenate([top, bottom])), _tint(_mix(face.hair_rgb, (90, 70, 56), 0.3), 0.7))


def _paint_nose(canvas: Canvas, face: Face) -> None:
    wide = (0.17 + 0.02 * face.nose) * (1.45 if face.has("Big_Nose") else 0.75 if face.has("Pointy_Nose") else 1)
    tip = 0.58 - 0.12 * face.childhood + 0.03 * face.nose
    dark = _tint(face.skin_rgb, 0.62)
    wing = _curve([(wide * 0.8, tip - 0.14), (wide * 1.15, tip - 0.05), (wide * 0.95, tip + 0.03), (wide * 0.6, tip)])
    _stroke(canvas, _both(wing), dark, width=0.035)
    _stroke(
        canvas,
        _curve([(-wide * 0.6, tip), (0, tip + (0.09 if face.has("Pointy_Nose") else 0.05)), (wide * 0.6, tip)]),
        dark,
        width=0.03,
    )
    _fill(canvas, _both(_oval(wide * 0.52, tip - 0.01, wide * 0.27, 0.03)), _tint(face.skin_rgb, 0.35))


def _paint_mouth(canvas: Canvas, face: Face) -> None:
    middle = 0.93 - 0.14 * face.childhood
    wide = 0.3 + 0.03 * face.mouth + 0.08 * face.has("Smiling")
    lift = 0.11 if face.has("Smiling") else 0.03
    gape = (0.16 if face.has("Smiling") else 0.12) * face.has("Mouth_Slightly_Open")
    full = (0.11 if face.has("Big_Lips") else 0.065) * (1 - 0.3 * face.oldness)
    natural = _mix(face.skin_rgb, (170, 60, 66), 0.42)
    lips = (196, 24, 48) if face.has("Wearing_Lipstick") else natural
    ends = ((wide, middle - lift), (-wide, middle - lift))
    top = _curve([ends[1], (-0.12, middle - full), (0, middle - full * 0.75), (0.12, middle - full), ends[0]])
    bottom = _curve([ends[0], (0.45 * wide, middle + gape + full), (-0.45 * wide, middle + gape + full), ends[1]])
    _fill(canvas, np.concatenate([top, bottom]), lips)
    seam = _curve([ends[1], (-0.4 * wide, middle - 0.01), (0.4 * wide, middle - 0.01), ends[0]])
    if gape:
        low = _curve([ends[0], (0.4 * wide, middle + gape), (-0.4 * wide, middle + gape), ends[1]])
        _fill(canvas, np.concatenate([seam, low]) * (0.92, 1), (88, 26, 32))
        teeth = np.concatenate([seam, seam[::-1] * (0.9, 1) + (0, 0.45 * gape)])
        _fill(canvas, teeth * (0.8, 1), WHITE)
    else:
        _stroke(canvas, seam, _tint(natural, 0.5), width=0.03)


def _paint_beard(canvas: Canvas, face: Face) -> None:
    rgb = _tint(face.hair_rgb, 0.72)
    if face.has("Sideburns"):
        _fill(
            canvas, _both(_loop([(0.99, -0.35), (0.82, -0.3), (0.8, 0.3), (0.74, 0.66), (0.92, 0.6), (1.0, 0.1)])), rgb
        )
    if face.has("Goatee"):
        _fill(
            canvas,
            _loop([(-0.2, 1.1), (0, 1.14), (0.2, 1.1), (0.3, 1.32), (0.16, 1.58), (-0.16, 1.58), (-0.3, 1.32)]),
            rgb,
        )
    if face.has("Mustache"):
        half = [(0.52, 0.98), (0.5, 0.84), (0.28, 0.68), (0.08, 0.66), (0.0, 0.7)]
        under = [(0.0, 0.86), (0.14, 0.88), (0.34, 0.88), (0.52, 0.98)]
        area = np.concatenate([_curve(half), _curve(under)])
        _fill(canvas, _both(area), rgb)
        _stroke(canvas, _both(_curve([(0.04, 0.76), (0.28, 0.77), (0.47, 0.9)])), _tint(rgb, 0.7), width=0.025)


# ------------------------------------------------------------------------------------------------ hair and what is worn


def _hair_edges(face: Face, rng: Generator) -> tuple[Points, Points]:
    """Outer and inner edge of the hair, (N, 2) each, from the right ear over the crown to the left."""
    outer, inner = (np.array(half) for half in HAIR_STYLES[face.hair])
    if face.has("Bangs"):
        inner[2:] = (0.72, -0.5), (0.0, -0.42)
    elif face.has("Receding_Hairline"):
        inner[2:] = (0.6, -1.16), (0.0, -0.98)
    outer, inner = _across(outer), _across(inner)
    middle = len(inner) // 2
    if not face.has("Bangs", "Receding_Hairline"):
        inner[middle - 1 : middle + 2] += (rng.uniform(-0.35, 0.35), 0.0)
    return _curve(outer), _curve(inner)


def _paint_back_hair(canvas: Canvas, face: Face, rng: Generator) -> None:
    if face.has("Bald") or face.hair not in ("long", "bob", "bun"):
        return
    dark = _tint(face.hair_rgb, 0.62)
    if face.hair == "bun":
        _fill(canvas, _oval(rng.uniform(-0.3, 0.3), -1.72, 0.42, 0.36), _tint(face.hair_rgb, 0.8))
        return
    outer = _curve(_across(HAIR_STYLES[face.hair][0]))
    _fill(canvas, _wavy(outer, face, rng), dark)


def _wavy(edge: Points, face: Face, rng: Generator) -> Points:
    if not face.has("Wavy_Hair"):
        return edge
    ripple = np.sin(edge[:, 1] * 9 + rng.uniform(0, 6)) * np.clip(edge[:, 1] + 0.9, 0, 1) * 0.09
    return edge * (1 + ripple / np.maximum(np.abs(edge[:, 0]), 0.5))[:, None] ** (1, 0)


def _paint_hair(canvas: Canvas, face: Face, rng: Generator) -> None:
    rgb = face.hair_rgb
    if face.has("Bald"):
        side = _loop([(1.03, 0.1), (1.09, -0.2), (1.02, -0.52), (0.95, -0.42), (0.95, -0.05)])
        _fill(canvas, _both(side), _tint(rgb, 0.9))
        _fill(canvas, _oval(0.26, -1.08, 0.18, 0.07), _tint(face.skin_rgb, 1.25))
        return
    outer, inner = _hair_edges(face, rng)
    outer, inner = _wavy(outer, face, rng), _wavy(inner, face, rng)
    if face.hair == "curly":
        _fill(canvas, [_oval(u, v, 0.16, 0.16) for u, v in outer[::2]], rgb)
    _fill(canvas, np.concatenate([outer, inner[::-1]]), rgb)
    strands = [outer + (inner - outer) * share for share in (0.18, 0.34, 0.5, 0.66, 0.82)]
    _stroke(canvas, strands[::2], _tint(rgb, 0.78), width=0.03)
    _stroke(canvas, [line[len(line) // 5 : -len(line) // 2] for line in strands[1::2]], _tint(rgb, 1.1), width=0.03)
    if face.has("Bangs"):
        tips = [np.array([(u * 0.9, -0.95), (u, -0.36)]) for u in np.linspace(-0.66, 0.66, 7)]
        _stroke(canvas, tips, _tint(rgb, 0.8), width=0.03)


def _paint_hat(canvas: Canvas, rng: Generator) -> None:
    rgb = CLOTH_RGB[rng.integers(len(CLOTH_RGB))]
    crown = _curve(_across([(1.16, -0.62), (1.12, -1.3), (0.7, -1.85), (0, -1.95)]))
    _fill(canvas, np.concatenate([crown, _curve([(-1.16, -0.62), (0, -0.74), (1.16, -0.62)])]), rgb)
    if rng.random() < 0.5:
        _fill(canvas, _loop([(-1.5, -0.56), (0, -0.86), (1.5, -0.56), (0, -0.6)]), _tint(rgb, 0.75))
    else:
        band = np.concatenate(
            [_curve([(-1.18, -0.92), (0, -1.04), (1.18, -0.92)]), _curve([(1.2, -0.58), (0, -0.68), (-1.2, -0.58)])]
        )
        _fill(canvas, band, _tint(rgb, 0.72))
        _fill(canvas, _oval(0, -2.0, 0.2, 0.2), _tint(rgb, 1.3))


def _paint_accessories(canvas: Canvas, face: Face, rng: Generator) -> None:
    if face.has("Wearing_Earrings"):
        _fill(canvas, _both(_oval(1.08, 0.48, 0.075, 0.11)), (244, 208, 96))
    if face.has("Wearing_Hat"):
        _paint_hat(canvas, rng)
    if face.has("Eyeglasses"):
        frame = INK if rng.random() < 0.7 else (130, 40, 40)
        rim = _loop([(0.14, -0.14), (0.42, -0.2), (0.72, -0.15), (0.7, 0.12), (0.44, 0.24), (0.2, 0.14)])
        _stroke(canvas, _both(rim), frame, width=0.06, closed=True)
        _stroke(
            canvas,
            [_curve([(-0.15, -0.06), (0, -0.11), (0.15, -0.06)]), *_both([(0.72, -0.08), (1.02, -0.12)])],
            frame,
            width=0.06,
        )


# ------------------------------------------------------------------------------------------------ photos


@lru_cache
def _grain() -> Image:
    return np.random.default_rng(0).normal(128, 32, (640, 640, 3)).clip(0, 255).astype(np.uint8)


def _background(rng: Generator, height: int, width: int) -> Image:
    """A uint8 HWC image, out of focus: two colours that flow into each other, and some lights or furniture."""
    colours = rng.integers(40, 215) + rng.integers(-35, 35, 3) + rng.integers(-25, 25, (4, 4, 3))
    small = cv2.resize(colours.clip(0, 255).astype(np.uint8), (width // 8, height // 8), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 7)):
        at, rgb = (
            rng.integers(0, (width // 8, height // 8)),
            (rng.integers(50, 205) + rng.integers(-40, 40, 3)).tolist(),
        )
        radius = int(rng.integers(1, 5)) * width // 200 + 1
        if rng.random() < 0.5:
            cv2.circle(small, at.tolist(), radius, rgb, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(small, at.tolist(), (at + np.array((radius, 3 * radius))).tolist(), rgb, -1)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def _camera(image_hwc: Image, rng: Generator, blur_px: float) -> None:
    """Uneven and coloured light, focus and sensor noise, in place."""
    height, width = image_hwc.shape[:2]
    light = 128 * rng.uniform(0.93, 1.03) * rng.uniform(0.96, 1.04, 3) + rng.uniform(-9, 9, (3, 3, 1))
    _multiply(image_hwc, light.astype(np.uint8))
    if blur_px:
        cv2.GaussianBlur(image_hwc, (0, 0), blur_px, dst=image_hwc)
    if max(height, width) <= 512:
        top, left = rng.integers(0, 128, 2)
        strength = rng.uniform(0.04, 0.14)
        noise = _grain()[top : top + height, left : left + width]
        cv2.addWeighted(image_hwc, 1, noise, strength, -128 * strength, dst=image_hwc)


def _pose(rng: Generator, middle_px: ArrayLike, unit_px: float) -> Points:
    """The matrix, (2, 3), that puts a face near a place, a little shifted, scaled and tilted."""
    scale, tilt = unit_px * rng.uniform(0.93, 1.06), rng.uniform(-0.13, 0.13)
    turned = scale * np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    return np.column_stack([turned, np.asarray(middle_px) + rng.uniform(-0.07, 0.07, 2) * unit_px])


def photograph(face: Face, rng: Generator, *, size_wh: tuple[int, int], middle_px: ArrayLike, unit_px: float) -> Image:
    """A photo, uint8 HWC RGB of width and height size_wh, with the point between the eyes near middle_px.

    unit_px is half the width of the face, about.
    """
    width, height = size_wh
    turn = (rng.uniform(-0.14, 0.14), rng.uniform(-0.05, 0.05))
    canvas = Canvas(_background(rng, height, width), _pose(rng, middle_px, unit_px), turn)
    _paint_back_hair(canvas, face, rng)
    _paint_body(canvas, face, rng)
    _paint_head(canvas, face, rng.choice((-1.0, 1.0)))
    _paint_wrinkles(canvas, face)
    _paint_eyes(canvas, face, rng)
    _paint_nose(canvas, face)
    _paint_mouth(canvas, face)
    _paint_beard(canvas, face)
    _paint_hair(canvas, face, rng)
    _paint_accessories(canvas, face, rng)
    _camera(canvas.image_hwc, rng, 2.2 if face.has("Blurry") else 0)
    return canvas.image_hwc


def person(rng: Generator, traits: Iterable[str], *, age_years: float = 30) -> Face:
    """Somebody with these traits; colours and shapes are drawn, but follow the traits that name one."""
    traits = frozenset(traits)
    male = "Male" in traits
    skin = PALE_RGB if "Pale_Skin" in traits else SKIN_RGB[rng.integers(len(SKIN_RGB))]
    hair_rgb = next((rgb for name, rgb in HAIR_RGB.items() if name in traits), AUBURN_RGB)
    styles = ("short", "short", "curly") if male else ("long", "long", "bob", "bun")
    hair, eye_rgb = styles[rng.integers(len(styles))], EYE_RGB[rng.integers(len(EYE_RGB))]
    return Face(age_years, traits, hair, hair_rgb, skin, eye_rgb, *rng.uniform(-1, 1, 4))


# ------------------------------------------------------------------------------------------------ cartoon characters

YELLOW: Rgb = (250, 212, 54)
MUZZLE: Rgb = (204, 170, 104)

# Right half of the outline of cartoon hair, from the ear to the top.
CARTOON_HAIR = {
    "spikes": [(0.8, -0.7), (0.95, -1.5), (0.6, -1.15), (0.5, -1.75), (0.2, -1.2), (0, -1.85)],
    "tower": [(0.8, -0.7), (0.95, -1.6), (0.8, -2.6), (0.3, -3.1)],
    "cap": [(0.9, -0.5), (0.95, -1.2), (0.5, -1.6)],
    "tufts": [(0.85, -0.1), (1.5, -0.2), (1.4, -0.9), (0.9, -0.8), (0.85, -0.5), (0, -0.6)],
    "palm": [(0.7, -0.8), (1.3, -1.9), (0.5, -1.5), (0.4, -2.4), (0, -1.6)],
    "quiff": [(0.9, -0.6), (1.1, -1.3), (0.7, -1.8), (0.2, -1.45)],
}


@dataclass(frozen=True)
class Character:
    """What a cartoon character always looks like; hair "" is a bald head."""

    hair: str
    hair_rgb: Rgb
    shirt_rgb: Rgb
    length: float = 1.0
    muzzle: bool = False
    glasses: bool = False
    nose_rgb: Rgb = YELLOW


def _paint_glasses(canvas: Canvas) -> None:
    _stroke(canvas, [_oval(-0.36, 0, 0.42, 0.42), _oval(0.36, 0, 0.42, 0.42)], (60, 50, 60), width=0.09, closed=True)


def cartoon(look: Character, rng: Generator, *, size_wh: tuple[int, int]) -> Image:
    """A frame with the head of a character somewhere in it: uint8 HWC RGB of width and height size_wh."""
    width, height = size_wh
    middle = np.array([width, height * 1.1]) * rng.uniform(0.42, 0.58, 2)
    matrix = _pose(rng, middle, min(width, height) * rng.uniform(0.16, 0.24))
    matrix[:, 0] *= rng.choice((-1.0, 1.0))
    canvas = Canvas(_background(rng, height, width), matrix, (rng.uniform(-0.1, 0.1), 0.0))
    chin = 1.5 * look.length
    _fill(
        canvas,
        _loop([(-1.7, 6), (-1.4, chin + 0.9), (-0.5, chin), (0.5, chin), (1.4, chin + 0.9), (1.7, 6)]),
        look.shirt_rgb,
    )
    head = _loop([(0.85, -0.9), (0.9, 0.4), (0.7, chin), (-0.7, chin), (-0.9, 0.4), (-0.85, -0.9), (0, -1.25)])
    _fill(canvas, head, YELLOW)
    _stroke(canvas, head, INK, width=0.06, closed=True)
    if look.hair:
        hair = _across(CARTOON_HAIR[look.hair])
        _fill(canvas, hair, look.hair_rgb)
        _stroke(canvas, hair, INK, width=0.05, closed=True)
    if look.muzzle:
        _fill(canvas, _oval(0, 0.95 * look.length, 0.8, 0.55 * look.length), MUZZLE)
    eyes = [_oval(-0.36, 0, 0.36, 0.36), _oval(0.36, 0, 0.36, 0.36)]
    _fill(canvas, eyes, WHITE)
    _stroke(canvas, eyes, INK, width=0.05, closed=True)
    gaze = rng.uniform(-0.12, 0.12, 2)
    _fill(canvas, [_oval(-0.36 + gaze[0], gaze[1], 0.08, 0.08), _oval(0.36 + gaze[0], gaze[1], 0.08, 0.08)], INK)
    _fill(canvas, _oval(0, 0.42, 0.26, 0.18), look.nose_rgb)
    _stroke(canvas, _oval(0, 0.42, 0.26, 0.18), INK, width=0.05, closed=True)
    smile = rng.uniform(-0.12, 0.2)
    _stroke(canvas, _curve([(-0.4, 0.95), (0, 0.95 + smile), (0.4, 0.95)]) * (1, look.length), INK, width=0.07)
    if look.glasses:
        _paint_glasses(canvas)
    _camera(canvas.image_hwc, rng, 0)
    return canvas.image_hwc
