"""HaMeR's discriminator: says of a hand's finger rotations and shape how real they look (Kanazawa et al. 2018)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

NUM_FINGER_JOINTS = 15
JOINT_CHANNELS = 32
POSE_CHANNELS = 1024
NUM_ANSWERS = NUM_FINGER_JOINTS + 2


class Discriminator(nn.Module):
    """17 answers per hand, one meaning real and zero made up: one per finger joint, one of the shape, one of the pose.

    Names and layout are HaMeR's, so that its weights load.
    """

    def __init__(self) -> None:
        super().__init__()
        self.D_conv1 = nn.Conv2d(9, JOINT_CHANNELS, kernel_size=1)
        self.D_conv2 = nn.Conv2d(JOINT_CHANNELS, JOINT_CHANNELS, kernel_size=1)
        self.pose_out = nn.ModuleList(nn.Linear(JOINT_CHANNELS, 1) for _joint in range(NUM_FINGER_JOINTS))
        self.betas_fc1 = nn.Linear(10, 10)
        self.betas_fc2 = nn.Linear(10, 5)
        self.betas_out = nn.Linear(5, 1)
        self.D_alljoints_fc1 = nn.Linear(JOINT_CHANNELS * NUM_FINGER_JOINTS, POSE_CHANNELS)
        self.D_alljoints_fc2 = nn.Linear(POSE_CHANNELS, POSE_CHANNELS)
        self.D_alljoints_out = nn.Linear(POSE_CHANNELS, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, hand_pose: Float[Tensor, "N 15 3 3"], betas: Float[Tensor, "N 10"]) -> Float[Tensor, "N 17"]:
        """Return the answers: the joints' in MANO's order, then the shape's, then the whole pose's."""
        joints = rearrange(hand_pose, "N j a b -> N (a b) j 1")
        joints = self.D_conv2(self.D_conv1(joints).relu()).relu()
        per_joint = [out(joints[:, :, number, 0]) for number, out in enumerate(self.pose_out)]
        shape = self.betas_out(self.betas_fc2(self.betas_fc1(betas).relu()).relu())
        pose = rearrange(joints, "N c j 1 -> N (c j)")
        pose = self.D_alljoints_out(self.D_alljoints_fc2(self.D_alljoints_fc1(pose).relu()).relu())
        return torch.cat([*per_joint, shape, pose], dim=-1)
