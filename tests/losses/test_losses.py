"""Losses see what they should, in the unit they say, and are blind to the rest."""

import numpy as np
import pytest
import torch

from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import pose_from_angles, sample_pose
from haptic.losses.biomechanics import limit_loss
from haptic.losses.keypoints import (
    centred_loss,
    keypoint_2d_loss,
    keypoint_3d_loss,
    keypoint_4d_loss,
    reprojection_loss,
)
from haptic.losses.parameters import betas_loss, rotation_loss
from haptic.losses.priors import initial_depth_loss, initial_pose_loss, shape_prior_loss
from haptic.losses.reduce import weighted_mean
from haptic.losses.smoothness import acceleration_loss, angular_acceleration_loss
from haptic.records import HandParams


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_what_is_not_known_does_not_reach_the_mean_nor_its_gradient_even_if_it_is_nan():
    value = torch.tensor([1.0, float("nan"), 3.0, float("inf")], requires_grad=True)
    mean = weighted_mean(value, torch.tensor([1.0, 0.0, 3.0, 0.0]))
    torch.testing.assert_close(mean, torch.tensor(2.5))
    (gradient,) = torch.autograd.grad(mean, value)
    torch.testing.assert_close(gradient, torch.tensor([0.25, 0.0, 0.75, 0.0]))


def test_the_mean_of_nothing_known_is_zero_with_a_zero_gradient():
    value = torch.ones(3, requires_grad=True)
    mean = weighted_mean(value, torch.zeros(3))
    (gradient,) = torch.autograd.grad(mean, value)
    assert mean == 0
    assert (gradient == 0).all()


def test_2d_loss_is_the_sum_of_both_axes_distances(generator: torch.Generator):
    target = torch.randn(2, 4, 21, 2, generator=generator)
    loss = keypoint_2d_loss(target + torch.tensor([0.1, -0.3]), target, torch.ones(2, 4, 21))
    torch.testing.assert_close(loss, torch.tensor(0.4))


def test_3d_loss_does_not_see_where_the_hand_is(generator: torch.Generator):
    target = torch.randn(2, 4, 21, 3, generator=generator)
    moved = target + torch.randn(2, 4, 1, 3, generator=generator)
    torch.testing.assert_close(keypoint_3d_loss(moved, target, torch.ones(2, 4, 21)), torch.tensor(0.0))


def test_3d_loss_leaves_out_a_hand_whose_wrist_is_unlabelled(generator: torch.Generator):
    target = torch.randn(2, 21, 3, generator=generator)
    weight = torch.ones(2, 21)
    weight[1, 0] = 0
    bent = target.clone()
    bent[1, 5] += 1
    assert keypoint_3d_loss(bent, target, weight) == 0


def test_4d_loss_does_not_see_where_a_clip_starts_but_sees_it_drift(generator: torch.Generator):
    target, weight = torch.randn(1, 4, 21, 3, generator=generator), torch.ones(1, 4, 21)
    torch.testing.assert_close(keypoint_4d_loss(target + 5.0, target, weight), torch.tensor(0.0), atol=1e-5, rtol=0)
    drifting = target + torch.arange(4.0)[:, None, None]  # 0, 1, 2, 3 m on each axis
    torch.testing.assert_close(keypoint_4d_loss(drifting, target, weight), torch.tensor(4.5))


def test_4d_loss_leaves_out_a_clip_whose_first_wrist_is_unlabelled(generator: torch.Generator):
    target, weight = torch.randn(2, 4, 21, 3, generator=generator), torch.ones(2, 4, 21)
    weight[1, 0, 0] = 0
    drifting = target.clone()
    drifting[1, 2:] += 1
    assert keypoint_4d_loss(drifting, target, weight) == 0


def test_reprojection_loss_is_the_same_at_every_resolution(generator: torch.Generator):
    seen, error = torch.randn(3, 21, 2, generator=generator) * 50, torch.randn(3, 21, 2, generator=generator)
    weight, box_px = torch.rand(3, 21, generator=generator), torch.tensor([80.0, 90.0, 100.0])
    small = reprojection_loss(seen + error, seen, weight, box_side_px=box_px, robust_scale=0.1)
    large = reprojection_loss(4 * (seen + error), 4 * seen, weight, box_side_px=4 * box_px, robust_scale=0.1)
    torch.testing.assert_close(small, large)


