"""What training minimises: the losses of one step, weighted and added.

Two reductions. `mean`: every term is a mean over what is known in the whole batch, over all processes. `official`: the
sums of HaMeR and HaPTIC, whose balance changes with the batch's size and with how much is labelled. Both take the same
weights and agree exactly on the reference batch, 8 windows of 8 frames and 8 images with every label known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.data.batches import ClipBatch, RealHands
from haptic.geometry.cameras import project
from haptic.geometry.lift import lift_at_depth, project_to_crop, translation_in_crop, weak_depth
from haptic.hand.model import HandModel
from haptic.losses.adversarial import deceiving_loss, discriminator_loss, official_discriminator_loss
from haptic.losses.keypoints import (
    joint_cell_loss,
    joint_depth_loss,
    keypoint_2d_loss,
    keypoint_3d_loss,
    keypoint_4d_loss,
    official_keypoint_3d_loss,
    official_keypoint_4d_loss,
)
from haptic.losses.parameters import betas_loss, first_depth_loss, rotation_loss
from haptic.losses.reduce import Reduce, global_weighted_mean, weighted_sum
from haptic.models.discriminator import Discriminator
from haptic.models.heads import MIN_SCALE
from haptic.models.joints import GuidedJoints
from haptic.records import HandParams, HandPrediction

REFERENCE_HANDS = 64  # of the official video batch: 8 windows of 8 frames
REFERENCE_IMAGES = 8
NEAREST_M = 0.05  # a hand that is thought to reach through the lens is seen as if it ended here
GUIDE_TERMS = ("guide_cells", "guide_2d", "guide_depth")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the means. The defaults are the official weights of sums times how much the reference batch sums.

    2D and 3D 0.05 x 64 hands x 21 joints; 4D 0.01 x 64 x 21; wrist 0.001 x 64; fingers 0.001 x 64 x 15; shape
    0.0005 x 64; the first frame's depth and the adversarial term are means in the official code too.
    """

    joints_2d: float = 0.05 * REFERENCE_HANDS * 21
    joints_3d: float = 0.05 * REFERENCE_HANDS * 21
    joints_4d: float = 0.01 * REFERENCE_HANDS * 21
    global_orient: float = 0.001 * REFERENCE_HANDS
    hand_pose: float = 0.001 * REFERENCE_HANDS * 15
    betas: float = 0.0005 * REFERENCE_HANDS
    first_depth: float = 10.0
    adversarial: float = 0.0005
    guide_cells: float = 0.0  # of the guide's joints (haptic.models.joints); all three off: there is none
    guide_2d: float = 0.0
    guide_depth: float = 0.0
    image: float = REFERENCE_IMAGES / REFERENCE_HANDS  # of the image batch's terms beside the video batch's

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"objective.weights.{one.name} is {value}; expected 0 (off) or a positive number")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which losses, and how they are added."""

    weights: LossWeights = field(default_factory=LossWeights)
    reduction: Literal["mean", "official"] = "mean"
    # The 4D loss compares places before the camera. `official` takes (s, tx, depth) for one, HaPTIC's slip, whose
    # depth alone is right; for reproduction only.
    trajectory: Literal["camera", "official"] = "camera"
    # How the 2D loss sees the hand. `crop` is HaMeR's imagined camera, so far off that a hand has hardly any
    # perspective: close to a lens it looks otherwise, and 2D and 3D labels then pull against each other by millimetres.
    # `camera` looks through the true one where it is known, from where weak camera and box put the hand.
    projection: Literal["crop", "camera"] = "crop"
    # So many steps see the 2D and 3D joints alone: a network that starts from nothing first has to find the hand.
    joints_only_steps: int = 0
    guide_only_steps: int = 0  # and before those so many that see the guide alone: the backbone learns, and from crops

    def __post_init__(self) -> None:
        for name in ("joints_only_steps", "guide_only_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; it must be 0 or more")
        if self.guide_only_steps and not self.has_guide:
            raise ValueError(
                f"objective.guide_only_steps is {self.guide_only_steps}, but the guide is off; give "
                "objective.weights.guide_cells, guide_2d or guide_depth a weight"
            )

    @property
    def has_guide(self) -> bool:
        """Whether there is a guide."""
        return any(getattr(self.weights, name) > 0 for name in GUIDE_TERMS)


# How many values each official sum has in the reference batch.
REFERENCE_COUNTS = {
    "joints_2d": REFERENCE_HANDS * 21, "joints_3d": REFERENCE_HANDS * 21, "joints_4d": REFERENCE_HANDS * 21,
    "global_orient": REFERENCE_HANDS, "hand_pose": REFERENCE_HANDS * 15, "betas": REFERENCE_HANDS,
    "first_depth": 1, "adversarial": 1, "guide_cells": REFERENCE_HANDS * 21,
    "guide_2d": REFERENCE_HANDS * 21, "guide_depth": REFERENCE_HANDS * 21,
}  # fmt: skip
JOINT_TERMS = ("joints_2d", "joints_3d", *GUIDE_TERMS)
IMAGE_PREFIX = "image_"


@dataclass(frozen=True)
class StepLoss:
    """The value to be minimised and what it is made of; `terms` are unweighted, those of images begin with `image_`.

    `total` leaves out `discriminator`, which has its own optimiser.
    """

    total: Float[Tensor, ""]
    discriminator: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]


class Objective:
    """Predictions and labels in, the losses of a step out; everything in single precision."""

    def __init__(self, config: ObjectiveConfig, hand_model: HandModel) -> None:
        self.config, self._hand_model = config, hand_model
        self._is_official = config.reduction == "official"
        self._reduce: Reduce = weighted_sum if self._is_official else global_weighted_mean

    def to(self, device: torch.device) -> None:
        """Move the hand model to where predictions will be."""
        self._hand_model.to(device)

    def __call__(
        self,
        video: tuple[HandPrediction, ClipBatch] | None,
        image: tuple[HandPrediction, ClipBatch] | None,
        *,
        discriminator: Discriminator,
        real: RealHands | None,
        step: int,
        guided: Sequence[tuple[list[GuidedJoints], ClipBatch]] = (),
        width: float = 1.0,
    ) -> StepLoss:
        """Return the losses of one step.

        The generator's loss does not reach the discriminator's weights nor the other way round, so that one backward
        pass serves both.

        Args:
            real: hands that occur; None leaves the adversarial terms out.
            step: how many steps were made before.
            guided: what the guide says of the videos and of the images; both count alike.
            width: of the part of the crop that the backbone sees, whose height is 1.
        """
        terms: dict[str, Tensor] = {}
        predictions: list[HandPrediction] = []
        if video is not None:
            prediction = single_precision(video[0])
            terms |= self.clip_terms(prediction, video[1]) | self.window_terms(prediction, video[1])
            predictions.append(prediction)
        if image is not None:
            prediction = single_precision(image[0])
            image_terms = self.clip_terms(prediction, image[1])
            terms |= {IMAGE_PREFIX + name: value for name, value in image_terms.items()}
            predictions.append(prediction)
        if guided:
            terms |= self.guide_terms(guided, width)
        zero = next(iter(terms.values())) * 0
        if self.config.weights.adversarial > 0 and real is not None and predictions:
            terms["adversarial"], terms["discriminator"] = self.adversarial_terms(discriminator, predictions, real)
        total = sum((value * self.weight_of(name, step=step) for name, value in terms.items()), start=zero)
        judged = terms.get("discriminator", zero) * self.config.weights.adversarial
        return StepLoss(total, judged, {name: value.detach() for name, value in terms.items()})

    def weight_of(self, name: str, *, step: int) -> float:
        """Return what a term is multiplied by in the total."""
        if name == "discriminator":
            return 0.0
        plain = name.removeprefix(IMAGE_PREFIX)
        if step < self.config.guide_only_steps + self.config.joints_only_steps and plain not in JOINT_TERMS:
            return 0.0
        weight = getattr(self.config.weights, plain)
        if self._is_official:
            weight /= REFERENCE_COUNTS[plain]
        if name.startswith(IMAGE_PREFIX):
            weight *= self.config.weights.image * (REFERENCE_HANDS / REFERENCE_IMAGES if self._is_official else 1)
        return weight

    def clip_terms(self, prediction: HandPrediction, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the terms that windows and images share: 2D, 3D, wrist, fingers, shape."""
        targets, reduce = batch.targets, self._reduce
        joints = self.joints_of(prediction)
        joints_crop = (
            joints_in_crop(joints, prediction, batch)
            if self.config.projection == "camera"
            else project_to_crop(joints, translation_in_crop(prediction.scale, prediction.shift_crop))
        )
        compare_3d = official_keypoint_3d_loss if self._is_official else _global_keypoint_3d_loss
        rotations_known = targets.params_weight
        return {
            "joints_2d": keypoint_2d_loss(joints_crop, batch.joints_crop, targets.joints_img_weight, reduce=reduce),
            "joints_3d": compare_3d(joints, targets.joints_cam, targets.joints_cam_weight),
            "global_orient": rotation_loss(
                prediction.global_orient, targets.params.global_orient, rotations_known, reduce=reduce
            ),
            "hand_pose": rotation_loss(
                prediction.hand_pose,
                targets.params.hand_pose,
                rotations_known[..., None].expand(prediction.hand_pose.shape[:-2]),
                reduce=reduce,
            ),
            "betas": betas_loss(prediction.betas, targets.params.betas, batch.betas_weight, reduce=reduce),
        }

    def window_terms(self, prediction: HandPrediction, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the terms of motion: 4D joints, and the first frame's depth, which is to be zero."""
        targets = batch.targets
        transl = (
            lift_from_true_start(prediction, batch, self._hand_model)
            if self.config.trajectory == "camera"
            else torch.cat(
                [prediction.scale[..., None], prediction.shift_crop[..., :1], prediction.depth[..., None]], dim=-1
            )
        )
        joints_cam = self.joints_of(prediction) + transl[..., None, :]
        compare_4d = official_keypoint_4d_loss if self._is_official else _global_keypoint_4d_loss
        known = targets.joints_cam_weight * batch.place_weight[..., None]
        if self.config.trajectory == "camera":
            known = known * batch.camera_weight[..., None]  # a guessed K says nothing about x and y
        return {
            "joints_4d": compare_4d(joints_cam, targets.joints_cam, known),
            "first_depth": first_depth_loss(prediction.depth, reduce=global_weighted_mean),
        }

    def adversarial_terms(
        self, discriminator: Discriminator, predictions: Sequence[HandPrediction], real: RealHands
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the generator's and the discriminator's loss; each reaches the weights of its own network only."""
        hand_pose = torch.cat([one.hand_pose.flatten(0, 1) for one in predictions])
        betas = torch.cat([one.betas.flatten(0, 1) for one in predictions])
        frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
        deceived = torch.func.functional_call(discriminator, frozen, (hand_pose, betas))
        fake_answers = discriminator(hand_pose.detach(), betas.detach())
        real_answers = discriminator(real.hand_pose, real.betas)
        if self._is_official:
            judged = official_discriminator_loss(fake_answers, real_answers)
        else:
            judged = discriminator_loss(fake_answers, real_answers, reduce=global_weighted_mean)
        return deceiving_loss(deceived, reduce=global_weighted_mean), judged

    def guide_terms(self, guided: Sequence[tuple[list[GuidedJoints], ClipBatch]], width: float) -> dict[str, Tensor]:
        """Return the guide's terms: means over grids, and over all hands of the batch alike.

        Args:
            width: of the part of the crop that the backbone sees, whose height is 1.
        """
        target_crop, target_cam, weight_img, weight_cam = (
            torch.cat([value.flatten(0, 1) for value in values])
            for values in zip(
                *((part.joints_crop, part.targets.joints_cam, part.targets.joints_img_weight,
                   part.targets.joints_cam_weight) for _, part in guided), strict=True,
            )
        )  # fmt: skip
        sums: dict[str, Tensor] = {}
        num_grids = len(guided[0][0])
        for number in range(num_grids):
            grids = [answers[number] for answers, _ in guided]
            logits, joints_crop, depth_m = (
                torch.cat([value.flatten(0, 1) for value in values])
                for values in zip(*((one.logits, one.joints_crop, one.depth_m) for one in grids), strict=True)
            )
            reduce = self._reduce
            found = {
                "guide_cells": joint_cell_loss(
                    logits, target_crop, weight_img, grid=grids[0].grid, width=width, reduce=reduce
                ),
                "guide_2d": keypoint_2d_loss(joints_crop, target_crop, weight_img, reduce=reduce),
                "guide_depth": joint_depth_loss(depth_m, target_cam, weight_cam, reduce=reduce),
            }
            sums = {name: sums.get(name, 0.0) + value / num_grids for name, value in found.items()}
        return sums

    def joints_of(self, prediction: HandPrediction) -> Float[Tensor, "B T 21 3"]:
        """Return the predicted joints in the hand's own frame (no translation)."""
        return self._hand_model.joints(params_at(prediction, torch.zeros_like(prediction.betas[..., :3])))


def params_at(prediction: HandPrediction, transl: Float[Tensor, "B T 3"]) -> HandParams:
    """Return the predicted hand at a place."""
    return HandParams(
        global_orient=prediction.global_orient, hand_pose=prediction.hand_pose, betas=prediction.betas, transl=transl
    )


def lift_from_true_start(prediction: HandPrediction, batch: ClipBatch, hand_model: HandModel) -> Float[Tensor, "B T 3"]:
    """Return `transl` before the camera if the first wrist has its true depth and the network tells the changes."""
    rest_wrist_depth = hand_model.rest_joints(prediction.betas[:, :1])[..., 0, 2].detach()
    start = batch.wrist_depth[:, :1] - rest_wrist_depth
    depth = start + prediction.depth - prediction.depth[:, :1]
    return lift_at_depth(prediction.shift_crop, batch.box_center_img, depth, batch.camera.K)


@runtime_checkable
class Seen(Protocol):
    """Through what boxes and cameras hands are seen; `camera_weight` is zero where K is a guess."""

    @property
    def box_center_img(self) -> Float[Tensor, "B T 2"]:
        """The middle of each square, in pixels."""

    @property
    def box_side_px(self) -> Float[Tensor, "B T"]:
        """Its side."""

    @property
    def K(self) -> Float[Tensor, "B T 3 3"]:
        """The camera's."""

    @property
    def camera_weight(self) -> Float[Tensor, "B T"]:
        """Whether it is known."""


def joints_in_crop(
    joints: Float[Tensor, "B T 21 3"], prediction: HandPrediction, seen: Seen
) -> Float[Tensor, "B T 21 2"]:
    """Return joints about the hand's own origin in the crop, [-0.5, 0.5], as the true camera sees them.

    The hand is where weak camera and box put it (Weak2Full). Joints behind the lens are held before it. Where K is a
    guess, HaMeR's imagined camera sees them.
    """
    depth = weak_depth(prediction.scale.clamp(min=MIN_SCALE), seen.box_side_px, seen.K)
    points_cam = joints + lift_at_depth(prediction.shift_crop, seen.box_center_img, depth, seen.K)[..., None, :]
    before = torch.cat([points_cam[..., :2], points_cam[..., 2:].clamp(min=NEAREST_M)], dim=-1)
    true = (project(before, seen.K) - seen.box_center_img[..., None, :]) / seen.box_side_px[..., None, None]
    imagined = project_to_crop(joints, translation_in_crop(prediction.scale, prediction.shift_crop))
    return torch.where(seen.camera_weight[..., None, None] > 0, true, imagined)


def single_precision(prediction: HandPrediction) -> HandPrediction:
    """Return the prediction in float32, whatever autocast made of it."""
    return replace(prediction, **{one.name: getattr(prediction, one.name).float() for one in fields(HandPrediction)})


def _global_keypoint_3d_loss(joints: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return keypoint_3d_loss(joints, target, weight, reduce=global_weighted_mean)


def _global_keypoint_4d_loss(joints_cam: Tensor, target_cam: Tensor, weight: Tensor) -> Tensor:
    return keypoint_4d_loss(joints_cam, target_cam, weight, reduce=global_weighted_mean)
