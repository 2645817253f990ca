"""Pinhole cameras: points to pixels and back."""

import torch
from jaxtyping import Float
from torch import Tensor

MIN_DEPTH_M = 0.02  # nearer points, and those behind the camera, are projected as if they were here


def intrinsics(focal_px: float, *, width: int, height: int) -> Float[Tensor, "3 3"]:
    """Return K with one focal length and the principal point in the image's middle.

    Pixel centres are integers, so the middle of a 640 wide image is 319.5.
    """
    return torch.tensor([[focal_px, 0.0, (width - 1) / 2], [0.0, focal_px, (height - 1) / 2], [0.0, 0.0, 1.0]])


def project(points_cam: Float[Tensor, "*batch N 3"], K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch N 2"]:
    """Return the pixels of camera points. Depth is held at `MIN_DEPTH_M` or more, so that it never divides by zero."""
    depth = points_cam[..., 2:].clamp(min=MIN_DEPTH_M)
    flat = torch.cat([points_cam[..., :2] / depth, torch.ones_like(depth)], dim=-1)
    return flat @ K[..., :2, :].transpose(-1, -2)


def ray_directions(
    points_img: Float[Tensor, "*batch N 2"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch N 3"]:
    """Return the points at depth one metre that project to the pixels."""
    ones = torch.ones_like(points_img[..., :1])
    return torch.cat([points_img, ones], dim=-1) @ torch.linalg.inv(K).transpose(-1, -2)


def view_rotation(point_img: Float[Tensor, "*batch 2"], K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the shortest turn of the camera's axis onto the ray through a pixel: from a crop's axes to the camera's.

    A detector takes a crop for a picture taken straight ahead; what it says of depth is along the crop's own ray.
    """
    ray = ray_directions(point_img[..., None, :], K)[..., 0, :]
    ray = ray / ray.norm(dim=-1, keepdim=True)
    x, y, z = ray.unbind(-1)
    # Rodrigues with axis z x ray; the camera never looks backwards, so 1 + z is a safe divisor.
    share = 1 / (1 + z)
    rows = [
        torch.stack([1 - x * x * share, -x * y * share, x], dim=-1),
        torch.stack([-x * y * share, 1 - y * y * share, y], dim=-1),
        torch.stack([-x, -y, z], dim=-1),
    ]
    return torch.stack(rows, dim=-2)
