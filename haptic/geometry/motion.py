"""Velocity, acceleration and jerk of sampled motion, with the true time between frames (variable frame rate)."""

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.rotations import aa_from_rotation


def acceleration(points: Float[Tensor, " T *rest"], time_s: Float[Tensor, " T"]) -> Float[Tensor, " T_minus_2 *rest"]:
    """Return m/s^2 (if points are in metres) at frames 1 ... T-2; exact for quadratics at any spacing."""
    step_s, reach_s = time_s.diff(), time_s[2:] - time_s[:-2]
    velocity = points.diff(dim=0) / _as_column(step_s, points)
    return velocity.diff(dim=0) / _as_column(reach_s / 2, points)


def jerk(points: Float[Tensor, " T *rest"], time_s: Float[Tensor, " T"]) -> Float[Tensor, " T_minus_3 *rest"]:
    """Return m/s^3 between frames 1-2 ... (T-3)-(T-2); exact for cubics at any spacing."""
    reach_s = time_s[3:] - time_s[:-3]
    return acceleration(points, time_s).diff(dim=0) / _as_column(reach_s / 3, points)


def angular_velocity(
    rotation: Float[Tensor, "T *rest 3 3"], time_s: Float[Tensor, " T"]
) -> Float[Tensor, "T_minus_1 *rest 3"]:
    """Return rad/s between neighbouring frames, in the axes of the turning body."""
    turn = aa_from_rotation(rotation[:-1].transpose(-1, -2) @ rotation[1:])
    return turn / _as_column(time_s.diff(), turn)


def angular_acceleration(
    rotation: Float[Tensor, "T *rest 3 3"], time_s: Float[Tensor, " T"]
) -> Float[Tensor, "T_minus_2 *rest 3"]:
    """Return rad/s^2 at frames 1 ... T-2, in the axes of the turning body; zero for steady turning."""
    velocity = angular_velocity(rotation, time_s)
    return velocity.diff(dim=0) / _as_column((time_s[2:] - time_s[:-2]) / 2, velocity)


def second_difference_weights(time_s: Float[Tensor, " T"]) -> Float[Tensor, "T_minus_2 3"]:
    """Return what `acceleration` multiplies the frame before, the frame itself and the frame after by."""
    before_s, after_s = time_s[1:-1] - time_s[:-2], time_s[2:] - time_s[1:-1]
    reach_s = before_s + after_s
    before, after = 2 / (before_s * reach_s), 2 / (after_s * reach_s)
    return torch.stack([before, -before - after, after], dim=-1)


def _as_column(seconds: Tensor, like: Tensor) -> Tensor:
    return seconds.reshape(-1, *[1] * (like.ndim - 1))
