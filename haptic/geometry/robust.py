"""Kernels that stop a wrong observation from pulling."""

from jaxtyping import Float
from torch import Tensor


def geman_mcclure(squared: Float[Tensor, "*shape"], scale: float | Tensor) -> Float[Tensor, "*shape"]:
    """Return scale^2 s / (scale^2 + s) for a squared residual s: s itself when small, never above scale^2."""
    return squared * scale**2 / (squared + scale**2)


def geman_mcclure_slope(squared: Float[Tensor, "*shape"], scale: float | Tensor) -> Float[Tensor, "*shape"]:
    """Return the derivative of `geman_mcclure` by the squared residual: the weight an observation has left, 1 to 0."""
    return (scale**2 / (squared + scale**2)).square()
