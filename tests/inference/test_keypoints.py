"""Hands from keypoints: posed hands of known truth, seen with a detector's noise, are found again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from haptic.geometry.alignment import align_similarity
from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.rotations import geodesic_angle, rotation_from_aa
from haptic.hand.anatomy import limit_violation, pose_from_angles, sample_angles
from haptic.hand.landmarks import detector_landmarks, load_landmark_model
from haptic.hand.mirror import mirror_camera, mirror_params, mirror_points, mirror_track
from haptic.hand.model import HandModel, load_hand_model
from haptic.inference.keypoints import KeypointInitConfig, init_from_keypoints
from haptic.records import Camera, HandParams, HandTrack, Trajectory

WIDTH, HEIGHT = 1000, 700


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model(None)


def moving_hand(num_frames: int = 40, *, seed: int = 0, betas: Tensor | None = None) -> HandParams:
    """A hand that opens, closes, turns by a radian or so and travels, half a metre before the camera."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    poses = sample_angles(4, rng=rng)
    at = torch.linspace(0, 2.99, num_frames)
    share = at - at.floor()
    share = (share * share * (3 - 2 * share))[:, None, None]
    angles = torch.lerp(poses[at.long()], poses[at.long() + 1], share)
    start = rotation_from_aa(2 * torch.randn(3, generator=generator))
    orient = (
        rotation_from_aa(torch.linspace(0, 1, num_frames)[:, None] * torch.randn(1, 3, generator=generator)) @ start
    )
    way = torch.stack([0.15 * torch.sin(1.5 * at), 0.08 * torch.cos(1.2 * at), 0.5 + 0.1 * torch.sin(at)], dim=-1)
    betas = torch.zeros(10) if betas is None else betas
    return HandParams(orient, pose_from_angles(angles), betas.expand(num_frames, 10), way)


def camera_for(num_frames: int) -> Camera:
    K = intrinsics(800.0, width=WIDTH, height=HEIGHT)
    return Camera(K.expand(num_frames, 3, 3), torch.eye(4).expand(num_frames, 4, 4))


def seen(model: HandModel, params: HandParams, *, kind: str = "mediapipe", noise: float = 0.015) -> HandTrack:
    """What a detector with noise of this share of the box, and 12 mm in its own 3D, sees of the hand."""
    generator = torch.Generator().manual_seed(1)
    num_frames = params.transl.shape[0]
    points = detector_landmarks(model, params, load_landmark_model(kind))
    joints_img = project(points, camera_for(num_frames).K)
    side = (joints_img.amax(1) - joints_img.amin(1)).amax(-1)
    joints_img = joints_img + noise * side[:, None, None] * torch.randn(joints_img.shape, generator=generator)
    landmarks = points + 0.012 * torch.randn(points.shape, generator=generator)
    return HandTrack(
        frame_index=torch.arange(num_frames),
        time_s=torch.arange(num_frames) / 30,
        box_center_img=(joints_img.amax(1) + joints_img.amin(1)) / 2,
        box_side_px=side,
        joints_img=joints_img,
        joints_img_weight=torch.ones(num_frames, 21),
        landmarks=landmarks - landmarks.mean(dim=1, keepdim=True),
        landmarks_weight=torch.ones(num_frames),
        confidence=torch.linspace(0.5, 1, num_frames),
        observed=torch.ones(num_frames, dtype=torch.bool),
        is_right=torch.tensor(True),
    )


def without_joints(track: HandTrack, frames: slice) -> HandTrack:
    weight, landmarks_weight, observed = (
        part.clone() for part in (track.joints_img_weight, track.landmarks_weight, track.observed)
    )
    weight[frames], landmarks_weight[frames], observed[frames] = 0, 0, False
    return replace(track, joints_img_weight=weight, landmarks_weight=landmarks_weight, observed=observed)


def pa_mpjpe_mm(model: HandModel, truth: HandParams, found: Trajectory) -> Tensor:
    expected, joints = model.joints(truth), model.joints(found.params)
    return 1e3 * (align_similarity(joints, expected).apply(joints) - expected).norm(dim=-1).mean(-1)


def turn_error_deg(truth: HandParams, found: Trajectory) -> Tensor:
    return torch.rad2deg(geodesic_angle(truth.global_orient, found.params.global_orient))


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_a_moving_hand_is_recovered_from_what_a_detector_sees(model, seed):
    truth = moving_hand(seed=seed)
    found = init_from_keypoints(model, seen(model, truth), camera_for(40))
    assert pa_mpjpe_mm(model, truth, found).mean() < 9
    assert turn_error_deg(truth, found).median() < 8
    assert turn_error_deg(truth, found).max() < 35
    wrist_error = (model.joints(found.params)[:, 0] - model.joints(truth)[:, 0]).norm(dim=-1)
    assert wrist_error.median() < 0.03  # an average hand: its size is as assumed
    assert torch.rad2deg(limit_violation(found.params.hand_pose)).max() < 3


def test_landmarks_project_onto_what_was_seen(model):
    truth = moving_hand(seed=1)
    track = seen(model, truth)
    found = init_from_keypoints(model, track, camera_for(40))
    landmarks = detector_landmarks(model, found.params, load_landmark_model("mediapipe"))
    share = (project(landmarks, found.camera.K) - track.joints_img).norm(dim=-1) / track.box_side_px[:, None]
    assert (share < 0.1).float().mean() > 0.97
    assert share.mean() < 0.035  # the noise alone makes 0.019


