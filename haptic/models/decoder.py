"""The transformer decoder: per frame, one token asks the crop, the other frames, and the whole picture."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

AddedAttention = Literal["cross_view", "global"]
POSITION_BASE = 10000.0
NUM_BOX_VALUES = 4
TINY_WIDTH = 1e-3
MIDDLING_LOG_WIDTH = -1.0  # a crop 0.3 m wide, 0.8 m away


@dataclass(frozen=True)
class DecoderConfig:
    """HaMeR's decoder and what HaPTIC adds to each of its layers."""

    dim: int = 1024
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 1024
    # In this order, between the crop's attention and the feed-forward; () is HaMeR. The paper's ablations are
    # ("global", "cross_view"), ("cross_view",) and ("global",).
    added_attention: tuple[AddedAttention, ...] = ("cross_view", "global")
    max_frames: int = 30  # rows of the table of frame positions
    # Whether each frame's token is told where the crop lies before the lens and how wide it is (`seen_boxes`).
    # Published networks are not: a hand that comes nearer changes only their crops' sharpness.
    sees_box: bool = False
    # Whether each frame's token is told where the joints are and what the features say there (`haptic.models.joints`).
    # Published networks are not.
    sees_joints: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads", "head_dim", "mlp_dim", "max_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"decoder.{name} is {getattr(self, name)}; it must be 1 or more")
        if self.dim % 2:
            raise ValueError(f"decoder.dim is {self.dim}; it must be even, half sines and half cosines")
        known = {"cross_view", "global"}
        if set(self.added_attention) - known or len(set(self.added_attention)) < len(self.added_attention):
            raise ValueError(
                f"decoder.added_attention is {list(self.added_attention)}; expected each of cross_view and global "
                "at most once, in the order wanted"
            )