def test_a_joint_seen_far_away_does_not_pull_on_the_hand():
    predicted = torch.zeros(1, 21, 2, requires_grad=True)
    seen = torch.full((1, 21, 2), 1.0)
    seen[0, 8] = 500.0
    box_px = torch.tensor([100.0])
    loss = reprojection_loss(predicted, seen, torch.ones(1, 21), box_side_px=box_px, robust_scale=0.1)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert gradient[0, 8].norm() < 1e-3 * gradient[0, 4].norm()


def test_centred_loss_sees_the_form_and_not_the_place(generator: torch.Generator):
    points = torch.randn(5, 21, 3, generator=generator).double() * 0.05
    weight = torch.ones(5).double()
    assert centred_loss(points + 2.0, points, weight, robust_scale_m=0.03) < 1e-20
    assert centred_loss(points.flip(0), points, weight, robust_scale_m=0.03) > 1e-4


def test_rotation_loss_is_twice_the_squared_angle(generator: torch.Generator):
    rotation = rotation_from_aa(torch.randn(4, 15, 3, generator=generator).double())
    turned = rotation @ rotation_from_aa(torch.tensor([0.0, 0.01, 0.0]).double())
    loss = rotation_loss(turned, rotation, torch.ones(4, 15).double())
    torch.testing.assert_close(loss, torch.tensor(2e-4).double(), rtol=1e-3, atol=0)


def test_parameter_losses_sum_squares_and_average_the_known_hands():
    weight = torch.tensor([1.0, 1.0, 0.0])
    ones = torch.tensor([1.0, 2.0, float("nan")])[:, None]
    torch.testing.assert_close(betas_loss(ones.expand(3, 10), torch.zeros(3, 10), weight), torch.tensor(25.0))
    torch.testing.assert_close(shape_prior_loss(torch.full((2, 10), 0.5)), torch.tensor(2.5))


def test_steady_motion_costs_nothing_whatever_the_frame_rate():
    time_s = torch.tensor([0.0, 0.03, 0.07, 0.08, 0.15], dtype=torch.float64)
    moving = (1.5 * time_s)[:, None, None].expand(-1, 21, 3)
    turning = rotation_from_aa(3.0 * time_s[:, None, None].expand(-1, 16, 3))
    weight = torch.ones(5).double()
    assert acceleration_loss(moving, time_s, weight) < 1e-20
    assert angular_acceleration_loss(turning, time_s, weight) < 1e-18


def test_acceleration_loss_counts_squares_of_metres_per_second_squared_at_counting_frames():
    time_s = (torch.arange(6) / 30).double()
    falling = torch.zeros(6, 21, 3).double()
    falling[..., 1] = (0.5 * 9.81 * time_s**2)[:, None]
    falling[5] = 100.0  # reaches only frame 4's acceleration
    weight = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0]).double()
    loss = acceleration_loss(falling, time_s, weight)
    torch.testing.assert_close(loss, torch.tensor(9.81**2).double())


def test_natural_poses_cost_nothing_and_a_finger_bent_backwards_does():
    natural = sample_pose(50, rng=np.random.default_rng(0)).double()
    assert limit_loss(natural, torch.ones(50).double()) < 1e-10
    angles = torch.zeros(1, 15, 3).double()
    angles[0, 1, 0] = -1.2  # the index finger's middle joint
    assert limit_loss(pose_from_angles(angles), torch.ones(1).double()) > 0.01


def test_distance_to_the_initial_estimate_is_of_fingers_and_of_place(generator: torch.Generator):
    still = HandParams(
        torch.eye(3).expand(4, 3, 3), torch.eye(3).expand(4, 15, 3, 3), torch.zeros(4, 10), torch.zeros(4, 3)
    )
    turned = HandParams(
        rotation_from_aa(torch.randn(4, 3, generator=generator)), still.hand_pose, still.betas, still.transl + 0.1
    )
    weight = torch.ones(4)
    assert initial_pose_loss(turned, still, weight) == 0
    torch.testing.assert_close(initial_depth_loss(turned, still, weight), torch.tensor(0.01))
