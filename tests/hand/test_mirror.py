"""Left hands are mirrored right hands, in every form."""

from dataclasses import replace

import numpy as np
import smplx
import torch
from smplx.utils import Struct

from haptic.files import find_asset
from haptic.geometry.cameras import project
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.mano import read_hand_model_data
from haptic.hand.mirror import (
    mirror_faces,
    mirror_K,
    mirror_params,
    mirror_points,
    mirror_points_img,
    mirror_rotation,
    mirror_transform,
)
from haptic.hand.model import OPENHAND, load_hand_model, trajectory_mesh
from haptic.records import Camera, HandParams, Trajectory


def some_params(seed: int, frames: int = 3) -> HandParams:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return HandParams(
        global_orient=rotation_from_aa(draw(frames, 3)),
        hand_pose=rotation_from_aa(0.3 * draw(frames, 15, 3)),
        betas=draw(frames, 10),
        transl=draw(frames, 3) * 0.1 + torch.tensor([0.0, 0.0, 0.5]),
    )


def left_layer() -> smplx.MANOLayer:
    """A left-hand model as MANO_LEFT is meant to be: every array of the right one mirrored."""
    data = read_hand_model_data(find_asset(OPENHAND))
    sign = np.array([-1.0, 1.0, 1.0])
    # A mirrored bend negates the entries of R - I that hold x once.
    feature_sign = np.tile((sign[:, None] * sign[None, :]).reshape(9), 15)
    struct = Struct(
        v_template=data.v_template * sign,
        f=data.f[:, [0, 2, 1]],
        J_regressor=data.J_regressor,
        weights=data.weights,
        shapedirs=data.shapedirs * sign[None, :, None],
        posedirs=data.posedirs * sign[None, :, None] * feature_sign,
        kintree_table=data.kintree_table,
        hands_mean=data.hands_mean,
        hands_components=data.hands_components,
    )
    return smplx.MANOLayer("MANO_LEFT", data_struct=struct, is_rhand=False, use_pca=False, flat_hand_mean=True)


def test_the_mirrored_right_model_and_a_left_model_agree():
    model = load_hand_model()
    left_params = some_params(0)
    trajectory = Trajectory(
        frame_index=torch.arange(3),
        time_s=torch.arange(3) / 30,
        params=left_params,
        camera=Camera(K=torch.eye(3).expand(3, 3, 3), T_world_cam=torch.eye(4).expand(3, 4, 4)),
        confidence=torch.ones(3),
        observed=torch.ones(3, dtype=torch.bool),
        is_right=torch.tensor(False),
    )
    ours = trajectory_mesh(model, trajectory).verts
    theirs = left_layer()(
        global_orient=left_params.global_orient[:, None],
        hand_pose=left_params.hand_pose,
        betas=left_params.betas,
        transl=left_params.transl,
        pose2rot=False,
    ).vertices
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    right = trajectory_mesh(model, replace(trajectory, is_right=torch.tensor(True))).verts
    assert (ours - right).norm(dim=-1).mean() > 0.01


def test_mirroring_twice_changes_nothing():
    params = some_params(1)
    twice = mirror_params(mirror_params(params))
    torch.testing.assert_close(twice.global_orient, params.global_orient)
    torch.testing.assert_close(twice.transl, params.transl)


def test_a_mirrored_hand_projects_to_the_flipped_image():
    K = torch.tensor([[500.0, 1.5, 300.0], [0.0, 510.0, 250.0], [0.0, 0.0, 1.0]])
    points = torch.tensor([[0.1, -0.05, 0.6], [-0.2, 0.03, 0.9]])
    flipped = project(mirror_points(points), mirror_K(K, 640))
    torch.testing.assert_close(flipped, mirror_points_img(project(points, K), 640), atol=1e-3, rtol=0)


def test_a_mirrored_rotation_turns_mirrored_points():
    rotation, points = rotation_from_aa(torch.tensor([0.3, -0.8, 1.1])), torch.randn(7, 3)
    torch.testing.assert_close(
        mirror_points(points @ rotation.T), mirror_points(points) @ mirror_rotation(rotation).T, atol=1e-6, rtol=0
    )
    T = torch.eye(4)
    T[:3, :3] = rotation
    torch.testing.assert_close(mirror_transform(T)[:3, :3], mirror_rotation(rotation))


def test_the_outside_of_a_mirrored_mesh_stays_outside():
    model = load_hand_model()
    verts = model(some_params(2, frames=1)).verts[0]

    def signed_volume(verts: torch.Tensor, faces: torch.Tensor) -> float:
        a, b, c = (verts[faces[:, corner]] for corner in range(3))
        return float((a * torch.linalg.cross(b, c)).sum() / 6)

    centred = verts - verts.mean(0)
    right = signed_volume(centred, model.faces)
    left = signed_volume(mirror_points(centred), mirror_faces(model.faces))
    assert right > 0
    assert abs(left - right) < 1e-7
