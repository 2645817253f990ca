"""From the network's answer to a place in the camera: its weak camera, box and depth become MANO's `transl`.

Everything here is about right hands in (flipped) images, like the network's answer itself. The official functions keep
quirks that published numbers rest on; the others do what the camera does.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

CROP_FOCAL_PX = 5000.0  # the camera HaMeR imagines before its 256 pixel crop
CROP_SIDE_PX = 256.0
TINY = 1e-9  # HaMeR's guard against dividing by zero


def translation_in_crop(
    scale: Float[Tensor, "*batch"], shift_crop: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 3"]:
    """Return where the hand is before HaMeR's imagined crop camera."""
    depth = 2 * CROP_FOCAL_PX / (CROP_SIDE_PX * scale + TINY)
    return torch.cat([shift_crop, depth[..., None]], dim=-1)


def project_to_crop(
    points: Float[Tensor, "*batch N 3"], transl: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch N 2"]:
    """Return the points in the crop, [-0.5, 0.5], as HaMeR's imagined camera sees them."""
    points_cam = points + transl[..., None, :]
    return CROP_FOCAL_PX / CROP_SIDE_PX * points_cam[..., :2] / points_cam[..., 2:]


def weak_depth(
    scale: Float[Tensor, "*batch"], box_side_px: Float[Tensor, "*batch"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Return the depth in metres at which the camera sees the hand as large as the network does (Weak2Full).

    The network says that the box's side is 2 / scale metres. It may say nonsense: a scale below zero gives a depth
    behind the camera.
    """
    return weak_depth_of_width(scale, box_side_px / (K[..., 0, 0] * K[..., 1, 1]).sqrt())


def weak_depth_of_width(scale: Float[Tensor, "*batch"], box_width: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return `weak_depth` for a box whose side, one metre before the lens, is so many metres (`seen_boxes`)."""
    return 2 / (box_width * scale)


def lift_at_depth(
    shift_crop: Float[Tensor, "*batch 2"],
    box_center_img: Float[Tensor, "*batch 2"],
    depth: Float[Tensor, "*batch"],
    K: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch 3"]:
    """Return `transl` at a known depth: the box's centre on its ray, and the shift from there.

    Both axes use their own focal length; with square pixels it is `official_lift_at_depth`.
    """
    focal_px = torch.stack([K[..., 0, 0], K[..., 1, 1]], dim=-1)
    side_ways = shift_crop + (box_center_img - K[..., :2, 2]) * depth[..., None] / focal_px
    return torch.cat([side_ways, depth[..., None]], dim=-1)


def official_lift_weak(
    scale: Float[Tensor, "*batch"],
    shift_crop: Float[Tensor, "*batch 2"],
    box_center_img: Float[Tensor, "*batch 2"],
    box_side_px: Float[Tensor, "*batch"],
    K: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch 3"]:
    """Return `transl` from the weak camera alone (HaPTIC's cam_crop_to_full_w_pp), with one focal length."""
    size = box_side_px * scale
    depth = 2 * K[..., 0, 0] / size
    side_ways = shift_crop + 2 * (box_center_img - K[..., :2, 2]) / size[..., None]
    return torch.cat([side_ways, depth[..., None]], dim=-1)


def official_lift_at_depth(
    shift_crop: Float[Tensor, "*batch 2"],
    box_center_img: Float[Tensor, "*batch 2"],
    depth: Float[Tensor, "*batch"],
    K: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch 3"]:
    """Return `transl` at a known depth (HaPTIC's cam_crop_to_full_w_depth): the first focal length for both axes."""
    side_ways = shift_crop + (box_center_img - K[..., :2, 2]) * (depth / K[..., 0, 0])[..., None]
    return torch.cat([side_ways, depth[..., None]], dim=-1)


def hamer_lift(
    scale: Float[Tensor, "*batch"],
    shift_crop: Float[Tensor, "*batch 2"],
    box_center_img: Float[Tensor, "*batch 2"],
    box_side_px: Float[Tensor, "*batch"],
    *,
    focal_px: float,
    image_size: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 3"]:
    """Return `transl` as HaMeR's demo does: principal point at (W/2, H/2).

    Args:
        image_size: (W, H) in pixels.
    """
    size = box_side_px * scale + TINY
    side_ways = shift_crop + 2 * (box_center_img - image_size / 2) / size[..., None]
    return torch.cat([side_ways, (2 * focal_px / size)[..., None]], dim=-1)


def chain_depth(
    frames: Sequence[Sequence[int]], keep: Sequence[Sequence[int]], depth: Sequence[Float[Tensor, " W"]]
) -> Float[Tensor, " T"]:
    """Join the depths of overlapping windows of a track: relative to its first frame.

    The network's absolute depth means little, so windows are joined where they overlap and only differences inside a
    window count. Where one frame is kept twice the later answer wins, as the official files do.

    Args:
        frames: of each window, counted from the track's first.
        keep: the places in each window whose depth is kept; the others are settled by the windows before.
    """
    chained = torch.zeros(max(one[-1] for one in frames) + 1, dtype=depth[0].dtype, device=depth[0].device)
    for number, (own, kept, predicted) in enumerate(zip(frames, keep, depth, strict=True)):
        if number > 0:
            # The frames that the windows so far have settled; always at least this window's first.
            known = [place for place in range(len(own)) if place not in kept]
            offset = (chained[[own[place] for place in known]] - predicted[known]).mean()
        else:
            offset = -predicted[0]
        for place in kept:
            chained[own[place]] = predicted[place] + offset
    return chained
