"""From pairs of truth and prediction to numbers: per frame, per sequence, per set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haptic import metrics
from haptic.evaluation.checks import PairedHand
from haptic.evaluation.protocols import UNITS, Metric, Protocol, Split
from haptic.geometry.boxes import HAPTIC_EXPANSION
from haptic.geometry.cameras import project
from haptic.hand.mirror import mirror_faces

MM = 1000.0
BOTH_HANDS = "both"  # stands for the hand's name where a number is of two
MIN_MOTION_FRAMES = {"acc_norm": 3, "acc_error": 3, "jerk": 4, "rte": 2}
PLACED = {"mpjpe", "c_mpjpe", "ga_mpjpe", "fa_mpjpe", "w_mpjpe", "wa_mpjpe", "g_mpjpe", "rte", "acc_norm", "acc_error"}
OF_MESHES = {"ra_mpvpe", "pa_mpvpe", "pa_f_score"}
OF_TWO_HANDS = {"mrrpe", "penetration_volume"}
NEED_MESHES = OF_MESHES | {"penetration_volume"}
IN_THE_IMAGE = {"hint_pck", "coverage"}
PENETRATION_CELL_M = 0.002


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
    if all(metric.function in IN_THE_IMAGE for metric in protocol.metrics):
        pair = replace(pair, weight=pair.clip.labels(pair.name).joints_img_weight.double())
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
    if metric.function == "hint_pck" or metric.function in OF_TWO_HANDS:
        return math.nan  # pooled over the set; scored for both hands together
    if metric.function in OF_MESHES:
        return _mesh_value(metric, pair, protocol)
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


def _mesh_value(metric: Metric, pair: PairedHand, protocol: Protocol) -> float:
    mesh = pair.mesh
    if mesh is None:
        return math.nan
    weight = mesh.weight * (pair.weight > 0).any(-1)
    if not bool(((weight > 0) & pair.predicted).any()):
        return math.nan
    pred, target = mesh.pred, mesh.target
    if metric.function == "ra_mpvpe":  # no vertex is the wrist
        pred, target = pred - mesh.pred_wrist[:, None], target - mesh.target_wrist[:, None]
    functions: dict[str, Callable[..., Tensor]] = {
        "ra_mpvpe": metrics.mpvpe, "pa_mpvpe": metrics.pa_mpvpe, "pa_f_score": _pa_f_score
    }  # fmt: skip
    options: dict[str, Any] = dict(metric.options)
    function = functions[metric.function]
    value = metrics.score(function, pred, target, weight, predicted=pair.predicted, rule=protocol.missing, **options)
    return UNITS[metric.unit] * float(value)


def score_two_hands(
    pairs: Sequence[PairedHand], protocol: Protocol, method: str, faces: Int[Tensor, "F 3"] | None
) -> tuple[list[SequenceScore], list[str]]:
    """Score what is between a right and a left hand: one number over the frames in which truth knows both.

    `faces` are a right hand's, for the volume that both meshes share. Pieces of one hand are joined; where several
    people's hands are in one frame, who belongs to whom is not known, and a line says so.
    """
    wanted = [metric for metric in protocol.metrics if metric.function in OF_TWO_HANDS]
    if not wanted or not pairs:
        return [], []
    clip = pairs[0].clip
    sides = [
        _joined([pair for pair in pairs if bool(clip.labels(pair.name).is_right) == side]) for side in (True, False)
    ]
    if any(side is None for side in sides):
        several = (
            f"{clip.key}: several right or left hands at once, so {', '.join(m.title for m in wanted)} is left out"
        )
        has_both = len({bool(clip.labels(pair.name).is_right) for pair in pairs}) == 2
        return [], [several] if has_both else []
    right, left = (side for side in sides if side is not None)
    weight = torch.stack([right.weight, left.weight], dim=1)
    counted = (weight > 0).all(1)
    if not bool(counted.any()):
        return [], []
    predicted = right.predicted & left.predicted
    values = {metric.title: math.nan for metric in protocol.metrics}
    if bool((counted & predicted).any()):
        for metric in wanted:
            values[metric.title] = _two_hands_value(metric, right, left, weight * predicted[:, None], faces)
    frames = torch.nonzero(counted)[:, 0]
    score = SequenceScore(
        set_name=protocol.data_set, method=method, sequence=clip.key, hand=BOTH_HANDS, first_frame=int(frames[0]),
        num_frames=int(counted.sum()), num_predicted=int((counted & predicted).sum()),
        focal_widths=clip.focal_widths(pairs[0].name), values=values,
    )  # fmt: skip
    return [score], []


@dataclass(frozen=True)
class _Side:
    """All of one side's hands over the clip's frames: wrists, whether they count, and the mesh if there is one."""

    target: Float[Tensor, "N 3"]
    weight: Float[Tensor, " N"]
    pred: Float[Tensor, "N 3"]
    predicted: Bool[Tensor, " N"]
    verts: Float[Tensor, "N V 3"] | None


def _joined(pairs: Sequence[PairedHand]) -> _Side | None:
    """Return the hands of one side as one, None if there are none or some are in one frame."""
    if not pairs:
        return None
    num_frames = pairs[0].clip.info.num_frames
    target, pred = torch.zeros(num_frames, 3).double(), torch.zeros(num_frames, 3).double()
    weight, predicted = torch.zeros(num_frames).double(), torch.zeros(num_frames, dtype=torch.bool)
    taken = torch.zeros(num_frames, dtype=torch.bool)
    meshes = [pair.mesh for pair in pairs if pair.mesh is not None]
    verts = torch.zeros(num_frames, *meshes[0].pred.shape[1:]).double() if len(meshes) == len(pairs) else None
    for pair in pairs:
        frames = pair.clip.labels(pair.name).frame_index
        if bool(taken[frames].any()):
            return None
        taken[frames] = True
        is_placed = float(pair.has_place and pair.has_camera_points)
        target[frames], pred[frames], predicted[frames] = pair.target[:, 0], pair.pred[:, 0], pair.predicted
        weight[frames] = pair.weight[:, 0] * is_placed
        if verts is not None and pair.mesh is not None:
            verts[frames] = pair.mesh.pred
    return _Side(target, weight, pred, predicted, verts)


def _two_hands_value(
    metric: Metric, right: _Side, left: _Side, weight: Float[Tensor, "N 2"], faces: Int[Tensor, "F 3"] | None
) -> float:
    if metric.function == "mrrpe":
        pred, target = (torch.stack([getattr(side, part) for side in (left, right)], 1) for part in ("pred", "target"))
        return UNITS[metric.unit] * float(metrics.mrrpe(pred, target, weight.flip(1)))
    if faces is None or right.verts is None or left.verts is None:
        return math.nan
    volume = metrics.penetration_volume(
        right.verts, left.verts, weight.amin(1), faces_a=faces, faces_b=mirror_faces(faces), cell=PENETRATION_CELL_M
    )
    return UNITS[metric.unit] * float(volume)


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
    # Shards keep the side that the network is to see: HaPTIC's share of the annotated box's longer side.
    reach_px = float(options["alpha"]) * labels.box_side_px.double() / HAPTIC_EXPANSION
    right = (off <= reach_px[:, None]) & pair.predicted[:, None] & known
    known = known & (pair.weight > 0).any(-1)[:, None]
    return (right & known)[frames].sum(0).numpy(), known[frames].sum(0).numpy()


def _pooled(right: np.ndarray, counted: np.ndarray) -> float:
    right, counted = right.sum(axis=0), counted.sum(axis=0)
    return 100 * float((right[counted > 0] / counted[counted > 0]).mean()) if counted.any() else math.nan


def _pa_auc(pred: Tensor, target: Tensor, weight: Tensor, *, max_threshold: float, steps: int) -> Tensor:
    aligned = metrics.align_frames(pred, target, weight).nan_to_num()
    return metrics.pck_auc(aligned, target, weight, max_threshold=max_threshold, steps=steps)


def _pa_f_score(pred: Tensor, target: Tensor, weight: Tensor, *, threshold: float) -> Tensor:
    aligned = metrics.align_frames(pred, target, weight).nan_to_num()
    return metrics.f_score(aligned, target, weight, threshold=threshold)


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
    values = dict.fromkeys(("c_mm", "ra_mm", "pa_mm", "ga_mm", "fa_mm", "acc_mm_frame2", "epe_px"), empty)
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
    columns |= {name: (MM if "_mm" in name else 1.0) * value.numpy() for name, value in values.items()}
    if pair.has_camera_points:
        columns["epe_px"] = _image_errors(pair).numpy()
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
    low, high = np.quantile(means, [0.025, 0.975]) if (totals > 0).sum() > 1 else (math.nan, math.nan)
    return Cell(mean, float(low), float(high), int(told.sum()))


def _summarise_pooled(scores: Sequence[SequenceScore], title: str, *, seed: int, resamples: int) -> Cell:
    rng = np.random.default_rng([seed, 77])
    right, counted = (np.stack([score.tallies[title][part] for score in scores]) for part in (0, 1))
    rows = (rng.integers(len(scores), size=len(scores)) for _ in range(resamples))
    means = [_pooled(right[drawn], counted[drawn]) for drawn in rows]
    low, high = np.nanquantile(means, [0.025, 0.975]) if len(scores) > 1 else (math.nan, math.nan)
    return Cell(_pooled(right, counted), float(low), float(high), len(scores))


def _cut(pair: PairedHand, frames: slice) -> PairedHand:
    names = ("target", "target_world", "weight", "pred", "pred_world", "predicted")
    parts: dict[str, Any] = {name: getattr(pair, name)[frames] for name in names}
    return replace(pair, **parts, mesh=None if pair.mesh is None else pair.mesh.cut(frames))


def _image_errors(pair: PairedHand) -> Float[Tensor, " T"]:
    """Return the mean distance in the image, in pixels, of labelled and predicted joints; NaN where nothing counts."""
    labels = pair.clip.labels(pair.name)
    K = labels.camera.K.double() if pair.K is None else pair.K
    known = (labels.joints_img_weight > 0).double() * pair.predicted[:, None]
    off = (project(pair.pred, K) - labels.joints_img.double()).norm(dim=-1)
    return torch.where(known > 0, off, 0.0).sum(-1) / known.sum(-1).where(known.any(-1), torch.nan)


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
