"""Losses of HaMeR's discriminator and of who tries to deceive it: least squares, summed over its 17 answers."""

from jaxtyping import Float
from torch import Tensor

from haptic.losses.reduce import Reduce, weighted_mean


def deceiving_loss(fake_answers: Float[Tensor, "N answers"], *, reduce: Reduce = weighted_mean) -> Float[Tensor, ""]:
    """Mean over predicted hands of the squared distances of their answers from one, which stands for real."""
    return _mean_per_hand((fake_answers - 1).square(), reduce)


def discriminator_loss(
    fake_answers: Float[Tensor, "N answers"],
    real_answers: Float[Tensor, "M answers"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean over real hands of the squared distances from one, plus mean over predicted hands of those from zero."""
    return _mean_per_hand((real_answers - 1).square(), reduce) + _mean_per_hand(fake_answers.square(), reduce)


def official_discriminator_loss(
    fake_answers: Float[Tensor, "N answers"], real_answers: Float[Tensor, "M answers"]
) -> Float[Tensor, ""]:
    """Do as HaMeR does: both sums are divided by the number of predicted hands, however many real ones there are."""
    return ((real_answers - 1).square().sum() + fake_answers.square().sum()) / len(fake_answers)


def _mean_per_hand(squared: Tensor, reduce: Reduce) -> Tensor:
    per_hand = squared.sum(-1)
    return reduce(per_hand, per_hand.new_ones(per_hand.shape))
