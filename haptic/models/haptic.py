"""HaPTIC (Ye et al. 2025): a short clip of one hand in, its pose, shape and depth in every frame out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from haptic.geometry.boxes import seen_boxes
from haptic.models.backbone import Backbone, BackboneConfig, window_of
from haptic.models.decoder import Decoder, DecoderConfig
from haptic.models.heads import Readout
from haptic.models.joints import JointGuide, JointReader
from haptic.records import Clip, HandPrediction

MIN_BOX_SHARE = 1 / 3
OPTIONAL_PARTS = re.compile(
    r"decoder\.layers\.\d+\.added\.(?P<attention>\w+)\.|(decoder\.|readout\.|)(?P<part>box|trust|guide|joint_reader)\."
)


@dataclass(frozen=True)
class HapticConfig:
    """The network's measures; the defaults are the official ones."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    crop_side_px: int = 256
    frame_side_px: int = 256
    keep_width: float = 0.75  # the share of the columns, about the middle, that the backbone sees
    anti_alias: Literal["off", "blur"] = "off"  # of pictures that are shrunk; official weights were trained without
    box_share: float = 1.0  # the crop's square over HaPTIC's, which is three times the hand's tight box

    def __post_init__(self) -> None:
        if not 0 < self.keep_width <= 1:
            raise ValueError(f"keep_width is {self.keep_width}; it is a share, above 0 and up to 1")
        if not MIN_BOX_SHARE <= self.box_share <= 1:
            raise ValueError(
                f"box_share is {self.box_share}; expected {MIN_BOX_SHARE:g} to 1: a third is the hand's tight box, and "
                "stored crops reach no further than HaPTIC's square"
            )
        if self.anti_alias not in ("off", "blur"):
            raise ValueError(f"anti_alias is {self.anti_alias!r}; expected off or blur")
        for name in ("crop_side_px", "frame_side_px"):
            side_px = getattr(self, name)
            kept_px = side_px * self.keep_width
            if side_px < 1 or kept_px != round(kept_px) or (side_px - kept_px) % 2:
                raise ValueError(
                    f"{name} is {side_px}; keep_width = {self.keep_width} of it must be a whole number of columns "
                    "with as many dropped on the left as on the right (256 keeps 192)"
                )


