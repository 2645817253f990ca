"""Synthetic hands in smooth motion, as a detector would see them, with known truth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import pose_from_angles, sample_angles
from haptic.hand.mirror import mirror_camera, mirror_params, mirror_track
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import Camera, HandParams, HandTrack, Trajectory


@dataclass(frozen=True)
class Scene:
    """A hand's truth, what was seen of it, and a noisy first estimate."""

    truth: Trajectory
    track: HandTrack
    initial: Trajectory


@pytest.fixture(scope="session")
def model() -> HandModel:
    return load_hand_model(None)


@pytest.fixture(scope="session")
def make_scene(model: HandModel) -> Callable[..., Scene]:
    def make(
        num_frames: int,
        seed: int = 0,
        *,
        fps: float = 30.0,
        noise_box: float = 0.015,
        pose_noise_rad: float = 0.12,
        depth_noise: float = 0.04,
        is_right: bool = True,
    ) -> Scene:
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        time_s = torch.arange(num_frames) / fps
        params = smooth_params(time_s, rng)
        K = intrinsics(600.0, width=640, height=480).expand(num_frames, 3, 3)
        camera = Camera(K=K, T_world_cam=torch.eye(4).expand(num_frames, 4, 4))
        joints = model.joints(params)
        joints_img = project(joints, K)
        side_px = (joints_img.amax(1) - joints_img.amin(1)).amax(-1)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        seen_img = joints_img + noise_box * side_px[:, None, None] * noise(num_frames, 21, 2)
        ones = torch.ones(num_frames)
        is_seen = torch.ones(num_frames, dtype=torch.bool)
        trajectory = Trajectory(
            frame_index=torch.arange(num_frames),
            time_s=time_s,
            params=params,
            camera=camera,
            confidence=ones,
            observed=is_seen,
            is_right=torch.tensor(True),
        )
        track = HandTrack(
            frame_index=trajectory.frame_index,
            time_s=time_s,
            box_center_img=(seen_img.amax(1) + seen_img.amin(1)) / 2,
            box_side_px=(seen_img.amax(1) - seen_img.amin(1)).amax(-1),
            joints_img=seen_img,
            joints_img_weight=torch.ones(num_frames, 21),
            landmarks=(joints - joints.mean(1, keepdim=True)) * 0.9 + 0.004 * noise(num_frames, 21, 3),
            landmarks_weight=ones,
            confidence=ones,
            observed=is_seen,
            is_right=torch.tensor(True),
        )
        guess = HandParams(
            global_orient=params.global_orient @ rotation_from_aa(pose_noise_rad * noise(num_frames, 3)),
            hand_pose=params.hand_pose @ rotation_from_aa(pose_noise_rad * noise(num_frames, 15, 3)),
            betas=torch.zeros(num_frames, 10),
            transl=params.transl * (1 + depth_noise * noise(num_frames, 1)),
        )
        initial = replace(trajectory, params=guess)
        if not is_right:
            trajectory, initial = turned_over(trajectory), turned_over(initial)
            track = mirror_track(track, 640)
        return Scene(trajectory, track, initial)

    return make


def smooth_params(time_s: torch.Tensor, rng: np.random.Generator) -> HandParams:
    """A hand that opens and closes, turns and wanders through half a metre."""
    ends = sample_angles(2, rng=rng)
    share = (0.5 + 0.5 * torch.sin(2 * torch.pi * 0.5 * time_s + rng.uniform(0, 6)))[:, None, None]
    angles = ends[0] * (1 - share) + ends[1] * share
    phase = torch.from_numpy(rng.uniform(0, 6, 6)).float()
    rate_hz = torch.from_numpy(rng.uniform(0.2, 0.6, 6)).float()
    wave = torch.sin(2 * torch.pi * rate_hz * time_s[:, None] + phase)
    turn = rotation_from_aa(0.5 * wave[:, :3])
    facing = rotation_from_aa(torch.tensor([np.pi / 2, 0.0, 0.0]).float())  # the back of the hand towards the camera
    place = torch.tensor([0.0, 0.0, 0.55]) + wave[:, 3:] * torch.tensor([0.12, 0.08, 0.12])
    betas = torch.from_numpy(rng.normal(0, 0.7, 10)).float()
    return HandParams(turn @ facing, pose_from_angles(angles), betas.expand(len(time_s), 10), place)


def turned_over(trajectory: Trajectory) -> Trajectory:
    return replace(
        trajectory,
        params=mirror_params(trajectory.params),
        camera=mirror_camera(trajectory.camera, 640),
        is_right=~trajectory.is_right,
    )
