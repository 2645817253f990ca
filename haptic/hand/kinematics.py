"""The hand's landmarks and their derivatives in closed form: the inner loop of solvers, without autograd.

A landmark moves about every joint between itself and the wrist: its derivative along a joint's angle is that angle's
axis crossed with the way from the joint to the landmark. One pass gives all of them, about a hundred times cheaper
than one forward derivative for each unknown. Fingertips are taken as fixed to the last bone, which leaves out the
millimetre or two by which skinning and pose correctives move them; `haptic.hand.landmarks` has the exact places.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.rotations import skew
from haptic.hand.anatomy import joint_axes, pose_from_angles
from haptic.hand.joints import FINGERTIP_VERTICES, OPENPOSE_FROM_MANO
from haptic.hand.landmarks import OWN_BONE, LandmarkModel
from haptic.hand.model import HandModel

NUM_RIGID = 6  # turn about the wrist (3, in the camera's axes, applied on the left), translation (3)
NUM_ANGLES = 45  # 15 joints x (flexion, abduction, twist)
NUM_BETAS = 10


@dataclass(frozen=True)
class MovedLandmarks:
    """Landmarks and how they move: `jacobian` columns are turn 3, translation 3, angles 45, betas 10."""

    points: Float[Tensor, "B 21 3"]
    jacobian: Float[Tensor, "B 21 3 61"]


class LandmarkKinematics:
    """Where a right hand's landmarks lie for given angles (`haptic.hand.anatomy`), and their derivatives."""

    def __init__(self, model: HandModel, landmark_model: LandmarkModel, dtype: torch.dtype = torch.float32) -> None:
        # Joints by finger, in MANO's order: index, middle, little, ring, thumb; three each, then the tip.
        tips = [FINGERTIP_VERTICES.index(vertex) for vertex in (320, 443, 671, 554, 744)]

        def by_finger(joints: Tensor, tip_points: Tensor) -> Tensor:
            return torch.cat([joints[1:].unflatten(0, (5, 3)), tip_points[tips][:, None]], dim=1).to(dtype)

        self.wrist = model.joint_template[0].to(dtype)
        self.wrist_dirs = model.joint_shapedirs[0].to(dtype)
        self.rest = by_finger(model.joint_template, model.tip_template)  # (5, 4, 3)
        self.rest_dirs = by_finger(model.joint_shapedirs, model.tip_shapedirs)  # (5, 4, 3, 10)
        self.axes = joint_axes().to(dtype)
        self.offset = landmark_model.offset.to(dtype)
        self.frame_joint = landmark_model.frame_joint
        self.landmark_of = _landmark_of_finger_joint()  # (5, 4)
        self.moves_with = _moves_with(landmark_model.frame_joint).to(dtype)  # (21, 3)

    def points(
        self,
        orient: Float[Tensor, "B 3 3"],
        transl: Float[Tensor, "B 3"],
        angles: Float[Tensor, "B 15 3"],
        betas: Float[Tensor, "B 10"],
    ) -> Float[Tensor, "B 21 3"]:
        """Return the landmarks."""
        return self._pose(orient, transl, angles, betas)[0]

    def linearise(
        self,
        orient: Float[Tensor, "B 3 3"],
        transl: Float[Tensor, "B 3"],
        angles: Float[Tensor, "B 15 3"],
        betas: Float[Tensor, "B 10"],
    ) -> MovedLandmarks:
        """Return the landmarks with their derivatives by turn, translation, angles and betas."""
        points, places, turns = self._pose(orient, transl, angles, betas)
        batch = points.shape[0]
        jacobian = points.new_zeros(batch, 21, 3, NUM_RIGID + NUM_ANGLES + NUM_BETAS)
        wrist = self.wrist + betas @ self.wrist_dirs.T + transl
        jacobian[..., :3] = -skew(points - wrist[:, None])
        jacobian[..., 3:6] = torch.eye(3, dtype=points.dtype)
        axes = self._turned_axes(orient, turns, angles)  # (B, 5, 3, 3 angles, 3)
        by_finger = points[:, self.landmark_of]  # (B, 5, 4, 3)
        lever = by_finger[:, :, None] - places[:, :, :3, None]  # (B, 5, joint, landmark, 3)
        lever = lever * self.moves_with[self.landmark_of].transpose(1, 2)[..., None]
        swept = torch.linalg.cross(axes[:, :, :, None], lever[:, :, :, :, None])  # (B, 5, joint, landmark, angle, 3)
        for finger in range(5):
            first = NUM_RIGID + 9 * finger
            block = swept[:, finger].permute(0, 2, 4, 1, 3).flatten(-2)  # (B, landmark, 3, 9)
            jacobian[:, self.landmark_of[finger], :, first : first + 9] = block
        jacobian[..., NUM_RIGID + NUM_ANGLES :] = self._by_shape(orient, turns, betas)
        return MovedLandmarks(points, jacobian)

    def _pose(self, orient: Tensor, transl: Tensor, angles: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return landmarks (B, 21, 3), places of joints and tips (B, 5, 4, 3), turns of the bones (B, 16, 3, 3)."""
        local = pose_from_angles(angles).unflatten(1, (5, 3))
        rest = self.rest + torch.einsum("fjcs,bs->bfjc", self.rest_dirs, betas)
        rest_wrist = self.wrist + betas @ self.wrist_dirs.T
        turn = orient[:, None].expand(-1, 5, -1, -1)
        place = (rest_wrist + transl)[:, None].expand(-1, 5, -1)
        before = rest_wrist[:, None].expand(-1, 5, -1)
        turns, places = [], []
        for level in range(4):
            place = place + (turn @ (rest[:, :, level] - before)[..., None])[..., 0]
            before = rest[:, :, level]
            places.append(place)
            if level < 3:
                turn = turn @ local[:, :, level]
                turns.append(turn)
        finger_places = torch.stack(places, dim=2)
        all_turns = torch.cat([orient[:, None], torch.stack(turns, dim=2).flatten(1, 2)], dim=1)
        points = torch.empty_like(angles[:, :1]).expand(-1, 21, -1).clone()
        points[:, 0] = rest_wrist + transl
        points[:, self.landmark_of] = finger_places
        size = (rest[:, 1, 0] - rest_wrist).norm(dim=-1)  # to the middle finger's knuckle
        offset = (all_turns[:, self.frame_joint] @ self.offset[..., None])[..., 0]
        return points + size[:, None, None] * offset, finger_places, all_turns

    def _turned_axes(self, orient: Tensor, turns: Tensor, angles: Tensor) -> Tensor:
        """Return the axes about which each angle turns what lies beyond its joint: (B, 5, 3 joints, 3 angles, 3)."""
        by_finger = turns[:, 1:].unflatten(1, (5, 3))
        parents = torch.cat([orient[:, None, None].expand(-1, 5, 1, -1, -1), by_finger[:, :, :2]], dim=2)
        frame = parents @ self.axes.unflatten(0, (5, 3))  # columns: bone, hinge, upright
        bone, hinge, upright = frame.unbind(-1)
        (cf, ca, _), (sf, sa, _) = (part.unflatten(1, (5, 3)).unbind(-1) for part in (angles.cos(), angles.sin()))
        bent_bone = cf[..., None] * bone - sf[..., None] * upright
        bent_upright = sf[..., None] * bone + cf[..., None] * upright
        twist_axis = ca[..., None] * bent_bone + sa[..., None] * hinge
        return torch.stack([hinge, bent_upright, twist_axis], dim=-2)

    def _by_shape(self, orient: Tensor, turns: Tensor, betas: Tensor) -> Tensor:
        """Return the derivative of the landmarks by betas (B, 21, 3, 10)."""
        by_finger = turns[:, 1:].unflatten(1, (5, 3))
        moved = self.wrist_dirs.expand(orient.shape[0], 5, 3, 10)
        before = self.wrist_dirs.expand(5, 3, 10)
        moves = []
        for level in range(4):
            turn = orient[:, None] if level == 0 else by_finger[:, :, level - 1]
            moved = moved + turn @ (self.rest_dirs[:, level] - before)
            before = self.rest_dirs[:, level]
            moves.append(moved)
        answer = betas.new_empty(orient.shape[0], 21, 3, 10)
        answer[:, 0] = self.wrist_dirs
        answer[:, self.landmark_of] = torch.stack(moves, dim=2)
        way = self.rest[1, 0] - self.wrist + betas @ (self.rest_dirs[1, 0] - self.wrist_dirs).T
        size_move = (way / way.norm(dim=-1, keepdim=True)) @ (self.rest_dirs[1, 0] - self.wrist_dirs)  # (B, 10)
        offset = (turns[:, self.frame_joint] @ self.offset[..., None])[..., 0]
        return answer + offset[..., None] * size_move[:, None, None]


def _landmark_of_finger_joint() -> Tensor:
    """Return the OpenPose index of each of MANO's fingers' joints and tips (5, 4)."""
    rows = []
    for finger in range(5):
        first = OPENPOSE_FROM_MANO.index(3 * finger + 1)
        rows.append([first, first + 1, first + 2, first + 3])
    return torch.tensor(rows)


def _moves_with(frame_joint: Tensor) -> Tensor:
    """Return per landmark whether the first, second and third joint of its finger moves it (21, 3)."""
    answer = torch.zeros(21, 3)
    for landmark in range(1, 21):
        level = (landmark - 1) % 4  # 0, 1, 2 joints, 3 the tip
        rides_on_own_bone = level < 3 and int(frame_joint[landmark]) == OWN_BONE[landmark]
        for joint in range(3):
            answer[landmark, joint] = float(joint < level or (joint == level and rides_on_own_bone))
    return answer
