"""Best rigid and similarity transforms between two sets of points (Umeyama 1991), weighted and batched."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.rotations import nearest_rotation


@dataclass(frozen=True)
class Alignment:
    """target ~ scale * rotation @ source + translation."""

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    def apply(self, points: Float[Tensor, "*batch N 3"]) -> Float[Tensor, "*batch N 3"]:
        """Return the points moved by this alignment."""
        turned = points @ self.rotation.transpose(-1, -2)
        return self.scale[..., None, None] * turned + self.translation[..., None, :]


def align_rigid(
    source: Float[Tensor, "*batch N 3"],
    target: Float[Tensor, "*batch N 3"],
    weight: Float[Tensor, "*batch N"] | None = None,
) -> Alignment:
    """Return the rotation and translation (scale one) that bring `source` nearest to `target`."""
    return _align(source, target, weight, with_scale=False)


def align_similarity(
    source: Float[Tensor, "*batch N 3"],
    target: Float[Tensor, "*batch N 3"],
    weight: Float[Tensor, "*batch N"] | None = None,
) -> Alignment:
    """Return the scale, rotation and translation that bring `source` nearest to `target`."""
    return _align(source, target, weight, with_scale=True)


def _align(source: Tensor, target: Tensor, weight: Tensor | None, *, with_scale: bool) -> Alignment:
    share = torch.ones_like(source[..., 0]) if weight is None else weight
    share = (share / share.sum(-1, keepdim=True).clamp(min=1e-12))[..., None]
    source_mean = (share * source).sum(-2)
    target_mean = (share * target).sum(-2)
    source_centred = source - source_mean[..., None, :]
    target_centred = target - target_mean[..., None, :]
    covariance = (share * target_centred).transpose(-1, -2) @ source_centred
    rotation = nearest_rotation(covariance)
    scale = torch.ones_like(source_mean[..., 0])
    if with_scale:
        variance = (share * source_centred.square()).sum((-1, -2))
        along = (rotation * covariance).sum((-1, -2))  # trace(R^T covariance)
        scale = along / variance.clamp(min=1e-12)
    turned_mean = (rotation @ source_mean[..., None]).squeeze(-1)
    return Alignment(scale, rotation, target_mean - scale[..., None] * turned_mean)
