"""The objective is the sum of the losses; gradient, curvature and banded step are what they claim to be."""

import math
from collections.abc import Callable

import pytest
import torch

from haptic.geometry.cameras import project
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import apply_transform, make_transform
from haptic.hand.landmarks import LandmarkModel, detector_landmarks, load_landmark_model
from haptic.hand.model import HandModel, in_runs
from haptic.losses.biomechanics import limit_loss
from haptic.losses.keypoints import centred_loss, reprojection_loss
from haptic.losses.priors import initial_depth_loss, initial_pose_loss, shape_prior_loss
from haptic.losses.smoothness import acceleration_loss, angular_acceleration_loss
from haptic.refinement.objective import Objective, point_jacobian
from haptic.refinement.observations import in_double, observe
from haptic.refinement.solver import _System, minimise
from haptic.refinement.stages import BLOCKS, StageConfig, Weights
from haptic.refinement.variables import RUN_FRAMES, Variables, free_columns

# Every loss counts, so that a mistake in any of them shows.
STAGE = StageConfig(name="test", free=BLOCKS, weights=Weights(initial_depth=5.0, acceleration=0.02))


@pytest.fixture(scope="module")
def double_model() -> HandModel:
    from haptic.hand.model import load_hand_model

    return load_hand_model(None).double()


@pytest.fixture(scope="module")
def landmark_model() -> LandmarkModel:
    return in_double(load_landmark_model("mediapipe"))


@pytest.fixture(scope="module")
def build(make_scene: Callable, double_model: HandModel, landmark_model: LandmarkModel) -> Callable:
    """Return an objective of two tracks, the second shorter, seen by a moving camera, and a start."""

    def make(num_frames: int, *, stage: StageConfig = STAGE, chunk_frames: int = 300) -> tuple[Objective, Variables]:
        scenes = [make_scene(num_frames, 0), make_scene(num_frames - 2, 1)]
        trajectories = [in_double(scene.initial) for scene in scenes]
        tracks = [in_double(scene.track) for scene in scenes]
        points = [detector_landmarks(double_model, each.params, landmark_model) for each in trajectories]
        observations = observe(trajectories, tracks, points, landmark_model.spread)
        angle = 0.02 * torch.arange(num_frames).double()[:, None] * torch.tensor([0.3, 1.0, 0.2]).double()
        moving = make_transform(rotation_from_aa(angle), 0.1 * angle).expand(2, num_frames, 4, 4)
        observations = type(observations)(**{**vars(observations), "T_world_cam": moving})
        objective = Objective(double_model, landmark_model, observations, stage, chunk_frames=chunk_frames)
        initial = observations.initial
        generator = torch.Generator().manual_seed(3)
        start = Variables(initial.global_orient, initial.hand_pose, initial.transl, torch.zeros(2, 10).double())
        steps = torch.randn(2, num_frames, 51, generator=generator).double()
        shapes = torch.randn(2, 10, generator=generator).double()
        return objective, start.moved(0.05 * steps, 0.3 * shapes)

    return make


def test_the_objective_is_the_weighted_sum_of_the_losses(
    build: Callable, double_model: HandModel, landmark_model: LandmarkModel
):
    objective, variables = build(7)
    value = objective.value(variables)
    for track, num_frames in ((0, 7), (1, 5)):
        seen, params = objective.observations[track][:num_frames], variables.params[track][:num_frames]
        points = detector_landmarks(double_model, params, landmark_model)
        ones = torch.ones(num_frames).double()
        rotations = torch.cat([params.global_orient[:, None], params.hand_pose], dim=1)
        weights, inner_share = STAGE.weights, (num_frames - 2) / num_frames
        expected = (
            weights.reprojection
            * seen.joints_img_weight.mean()
            * reprojection_loss(
                project(points, seen.K), seen.joints_img, seen.joints_img_weight,
                box_side_px=seen.box_side_px, robust_scale=STAGE.robust_scale,
            )
            + weights.landmarks * centred_loss(points, seen.landmarks, ones, robust_scale_m=STAGE.robust_scale_m)
            + weights.acceleration * inner_share * acceleration_loss(
                apply_transform(seen.T_world_cam, double_model.joints(params)), seen.time_s, ones
            )
            + weights.angular_acceleration * inner_share * angular_acceleration_loss(rotations, seen.time_s, ones)
            + weights.limits * limit_loss(params.hand_pose, ones)
            + weights.initial_pose * initial_pose_loss(params, seen.initial, ones)
            + weights.initial_depth * initial_depth_loss(params, seen.initial, ones)
            + weights.shape * shape_prior_loss(params.betas[0])
        )  # fmt: skip
        torch.testing.assert_close(value[track], expected)
        assert min(objective.losses(variables, objective.observations)[track].values()) > 0


