"""From pairs of truth and prediction to numbers: per frame, per sequence, per set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from haptic import metrics
from haptic.evaluation.checks import PairedHand
from haptic.evaluation.protocols import UNITS, Metric, Protocol, Split
from haptic.geometry.cameras import project

MM = 1000.0
HINT_EXPANSION = 2.0  # of the network's box over the annotation's longer side, in HInt's shards
MIN_MOTION_FRAMES = {"acc_norm": 3, "acc_error": 3, "jerk": 4, "rte": 2}
PLACED = {"mpjpe", "c_mpjpe", "ga_mpjpe", "fa_mpjpe", "w_mpjpe", "wa_mpjpe", "g_mpjpe", "rte", "acc_norm", "acc_error"}


@dataclass(frozen=True)
class SequenceScore:
    """One hand of one sequence (or one chunk of it) under one protocol. NaN: this metric says nothing here."""

    set_name: str
    method: str
    sequence: str
    hand: str
    first_frame: int
    num_frames: int
    num_predicted: int
    focal_widths: float
    values: dict[str, float]  # by the metric's title, in its unit
    # Of metrics that are pooled over a set: how many of each joint were right, and how many counted.
    tallies: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameScores:
    """One hand of one sequence frame by frame, in mm; NaN where there is nothing to score."""

    set_name: str
    method: str
    sequence: str
    hand: str
    focal_widths: float
    columns: dict[str, np.ndarray]


def score_hand(pair: PairedHand, protocol: Protocol, method: str) -> tuple[list[SequenceScore], list[str]]:
    """Score one hand; also return a line for each metric that truth or prediction cannot tell."""
    notes = []
    if not pair.has_place and any(metric.function in PLACED for metric in protocol.metrics):
        left_out = ", ".join(metric.title for metric in protocol.metrics if metric.function in PLACED)
        notes.append(
            f"{pair.clip.key}, {pair.name}: the truth has no measured camera or place (weights of zero), so {left_out} "
            "cannot be told and are left out"
        )
    scores = []
    length = max(len(pair.target) if protocol.chunk_frames is None else protocol.chunk_frames, 1)
    for split in protocol.splits or (None,):
        share = 1.0 if split is None else _split_weight(pair, split)[:, None]
        chosen = replace(pair, weight=pair.weight * share)
        for start in range(0, len(pair.target), length):
            part = _cut(chosen, slice(start, start + length))
            counted = (part.weight > 0).any(-1)
            if not bool(counted.any()):
                continue
            scores.append(
                SequenceScore(
                    set_name=protocol.data_set if split is None else f"{protocol.data_set}, {split.name}",
                    method=method,
                    sequence=pair.clip.key,
                    hand=pair.name,
                    first_frame=int(pair.clip.labels(pair.name).frame_index[start]),
                    num_frames=int(counted.sum()),
                    num_predicted=int((counted & part.predicted).sum()),
                    focal_widths=pair.clip.focal_widths(pair.name),
                    values={metric.title: metric_value(metric, part, protocol) for metric in protocol.metrics},
                    tallies={
                        metric.title: _hint_tally(metric, chosen, slice(start, start + length))
                        for metric in protocol.metrics
                        if metric.function == "hint_pck"
                    },
                )
            )
    return scores, notes


def metric_value(metric: Metric, pair: PairedHand, protocol: Protocol) -> float:
    """Return a metric in its unit, NaN where it says nothing: no prediction, too few frames, no known place."""
    counted = (pair.weight > 0).any(-1)
    if metric.function == "hint_pck":
        return math.nan  # pooled over the set
    if metric.function == "coverage":
        return UNITS["%"] * float(metrics.coverage(pair.predicted, pair.weight))
    usable = counted & pair.predicted
    if (metric.function in PLACED and not pair.has_place) or not bool(usable.any()):
        return math.nan
    if not pair.has_camera_points and metric.space == "camera" and metric.function not in ("pa_mpjpe", "pa_auc"):
        return math.nan
    if _longest_run(usable) < MIN_MOTION_FRAMES.get(metric.function, 1):
        return math.nan
    if protocol.missing.kind == "split" and _longest_run(usable) < protocol.missing.min_run_frames:
        return math.nan
    pred, target = (pair.pred, pair.target) if metric.space == "camera" else (pair.pred_world, pair.target_world)
    function, options = _function(metric, pair)
    value = metrics.score(
        function, pred, target, pair.weight, predicted=pair.predicted, rule=protocol.missing, **options
    )
    return UNITS[metric.unit] * float(value)


def _function(metric: Metric, pair: PairedHand) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    options: dict[str, Any] = dict(metric.options)
    if metric.uses_fps:
        options["fps"] = pair.clip.info.fps
    if metric.function == "jerk":
        return (lambda p, _g, w, **rest: metrics.jerk(p, w, **rest)), options
    if metric.function == "rte":
        return (lambda p, g, w, **rest: metrics.rte(p[:, 0], g[:, 0], w[:, 0], **rest)), options
    if metric.function == "pa_auc":
        return _pa_auc, options
    return getattr(metrics, metric.function), options


def _hint_tally(metric: Metric, pair: PairedHand, frames: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return, per joint, how many lie within alpha of the box's longer side, and how many count (HaMeR's HInt PCK).

    A hand that was not predicted is wrong in all its joints.
    """
    options = dict(metric.options)
    labels = pair.clip.labels(pair.name)
    K = labels.camera.K.double() if pair.K is None else pair.K
    seen = project(torch.where(pair.predicted[:, None, None], pair.pred, torch.ones(3).double()), K)
    known = labels.joints_img_weight > float(options["min_confidence"])
    off = (seen - labels.joints_img.double()).norm(dim=-1)
    reach_px = float(options["alpha"]) * labels.box_side_px.double() / HINT_EXPANSION
    right = (off <= reach_px[:, None]) & pair.predicted[:, None] & known
    known = known & (pair.weight > 0).any(-1)[:, None]
    return (right & known)[frames].sum(0).numpy(), known[frames].sum(0).numpy()


