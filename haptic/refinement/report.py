"""How good a trajectory is without knowing the truth, and what refinement did to it."""

import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from haptic.geometry.cameras import project
from haptic.geometry.motion import jerk
from haptic.geometry.transforms import apply_transform
from haptic.hand.anatomy import limit_violation
from haptic.hand.landmarks import LandmarkModel, detector_landmarks
from haptic.hand.model import RUN_FRAMES, HandModel
from haptic.hand.reprojection import NEAR_SHARE, measure_reprojection
from haptic.records import HandTrack, Trajectory
from haptic.refinement.observations import as_right_hand, in_double

NOTABLE_EXCESS_DEG = 0.5  # a soft limit that is leant on gives way by less


@dataclass(frozen=True)
class Quality:
    """Reprojection is over the joints that were seen, jerk and limits over all frames; zero where there is nothing."""

    reprojection_px: float  # median
    reprojection_box: float  # median, as a share of the hand's box
    within_tenth_share: float  # share of the joints that lie within a tenth of the box
    jerk_m_s3: float  # mean over joints and frames, in the world
    limit_excess_deg: float  # mean over the angles of the finger joints
    limit_excess_share: float  # share of those angles that are beyond their range by `NOTABLE_EXCESS_DEG` or more


@dataclass(frozen=True)
class StageReport:
    """What one stage did to one track."""

    name: str
    steps: int
    objective_before: float
    objective_after: float


@dataclass(frozen=True)
class RefinementReport:
    """What refinement did to one track."""

    before: Quality
    after: Quality
    stages: tuple[StageReport, ...]
    seconds: float  # for all tracks that were solved together

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def measure_quality(
    model: HandModel,
    trajectory: Trajectory,
    track: HandTrack,
    *,
    landmark_model: LandmarkModel,
) -> Quality:
    """Measure a trajectory against its track, both as the camera saw them; `landmark_model` is the detector's."""
    model, landmark_model = copy.deepcopy(model).double(), in_double(landmark_model)
    runs = [
        _measure_run(model, trajectory, track, landmark_model, start)
        for start in range(0, len(track.time_s), RUN_FRAMES)
    ]
    error_px, share, jerk_m_s3, excess_deg, is_excessive = (torch.cat(parts) for parts in zip(*runs, strict=True))
    near = (share <= NEAR_SHARE).double()
    if not len(error_px):
        error_px, share, near = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    return Quality(
        reprojection_px=float(error_px.median()),
        reprojection_box=float(share.median()),
        within_tenth_share=float(near.mean()),
        jerk_m_s3=float(jerk_m_s3.mean()) if len(jerk_m_s3) else 0.0,
        limit_excess_deg=float(excess_deg.mean()),
        limit_excess_share=float(is_excessive.mean()),
    )


def _measure_run(
    model: HandModel, trajectory: Trajectory, track: HandTrack, landmark_model: LandmarkModel, start: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return errors and shares of the known joints of a run of frames, and of each frame jerk and excess."""
    num_frames = len(track.time_s)
    stop = min(start + RUN_FRAMES, num_frames)
    reach = slice(start, min(stop + 3, num_frames))  # a jerk needs the next three frames
    trajectory, track = as_right_hand(in_double(trajectory[reach]), in_double(track[reach]))
    joints_world = apply_transform(trajectory.camera.T_world_cam, model.joints(trajectory.params))
    jerk_m_s3 = torch.zeros(0, dtype=torch.float64)
    if len(track.time_s) > 3:
        jerk_m_s3 = jerk(joints_world, trajectory.time_s)[: stop - start].norm(dim=-1).mean(-1)
    trajectory, track = trajectory[: stop - start], track[: stop - start]
    predicted_img = project(detector_landmarks(model, trajectory.params, landmark_model), trajectory.camera.K)
    found = measure_reprojection(model, trajectory, track, predicted_img)
    excess_deg = torch.rad2deg(limit_violation(trajectory.params.hand_pose)).flatten(1)
    is_excessive = (excess_deg >= NOTABLE_EXCESS_DEG).double().mean(-1)
    known = found.is_known
    return found.error_px[known], found.box_share[known], jerk_m_s3, excess_deg.mean(-1), is_excessive
