"""Refinement as HaPTIC's paper does it, by first-order steps: the yardstick for ours.

What is published of the recipe: 1000 steps at a rate of 1e-3 on finger pose, root rotation and root translation, losses
on 2D joints, acceleration and the distance from the prediction; neither the optimiser nor the losses' units. So the
steps, the rate and what is free are the paper's, the optimiser is Adam, and the objective is ours: one objective, two
ways down, whose ends can be compared.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.least_squares import one_thread
from haptic.hand.landmarks import LandmarkModel, detector_landmarks
from haptic.hand.mirror import mirror_params
from haptic.hand.model import HandModel
from haptic.records import HandParams, HandTrack, Trajectory
from haptic.refinement.objective import Objective
from haptic.refinement.observations import as_right_hand, in_double, observe
from haptic.refinement.stages import RefinementConfig, StageConfig
from haptic.refinement.variables import Variables

BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class FirstOrderConfig:
    """The paper's numbers."""

    steps: int = 1000
    rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0:
            raise ValueError(f"first order: {self.steps} steps at a rate of {self.rate}; both must be above zero")


def paper_stage(refinement: RefinementConfig) -> StageConfig:
    """Return the last stage of ours with what the paper leaves free: the shape stays."""
    return replace(refinement.stages[-1], free=("transl", "global_orient", "hand_pose"))


@one_thread()
def refine_first_order(
    model: HandModel,
    trajectory: Trajectory,
    track: HandTrack,
    landmark_model: LandmarkModel,
    *,
    refinement: RefinementConfig,
    config: FirstOrderConfig | None = None,
) -> Trajectory:
    """Return the trajectory after Adam's steps down the objective of the last stage of `refinement`."""
    config = FirstOrderConfig() if config is None else config
    solver_model, objective, variables = _problem(model, trajectory, track, landmark_model, refinement)
    del solver_model
    mean = variables.transl.new_zeros(1, variables.transl.shape[1], len(objective.columns))
    square = torch.zeros_like(mean)
    shape_step = variables.betas.new_zeros(1, 10)
    for step in range(1, config.steps + 1):
        _value, gradient, _shape = objective.value_and_gradient(variables)
        mean = BETA_1 * mean + (1 - BETA_1) * gradient
        square = BETA_2 * square + (1 - BETA_2) * gradient.square()
        move = mean / (1 - BETA_1**step) / ((square / (1 - BETA_2**step)).sqrt() + TINY)
        full = variables.transl.new_zeros(*move.shape[:2], 51)
        full[..., objective.columns] = -config.rate * move
        variables = variables.moved(full, shape_step)
    solved = variables.orthonormalised().params[0]
    if not trajectory.is_right:
        solved = mirror_params(solved)
    own = vars(trajectory.params)
    return replace(
        trajectory, params=HandParams(**{name: value.to(own[name]).clone() for name, value in vars(solved).items()})
    )


def objective_value(
    model: HandModel,
    initial: Trajectory,
    trajectory: Trajectory,
    track: HandTrack,
    landmark_model: LandmarkModel,
    *,
    refinement: RefinementConfig,
) -> Float[Tensor, ""]:
    """Return our last stage's objective at a trajectory, with `initial` as what its pose and depth are held to."""
    _model, objective, _variables = _problem(model, initial, track, landmark_model, refinement)
    right, _track = as_right_hand(in_double(trajectory), in_double(track))
    return objective.value(_variables_of(right))[0]


def _problem(
    model: HandModel,
    trajectory: Trajectory,
    track: HandTrack,
    landmark_model: LandmarkModel,
    refinement: RefinementConfig,
) -> tuple[HandModel, Objective, Variables]:
    solver_model = copy.deepcopy(model).double()
    landmark_model = in_double(landmark_model)
    right, right_track = as_right_hand(in_double(trajectory), in_double(track))
    points = detector_landmarks(solver_model, right.params, landmark_model)
    observations = observe([right], [right_track], [points], landmark_model.spread)
    stage, chunk = paper_stage(refinement), refinement.chunk_frames
    objective = Objective(solver_model, landmark_model, observations, stage, chunk_frames=chunk)
    return solver_model, objective, _variables_of(right)


def _variables_of(trajectory: Trajectory) -> Variables:
    params = trajectory.params
    return Variables(
        params.global_orient[None], params.hand_pose[None], params.transl[None], params.betas.mean(0)[None]
    )