def _pooled(scores: Sequence[SequenceScore], title: str) -> float:
    right, counted = (np.sum([score.tallies[title][part] for score in scores], axis=0) for part in (0, 1))
    return 100 * float((right[counted > 0] / counted[counted > 0]).mean()) if counted.any() else math.nan


def _pa_auc(pred: Tensor, target: Tensor, weight: Tensor, *, max_threshold: float, steps: int) -> Tensor:
    aligned = metrics.align_frames(pred, target, weight).nan_to_num()
    return metrics.pck_auc(aligned, target, weight, max_threshold=max_threshold, steps=steps)


def frame_scores(pair: PairedHand, method: str, set_name: str) -> FrameScores:
    """Return errors frame by frame: camera space, root-relative, aligned per frame, over all and on the first frame."""
    num = len(pair.target)
    weight = pair.weight * pair.predicted[:, None]
    labels = pair.clip.labels(pair.name)
    columns: dict[str, np.ndarray] = {
        "frame": labels.frame_index.numpy(),
        "time_s": pair.clip.time_s(pair.name).numpy(),
        "predicted": pair.predicted.numpy(),
    }
    empty = torch.full((num,), math.nan).double()
    values = dict.fromkeys(("c_mm", "ra_mm", "pa_mm", "ga_mm", "fa_mm", "acc_mm_frame2"), empty)
    if bool((weight > 0).any()):
        data = (pair.pred, pair.target, weight)
        values["pa_mm"] = metrics.frame_errors(metrics.align_frames(*data), pair.target, weight)
        values["ra_mm"] = metrics.frame_errors(metrics.align_root(*data), pair.target, weight)
        if pair.has_place and pair.has_camera_points:
            values["c_mm"] = metrics.frame_errors(*data)
            values["ga_mm"] = metrics.frame_errors(metrics.align_sequence(*data), pair.target, weight)
            values["fa_mm"] = metrics.frame_errors(metrics.align_sequence(*data, first_frames=1), pair.target, weight)
            if _longest_run(pair.predicted & (weight > 0).any(-1)) >= 3:
                values["acc_mm_frame2"] = metrics.frame_acc_errors(*data)
    columns |= {name: MM * value.numpy() for name, value in values.items()}
    return FrameScores(set_name, method, pair.clip.key, pair.name, pair.clip.focal_widths(pair.name), columns)


