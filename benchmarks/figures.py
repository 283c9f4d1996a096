"""Figures of a benchmark: what they were measured on, and tables and bars of them."""

import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Only the standard library up here: the environments of rivals, which have no facepack, load this file too.

Raw = dict[str, Any]
"""What one measurement gave, and what is written to the JSON."""


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median of the repeats and their extremes."""

    group: str
    label: str
    unit: str
    values: tuple[float, ...]
    about: str
    goal: str = ""
    met: bool | None = None

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.values)


# What they were measured on


def about(*, num_cores: int) -> Raw:
    """Date and hardware."""
    cpu_info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in cpu_info if line.startswith("model name")), platform.processor())
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hardware = {"cpu": model, "cores": num_cores, "memory_bytes": memory_bytes, "os": platform.platform()}
    return {"date": time.strftime("%Y-%m-%d"), "hardware": hardware}


def others_at_work(*, num_cores: int) -> float:
    """How many cores are busy while we rest for half a second: what disturbs the next measurement."""
    import psutil

    return float(psutil.cpu_percent(interval=0.5)) / 100 * num_cores


def headline(results: Raw, *, command: str, others_cores: list[float]) -> str:
    """One paragraph: the command, the day, the machine, and what else the machine did."""
    hardware = results["hardware"]
    return (
        f"Made by `{command}` on {results['date']}: {hardware['cpu']}, {hardware['cores']} cores, "
        f"{hardware['memory_bytes'] / 2**30:.0f} GiB, {hardware['os']}. Cores busy with other work just before a "
        f"measurement: median {statistics.median(others_cores):.2f}, most {max(others_cores):.2f}."
    )


# Tables


def tables(found: Iterable[Figure]) -> list[str]:
    """Lines of Markdown: a table per group."""
    lines: list[str] = []
    group = ""
    for figure in found:
        if figure.group != group:
            group = figure.group
            lines += [
                "",
                f"## {group}",
                "",
                "| what | median | spread | goal | why |",
                "| --- | ---: | ---: | --- | --- |",
            ]
        lines.append(_row(figure))
    return lines


def _row(figure: Figure) -> str:
    verdict = {True: f"{figure.goal}: yes", False: f"{figure.goal}: **no**", None: ""}[figure.met]
    spread = f"{_text(min(figure.values), '')} to {_text(max(figure.values), '')}" if len(figure.values) > 1 else ""
    return f"| {figure.label} | {_text(figure.median, figure.unit)} | {spread} | {verdict} | {figure.about} |"


def _text(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{number} {unit}".strip()


# Bars


def bars(axis: Any, chosen: list[Figure], *, unit: str, limits: tuple[str, ...] = ()) -> None:
    """Horizontal bars with their spread and their value, facepack's own in colour."""
    medians = [figure.median for figure in chosen]
    below = [figure.median - min(figure.values) for figure in chosen]
    above = [max(figure.values) - figure.median for figure in chosen]
    colours = [_colour(figure.label, limits) for figure in chosen]
    spread = {"elinewidth": 1.5, "capsize": 3} if any(above) else {"elinewidth": 0}
    axis.barh([figure.label for figure in chosen], medians, xerr=(below, above), color=colours, error_kw=spread)
    axis.invert_yaxis()
    right = max(m + a for m, a in zip(medians, above, strict=True))
    for row, figure in enumerate(chosen):
        text = _text(figure.median, unit) + (f" ({figure.goal})" if figure.goal else "")
        end = figure.median + above[row] + right * 0.01
        axis.text(end, row, text, va="center", size=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axis.set_xlim(0, right * 1.3)
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.set_title(chosen[0].group, loc="left", weight="bold", fontsize=10)
    axis.set_xlabel(unit)
    axis.spines[["top", "right"]].set_visible(False)


def _colour(label: str, limits: tuple[str, ...]) -> str:
    """Ours, a limit, or a rival."""
    if label.startswith("facepack"):
        return "tab:blue"
    return "darkgrey" if label.startswith(limits) else "lightgrey"
