"""How good a trajectory is without knowing the truth, and what refinement did to it."""

import copy
from dataclasses import asdict, dataclass

import torch

from haptic.geometry.cameras import project
from haptic.geometry.motion import jerk
from haptic.geometry.transforms import apply_transform
from haptic.hand.anatomy import limit_violation
from haptic.hand.landmarks import LandmarkModel, detector_landmarks
from haptic.hand.model import HandModel, in_runs
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
    trajectory, track = as_right_hand(in_double(trajectory), in_double(track))
    model, landmark_model = copy.deepcopy(model).double(), in_double(landmark_model)
    params, camera = trajectory.params, trajectory.camera
    predicted_img = project(in_runs(lambda run: detector_landmarks(model, run, landmark_model), params), camera.K)
    reprojection = measure_reprojection(model, trajectory, track, predicted_img)
    is_known = reprojection.is_known
    error_px, share = reprojection.error_px[is_known], reprojection.box_share[is_known]
    if not is_known.any():
        error_px, share = torch.zeros(1), torch.zeros(1)
    joints_world = apply_transform(camera.T_world_cam, in_runs(model.joints, params))
    jerk_m_s3 = jerk(joints_world, trajectory.time_s).norm(dim=-1) if len(track.time_s) > 3 else torch.zeros(1)
    excess_deg = torch.rad2deg(in_runs(lambda run: limit_violation(run.hand_pose), params))
    return Quality(
        reprojection_px=float(error_px.median()),
        reprojection_box=float(share.median()),
        within_tenth_share=float((share <= NEAR_SHARE).double().mean()) if is_known.any() else 0.0,
        jerk_m_s3=float(jerk_m_s3.mean()),
        limit_excess_deg=float(excess_deg.mean()),
        limit_excess_share=float((excess_deg >= NOTABLE_EXCESS_DEG).double().mean()),
    )
