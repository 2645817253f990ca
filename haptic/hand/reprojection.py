"""How far a trajectory's joints, seen through its camera, lie from where the detector saw them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from haptic.geometry.cameras import project
from haptic.hand.model import HandModel, trajectory_joints
from haptic.records import HandTrack, Trajectory

NEAR_SHARE = 0.1  # of the box: the line the project holds itself to


@dataclass(frozen=True)
class Reprojection:
    """Distances in pixels, per joint; `is_known` is False where the detector saw nothing, and the error zero there."""

    error_px: Float[Tensor, "T 21"]
    is_known: Bool[Tensor, "T 21"]
    box_side_px: Float[Tensor, " T"]

    @property
    def box_share(self) -> Float[Tensor, "T 21"]:
        """Errors as a share of the hand's box, the longer side of the detected joints."""
        return self.error_px / self.box_side_px[:, None].clamp(min=1.0)


def trajectory_joints_img(model: HandModel, trajectory: Trajectory) -> Float[Tensor, "T 21 2"]:
    """Return the joints in pixels of the full image."""
    return project(trajectory_joints(model, trajectory), trajectory.camera.K)


def measure_reprojection(
    model: HandModel,
    trajectory: Trajectory,
    track: HandTrack,
    predicted_img: Float[Tensor, "T 21 2"] | None = None,
) -> Reprojection:
    """Compare a trajectory with its track, frame by frame; both must cover the same frames.

    `predicted_img` takes the place of the projected joints where it is known where a detector's landmarks sit on the
    hand, which is not at the model's joints.
    """
    assert torch.equal(trajectory.frame_index, track.frame_index), "a trajectory and its track cover different frames"
    joints_img = trajectory_joints_img(model, trajectory) if predicted_img is None else predicted_img
    is_known = (track.joints_img_weight > 0) & track.observed[:, None]
    error_px = (joints_img - track.joints_img.to(joints_img)).norm(dim=-1)
    seen = track.joints_img
    side_px = (seen.amax(dim=1) - seen.amin(dim=1)).amax(dim=-1)
    return Reprojection(torch.where(is_known, error_px, torch.zeros_like(error_px)), is_known, side_px)
