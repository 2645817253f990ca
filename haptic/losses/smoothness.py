"""Losses on how motion changes over time, in real units, with the true time between frames."""

from jaxtyping import Float
from torch import Tensor

from haptic.geometry.motion import acceleration, angular_acceleration
from haptic.losses.reduce import weighted_mean


def acceleration_loss(
    points: Float[Tensor, "T J 3"], time_s: Float[Tensor, " T"], weight: Float[Tensor, " T"]
) -> Float[Tensor, ""]:
    """Mean squared acceleration in (m/s^2)^2 at the frames that have two neighbours."""
    squared = acceleration(points, time_s).square().sum(-1)
    return weighted_mean(squared, weight[1:-1, None].expand_as(squared))


def angular_acceleration_loss(
    rotation: Float[Tensor, "T J 3 3"], time_s: Float[Tensor, " T"], weight: Float[Tensor, " T"]
) -> Float[Tensor, ""]:
    """Mean squared angular acceleration in (rad/s^2)^2 at the frames that have two neighbours."""
    squared = angular_acceleration(rotation, time_s).square().sum(-1)
    return weighted_mean(squared, weight[1:-1, None].expand_as(squared))
