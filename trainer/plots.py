"""Plots: curves, confusion matrices and errors by age, as SVG for pages and as PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import metrics

_COLOURS = ("#2f6fde", "#e8803d", "#3f9d6b", "#b04fc4", "#c4472f", "#5a7184", "#b8971f", "#1f9aa8")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Of the same lines: they are told apart in grey, too."""
_PLAIN, _DASHED = ("-", "-.", ":"), "--"
_NUM_MARKERS = 8
QUIET = "#667085"
_PAGE_COLOURS = {QUIET: "var(--quiet, #667085)"}
"""Colours that pages have by name, as they differ in light and dark and on paper."""
_MAX_NAMED = 40
_MAX_MARKED, _OUTLIER = 4, 3.0


@dataclass(frozen=True)
class Plot:
    """One plot: SVG without a background, for light and dark pages, and PNG on white."""

    name: str
    title: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Line:
    """One curve: a value per epoch, from epoch 1."""

    name: str
    values: Sequence[float]
    colour: int = 0
    dashed: bool = False
    best_epoch: int | None = None
    """Counted from 0; marked."""
    limits: Sequence[tuple[float, float]] = ()
    """The 95 % interval of each value, where they are known."""


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval, and whether it stands out."""

    name: str
    value: float
    interval: tuple[float, float]
    is_marked: bool = False


@dataclass(frozen=True)
class Panel:
    """Figures below each other on one axis, and what is reached without looking at an image."""

    title: str
    rows: Sequence[Measured]
    baseline: float


def intervals(name: str, title: str, panels: Sequence[Panel], *, what: str) -> Plot:
    """Figures with their intervals, a panel per group below each other on one axis; marked ones are filled squares."""
    import matplotlib.pyplot as plt

    first, _ = _axes(1, 1)
    plt.close(first)
    heights = [len(panel.rows) + 0.8 for panel in panels]
    size = (6.4, 0.8 + 0.27 * sum(heights) + 0.35 * len(panels))
    shape, axes = plt.subplots(
        len(panels), 1, figsize=size, sharex=True, squeeze=False, layout="constrained", height_ratios=heights
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        for place, row in enumerate(panel.rows):
            colour = _COLOURS[0] if row.is_marked else _COLOURS[1]
            style = {"marker": "s" if row.is_marked else "o", "markerfacecolor": colour if row.is_marked else "none"}
            axis.plot(row.interval, [place, place], color=colour, linewidth=1.6, linestyle="-")
            axis.plot([row.value], [place], color=colour, markersize=6, **style)
        axis.axvline(panel.baseline, color=QUIET, linewidth=0.9, linestyle="--")
        axis.set_yticks(range(len(panel.rows)), [plain_text(row.name) for row in panel.rows])
        axis.set_ylim(len(panel.rows) - 0.4, -0.6)
        axis.set_title(plain_text(panel.title), loc="left", fontsize=9, color=QUIET)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(QUIET)
        axis.tick_params(colors=QUIET, which="both")
    axes[-1, 0].set_xlabel(what, color=QUIET)
    return _finished(name, title, shape)


def curves(name: str, title: str, lines: Sequence[Line], *, what: str) -> Plot:
    """Values over epochs, the best epoch of each line marked with its value."""
    is_crowded = len(lines) > _MAX_MARKED
    shape, axis = _axes(6.4, 3.8) if is_crowded else _axes(5.0, 3.2)
    for line in lines:
        epochs = np.arange(1, len(line.values) + 1)
        colour = _COLOURS[line.colour % len(_COLOURS)]
        axis.plot(epochs, line.values, label=plain_text(line.name), linewidth=1.8, markersize=4.5, **style(line))
        if len(line.limits) == len(line.values) and not is_crowded:
            axis.fill_between(epochs, *zip(*line.limits, strict=True), color=colour, alpha=0.15, linewidth=0)
        if line.best_epoch is not None and line.best_epoch < len(line.values):
            x, y = line.best_epoch + 1, line.values[line.best_epoch]
            if not is_crowded:
                axis.axvline(x, color=colour, linewidth=0.8, linestyle=":")
            axis.plot([x], [y], marker=_marker(line), markersize=9, color=colour, fillstyle="none")
            below = y > line.values[0]  # a curve that climbs leaves room below it
            offset = (6 if x < 0.8 * len(line.values) else -6, -15 if below else 8)
            if x == len(line.values):  # beside the curves, where it crosses none
                offset = (8, -4)
            side = "left" if offset[0] > 0 else "right"
            if is_crowded:
                continue
            axis.annotate(
                _with_limits(line, line.best_epoch),
                (x, y),
                xytext=offset,
                textcoords="offset points",
                ha=side,
                color=QUIET,
            )
    is_banded = any(line.limits for line in lines) and not is_crowded
    axis.set(xlabel="epoch", ylabel=f"{what} (shaded: 95 %)" if is_banded else what)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if max(len(line.values) for line in lines) == 1:
        axis.set_xticks([1])
    axis.margins(x=0.02)
    values = np.concatenate([np.asarray(line.values, float) for line in lines])
    usual = float(np.quantile(values, 0.9))
    if usual > 0 and values.max() > _OUTLIER * usual:  # one epoch gone wrong would flatten all others
        axis.set_ylim(top=1.5 * usual, bottom=min(0.0, float(values.min())))
        axis.set_ylabel(f"{what} (up to {values.max():.3g}, cut off)")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": 7} if is_crowded else {}
    axis.legend(frameon=False, labelcolor=QUIET, **beside)
    return _finished(name, title, shape)


def _with_limits(line: Line, epoch: int) -> str:
    """A value of a line, with its interval where it is known."""
    text = f"{line.values[epoch]:.4f}"
    return text if len(line.limits) <= epoch else text + "\n({:.3f} to {:.3f})".format(*line.limits[epoch])


def style(line: Line) -> dict[str, Any]:
    """How a line is drawn: colour, dashes and markers, which are few, and not at the same epochs on all lines."""
    plain = _PLAIN[line.colour // len(_COLOURS) % len(_PLAIN)]  # colours come again
    every = max(1, len(line.values) // _NUM_MARKERS)
    first = (line.colour * every // len(_MARKERS)) % every
    return {
        "color": _COLOURS[line.colour % len(_COLOURS)],
        "linestyle": _DASHED if line.dashed else plain,
        "marker": _marker(line),
        "markevery": (first, every),
    }


def _marker(line: Line) -> str:
    return _MARKERS[line.colour % len(_MARKERS)]


def confusion(name: str, title: str, *, matrix: npt.NDArray[Any], names: Sequence[str]) -> Plot:
    """Predicted classes by true class: every row adds up to one."""
    rows = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12.0, max(4.2, 0.42 * len(names) + 2.2))
    shape, axis = _axes(side, side * 0.86)
    axis.imshow(rows, cmap="Blues", vmin=0.0, vmax=1.0)
    if len(names) <= _MAX_NAMED:
        places, shown = np.arange(len(names)), [plain_text(name) for name in names]
        axis.set_xticks(places, shown, rotation=90 if len(names) > 4 else 0)
        axis.set_yticks(places, shown)
    if len(names) <= _MAX_NAMED // 2:
        for (row, column), share in np.ndenumerate(rows):
            if share >= 0.005:
                colour = "white" if share > 0.55 else "#1b2330"
                axis.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set(xlabel="predicted", ylabel="true")
    axis.spines[:].set_visible(False)
    return _finished(name, title, shape)


def predicted_against_true(name: str, title: str, *, true: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> Plot:
    """A dot per sample, the diagonal, and the mean prediction per five years."""
    shape, axis = _axes(4.8, 3.9)
    axis.scatter(true, predicted, s=7, alpha=0.35, color=_COLOURS[0], linewidths=0, rasterized=True)
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    axis.plot([low, high], [low, high], color=QUIET, linewidth=1, linestyle=":")
    bins = (true // 5).astype(int)
    middles = [(5 * number + 2.5, predicted[bins == number].mean()) for number in np.unique(bins)]
    axis.plot(*zip(*middles, strict=True), color=_COLOURS[1], marker="o", markersize=4, label="mean of five years")
    axis.set(xlabel="true", ylabel="predicted")
    axis.legend(frameon=False, labelcolor=QUIET)
    return _finished(name, title, shape)


def error_by_value(name: str, title: str, *, true: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> Plot:
    """Mean absolute error per five years as bars, the mean error as a line, and how many samples each is of."""
    shape, axis = _axes(4.8, 3.9)
    bins = (true // 5).astype(int)
    places = np.unique(bins)
    middles = 5 * places + 2.5
    errors = [np.abs(predicted - true)[bins == number].mean() for number in places]
    bias = [(predicted - true)[bins == number].mean() for number in places]
    hatched = {"facecolor": "none", "edgecolor": _COLOURS[0], "hatch": "///", "linewidth": 1.0}
    axis.bar(middles, errors, width=4.2, label="mean absolute error", **hatched)
    axis.plot(middles, bias, color=_COLOURS[1], marker="s", markersize=3.5, linewidth=1.6, label="mean error")
    axis.axhline(float(np.abs(predicted - true).mean()), color=QUIET, linewidth=0.9, linestyle="--", label="over all")
    for middle, error, number in zip(middles, errors, places, strict=True):
        axis.annotate(
            f"{int((bins == number).sum())}", (middle, error), ha="center", va="bottom", fontsize=6, color=QUIET
        )
    axis.set(xlabel="true (five years each; above a bar, how many)", ylabel="error")
    axis.legend(frameon=False, labelcolor=QUIET)
    return _finished(name, title, shape)


def cumulative_score(name: str, title: str, *, true: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> Plot:
    """The share of samples by the error that it allows, beside that of always predicting the median."""
    shape, axis = _axes(4.8, 3.9)
    allowed = np.arange(0, 21)
    for label, errors, colour, style in (
        ("predicted", np.abs(predicted - true), _COLOURS[0], "-"),
        ("median", np.abs(np.median(true) - true), QUIET, "--"),
    ):
        axis.plot(allowed, [(errors <= limit).mean() for limit in allowed], style, color=colour, label=label)
    is_within = np.abs(predicted - true) <= 5
    five, limits = float(is_within.mean()), [100 * limit for limit in metrics.interval(is_within)]
    axis.plot([5], [five], marker="o", color=_COLOURS[0])
    axis.annotate(
        f"{100 * five:.1f} % ({limits[0]:.1f} to {limits[1]:.1f}) within 5",
        (5, five),
        xytext=(8, -12),
        textcoords="offset points",
        color=QUIET,
    )
    axis.set(xlabel="error", ylabel="share of samples", ylim=(0, 1.02), xlim=(0, 20))
    axis.legend(frameon=False, labelcolor=QUIET)
    return _finished(name, title, shape)


def loss_by_rate(
    name: str, title: str, *, rates: Sequence[float], losses: Sequence[float], smoothed: npt.NDArray[Any]
) -> Plot:
    """The loss of steps over their learning rates, on a logarithmic axis, and its moving average."""
    shape, axis = _axes(6.4, 3.8)
    axis.plot(rates, losses, ".", color=QUIET, markersize=3, label="a step")
    axis.plot(rates, smoothed, color=_COLOURS[0], linewidth=1.8, label="moving average")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss", title=plain_text(title))
    axis.set_ylim(top=float(np.quantile(losses, 0.9)) * 1.5)
    axis.legend(frameon=False, labelcolor=QUIET)
    return _finished(name, title, shape)


def _axes(width: float, height: float) -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "facepack"  # the same plot gives the same bytes
    import matplotlib.pyplot as plt

    shape, axis = plt.subplots(figsize=(width, height), layout="constrained")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)
    axis.tick_params(colors=QUIET, which="both")
    axis.xaxis.label.set_color(QUIET)
    axis.yaxis.label.set_color(QUIET)
    return shape, axis


def _finished(name: str, title: str, shape: Any) -> Plot:
    import matplotlib.pyplot as plt

    svg, png = io.StringIO(), io.BytesIO()
    shape.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    shape.savefig(png, format="png", dpi=150)
    plt.close(shape)
    text = svg.getvalue()
    for colour, of_page in _PAGE_COLOURS.items():
        text = text.replace(colour, of_page)
    return Plot(name, title, text[text.index("<svg") :], png.getvalue())


def plain_text(text: str) -> str:
    """A name as text: "$" in it is no formula, "_" at its front hides nothing."""
    return text.replace("$", r"\$").lstrip("_") or text
