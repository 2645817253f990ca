"""Where a detector's landmarks sit on the hand: not at the model's joints.

MediaPipe's wrist lies about a tenth of the hand's box from MANO's, its fingertips behind the ends of the fingers. Each
landmark is taken as its joint plus an offset that is constant in the frame of one bone, so that it moves with the bone,
in units of the hand's size, so that it grows with the hand. `data_prep/measure_landmarks.py` measured the offsets, and
what they leave unexplained, on rendered openhands. Joints that do not come from a detector of ours need no offsets.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from haptic.files import find_asset
from haptic.hand.joints import OPENPOSE_FROM_MANO
from haptic.hand.model import HandModel
from haptic.records import HandParams, Record

MEASURED = "openhand/hand_landmarker_offsets.npz"
LandmarkKind = Literal["mediapipe", "joints"]
# Of labels, or of a network trained on them, as a share of the box: a few pixels on a hand of two hundred.
JOINT_SPREAD = 0.02

# Per landmark in OpenPose order, MANO's joint at the beginning of its bone; a fingertip belongs to the last bone.
OWN_BONE = tuple(
    joint if joint < 16 else OPENPOSE_FROM_MANO[landmark - 1] for landmark, joint in enumerate(OPENPOSE_FROM_MANO)
)


@dataclass(frozen=True)
class LandmarkModel(Record):
    """Offsets of landmarks from joints, in OpenPose order.

    `offset` is in the rest frame of MANO's joint `frame_joint`, in units of `hand_size`. `spread` is the standard
    deviation in each image axis of what the offsets leave over, as a share of the hand's box (the longer side of the
    detected landmarks): the natural weight of a landmark is one over it.
    """

    offset: Float[Tensor, "21 3"]
    frame_joint: Int[Tensor, " 21"]
    spread: Float[Tensor, " 21"]


def load_landmark_model(kind: LandmarkKind) -> LandmarkModel:
    """Return the measured landmarks of MediaPipe's hand landmarker, or the plain joints of the model."""
    if kind == "joints":
        return LandmarkModel(torch.zeros(21, 3), torch.tensor(OWN_BONE), torch.full((21,), JOINT_SPREAD))
    return _load_measured()


def hand_size(model: HandModel, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch"]:
    """Return the length from the wrist to the middle finger's knuckle in metres."""
    rest = model.rest_joints(betas)
    return (rest[..., 4, :] - rest[..., 0, :]).norm(dim=-1)


def detector_landmarks(
    model: HandModel, params: HandParams, landmark_model: LandmarkModel
) -> Float[Tensor, "*batch 21 3"]:
    """Return where the detector's landmarks lie on a right hand, in the frame of `params`. Never builds the mesh."""
    turn = model.bone_transforms(params)[..., landmark_model.frame_joint, :3, :3]
    offset = (turn @ landmark_model.offset[..., None])[..., 0]
    return model.joints(params) + hand_size(model, params.betas)[..., None, None] * offset


@cache
def _load_measured() -> LandmarkModel:
    with np.load(find_asset(MEASURED), allow_pickle=False) as archive:
        return LandmarkModel(
            offset=torch.from_numpy(archive["offset"]).float(),
            frame_joint=torch.from_numpy(archive["frame_joint"]).long(),
            spread=torch.from_numpy(archive["spread"]).float(),
        )
