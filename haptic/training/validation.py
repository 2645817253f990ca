"""Validation while training: whole tracks through the network, scored by the benchmark's own metrics."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from haptic.data.batches import ClipBatch
from haptic.geometry.lift import chain_depth, lift_at_depth
from haptic.hand.model import HandModel
from haptic.metrics import acc_norm, fa_mpjpe, ga_mpjpe, pa_mpjpe, ra_mpjpe
from haptic.records import HandPrediction, Record, RecordT
from haptic.training.objective import joints_in_crop, params_at, single_precision

MM = 1000.0
MIN_JOINTS = 3  # that a frame or track needs to be aligned
MIN_FRAMES_OF_MOTION = 3


@dataclass(frozen=True)
class ScoredWindow(Record):
    """One validation window with its answer, without pixels; small enough to be sent to the first process."""

    prediction: HandPrediction
    labels: "WindowLabels"


@dataclass(frozen=True)
class WindowLabels(Record):
    """What a window's answer is compared with, and what it is lifted by."""

    frame_index: Int[Tensor, "B T"]
    joints_cam: Float[Tensor, "B T 21 3"]
    joints_weight: Float[Tensor, "B T 21"]
    place_weight: Float[Tensor, "B T"]
    joints_crop: Float[Tensor, "B T 21 2"]
    joints_img_weight: Float[Tensor, "B T 21"]
    box_center_img: Float[Tensor, "B T 2"]
    box_side_px: Float[Tensor, "B T"]
    camera_weight: Float[Tensor, "B T"]
    K: Float[Tensor, "B T 3 3"]


@dataclass(frozen=True)
class TrackScore:
    """The errors of one track, in mm; NaN where its labels do not tell. ACC-NORM is in mm per frame squared.

    The 2D error is in percent of the square that the network sees; `num_frames_img` frames have it, the others'
    `num_frames`.
    """

    ga_mpjpe_mm: float
    fa_mpjpe_mm: float
    pa_mpjpe_mm: float
    ra_mpjpe_mm: float
    acc_norm_mm: float
    num_frames: int
    img_error_percent: float = math.nan
    num_frames_img: int = 0


IMG_ERROR = "img_error_percent"
BEST_BY = "ga_mpjpe_mm"
SCORE_NAMES = tuple(one.name for one in fields(TrackScore) if not one.name.startswith("num_frames"))


def best_value(scores: Mapping[str, float]) -> float:
    """Return what checkpoints are compared by: GA-MPJPE, or the 2D error where no places are known; NaN for neither."""
    return next((scores[name] for name in (BEST_BY, IMG_ERROR) if not math.isnan(scores.get(name, math.nan))), math.nan)


def scored_windows(prediction: HandPrediction, batch: ClipBatch) -> list[tuple[str, ScoredWindow]]:
    """Return each window of a batch by its track's key, on the CPU."""
    prediction = single_precision(prediction)
    labels = WindowLabels(
        frame_index=batch.frame_index,
        joints_cam=batch.targets.joints_cam,
        joints_weight=batch.targets.joints_cam_weight,
        place_weight=batch.place_weight * batch.camera_weight,
        joints_crop=batch.joints_crop,
        joints_img_weight=batch.targets.joints_img_weight,
        box_center_img=batch.box_center_img,
        box_side_px=batch.box_side_px,
        camera_weight=batch.camera_weight,
        K=batch.camera.K,
    )
    return [
        (key, ScoredWindow(prediction[number : number + 1], labels[number : number + 1]).to("cpu"))
        for number, key in enumerate(batch.keys)
    ]


def gather_windows(windows: list[tuple[str, ScoredWindow]]) -> list[tuple[str, ScoredWindow]]:
    """Return the windows of all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return windows
    parts: list[list[tuple[str, ScoredWindow]]] = [[] for _process in range(dist.get_world_size())]
    dist.all_gather_object(parts, windows)
    return [one for part in parts for one in part]


def validation_scores(windows: Iterable[tuple[str, ScoredWindow]], hand_model: HandModel) -> dict[str, float]:
    """Return the means over tracks, weighted by their frames, of the metrics in `TrackScore`.

    Where hands start is not validated: each track is lifted from the true depth of its first wrist, and the network
    tells the changes from there.
    """
    tracks: dict[str, list[ScoredWindow]] = defaultdict(list)
    for key, window in windows:
        tracks[key].append(window)
    scores = [_score_windows(tracks[key], hand_model) for key in sorted(tracks)]
    means: dict[str, float] = {}
    for name in SCORE_NAMES:
        frames = "num_frames_img" if name == IMG_ERROR else "num_frames"
        told = [(getattr(one, name), getattr(one, frames)) for one in scores if not math.isnan(getattr(one, name))]
        means[name] = sum(value * frames for value, frames in told) / sum(f for _, f in told) if told else math.nan
    return means


def join_track(
    windows: list[ScoredWindow], hand_model: HandModel
) -> tuple[Float[Tensor, "T 21 3"], Float[Tensor, "T 21 3"], Float[Tensor, "T 21"], Float[Tensor, " T"]]:
    """Return predicted and true joints of a track in its camera, the joints' weights, and whether places are known."""
    prediction, labels, relative = _join_windows(windows)
    is_placed = labels.place_weight[0, 0] > 0
    rest_wrist_depth = hand_model.rest_joints(prediction.betas[0, :1])[0, 0, 2]
    start = torch.where(is_placed, labels.joints_cam[0, 0, 0, 2] - rest_wrist_depth, torch.ones_like(relative[0]))
    transl = lift_at_depth(prediction.shift_crop[0], labels.box_center_img[0], start + relative, labels.K[0])
    joints = hand_model.joints(params_at(prediction, transl[None]))[0]
    return joints, labels.joints_cam[0], labels.joints_weight[0], labels.place_weight[0]


