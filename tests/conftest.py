"""Fixtures shared by all tests."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import make_transform
from haptic.hand.mirror import mirror_params, mirror_points
from haptic.hand.model import HandModel, load_hand_model, trajectory_joints
from haptic.records import Camera, HandParams, HandTrack, Reconstruction, Trajectory

# Machines are busy at times; how long an example takes says nothing about hands.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of test inputs beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"test inputs are absent: {SHARED.name}/ is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def open_hand() -> HandModel:
    """The hand that ships."""
    return load_hand_model(None)


@pytest.fixture(scope="session")
def make_result(open_hand: HandModel) -> Callable[..., Reconstruction]:
    """Make up a reconstruction: hands that wave about half a metre before a camera.

    `spans` gives each hand's first frame and the one after its last; names alternate right_0, left_0, right_1, ...
    """

    def make(
        spans: Sequence[tuple[int, int]] = ((0, 20), (4, 16)),
        *,
        num_frames: int = 20,
        fps: float = 30.0,
        width_px: int = 320,
        height_px: int = 240,
        moving_camera: bool = False,
    ) -> Reconstruction:
        time_s = torch.arange(num_frames, dtype=torch.float64) / fps
        K = intrinsics(0.9 * width_px, width=width_px, height=height_px).expand(num_frames, 3, 3).clone()
        turn = torch.zeros(num_frames, 3)
        shift = torch.zeros(num_frames, 3)
        if moving_camera:
            turn[:, 1] = 0.3 * torch.linspace(0, 1, num_frames)
            shift[:, 0] = 0.2 * torch.linspace(0, 1, num_frames)
        camera = Camera(K=K, T_world_cam=make_transform(rotation_from_aa(turn), shift))
        hands, tracks = {}, {}
        for order, (start, stop) in enumerate(spans):
            is_right = order % 2 == 0
            name = f"{'right' if is_right else 'left'}_{order // 2}"
            frames = torch.arange(start, stop)
            hands[name] = _waving_hand(open_hand, frames, time_s[frames], camera[frames], order, is_right)
            tracks[name] = _track_of(open_hand, hands[name])
        return Reconstruction(hands, tracks, camera, time_s, width_px, height_px, fps, open_hand.name)

    return make


def _waving_hand(
    model: HandModel, frames: torch.Tensor, time_s: torch.Tensor, camera: Camera, order: int, is_right: bool
) -> Trajectory:
    rng = torch.Generator().manual_seed(order)
    phase = (2 * torch.pi * (time_s / 2 + 0.2 * order)).float()[:, None]
    # Fingers up, back of the hand to the camera, thumb inwards: about z by a quarter turn from MANO's rest pose.
    upright = rotation_from_aa(torch.tensor([0.0, 0.0, torch.pi / 2]))
    sway = rotation_from_aa(torch.cat([0.3 * phase.sin(), 0.4 * phase.cos(), 0.2 * phase.sin()], dim=-1))
    curl = torch.zeros(len(frames), 15, 3)
    curl[:, :12, 2] = 0.4 * (1 - phase.cos())  # the four fingers bend towards the palm
    betas = torch.randn(10, generator=rng) * 0.7
    column = 0.11 * (order // 2 + 1) * (-1 if is_right else 1)
    place = torch.cat([column + 0.02 * phase.cos(), 0.1 + 0.04 * phase.sin(), 0.5 + 0.1 * phase.cos()], dim=-1)
    betas = betas.expand(len(frames), 10).clone()
    params = HandParams(
        global_orient=sway @ upright,
        hand_pose=rotation_from_aa(curl),
        betas=betas,
        transl=mirror_points(place) if not is_right else place,
    )
    params = replace(params, transl=params.transl - model.rest_joints(betas)[:, 0])
    if not is_right:
        params = mirror_params(params)
    observed = torch.ones(len(frames), dtype=torch.bool)
    observed[len(frames) // 2 : len(frames) // 2 + 3] = False
    confidence = torch.where(observed, 0.9, 0.3)
    return Trajectory(frames, time_s, params, camera, confidence, observed, torch.tensor(is_right))


def _track_of(model: HandModel, trajectory: Trajectory) -> HandTrack:
    """Return what a detector with two pixels of noise would have seen."""
    joints_cam = trajectory_joints(model, trajectory)
    rng = torch.Generator().manual_seed(7)
    joints_img = project(joints_cam, trajectory.camera.K)
    joints_img = joints_img + 2 * torch.randn(joints_img.shape, generator=rng)
    low, high = joints_img.amin(dim=1), joints_img.amax(dim=1)
    observed = trajectory.observed.float()
    return HandTrack(
        frame_index=trajectory.frame_index,
        time_s=trajectory.time_s,
        box_center_img=(low + high) / 2,
        box_side_px=(high - low).amax(dim=-1),
        joints_img=joints_img,
        joints_img_weight=observed[:, None].expand(-1, 21).clone(),
        landmarks=joints_cam - joints_cam.mean(dim=1, keepdim=True),
        landmarks_weight=observed,
        confidence=trajectory.confidence,
        observed=trajectory.observed,
        is_right=trajectory.is_right,
    )