def test_the_gradient_is_that_of_finite_differences(build: Callable):
    objective, variables = build(5)
    _, by_frame, by_shape = objective.value_and_gradient(variables)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        frames = torch.randn(2, 5, 51, generator=generator).double()
        shapes = torch.randn(2, 10, generator=generator).double()
        size = 1e-6
        ahead = objective.value(variables.moved(size * frames, size * shapes))
        behind = objective.value(variables.moved(-size * frames, -size * shapes))
        expected = (by_frame * frames).sum((1, 2)) + (by_shape * shapes).sum(1)
        torch.testing.assert_close((ahead - behind) / (2 * size), expected, rtol=1e-5, atol=1e-7)


def test_a_padded_frame_has_no_gradient_and_stands_still(build: Callable):
    objective, variables = build(6)
    _, by_frame, by_shape = objective.value_and_gradient(variables)
    assert (by_frame[1, 4:] == 0).all()
    step, _ = _System(objective, variables).solve(by_frame, by_shape, torch.full((2,), 1e-3).double())
    assert (step[1, 4:] == 0).all()
    assert (step[1, :4].norm(dim=-1) > 0).all()


def test_points_move_with_rigid_bones_as_their_jacobian_says(double_model: HandModel, build: Callable):
    params = (variables := build(4)[1]).params
    jacobian = point_jacobian(double_model.joints(params), double_model.bone_transforms(params))
    no_shape = torch.zeros(2, 10).double()
    for column in range(51):
        step = torch.zeros(2, 4, 51).double()
        step[..., column] = 1e-6
        change = double_model.joints(variables.moved(step, no_shape).params) - double_model.joints(params)
        # The 16 joints exactly; the five fingertips are skin, whose blend and correctives the curvature leaves out.
        inner = [joint for joint in range(21) if joint not in (4, 8, 12, 16, 20)]
        torch.testing.assert_close(jacobian[..., inner, :, column], change[..., inner, :] / 1e-6, rtol=1e-4, atol=1e-6)
        tips = [4, 8, 12, 16, 20]
        torch.testing.assert_close(jacobian[..., tips, :, column], change[..., tips, :] / 1e-6, rtol=0, atol=0.012)


def dense_system(objective: Objective, variables: Variables, damping: float) -> torch.Tensor:
    """The first track's damped normal equations as one matrix, shape last."""
    blocks = objective.curvature(variables, 0)
    num_frames, size = blocks.own.shape[1:3]
    num_shape = blocks.corner.shape[-1]
    matrix = torch.zeros(num_frames * size + num_shape, num_frames * size + num_shape).double()

    def at(frame: int) -> slice:
        return slice(frame * size, (frame + 1) * size)

    shape = slice(num_frames * size, None)
    for frame in range(num_frames):
        matrix[at(frame), at(frame)] = blocks.own[0, frame]
        for lag, part in ((1, blocks.next), (2, blocks.after)):
            if frame + lag < num_frames:
                matrix[at(frame), at(frame + lag)] = part[0, frame]
                matrix[at(frame + lag), at(frame)] = part[0, frame].T
            else:
                assert (part[0, frame] == 0).all()
        matrix[at(frame), shape] = blocks.border[0, frame]
        matrix[shape, at(frame)] = blocks.border[0, frame].T
    matrix[shape, shape] = blocks.corner[0]
    scale = torch.cat([blocks.scale[0].flatten(), blocks.corner[0].diagonal()])
    return matrix + damping * torch.diag(scale)


