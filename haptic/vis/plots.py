"""`trajectory.png`: where the hands went, from above and the side; their depth and reprojection error over time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from haptic.files import atomic_path
from haptic.geometry.transforms import invert_transform
from haptic.hand.model import HandModel, trajectory_joints
from haptic.hand.palette import hand_color
from haptic.hand.reprojection import NEAR_SHARE, measure_reprojection
from haptic.records import HandTrack, Reconstruction, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES, DOTS_PER_INCH = (13.0, 8.6), 100
DARKENING = 0.8  # the palette is made for shaded surfaces; thin lines on white need more
MAX_LEGEND_HANDS = 12
MIN_DEPTH_SPAN_M = 0.1  # a hand that rests must not look as if it shook


@dataclass(frozen=True)
class WristPath:
    """One hand's wrist over time, in the first camera's axes; `depth_m` and errors as each frame's camera has them."""

    name: str
    color: tuple[float, float, float]
    time_s: Float[np.ndarray, " T"]
    frame_index: np.ndarray
    observed: Bool[np.ndarray, " T"]
    wrist_first: Float[np.ndarray, "T 3"]
    depth_m: Float[np.ndarray, " T"]
    error_px: Float[np.ndarray, " T"]
    line_px: Float[np.ndarray, " T"]

    def pieces(self, values: np.ndarray, *, observed: bool) -> np.ndarray:
        """Return the values, NaN wherever a line must not be drawn: across gaps, and over the other kind of frames."""
        kept = values.astype(np.float64).copy()
        shown = self.observed == observed
        if not observed and len(shown):  # a filled stretch reaches to the observed frames it joins
            shown = shown | np.append(shown[1:], False) | np.append(False, shown[:-1])
        kept[~shown] = np.nan
        return kept


def write_plot(
    path: Path, result: Reconstruction, model: HandModel, predicted_img: Mapping[str, Tensor] | None = None
) -> None:
    """Draw the picture. `predicted_img` is, per hand, where the detector's landmarks (T, 21, 2) are expected.

    Without it the error is that of the model's joints, which a detector's landmarks are not quite.
    """
    from matplotlib.figure import Figure

    predicted_img = predicted_img or {}
    names = [name for name, hand in result.hands.items() if len(hand.frame_index)]
    paths = [measure_path(name, result, model, predicted_img.get(name)) for name in names]
    figure = Figure(figsize=INCHES, layout="constrained")
    top, side, depth, error = figure.subplots(2, 2).ravel()
    _draw_places(top, paths, result, axes=(0, 2), names=("right in m", "depth in m"), title="from above")
    _draw_places(side, paths, result, axes=(2, 1), names=("depth in m", "up in m"), title="from the side")
    _draw_depth(depth, paths, result)
    _draw_error(error, paths, result, is_corrected=bool(predicted_img))
    _title(figure, paths, result)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH)


def measure_path(name: str, result: Reconstruction, model: HandModel, predicted_img: Tensor | None = None) -> WristPath:
    """Return what is drawn of one hand."""
    hand = result.hands[name]
    track = result.tracks.get(name)
    T_first_world = invert_transform(result.camera.T_world_cam[0])
    with torch.no_grad():
        wrist_cam = trajectory_joints(model, hand)[:, 0].cpu()
        T_first_cam = (T_first_world @ hand.camera.T_world_cam).cpu()
        wrist_first = (T_first_cam[:, :3, :3] @ wrist_cam[:, :, None])[..., 0] + T_first_cam[:, :3, 3]
        error_px, line_px = _errors(model, hand, track, predicted_img)
    return WristPath(
        name=name,
        color=tuple(DARKENING * value for value in hand_color(name)),  # type: ignore[arg-type]
        time_s=hand.time_s.numpy(),
        frame_index=hand.frame_index.numpy(),
        observed=hand.observed.numpy(),
        wrist_first=wrist_first.numpy(),
        depth_m=wrist_cam[:, 2].numpy(),
        error_px=error_px,
        line_px=line_px,
    )


