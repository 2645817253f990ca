"""What is likely before anything is seen."""

from jaxtyping import Float
from torch import Tensor

from haptic.losses.parameters import rotation_loss
from haptic.losses.reduce import weighted_mean
from haptic.records import HandParams


def shape_prior_loss(betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, ""]:
    """Mean over hands of the summed squared shape coefficients, which are in standard deviations."""
    squared = betas.square().sum(-1)
    return weighted_mean(squared, squared.new_ones(squared.shape))


def initial_pose_loss(params: HandParams, initial: HandParams, weight: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Mean distance of the fingers' rotations to those of an earlier estimate; see `rotation_loss`."""
    return rotation_loss(params.hand_pose, initial.hand_pose, weight[..., None].expand(params.hand_pose.shape[:-2]))


def initial_depth_loss(params: HandParams, initial: HandParams, weight: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Mean squared difference in m^2 of the hand's depth to an earlier estimate's; pixels tell the rest."""
    return weighted_mean((params.transl[..., 2] - initial.transl[..., 2]).square(), weight)