def test_joints_without_metric_landmarks_are_enough(model):
    truth = moving_hand(20, seed=2)
    track = replace(seen(model, truth), landmarks=torch.zeros(20, 21, 3), landmarks_weight=torch.zeros(20))
    found = init_from_keypoints(model, track, camera_for(20))
    assert pa_mpjpe_mm(model, truth, found).mean() < 11
    assert turn_error_deg(truth, found).max() < 40


def test_labelled_joints_need_no_offsets(model):
    truth = moving_hand(20, seed=3)
    track = seen(model, truth, kind="joints", noise=0.005)
    as_joints = init_from_keypoints(model, track, camera_for(20), KeypointInitConfig(landmark_kind="joints"))
    as_detector = init_from_keypoints(model, track, camera_for(20))
    error = pa_mpjpe_mm(model, truth, as_joints).mean()
    assert error < 6
    assert error < pa_mpjpe_mm(model, truth, as_detector).mean()


def test_a_left_hand_is_recovered_through_its_mirror_image_and_never_taken_as_it_is(model):
    right_truth, camera = moving_hand(10), camera_for(10)
    left_truth = mirror_params(right_truth)
    left_seen = mirror_track(seen(model, right_truth), WIDTH)  # the principal point is the picture's middle
    found = init_from_keypoints(model, mirror_track(left_seen, WIDTH), mirror_camera(camera, WIDTH))
    left_found = mirror_params(found.params)
    assert torch.rad2deg(geodesic_angle(left_found.global_orient, left_truth.global_orient)).max() < 25
    wrist = mirror_points(model.joints(right_truth)[:, 0])
    assert (mirror_points(model.joints(found.params)[:, 0]) - wrist).norm(dim=-1).median() < 0.04
    with pytest.raises(AssertionError, match="mirrored"):
        init_from_keypoints(model, left_seen, camera)


def test_wrongly_tilted_frames_are_repaired_from_their_neighbours(model):
    truth = moving_hand(seed=5)
    track = seen(model, truth)
    landmarks = track.landmarks.clone()
    for frames in (slice(12, 17), slice(30, 31)):  # the detector takes the depth the wrong way round
        landmarks[frames] *= torch.tensor([1.0, 1.0, -1.0])
    found = init_from_keypoints(model, replace(track, landmarks=landmarks), camera_for(40))
    assert turn_error_deg(truth, found).max() < 35


def test_one_shape_serves_all_frames(model):
    found = init_from_keypoints(model, seen(model, moving_hand(12)), camera_for(12))
    torch.testing.assert_close(found.params.betas, found.params.betas[:1].expand(12, 10))
    assert found.params.betas.abs().max() < 3


def test_proportions_are_learnt_and_size_is_left_to_the_prior(model):
    betas = torch.zeros(10)
    betas[1] = 2.0
    truth = moving_hand(30, seed=4, betas=betas)
    found = init_from_keypoints(model, seen(model, truth, noise=0.005), camera_for(30))
    assert found.params.betas[0, 1] > 0.4
    assert found.params.betas[0, 0].abs() < 0.6


def test_frames_without_joints_are_filled_between_their_neighbours_and_say_so(model):
    truth = moving_hand(24, seed=0)
    track = without_joints(seen(model, truth), slice(10, 13))
    found = init_from_keypoints(model, track, camera_for(24))
    assert torch.equal(found.observed, track.observed)
    torch.testing.assert_close(found.confidence, track.confidence)
    middle = (found.params.transl[9] + found.params.transl[13]) / 2
    torch.testing.assert_close(found.params.transl[11], middle, atol=1e-5, rtol=0)
    assert turn_error_deg(truth, found)[9:14].max() < 30


def test_the_ends_of_a_track_hold_the_nearest_known_pose(model):
    track = without_joints(without_joints(seen(model, moving_hand(12)), slice(0, 2)), slice(11, 12))
    found = init_from_keypoints(model, track, camera_for(12))
    torch.testing.assert_close(found.params.transl[0], found.params.transl[2])
    torch.testing.assert_close(found.params.hand_pose[11], found.params.hand_pose[10])


@pytest.mark.parametrize("num_frames", [1, 2])
def test_the_shortest_tracks_work(model, num_frames):
    truth = moving_hand()[:num_frames]
    found = init_from_keypoints(model, seen(model, truth), camera_for(num_frames))
    assert found.params.transl.shape == (num_frames, 3)
    assert pa_mpjpe_mm(model, truth, found).max() < 15


def test_unknown_joints_have_no_say_whatever_they_hold(model):
    truth = moving_hand(10, seed=2)
    track = seen(model, truth)
    weight, joints_img = track.joints_img_weight.clone(), track.joints_img.clone()
    weight[:, 8], joints_img[:, 8] = 0, float("nan")
    weight[:, 20], joints_img[:, 20] = 0, 1e4
    found = init_from_keypoints(model, replace(track, joints_img=joints_img, joints_img_weight=weight), camera_for(10))
    assert found.params.transl.isfinite().all()
    assert pa_mpjpe_mm(model, truth, found).mean() < 12


@pytest.mark.parametrize("bad", [{"landmarks_spread": 0.0}, {"turn_rate": -1.0}, {"robust_sigmas": float("nan")}])
def test_a_config_that_makes_no_sense_is_refused(bad: dict):
    with pytest.raises(ValueError, match=next(iter(bad))):
        KeypointInitConfig(**bad)
