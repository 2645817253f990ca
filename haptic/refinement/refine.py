"""Refine trajectories: records in, better records out, with a report of what became better."""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from haptic.hand.landmarks import LandmarkModel, detector_landmarks, load_landmark_model
from haptic.hand.mirror import mirror_params
from haptic.hand.model import HandModel, in_runs
from haptic.records import HandParams, HandTrack, Trajectory
from haptic.refinement.objective import Objective
from haptic.refinement.observations import LongObservations, in_double, landmark_scale
from haptic.refinement.report import RefinementReport, StageReport, measure_quality
from haptic.refinement.solver import minimise
from haptic.refinement.stages import RefinementConfig
from haptic.refinement.variables import Variables

Watch = Callable[[str, range], Iterable[int]]
MAX_PADDING = 1.25  # tracks are solved together while the longest is no longer than this many times the shortest


def refine(
    model: HandModel,
    trajectories: Sequence[Trajectory],
    tracks: Sequence[HandTrack],
    config: RefinementConfig | None = None,
    *,
    landmark_model: LandmarkModel | None = None,
    watch: Watch | None = None,
) -> list[tuple[Trajectory, RefinementReport]]:
    """Return each trajectory, moved to agree with its track, and a report; order and frames stay.

    Trajectories and tracks are as the camera saw them; left hands are turned over here and back. `landmark_model` says
    where on the hand the detector's joints lie and how far each is trusted; without it they are the model's own joints.
    `watch` gets each stage's name and its steps, which may be fewer in the end, and gives the steps back (for a bar).

    Raises:
        ValueError: a trajectory and its track are not of the same frames and hand, or time does not increase.
    """
    config = RefinementConfig() if config is None else config
    if len(trajectories) != len(tracks):
        raise ValueError(f"refine: {len(trajectories)} trajectories and {len(tracks)} tracks; one of each per hand")
    for number, (trajectory, track) in enumerate(zip(trajectories, tracks, strict=True)):
        _check_pair(number, trajectory, track)
    landmark_model = in_double(load_landmark_model("joints") if landmark_model is None else landmark_model)
    solver_model = copy.deepcopy(model).double()
    results: dict[int, tuple[Trajectory, RefinementReport]] = {}
    for group in _groups([len(track.time_s) for track in tracks]):
        started = time.perf_counter()
        pairs = [(trajectories[number], tracks[number]) for number in group]
        solved, stages = _solve(solver_model, pairs, config, landmark_model, watch)
        seconds = time.perf_counter() - started
        for row, number in enumerate(group):
            before = trajectories[number]
            after = _with_params(before, solved.params[row][: len(before.time_s)])
            quality = [
                measure_quality(model, trajectory, tracks[number], landmark_model=landmark_model)
                for trajectory in (before, after)
            ]
            results[number] = after, RefinementReport(quality[0], quality[1], tuple(stages[row]), seconds)
    return [results[number] for number in range(len(tracks))]


def _solve(
    model: HandModel,
    pairs: list[tuple[Trajectory, HandTrack]],
    config: RefinementConfig,
    landmark_model: LandmarkModel,
    watch: Watch | None,
) -> tuple[Variables, list[list[StageReport]]]:
    """Run the stages; return right hands, and what each stage did to each."""
    scales = [_landmark_scale(model, pair, landmark_model) for pair in pairs]
    observations = LongObservations(pairs, scales, landmark_model.spread)
    variables = _start(pairs)
    reports: list[list[StageReport]] = [[] for _ in pairs]
    for stage in config.stages:
        objective = Objective(model, landmark_model, observations, stage, chunk_frames=config.chunk_frames)
        steps = range(stage.max_steps)
        solution = minimise(objective, variables, steps if watch is None else watch(stage.name, steps))
        variables = solution.variables
        for row, report in enumerate(reports):
            before, after = float(solution.value_before[row]), float(solution.value[row])
            report.append(StageReport(stage.name, int(solution.steps[row]), before, after))
    return variables, reports


def _landmark_scale(model: HandModel, pair: tuple[Trajectory, HandTrack], landmark_model: LandmarkModel) -> Tensor:
    def points(params: HandParams) -> Tensor:
        params = in_double(params)
        params = params if pair[0].is_right else mirror_params(params)
        return detector_landmarks(model, params, landmark_model)

    return landmark_scale(in_runs(points, pair[0].params), pair[1])


def _start(pairs: list[tuple[Trajectory, HandTrack]]) -> Variables:
    """Return the trajectories side by side as right hands, one shape each; the shorter stay at their last frame."""
    num_frames = max(len(trajectory.time_s) for trajectory, _ in pairs)
    variables = Variables(
        global_orient=torch.empty(len(pairs), num_frames, 3, 3, dtype=torch.float64),
        hand_pose=torch.empty(len(pairs), num_frames, 15, 3, 3, dtype=torch.float64),
        transl=torch.empty(len(pairs), num_frames, 3, dtype=torch.float64),
        betas=torch.stack([trajectory.params.betas.double().mean(0) for trajectory, _ in pairs]),
    )
    for row, (trajectory, _) in enumerate(pairs):
        params = trajectory.params if trajectory.is_right else mirror_params(trajectory.params)
        for name in ("global_orient", "hand_pose", "transl"):
            own = getattr(params, name)
            getattr(variables, name)[row, : len(own)] = own
            getattr(variables, name)[row, len(own) :] = own[-1]
    return variables


def _with_params(trajectory: Trajectory, params: HandParams) -> Trajectory:
    """Return the trajectory with a right hand's parameters in place of its own, in its own precision and side."""
    if not trajectory.is_right:
        params = mirror_params(params)
    own = vars(trajectory.params)
    return replace(
        trajectory, params=HandParams(**{name: value.to(own[name]).clone() for name, value in vars(params).items()})
    )


def _groups(lengths: list[int]) -> list[list[int]]:
    """Put tracks of like length together, so that little is solved for padding."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if groups and lengths[number] <= MAX_PADDING * lengths[groups[-1][0]]:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _check_pair(number: int, trajectory: Trajectory, track: HandTrack) -> None:
    where = f"refine, hand {number}"
    if len(track.time_s) == 0:
        raise ValueError(f"{where}: the track has no frames; leave it out")
    if not torch.equal(trajectory.frame_index, track.frame_index):
        raise ValueError(
            f"{where}: the trajectory's {len(trajectory.frame_index)} frames and the track's {len(track.frame_index)} "
            "are not the same ones; give the track the trajectory was made from"
        )
    if bool(trajectory.is_right) != bool(track.is_right):
        raise ValueError(f"{where}: one of trajectory and track is a left hand and the other a right one")
    if bool((track.time_s.diff() <= 0).any()):
        raise ValueError(f"{where}: time_s does not increase from frame to frame; accelerations need time between them")
