"""Levenberg-Marquardt over whole tracks: block-banded normal equations, the shape as their border.

A track of any length is one problem. Frames are eliminated one after the other (an acceleration ties three, so a frame
reaches the next two), then the shape is solved, then the frames come back in reverse. Of a long track only the state
between chunks is kept and each chunk's equations are built a second time on the way back, so memory does not grow with
length and there is no seam.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from haptic.geometry.least_squares import one_thread
from haptic.memory import give_back_memory_every
from haptic.refinement.objective import TRIM_EVERY_CHUNKS, NormalBlocks, Objective
from haptic.refinement.variables import FRAME_SIZE, SHAPE_SIZE, Variables, keep_in

INITIAL_DAMPING = 1e-3  # of `NormalBlocks.scale`
HEAVY_DAMPING = 1e-2
LARGEST_DAMPING = 1e6  # a track that cannot be improved with this is where it can get
SMALLEST_DAMPING = 1e-7


@dataclass(frozen=True)
class Solution:
    """Where the tracks ended, and how."""

    variables: Variables
    value_before: Float[Tensor, " B"]
    value: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]


@dataclass(frozen=True)
class _Factors:
    """What a run of eliminated frames leaves for the way back."""

    cholesky: list[Tensor]  # per frame (B F F)
    coupling: list[Tensor]  # per frame (B F 2F + S + 1): next frame, the one after, shape, right-hand side


@one_thread()
def minimise(objective: Objective, variables: Variables, steps_allowed: Iterable[int] | None = None) -> Solution:
    """Lower the objective of every track until a step gains less than the stage's tolerance or steps run out.

    Args:
        steps_allowed: in place of as many as the stage allows; one is taken from it before each.
    """
    stage = objective.stage
    value, frame_gradient, shape_gradient = objective.value_and_gradient(variables)
    value_before = value
    damping = torch.full_like(value, INITIAL_DAMPING)
    is_done = torch.zeros_like(value, dtype=torch.bool)
    steps = torch.zeros_like(value, dtype=torch.int64)
    system = _System(objective, variables)
    for _ in range(stage.max_steps) if steps_allowed is None else steps_allowed:
        trial = variables.moved(*system.solve(frame_gradient, shape_gradient, damping))
        trial_value, trial_frame_gradient, trial_shape_gradient = objective.value_and_gradient(trial)
        is_better = (trial_value < value) & ~is_done  # false for NaN too
        steps = steps + is_better
        gain = (value - trial_value) / value.clamp(min=torch.finfo(value.dtype).tiny)
        # A small gain under heavy damping says that the step was held back, not that there is little to gain.
        settled = is_better & (gain < stage.tolerance) & (damping <= HEAVY_DAMPING)
        damping = torch.where(is_better, (damping / 5).clamp(min=SMALLEST_DAMPING), damping * 6)
        is_done = is_done | settled | (damping > LARGEST_DAMPING)
        if is_better.any():
            keep_in(trial, variables, ~is_better)
            trial_frame_gradient[~is_better] = frame_gradient[~is_better]
            variables, frame_gradient = trial, trial_frame_gradient
            value = torch.where(is_better, trial_value, value)
            shape_gradient = torch.where(is_better[:, None], trial_shape_gradient, shape_gradient)
            system = _System(objective, variables)
        del trial, trial_frame_gradient  # of a film, what is not needed in the next step is not held through it
        if bool(is_done.all()):
            break
    return Solution(variables.orthonormalised(), value_before, value, steps)


class _System:
    """The normal equations about one point; a short track's are built once, a long one's each time they are passed."""

    def __init__(self, objective: Objective, variables: Variables) -> None:
        self.objective, self.variables = objective, variables
        self.only_chunk: NormalBlocks | None = None

    def blocks(self, chunk: int) -> NormalBlocks:
        if len(self.objective.chunks) > 1:
            return self.objective.curvature(self.variables, chunk)
        if self.only_chunk is None:
            self.only_chunk = self.objective.curvature(self.variables, chunk)
        return self.only_chunk

    def solve(
        self, frame_gradient: Tensor, shape_gradient: Tensor, damping: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B T 51"], Float[Tensor, "B 10"]]:
        """Return the damped step that minimises the quadratic model; fixed numbers get a step of zero."""
        chunks, columns = self.objective.chunks, self.objective.columns
        num_tracks, num_frames, size = frame_gradient.shape
        num_shape = shape_gradient.shape[1]
        width = 2 * size + num_shape + 1
        pending = [frame_gradient.new_zeros(num_tracks, width, width)]
        corner = frame_gradient.new_zeros(num_tracks, num_shape, num_shape)
        factors = None
        for chunk, (start, stop) in enumerate(chunks):
            blocks = self.blocks(chunk)
            corner = corner + blocks.corner
            factors, after = eliminate(blocks, -frame_gradient[:, start:stop], pending[-1], damping)
            pending.append(after)
            del blocks
            give_back_memory_every(TRIM_EVERY_CHUNKS, chunk)

        shape_step = _solve_corner(corner, -shape_gradient, pending[-1], damping, size)
        full = frame_gradient.new_zeros(num_tracks, num_frames, FRAME_SIZE)
        later = [frame_gradient.new_zeros(num_tracks, size)] * 2
        for chunk, (start, stop) in reversed(list(enumerate(chunks))):
            if chunk < len(chunks) - 1:
                factors, _ = eliminate(self.blocks(chunk), -frame_gradient[:, start:stop], pending[chunk], damping)
            assert factors is not None, "a track without frames reached the solver"
            steps = substitute(factors, shape_step, later[0], later[1])
            later = [steps[0], steps[1] if len(steps) > 1 else later[0]]
            full[:, start:stop, columns] = torch.stack(steps, dim=1)
            factors = None
            del steps
            give_back_memory_every(TRIM_EVERY_CHUNKS, chunk)
        shape_full = shape_gradient.new_zeros(num_tracks, SHAPE_SIZE)
        shape_full[:, :num_shape] = shape_step
        return full, shape_full


def eliminate(
    blocks: NormalBlocks, right: Float[Tensor, "B n F"], pending: Tensor, damping: Float[Tensor, " B"]
) -> tuple[_Factors, Tensor]:
    """Eliminate a run of frames; `pending` is what those before did to the next two, the shape and the right side.

    A matrix that is not positive definite gives NaN, which no step survives, and more damping next time.
    """
    size = blocks.own.shape[-1]
    diagonal = blocks.own.diagonal(dim1=-1, dim2=-2)
    floor = 1e-12 * diagonal.amax(-1, keepdim=True)  # a number nothing speaks about stands still
    damped = blocks.own + torch.diag_embed(damping[:, None, None] * blocks.scale + floor)
    tail = torch.cat([blocks.border, right[..., None]], dim=-1)
    ahead = torch.cat([blocks.next, blocks.after, tail], dim=-1)
    cholesky, coupling = [], []
    for frame in range(blocks.own.shape[1]):
        own = damped[:, frame] + pending[:, :size, :size]
        row = ahead[:, frame].clone()
        row[:, :, :size] += pending[:, :size, size : 2 * size]
        row[:, :, 2 * size :] += pending[:, :size, 2 * size :]
        lower, info = torch.linalg.cholesky_ex(own)
        lower = torch.where((info == 0)[:, None, None], lower, torch.nan)
        solved = torch.linalg.solve_triangular(lower, row, upper=False)
        after = -(solved.transpose(-1, -2) @ solved)
        # What was pending for the next frame, the shape and the right side moves up one place.
        after[:, :size, :size] += pending[:, size : 2 * size, size : 2 * size]
        after[:, :size, 2 * size :] += pending[:, size : 2 * size, 2 * size :]
        after[:, 2 * size :, :size] += pending[:, 2 * size :, size : 2 * size]
        after[:, 2 * size :, 2 * size :] += pending[:, 2 * size :, 2 * size :]
        pending = after
        cholesky.append(lower)
        coupling.append(solved)
    return _Factors(cholesky, coupling), pending


def substitute(
    factors: _Factors,
    shape_step: Float[Tensor, "B S"],
    next_step: Float[Tensor, "B F"],
    after_step: Float[Tensor, "B F"],
) -> list[Float[Tensor, "B F"]]:
    """Return the steps of a run of frames, given the shape's and those of the two frames that follow."""
    steps = []
    for lower, solved in zip(reversed(factors.cholesky), reversed(factors.coupling), strict=True):
        known = torch.cat([next_step, after_step, shape_step], dim=-1)
        right = solved[:, :, -1:] - solved[:, :, :-1] @ known[..., None]
        step = torch.linalg.solve_triangular(lower.transpose(-1, -2), right, upper=True)[..., 0]
        next_step, after_step = step, next_step
        steps.append(step)
    return steps[::-1]


def _solve_corner(corner: Tensor, right: Tensor, pending: Tensor, damping: Tensor, size: int) -> Float[Tensor, "B S"]:
    if corner.shape[-1] == 0:
        return right
    diagonal = corner.diagonal(dim1=-1, dim2=-2)
    matrix = corner + pending[:, 2 * size : -1, 2 * size : -1] + torch.diag_embed(damping[:, None] * diagonal)
    return torch.linalg.solve(matrix, right + pending[:, 2 * size : -1, -1])
