"""The guide: a second readout that only training has, for networks that start from nothing.

A backbone hears of the hand through one token per frame, and as long as that token knows nothing, nothing comes back:
the network settles on a mean hand, shrunk to where it costs least. The guide asks every cell of the crop's features
which joints lie there and how deep, and so the features are learned first. HaMeR's backbone comes from ViTPose, which
was trained to find joints; this is the same lesson, given along the way. It is thrown away afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

NUM_JOINTS = 21
DEPTH_UNIT_M = 0.1  # of the readout, so that depths are of the size of its other numbers


@dataclass(frozen=True)
class GuidedJoints:
    """What one grid of features says of the joints.

    `logits` over the grid's cells, row by row; the mean place in the crop, [-0.5, 0.5]; metres behind the wrist.
    """

    grid: tuple[int, int]
    logits: Float[Tensor, "B T 21 P"]
    joints_crop: Float[Tensor, "B T 21 2"]
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
            answers.append(GuidedJoints(grid, logits, share @ places, depth_m - depth_m[..., :1]))
        return answers
