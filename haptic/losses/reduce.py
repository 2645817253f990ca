"""The one mean in which every loss ends."""

import torch
from jaxtyping import Float
from torch import Tensor


def weighted_mean(value: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean of the known values; weight zero means not known, and hides whatever stands there.

    With nothing known the mean is zero and so is its gradient.
    """
    known = weight > 0
    total = (torch.where(known, value, torch.zeros_like(value)) * weight).sum()
    return total / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
