"""Rotations for hands that are labelled by joints alone: the hand model fitted to 2D and 3D joints.

Joints tell a network where fingers are, but not as surely how they bend: a loss on rotations does. The fit is that of
`infer.py --init keypoints`, with the labelled joints in the place of the detector's.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.own_coco import OwnHand
from haptic.geometry.cameras import view_rotation
from haptic.hand.model import HandModel, trajectory_joints
from haptic.inference.keypoints import MIN_KNOWN_JOINTS, KeypointInitConfig, init_hand
from haptic.records import Camera, HandTrack

# Of the hand's size, from wrist to middle knuckle (some 0.1 m): labels of motion capture are right to some millimetres.
LANDMARKS_SPREAD = 0.03
# A fit that stays farther from the labels, root mean square about their centre, says nothing of the rotations.
MAX_MISFIT_M = 0.01


def fitted_rotations(
    hand: OwnHand, K: Float[np.ndarray, "T 3 3"], *, fps: float, width_px: int, model: HandModel
) -> tuple[Float[np.ndarray, "T 3 3"], Float[np.ndarray, "T 15 3 3"]]:
    """Return the wrist's and the fingers' rotations in each frame's camera; NaN where joints do not tell them.

    They are told where all 21 joints are known in 3D and the fit comes within `MAX_MISFIT_M` of them. Left hands are in
    MANO_LEFT's convention, as in `HandParams`.
    """
    num_frames = len(K)
    global_orient, hand_pose = np.full((num_frames, 3, 3), np.nan), np.full((num_frames, 15, 3, 3), np.nan)
    is_seen = np.isfinite(hand.joints_img).all(-1) & (np.nan_to_num(hand.joints_img_weight) > 0)
    told = np.isfinite(hand.joints_cam).all((-1, -2)) & (is_seen.sum(-1) >= MIN_KNOWN_JOINTS)
    if not told.any():
        return global_orient, hand_pose
    camera = Camera(K=torch.from_numpy(K).float(), T_world_cam=torch.eye(4).expand(num_frames, 4, 4))
    track = _as_track(hand, is_seen & told[:, None], told, camera.K, fps)
    config = KeypointInitConfig(landmark_kind="joints", landmarks_spread=LANDMARKS_SPREAD)
    fit = init_hand(model, track, camera, config, width_px=width_px)
    target = torch.from_numpy(np.where(told[:, None, None], hand.joints_cam, 0.0))
    is_near = (_misfit(trajectory_joints(model, fit).double(), target) <= MAX_MISFIT_M).numpy() & told
    global_orient[is_near] = fit.params.global_orient.double().numpy()[is_near]
    hand_pose[is_near] = fit.params.hand_pose.double().numpy()[is_near]
    return global_orient, hand_pose


def _as_track(hand: OwnHand, is_seen: np.ndarray, told: np.ndarray, K: Tensor, fps: float) -> HandTrack:
    """Return the labels as if a detector had found them, whose axes are those of a camera that looks at the hand."""
    num_frames = len(told)
    joints_img = torch.from_numpy(np.where(is_seen[..., None], hand.joints_img, 0.0)).float()
    joints_cam = torch.from_numpy(np.where(told[:, None, None], hand.joints_cam, 0.0)).float()
    weight = torch.from_numpy(is_seen).float()
    middle_img = joints_img.sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
    landmarks = (joints_cam - joints_cam.mean(dim=1, keepdim=True)) @ view_rotation(middle_img, K)
    frame_index = torch.arange(num_frames)
    return HandTrack(
        frame_index=frame_index,
        time_s=frame_index / fps,
        box_center_img=torch.zeros(num_frames, 2),  # the fit measures the joints' own box
        box_side_px=torch.ones(num_frames),
        joints_img=joints_img,
        joints_img_weight=weight,
        landmarks=landmarks,
        landmarks_weight=torch.from_numpy(told).float(),
        confidence=torch.from_numpy(told).float(),
        observed=torch.from_numpy(told),
        is_right=torch.tensor(hand.is_right),
    )


def _misfit(joints: Float[Tensor, "T 21 3"], target: Float[Tensor, "T 21 3"]) -> Float[Tensor, " T"]:
    """Return the root mean square distance of each frame about its centre, sizes made equal, not turned."""
    joints, target = (points - points.mean(dim=-2, keepdim=True) for points in (joints, target))
    ratio = (joints * target).sum((-1, -2)) / joints.square().sum((-1, -2)).clamp(min=1e-12)
    return (ratio[:, None, None] * joints - target).square().sum(-1).mean(-1).sqrt()
