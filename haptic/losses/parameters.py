"""Losses on MANO's parameters."""

from jaxtyping import Float
from torch import Tensor

from haptic.losses.reduce import Reduce, weighted_mean


def rotation_loss(
    rotation: Float[Tensor, "*batch 3 3"],
    target: Float[Tensor, "*batch 3 3"],
    weight: Float[Tensor, "*batch"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean per rotation of the summed squares of its nine numbers' differences; about 2 angle^2 for small angles."""
    return reduce((rotation - target).square().sum((-1, -2)), weight)


def betas_loss(
    betas: Float[Tensor, "*batch 10"],
    target: Float[Tensor, "*batch 10"],
    weight: Float[Tensor, "*batch"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean per hand of the summed squares of its shape coefficients' differences."""
    return reduce((betas - target).square().sum(-1), weight)


def first_depth_loss(depth: Float[Tensor, "B T"], *, reduce: Reduce = weighted_mean) -> Float[Tensor, ""]:
    """Mean over clips of the first frame's absolute depth: only differences from it mean something (HaPTIC's)."""
    first = depth[:, 0].abs()
    return reduce(first, first.new_ones(first.shape))
