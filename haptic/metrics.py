"""Benchmark numbers of 4D hands as pure functions: `name(pred, target, weight)`, in the input's unit.

Points     (T, P, 3): T frames of P points, be they 21 joints, 778 vertices or both hands' joints side by side.
           Metrics of a wrist or an image say their own shape.
Weight     (T, P) or (T,), at least zero; zero means that truth or prediction is not known there, and whatever
           stands there (NaN included) is not read. None: everything counts. Means are weighted means.
Gaps       The time line stays: segments are cut by frame number, and a difference in time counts only where all its
           frames do. `score` applies a stated rule to frames that truth has and the prediction lacks.
Answer     One number, computed in double precision and given in the prediction's type. What cannot be scored (other
           shapes, NaN that counts, nothing that counts, too few points to align) is a ValueError.

docs/metrics.md is the table of all of them, with formulas and sources.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haptic.geometry.alignment import align_rigid, align_similarity
from haptic.geometry.solids import close_holes, intersection_volume

# Shapes are checked in words at run time: these numbers are asked of other systems' results.
Points = Float[Tensor, "..."]
Weight = Float[Tensor, "..."] | Bool[Tensor, "..."]
Scalar = Float[Tensor, ""]

MIN_ALIGNED_POINTS = 3  # fewer leave the rotation open and the error falsely small
CACHED_POINTS = 1 << 17  # points aligned at once: double precision coordinates of these stay in a processor's cache


# --- points, frame by frame ---------------------------------------------------------------------------------------


def mpjpe(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """Mean per-joint position error: mean |p - g|, nothing aligned."""
    data = _check("mpjpe", pred, target, weight)
    return _answer(data.errors(), data.weight, pred)


def mpvpe(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """Mean per-vertex position error: `mpjpe` of the vertices."""
    data = _check("mpvpe", pred, target, weight)
    return _answer(data.errors(), data.weight, pred)


def c_mpjpe(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """MPJPE in the camera's frame (Hand3R): `mpjpe` of joints that are in each frame's camera, metric."""
    data = _check("c_mpjpe", pred, target, weight)
    return _answer(data.errors(), data.weight, pred)


def ra_mpjpe(pred: Points, target: Points, weight: Weight | None = None, *, root: int = 0) -> Scalar:
    """Root-aligned MPJPE: in each frame both sides are moved so that joint `root` lies at the origin."""
    data = _check("ra_mpjpe", pred, target, weight)
    return _answer(data.replaced(_rooted(data, root)).errors(), data.weight, pred)


def ra_mpvpe(
    pred: Points, target: Points, weight: Weight | None = None, *, pred_root: Points, target_root: Points
) -> Scalar:
    """Root-aligned MPVPE: vertices relative to their own (T, 3) wrist, since no vertex is the wrist."""
    for name, root in (("pred_root", pred_root), ("target_root", target_root)):
        if pred.ndim == 3 and root.shape != (len(pred), 3):
            raise ValueError(
                f"ra_mpvpe: {name} is {tuple(root.shape)}; the wrist of each frame ({len(pred)}, 3) is due"
            )
    data = _check("ra_mpvpe", pred - pred_root[:, None], target - target_root[:, None], weight)
    return _answer(data.errors(), data.weight, pred)


def pa_mpjpe(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """Procrustes-aligned MPJPE: a similarity of its own for each frame (no reflection), then the mean distance."""
    data = _check("pa_mpjpe", pred, target, weight)
    return _answer(data.replaced(_aligned(data, segment_frames=1)).errors(), data.weight, pred)


def pa_mpvpe(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """Procrustes-aligned MPVPE: `pa_mpjpe` of the vertices, aligned on the vertices."""
    data = _check("pa_mpvpe", pred, target, weight)
    return _answer(data.replaced(_aligned(data, segment_frames=1)).errors(), data.weight, pred)


# --- points, after one alignment of a sequence or segment ---------------------------------------------------------


def ga_mpjpe(pred: Points, target: Points, weight: Weight | None = None, *, scale: bool = True) -> Scalar:
    """Globally aligned MPJPE (HaPTIC): one similarity over all points of all frames; `scale=False`: rigid."""
    data = _check("ga_mpjpe", pred, target, weight)
    return _answer(data.replaced(_aligned(data, scale=scale)).errors(), data.weight, pred)


def fa_mpjpe(
    pred: Points, target: Points, weight: Weight | None = None, *, first_frames: int = 1, scale: bool = True
) -> Scalar:
    """First-frame aligned MPJPE (HaPTIC): aligned on the first frame(s) that count, then applied to all.

    The paper's words say one frame, the code of its lineage (SLAHMR, egorecon) says two: state which.
    """
    data = _check("fa_mpjpe", pred, target, weight)
    moved = _aligned(data, first_frames=first_frames, scale=scale)
    return _answer(data.replaced(moved).errors(), data.weight, pred)


def w_mpjpe(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    segment_frames: int = 100,
    first_frames: int = 2,
    scale: bool = True,
) -> Scalar:
    """World MPJPE (SLAHMR, HaWoR, Hand3R): per segment, aligned on its first two frames that count.

    Segments are 30 or 100 frames long by protocol; the last one is what is left. Input in the world's frame.
    """
    data = _check("w_mpjpe", pred, target, weight)
    moved = _aligned(data, segment_frames=segment_frames, first_frames=first_frames, scale=scale)
    return _answer(data.replaced(moved).errors(), data.weight, pred)


def wa_mpjpe(
    pred: Points, target: Points, weight: Weight | None = None, *, segment_frames: int = 100, scale: bool = True
) -> Scalar:
    """World-aligned MPJPE (SLAHMR, HaWoR, Hand3R): per segment, one similarity over all its points."""
    data = _check("wa_mpjpe", pred, target, weight)
    moved = _aligned(data, segment_frames=segment_frames, scale=scale)
    return _answer(data.replaced(moved).errors(), data.weight, pred)


def g_mpjpe(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    segment_frames: int = 128,
    first_frames: int = 2,
    scale: bool = True,
) -> Scalar:
    """Global MPJPE (Dyn-HaMR): `w_mpjpe` in segments of 128 frames. Its "GA-MPJPE" is `wa_mpjpe` with 128."""
    data = _check("g_mpjpe", pred, target, weight)
    moved = _aligned(data, segment_frames=segment_frames, first_frames=first_frames, scale=scale)
    return _answer(data.replaced(moved).errors(), data.weight, pred)


def rte(pred: Points, target: Points, weight: Weight | None = None, *, scale: bool = False) -> Scalar:
    """Root trajectory error in percent (Dyn-HaMR, HaWoR) of (T, 3) wrists in the world.

    100 * mean_t |R p_t + t - g_t| / length of the true path, aligned rigidly on all frames. The path runs straight
    over frames that do not count.
    """
    if pred.ndim != 2 or pred.shape != target.shape:
        raise ValueError(
            f"rte: prediction is {_words(pred)} and truth {_words(target)}; both must be frames x 3 wrists"
        )
    data = _check("rte", pred[:, None], target[:, None], weight)
    path = target[data.counted_frames].double().diff(dim=0).norm(dim=-1).sum()
    if path <= 0:
        raise ValueError("rte: the true wrist does not move in the frames that count, so no share of its path exists")
    moved = _aligned(data, scale=scale, min_points=2)
    return _answer(100 * data.replaced(moved).errors() / path, data.weight, pred)


# --- motion -------------------------------------------------------------------------------------------------------


def acc_norm(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    reading: Literal["difference_of_norms", "norm_of_difference"] = "difference_of_norms",
    over_joints: Literal["l2", "mean"] = "l2",
    fps: float | None = None,
) -> Scalar:
    """ACC-NORM (HaPTIC), which the paper leaves open, per frame squared unless `fps` is given.

    With a second differences: d_tj = | |a_pred| - |a_gt| | or |a_pred - a_gt|, then the mean over time of
    sqrt(sum_j d_tj^2) ("l2": sqrt(J) times the RMS of the joints that count) or of mean_j d_tj. The defaults are the
    code of its lineage (egorecon); HaPTIC's unused loss has both readings; ARCTIC's is "norm_of_difference", "mean".
    """
    if reading not in ("difference_of_norms", "norm_of_difference") or over_joints not in ("l2", "mean"):
        raise ValueError(
            f"acc_norm: reading is {reading!r} and over_joints {over_joints!r}; they must be difference_of_norms or "
            "norm_of_difference, and l2 or mean"
        )
    data = _check("acc_norm", pred, target, weight)
    acc_pred, acc_target = _differences(data.pred, 2, fps), _differences(data.target, 2, fps)
    known = _known_windows(data, frames=3)
    if reading == "norm_of_difference":
        gap = (acc_pred - acc_target).norm(dim=-1)
    else:
        gap = (acc_pred.norm(dim=-1) - acc_target.norm(dim=-1)).abs()
    if over_joints == "mean":
        return _answer(gap, known, pred)
    frame_weight = known.sum(dim=-1)
    mean_square = (known * gap.square()).sum(dim=-1) / frame_weight.clamp(min=1e-300)
    return _answer((gap.shape[-1] * mean_square).sqrt(), frame_weight, pred)


def acc_error(pred: Points, target: Points, weight: Weight | None = None, *, fps: float | None = None) -> Scalar:
    """Acceleration error: mean |a_pred - a_gt|, a_t = x_{t-1} - 2 x_t + x_{t+1}.

    Without `fps`, per frame squared (Dyn-HaMR's "mm/s^2" is mm per frame squared); with it, per second squared.
    """
    data = _check("acc_error", pred, target, weight)
    gap = (_differences(data.pred, 2, fps) - _differences(data.target, 2, fps)).norm(dim=-1)
    return _answer(gap, _known_windows(data, frames=3), pred)


def jerk(pred: Points, weight: Weight | None = None, *, fps: float | None = None) -> Scalar:
    """Jerk of the prediction: mean |third difference|, per frame cubed, or per second cubed if `fps` is given.

    Input in the world's frame. Dyn-HaMR's table is in 10 m/s^3: metres, `fps`, and divide by 10.
    """
    data = _check("jerk", pred, pred, weight)
    return _answer(_differences(data.pred, 3, fps).norm(dim=-1), _known_windows(data, frames=4), pred)


# --- shares -------------------------------------------------------------------------------------------------------


def pck(pred: Points, target: Points, weight: Weight | None = None, *, threshold: float) -> Scalar:
    """Share of correct keypoints: those within `threshold`, the bound included. 2D or 3D, input's unit."""
    _refuse_non_positive("pck", threshold=threshold)
    data = _check("pck", pred, target, weight, axes=2 if pred.shape[-1:] == (2,) else 3)
    return _answer((data.errors() <= threshold).double(), data.weight, pred)


def pck_auc(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    max_threshold: float,
    steps: int = 100,
    min_threshold: float = 0.0,
) -> Scalar:
    """Area under the PCK curve, as a share, by the trapezoid rule on evenly spaced thresholds (FreiHAND, DexYCB).

    0 to 50 mm in 100 steps there, 101 in HOT3D's challenge. Nothing is aligned: hand in `align_frames(...)` for the
    Procrustes-aligned AUC of the DexYCB tables.
    """
    if not 0 <= min_threshold < max_threshold or steps < 2:
        raise ValueError(
            f"pck_auc: thresholds {min_threshold} to {max_threshold} in {steps} steps; the first must be at least "
            "zero, the last above it, and there must be two or more"
        )
    data = _check("pck_auc", pred, target, weight, axes=2 if pred.shape[-1:] == (2,) else 3)
    error, order = data.errors()[data.weight > 0].sort()
    passed = torch.cat([error.new_zeros(1), data.weight[data.weight > 0][order].cumsum(dim=0)])
    thresholds = torch.linspace(min_threshold, max_threshold, steps, dtype=torch.float64, device=error.device)
    curve = passed[torch.searchsorted(error, thresholds, right=True)] / passed[-1]
    area = torch.trapezoid(curve, thresholds) / (max_threshold - min_threshold)
    return area.to(pred.dtype)


def f_score(pred: Points, target: Points, weight: Weight | None = None, *, threshold: float) -> Scalar:
    """F-score of two vertex sets (FreiHAND, HO3D): F@5 and F@15 are thresholds of 5 and 15 mm.

    Per frame, precision is the share of predicted points nearer than `threshold` to any true one, recall the reverse,
    F = 2 P R / (P + R); then the mean over frames. The sets may differ in size; `weight` is per frame.
    """
    _refuse_non_positive("f_score", threshold=threshold)
    frame_weight = _check_meshes("f_score", pred, target, weight)
    counted = frame_weight > 0
    scores = []
    for one, other in zip(pred[counted].split(64), target[counted].split(64), strict=True):
        distance = torch.cdist(one.double(), other.double(), compute_mode="donot_use_mm_for_euclid_dist")
        precision = (distance.amin(dim=2) < threshold).double().mean(dim=1)
        recall = (distance.amin(dim=1) < threshold).double().mean(dim=1)
        scores.append(2 * precision * recall / (precision + recall).clamp(min=1e-300))
    return _answer(torch.cat(scores), frame_weight[counted], pred)


def hint_pck(
    pred: Points,
    target: Points,
    weight: Weight,
    *,
    box_side_px: Float[Tensor, " N"],
    alpha: float = 0.05,
    min_confidence: float = 0.5,
) -> Scalar:
    """HInt's PCK (HaMeR) of 2D joints (N, 21, 2): correct within `alpha` times the annotated box's longer side.

    `weight` is the annotation's confidence: a joint counts above `min_confidence`. Correct over counted for each of
    the joints, then their plain mean; a joint that never counts has no share and is left out. A fraction.
    """
    _refuse_non_positive("hint_pck", alpha=alpha)
    data = _check("hint_pck", pred, target, weight, axes=2)
    if box_side_px.shape != (len(pred),) or not bool((box_side_px[data.counted_frames] > 0).all()):
        raise ValueError(f"hint_pck: box_side_px must be {len(pred)} positive pixels, one per hand")
    counts = data.weight > min_confidence
    if not bool(counts.any()):
        raise ValueError(f"hint_pck: no joint has a confidence above {min_confidence}, so there is nothing to score")
    correct = counts & (data.errors() <= alpha * box_side_px.double()[:, None])
    per_joint = correct.sum(dim=0) / counts.sum(dim=0).clamp(min=1)
    return _answer(per_joint, counts.any(dim=0).double(), pred)


def epe_2d(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """2D end-point error: mean distance of joints (T, J, 2) in the image, in pixels of the full image."""
    data = _check("epe_2d", pred, target, weight, axes=2)
    return _answer(data.errors(), data.weight, pred)


# --- two hands ----------------------------------------------------------------------------------------------------


def mrrpe(pred: Points, target: Points, weight: Weight | None = None) -> Scalar:
    """Mean relative-root position error (InterHand2.6M, ARCTIC) of (T, 2, 3) wrists, one hand and the other.

    Mean |(p_left - p_right) - (g_left - g_right)| over the frames in which both count.
    """
    data = _check("mrrpe", pred, target, weight)
    if pred.shape[1] != 2:
        raise ValueError(f"mrrpe: two wrists per frame, (T, 2, 3), are due; got {tuple(pred.shape)}")
    both = data.weight.amin(dim=1)
    if not bool((both > 0).any()):
        raise ValueError(f"mrrpe: in none of {len(both)} frames both hands count, so no relation can be scored")
    gap = (data.pred.diff(dim=1) - data.target.diff(dim=1)).norm(dim=-1)
    return _answer(gap[:, 0], both, pred)


def penetration_volume(
    verts_a: Points,
    verts_b: Points,
    weight: Weight | None = None,
    *,
    faces_a: Int[Tensor, "F_a 3"],
    faces_b: Int[Tensor, "F_b 3"],
    cell: float | None = None,
) -> Scalar:
    """Mean volume inside both meshes, in the cube of the input's unit (metres: times 1e6 for cm^3).

    Hands (T, V, 3) may be open at the wrist: holes are closed first. `cell` is the width of the columns over which
    the volume is summed (None: a hundredth of the first hand's length, which is good to 0.2 %); along a column the
    sum is exact.
    """
    frame_weight = _check_meshes("penetration_volume", verts_a, verts_b, weight)
    counted = frame_weight > 0
    if cell is None:
        first = verts_a[counted][0]
        cell = float((first.amax(dim=0) - first.amin(dim=0)).amax()) / 100
    _refuse_non_positive("penetration_volume", cell=cell)
    closed_a, closed_b = close_holes(faces_a.cpu().numpy()), close_holes(faces_b.cpu().numpy())
    volumes = [
        intersection_volume(one.numpy(), closed_a, other.numpy(), closed_b, cell=cell)
        for one, other in zip(verts_a[counted].detach().cpu(), verts_b[counted].detach().cpu(), strict=True)
    ]
    return _answer(frame_weight.new_tensor(volumes), frame_weight[counted], verts_a)


# --- missing hands ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MissingRule:
    """What becomes of frames that truth has and the prediction lacks. Part of a protocol; state it with the number.

    `skip`      they do not count; the frames around them stay one sequence, aligned as one.
    `split`     they end a run: each run of at least `min_run_frames` frames is a sequence of its own, shorter ones are
                left out, and the answer is the mean over runs, weighted by their frames (HaWoR: 16).
    `penalise`  the fallback, usually the mean pose, stands in for them and is scored like a prediction.
    """

    kind: Literal["skip", "split", "penalise"] = "skip"
    min_run_frames: int = 4  # the shortest run that has a jerk

    def __post_init__(self) -> None:
        if self.kind not in ("skip", "split", "penalise"):
            raise ValueError(f"MissingRule: kind is {self.kind!r}; it must be skip, split or penalise")
        if self.min_run_frames < 1:
            raise ValueError(f"MissingRule: min_run_frames is {self.min_run_frames}; a run has at least one frame")


def score(
    metric: Callable[..., Scalar],
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    predicted: Bool[Tensor, " T"],
    rule: MissingRule,
    fallback: Points | None = None,
    **options: Any,
) -> Scalar:
    """Return `metric(pred, target, weight, **options)` with the frames that are not `predicted` under `rule`.

    `weight` says what truth knows; `fallback` (like pred, or one frame of it) is what `penalise` puts in.
    """
    if rule.kind == "penalise":
        return metric(fill_missing(pred, predicted, fallback), target, weight, **options)
    known = predicted.double() if weight is None else weight.double()
    if predicted.ndim != 1 or not len(pred) == len(predicted) == len(known):
        raise ValueError(f"score: {len(pred)} frames, but predicted is {_words(predicted)} and weight {_words(known)}")
    known = known * predicted.reshape(-1, *[1] * (known.ndim - 1))
    if rule.kind == "skip":
        return metric(pred, target, known, **options)
    frames = known.reshape(len(known), -1).amax(dim=1) > 0
    runs = [run for run in _runs(frames) if run.stop - run.start >= rule.min_run_frames]
    if not runs:
        raise ValueError(
            f"score: {int(frames.sum())} frames count, but no run of them is {rule.min_run_frames} frames long "
            "(min_run_frames), so nothing is left to score"
        )
    values = torch.stack([metric(pred[run], target[run], known[run], **options) for run in runs])
    lengths = values.new_tensor([run.stop - run.start for run in runs])
    return (values * lengths).sum() / lengths.sum()


def fill_missing(pred: Points, predicted: Bool[Tensor, " T"], fallback: Points | None) -> Points:
    """Return the prediction with `fallback` (like pred, or one frame of it) in the frames without a prediction."""
    if fallback is None or fallback.shape not in (pred.shape, pred.shape[1:]):
        came = "none" if fallback is None else tuple(fallback.shape)
        raise ValueError(f"fill_missing: fallback is {came}; {tuple(pred.shape)} or one frame of it is due")
    if predicted.shape != pred.shape[:1]:
        raise ValueError(f"fill_missing: predicted is {tuple(predicted.shape)}; one per frame, ({len(pred)},), is due")
    return torch.where(predicted.reshape(-1, *[1] * (pred.ndim - 1)), pred, fallback.to(pred))


def coverage(predicted: Bool[Tensor, " T"], weight: Weight | None = None) -> Scalar:
    """Share of the frames known to truth that have a prediction. Belongs beside every number scored by `skip`."""
    known = torch.ones_like(predicted) if weight is None else weight.reshape(len(weight), -1).amax(dim=1)
    if known.shape != predicted.shape:
        raise ValueError(f"coverage: weight is of {len(known)} frames and predicted of {len(predicted)}")
    return predicted[_counted("coverage", known.double())].float().mean()


def coverage_mpjpe(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    predicted: Bool[Tensor, " T"],
    mean_pose: Float[Tensor, "P 3"],
    root: int = 0,
) -> Scalar:
    """MPJPE-p: root-aligned MPJPE over all frames known to truth; a missed hand costs the mean pose (MINT, ViDiHand).

    The protocol's code is not public: root alignment, and the mean pose as it stands (no rotation), are our reading.
    """
    return ra_mpjpe(fill_missing(pred, predicted, mean_pose), target, weight, root=root)


def coverage_pa_mpjpe(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    predicted: Bool[Tensor, " T"],
    mean_pose: Float[Tensor, "P 3"],
) -> Scalar:
    """PA-p: Procrustes-aligned MPJPE over all frames known to truth; a missed hand costs the mean pose."""
    return pa_mpjpe(fill_missing(pred, predicted, mean_pose), target, weight)


# --- the same, frame by frame: for plots and tables of frames -----------------------------------------------------


def frame_errors(pred: Points, target: Points, weight: Weight | None = None) -> Float[Tensor, " T"]:
    """Return each frame's mean distance, NaN where nothing counts. For aligned errors hand in an `align_...`."""
    data = _check("frame_errors", pred, target, weight, axes=2 if pred.shape[-1:] == (2,) else 3)
    total = data.weight.sum(dim=1)
    return ((data.errors() * data.weight).sum(dim=1) / total).to(pred.dtype)


def frame_acc_errors(
    pred: Points, target: Points, weight: Weight | None = None, *, fps: float | None = None
) -> Float[Tensor, " T"]:
    """Return each frame's acceleration error (`acc_error`), NaN at both ends and beside frames that do not count."""
    data = _check("frame_acc_errors", pred, target, weight)
    gap = (_differences(data.pred, 2, fps) - _differences(data.target, 2, fps)).norm(dim=-1)
    known = _known_windows(data, frames=3)
    inner = (gap * known).sum(dim=1) / known.sum(dim=1)
    ends = inner.new_full((1,), torch.nan)
    return torch.cat([ends, inner, ends]).to(pred.dtype)


def align_frames(pred: Points, target: Points, weight: Weight | None = None) -> Points:
    """Return the prediction with each frame brought to the truth by a similarity of its own."""
    data = _check("align_frames", pred, target, weight)
    return _shown(data, _aligned(data, segment_frames=1), like=pred)


def align_root(pred: Points, target: Points, weight: Weight | None = None, *, root: int = 0) -> Points:
    """Return the prediction with joint `root` of each frame moved onto the truth's."""
    data = _check("align_root", pred, target, weight)
    return _shown(data, _rooted(data, root), like=pred)


def align_sequence(
    pred: Points,
    target: Points,
    weight: Weight | None = None,
    *,
    segment_frames: int | None = None,
    first_frames: int | None = None,
    scale: bool = True,
) -> Points:
    """Return the prediction with each segment (None: the whole) aligned on its first frames that count (None: all)."""
    data = _check("align_sequence", pred, target, weight)
    moved = _aligned(data, segment_frames=segment_frames, first_frames=first_frames, scale=scale)
    return _shown(data, moved, like=pred)


# --- checks and parts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """What a metric works on: double precision, zeros where nothing counts, a weight for every point."""

    where: str
    pred: Float[Tensor, "T P D"]
    target: Float[Tensor, "T P D"]
    weight: Float[Tensor, "T P"]

    @property
    def counted_frames(self) -> Bool[Tensor, " T"]:
        return (self.weight > 0).any(dim=1)

    def errors(self) -> Float[Tensor, "T P"]:
        return (self.pred - self.target).norm(dim=-1)

    def replaced(self, pred: Float[Tensor, "T P D"]) -> "_Scored":
        return replace(self, pred=pred)


def _check(where: str, pred: Tensor, target: Tensor, weight: Tensor | None, *, axes: int = 3) -> _Scored:
    if pred.shape != target.shape or pred.ndim != 3 or pred.shape[-1] != axes:
        raise ValueError(
            f"{where}: prediction is {_words(pred)} and truth {_words(target)}; both must be frames x points x {axes}, "
            "with the same frames and points"
        )
    if weight is None:
        known = pred.new_ones(pred.shape[:2], dtype=torch.float64)
    elif weight.shape in (pred.shape[:1], pred.shape[:2]):
        known = weight.double().reshape(len(pred), -1).expand(pred.shape[:2])
    else:
        raise ValueError(f"{where}: weight is {_words(weight)}; one per frame or per point of {_words(pred)} is due")
    counts = _counted(where, known)
    for name, points in (("prediction", pred), ("truth", target)):
        _refuse_unreadable(where, name, points, counts)
    if bool(counts.all()):
        return _Scored(where, pred.double(), target.double(), known)
    counted_pred, counted_target = (torch.where(counts[..., None], points.double(), 0.0) for points in (pred, target))
    return _Scored(where, counted_pred, counted_target, known)


def _check_meshes(where: str, first: Tensor, second: Tensor, weight: Tensor | None) -> Float[Tensor, " T"]:
    """Return the weight of each frame of two vertex sets that may differ in size."""
    if first.ndim != 3 or second.ndim != 3 or len(first) != len(second) or not first.shape[-1] == second.shape[-1] == 3:
        raise ValueError(
            f"{where}: got vertices {_words(first)} and {_words(second)}; both must be frames x vertices x 3, "
            "with the same frames"
        )
    known = first.new_ones(len(first), dtype=torch.float64) if weight is None else weight.double()
    if known.shape != first.shape[:1]:
        raise ValueError(f"{where}: weight is {_words(known)}; one per frame, {len(first)}, is due")
    counts = _counted(where, known)
    for name, verts in (("first", first), ("second", second)):
        _refuse_unreadable(where, f"the {name} mesh", verts, counts[:, None].expand(verts.shape[:2]))
    return known


def _counted(where: str, weight: Tensor) -> Tensor:
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        raise ValueError(f"{where}: weight has NaN, infinite or negative values; zero says that nothing is known")
    counts = weight > 0
    if not bool(counts.any()):
        raise ValueError(f"{where}: none of {len(weight)} frames counts (every weight is zero): nothing to score")
    return counts


def _refuse_unreadable(where: str, name: str, points: Tensor, counts: Tensor) -> None:
    bad = counts & ~torch.isfinite(points).all(dim=-1)
    if bool(bad.any()):
        frame, point = (int(index) for index in bad.nonzero()[0])
        raise ValueError(
            f"{where}: {name} has NaN or infinity in frame {frame}, point {point} (in {int(bad.any(dim=1).sum())} "
            "frames in all), where the weight is above zero; give unknown frames weight zero, or use `score`"
        )


def _refuse_non_positive(where: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{where}: {name} is {number}; it must be above zero, in the unit of the input")


def _rooted(data: _Scored, root: int) -> Tensor:
    """Return the prediction moved so that its root lies on the truth's."""
    num_points = data.pred.shape[1]
    if not 0 <= root < num_points:
        raise ValueError(f"{data.where}: root is {root}; it must be one of the points 0 to {num_points - 1}")
    orphans = data.counted_frames & (data.weight[:, root] == 0)
    if bool(orphans.any()):
        raise ValueError(
            f"{data.where}: in frame {int(orphans.nonzero()[0])} joints count but their root, joint {root}, does not; "
            "give such frames weight zero or choose another root"
        )
    return data.pred - data.pred[:, root, None] + data.target[:, root, None]


def _aligned(
    data: _Scored,
    *,
    segment_frames: int | None = None,
    first_frames: int | None = None,
    scale: bool = True,
    min_points: int = MIN_ALIGNED_POINTS,
) -> Tensor:
    """Return the prediction with each segment brought to the truth by the best transform of its first frames."""
    num_frames, num_points = data.weight.shape
    length = num_frames if segment_frames is None else min(segment_frames, num_frames)
    if length < 1 or (first_frames is not None and first_frames < 1):
        raise ValueError(
            f"{data.where}: segments of {segment_frames} frames aligned on the first {first_frames}; "
            "both must be at least 1"
        )
    pred, target, weight = (_cut(values, length) for values in (data.pred, data.target, data.weight))
    if first_frames is not None:
        counts = (weight > 0).any(dim=2)
        weight = weight * (counts & (counts.cumsum(dim=1) <= first_frames))[..., None]
    pred, target, weight = (values.flatten(1, 2) for values in (pred, target, weight))
    _refuse_unalignable(data.where, target, weight, length, min_points)
    align = align_similarity if scale else align_rigid
    block = max(1, CACHED_POINTS // pred.shape[1])
    parts = zip(pred.split(block), target.split(block), weight.split(block), strict=True)
    moved = torch.cat([align(ours, theirs, known).apply(ours) for ours, theirs, known in parts])
    return moved.reshape(-1, num_points, 3)[:num_frames]


def _cut(values: Tensor, segment_frames: int) -> Tensor:
    """Return S segments x frames x ...; the last is filled up with frames of zeros, which do not count."""
    pad = -len(values) % segment_frames
    filled = torch.cat([values, values.new_zeros(pad, *values.shape[1:])]) if pad else values
    return filled.unflatten(0, (-1, segment_frames))


def _refuse_unalignable(where: str, target: Tensor, weight: Tensor, segment_frames: int, min_points: int) -> None:
    """A truth written as zeros, or two points, would be met exactly: an error of zero that means nothing."""
    num_counted = (weight > 0).sum(dim=1)
    few = (num_counted > 0) & (num_counted < min_points)
    uncounted = (weight == 0)[..., None]
    high = target.masked_fill(uncounted, -torch.inf).amax(dim=1)
    low = target.masked_fill(uncounted, torch.inf).amin(dim=1)
    heap = (num_counted > 0) & ((high - low).amax(dim=1) <= 1e-9 * torch.maximum(high.abs(), low.abs()).amax(dim=1))
    for bad, why in ((few, f"fewer than {min_points} points count"), (heap, "all points of the truth coincide")):
        if bool(bad.any()):
            first = int(bad.nonzero()[0]) * segment_frames
            raise ValueError(
                f"{where}: in what is aligned from frame {first} on, {why}, so no alignment exists; "
                "give frames without truth weight zero"
            )


def _differences(points: Tensor, order: int, fps: float | None) -> Tensor:
    if fps is not None and not fps > 0:
        raise ValueError(f"frame rate: fps is {fps}; it must be above zero, or None for differences per frame")
    return points.diff(n=order, dim=0) * (1.0 if fps is None else fps**order)


def _known_windows(data: _Scored, *, frames: int) -> Tensor:
    """Return the least weight of each joint over `frames` consecutive frames."""
    if len(data.weight) >= frames:
        known = data.weight.unfold(0, frames, 1).amin(dim=-1)
        if bool((known > 0).any()):
            return known
    raise ValueError(f"{data.where}: no {frames} consecutive frames count, so there is no such difference to score")


def _answer(value: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """Return the weighted mean in the input's type. Callers have made sure that something counts."""
    return ((value * weight).sum() / weight.sum()).to(like.dtype)


def _shown(data: _Scored, moved: Tensor, *, like: Tensor) -> Tensor:
    """Return moved points in the input's type; NaN where nothing counts, since nothing was read there."""
    return torch.where((data.weight > 0)[..., None], moved, torch.nan).to(like.dtype)


def _runs(frames: Tensor) -> list[slice]:
    """Return the stretches of consecutive true frames."""
    edges = torch.cat([frames.new_zeros(1), frames, frames.new_zeros(1)]).int().diff()
    starts, stops = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _words(points: Tensor) -> str:
    return " x ".join(str(size) for size in points.shape) or "one number"