@pytest.mark.parametrize("free", [BLOCKS, ("transl", "global_orient"), ("hand_pose", "betas")])
def test_the_banded_step_is_the_dense_one(build: Callable, free: tuple):
    objective, variables = build(6, stage=StageConfig(name="test", free=free))
    _, by_frame, by_shape = objective.value_and_gradient(variables)
    step, shape_step = _System(objective, variables).solve(by_frame, by_shape, torch.full((2,), 1e-3).double())
    matrix = dense_system(objective, variables, 1e-3)
    expected = torch.linalg.solve(matrix, -torch.cat([by_frame[0].flatten(), by_shape[0]]))
    columns = free_columns(free)
    torch.testing.assert_close(step[0][:, columns].flatten(), expected[: 6 * len(columns)], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(shape_step[0, : by_shape.shape[1]], expected[6 * len(columns) :], rtol=1e-4, atol=1e-8)
    fixed = [column for column in range(51) if column not in columns]
    assert (step[..., fixed] == 0).all()


def test_the_curvature_is_the_objectives_second_derivative_where_residuals_vanish(build: Callable):
    """At a perfect fit Gauss-Newton is exact, but for the fingertips' skin and the rotations' second order."""
    objective, _ = build(6, stage=StageConfig(name="test", free=BLOCKS, weights=Weights(limits=0.0)))
    seen, initial = objective.observations, objective.observations.initial
    best = Variables(
        initial.global_orient[:, :1].expand(2, 6, 3, 3),
        initial.hand_pose[:, :1].expand(2, 6, 15, 3, 3),
        initial.transl[:, :1].expand(2, 6, 3),
        torch.zeros(2, 10).double(),
    )
    points = detector_landmarks(objective.model, best.params, objective.landmark_model)
    objective.observations = type(seen)(**{
        **vars(seen),
        "joints_img": project(points, seen.K),
        "landmarks": points - points.mean(2, keepdim=True),
        "initial": best.params,
        "T_world_cam": torch.eye(4).double().expand(2, 6, 4, 4),
    })  # fmt: skip
    matrix = dense_system(objective, best, 0.0)
    value = objective.value(best)[0]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        frames = torch.randn(2, 6, 51, generator=generator).double()
        shapes = torch.randn(2, 10, generator=generator).double()
        size = 1e-4
        ahead = objective.value(best.moved(size * frames, size * shapes))[0]
        behind = objective.value(best.moved(-size * frames, -size * shapes))[0]
        direction = torch.cat([frames[0].flatten(), shapes[0]])
        second = (ahead - 2 * value + behind) / size**2
        torch.testing.assert_close(direction @ matrix @ direction, second, rtol=0.05, atol=0)


def test_chunks_change_neither_value_nor_gradient_nor_step(build: Callable):
    whole, variables = build(13)
    pieces, _ = build(13, chunk_frames=3)
    assert len(pieces.chunks) == 5
    value, by_frame, by_shape = whole.value_and_gradient(variables)
    value_pieces, by_frame_pieces, by_shape_pieces = pieces.value_and_gradient(variables)
    torch.testing.assert_close(value, value_pieces)
    torch.testing.assert_close(by_frame, by_frame_pieces)
    torch.testing.assert_close(by_shape, by_shape_pieces)
    damping = torch.tensor([1e-3, 1e-2]).double()
    step, shape = _System(whole, variables).solve(by_frame, by_shape, damping)
    step_pieces, shape_pieces = _System(pieces, variables).solve(by_frame, by_shape, damping)
    torch.testing.assert_close(step, step_pieces, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(shape, shape_pieces, rtol=1e-6, atol=1e-10)


def test_every_step_that_is_taken_lowers_the_objective_to_a_point_without_slope(build: Callable):
    stage = StageConfig(name="test", free=BLOCKS, max_steps=60, tolerance=0.0)
    objective, variables = build(8, stage=stage)
    _, steep, _ = objective.value_and_gradient(variables)
    solution = minimise(objective, variables)
    value, flat, flat_shape = objective.value_and_gradient(solution.variables)
    assert (solution.value < 0.5 * solution.value_before).all()
    torch.testing.assert_close(value, solution.value, rtol=1e-6, atol=0)
    assert flat.abs().max() < 3e-3 * steep.abs().max()
    assert flat_shape.abs().max() < 3e-3 * steep.abs().max()


def test_a_film_longer_than_a_run_is_moved_as_its_frames_are(build: Callable):
    _, start = build(20)
    index = torch.arange(RUN_FRAMES + 7) % 20
    film = Variables(start.global_orient[:, index], start.hand_pose[:, index], start.transl[:, index], start.betas)
    shape = (*film.transl.shape[:2], 51)
    frame_step = 0.1 * torch.arange(math.prod(shape)).double().sin().reshape(shape)
    shape_step = torch.zeros(len(film.transl), 10).double()
    moved = film.moved(frame_step, shape_step).orthonormalised()
    for frame in (0, RUN_FRAMES - 1, RUN_FRAMES, RUN_FRAMES + 6):
        alone = film.frames(frame, frame + 1).moved(frame_step[:, frame : frame + 1], shape_step).orthonormalised()
        torch.testing.assert_close(moved.hand_pose[:, frame], alone.hand_pose[:, 0])
        torch.testing.assert_close(moved.global_orient[:, frame], alone.global_orient[:, 0])
        torch.testing.assert_close(moved.transl[:, frame], alone.transl[:, 0])


def test_what_is_computed_in_runs_is_what_is_computed_at_once(double_model: HandModel, build: Callable):
    _, start = build(20)
    params = start.params[0][torch.arange(RUN_FRAMES + 7) % 20]
    torch.testing.assert_close(in_runs(double_model.joints, params), double_model.joints(params))
    assert in_runs(double_model.joints, params[:0]).shape == (0, 21, 3)
