"""Velocity, acceleration and jerk are exact for polynomials at uneven times."""

import torch

from haptic.geometry.motion import acceleration, angular_acceleration, jerk, second_difference_weights
from haptic.geometry.rotations import rotation_from_aa

UNEVEN_S = torch.tensor([0.0, 0.03, 0.07, 0.08, 0.15, 0.19, 0.3], dtype=torch.float64)


def test_acceleration_of_a_falling_hand_is_gravity_at_any_frame_rate():
    falling = (0.5 * 9.81 * UNEVEN_S**2)[:, None, None].expand(-1, 21, 3)
    torch.testing.assert_close(acceleration(falling, UNEVEN_S), torch.full((5, 21, 3), 9.81).double())


def test_jerk_of_a_cubic_is_constant_at_any_frame_rate():
    cubic = (2.0 * UNEVEN_S**3 - UNEVEN_S)[:, None]
    torch.testing.assert_close(jerk(cubic, UNEVEN_S), torch.full((4, 1), 12.0).double())


def test_steady_turning_has_no_angular_acceleration_even_through_half_a_turn_and_more():
    turning = rotation_from_aa(UNEVEN_S[:, None] * torch.tensor([9.0, -4.0, 12.0]).double())
    torch.testing.assert_close(angular_acceleration(turning, UNEVEN_S), torch.zeros(5, 3).double(), atol=1e-9, rtol=0)


def test_a_turn_that_quickens_has_its_angular_acceleration():
    turning = rotation_from_aa(0.5 * 7.0 * UNEVEN_S[:, None] ** 2 * torch.tensor([0.0, 0.0, 1.0]).double())
    expected = torch.tensor([0.0, 0.0, 7.0]).double().expand(5, 3)
    torch.testing.assert_close(angular_acceleration(turning, UNEVEN_S), expected)


def test_second_difference_weights_are_those_of_acceleration():
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    weights = second_difference_weights(UNEVEN_S)
    by_hand = weights[:, :1] * points[:-2] + weights[:, 1:2] * points[1:-1] + weights[:, 2:] * points[2:]
    torch.testing.assert_close(by_hand, acceleration(points, UNEVEN_S))


def test_one_or_two_frames_have_no_acceleration():
    for num_frames in (1, 2):
        assert acceleration(torch.zeros(num_frames, 21, 3), torch.arange(num_frames) / 30).numel() == 0
        assert angular_acceleration(torch.eye(3).expand(num_frames, 3, 3), torch.arange(num_frames) / 30).numel() == 0
