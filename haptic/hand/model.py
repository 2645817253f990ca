"""The hand model: `HandParams` in, `HandMesh` out. One class serves the openhand and the user's licensed MANO."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from haptic.files import find_asset
from haptic.hand.joints import FINGERTIP_VERTICES, MANO_PARENTS, OPENPOSE_FROM_MANO
from haptic.hand.mano import HandModelData, mano_layer, read_hand_model_data
from haptic.hand.mirror import mirror_faces, mirror_mesh, mirror_params
from haptic.records import HandMesh, HandParams, Trajectory

OPENHAND = "openhand/OPENHAND_RIGHT.npz"
RUN_FRAMES = 1000


class HandModel(nn.Module):
    """A right hand in MANO's form: shape and pose directions and linear blend skinning (Romero et al. 2017).

    The full mesh goes through smplx's layer. `joints` is a fast path that computes only the 16 joints and the five
    fingertip vertices: the same numbers, some thirty times cheaper, for the solvers' inner loops.
    """

    faces: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor
    tip_template: Tensor
    tip_shapedirs: Tensor
    tip_posedirs: Tensor
    tip_weights: Tensor
    weights: Tensor
    hands_mean_aa: Tensor

    def __init__(self, data: HandModelData) -> None:
        super().__init__()
        self.name = data.name
        self.layer = mano_layer(data).requires_grad_(False)
        tips = torch.tensor(FINGERTIP_VERTICES)
        template, regressor = self.layer.v_template, self.layer.J_regressor
        posedirs = self.layer.posedirs.T.unflatten(0, (-1, 3))  # (778, 3, 135)
        self.register_buffer("faces", self.layer.faces_tensor.clone(), persistent=False)
        self.register_buffer("weights", self.layer.lbs_weights, persistent=False)
        self.register_buffer("joint_template", regressor @ template, persistent=False)
        joint_shapedirs = torch.einsum("jv,vcb->jcb", regressor, self.layer.shapedirs)
        self.register_buffer("joint_shapedirs", joint_shapedirs, persistent=False)
        self.register_buffer("tip_template", template[tips], persistent=False)
        self.register_buffer("tip_shapedirs", self.layer.shapedirs[tips], persistent=False)
        self.register_buffer("tip_posedirs", posedirs[tips].contiguous(), persistent=False)
        self.register_buffer("tip_weights", self.layer.lbs_weights[tips], persistent=False)
        self.register_buffer("hands_mean_aa", torch.as_tensor(data.hands_mean).float(), persistent=False)

    def forward(self, params: HandParams) -> HandMesh:
        """Return the mesh, in metres, in the frame of `params`; any leading axes."""
        batch = params.transl.shape[:-1]
        flat = HandParams(
            global_orient=params.global_orient.reshape(-1, 3, 3),
            hand_pose=params.hand_pose.reshape(-1, 15, 3, 3),
            betas=params.betas.reshape(-1, 10),
            transl=params.transl.reshape(-1, 3),
        )
        if flat.transl.shape[0] == 0:  # smplx cannot take an empty batch
            empty = params.transl.new_zeros
            num_verts = self.layer.v_template.shape[0]
            return HandMesh(verts=empty(*batch, num_verts, 3), joints=empty(*batch, 21, 3))
        output = self.layer(
            global_orient=flat.global_orient[:, None],
            hand_pose=flat.hand_pose,
            betas=flat.betas,
            transl=flat.transl,
            pose2rot=False,
        )
        verts = output.vertices
        joints = torch.cat([output.joints[:, :16], verts[:, list(FINGERTIP_VERTICES)]], dim=1)
        joints = joints[:, list(OPENPOSE_FROM_MANO)]
        return HandMesh(verts=verts.reshape(*batch, -1, 3), joints=joints.reshape(*batch, 21, 3))

    def rest_joints(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 16 3"]:
        """Return MANO's 16 joints of the unposed hand; the first is the wrist J0(betas)."""
        return self.joint_template + torch.einsum("jcb,...b->...jc", self.joint_shapedirs, betas)

    def bone_transforms(self, params: HandParams) -> Float[Tensor, "*batch 16 4 4"]:
        """Return, for each of MANO's 16 joints, the rotation and place of its bone in the frame of `params`."""
        rest = self.rest_joints(params.betas)
        local = torch.cat([params.global_orient[..., None, :, :], params.hand_pose], dim=-3)
        rotations: list[Tensor] = []
        places: list[Tensor] = []
        for joint, parent in enumerate(MANO_PARENTS):
            if parent < 0:
                rotations.append(local[..., 0, :, :])
                places.append(rest[..., 0, :] + params.transl)
                continue
            offset = (rest[..., joint, :] - rest[..., parent, :])[..., None]
            rotations.append(rotations[parent] @ local[..., joint, :, :])
            places.append(places[parent] + (rotations[parent] @ offset)[..., 0])
        top = torch.cat([torch.stack(rotations, -3), torch.stack(places, -2)[..., None]], dim=-1)
        bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
        return torch.cat([top, bottom], dim=-2)

    def joints(self, params: HandParams) -> Float[Tensor, "*batch 21 3"]:
        """Return the 21 joints in OpenPose order without building the mesh."""
        bones = self.bone_transforms(params)
        rest = self.rest_joints(params.betas)
        identity = torch.eye(3, dtype=rest.dtype, device=rest.device)
        pose_feature = (params.hand_pose - identity).flatten(-3)
        tips = self.tip_template + torch.einsum("vcb,...b->...vc", self.tip_shapedirs, params.betas)
        tips = tips + torch.einsum("vcp,...p->...vc", self.tip_posedirs, pose_feature)
        local = tips[..., :, None, :] - rest[..., None, :, :]  # each tip as each bone sees it
        moved = torch.einsum("...jab,...vjb->...vja", bones[..., :3, :3], local)
        moved = moved + bones[..., None, :, :3, 3]
        tips = torch.einsum("vj,...vja->...va", self.tip_weights, moved)
        return torch.cat([bones[..., :3, 3], tips], dim=-2)[..., list(OPENPOSE_FROM_MANO), :]


