"""What is solved for: a batch of trajectories, and how a step moves them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from haptic.geometry.rotations import nearest_rotation, rotation_from_aa
from haptic.records import HandParams, Record
from haptic.refinement.stages import Block

FRAME_SIZE = 51  # numbers of a step that every frame has: 16 x 3 turns, 3 of place
SHAPE_SIZE = 10  # numbers that a track has once
RUN_FRAMES = 1000
# Where in a frame's step each block lies; a turn is about the bone's own axes (R exp(step)).
FRAME_COLUMNS: dict[Block, tuple[int, ...]] = {
    "global_orient": tuple(range(3)),
    "hand_pose": tuple(range(3, 48)),
    "transl": tuple(range(48, 51)),
}


@dataclass(frozen=True)
class Variables(Record):
    """B tracks of T frames; one shape per track."""

    global_orient: Float[Tensor, "B T 3 3"]
    hand_pose: Float[Tensor, "B T 15 3 3"]
    transl: Float[Tensor, "B T 3"]
    betas: Float[Tensor, "B 10"]

    @property
    def params(self) -> HandParams:
        """The same as parameters of every frame."""
        betas = self.betas[:, None].expand(*self.transl.shape[:2], SHAPE_SIZE)
        return HandParams(self.global_orient, self.hand_pose, betas, self.transl)

    def moved(self, frame_step: Float[Tensor, "B T 51"], shape_step: Float[Tensor, "B 10"]) -> "Variables":
        """Return the variables after a step; zero steps leave them as they are, derivatives included."""
        orient, pose = torch.empty_like(self.global_orient), torch.empty_like(self.hand_pose)
        for run in _runs(frame_step):
            turns = rotation_from_aa(frame_step[:, run, :48].unflatten(-1, (16, 3)))
            orient[:, run] = self.global_orient[:, run] @ turns[..., 0, :, :]
            pose[:, run] = self.hand_pose[:, run] @ turns[..., 1:, :, :]
        return Variables(orient, pose, self.transl + frame_step[..., 48:], self.betas + shape_step)

    def orthonormalised(self) -> "Variables":
        """Return the variables with rounding errors taken out of the rotations."""
        orient, pose = torch.empty_like(self.global_orient), torch.empty_like(self.hand_pose)
        for run in _runs(self.transl):
            orient[:, run], pose[:, run] = (
                nearest_rotation(self.global_orient[:, run]),
                nearest_rotation(self.hand_pose[:, run]),
            )
        return Variables(orient, pose, self.transl, self.betas)

    def frames(self, start: int, stop: int) -> "Variables":
        """Return frames start ... stop - 1 of every track."""
        return Variables(
            self.global_orient[:, start:stop], self.hand_pose[:, start:stop], self.transl[:, start:stop], self.betas
        )


def keep_in(trial: Variables, kept: Variables, is_kept: Bool[Tensor, " B"]) -> None:
    """Write `kept` over `trial`, in place, for the tracks where `is_kept`."""
    for row in torch.nonzero(is_kept)[:, 0].tolist():
        for name, value in vars(trial).items():
            value[row] = getattr(kept, name)[row]


def _runs(values: Tensor) -> list[slice]:
    """Return runs of frames: what is needed on the way to a rotation is many times larger than the rotation."""
    num_frames = values.shape[1]
    return [slice(start, min(start + RUN_FRAMES, num_frames)) for start in range(0, num_frames, RUN_FRAMES)]


def free_columns(free: tuple[Block, ...]) -> list[int]:
    """Return the places in a frame's step that are free."""
    return sorted(column for block in free if block in FRAME_COLUMNS for column in FRAME_COLUMNS[block])
