"""A hand's trajectory from detected 2D joints and the detector's metric 3D landmarks: no network.

Per frame: the palm is turned onto the landmarks (Kabsch), the fingers' angles follow in closed form, the place comes
from the 2D joints (a linear PnP for a known pose). From there, and from starts with the tilt of the palm reversed, a
Levenberg-Marquardt solver brings the hand's landmarks onto the detected ones within anatomical limits. One picture
cannot always tell a hand tilted towards the camera from one tilted away: the start whose neighbours in time agree wins
(Viterbi), frames that still stand out try their neighbours' poses. One shape is solved for the whole track.

What one camera cannot know is the hand's size: a larger hand farther away looks the same. The shape prior decides, so
depth is right up to the ratio between this hand and an average one, some ten per cent.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.alignment import align_rigid
from haptic.geometry.cameras import MIN_DEPTH_M, ray_directions, view_rotation
from haptic.geometry.least_squares import (
    LeastSquaresConfig,
    NormalEquations,
    one_thread,
    shared_step,
    solve_least_squares,
)
from haptic.geometry.robust import geman_mcclure, geman_mcclure_slope
from haptic.geometry.rotations import aa_from_rotation, geodesic_angle, rotation_from_aa, slerp
from haptic.hand.anatomy import (
    DIP_PER_PIP,
    FLEXION,
    REST_ANGLES,
    joint_axes,
    limits_at,
    pose_from_angles,
)
from haptic.hand.kinematics import NUM_ANGLES, NUM_RIGID, LandmarkKinematics
from haptic.hand.landmarks import LandmarkKind, load_landmark_model
from haptic.hand.mirror import mirror_camera, mirror_params, mirror_track
from haptic.hand.model import HandModel
from haptic.memory import give_back_memory
from haptic.records import Camera, HandParams, HandTrack, Trajectory

MIN_KNOWN_JOINTS = 6  # fewer do not fix a hand's place and turn
MIN_BOX_SIDE_PX = 8.0
BLOCK = 512  # hands worked on at a time: what is needed on the way does not grow with a video's length
SHAPE_FRAMES = 150  # spread over the track: more say nothing new of a hand's shape
PALM_LANDMARKS = (0, 1, 5, 9, 13, 17)
# What moves: knuckles bend and spread, the joints beyond them bend; the thumb's saddle has all three, its middle two.
FREE_ANGLES = tuple(
    3 * joint + angle
    for joint in range(15)
    for angle in ((0, 1, 2) if joint == 12 else (0, 1) if joint % 3 == 0 or joint == 13 else (0,))
)
FREE = tuple(range(NUM_RIGID)) + tuple(NUM_RIGID + index for index in FREE_ANGLES)
# A relaxed hand: the poses that are tried where nothing better is known, degrees of flexion from a straight finger.
RELAXED_FLEXION_DEG = (25.0, 30.0, 18.0)
LIMIT_SIGMA_RAD = 0.03
MAX_OVERSTRETCH_DEG = 4.0
NUM_STARTS = 3
# A frame tries the poses this far before and after it, so that a run of up to twice as many wrong frames is mended.
NEIGHBOUR_FRAMES = (8, 3, 1)
# Beyond this, in squared standard deviations, one leap is as bad as another: a cut in the film, a frame of nonsense.
MAX_LEAP_SQUARED = 200.0


@dataclass(frozen=True)
class KeypointInitConfig:
    """How detected joints become hands. Spreads are standard deviations; a smaller one is a stronger wish.

    MediaPipe's 3D landmarks, measured on 310 renders of openhands, are off by 0.11 of the hand's size in each axis of
    the picture and by 0.23 in depth, and all of a hand's together: hence a spread wider than either. There, 0.16 left
    3.9 % of the hands turned wrong by more than 40 degrees, 0.35 1.6 %, 0.5 1.3 %; wider, fingers flip more easily.
    """

    landmark_kind: LandmarkKind = "mediapipe"  # "joints": the 2D joints are the model's own, as labels are
    robust_sigmas: float = 3.0  # a joint farther off than this many of its spreads loses its say
    landmarks_spread: float = 0.35  # of the metric 3D landmarks, in units of the hand's size
    shape_spread: float = 1.0  # of betas, in standard deviations of the population
    independent_frames: int = 3  # a detector errs alike in all frames: a track counts as this many at most
    bend_spread_deg: float = 50.0
    spread_spread_deg: float = 12.0
    coupling_spread_deg: float = 15.0  # of the last joint about 2/3 of the one before it
    turn_rate: float = 5.0  # rad/s, of the hand as a whole
    bend_rate: float = 8.0  # rad/s, of each finger joint
    depth_rate: float = 1.5  # m/s

    def __post_init__(self) -> None:
        for name in (
            "robust_sigmas", "landmarks_spread", "shape_spread", "independent_frames", "bend_spread_deg",
            "spread_spread_deg", "coupling_spread_deg", "turn_rate", "bend_rate", "depth_rate",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above zero")


def init_hand(
    model: HandModel, track: HandTrack, camera: Camera, config: KeypointInitConfig, *, width_px: int
) -> Trajectory:
    """Do `init_from_keypoints` for a hand of either side, as the camera saw it; the image is `width_px` wide."""
    if track.is_right:
        return init_from_keypoints(model, track, camera, config)
    mirrored = init_from_keypoints(model, mirror_track(track, width_px), mirror_camera(camera, width_px), config)
    return replace(mirrored, params=mirror_params(mirrored.params), camera=camera, is_right=track.is_right)


def init_from_keypoints(
    model: HandModel, track: HandTrack, camera: Camera, config: KeypointInitConfig | None = None
) -> Trajectory:
    """Return the trajectory of a right hand (left ones are mirrored before and after) over all frames of its track.

    `camera` holds one K and one place per frame of the track. Frames without joints are filled between their
    neighbours and are not `observed`.

    Raises:
        ValueError: no frame of the track has joints, only boxes.
    """
    config = KeypointInitConfig() if config is None else config
    assert bool(track.is_right), "left hands are mirrored before they come here (haptic.hand.mirror)"
    known = ((track.joints_img_weight > 0).sum(-1) >= MIN_KNOWN_JOINTS) & track.observed
    if not bool(known.any()):
        raise ValueError(
            f"a hand seen in frames {int(track.frame_index[0])} to {int(track.frame_index[-1])} has boxes but in no "
            f"frame {MIN_KNOWN_JOINTS} or more joints; --init keypoints needs 2D joints, --init network does not"
        )
    with torch.no_grad(), one_thread():
        problem = _FrameProblem(model, track[known], camera.K[known], config)
        fit = _solve_track(problem)
        fit = _fill(fit, track.time_s[known], track.time_s)
    num_frames = track.frame_index.shape[0]
    params = HandParams(fit.orient, pose_from_angles(fit.angles), fit.betas.expand(num_frames, 10).clone(), fit.transl)
    return Trajectory(
        frame_index=track.frame_index,
        time_s=track.time_s,
        params=params,
        camera=camera,
        confidence=track.confidence,
        observed=known,
        is_right=track.is_right,
    )


@dataclass(frozen=True)
class _Fit:
    """Poses of frames, or of several candidates in turn, and the one shape."""

    orient: Float[Tensor, "B 3 3"]
    transl: Float[Tensor, "B 3"]
    angles: Float[Tensor, "B 15 3"]
    betas: Float[Tensor, " 10"]

    def flat(self) -> Float[Tensor, "B 57"]:
        return torch.cat([self.orient.flatten(-2), self.transl, self.angles.flatten(-2)], dim=-1)

    def with_flat(self, state: Float[Tensor, "B 57"]) -> "_Fit":
        return _Fit(*_unflatten(state), self.betas)

    def __getitem__(self, index: Tensor) -> "_Fit":
        return _Fit(self.orient[index], self.transl[index], self.angles[index], self.betas)


@dataclass(frozen=True)
class _Neighbours:
    """Where the frames beside each one would like it to be, and how strongly (one over the spread)."""

    fit: _Fit
    turn_weight: Float[Tensor, " B"]
    bend_weight: Float[Tensor, " B"]
    depth_weight: Float[Tensor, " B"]

    def __getitem__(self, index: Tensor) -> "_Neighbours":
        return _Neighbours(self.fit[index], self.turn_weight[index], self.bend_weight[index], self.depth_weight[index])


class _FrameProblem:
    """What was seen in each known frame, and the cost of a hand there. `frames` picks a frame for each candidate."""

    def __init__(self, model: HandModel, track: HandTrack, K: Tensor, config: KeypointInitConfig) -> None:
        self.config = config
        landmark_model = load_landmark_model(config.landmark_kind)
        self.kinematics = LandmarkKinematics(model, landmark_model)
        self.K = K.float()
        self.time_s = track.time_s.float()
        self.seen_img = track.joints_img.float().nan_to_num()  # unknown joints may hold anything
        self.weight = track.joints_img_weight.float().clamp(0, 1)
        is_known = self.weight > 0
        infinity = torch.full_like(self.seen_img, math.inf)
        high = torch.where(is_known[..., None], self.seen_img, -infinity).amax(1)
        low = torch.where(is_known[..., None], self.seen_img, infinity).amin(1)
        self.side_px = (high - low).amax(-1).clamp(min=MIN_BOX_SIDE_PX)
        self.sigma_px = landmark_model.spread * self.side_px[:, None]
        flat_hand = self.kinematics.points(
            torch.eye(3)[None], torch.zeros(1, 3), torch.zeros(1, 15, 3), torch.zeros(1, 10)
        )[0]
        self.rest_landmarks = flat_hand
        self.landmarks_weight = track.landmarks_weight.float().clamp(0, 1)
        self.has_landmarks = self.landmarks_weight > 0
        self.landmarks = _scaled_landmarks(track.landmarks.float(), flat_hand, _ray_turn(self))
        size = (self.kinematics.rest[1, 0] - self.kinematics.wrist).norm()
        self.landmarks_sigma_m = config.landmarks_spread * size
        self.prior_mean, self.prior_precision = _angle_prior(config)

    @property
    def num_frames(self) -> int:
        return self.seen_img.shape[0]

    def cost(
        self, state: Tensor, frames: Tensor, betas: Tensor, neighbours: _Neighbours | None = None
    ) -> Float[Tensor, " B"]:
        """Return the cost of each candidate: half its squared misses in standard deviations, robust."""
        orient, transl, angles = _unflatten(state)
        points = self.kinematics.points(orient, transl, angles, betas.expand(state.shape[0], 10))
        miss_img, miss_cam = self._misses(points, frames, betas)
        scale = self.config.robust_sigmas
        total = (self.weight[frames] * 0.5 * geman_mcclure(miss_img.square().sum(-1), scale)).sum(-1)
        total = total + 0.5 * self.landmarks_weight[frames] * geman_mcclure(miss_cam.square().sum(-1), scale).sum(-1)
        bent = angles.flatten(1) - self.prior_mean
        total = total + 0.5 * torch.einsum("bi,ij,bj->b", bent, self.prior_precision, bent)
        total = total + 0.5 * (_beyond_limits(angles) / LIMIT_SIGMA_RAD).square().sum((-1, -2))
        if neighbours is not None:
            turn, bend, depth = _apart(orient, transl, angles, neighbours)
            total = total + 0.5 * (turn.square().sum(-1) + bend.square().sum(-1) + depth.square())
        return total

    def equations(
        self, state: Tensor, frames: Tensor, betas: Tensor, neighbours: _Neighbours | None = None
    ) -> tuple[NormalEquations, Tensor, Tensor, Tensor]:
        """Return the normal equations in the free unknowns; also the mixed, and the betas' own, blocks."""
        orient, transl, angles = _unflatten(state)
        moved = self.kinematics.linearise(orient, transl, angles, betas.expand(state.shape[0], 10))
        columns = (*FREE, *range(NUM_RIGID + NUM_ANGLES, moved.jacobian.shape[-1]))
        by_unknown = moved.jacobian[..., list(columns)]
        rows, misses = self._weighted_rows(moved.points, by_unknown, frames, betas)
        gradient = torch.einsum("brp,br->bp", rows, misses)
        hessian = rows.transpose(-1, -2) @ rows
        num = len(FREE)
        own_gradient, own_hessian = gradient[:, :num].clone(), hessian[:, :num, :num].clone()
        free = list(FREE_ANGLES)
        precision = self.prior_precision[free][:, free]
        bent = (angles.flatten(1) - self.prior_mean)[:, free]
        own_gradient[:, NUM_RIGID:] += bent @ precision
        own_hessian[:, NUM_RIGID:, NUM_RIGID:] += precision
        beyond = _beyond_limits(angles).flatten(1)[:, free] / LIMIT_SIGMA_RAD**2
        own_gradient[:, NUM_RIGID:] += beyond
        own_hessian[:, NUM_RIGID:, NUM_RIGID:] += torch.diag_embed((beyond != 0).float() / LIMIT_SIGMA_RAD**2)
        if neighbours is not None:
            _add_neighbours(own_gradient, own_hessian, _apart(orient, transl, angles, neighbours), neighbours)
        own = NormalEquations(self.cost(state, frames, betas, neighbours), own_gradient, own_hessian)
        return own, hessian[:, :num, num:], gradient[:, num:].sum(0), hessian[:, num:, num:].sum(0)

    def solve(
        self, fit: _Fit, frames: Tensor, *, max_steps: int, neighbours: _Neighbours | None = None
    ) -> tuple[_Fit, Float[Tensor, " B"]]:
        """Bring every candidate to the bottom of its valley, the shape held."""
        states, costs = [], []
        for rows in torch.arange(len(frames)).split(BLOCK):
            picked, beside = frames[rows], None if neighbours is None else neighbours[rows]
            answer = solve_least_squares(
                fit[rows].flat(),
                equations=partial(self._own_equations, frames=picked, betas=fit.betas, neighbours=beside),
                cost=partial(self.cost, frames=picked, betas=fit.betas, neighbours=beside),
                move=_move,
                config=LeastSquaresConfig(max_steps=max_steps, first_damping=1e-2, relative_tolerance=1e-3),
            )
            states.append(answer.state)
            costs.append(answer.cost)
            if len(frames) > BLOCK:
                give_back_memory()
        return fit.with_flat(torch.cat(states)), torch.cat(costs)

    def _own_equations(
        self, state: Tensor, frames: Tensor, betas: Tensor, neighbours: _Neighbours | None
    ) -> NormalEquations:
        return self.equations(state, frames, betas, neighbours)[0]

    def place(self, turned: Float[Tensor, "B 21 3"], frames: Tensor) -> Float[Tensor, "B 3"]:
        """Return the translation that puts points of known shape and turn onto the detected ones (linear PnP)."""
        ray = ray_directions(self.seen_img[frames], self.K[frames])[..., :2]
        # (X + t) = ray * (Z + t_z): two rows for each landmark, linear in t, weighed alike in pixels.
        weight = (self.weight[frames] / self.sigma_px[frames].square() * self.side_px[frames, None] ** 2)[..., None]
        target = ray * turned[..., 2:] - turned[..., :2]
        matrix = torch.zeros(*ray.shape, 3)
        matrix[..., 0, 0] = 1
        matrix[..., 1, 1] = 1
        matrix[..., 2] = -ray
        normal = torch.einsum("bkri,bkrj,bkq->bij", matrix, matrix, weight)
        right = torch.einsum("bkri,bkr,bkq->bi", matrix, target, weight)
        transl = torch.linalg.solve(normal + 1e-6 * torch.eye(3), right)
        return torch.cat([transl[:, :2], transl[:, 2:].clamp(min=0.08)], dim=-1)

    def _misses(self, points: Tensor, frames: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far the landmarks are off, in standard deviations: in the picture, and about their centre.

        The detector's metres say nothing of this hand's size, so the second is as if the hand were of average size.
        """
        depth = points[..., 2:].clamp(min=MIN_DEPTH_M)
        K = self.K[frames]
        projected = (points[..., :2] / depth) @ K[:, :2, :2].transpose(-1, -2) + K[:, None, :2, 2]
        miss_img = (projected - self.seen_img[frames]) / self.sigma_px[frames][..., None]
        centred = (points - points.mean(dim=1, keepdim=True)) / self.relative_size(betas)
        return miss_img, (centred - self.landmarks[frames]) / self.landmarks_sigma_m

    def relative_size(self, betas: Float[Tensor, " 10"]) -> Float[Tensor, ""]:
        """Return the size of the hand of this shape against the average one."""
        way = self.kinematics.rest[1, 0] - self.kinematics.wrist
        moved = (self.kinematics.rest_dirs[1, 0] - self.kinematics.wrist_dirs) @ betas
        return (way + moved).norm() / way.norm()

    def _weighted_rows(
        self, points: Tensor, by_unknown: Tensor, frames: Tensor, betas: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return rows (B, 21 * 5, P) and misses (B, 21 * 5), times the roots of their weights."""
        miss_img, miss_cam = self._misses(points, frames, betas)
        depth = points[..., 2:].clamp(min=MIN_DEPTH_M)
        flat = points[..., :2] / depth
        slope = (by_unknown[..., :2, :] - flat[..., None] * by_unknown[..., 2:, :]) / depth[..., None]
        rows_img = self.K[frames][:, None, :2, :2] @ slope / self.sigma_px[frames][..., None, None]
        rows_cam = (by_unknown - by_unknown.mean(dim=1, keepdim=True)) / self.landmarks_sigma_m
        rows_cam[..., len(FREE) :] = 0  # nor of its shape, which the size would hide behind
        scale = self.config.robust_sigmas
        root_img = (self.weight[frames] * geman_mcclure_slope(miss_img.square().sum(-1), scale)).sqrt()
        root_cam = geman_mcclure_slope(miss_cam.square().sum(-1), scale).sqrt()
        root_cam = root_cam * self.landmarks_weight[frames, None].sqrt()
        rows = torch.cat([rows_img * root_img[..., None, None], rows_cam * root_cam[..., None, None]], dim=2)
        misses = torch.cat([miss_img * root_img[..., None], miss_cam * root_cam[..., None]], dim=2)
        return rows.flatten(1, 2), misses.flatten(1)


def _solve_track(problem: _FrameProblem) -> _Fit:
    candidates, costs = _first_candidates(problem)
    fit = _most_coherent(problem, candidates, costs)
    fit = replace(fit, betas=_solve_shape(problem, fit))
    frames = torch.arange(problem.num_frames)
    fit, _ = problem.solve(fit, frames, max_steps=4)
    for distance in NEIGHBOUR_FRAMES:
        candidates, costs = _with_neighbours_poses(problem, fit, distance)
        fit = _most_coherent(problem, candidates, costs)
    for _ in range(3):
        fit, _ = problem.solve(fit, frames, max_steps=3, neighbours=_neighbours_of(problem, fit))
    return fit


def _first_candidates(problem: _FrameProblem) -> tuple[list[_Fit], Float[Tensor, "T N"]]:
    """Return `NUM_STARTS` solved starts of each frame, as a list of tracks, and their costs."""
    starts = _starts_from_landmarks(problem)
    blind = torch.nonzero(~problem.has_landmarks)[:, 0]
    for some in blind.split(BLOCK // 8) if len(blind) else ():  # an empty tensor splits into one empty part
        for start, from_grid in zip(starts, _starts_from_grid(problem, some), strict=True):
            start.orient[some], start.transl[some] = from_grid.orient, from_grid.transl
            start.angles[some] = from_grid.angles
    frames = torch.arange(problem.num_frames).repeat(NUM_STARTS)
    stacked, costs = problem.solve(_stack(starts), frames, max_steps=12)
    return _unstack(stacked, NUM_STARTS), costs.unflatten(0, (NUM_STARTS, -1)).T


def _starts_from_landmarks(problem: _FrameProblem) -> list[_Fit]:
    """Return three starts: as the 3D landmarks say; with the palm's tilt reversed; with relaxed fingers."""
    frames = torch.arange(problem.num_frames)
    orient = _palm_turn(problem, problem.landmarks)
    reversed_tilt = _palm_turn(problem, problem.landmarks * torch.tensor([1.0, 1.0, -1.0]))
    angles = torch.cat([_finger_angles(problem, orient[rows], rows) for rows in frames.split(BLOCK)])
    relaxed = _relaxed_angles().expand_as(angles)
    return [
        _placed(problem, turn, bend, frames)
        for turn, bend in ((orient, angles), (reversed_tilt, angles), (orient, relaxed))
    ]


def _starts_from_grid(problem: _FrameProblem, frames: Tensor) -> list[_Fit]:
    """Return the best starts where the detector gives no 3D landmarks: a relaxed hand, turned every way."""
    turns = []
    for roll in torch.arange(6) * (math.pi / 3):  # about the fingers' direction, which is -x at rest
        for pitch in (-0.9, 0.0, 0.9):  # fingers towards or away from the camera
            tilt = rotation_from_aa(torch.tensor([0.0, pitch, 0.0]))
            turns.append(tilt @ rotation_from_aa(torch.tensor([float(roll), 0.0, 0.0])))
    grid = torch.stack(turns)  # the fingers point along -x of the picture; each frame turns them its own way
    angles = _relaxed_angles()
    origin = torch.zeros(len(grid), 3)
    shape = problem.kinematics.points(grid, origin, angles.expand(len(grid), 15, 3), torch.zeros(len(grid), 10))[
        ..., :2
    ]
    seen, weight = problem.seen_img[frames], problem.weight[frames]
    spun = _spin_onto(shape, seen, weight)  # (B, G, 3, 3)
    orient = (spun @ grid).flatten(0, 1)
    repeated = frames.repeat_interleave(len(grid))
    start = _placed(problem, orient, angles.expand(len(repeated), 15, 3), repeated)
    solved, costs = problem.solve(start, repeated, max_steps=6)
    best = costs.unflatten(0, (len(frames), -1)).argsort(dim=1)[:, :NUM_STARTS]
    rows = torch.arange(len(frames))[:, None] * len(grid) + best
    return [solved[rows[:, place]] for place in range(NUM_STARTS)]


def _spin_onto(shape: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
    """Return turns about the camera's axis (B, G, 3, 3) that bring flat shapes (G, 21, 2) onto pixels (B, 21, 2)."""
    share = weight / weight.sum(-1, keepdim=True)
    seen = seen - (share[..., None] * seen).sum(1, keepdim=True)
    centred = shape - torch.einsum("bk,gkc->bgc", share, shape)[:, :, None]
    inner = torch.einsum("bk,bgkc,bkc->bg", share, centred, seen)
    x, y = centred.unbind(-1)
    outer = torch.einsum("bk,bgk,bk->bg", share, x, seen[..., 1]) - torch.einsum(
        "bk,bgk,bk->bg", share, y, seen[..., 0]
    )
    angle = torch.atan2(outer, inner)
    return rotation_from_aa(torch.stack([torch.zeros_like(angle), torch.zeros_like(angle), angle], dim=-1))


def _placed(problem: _FrameProblem, orient: Tensor, angles: Tensor, frames: Tensor) -> _Fit:
    return _Fit(
        orient.clone(), _places(problem, orient, angles, frames, torch.zeros(10)), angles.clone(), torch.zeros(10)
    )


def _places(
    problem: _FrameProblem, orient: Tensor, angles: Tensor, frames: Tensor, betas: Float[Tensor, " 10"]
) -> Float[Tensor, "B 3"]:
    """Return where a hand of known pose must be to be seen where it was seen."""
    places = []
    for rows in torch.arange(len(frames)).split(BLOCK):
        nowhere = torch.zeros(len(rows), 3)
        points = problem.kinematics.points(orient[rows], nowhere, angles[rows], betas.expand(len(rows), 10))
        places.append(problem.place(points, frames[rows]))
    return torch.cat(places)


def _palm_turn(problem: _FrameProblem, landmarks: Tensor) -> Float[Tensor, "T 3 3"]:
    """Return the turn of the flat palm onto the landmarks' palm."""
    palm = list(PALM_LANDMARKS)
    source = problem.rest_landmarks[palm].expand(len(landmarks), -1, -1)
    return align_rigid(source, landmarks[:, palm]).rotation


def _finger_angles(problem: _FrameProblem, orient: Tensor, frames: Tensor) -> Float[Tensor, "B 15 3"]:
    """Return flexion and abduction of each joint in closed form: from how much each bone's landmarks are turned."""
    local = problem.landmarks[frames] @ orient  # in the palm's frame
    rest = problem.rest_landmarks
    angles = torch.zeros(len(local), 15, 3)
    axes = joint_axes()
    for finger in range(5):
        chain = problem.kinematics.landmark_of[finger]
        turned = torch.eye(3).expand(len(local), 3, 3)
        for level in range(3):
            joint = 3 * finger + level
            first, second = chain[level], chain[level + 1]
            seen = ((local[:, second] - local[:, first])[:, None] @ turned)[:, 0] @ axes[joint]
            flat = (rest[second] - rest[first]) @ axes[joint]
            angles[:, joint, 0] = _wrapped(torch.atan2(-seen[:, 2], seen[:, 0]) - torch.atan2(-flat[2], flat[0]))
            if level == 0:
                angles[:, joint, 1] = torch.asin(seen[:, 1] / seen.norm(dim=-1).clamp(min=1e-6)) - torch.asin(
                    flat[1] / flat.norm()
                )
            angles = _clamped(angles)
            turned = turned @ pose_from_angles(angles)[:, joint]
    return angles


def _most_coherent(problem: _FrameProblem, candidates: list[_Fit], costs: Float[Tensor, "T N"]) -> _Fit:
    """Return for each frame one candidate, so that costs and leaps from frame to frame are least in sum (Viterbi)."""
    orient = torch.stack([candidate.orient for candidate in candidates], dim=1)  # (T, N, 3, 3)
    angles = torch.stack([candidate.angles for candidate in candidates], dim=1)
    gaps_s = problem.time_s.diff().clamp(min=1e-3)[:, None, None]
    leap = torch.cat([
        _leaps(problem.config, orient[run], orient[run + 1], angles[run], angles[run + 1], gaps_s[run])
        for run in torch.arange(len(gaps_s)).split(BLOCK)
    ])  # fmt: skip
    total, pointers = costs[0], []
    for frame in range(1, costs.shape[0]):
        reached, pointer = (total[:, None] + leap[frame - 1]).min(dim=0)
        total = reached + costs[frame]
        pointers.append(pointer)
    choice = [int(total.argmin())]
    for pointer in reversed(pointers):
        choice.append(int(pointer[choice[-1]]))
    chosen = torch.tensor(choice[::-1])
    rows = torch.arange(len(chosen))
    transl = torch.stack([candidate.transl for candidate in candidates], dim=1)
    return _Fit(orient[rows, chosen], transl[rows, chosen], angles[rows, chosen], candidates[0].betas)


def _leaps(
    config: KeypointInitConfig, orient: Tensor, next_orient: Tensor, angles: Tensor, next_angles: Tensor, gap_s: Tensor
) -> Float[Tensor, "T N N"]:
    """Return what it costs to go from each candidate of a frame to each of the next."""
    num = orient.shape[1]
    turn = geodesic_angle(
        orient[:, :, None].expand(-1, -1, num, -1, -1), next_orient[:, None].expand(-1, num, -1, -1, -1)
    )
    bend = (angles[:, :, None] - next_angles[:, None]).flatten(-2)[..., list(FREE_ANGLES)].square().sum(-1)
    leap = (turn / (config.turn_rate * gap_s)).square() + bend / (config.bend_rate * gap_s).square()
    return 0.5 * leap.clamp(max=MAX_LEAP_SQUARED)


def _with_neighbours_poses(problem: _FrameProblem, fit: _Fit, distance: int) -> tuple[list[_Fit], Float[Tensor, "T N"]]:
    """Return the track, and what each frame becomes when it starts from the pose so many frames before and after."""
    frames = torch.arange(problem.num_frames)
    starts = []
    for other in ((frames - distance).clamp(min=0), (frames + distance).clamp(max=problem.num_frames - 1)):
        place = _places(problem, fit.orient[other], fit.angles[other], frames, fit.betas)
        starts.append(_Fit(fit.orient[other], place, fit.angles[other], fit.betas))
    solved, costs = problem.solve(_stack(starts), frames.repeat(2), max_steps=6)
    own_cost = torch.cat([problem.cost(fit[rows].flat(), rows, fit.betas) for rows in frames.split(BLOCK)])
    return [fit, *_unstack(solved, 2)], torch.cat([own_cost[None], costs.unflatten(0, (2, -1))]).T


def _solve_shape(problem: _FrameProblem, fit: _Fit, *, max_steps: int = 8) -> Float[Tensor, " 10"]:
    """Return the one shape, solved for together with the poses of some of the frames."""
    config = problem.config
    num_used = min(problem.num_frames, SHAPE_FRAMES)
    frames = torch.linspace(0, problem.num_frames - 1, num_used).round().long()
    share = min(1.0, config.independent_frames / num_used)
    # The prior is set against all frames as if they were fewer: their errors are the same ones again and again.
    precision = 1 / (share * config.shape_spread**2)
    state, betas, damping = fit[frames].flat(), fit.betas, 1e-2

    def total(state: Tensor, betas: Tensor) -> float:
        return float(problem.cost(state, frames, betas).sum() + 0.5 * precision * betas.square().sum())

    current = total(state, betas)
    for _ in range(max_steps):
        own, mixed, gradient, hessian = problem.equations(state, frames, betas)
        gradient = gradient + precision * betas
        hessian = hessian + precision * torch.eye(10)
        step, betas_step = shared_step(own, mixed, gradient, hessian, damping)
        moved, moved_betas = _move(state, step), (betas + betas_step).clamp(-3, 3)
        cost = total(moved, moved_betas)
        if cost < current:
            gain = (current - cost) / max(current, 1e-9)
            state, betas, current, damping = moved, moved_betas, cost, damping * 0.3
            if gain < 1e-4:
                break
        else:
            damping *= 8
    return betas


def _neighbours_of(problem: _FrameProblem, fit: _Fit) -> _Neighbours | None:
    """Return the point between the frames before and after each, in time, and how sure it is."""
    num = problem.num_frames
    if num < 2:
        return None
    frames = torch.arange(num)
    before, after = frames - 1, frames + 1
    before[0], after[-1] = 1, num - 2  # the ends know one side only
    to_before = (problem.time_s - problem.time_s[before]).abs().clamp(min=1e-3)
    to_after = (problem.time_s[after] - problem.time_s).abs().clamp(min=1e-3)
    share = to_before / (to_before + to_after)
    orient = slerp(fit.orient[before], fit.orient[after], share)
    angles = fit.angles[before] + share[:, None, None] * (fit.angles[after] - fit.angles[before])
    transl = fit.transl[before] + share[:, None] * (fit.transl[after] - fit.transl[before])
    gap_s = 1 / (1 / to_before + 1 / to_after)  # of two bounds, each as wide as its gap
    config = problem.config
    return _Neighbours(
        _Fit(orient, transl, angles, fit.betas),
        1 / (config.turn_rate * gap_s),
        1 / (config.bend_rate * gap_s),
        1 / (config.depth_rate * gap_s),
    )


def _apart(
    orient: Tensor, transl: Tensor, angles: Tensor, neighbours: _Neighbours
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 22"], Float[Tensor, " B"]]:
    """Return turn, bends and depth against the neighbours, in standard deviations."""
    turn = aa_from_rotation(orient @ neighbours.fit.orient.transpose(-1, -2)) * neighbours.turn_weight[:, None]
    bend = (angles - neighbours.fit.angles).flatten(1)[:, list(FREE_ANGLES)] * neighbours.bend_weight[:, None]
    return turn, bend, (transl[:, 2] - neighbours.fit.transl[:, 2]) * neighbours.depth_weight


def _add_neighbours(
    gradient: Tensor, hessian: Tensor, apart: tuple[Tensor, Tensor, Tensor], neighbours: _Neighbours
) -> None:
    """Add the pull of the neighbours to normal equations that were just made, in place."""
    turn, bend, depth = apart
    pull = torch.zeros_like(gradient)
    pull[:, :3] = neighbours.turn_weight[:, None]
    pull[:, 5] = neighbours.depth_weight
    pull[:, NUM_RIGID:] = neighbours.bend_weight[:, None]
    gradient[:, :3] += turn * pull[:, :3]
    gradient[:, 5] += depth * pull[:, 5]
    gradient[:, NUM_RIGID:] += bend * pull[:, NUM_RIGID:]
    hessian += torch.diag_embed(pull.square())


def _fill(fit: _Fit, known_s: Float[Tensor, " K"], time_s: Float[Tensor, " T"]) -> _Fit:
    """Return the fit at all times: between known frames turned and moved evenly, beyond the ends held."""
    if len(known_s) == 1:
        return fit[torch.zeros(len(time_s), dtype=torch.long)]
    after = torch.searchsorted(known_s, time_s).clamp(1, len(known_s) - 1)
    before = after - 1
    share = ((time_s - known_s[before]) / (known_s[after] - known_s[before]).clamp(min=1e-6)).clamp(0, 1).float()
    return _Fit(
        slerp(fit.orient[before], fit.orient[after], share),
        torch.lerp(fit.transl[before], fit.transl[after], share[:, None]),
        torch.lerp(fit.angles[before], fit.angles[after], share[:, None, None]),
        fit.betas,
    )


def _ray_turn(problem: _FrameProblem) -> Float[Tensor, "T 3 3"]:
    """Return the turn of the camera's axis onto the ray through each hand's middle.

    The detector sees a crop and takes it for a picture taken straight ahead; its landmarks' axes are the crop's.
    """
    share = (problem.weight / problem.weight.sum(-1, keepdim=True))[..., None]
    return view_rotation((share * problem.seen_img).sum(dim=1), problem.K)


def _scaled_landmarks(landmarks: Tensor, flat_hand: Tensor, turn: Tensor) -> Float[Tensor, "T 21 3"]:
    """Return the 3D landmarks about their centre, in the camera's axes, with bones as long as an average hand's."""
    landmarks = landmarks @ turn.transpose(-1, -2)
    parents = torch.tensor([0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19])
    length = (landmarks - landmarks[:, parents]).norm(dim=-1).sum(-1)
    wanted = (flat_hand - flat_hand[parents]).norm(dim=-1).sum()
    scale = torch.where(length > 1e-4, wanted / length.clamp(min=1e-4), torch.ones_like(length))
    landmarks = landmarks * scale[:, None, None]
    return landmarks - landmarks.mean(dim=1, keepdim=True)


def _angle_prior(config: KeypointInitConfig) -> tuple[Float[Tensor, " 45"], Float[Tensor, "45 45"]]:
    """Return the mean and the precision of the angles: relaxed, little spread, the last joint led by the one before."""
    mean = _relaxed_angles()
    sigma = torch.full((15, 3), math.radians(config.spread_spread_deg))
    sigma[:, FLEXION] = math.radians(config.bend_spread_deg)
    sigma[12] = math.radians(25.0)  # the thumb's saddle goes every way
    precision = torch.diag(sigma.flatten().square().reciprocal())
    for joint in (1, 4, 7, 10):
        row = torch.zeros(15, 3)
        row[joint + 1, FLEXION], row[joint, FLEXION] = 1.0, -DIP_PER_PIP
        row = row.flatten() / math.radians(config.coupling_spread_deg)
        precision = precision + row[:, None] * row[None, :]
    return mean.flatten(), precision


def _relaxed_angles() -> Float[Tensor, "15 3"]:
    angles = torch.zeros(15, 3)
    for level, degrees in enumerate(RELAXED_FLEXION_DEG):
        angles[level:12:3, FLEXION] = math.radians(degrees)
    angles[:12, FLEXION] -= REST_ANGLES[:12, FLEXION]
    return angles


def _beyond_limits(angles: Float[Tensor, "B 15 3"]) -> Float[Tensor, "B 15 3"]:
    """Return how far each angle lies beyond its range, with the sign of the excess."""
    lower, upper = _ranges_at(angles)
    return torch.relu(angles - upper) - torch.relu(lower - angles)


def _clamped(angles: Float[Tensor, "B 15 3"]) -> Float[Tensor, "B 15 3"]:
    lower, upper = _ranges_at(angles)
    return torch.minimum(torch.maximum(angles, lower), upper)


def _ranges_at(angles: Float[Tensor, "B 15 3"]) -> tuple[Float[Tensor, "B 15 3"], Float[Tensor, "B 15 3"]]:
    """Return the anatomical ranges, but for the fingers' outer joints without overstretching.

    A bent finger seen from the front looks like an overstretched one; hardly anybody has those.
    """
    lower, upper = limits_at(angles)
    straight = torch.full_like(lower[0], -math.inf)
    for joint in (1, 2, 4, 5, 7, 8, 10, 11):
        straight[joint, FLEXION] = -REST_ANGLES[joint, FLEXION] - math.radians(MAX_OVERSTRETCH_DEG)
    return torch.maximum(lower, straight), upper


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _unflatten(state: Float[Tensor, "B 57"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return turn (B, 3, 3), translation (B, 3) and angles (B, 15, 3)."""
    orient, transl, angles = state.split((9, 3, NUM_ANGLES), dim=-1)
    return orient.unflatten(-1, (3, 3)), transl, angles.unflatten(-1, (15, 3))


def _move(state: Float[Tensor, "B 57"], step: Float[Tensor, "B P"]) -> Float[Tensor, "B 57"]:
    orient, transl, angles = state.split((9, 3, NUM_ANGLES), dim=-1)
    # A whole turn in one step is a sign of a bad quadratic, not of a hand.
    turned = rotation_from_aa(step[:, :3].clamp(-1, 1)) @ orient.unflatten(-1, (3, 3))
    moved = angles.clone()
    moved[:, list(FREE_ANGLES)] += step[:, NUM_RIGID:]
    return torch.cat([turned.flatten(-2), transl + step[:, 3:NUM_RIGID], moved], dim=-1)


def _stack(fits: list[_Fit]) -> _Fit:
    return _Fit(
        torch.cat([fit.orient for fit in fits]),
        torch.cat([fit.transl for fit in fits]),
        torch.cat([fit.angles for fit in fits]),
        fits[0].betas,
    )


def _unstack(fit: _Fit, num: int) -> list[_Fit]:
    return [fit[rows] for rows in torch.arange(fit.transl.shape[0]).chunk(num)]