class Haptic(nn.Module):
    """Backbone, decoder, readout. One backbone serves the crop and the full frame.

    `predict` is the whole; `encode` and `decode` are its halves, for whoever keeps features from window to window.
    """

    def __init__(self, config: HapticConfig | None = None, *, initialise: bool = True) -> None:
        super().__init__()
        self.config = config or HapticConfig()
        self.backbone = Backbone(
            self.config.backbone,
            height_px=self.config.crop_side_px,
            width_px=round(self.config.crop_side_px * self.config.keep_width),
            any_size=self.config.frame_side_px != self.config.crop_side_px,
            initialise=initialise,
        )
        self.decoder = Decoder(self.config.decoder, feature_dim=self.backbone.dim)
        self.readout = Readout(self.config.decoder.dim, sees_box=self.config.decoder.sees_box)
        self.guide: JointGuide | None = None
        self.joint_reader: JointReader | None = None
        if self.config.decoder.sees_joints:
            self.guide = JointGuide(self.backbone.dim, self.backbone.grids(), self.token_places())
            self.joint_reader = JointReader(self.backbone.dim, self.config.decoder.dim, self.guide)

    @property
    def has_depth(self) -> bool:
        """Whether the depth readout says anything: HaMeR's weights have none, and then it is all zeros."""
        return bool(self.readout.depth.weight.detach().any())

    def forward(
        self,
        crops: Float[Tensor, "B T 3 S S"],
        frames: Float[Tensor, "B T 3 R R"],
        boxes: Float[Tensor, "B T 3"] | None = None,
    ) -> HandPrediction:
        """Do what `predict` does; here so that hooks and data-parallel wrappers see the call."""
        return self.predict(crops, frames, boxes)

    def predict(
        self,
        crops: Float[Tensor, "B T 3 S S"],
        frames: Float[Tensor, "B T 3 R R"],
        boxes: Float[Tensor, "B T 3"] | None = None,
    ) -> HandPrediction:
        """Return the prediction of each frame. A single image is a clip with T = 1.

        Args:
            crops: right hands, cut and normalised as `haptic.data.crops` does it.
            frames: the full pictures they come from, padded to squares.
            boxes: of the crops, as `haptic.geometry.boxes.seen_boxes` gives them. Networks whose decoder sees no box
                (all published ones) do without.

        Raises:
            ValueError: the pictures have other sides than the config says, the clip is longer than 30 frames, or the
                boxes are missing.
        """
        return self.predict_groups([(crops, frames, boxes)])[0]

    def predict_clips(self, clips: Sequence[Clip]) -> list[HandPrediction]:
        """Return the predictions of several groups of clips, whose lengths may differ; see `predict_groups`."""
        return self.predict_groups([(clip.crops, clip.frames, boxes_of(clip)) for clip in clips])

    def predict_groups(
        self,
        groups: Sequence[tuple[Float[Tensor, "_ _ 3 _ _"], Float[Tensor, "_ _ 3 _ _"], Float[Tensor, "_ _ 3"] | None]],
    ) -> list[HandPrediction]:
        """Return the predictions of several groups of clips, whose lengths may differ.

        Each group is crops (B, T, 3, S, S), frames (B, T, 3, R, R) and boxes (B, T, 3), with B and T of its own.
        Pictures of one size pass through the backbone together: it is faster, and normalisation over the batch (in
        convolutional backbones) then sees in training the mixture of crops and full frames that it will see later.

        Raises:
            ValueError: the pictures have other sides than the config says, a clip is longer than 30 frames, or boxes
                are missing.
        """
        features = self.encode_groups([(crops, frames) for crops, frames, _boxes in groups])
        return [
            self.decode(of_crops, of_frames, boxes)
            for (of_crops, of_frames), (_crops, _frames, boxes) in zip(features, groups, strict=True)
        ]

    def encode_groups(
        self, groups: Sequence[tuple[Float[Tensor, "_ _ 3 _ _"], Float[Tensor, "_ _ 3 _ _"]]]
    ) -> list[tuple[Float[Tensor, "_ _ P C"], Float[Tensor, "_ _ Q C"]]]:
        """Return what `decode` takes, for several groups of clips at once; the first half of `predict_groups`."""
        for crops, frames in groups:
            self._check_sides(crops, frames)
        crops, frames = (torch.cat([one[kind].flatten(0, 1) for one in groups]) for kind in (0, 1))
        if crops.shape == frames.shape:
            crop_features, frame_features = self.encode(torch.cat([crops, frames])).chunk(2)
        else:
            crop_features, frame_features = self.encode(crops), self.encode(frames)
        counts = [one.shape[0] * one.shape[1] for one, _frames in groups]
        return [
            (
                rearrange(of_crops, "(B T) P C -> B T P C", B=one.shape[0]),
                rearrange(of_frames, "(B T) Q C -> B T Q C", B=one.shape[0]),
            )
            for (one, _frames), of_crops, of_frames in zip(
                groups, crop_features.split(counts), frame_features.split(counts), strict=True
            )
        ]

    def token_places(self) -> Float[Tensor, "P 2"]:
        """Return the middles of the cells that a crop's tokens stand for, in the crop, [-0.5, 0.5]."""
        places = []
        for rows, columns in self.backbone.grids():
            y = (torch.arange(rows) + 0.5) / rows - 0.5
            x = self.config.keep_width * ((torch.arange(columns) + 0.5) / columns - 0.5)
            places.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
        return torch.cat(places)

    def encode(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N P C"]:
        """Return the backbone's tokens of crops or of full frames: one pass per picture."""
        return self.backbone(window_of(images, self.config.keep_width))

    def decode(
        self,
        crop_features: Float[Tensor, "B T P C"],
        frame_features: Float[Tensor, "B T Q C"],
        boxes: Float[Tensor, "B T 3"] | None = None,
    ) -> HandPrediction:
        """Return the prediction from features of both kinds, and the crops' boxes where the decoder sees them.

        Raises:
            ValueError: there are more frames than the network has positions for, or the boxes are missing.
        """
        joints = None
        if self.guide is not None and self.joint_reader is not None:
            joints = self.joint_reader(crop_features, self.guide(crop_features))
        return self.readout(self.decoder(crop_features, frame_features, boxes, joints), boxes)

    def _check_sides(self, crops: Tensor, frames: Tensor) -> None:
        for what, images, side_px in (
            ("crops", crops, self.config.crop_side_px),
            ("frames", frames, self.config.frame_side_px),
        ):
            if images.shape[-2:] != (side_px, side_px):
                raise ValueError(
                    f"{what} are {tuple(images.shape[-2:])} pixels; this network takes ({side_px}, {side_px}), "
                    "cut them with haptic.data.crops"
                )


def optional_part(parameter_name: str) -> str | None:
    """Return the part that a weight belongs to if a config may add it to HaMeR's network or leave it out, else None.

    Such are the attentions across frames and to the whole picture, and what sees boxes and joints.
    """
    found = OPTIONAL_PARTS.match(parameter_name)
    if found is None:
        return None
    return found["part"] or f"attention {found['attention']}"


def is_optional(parameter_name: str) -> bool:
    """Say whether a weight belongs to an `optional_part`."""
    return optional_part(parameter_name) is not None


def boxes_of(clip: Clip) -> Float[Tensor, "B T 3"]:
    """Return what a network that sees boxes is told of a clip's."""
    return seen_boxes(clip.box_center_img, clip.box_side_px, clip.camera.K)