def _errors(
    model: HandModel, hand: Trajectory, track: HandTrack | None, predicted_img: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each frame's mean error and a tenth of its box, NaN where the detector saw nothing."""
    if track is None:
        nothing = np.full(len(hand.frame_index), np.nan)
        return nothing, nothing
    found = measure_reprojection(model, hand, track, predicted_img)
    count = found.is_known.sum(dim=1)
    mean_px = found.error_px.sum(dim=1) / count.clamp(min=1)
    is_known = (count > 0).numpy()
    line_px = NEAR_SHARE * found.box_side_px.numpy()
    return np.where(is_known, mean_px.numpy(), np.nan), np.where(is_known, line_px, np.nan)


def _draw_places(
    plot: "Axes",
    paths: list[WristPath],
    result: Reconstruction,
    *,
    axes: tuple[int, int],
    names: tuple[str, str],
    title: str,
) -> None:
    signs = [-1.0 if axis == 1 else 1.0 for axis in axes]  # our y points down
    for path in paths:
        across, along = (sign * path.wrist_first[:, axis] for sign, axis in zip(signs, axes, strict=True))
        _draw_line(plot, path, across, along)
        plot.plot(across[0], along[0], "o", color=path.color, markersize=4)
    cameras = result.camera.T_world_cam
    if len(cameras):
        places = (invert_transform(cameras[0]) @ cameras)[:, :3, 3].numpy()
        plot.plot(signs[0] * places[:, axes[0]], signs[1] * places[:, axes[1]], color="0.6", linewidth=1)
    plot.plot(0, 0, marker="^" if axes[1] == 2 else ">", color="0.25", markersize=8)
    plot.annotate("camera", (0, 0), textcoords="offset points", xytext=(8, 5), fontsize=8, color="0.25")
    plot.set(xlabel=names[0], ylabel=names[1], title=f"wrists {title}" if paths else title)
    plot.set_aspect("equal", adjustable="datalim")
    plot.margins(0.12)
    if not paths:
        plot.set(xlim=(-0.5, 0.5), ylim=(-0.5, 0.5))
    plot.grid(color="0.92")


def _draw_depth(plot: "Axes", paths: list[WristPath], result: Reconstruction) -> None:
    for path in paths:
        _draw_line(plot, path, path.time_s, path.depth_m)
    plot.set(xlabel="time in s", ylabel="wrist's depth in m", title="depth before the camera")
    low_m, high_m = plot.get_ylim()
    if paths and high_m - low_m < MIN_DEPTH_SPAN_M:
        middle_m = (low_m + high_m) / 2
        plot.set_ylim(middle_m - MIN_DEPTH_SPAN_M / 2, middle_m + MIN_DEPTH_SPAN_M / 2)
    _finish_times(plot, paths, result)


def _draw_error(plot: "Axes", paths: list[WristPath], result: Reconstruction, *, is_corrected: bool) -> None:
    for path in paths:
        plot.plot(path.time_s, path.error_px, color=path.color, linewidth=1.3, marker=".", markersize=2.5)
        plot.plot(path.time_s, path.line_px, color=path.color, linewidth=0.9, linestyle=(0, (6, 3)), alpha=0.7)
    if paths:
        plot.plot(
            [], [], color="0.4", linewidth=0.9, linestyle=(0, (6, 3)), label=f"{NEAR_SHARE:.0%} of the hand's box"
        )
        plot.legend(loc="upper right", fontsize=8, framealpha=0.85)
    what = "landmarks" if is_corrected else "joints"
    plot.set(xlabel="time in s", ylabel="mean error in px", title=f"reprojection: {what} against the detector's")
    plot.set_ylim(bottom=0)
    _finish_times(plot, paths, result)


def _draw_line(plot: "Axes", path: WristPath, across: np.ndarray, along: np.ndarray) -> None:
    """Draw observed frames as a line, filled ones dotted; a lone frame as a dot; nothing across a gap."""
    breaks = np.flatnonzero(np.diff(path.frame_index) != 1) + 1
    seen, filled = path.pieces(along, observed=True), path.pieces(along, observed=False)
    for values, style in ((seen, {"linewidth": 1.6}), (filled, {"linewidth": 1.4, "linestyle": ":", "alpha": 0.75})):
        kept_across, kept = np.insert(across.astype(np.float64), breaks, np.nan), np.insert(values, breaks, np.nan)
        plot.plot(kept_across, kept, color=path.color, marker="." if len(values) < 3 else "", **style)  # type: ignore[arg-type]


def _finish_times(plot: "Axes", paths: list[WristPath], result: Reconstruction) -> None:
    times_s = result.frame_time_s
    if len(times_s) > 1:
        plot.set_xlim(float(times_s[0]), float(times_s[-1]))
    plot.grid(color="0.92")
    if not paths:
        plot.text(0.5, 0.5, "no hand found", ha="center", va="center", transform=plot.transAxes, color="0.4")


def _title(figure: "Figure", paths: list[WristPath], result: Reconstruction) -> None:
    from matplotlib.lines import Line2D

    seconds = len(result.frame_time_s) / result.fps if result.fps else 0.0
    head = f"{len(result.frame_time_s)} frames, {seconds:.1f} s, {result.image_width_px} x {result.image_height_px} px"
    figure.suptitle(f"{head}, hand model {result.hand_model}" if paths else f"{head}: no hand found", fontsize=11)
    marks = [Line2D([], [], color=path.color, linewidth=2, label=path.name) for path in paths[:MAX_LEGEND_HANDS]]
    if marks:
        marks.append(Line2D([], [], color="0.4", linewidth=1.4, linestyle=":", label="filled in"))
        marks.append(Line2D([], [], color="0.4", marker="o", markersize=4, linestyle="", label="first frame"))
        figure.legend(handles=marks, loc="outside lower center", ncols=min(len(marks), 8), fontsize=9, frameon=False)
