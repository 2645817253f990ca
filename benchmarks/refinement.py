"""What second order buys: Levenberg-Marquardt against a thousand steps of AdamW on the same objective, in one run.

    python -m benchmarks.refinement [--frames 100]

Two synthetic hands of 100 frames with noisy 2D joints and a noisy start; both solvers move all parameters, from the
same start, in double precision, without threads. AdamW has the learning rate of HaPTIC's test-time optimisation, 1e-3.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.least_squares import one_thread
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import pose_from_angles, sample_angles
from haptic.hand.landmarks import detector_landmarks, load_landmark_model
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import Camera, HandParams, HandTrack, Trajectory
from haptic.refinement.objective import Objective
from haptic.refinement.observations import in_double, observe
from haptic.refinement.refine import refine
from haptic.refinement.solver import minimise
from haptic.refinement.stages import BLOCKS, StageConfig
from haptic.refinement.variables import Variables

ADAMW_STEPS = 1000
ADAMW_RATE = 1e-3


@dataclass(frozen=True)
class Run:
    """What a solver reached, and how long it took."""

    name: str
    seconds: float
    values: list[tuple[float, float]]  # seconds, objective summed over hands


def main() -> None:
    """Run both solvers and the whole of `refine`; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    num_frames = parser.parse_args().frames
    model = load_hand_model(None)
    hands = [synthetic_hand(model, num_frames, seed) for seed in (0, 1)]

    started, started_cpu = time.perf_counter(), time.process_time()
    landmark_model = load_landmark_model("mediapipe")
    results = refine(model, [hand[0] for hand in hands], [hand[1] for hand in hands], landmark_model=landmark_model)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    print(f"refine, 2 hands x {num_frames} frames: {seconds:.2f} s ({cpu_seconds:.2f} s of one core)")
    for _, report in results:
        print(f"  jerk {report.before.jerk_m_s3:.0f} -> {report.after.jerk_m_s3:.0f} m/s^3, steps "
              f"{[stage.steps for stage in report.stages]}")  # fmt: skip

    with one_thread():
        lm = solve_lm(*problem(hands))
        adamw = solve_adamw(*problem(hands))
    print(f"start                      objective {lm.values[0][1]:.4f}")
    for run in (lm, adamw):
        print(f"{run.name:<26} objective {run.values[-1][1]:.4f} after {run.seconds:.2f} s")
    matched = next((at for at, value in lm.values if value <= adamw.values[-1][1]), None)
    assert matched is not None, "Levenberg-Marquardt ended above AdamW"
    sooner, shorter = adamw.seconds / matched, adamw.seconds / lm.seconds
    print(f"Levenberg-Marquardt was at AdamW's last value after {matched:.2f} s, {sooner:.0f} times sooner")
    print(f"and done, below it, in a time {shorter:.0f} times shorter")


def problem(hands: list[tuple[Trajectory, HandTrack]]) -> tuple[Objective, Variables]:
    """Return one stage that moves everything, and where it starts."""
    model, landmark_model = load_hand_model(None).double(), in_double(load_landmark_model("mediapipe"))
    trajectories, tracks = [in_double(hand[0]) for hand in hands], [in_double(hand[1]) for hand in hands]
    points = [detector_landmarks(model, trajectory.params, landmark_model) for trajectory in trajectories]
    observations = observe(trajectories, tracks, points, landmark_model.spread)
    stage = StageConfig(name="all", free=BLOCKS, max_steps=40, tolerance=1e-4)
    initial = observations.initial
    start = Variables(initial.global_orient, initial.hand_pose, initial.transl, initial.betas[:, 0])
    return Objective(model, landmark_model, observations, stage, chunk_frames=300), start


