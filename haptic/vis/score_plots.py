"""Pictures of a benchmark: error over time, error against the focal length."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from haptic.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES, DOTS_PER_INCH = (9.0, 5.0), 100
BAND_OPACITY = 0.15
COLORS = (
    "#c0392b", "#2471a3", "#229954", "#b7950b", "#7d3c98", "#5d6d7e", "#d35400", "#148f77", "#943126", "#1b4f72"
)  # fmt: skip


@dataclass(frozen=True)
class ErrorCurve:
    """One method's error over time: the median over hands, and its quartiles. NaN where nothing is known."""

    time_s: Float[np.ndarray, " T"]
    median: Float[np.ndarray, " T"]
    low: Float[np.ndarray, " T"]
    high: Float[np.ndarray, " T"]


@dataclass(frozen=True)
class ErrorPoints:
    """One method's error of each hand's track against the focal length, in widths of the image."""

    focal_widths: Float[np.ndarray, " N"]
    error: Float[np.ndarray, " N"]


def write_error_over_time(path: Path, curves: Mapping[str, ErrorCurve], *, title: str, label: str) -> None:
    """Draw medians and quartiles."""
    figure, axes = _figure()
    for number, (name, curve) in enumerate(curves.items()):
        (line,) = axes.plot(curve.time_s, curve.median, label=name, **_style(number))  # type: ignore[arg-type]
        axes.fill_between(curve.time_s, curve.low, curve.high, color=line.get_color(), alpha=BAND_OPACITY, linewidth=0)
    axes.set_xlabel("time (s)")
    axes.set_ylim(bottom=0)
    _finish(figure, axes, path, title, label)


def write_error_against_focal(path: Path, points: Mapping[str, ErrorPoints], *, title: str, label: str) -> None:
    """Draw a point per hand's track, both axes logarithmic."""
    from matplotlib.ticker import LogLocator

    figure, axes = _figure()
    for number, (name, cloud) in enumerate(points.items()):
        style = _style(number)
        axes.plot(
            cloud.focal_widths, cloud.error, linestyle="none", marker="osD^vP*X"[number % 8], markersize=5, label=name,
            color=style["color"], alpha=0.75,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [0.5, 1.0, 2.0, 4.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("true focal length (image widths)")
    _finish(figure, axes, path, title, label)


def _style(number: int) -> dict[str, str]:
    colors = (
        "#c0392b",
        "#2471a3",
        "#229954",
        "#b7950b",
        "#7d3c98",
        "#5d6d7e",
        "#d35400",
        "#148f77",
        "#943126",
        "#1b4f72",
    )
    return {"color": colors[number % len(colors)], "linestyle": ("-", "--", ":")[number // len(colors) % 3]}


def _figure() -> tuple["Figure", "Axes"]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(figure: "Figure", axes: "Axes", path: Path, title: str, label: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": ""})