def load_hand_model(path: Path | None = None) -> HandModel:
    """Return the openhand, or the hand in the user's licensed `MANO_RIGHT.pkl` or npz.

    Raises:
        ValueError: the file is missing, is no hand model, has wrong shapes, or is a pickle that is not plain data.
    """
    if path is None:
        return HandModel(read_hand_model_data(find_asset(OPENHAND), family="openhand"))
    data = read_hand_model_data(path)
    # The openhand under another name is the openhand: its shape numbers mean what its weights have learned.
    return load_hand_model() if is_openhand(data.name) else HandModel(data)


def is_openhand(hand_model_name: str) -> bool:
    """Say whether a hand has the openhand's numbers, whatever file and family it came in."""
    shipped = read_hand_model_data(find_asset(OPENHAND), family="openhand").name
    return hand_model_name.partition("-")[2] == shipped.partition("-")[2]


def trajectory_mesh(model: HandModel, trajectory: Trajectory) -> HandMesh:
    """Return the hand of a trajectory in each frame's camera, left hands as left hands."""
    if trajectory.is_right:
        return model(trajectory.params)
    return mirror_mesh(model(mirror_params(trajectory.params)))


def trajectory_joints(model: HandModel, trajectory: Trajectory) -> Float[Tensor, "T 21 3"]:
    """Return the 21 joints of a trajectory in each frame's camera, without the mesh."""
    if trajectory.is_right:
        return in_runs(model.joints, trajectory.params)
    joints = in_runs(lambda run: model.joints(mirror_params(run)), trajectory.params)
    return joints * joints.new_tensor([-1.0, 1.0, 1.0])


def in_runs(function: Callable[[HandParams], Tensor], params: HandParams) -> Float[Tensor, "*frames"]:
    """Return `function` of T frames, some at a time: what it needs on the way then does not grow with a film."""
    num_frames = params.transl.shape[0]
    runs = [function(params[start : start + RUN_FRAMES]) for start in range(0, max(num_frames, 1), RUN_FRAMES)]
    return torch.cat(runs)


def trajectory_faces(model: HandModel, trajectory: Trajectory) -> Tensor:
    """Return the triangles (1538, 3) that belong to `trajectory_mesh`, outward for either side."""
    return model.faces if trajectory.is_right else mirror_faces(model.faces)
