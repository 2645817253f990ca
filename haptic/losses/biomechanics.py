"""Losses that keep a hand within what hands can do. Right hands; the others are mirrored first."""

from jaxtyping import Float
from torch import Tensor

from haptic.hand.anatomy import limit_violation
from haptic.losses.reduce import weighted_mean


def limit_loss(hand_pose: Float[Tensor, "*batch 15 3 3"], weight: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Mean per joint of the squared radians by which its three angles leave their ranges."""
    squared = limit_violation(hand_pose).square().sum(-1)
    return weighted_mean(squared, weight[..., None].expand_as(squared))