def _score_windows(windows: list[ScoredWindow], hand_model: HandModel) -> TrackScore:
    score = score_track(*join_track(windows, hand_model))
    prediction, labels, _relative = _join_windows(windows)
    joints = hand_model.joints(params_at(prediction, torch.zeros_like(prediction.betas[..., :3])))
    joints_crop = joints_in_crop(joints, prediction, labels)
    weight = labels.joints_img_weight
    if not bool((weight > 0).any()):
        return score
    off = (joints_crop - torch.where(weight[..., None] > 0, labels.joints_crop, joints_crop)).norm(dim=-1)
    return replace(
        score,
        img_error_percent=100 * float((weight * off).sum() / weight.sum()),
        num_frames_img=int((weight.sum(-1) > 0).sum()),
    )


def _join_windows(windows: list[ScoredWindow]) -> tuple[HandPrediction, WindowLabels, Float[Tensor, " T"]]:
    """Return a track's answers and labels, every frame once, and the chained depth about its first frame."""
    windows = sorted(windows, key=lambda one: int(one.labels.frame_index[0, 0]))
    first = int(windows[0].labels.frame_index[0, 0])
    frames = [(one.labels.frame_index[0] - first).tolist() for one in windows]
    keep: list[list[int]] = []
    settled: set[int] = set()
    for own in frames:
        keep.append([place for place, frame in enumerate(own) if frame not in settled])
        settled.update(own)
    # Windows are in order and overlap, so that what they keep is every frame once, in order.
    relative = chain_depth(frames, keep, [one.prediction.depth[0] for one in windows])
    prediction = _kept([one.prediction for one in windows], keep)
    labels = _kept([one.labels for one in windows], keep)
    return prediction, labels, relative


def score_track(
    joints: Float[Tensor, "T 21 3"],
    target: Float[Tensor, "T 21 3"],
    joints_weight: Float[Tensor, "T 21"],
    place_weight: Float[Tensor, " T"],
) -> TrackScore:
    """Return the errors of one track; what its labels do not tell is NaN."""
    # A frame with too few joints cannot be aligned, one without its wrist has no root.
    whole = (joints_weight > 0).sum(-1) >= MIN_JOINTS
    formed = joints_weight * whole[:, None]
    rooted = formed * (joints_weight[:, :1] > 0)
    placed = formed * (place_weight[:, None] > 0)
    frames_known, frames_placed = (int((one.sum(-1) > 0).sum()) for one in (formed, placed))
    moves = frames_placed >= MIN_FRAMES_OF_MOTION and bool(_has_motion(placed))
    return TrackScore(
        ga_mpjpe_mm=MM * float(ga_mpjpe(joints, target, placed)) if frames_placed else math.nan,
        fa_mpjpe_mm=MM * float(fa_mpjpe(joints, target, placed)) if frames_placed else math.nan,
        pa_mpjpe_mm=MM * float(pa_mpjpe(joints, target, formed)) if frames_known else math.nan,
        ra_mpjpe_mm=MM * float(ra_mpjpe(joints, target, rooted)) if bool((rooted > 0).any()) else math.nan,
        acc_norm_mm=MM * float(acc_norm(joints, target, placed)) if moves else math.nan,
        num_frames=frames_known,
    )


def _has_motion(weight: Float[Tensor, "T 21"]) -> bool:
    known = weight > 0
    return bool((known[2:] & known[1:-1] & known[:-2]).any())


def _kept(records: Sequence[RecordT], keep: Sequence[Sequence[int]]) -> RecordT:
    """Return the kept places of each window's record (1, T, ...), one after the other."""
    joined = {
        one.name: torch.cat(
            [getattr(record, one.name)[:, list(kept)] for record, kept in zip(records, keep, strict=True)], dim=1
        )
        for one in fields(records[0])
    }
    return replace(records[0], **joined)
