"""A trajectory as a skin on moving bones, which is what scene files hold: shape baked in, pose correctives left out."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from haptic.geometry.rotations import quat_from_rotation, rotation_from_quat
from haptic.geometry.transforms import apply_transform
from haptic.hand.joints import JOINT_NAMES, MANO_NAMES, MANO_PARENTS, PARENTS_21
from haptic.hand.mirror import mirror_params, mirror_points, mirror_transform
from haptic.hand.model import HandModel, trajectory_faces, trajectory_mesh
from haptic.records import HandParams, Trajectory

MAX_INFLUENCES = 4  # bones per vertex that viewers agree on
CHUNK_FRAMES = 256
TIP_NAMES = tuple(name for name in JOINT_NAMES if name.endswith("_tip"))
BONE_NAMES = MANO_NAMES + TIP_NAMES  # the fingertips carry no skin; they end the fingers for whoever needs an end
BONE_PARENTS = MANO_PARENTS + tuple(MANO_NAMES.index(JOINT_NAMES[PARENTS_21[JOINT_NAMES.index(n)]]) for n in TIP_NAMES)


@dataclass(frozen=True)
class Rig:
    """One hand: the unposed skin and its 21 bones, and where each of MANO's 16 bones is in every frame, in the world.

    A bone's rest orientation is the identity. `skin_bones` and `skin_weights` are a vertex's strongest bones.
    Quaternions are (w, x, y, z): half the numbers of matrices, and a film has many frames.
    """

    rest_verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    rest_bones: Float[np.ndarray, "21 3"]
    skin_bones: Int[np.ndarray, "V 4"]
    skin_weights: Float[np.ndarray, "V 4"]
    bone_quats: Float[np.ndarray, "T 16 4"]
    bone_positions: Float[np.ndarray, "T 16 3"]


def make_rig(model: HandModel, trajectory: Trajectory) -> Rig:
    """Return the hand as a skin that moves."""
    assert len(trajectory.frame_index) > 0, "a hand without frames has no rig"
    is_right = bool(trajectory.is_right)
    with torch.no_grad():
        params = trajectory.params if is_right else mirror_params(trajectory.params)
        betas = params.betas[0]
        rest_verts = model.layer.v_template + torch.einsum("vcb,b->vc", model.layer.shapedirs, betas)
        rest_bones = model.rest_joints(betas)
        rest_tips = model.tip_template + torch.einsum("vcb,b->vc", model.tip_shapedirs, betas)
        rest_bones = torch.cat([rest_bones, rest_tips])
        if not is_right:
            rest_verts, rest_bones = mirror_points(rest_verts), mirror_points(rest_bones)
        places = _bone_places(model, params, trajectory)
    skin_bones, skin_weights = strongest_bones(model.weights.cpu().numpy())
    return Rig(
        rest_verts=rest_verts.cpu().numpy(),
        faces=trajectory_faces(model, trajectory).cpu().numpy(),
        rest_bones=rest_bones.cpu().numpy(),
        skin_bones=skin_bones,
        skin_weights=skin_weights,
        bone_quats=places[..., :4],
        bone_positions=places[..., 4:],
    )


def _bone_places(model: HandModel, params: HandParams, trajectory: Trajectory) -> Float[np.ndarray, "T 16 7"]:
    """Return quaternion and position of every bone in the world; `params` are a right hand's."""
    runs = []
    for start in range(0, len(params.transl), CHUNK_FRAMES):
        frames = slice(start, start + CHUNK_FRAMES)
        T_cam_bone = model.bone_transforms(params[frames])
        if not trajectory.is_right:
            T_cam_bone = mirror_transform(T_cam_bone)
        T_world_bone = trajectory.camera.T_world_cam[frames, None].to(T_cam_bone) @ T_cam_bone
        quats = quat_from_rotation(T_world_bone[..., :3, :3])
        runs.append(torch.cat([quats, T_world_bone[..., :3, 3]], dim=-1).float())
    return torch.cat(runs).cpu().numpy()


def skin_error_mm(model: HandModel, trajectory: Trajectory, rig: Rig) -> float:
    """Return how far the skin strays from the model's own mesh, at most over all vertices and frames."""
    worst_m = 0.0
    for start in range(0, len(rig.bone_quats), CHUNK_FRAMES):
        frames = torch.arange(start, min(start + CHUNK_FRAMES, len(rig.bone_quats)))
        piece = trajectory[frames]
        with torch.no_grad():
            verts_cam = trajectory_mesh(model, piece).verts
            verts_world = apply_transform(piece.camera.T_world_cam.to(verts_cam), verts_cam).cpu().numpy()
        skinned = skin(rig, frames.numpy())
        worst_m = max(worst_m, float(np.linalg.norm(skinned - verts_world, axis=-1).max()))
    return 1000 * worst_m


def strongest_bones(weights: Float[np.ndarray, "V B"]) -> tuple[Int[np.ndarray, "V 4"], Float[np.ndarray, "V 4"]]:
    """Return each vertex's four strongest bones, strongest first, and their shares, which sum to one."""
    bones = np.argsort(-weights, axis=1, kind="stable")[:, :MAX_INFLUENCES]
    shares = np.take_along_axis(weights, bones, axis=1).astype(np.float64)
    shares = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.where(shares > 0, bones, 0), shares


def skin(rig: Rig, frames: Int[np.ndarray, " t"]) -> Float[np.ndarray, "t V 3"]:
    """Return the skin in some frames, in the world, as its bones carry it (linear blend skinning)."""
    num_bones = rig.bone_quats.shape[1]
    weights = np.zeros((len(rig.rest_verts), num_bones), np.float32)
    np.add.at(weights, (np.arange(len(rig.rest_verts))[:, None], rig.skin_bones), rig.skin_weights)
    rotation = rotation_from_quat(torch.from_numpy(rig.bone_quats[frames])).numpy()
    offset = rig.bone_positions[frames] - np.einsum("tbij,bj->tbi", rotation, rig.rest_bones[:num_bones])
    blended = weights @ np.concatenate([rotation, offset[..., None]], axis=-1).reshape(-1, num_bones, 12)
    blended = blended.reshape(-1, len(rig.rest_verts), 3, 4)
    return np.einsum("tvab,vb->tva", blended[..., :3], rig.rest_verts) + blended[..., 3]
