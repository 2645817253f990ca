"""What training takes from the data: clips of hands as bytes, with everything known about them.

Pixels stay uint8 until they are on the device; `as_clip` makes network input of them there. All labels, boxes and
cameras are those of right hands, after mirroring and augmentation, and agree with each other: where place and camera
are known, `project(targets.joints_cam, camera.K)` is `targets.joints_img`. The image that `_img` speaks of is then the
augmented one (turned about its principal point), of which `crops` shows the box and `frames` the whole.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from haptic.data.crops import normalise_on_device
from haptic.records import Camera, Clip, Record, Targets

BatchT = TypeVar("BatchT", "ClipBatch", "TrainingBatch")


@dataclass(frozen=True)
class RealHands(Record):
    """Hands as they occur, for the discriminator: right ones, finger rotations and shape only."""

    hand_pose: Float[Tensor, "N 15 3 3"]
    betas: Float[Tensor, "N 10"]


@dataclass(frozen=True)
class ClipBatch(Record):
    """B clips of T frames of one hand each; T = 1 for images.

    Weights are 0 (not known) or positive. `targets.params_weight` speaks of the rotations; shape has `betas_weight`,
    since some sets know one without the other. `place_weight` says whether `targets.joints_cam` and `params.transl` are
    where the hand truly is before the camera; where it is zero only the joints' places about
    the wrist mean something. `camera_weight` says whether `camera.K` is known or a guess.
    `crop_gain` and `frame_gain` are the colours' factors (augmentation), which `as_clip` applies.
    """

    crops: UInt8[Tensor, "B T S S 3"]
    frames: UInt8[Tensor, "B T R R 3"]
    crop_gain: Float[Tensor, "B T 3"]
    frame_gain: Float[Tensor, "B T 3"]
    box_center_img: Float[Tensor, "B T 2"]
    box_side_px: Float[Tensor, "B T"]
    camera: Camera
    camera_weight: Float[Tensor, "B T"]
    targets: Targets
    betas_weight: Float[Tensor, "B T"]
    place_weight: Float[Tensor, "B T"]
    frame_index: Int[Tensor, "B T"]  # frames of the clip as it lies in the shard; the step is the stride
    frame_time_s: Float[Tensor, "B T"]  # since the clip's start; zeros for images
    is_right: Bool[Tensor, " B"]  # as the camera saw it
    set_index: Int[Tensor, " B"]  # into the data module's `set_names`
    keys: tuple[str, ...]  # set, shard, key and hand of each clip, for messages

    @property
    def num_clips(self) -> int:
        """B."""
        return self.crops.shape[0]

    @property
    def num_hands(self) -> int:
        """How many pictures of hands there are: B times T."""
        return self.crops.shape[0] * self.crops.shape[1]

    @property
    def K(self) -> Float[Tensor, "B T 3 3"]:
        """The camera's."""
        return self.camera.K

    @property
    def joints_crop(self) -> Float[Tensor, "B T 21 2"]:
        """The 2D labels in the crop, [-0.5, 0.5]: what HaMeR's 2D loss compares with."""
        offset = self.targets.joints_img - self.box_center_img[:, :, None]
        return offset / self.box_side_px[:, :, None, None]

    @property
    def wrist_depth(self) -> Float[Tensor, "B T"]:
        """The true depth of the wrist in metres; it means something where `depth_weight` is above zero."""
        return self.targets.joints_cam[:, :, 0, 2]

    @property
    def depth_weight(self) -> Float[Tensor, "B T"]:
        """Whether the wrist's depth before the camera is known."""
        return self.place_weight * self.targets.joints_cam_weight[:, :, 0]

    def as_clip(self) -> Clip:
        """Return network input, on the device where the batch is."""
        return Clip(
            crops=normalise_on_device(self.crops, gain=self.crop_gain),
            frames=normalise_on_device(self.frames, gain=self.frame_gain),
            box_center_img=self.box_center_img,
            box_side_px=self.box_side_px,
            camera=self.camera,
        )

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Return the batch on `device`."""
        return _on_device(self, device)

    def pin_memory(self) -> "ClipBatch":
        """Return the batch in page-locked memory, from which copies to a GPU are faster."""
        return _pinned(self)

    def __getitem__(self, index: int | slice | Tensor) -> "ClipBatch":
        """Return some of the clips; a whole number gives a batch of one, so that the axes stay."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        numbers = torch.arange(self.num_clips)[index].tolist()
        parts = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "keys"}
        return ClipBatch(**parts, keys=tuple(self.keys[number] for number in numbers))


@dataclass(frozen=True)
class TrainingBatch(Record):
    """One step's data of one process: windows in video mode, single images, real hands for the discriminator.

    A part that the mixture leaves out is None. `index` counts batches from the start of training: it is the place in
    the data, and a run that goes on from `index` + 1 sees exactly what it would have seen. `skipped` names what was
    damaged and replaced.
    """

    video: ClipBatch | None
    image: ClipBatch | None
    real: RealHands | None
    index: int
    skipped: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[ClipBatch, ...]:
        """The clip batches that are there, video first."""
        return tuple(part for part in (self.video, self.image) if part is not None)

    @property
    def num_hands(self) -> int:
        """Pictures of hands in all parts."""
        return sum(part.num_hands for part in self.parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """Set, shard, key and hand of every clip, video first: for the message when a loss is not finite."""
        return tuple(key for part in self.parts for key in part.keys)

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """Return the batch on `device`. Lightning calls this."""
        return _on_device(self, device)

    def pin_memory(self) -> "TrainingBatch":
        """Return the batch in page-locked memory; PyTorch's loader calls this."""
        return _pinned(self)


def join_clips(clips: list[ClipBatch]) -> ClipBatch:
    """Put batches of equal T and equal sides one after the other."""
    first = clips[0]
    joined: dict[str, Any] = {}
    for f in fields(first):
        values = [getattr(clip, f.name) for clip in clips]
        joined[f.name] = sum(values, ()) if f.name == "keys" else _concatenated(values)
    return replace(first, **joined)


def _concatenated(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    first = values[0]
    return replace(
        first, **{f.name: _concatenated([getattr(value, f.name) for value in values]) for f in fields(first)}
    )


def _on_device(batch: BatchT, device: torch.device | str) -> BatchT:
    moved: dict[str, Any] = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Tensor):
            moved[f.name] = value.to(device, non_blocking=True)
        elif isinstance(value, Record):
            moved[f.name] = value.to(device)
    return replace(batch, **moved)


def _pinned(record: Any) -> Any:
    pinned: dict[str, Any] = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor):
            pinned[f.name] = value.pin_memory()
        elif isinstance(value, Record):
            pinned[f.name] = _pinned(value)
    return replace(record, **pinned)
