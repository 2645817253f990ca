"""Boxes about hands: from joints to a tight box, from a tight box to the square that is cut for the network."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HAPTIC_EXPANSION = 3.0  # side of the crop over the longer side of the tight box of the joints
HAMER_EXPANSION = 2.0
VITPOSE_ASPECT = 192 / 256  # width over height of what the backbone sees

SMOOTHING_STEPS = 1000
SMOOTHING_RATE = 1e-3


def tight_box(
    points_img: Float[Tensor, "*batch J 2"], weight: Float[Tensor, "*batch J"]
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch 2"]]:
    """Return centre and (width, height) of the box about the points whose weight is above zero; zeros if none is."""
    known = (weight > 0)[..., None]
    low = torch.where(known, points_img, torch.inf).amin(dim=-2)
    high = torch.where(known, points_img, -torch.inf).amax(dim=-2)
    any_known = known.any(dim=-2)
    zero = torch.zeros_like(low)
    return torch.where(any_known, (low + high) / 2, zero), torch.where(any_known, high - low, zero)


def haptic_side(size_px: Float[Tensor, "*batch 2"], *, expansion: float = HAPTIC_EXPANSION) -> Float[Tensor, "*batch"]:
    """Return the crop's side as HaPTIC's demo takes it: three times the longer side of the tight box."""
    return expansion * size_px.amax(dim=-1)


def hamer_side(size_px: Float[Tensor, "*batch 2"], *, expansion: float = HAMER_EXPANSION) -> Float[Tensor, "*batch"]:
    """Return the crop's side as HaMeR's demo takes it: the box twice as large, widened to 192:256, its longer side."""
    width, height = (expansion * size_px).unbind(-1)
    return torch.maximum(torch.maximum(height, width / VITPOSE_ASPECT), torch.maximum(width, height * VITPOSE_ASPECT))


def seen_boxes(
    box_center_img: Float[Tensor, "*batch 2"], box_side_px: Float[Tensor, "*batch"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch 3"]:
    """Return the boxes as the lens sees them: middle (x / z, y / z), and the width of the side one metre away, metres.

    No pixel is left in them: the same hand in the same place gives the same numbers through any lens.
    """
    focal_px = torch.stack([K[..., 0, 0], K[..., 1, 1]], dim=-1)
    middle = (box_center_img - K[..., :2, 2]) / focal_px
    return torch.cat([middle, (box_side_px / focal_px.prod(-1).sqrt())[..., None]], dim=-1)


def infill(values: Float[Tensor, "T D"], valid: Bool[Tensor, " T"]) -> Float[Tensor, "T D"]:
    """Return the values with gaps filled linearly between their neighbours, and held constant at both ends.

    Raises:
        ValueError: nothing is valid, so there is nothing to fill from.
    """
    known = valid.nonzero()[:, 0]
    if len(known) == 0:
        raise ValueError(f"none of the {len(values)} boxes is valid; expected at least one to fill the others from")
    frames = torch.arange(len(values), device=values.device)
    after = torch.searchsorted(known, frames).clamp(max=len(known) - 1)
    right = known[after]
    left = torch.where(right <= frames, right, known[(after - 1).clamp(min=0)])
    right = torch.where(frames > known[-1], known[-1], right)
    left = torch.where(frames < known[0], known[0], left)
    share = (frames - left).to(values.dtype) / (right - left).clamp(min=1).to(values.dtype)
    share = share.clamp(max=1)[:, None]
    return values[left] * (1 - share) + values[right] * share


def smooth_boxes_official(
    center_img: Float[Tensor, "T 2"], scale: Float[Tensor, "T 2"]
) -> tuple[Float[Tensor, "T 2"], Float[Tensor, "T 2"]]:
    """Return the boxes after HaPTIC's smoothing: a thousand steps of AdamW on offsets.

    Its steps are so short that no centre moves by more than a pixel: only the scale is smoothed. Kept to reproduce
    official results.

    Args:
        center_img: pixels.
        scale: (width, height) of the box, times 1.5, in hundreds of pixels.
    """
    moves = [torch.zeros_like(value).requires_grad_() for value in (center_img, scale)]
    optimiser = torch.optim.AdamW(moves, lr=SMOOTHING_RATE)
    for _step in range(SMOOTHING_STEPS):
        optimiser.zero_grad()
        center_move, scale_move = moves
        rough = 0.02 * _acceleration(center_img + center_move) + 10 * _acceleration(scale + scale_move)
        moved = 0.02 * center_move.norm() + 10 * scale_move.norm()
        (rough + 0.05 * moved).backward()
        optimiser.step()
    return center_img + moves[0].detach(), scale + moves[1].detach()


def _acceleration(values: Tensor) -> Tensor:
    return values.diff(n=2, dim=0).norm()