@dataclass(frozen=True)
class Cell:
    """A mean over sequences with its interval, and over how many hands' tracks."""

    mean: float
    low: float
    high: float
    num: int


def summarise(
    scores: Sequence[SequenceScore], title: str, protocol: Protocol, *, seed: int, resamples: int = 1000
) -> Cell:
    """Return a method's mean over a set with its 95 % interval: a bootstrap over sequences, both hands together.

    The average is the protocol's: each hand of a sequence alike, or by its predicted frames.
    """
    if scores and title in scores[0].tallies:
        return _summarise_pooled(scores, title, seed=seed, resamples=resamples)
    values = np.array([score.values[title] for score in scores])
    by_frames = protocol.average == "frames"
    weights = np.array([float(score.num_predicted) if by_frames else 1.0 for score in scores])
    told = ~np.isnan(values) & (weights > 0)
    if not told.any():
        return Cell(math.nan, math.nan, math.nan, 0)
    names = sorted({score.sequence for score in scores})
    number = np.array([names.index(score.sequence) for score in scores])
    sums = np.bincount(number[told], weights=(values * weights)[told], minlength=len(names))
    totals = np.bincount(number[told], weights=weights[told], minlength=len(names))
    mean = float(sums.sum() / totals.sum())
    rng = np.random.default_rng([seed, 77])
    drawn = rng.integers(len(names), size=(resamples, len(names)))
    total = totals[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [0.025, 0.975]) if len(names) > 1 else (math.nan, math.nan)
    return Cell(mean, float(low), float(high), int(told.sum()))


def _summarise_pooled(scores: Sequence[SequenceScore], title: str, *, seed: int, resamples: int) -> Cell:
    rng = np.random.default_rng([seed, 77])
    means = [
        _pooled([scores[row] for row in rng.integers(len(scores), size=len(scores))], title) for _ in range(resamples)
    ]
    low, high = np.nanquantile(means, [0.025, 0.975]) if len(scores) > 1 else (math.nan, math.nan)
    return Cell(_pooled(scores, title), float(low), float(high), len(scores))


def _cut(pair: PairedHand, frames: slice) -> PairedHand:
    names = ("target", "target_world", "weight", "pred", "pred_world", "predicted")
    return replace(pair, **{name: getattr(pair, name)[frames] for name in names})


def _split_weight(pair: PairedHand, split: Split) -> Float[Tensor, " T"]:
    labels = pair.clip.labels(pair.name)
    if split.quantity == "occlusion":
        known = labels.joints_visible >= 0
        value = ((labels.joints_visible == 0) & known).sum(-1) / known.sum(-1).clamp(min=1)
        value = torch.where(known.any(-1), value, torch.full_like(value, math.nan))
    elif split.quantity == "crop_px":
        value = labels.box_side_px
    else:
        low, high = labels.joints_img.amin(1), labels.joints_img.amax(1)
        size = (high - low).clamp(min=1e-6)
        if split.quantity == "crop_aspect":
            value = size.amax(-1) / size.amin(-1)
        else:
            middle = labels.box_center_img.new_tensor([pair.clip.info.width_px, pair.clip.info.height_px]) / 2
            value = ((labels.box_center_img - middle) / middle).norm(dim=-1)
    return ((value >= split.low) & (value < split.high)).double()


def _longest_run(frames: Bool[Tensor, " T"]) -> int:
    longest = run = 0
    for frame in frames.tolist():
        run = run + 1 if frame else 0
        longest = max(longest, run)
    return longest
