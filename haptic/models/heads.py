"""Readouts: a token per frame becomes MANO pose and shape, a weak camera and a depth."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from haptic.geometry.lift import weak_depth_of_width
from haptic.geometry.rotations import rotation_from_6d
from haptic.models.decoder import start_at_zero
from haptic.records import HandPrediction

NUM_ROTATIONS = 16  # the wrist and fifteen finger joints
NUM_BETAS = 10
MIN_SCALE = 1.0  # a crop two metres wide: what is below is nonsense, and near zero it would be far away
START_GAIN = 0.01  # almost nothing, but not nothing: the depth readout must not look absent


class Readout(nn.Module):
    """Four linear readouts, each added to a fixed start (HaMeR's mean parameters; the depth starts at zero).

    One that sees boxes has a fifth: how far to trust the depth that box and scale give by themselves (Weak2Full), whose
    change since the first frame is added to the depth by that share.

    The start of the pose is an offset and nothing more: HaMeR stores it in another 6D order than it decodes.
    """

    mean_pose_6d: Tensor
    mean_betas: Tensor
    mean_camera: Tensor
    mean_depth: Tensor

    def __init__(self, token_dim: int, *, sees_box: bool = False) -> None:
        super().__init__()
        self.pose = nn.Linear(token_dim, NUM_ROTATIONS * 6)
        self.betas = nn.Linear(token_dim, NUM_BETAS)
        self.camera = nn.Linear(token_dim, 3)
        self.depth = nn.Linear(token_dim, 1)
        self.trust = nn.Linear(token_dim, 1) if sees_box else None
        if self.trust is not None:
            start_at_zero(self.trust)
        identity_6d = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]).repeat(NUM_ROTATIONS)
        self.register_buffer("mean_pose_6d", identity_6d)
        self.register_buffer("mean_betas", torch.zeros(NUM_BETAS))
        # s = 4: a crop side of half a metre, so a hand fills a third of it.
        self.register_buffer("mean_camera", torch.tensor([4.0, 0.0, 0.0]))
        self.register_buffer("mean_depth", torch.zeros(1))

    def start_at_mean(self, scale: Float[Tensor, ""]) -> None:
        """Let a network that learns from nothing begin with a flat, average hand in the crop's middle.

        Args:
            scale: the mean s of the training boxes, which are 2 / s metres wide at the hand.
        """
        for layer in (self.pose, self.betas, self.camera, self.depth):
            nn.init.xavier_uniform_(layer.weight, gain=START_GAIN)
            nn.init.zeros_(layer.bias)
        self.mean_camera.copy_(torch.stack([scale, torch.zeros_like(scale), torch.zeros_like(scale)]))

    def forward(self, tokens: Float[Tensor, "B T D"], boxes: Float[Tensor, "B T 3"] | None = None) -> HandPrediction:
        """Return the prediction of each frame.

        Args:
            boxes: of the crops (`haptic.geometry.boxes.seen_boxes`), for a readout that sees them.
        """
        pose_6d = self.pose(tokens) + self.mean_pose_6d
        rotations = rotation_from_6d(rearrange(pose_6d, "B T (r six) -> B T r six", six=6))
        camera = self.camera(tokens) + self.mean_camera
        scale, shift_crop = camera.split([1, 2], dim=-1)
        depth = self.depth(tokens) + self.mean_depth
        if self.trust is not None:
            assert boxes is not None, "the decoder has asked for them"
            weak = weak_depth_of_width(scale.float().clamp(min=MIN_SCALE), boxes[..., 2:])
            depth = depth + self.trust(tokens) * (weak - weak[:, :1])
        return HandPrediction(
            global_orient=rotations[:, :, 0],
            hand_pose=rotations[:, :, 1:],
            betas=self.betas(tokens) + self.mean_betas,
            scale=rearrange(scale, "B T 1 -> B T"),
            shift_crop=shift_crop,
            depth=rearrange(depth, "B T 1 -> B T"),
        )