def solve_lm(objective: Objective, start: Variables) -> Run:
    """Run the solver, noting the objective at each step."""
    clock = time.perf_counter()
    values: list[tuple[float, float]] = []
    best = torch.full((start.transl.shape[0],), torch.inf, dtype=start.transl.dtype)
    inner = objective.value_and_gradient

    def noted(variables: Variables) -> tuple[Tensor, Tensor, Tensor]:
        answer = inner(variables)
        best.copy_(torch.minimum(best, answer[0]))
        values.append((time.perf_counter() - clock, float(best.sum())))
        return answer

    objective.value_and_gradient = noted  # type: ignore[method-assign]
    minimise(objective, start)
    return Run("Levenberg-Marquardt", time.perf_counter() - clock, values)


def solve_adamw(objective: Objective, start: Variables) -> Run:
    """Run AdamW on the same numbers, as turns and shifts away from the start."""
    clock = time.perf_counter()
    frame_step = torch.zeros(*start.transl.shape[:2], 51, dtype=torch.float64, requires_grad=True)
    shape_step = torch.zeros(start.transl.shape[0], 10, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([frame_step, shape_step], lr=ADAMW_RATE, weight_decay=0.0)
    values: list[tuple[float, float]] = []
    for _ in range(ADAMW_STEPS):
        optimiser.zero_grad()
        value = objective.value(start.moved(frame_step, shape_step)).sum()
        value.backward()
        optimiser.step()
        values.append((time.perf_counter() - clock, float(value.detach())))
    return Run(f"AdamW, {ADAMW_STEPS} steps", time.perf_counter() - clock, values)


def synthetic_hand(model: HandModel, num_frames: int, seed: int) -> tuple[Trajectory, HandTrack]:
    """Return a noisy start and what a detector sees of a hand that opens, closes, turns and wanders."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    time_s = torch.arange(num_frames) / 30

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    first, second = sample_angles(2, rng=rng)
    share = (0.5 + 0.5 * torch.sin(3.0 * time_s))[:, None, None]
    wave = torch.sin(torch.from_numpy(rng.uniform(1, 4, 6)).float() * time_s[:, None])
    facing = rotation_from_aa(torch.tensor([torch.pi / 2, 0.0, 0.0]))
    truth = HandParams(
        global_orient=rotation_from_aa(0.5 * wave[:, :3]) @ facing,
        hand_pose=pose_from_angles(first * (1 - share) + second * share),
        betas=torch.from_numpy(rng.normal(0, 0.7, 10)).float().expand(num_frames, 10),
        transl=torch.tensor([0.0, 0.0, 0.55]) + 0.12 * wave[:, 3:],
    )
    K = intrinsics(600.0, width=640, height=480).expand(num_frames, 3, 3)
    points = detector_landmarks(model, truth, load_landmark_model("mediapipe"))
    seen_img = project(points, K)
    side_px = (seen_img.amax(1) - seen_img.amin(1)).amax(-1)
    seen_img = seen_img + 0.02 * side_px[:, None, None] * noise(num_frames, 21, 2)
    ones, is_right = torch.ones(num_frames), torch.tensor(True)
    track = HandTrack(
        frame_index=torch.arange(num_frames), time_s=time_s, box_center_img=seen_img.mean(1), box_side_px=side_px,
        joints_img=seen_img, joints_img_weight=torch.ones(num_frames, 21),
        landmarks=points - points.mean(1, keepdim=True) + 0.005 * noise(num_frames, 21, 3), landmarks_weight=ones,
        confidence=ones, observed=ones.bool(), is_right=is_right,
    )  # fmt: skip
    start = HandParams(
        global_orient=truth.global_orient @ rotation_from_aa(0.15 * noise(num_frames, 3)),
        hand_pose=truth.hand_pose @ rotation_from_aa(0.15 * noise(num_frames, 15, 3)),
        betas=torch.zeros(num_frames, 10),
        transl=truth.transl * (1 + 0.04 * noise(num_frames, 1)),
    )
    camera = Camera(K=K, T_world_cam=torch.eye(4).expand(num_frames, 4, 4))
    trajectory = Trajectory(track.frame_index, time_s, start, camera, ones, track.observed, is_right)
    return trajectory, track


if __name__ == "__main__":
    main()