class Decoder(nn.Module):
    """Turns features into one token per frame (HaMeR's MANO transformer with HaPTIC's attentions across frames)."""

    frame_positions: Tensor

    def __init__(self, config: DecoderConfig, *, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Parameter(torch.zeros(config.dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.layers = nn.ModuleList(DecoderLayer(config, feature_dim=feature_dim) for _ in range(config.depth))
        self.box = nn.Linear(NUM_BOX_VALUES, config.dim) if config.sees_box else None
        if self.box is not None:
            start_at_zero(self.box)
        self.register_buffer("frame_positions", sine_positions(config.max_frames, config.dim))

    def forward(
        self,
        crop_features: Float[Tensor, "B T P C"],
        frame_features: Float[Tensor, "B T Q C"],
        boxes: Float[Tensor, "B T 3"] | None = None,
        joints: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the token of each frame.

        Args:
            boxes: of the crops, as `haptic.geometry.boxes.seen_boxes` gives them; one that sees none ignores them.
            joints: the word of a `JointReader`, where there is one.

        Raises:
            ValueError: the clip has more frames than there are positions for, or the boxes are missing.
        """
        batch, num_frames = crop_features.shape[:2]
        if num_frames > self.config.max_frames:
            raise ValueError(
                f"a clip of {num_frames} frames is longer than the network's table of {self.config.max_frames} frame "
                "positions; cut it into shorter windows (it was trained on 8)"
            )
        positions = self.frame_positions[:num_frames]
        tokens = self.token.expand(batch, num_frames, -1)
        if self.box is not None:
            if boxes is None:
                raise ValueError("this network sees where its crops lie; give it their boxes (seen_boxes) beside them")
            tokens = tokens + self.box(_box_values(boxes))
        if joints is not None:
            tokens = tokens + joints
        for layer in self.layers:
            tokens = layer(tokens, crop_features, frame_features, positions)
        return tokens


class DecoderLayer(nn.Module):
    """Self, crop, cross-view, global, feed-forward; every one adds to the token it reads."""

    def __init__(self, config: DecoderConfig, *, feature_dim: int) -> None:
        super().__init__()
        self.self_attention = LoneSelfAttention(config)
        self.crop_attention = PictureAttention(config, feature_dim=feature_dim)
        self.added = nn.ModuleDict()
        for name in config.added_attention:
            attention = (
                CrossViewAttention(config)
                if name == "cross_view"
                else PictureAttention(config, feature_dim=feature_dim)
            )
            start_at_zero(attention.to_out)
            self.added[name] = attention
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        tokens: Float[Tensor, "B T D"],
        crop_features: Float[Tensor, "B T P C"],
        frame_features: Float[Tensor, "B T Q C"],
        positions: Float[Tensor, "T D"],
    ) -> Float[Tensor, "B T D"]:
        """Return the tokens one layer on."""
        tokens = tokens + self.self_attention(tokens)
        tokens = tokens + self.crop_attention(tokens, crop_features)
        for name, attention in self.added.items():
            if name == "cross_view":
                tokens = tokens + attention(tokens, positions)
            else:
                tokens = tokens + attention(tokens, frame_features)
        return tokens + self.feed_forward(tokens)


class LoneSelfAttention(nn.Module):
    """Self-attention of a single token: the softmax over one is one, so only the value path is left of it."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        inner_dim = config.heads * config.head_dim
        self.norm = nn.LayerNorm(config.dim)
        self.to_v = nn.Linear(config.dim, inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, config.dim)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return what is added to the tokens."""
        return self.to_out(self.to_v(self.norm(tokens)))


class PictureAttention(nn.Module):
    """Each frame's token attends to the features of a picture of the same frame, which stay un-normalised."""

    def __init__(self, config: DecoderConfig, *, feature_dim: int) -> None:
        super().__init__()
        inner_dim = config.heads * config.head_dim
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner_dim, bias=False)
        self.to_kv = nn.Linear(feature_dim, 2 * inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, config.dim)

    def forward(self, tokens: Float[Tensor, "B T D"], features: Float[Tensor, "B T P C"]) -> Float[Tensor, "B T D"]:
        """Return what is added to the tokens."""
        query = rearrange(self.to_q(self.norm(tokens)), "B T (h d) -> (B T) h 1 d", h=self.heads)
        key, value = rearrange(self.to_kv(features), "B T P (two h d) -> two (B T) h P d", two=2, h=self.heads)
        answer = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(answer, "(B T) h 1 d -> B T (h d)", B=tokens.shape[0]))


class CrossViewAttention(nn.Module):
    """All frames of the clip attend to each other. Positions enter here only, never the residual."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        inner_dim = config.heads * config.head_dim
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.to_qkv = nn.Linear(config.dim, 3 * inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, config.dim)

    def forward(self, tokens: Float[Tensor, "B T D"], positions: Float[Tensor, "T D"]) -> Float[Tensor, "B T D"]:
        """Return what is added to the tokens."""
        qkv = self.to_qkv(self.norm(tokens + positions))
        query, key, value = rearrange(qkv, "B T (three h d) -> three B h T d", three=3, h=self.heads)
        answer = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(answer, "B h T d -> B T (h d)"))


class FeedForward(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.expand = nn.Linear(config.dim, config.mlp_dim)
        self.contract = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return what is added to the tokens."""
        return self.contract(F.gelu(self.expand(self.norm(tokens))))


def sine_positions(num_positions: int, dim: int) -> Float[Tensor, "num_positions dim"]:
    """Return HaPTIC's table: all sines first, then all cosines; row 0 is zeros and ones."""
    half = dim // 2
    wavelength = POSITION_BASE ** (torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(num_positions, dtype=torch.float64)[:, None] / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def _box_values(boxes: Float[Tensor, "B T 3"]) -> Float[Tensor, "B T 4"]:
    """Return numbers of size one: direction, log of the width, and how much that differs from the first frame's."""
    log_width = boxes[..., 2:].clamp(min=TINY_WIDTH).log()
    return torch.cat([boxes[..., :2], log_width - MIDDLING_LOG_WIDTH, 3 * (log_width - log_width[:, :1])], dim=-1)


def start_at_zero(to_out: nn.Linear) -> None:
    """Silence a branch: before training, the network with it equals the network without."""
    nn.init.zeros_(to_out.weight)
    nn.init.zeros_(to_out.bias)
