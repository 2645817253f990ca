"""A known distance: hands and their paths are scaled about the camera, which changes no picture."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.hand.model import HandModel, trajectory_joints
from haptic.records import Trajectory

# Beyond this many standard deviations a shape is no longer a hand's.
MAX_BETA = 3.0
SHAPE_RIDGE = 1e-6  # m^2: keeps the shape numbers that do not change the size where they are
WORTH_SAYING = 0.02


def place_at_depth(
    model: HandModel, trajectories: list[Trajectory], first_depth_m: float
) -> tuple[list[Trajectory], list[str]]:
    """Scale all hands alike so that the first one's wrist begins at this depth; also return what is to be said.

    One picture is made by a small near hand and by a large far one, so the distance decides the size: the shape is
    moved towards hands of the new size, as far as hands go.
    """
    first = min(trajectories, key=lambda hand: int(hand.frame_index[0]))
    depth_m = float(trajectory_joints(model, first)[0, 0, 2])
    factor = first_depth_m / depth_m
    scaled = [_scaled(model, hand, factor) for hand in trajectories]
    sizes = [size for _, size in scaled]
    notes = [
        f"the wrist's given depth of {first_depth_m:g} m takes the place of {depth_m:.2f} m: all is {factor:.2f} x"
    ]
    worst = max(sizes, key=lambda size: abs(size / factor - 1))
    if abs(worst / factor - 1) > WORTH_SAYING:
        notes.append(
            f"at that distance the hand would have to be {factor:.2f} times its size, and hands reach {worst:.2f}: "
            "distance and focal length contradict each other, and the mesh will not cover the hand in the picture"
        )
    return [hand for hand, _ in scaled], notes


def _scaled(model: HandModel, hand: Trajectory, factor: float) -> tuple[Trajectory, float]:
    """Return the trajectory moved to `factor` times its distance, and how much larger its hand became."""
    betas = _resized(model, hand.params.betas[0], factor)
    old_rest, new_rest = model.rest_joints(hand.params.betas[0]), model.rest_joints(betas)
    size = float((new_rest[4] - new_rest[0]).norm() / (old_rest[4] - old_rest[0]).norm())
    side = torch.tensor([1.0 if hand.is_right else -1.0, 1.0, 1.0]).to(old_rest)
    wrists = side * old_rest[0] + hand.params.transl
    params = replace(
        hand.params,
        betas=betas.expand_as(hand.params.betas).clone(),
        transl=factor * wrists - side * new_rest[0],
    )
    return replace(hand, params=params), size


def _resized(model: HandModel, betas: Float[Tensor, " 10"], factor: float) -> Float[Tensor, " 10"]:
    """Return the shape nearest to `betas` whose joints lie `factor` times as far from the wrist."""
    rest = model.rest_joints(betas)
    directions = (model.joint_shapedirs - model.joint_shapedirs[:1]).flatten(0, 1)
    wanted = ((factor - 1) * (rest - rest[:1])).flatten()
    normal = directions.T @ directions + SHAPE_RIDGE * torch.eye(10).to(rest)
    return (betas + torch.linalg.solve(normal, directions.T @ wanted)).clamp(-MAX_BETA, MAX_BETA)
