"""The guide: a second readout, of joints in the crop, for networks that start from nothing.

A backbone hears of the hand through one token per frame, and as long as that token knows nothing, nothing comes back:
the network settles on a mean hand, shrunk to where it costs least. The guide asks every cell of the crop's features
which joints lie there and how deep, and so the features are learned first. HaMeR's backbone comes from ViTPose, which
was trained to find joints; this is the same lesson, given along the way. Either it is thrown away afterwards, or the
decoder is told what it finds (`decoder.sees_joints`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from haptic.models.decoder import start_at_zero

NUM_JOINTS = 21
DEPTH_UNIT_M = 0.1  # of the readout, so that depths are of the size of its other numbers
PLACE_GAIN = 4.0  # and places in the crop
TINY_SPREAD = 1e-4  # of all attention in one cell; nothing has no slope
LOOK_DIM = 16  # numbers that each joint's features are told in
HIDDEN_DIM = 512


@dataclass(frozen=True)
class GuidedJoints:
    """What one grid of features says of the joints.

    `logits` over the grid's cells, row by row; the mean place in the crop, [-0.5, 0.5], and how far attention spreads
    about it; metres behind the wrist.
    """

    grid: tuple[int, int]
    logits: Float[Tensor, "B T 21 P"]
    joints_crop: Float[Tensor, "B T 21 2"]
    spread: Float[Tensor, "B T 21"]
    depth_m: Float[Tensor, "B T 21"]


class JointGuide(nn.Module):
    """For each joint a share of attention per cell; its place and depth are the cells' means.

    Args:
        places_crop: the middles of all cells (P, 2) in the crop, [-0.5, 0.5], grid after grid.
    """

    places_crop: Tensor

    def __init__(self, feature_dim: int, grids: Sequence[tuple[int, int]], places_crop: Float[Tensor, "P 2"]) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.read = nn.ModuleList(nn.Linear(feature_dim, 2 * NUM_JOINTS) for _ in grids)
        self.register_buffer("places_crop", places_crop)

    def forward(self, crop_features: Float[Tensor, "B T P C"]) -> list[GuidedJoints]:
        """Return the joints of each frame, as each grid sees them."""
        counts = [rows * columns for rows, columns in self.grids]
        answers = []
        for grid, read, features, places in zip(
            self.grids, self.read, crop_features.split(counts, dim=2), self.places_crop.split(counts), strict=True
        ):
            logits, depth = rearrange(read(features).float(), "B T P (two J) -> two B T J P", two=2)
            share = torch.softmax(logits, dim=-1)
            depth_m = DEPTH_UNIT_M * (share * depth).sum(-1)
            joints_crop = share @ places
            squared = (share * (places - joints_crop[..., None, :]).square().sum(-1)).sum(-1)
            spread = squared.clamp(min=TINY_SPREAD**2).sqrt()
            answers.append(GuidedJoints(grid, logits, joints_crop, spread, depth_m - depth_m[..., :1]))
        return answers


class JointReader(nn.Module):
    """Makes one word of what the guide has found, for the token of each frame.

    Of every joint and grid: where it is, how sure that is (the spread of its attention), how deep, and what the
    features say there. A token that looks for itself gets what one glance per head and layer brings.
    """

    def __init__(self, feature_dim: int, token_dim: int, guide: JointGuide) -> None:
        super().__init__()
        num_grids = len(guide.grids)
        self.look = nn.ModuleList(nn.Linear(feature_dim, LOOK_DIM) for _ in range(num_grids))
        self.expand = nn.Linear(num_grids * NUM_JOINTS * (LOOK_DIM + 4), HIDDEN_DIM)
        self.contract = nn.Linear(HIDDEN_DIM, token_dim)
        start_at_zero(self.contract)

    def forward(
        self, crop_features: Float[Tensor, "B T P C"], guided: Sequence[GuidedJoints]
    ) -> Float[Tensor, "B T D"]:
        """Return what is added to the tokens."""
        counts = [rows * columns for rows, columns in (one.grid for one in guided)]
        told = []
        for look, features, one in zip(self.look, crop_features.split(counts, dim=2), guided, strict=True):
            share = torch.softmax(one.logits, dim=-1)
            seen = share.to(features.dtype) @ look(features)
            place = PLACE_GAIN * torch.cat([one.joints_crop, one.spread[..., None]], dim=-1)
            told.append(torch.cat([seen.float(), place, one.depth_m[..., None] / DEPTH_UNIT_M], dim=-1).flatten(-2))
        return self.contract(F.gelu(self.expand(torch.cat(told, dim=-1))))
