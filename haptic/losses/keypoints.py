"""Losses of joints in the image, about the wrist, along the trajectory, and against a detector."""

from jaxtyping import Float
from torch import Tensor

from haptic.losses.reduce import weighted_mean
from haptic.losses.robust import geman_mcclure


def keypoint_2d_loss(
    joints_crop: Float[Tensor, "*batch J 2"],
    target_crop: Float[Tensor, "*batch J 2"],
    weight: Float[Tensor, "*batch J"],
) -> Float[Tensor, ""]:
    """Mean L1 distance in the crop, [-0.5, 0.5] (HaMeR's)."""
    return weighted_mean((joints_crop - target_crop).abs().sum(-1), weight)


def keypoint_3d_loss(
    joints: Float[Tensor, "*batch J 3"],
    target: Float[Tensor, "*batch J 3"],
    weight: Float[Tensor, "*batch J"],
) -> Float[Tensor, ""]:
    """Mean L1 distance in metres, each hand about its own wrist, joint 0 (HaMeR's)."""
    # A hand whose wrist is unlabelled has no origin to compare from.
    known = weight * (weight[..., :1] > 0)
    about_wrist, target_about_wrist = joints - joints[..., :1, :], target - target[..., :1, :]
    return weighted_mean((about_wrist - target_about_wrist).abs().sum(-1), known)


def keypoint_4d_loss(
    joints_cam: Float[Tensor, "*batch T J 3"],
    target_cam: Float[Tensor, "*batch T J 3"],
    weight: Float[Tensor, "*batch T J"],
) -> Float[Tensor, ""]:
    """Mean L1 distance in metres, each clip from the wrist of its first frame (HaPTIC's)."""
    # A clip whose first wrist is unlabelled has no origin to compare from.
    known = weight * (weight[..., :1, :1] > 0)
    start, target_start = joints_cam[..., :1, :1, :], target_cam[..., :1, :1, :]
    return weighted_mean(((joints_cam - start) - (target_cam - target_start)).abs().sum(-1), known)


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
