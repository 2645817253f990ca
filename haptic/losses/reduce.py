"""The one mean in which every loss ends, and the two other ways to add up that training knows."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

# (value, weight) -> scalar: what a loss that takes `reduce` ends in.
Reduce = Callable[[Tensor, Tensor], Tensor]


def weighted_mean(value: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean of the known values; weight zero means not known, and hides whatever stands there.

    With nothing known the mean is zero and so is its gradient.
    """
    return _known_sum(value, weight) / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def global_weighted_mean(value: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return this process's part of the mean over all processes: their average is the mean over the whole batch.

    Averaging is what data-parallel training does with gradients, so that a step on several machines equals the step of
    one machine with all their data, however unevenly labels are spread. Alone it is `weighted_mean`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return weighted_mean(value, weight)
    total_weight = weight.detach().sum()
    dist.all_reduce(total_weight)
    share = total_weight / dist.get_world_size()
    return _known_sum(value, weight) / share.clamp(min=torch.finfo(weight.dtype).tiny)


def weighted_sum(value: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the sum of the known values: HaMeR's and HaPTIC's reduction, whose size grows with the batch."""
    return _known_sum(value, weight)


def _known_sum(value: Tensor, weight: Tensor) -> Tensor:
    return (torch.where(weight > 0, value, torch.zeros_like(value)) * weight).sum()
