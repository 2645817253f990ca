"""Rotations: 3 x 3 matrices, and the other forms they come in at the edges. All functions can be differentiated."""

import torch
from jaxtyping import Float
from torch import Tensor

SMALL_ANGLE_RAD = 1e-4  # below it the series are more exact in float32 than the closed forms


def skew(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the matrix [v]x with [v]x w = v x w."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def rotation_from_aa(aa: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation by |aa| radians about aa (Rodrigues); smooth at zero, in its derivatives too."""
    angle_squared = (aa * aa).sum(-1)
    small = angle_squared < SMALL_ANGLE_RAD**2
    safe_squared = torch.where(small, torch.ones_like(angle_squared), angle_squared)
    angle = safe_squared.sqrt()
    sine_term = torch.where(small, 1 - angle_squared / 6, angle.sin() / angle)
    cosine_term = torch.where(small, 0.5 - angle_squared / 24, (1 - angle.cos()) / safe_squared)
    cross = skew(aa)
    identity = torch.eye(3, dtype=aa.dtype, device=aa.device)
    return identity + sine_term[..., None, None] * cross + cosine_term[..., None, None] * (cross @ cross)


def aa_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Return the axis-angle vector, |aa| <= pi, exact near zero and near pi (through the quaternion)."""
    quat = quat_from_rotation(rotation)
    w, xyz = quat[..., 0], quat[..., 1:]
    length = xyz.norm(dim=-1)
    small = length < SMALL_ANGLE_RAD
    safe_length = torch.where(small, torch.ones_like(length), length)
    scale = torch.where(small, 2 / w.clamp(min=0.5), 2 * torch.atan2(safe_length, w) / safe_length)
    return scale[..., None] * xyz


def quat_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Return the unit quaternion (w, x, y, z) with w >= 0."""
    m00, m11, m22 = rotation[..., 0, 0], rotation[..., 1, 1], rotation[..., 2, 2]
    # Twice the size of each component; the largest one is a safe divisor (Shepperd 1978).
    doubled = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], dim=-1)
    doubled = doubled.clamp(min=1e-12).sqrt()
    differences = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    sums = torch.stack(
        [
            rotation[..., 0, 1] + rotation[..., 1, 0],
            rotation[..., 0, 2] + rotation[..., 2, 0],
            rotation[..., 1, 2] + rotation[..., 2, 1],
        ],
        dim=-1,
    )
    dx, dy, dz = differences.unbind(-1)
    xy, xz, yz = sums.unbind(-1)
    w2, x2, y2, z2 = (doubled**2).unbind(-1)
    rows = torch.stack(
        [
            torch.stack([w2, dx, dy, dz], -1),
            torch.stack([dx, x2, xy, xz], -1),
            torch.stack([dy, xy, y2, yz], -1),
            torch.stack([dz, xz, yz, z2], -1),
        ],
        dim=-2,
    )
    best = doubled.argmax(-1)
    row = torch.take_along_dim(rows, best[..., None, None], dim=-2).squeeze(-2)
    quat = row / row.norm(dim=-1, keepdim=True)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def rotation_from_quat(quat: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation of a quaternion (w, x, y, z), which need not have length one."""
    w, x, y, z = (quat / quat.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))  # fmt: skip


def rotation_from_6d(code: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation whose first two COLUMNS are the orthonormalised halves of the code (HaMeR's convention).

    pytorch3d writes them as rows and SPIN interleaves them: both differ from this.
    """
    first, second = code[..., :3], code[..., 3:]
    b1 = torch.nn.functional.normalize(first, dim=-1, eps=1e-12)
    b2 = second - (b1 * second).sum(-1, keepdim=True) * b1
    b2 = torch.nn.functional.normalize(b2, dim=-1, eps=1e-12)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], dim=-1)


def code_6d_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """Return the first two columns, one after the other: the inverse of `rotation_from_6d`."""
    return torch.cat([rotation[..., :, 0], rotation[..., :, 1]], dim=-1)


def geodesic_angle(a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Return the angle in radians of the rotation that takes `a` to `b`; exact for small angles."""
    return aa_from_rotation(a.transpose(-1, -2) @ b).norm(dim=-1)


def slerp(
    a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"], share: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation `share` of the way from `a` (0) to `b` (1) at constant speed."""
    return a @ rotation_from_aa(share[..., None] * aa_from_rotation(a.transpose(-1, -2) @ b))


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation nearest to `matrix` in the Frobenius norm; never a reflection."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.det(u @ vh)
    diagonal = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (u * diagonal[..., None, :]) @ vh
