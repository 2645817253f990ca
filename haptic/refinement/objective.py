"""What is minimised: a weighted sum of losses from training's own library, its exact gradient, and its curvature.

The value and, through autograd, the gradient come from `haptic.losses` alone. The curvature is Gauss-Newton's: only the
path of the steps depends on it, never where they end, so it may take the hand for rigid bones (a fingertip follows its
last bone; pose correctives stand still), which makes the Jacobian of every point a cross product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.cameras import MIN_DEPTH_M, project
from haptic.geometry.motion import second_difference_weights
from haptic.geometry.robust import geman_mcclure_slope
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import apply_transform
from haptic.hand.anatomy import limit_violation
from haptic.hand.joints import MANO_PARENTS, NUM_JOINTS, OPENPOSE_FROM_MANO
from haptic.hand.landmarks import LandmarkModel, detector_landmarks
from haptic.hand.model import HandModel
from haptic.losses.biomechanics import limit_loss
from haptic.losses.keypoints import centred_loss, reprojection_loss
from haptic.losses.priors import initial_depth_loss, initial_pose_loss, shape_prior_loss
from haptic.losses.smoothness import acceleration_loss, angular_acceleration_loss
from haptic.memory import give_back_memory_every
from haptic.records import HandParams
from haptic.refinement.observations import LongObservations, Observations
from haptic.refinement.stages import StageConfig
from haptic.refinement.variables import FRAME_COLUMNS, FRAME_SIZE, SHAPE_SIZE, Variables, free_columns

TRIM_EVERY_CHUNKS = 4  # of a film: giving memory back after each would cost a sixth of the time

NUM_BONES = len(MANO_PARENTS)


@dataclass(frozen=True)
class NormalBlocks:
    """A run of n frames of the normal equations: each frame with itself, the next two, and the shape (F, S: free).

    `scale` is how strongly damping holds each number back: the diagonal of `own`, and what the range of motion would
    add to it, which a joint that is still inside its range does not feel yet and a long step would run into.
    """

    own: Float[Tensor, "B n F F"]
    scale: Float[Tensor, "B n F"]
    next: Float[Tensor, "B n F F"]
    after: Float[Tensor, "B n F F"]
    border: Float[Tensor, "B n F S"]
    corner: Float[Tensor, "B S S"]


class Objective:
    """The sum of one stage's losses over a batch of tracks; the tracks do not see each other."""

    def __init__(
        self,
        model: HandModel,
        landmark_model: LandmarkModel,
        observations: Observations | LongObservations,
        stage: StageConfig,
        *,
        chunk_frames: int,
    ) -> None:
        self.model, self.landmark_model = model, landmark_model
        self.observations, self.stage = observations, stage
        self.columns = free_columns(stage.free)
        self.num_shape_columns = SHAPE_SIZE if "betas" in stage.free else 0
        num_frames = observations.time_s.shape[1]
        self.chunks = [(s, min(s + chunk_frames, num_frames)) for s in range(0, num_frames, chunk_frames)]
        self.frames_per_track = observations.frame_weight.sum(1)
        self.bands = _second_difference_bands(observations)

    def losses(self, variables: Variables, observations: Observations) -> list[dict[str, Tensor]]:
        """Return, per track, each loss times its weight and the share of the track's frames it speaks for.

        The share makes a sum over runs of frames equal to the whole, and keeps a track that is mostly filled from
        giving its few observations the weight of all.
        """
        params, stage, weights = variables.params, self.stage, self.stage.weights
        points_cam = detector_landmarks(self.model, params, self.landmark_model)
        points_img = project(points_cam, observations.K)
        joints_world = apply_transform(observations.T_world_cam, self.model.joints(params))
        rotations = torch.cat([params.global_orient[:, :, None], params.hand_pose], dim=2)
        result = []
        for track in range(params.transl.shape[0]):
            seen, hand = observations[track], params[track]
            count = self.frames_per_track[track]
            frames, centres = seen.frame_weight.sum() / count, seen.centre_weight[1:-1].sum() / count
            reprojection = reprojection_loss(
                points_img[track], seen.joints_img, seen.joints_img_weight,
                box_side_px=seen.box_side_px, robust_scale=stage.robust_scale,
            )  # fmt: skip
            landmarks = centred_loss(
                points_cam[track], seen.landmarks, seen.landmarks_weight, robust_scale_m=stage.robust_scale_m
            )
            turning = angular_acceleration_loss(rotations[track], seen.time_s, seen.centre_weight)
            moving = acceleration_loss(joints_world[track], seen.time_s, seen.centre_weight)
            pose = initial_pose_loss(hand, seen.initial, seen.frame_weight)
            depth = initial_depth_loss(hand, seen.initial, seen.frame_weight)
            shape = shape_prior_loss(hand.betas[0])
            detected = seen.joints_img_weight.sum() / (NUM_JOINTS * count)
            result.append({
                "reprojection": weights.reprojection * detected * reprojection,
                "landmarks": weights.landmarks * (seen.landmarks_weight.sum() / count) * landmarks,
                "acceleration": weights.acceleration * centres * moving,
                "angular_acceleration": weights.angular_acceleration * centres * turning,
                "limits": weights.limits * frames * limit_loss(hand.hand_pose, seen.frame_weight),
                "initial_pose": weights.initial_pose * frames * pose,
                "initial_depth": weights.initial_depth * frames * depth,
                "shape": weights.shape * frames * shape,
            })  # fmt: skip
        return result

    def value(self, variables: Variables) -> Float[Tensor, " B"]:
        """Return the objective of each track."""
        return self._sum_over_chunks(variables, lambda run, seen, _start: _totals(self.losses(run, seen)))

    def value_and_gradient(
        self, variables: Variables
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T F"], Float[Tensor, "B S"]]:
        """Return the objective, and its gradient by a step of the free numbers of the frames and of the shape."""
        num_tracks, num_frames = variables.transl.shape[:2]
        frame_gradient = variables.transl.new_zeros(num_tracks, num_frames, FRAME_SIZE)
        shape_gradient = variables.transl.new_zeros(num_tracks, SHAPE_SIZE)

        def add(run: Variables, seen: Observations, start: int) -> Tensor:
            frame_step = run.transl.new_zeros(*run.transl.shape[:2], FRAME_SIZE).requires_grad_()
            shape_step = run.transl.new_zeros(num_tracks, SHAPE_SIZE).requires_grad_()
            with torch.enable_grad():
                total = _totals(self.losses(run.moved(frame_step, shape_step), seen))
                by_frame, by_shape = torch.autograd.grad(total.sum(), (frame_step, shape_step))
            frame_gradient[:, start : start + by_frame.shape[1]] += by_frame
            shape_gradient.add_(by_shape)
            return total.detach()

        value = self._sum_over_chunks(variables, add)
        if len(self.columns) < FRAME_SIZE:
            frame_gradient = frame_gradient[..., self.columns]
        return value, frame_gradient, shape_gradient[:, : self.num_shape_columns]

    def curvature(self, variables: Variables, chunk: int) -> NormalBlocks:
        """Return the Gauss-Newton normal equations of the frames of one chunk."""
        start, stop = self.chunks[chunk]
        reach = min(stop + 2, variables.transl.shape[1])  # an acceleration ties a frame to the next two
        run, seen = variables.frames(start, reach), self.observations.frames(start, reach)
        per_frame = self._per_frame_curvature(run.frames(0, stop - start), seen.frames(0, stop - start))
        own, border, corner = per_frame
        band = self._band_curvature(run, seen, start, stop - start)
        cols = torch.tensor(self.columns)
        own = (own + band[0])[..., cols, :][..., cols]
        # A padded frame has no equations of its own: it stands still.
        padded = (seen.frame_weight[:, : stop - start] == 0).to(own)
        own = own + torch.diag_embed(padded[..., None].expand(own.shape[:-1]))
        return NormalBlocks(
            own=own,
            scale=own.diagonal(dim1=-1, dim2=-2) + self._limit_scale(seen.frame_weight[:, : stop - start])[..., cols],
            next=band[1][..., cols, :][..., cols],
            after=band[2][..., cols, :][..., cols],
            border=border[..., cols, : self.num_shape_columns],
            corner=corner[..., : self.num_shape_columns, : self.num_shape_columns],
        )

    def _sum_over_chunks(
        self, variables: Variables, evaluate: Callable[[Variables, Observations, int], Tensor]
    ) -> Tensor:
        """Add up `evaluate` over runs of frames, each with one more on either side that counts only as a neighbour."""
        total = torch.zeros_like(self.frames_per_track)
        num_frames = variables.transl.shape[1]
        for chunk, (start, stop) in enumerate(self.chunks):
            first, last = max(start - 1, 0), min(stop + 1, num_frames)
            seen = self.observations.frames(first, last).counting_only(start - first, stop - first)
            total = total + evaluate(variables.frames(first, last), seen, first)
            give_back_memory_every(TRIM_EVERY_CHUNKS, chunk)
        return total

    def _per_frame_curvature(self, run: Variables, seen: Observations) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blocks of all losses that see one frame at a time: (B n 51 51), (B n 51 10), (B 10 10)."""
        weights, stage, params = self.stage.weights, self.stage, run.params
        count = self.frames_per_track[:, None]
        points = detector_landmarks(self.model, params, self.landmark_model)
        by_frame = point_jacobian(points, self.model.bone_transforms(params))
        by_shape = self._shape_jacobian(params, points)
        jacobian = torch.cat([by_frame, by_shape], dim=-1)  # (B n 21 3 61)

        by_point, points_img = _projection_jacobian(points, seen.K)
        residual = (points_img - seen.joints_img) / seen.box_side_px[..., None, None]
        slope = geman_mcclure_slope(residual.square().sum(-1), stage.robust_scale)
        scale = 2 * weights.reprojection * seen.joints_img_weight * slope / (NUM_JOINTS * count[..., None])
        scale = scale / seen.box_side_px[..., None].square()
        rows_img = scale.sqrt()[..., None, None] * (by_point @ jacobian)

        centred = jacobian - jacobian.mean(2, keepdim=True)
        difference = (points - points.mean(2, keepdim=True)) - (seen.landmarks - seen.landmarks.mean(2, keepdim=True))
        slope = geman_mcclure_slope(difference.square().sum(-1), stage.robust_scale_m)
        scale = 2 * weights.landmarks * seen.landmarks_weight[..., None] * slope / (NUM_JOINTS * count[..., None])
        rows = torch.cat([rows_img.flatten(2, 3), (scale.sqrt()[..., None, None] * centred).flatten(2, 3)], dim=2)
        normal = rows.transpose(-1, -2) @ rows

        own = normal[..., :FRAME_SIZE, :FRAME_SIZE]
        frame_weight = seen.frame_weight / count
        self._add_limits(own, params.hand_pose, frame_weight)
        diagonal = own.diagonal(dim1=-1, dim2=-2)
        pose, place = FRAME_COLUMNS["hand_pose"], FRAME_COLUMNS["transl"]
        diagonal[..., pose[0] : pose[-1] + 1] += (4 * weights.initial_pose / 15 * frame_weight)[..., None]
        diagonal[..., place[2]] += 2 * weights.initial_depth * frame_weight
        corner = normal[..., FRAME_SIZE:, FRAME_SIZE:].sum(1)
        prior = 2 * weights.shape * frame_weight.sum(1)
        corner = corner + prior[:, None, None] * torch.eye(SHAPE_SIZE).to(corner)
        return own, normal[..., :FRAME_SIZE, FRAME_SIZE:], corner

    def _add_limits(self, own: Tensor, hand_pose: Tensor, frame_weight: Tensor) -> None:
        """Add each finger joint's 3 x 3 block of the range of motion to `own`, which is still this file's own."""
        turn = torch.zeros_like(hand_pose[..., 0]).requires_grad_()
        with torch.enable_grad():
            violation = limit_violation(hand_pose @ rotation_from_aa(turn))
            # Each joint's violation depends on its own turn only, so one pass back gives a row for all joints.
            rows = [torch.autograd.grad(angle.sum(), turn, retain_graph=True)[0] for angle in violation.unbind(-1)]
        jacobian = torch.stack(rows, dim=-2)
        scale = (2 * self.stage.weights.limits / 15 * frame_weight)[..., None, None, None]
        blocks = scale * (jacobian.transpose(-1, -2) @ jacobian)
        first = FRAME_COLUMNS["hand_pose"][0]
        for joint in range(15):
            place = slice(first + 3 * joint, first + 3 * joint + 3)
            own[..., place, place] += blocks[..., joint, :, :]

    def _limit_scale(self, frame_weight: Tensor) -> Float[Tensor, "B n 51"]:
        """Return what each number's place on the diagonal would gain if its joint were beyond its range."""
        scale = frame_weight.new_zeros(*frame_weight.shape, FRAME_SIZE)
        full = 2 * self.stage.weights.limits / 15 * frame_weight / self.frames_per_track[:, None]
        scale[..., list(FRAME_COLUMNS["hand_pose"])] = full[..., None]
        return scale

    def _shape_jacobian(self, params: HandParams, points: Tensor) -> Float[Tensor, "B n 21 3 10"]:
        """Return how the points move with the shape; a posed hand is linear in `betas`."""
        if self.num_shape_columns == 0:
            return points.new_zeros(*points.shape, SHAPE_SIZE)
        steps = torch.eye(SHAPE_SIZE).to(points)[:, None, None]
        changed = HandParams(
            global_orient=params.global_orient.expand(SHAPE_SIZE, *params.global_orient.shape),
            hand_pose=params.hand_pose.expand(SHAPE_SIZE, *params.hand_pose.shape),
            betas=params.betas + steps,
            transl=params.transl.expand(SHAPE_SIZE, *params.transl.shape),
        )
        return (detector_landmarks(self.model, changed, self.landmark_model) - points).movedim(0, -1)

    def _band_curvature(self, run: Variables, seen: Observations, start: int, num: int) -> list[Tensor]:
        """Return the blocks of the accelerations, of each frame with itself and the next two: 3 of (B num 51 51).

        The shape has no part in them: it hardly changes how a hand accelerates.
        """
        weights, params = self.stage.weights, run.params
        by_step = point_jacobian(self.model.joints(params), self.model.bone_transforms(params))
        in_world = seen.T_world_cam[:, :, None, :3, :3] @ by_step
        in_world = in_world.flatten(2, 3)  # (B n 63 51)
        moving = 2 * weights.acceleration / (NUM_JOINTS * self.frames_per_track)
        turning = 2 * weights.angular_acceleration / (NUM_BONES * self.frames_per_track)
        is_turn = torch.zeros(FRAME_SIZE).to(in_world)
        is_turn[: 3 * NUM_BONES] = 1
        blocks = []
        for lag in range(3):
            band = self.bands[lag][:, start : start + num, None, None]
            partner = in_world[:, lag : lag + num]
            here = in_world[:, : partner.shape[1]]
            block = in_world.new_zeros(here.shape[0], num, FRAME_SIZE, FRAME_SIZE)
            block[:, : here.shape[1]] = here.transpose(-1, -2) @ partner
            block = band * moving[:, None, None, None] * block
            block = block + band * turning[:, None, None, None] * torch.diag(is_turn)
            blocks.append(block)
        return blocks


def point_jacobian(
    points: Float[Tensor, "*batch 21 3"], bones: Float[Tensor, "*batch 16 4 4"]
) -> Float[Tensor, "*batch 21 3 51"]:
    """Return how points that follow the bones move with a step of the frame's numbers (see `Variables.moved`)."""
    lever = points[..., :, None, :] - bones[..., None, :, :3, 3]  # (* 21 16 3)
    lever = lever * _MOVED_BY.to(lever)[..., None]
    axes = bones[..., None, :, :3, :3].transpose(-1, -2)  # each bone's axes as rows
    moves = torch.linalg.cross(axes.expand(*lever.shape[:-1], 3, 3), lever[..., None, :].expand(*lever.shape, 3))
    turns = moves.movedim(-1, -3).flatten(-2)  # (* 21 3 48)
    place = torch.eye(3).to(turns).expand(*turns.shape[:-1], 3)
    return torch.cat([turns, place], dim=-1)


def _projection_jacobian(points: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Return how pixels move with the points, (B n 21 2 3), and the pixels."""
    depth = points[..., 2:].clamp(min=MIN_DEPTH_M)
    across = K[:, :, None, :2, :2] / depth[..., None]
    along = -(across @ (points[..., :2] / depth)[..., None])
    return torch.cat([across, along], dim=-1), project(points, K)


def _second_difference_bands(observations: Observations | LongObservations) -> list[Float[Tensor, "B T"]]:
    """Return what ties a frame to itself and the next two when accelerations are squared and summed."""
    bands = [torch.zeros_like(observations.time_s) for _ in range(3)]
    for track, time_s in enumerate(observations.time_s):
        weights = second_difference_weights(time_s)
        weighted = weights * observations.centre_weight[track, 1:-1, None]
        num = weights.shape[0]
        for first in range(3):
            for second in range(first, 3):
                bands[second - first][track, first : first + num] += weighted[:, first] * weights[:, second]
    return bands


def _totals(losses: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([torch.stack(list(track.values())).sum() for track in losses])


def _moved_by() -> Tensor:
    """Return (21, 16): one where turning a bone moves a point; the bones from the wrist to the point's own."""
    moved = torch.zeros(NUM_JOINTS, NUM_BONES)
    for point, mano in enumerate(OPENPOSE_FROM_MANO):
        bone = mano if mano < NUM_BONES else OPENPOSE_FROM_MANO[point - 1]  # a tip follows its finger's last bone
        while bone >= 0:
            moved[point, bone] = 1
            bone = MANO_PARENTS[bone]
    return moved


_MOVED_BY = _moved_by()
