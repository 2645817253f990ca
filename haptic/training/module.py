"""The Lightning module: one step of both networks, the same on one machine and on many."""

import logging
from dataclasses import dataclass, fields
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from haptic.data.batches import ClipBatch, TrainingBatch
from haptic.losses.reduce import global_weighted_mean
from haptic.models.discriminator import Discriminator
from haptic.models.haptic import Haptic, boxes_of
from haptic.models.joints import GuidedJoints, JointGuide
from haptic.records import HandPrediction
from haptic.training.objective import Objective, StepLoss
from haptic.training.optimisation import MovingAverage, OptimConfig, freeze_rooms, lr_share, parameter_groups

logger = logging.getLogger(__name__)

SHOWN_KEYS = 8


class NotFiniteError(ValueError):
    """A loss or gradient is NaN or infinite; the message names the samples."""


@dataclass(frozen=True)
class StepReport:
    """What one step has to say, of this process alone; terms are unweighted, averaged over accumulated batches."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    grad_norm: Float[Tensor, ""]
    lr: float
    num_hands: int


class TrainingModule(pl.LightningModule):
    """HaPTIC and the discriminator, trained together: one forward pass, one backward pass, two optimisers.

    Nothing depends on what happened before but weights, optimisers and average: chance at a batch (drop path) is drawn
    from the seed, the batch's number and the process, so that a resumed run goes on bit for bit.

    Args:
        starts_from_nothing: the readouts begin with a mean hand, whose scale the first batch tells.
        has_adversary: False leaves the discriminator as it is.
    """

    def __init__(
        self,
        network: Haptic,
        objective: Objective,
        config: OptimConfig,
        *,
        has_adversary: bool = True,
        starts_from_nothing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.discriminator = Discriminator().requires_grad_(has_adversary)
        self.objective, self.config = objective, config
        self.own_guide: JointGuide | None = None  # of a network that has none
        if objective.config.has_guide and network.guide is None:
            self.own_guide = JointGuide(network.backbone.dim, network.backbone.grids(), network.token_places())
        self.has_adversary = has_adversary
        self.average = None if config.ema_decay is None else MovingAverage(network, config.ema_decay)
        self.step = 0  # steps made
        self.next_batch = 0  # the place in the data
        self.report: StepReport | None = None  # of the last step
        self._starts_from_nothing, self._seed = starts_from_nothing, seed
        self._parts: list[tuple[StepLoss, int]] = []
        self._grad_norm = torch.zeros(())
        self._keys: tuple[str, ...] = ()
        freeze_rooms(network, config.freeze)
        network.backbone.set_checkpointing(config.checkpointing)
        if config.compile:
            network.backbone.compile()
            network.decoder.compile()

    @property
    def guide(self) -> JointGuide | None:
        """The guide that is trained: the network's own, or one that only training has."""
        return self.network.guide if self.objective.config.has_guide and self.own_guide is None else self.own_guide

    def train(self, mode: bool = True) -> "TrainingModule":
        """Switch to training; a frozen backbone stays as it is, its batch statistics and drop path too."""
        super().train(mode)
        if "backbone" in self.config.freeze:
            self.network.backbone.eval()
        return self

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW for the network, and for the discriminator where there is one."""
        config = self.config
        groups = parameter_groups(self.network, config)
        if self.own_guide is not None:
            groups.append(
                {"params": list(self.own_guide.parameters()), "lr": config.lr, "weight_decay": 0.0, "name": "guide"}
            )
        optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr)]
        if self.has_adversary:
            optimisers.append(
                torch.optim.AdamW(
                    self.discriminator.parameters(), lr=config.discriminator_lr, weight_decay=config.weight_decay
                )
            )
        return optimisers

    def on_fit_start(self) -> None:
        """Follow the network to its device."""
        self.objective.to(self.device)
        if self.average is not None:
            self.average.to(self.device)

    def training_step(self, batch: TrainingBatch, _batch_index: int) -> None:
        """Learn from one batch; every `accumulate` of them make a step."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        if self._starts_from_nothing and batch.index == 0:
            torch.manual_seed(self._seed)  # the same weights in every process
            self.network.readout.start_at_mean(mean_scale(batch))
        torch.manual_seed(self._seed + 1_000_003 * batch.index + 7_919 * rank)
        self._keys = (*(self._keys if self._parts else ()), *batch.keys)
        answers, guided = self._answers(batch)
        with torch.autocast(self.device.type, enabled=False):
            video, image = answers
            loss = self.objective(
                None if video is None or batch.video is None else (video, batch.video),
                None if image is None or batch.image is None else (image, batch.image),
                discriminator=self.discriminator,
                real=batch.real if self.has_adversary else None,
                step=self.step,
                guided=guided,
                width=self.network.config.keep_width,
            )
            if not (torch.isfinite(loss.total) and torch.isfinite(loss.discriminator)):
                raise NotFiniteError(self._not_finite_words(loss, answers, batch))
            # Parameters that a batch has no labels for (the depth of images) still take part in the exchange of
            # gradients between processes.
            touched = sum((0.0 * one.depth.float().sum() for one in answers if one is not None), start=loss.total)
            idle = self._idle_rooms() if answers == (None, None) else []
            if dist.is_initialized():
                touched = sum((0.0 * one.sum() for room in idle for one in room.parameters()), start=touched)
            value = (touched + loss.discriminator) / self.config.accumulate
        self.manual_backward(value)
        for room in idle:  # no gradient, rather than one of zero, which Adam would count as a step
            room.zero_grad(set_to_none=True)
        self._parts.append((_detached(loss), batch.num_hands))
        self.next_batch = batch.index + 1
        if len(self._parts) == self.config.accumulate:
            self._make_step()

    def _idle_rooms(self) -> list[nn.Module]:
        """Return what has nothing to do while the guide is trained alone."""
        rooms: list[nn.Module | None] = [
            self.network.decoder, self.network.readout, self.network.joint_reader, self.discriminator,
        ]  # fmt: skip
        return [room for room in rooms if room is not None]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient of all that the first optimiser moves; Lightning calls this when loss scaling is out."""
        optimisers = self.trainer.optimizers
        if optimizer is not optimisers[0]:
            return
        moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parameters = [parameter for parameter in moved if parameter.grad is not None]
        clip_norm = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        self._grad_norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
        is_scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not is_scaled and not torch.isfinite(self._grad_norm):  # a scaler leaves such steps out by itself
            raise NotFiniteError(
                f"step {self.step}: the gradient is {float(self._grad_norm)} though the loss is finite; the batch: "
                f"{_listed(self._keys)}"
            )

    def _answers(
        self, batch: TrainingBatch
    ) -> tuple[tuple[HandPrediction | None, HandPrediction | None], list[tuple[list[GuidedJoints], ClipBatch]]]:
        if self.guide is not None and self.step < self.objective.config.guide_only_steps:
            return (None, None), self._guided_crops(batch)
        clips = [part.as_clip() for part in batch.parts]
        features = self.network.encode_groups([(clip.crops, clip.frames) for clip in clips])
        answers = iter(
            [
                self.network.decode(of_crops, of_frames, boxes_of(clip))
                for (of_crops, of_frames), clip in zip(features, clips, strict=True)
            ]
        )
        video = None if batch.video is None else next(answers)
        image = None if batch.image is None else next(answers)
        if self.guide is None:
            return (video, image), []
        guided = [(self.guide(of_crops), part) for (of_crops, _), part in zip(features, batch.parts, strict=True)]
        return (video, image), guided

    def _guided_crops(self, batch: TrainingBatch) -> list[tuple[list[GuidedJoints], ClipBatch]]:
        """Let the guide alone see a batch: half the pictures, and no decoder."""
        assert self.guide is not None
        crops = [part.as_clip().crops for part in batch.parts]
        features = self.network.encode(torch.cat([one.flatten(0, 1) for one in crops]))
        split = features.split([one.shape[0] * one.shape[1] for one in crops])
        return [
            (self.guide(rearrange(of_crops, "(B T) P C -> B T P C", B=part.num_clips)), part)
            for of_crops, part in zip(split, batch.parts, strict=True)
        ]

    def _make_step(self) -> None:
        share = lr_share(self.step, self.config)
        optimisers = self.optimizers()
        optimisers = optimisers if isinstance(optimisers, list) else [optimisers]
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                base = self.config.discriminator_lr if optimiser is not optimisers[0] else self.config.lr
                group["lr"] = base * share * group.get("lr_factor", 1.0)
            optimiser.step()
            optimiser.zero_grad()
        if self.average is not None:
            self.average.update(self.network)
        losses = [loss for loss, _hands in self._parts]
        self.report = StepReport(
            loss=torch.stack([loss.total for loss in losses]).mean(),
            terms={name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in losses[0].terms},
            grad_norm=self._grad_norm,
            lr=self.config.lr * share,
            num_hands=sum(hands for _loss, hands in self._parts),
        )
        self.step += 1
        self._parts = []

    def _not_finite_words(
        self, loss: StepLoss, answers: tuple[HandPrediction | None, ...], batch: TrainingBatch
    ) -> str:
        """Say which losses are not finite, and of which samples."""
        names = [name for name, value in loss.terms.items() if not torch.isfinite(value)] or ["total"]
        blamed: list[str] = []
        for answer, clips in zip(answers, (batch.video, batch.image), strict=True):
            if answer is not None and clips is not None:
                blamed += [key for number, key in enumerate(clips.keys) if _is_broken(answer, clips, number)]
        who = f"at {_listed(tuple(blamed))}" if blamed else f"somewhere in the batch {_listed(batch.keys)}"
        return (
            f"step {self.step}: the loss is not finite ({', '.join(names)}) {who}; check those labels with python -m "
            "haptic.data.samples check, or lower optim.lr, or set optim.clip_norm"
        )

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the network that is to be used: the average where there is one."""
        return self.network.state_dict() if self.average is None else self.average.weights(self.network)

    def training_state(self) -> dict[str, Any]:
        """Return everything the next step depends on beside `averaged_weights`; tensors and plain values."""
        scaler = self.trainer.precision_plugin.state_dict()
        return {
            "step": self.step,
            "next_batch": self.next_batch,
            "network": None if self.average is None else self.network.state_dict(),
            "average_updates": 0 if self.average is None else self.average.num_updates,
            "discriminator": self.discriminator.state_dict(),
            "guide": None if self.own_guide is None else self.own_guide.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.trainer.optimizers],
            "loss_scaler": scaler,
            "torch_generator": torch.get_rng_state(),
        }

    def load_weights(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from a checkpoint; `load_optimisers` follows when Lightning has made them."""
        self.network.load_state_dict(weights if state["network"] is None else state["network"])
        if self.average is not None:
            self.average.load(weights, state["average_updates"])
        self.discriminator.load_state_dict(state["discriminator"])
        if self.own_guide is not None and state.get("guide") is not None:
            self.own_guide.load_state_dict(state["guide"])
        self.step, self.next_batch = state["step"], state["next_batch"]

    def load_optimisers(self, state: dict[str, Any]) -> None:
        """Give the optimisers and the loss scaling their memory back."""
        for optimiser, stored in zip(self.trainer.optimizers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        if state["loss_scaler"]:
            self.trainer.precision_plugin.load_state_dict(state["loss_scaler"])
        torch.set_rng_state(state["torch_generator"].cpu())


@torch.no_grad()
def mean_scale(batch: TrainingBatch) -> Float[Tensor, ""]:
    """Return the mean of the true s over all processes: the boxes of hands with a known place are 2 / s metres wide."""
    scales, weights = [], []
    for part in batch.parts:
        focal_px = (part.camera.K[..., 0, 0] * part.camera.K[..., 1, 1]).sqrt()
        known = part.depth_weight * part.camera_weight * (part.wrist_depth > 0)
        depth = torch.where(known > 0, part.wrist_depth, torch.ones_like(part.wrist_depth))
        scales.append((2 * focal_px / (part.box_side_px * depth)).flatten())
        weights.append((known > 0).to(depth).flatten())
    scale, weight = torch.cat(scales), torch.cat(weights)
    numbers = torch.stack([global_weighted_mean(scale, weight), weight.sum()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(numbers)
        numbers[0] /= dist.get_world_size()
    return numbers[0] if numbers[1] > 0 else scale.new_tensor(UNKNOWN_SCALE)


UNKNOWN_SCALE = 4.0  # HaMeR's: boxes half a metre wide


def _is_broken(answer: HandPrediction, clips: ClipBatch, number: int) -> bool:
    """Say whether a prediction or label of one clip is not finite. It asks no other process: they may be gone."""
    labels = clips.targets
    seen = [getattr(answer, one.name)[number] for one in fields(answer)]
    seen += [clips.box_center_img[number], clips.box_side_px[number], clips.camera.K[number]]
    for value, weight in (
        (labels.joints_img, labels.joints_img_weight[..., None]),
        (labels.joints_cam, labels.joints_cam_weight[..., None]),
        (labels.params.global_orient, labels.params_weight[..., None, None]),
        (labels.params.hand_pose, labels.params_weight[..., None, None, None]),
        (labels.params.betas, clips.betas_weight[..., None]),
    ):
        seen.append(torch.where(weight > 0, value, torch.zeros_like(value))[number] * weight[number])
    return not all(bool(torch.isfinite(value).all()) for value in seen)


def _detached(loss: StepLoss) -> StepLoss:
    return StepLoss(loss.total.detach(), loss.discriminator.detach(), loss.terms)


def _listed(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
