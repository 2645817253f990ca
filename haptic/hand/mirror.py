"""Left hands: the one home of every mirror in the package.

A left hand is the mirror image of a right one across x. With M = diag(-1, 1, 1) points become M p, rotations M R M,
pixels W - 1 - x (pixel centres are integers), and the principal point likewise. Parameters of a left hand written this
way are in MANO_LEFT's convention: the left model's template, joints and pose directions are the mirrored right ones,
and `betas` carry over unchanged. (The published MANO_LEFT.pkl stores its shape directions with the sign of x not
mirrored; who feeds `betas` to that file must negate `shapedirs[:, 0, :]` first, as is common practice.)
"""

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from haptic.records import Camera, HandMesh, HandParams, HandTrack


def mirror_points(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Negate x."""
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)


def mirror_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return M R M: what the rotation is to a mirrored body."""
    sign = rotation.new_tensor([-1.0, 1.0, 1.0])
    return rotation * sign[:, None] * sign[None, :]


def mirror_params(params: HandParams) -> HandParams:
    """Turn right-hand parameters into MANO_LEFT's, or back: it is its own inverse."""
    return HandParams(
        global_orient=mirror_rotation(params.global_orient),
        hand_pose=mirror_rotation(params.hand_pose),
        betas=params.betas,
        transl=mirror_points(params.transl),
    )


def mirror_mesh(mesh: HandMesh) -> HandMesh:
    """Mirror vertices and joints; the faces must be turned too (`mirror_faces`)."""
    return HandMesh(verts=mirror_points(mesh.verts), joints=mirror_points(mesh.joints))


def mirror_faces(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """Reverse every triangle, so that the outside stays outside on the mirrored mesh."""
    return faces[:, [0, 2, 1]]


def mirror_points_img(points_img: Float[Tensor, "*batch 2"], width_px: int) -> Float[Tensor, "*batch 2"]:
    """Return W - 1 - x, y."""
    return torch.cat([width_px - 1 - points_img[..., :1], points_img[..., 1:]], dim=-1)


def mirror_image(image: np.ndarray) -> np.ndarray:
    """Flip an image (H, W, ...) left to right."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return cv2.flip(image, 1)  # thirty times as fast as numpy's copy
    return np.ascontiguousarray(image[:, ::-1])


def mirror_K(K: Float[Tensor, "*batch 3 3"], width_px: int) -> Float[Tensor, "*batch 3 3"]:
    """Return the intrinsics of the flipped image: the principal point goes to W - 1 - cx, skew changes sign."""
    mirrored = K.clone()
    mirrored[..., 0, 2] = width_px - 1 - K[..., 0, 2]
    mirrored[..., 0, 1] = -K[..., 0, 1]
    return mirrored


def mirror_transform(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Return the transform between the mirrored frames."""
    sign = transform.new_tensor([-1.0, 1.0, 1.0, 1.0])
    return transform * sign[:, None] * sign[None, :]


def mirror_camera(camera: Camera, width_px: int) -> Camera:
    """Return the camera that sees the mirrored world in the flipped image."""
    return Camera(K=mirror_K(camera.K, width_px), T_world_cam=mirror_transform(camera.T_world_cam))


def mirror_track(track: HandTrack, width_px: int) -> HandTrack:
    """Turn a track of a left hand into one of a right hand in the flipped image, or back."""
    return replace(
        track,
        box_center_img=mirror_points_img(track.box_center_img, width_px),
        joints_img=mirror_points_img(track.joints_img, width_px),
        landmarks=mirror_points(track.landmarks),
        is_right=~track.is_right,
    )
