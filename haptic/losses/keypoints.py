"""Losses of joints in the image, about the wrist, along the trajectory, and against a detector."""

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.robust import geman_mcclure
from haptic.losses.reduce import Reduce, weighted_mean, weighted_sum


def keypoint_2d_loss(
    joints_crop: Float[Tensor, "*batch J 2"],
    target_crop: Float[Tensor, "*batch J 2"],
    weight: Float[Tensor, "*batch J"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean L1 distance in the crop, [-0.5, 0.5] (HaMeR's)."""
    return reduce((joints_crop - target_crop).abs().sum(-1), weight)


def keypoint_3d_loss(
    joints: Float[Tensor, "*batch J 3"],
    target: Float[Tensor, "*batch J 3"],
    weight: Float[Tensor, "*batch J"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean L1 distance in metres, each hand about its own wrist, joint 0 (HaMeR's)."""
    return reduce(_distance_3d(joints, target), _known_about_wrist(weight))


def official_keypoint_3d_loss(
    joints: Float[Tensor, "*batch J 3"], target: Float[Tensor, "*batch J 3"], weight: Float[Tensor, "*batch J"]
) -> Float[Tensor, ""]:
    """Do as HaMeR does: a sum, and whatever is stored for an unlabelled wrist is taken for its place."""
    return weighted_sum(_distance_3d(joints, target), weight)


def joint_cell_loss(
    logits: Float[Tensor, "*batch J P"],
    target_crop: Float[Tensor, "*batch J 2"],
    weight: Float[Tensor, "*batch J"],
    *,
    grid: tuple[int, int],
    width: float = 1.0,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Cross-entropy of the cells in which joints lie; between middles of cells a joint is shared out linearly.

    Joints outside the grid do not count.

    Args:
        grid: rows and columns; logits go row by row.
        width: of the grid in the crop, whose height is 1.
    """
    rows, columns = grid
    row, column = (target_crop[..., 1] + 0.5) * rows - 0.5, (target_crop[..., 0] / width + 0.5) * columns - 0.5
    inside = (row >= -0.5) & (row <= rows - 0.5) & (column >= -0.5) & (column <= columns - 0.5)
    shares = [
        (1 - (place.clamp(0, count - 1)[..., None] - torch.arange(count, device=place.device)).abs()).clamp(min=0)
        for place, count in ((row, rows), (column, columns))
    ]
    target = (shares[0][..., :, None] * shares[1][..., None, :]).flatten(-2)
    return reduce(-(target * torch.log_softmax(logits, dim=-1)).sum(-1), weight * inside)


def joint_depth_loss(
    depth_m: Float[Tensor, "*batch J"],
    target: Float[Tensor, "*batch J 3"],
    weight: Float[Tensor, "*batch J"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean L1 distance in metres of depths about the wrist, joint 0."""
    return reduce(_distance_3d(depth_m[..., None], target[..., 2:]), _known_about_wrist(weight))


def keypoint_4d_loss(
    joints_cam: Float[Tensor, "*batch T J 3"],
    target_cam: Float[Tensor, "*batch T J 3"],
    weight: Float[Tensor, "*batch T J"],
    *,
    reduce: Reduce = weighted_mean,
) -> Float[Tensor, ""]:
    """Mean L1 distance in metres, each clip from the wrist of its first frame (HaPTIC's)."""
    # A clip whose first wrist is unlabelled has no origin to compare from.
    known = weight * (weight[..., :1, :1] > 0)
    return reduce(_distance_4d(joints_cam, target_cam), known)


def official_keypoint_4d_loss(
    joints_cam: Float[Tensor, "*batch T J 3"],
    target_cam: Float[Tensor, "*batch T J 3"],
    weight: Float[Tensor, "*batch T J"],
) -> Float[Tensor, ""]:
    """Do as HaPTIC does: a sum, and whatever is stored for an unlabelled first wrist is taken for its place."""
    return weighted_sum(_distance_4d(joints_cam, target_cam), weight)


def _known_about_wrist(weight: Tensor) -> Tensor:
    """A hand whose wrist is unlabelled has no origin to compare from."""
    return weight * (weight[..., :1] > 0)


def _distance_3d(joints: Tensor, target: Tensor) -> Tensor:
    """L1, each hand about its wrist."""
    return ((joints - joints[..., :1, :]) - (target - target[..., :1, :])).abs().sum(-1)


def _distance_4d(joints_cam: Tensor, target_cam: Tensor) -> Tensor:
    """L1, each clip about the wrist of its first frame."""
    start, target_start = joints_cam[..., :1, :1, :], target_cam[..., :1, :1, :]
    return ((joints_cam - start) - (target_cam - target_start)).abs().sum(-1)


def reprojection_loss(
    points_img: Float[Tensor, "*batch J 2"],
    target_img: Float[Tensor, "*batch J 2"],
    weight: Float[Tensor, "*batch J"],
    *,
    box_side_px: Float[Tensor, "*batch"],
    robust_scale: float,
) -> Float[Tensor, ""]:
    """Mean squared distance as a share of the hand's box, of which no joint can cost more than `robust_scale`^2.

    Dividing by the box makes the loss the same at every resolution and distance.
    """
    squared = ((points_img - target_img) / box_side_px[..., None, None]).square().sum(-1)
    return weighted_mean(geman_mcclure(squared, robust_scale), weight)


def centred_loss(
    points: Float[Tensor, "*batch J 3"],
    target: Float[Tensor, "*batch J 3"],
    weight: Float[Tensor, "*batch"],
    *,
    robust_scale_m: float,
) -> Float[Tensor, ""]:
    """Mean squared distance in m^2, each set of points about its own centre; no point costs more than the scale^2."""
    difference = (points - points.mean(-2, keepdim=True)) - (target - target.mean(-2, keepdim=True))
    squared = difference.square().sum(-1)
    return weighted_mean(geman_mcclure(squared, robust_scale_m), weight[..., None].expand_as(squared))
