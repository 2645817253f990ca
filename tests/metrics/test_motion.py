"""Acceleration, jerk and the wrist's path: known answers, recorded numbers, what must not change them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haptic import metrics
from haptic.geometry.rotations import rotation_from_aa

FPS = 30.0
SECONDS = torch.arange(20, dtype=torch.float64)[:, None, None] / FPS
DOWN = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
triples = st.tuples(*[st.floats(-2.0, 2.0)] * 3)


def still_hand() -> torch.Tensor:
    hand = 0.05 * torch.randn(21, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return hand.expand(20, 21, 3)


def shaky_hand(seed: int) -> torch.Tensor:
    return still_hand() + 0.01 * torch.randn(
        20, 21, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_a_falling_hand_accelerates_with_gravity_and_has_no_jerk():
    falling = still_hand() + 0.5 * 9.81 * SECONDS**2 * DOWN
    assert metrics.acc_error(falling, still_hand(), fps=FPS).item() == pytest.approx(9.81)
    assert metrics.acc_error(falling, still_hand()).item() == pytest.approx(9.81 / 900)
    assert metrics.jerk(falling, fps=FPS).item() == pytest.approx(0.0, abs=1e-9)


def test_millimetres_per_frame_squared_times_nine_tenths_are_metres_per_second_squared():
    pred, target = shaky_hand(1), shaky_hand(2)
    per_frame_mm = metrics.acc_error(1000 * pred, 1000 * target)
    torch.testing.assert_close(metrics.acc_error(pred, target, fps=FPS), 0.9 * per_frame_mm)


def test_steadily_growing_acceleration_has_constant_jerk():
    swinging = still_hand() + 12.0 / 6 * SECONDS**3 * DOWN
    assert metrics.jerk(swinging, fps=FPS).item() == pytest.approx(12.0)
    assert metrics.jerk(swinging).item() == pytest.approx(12.0 / 30**3)


def test_the_two_readings_of_acc_norm_part_where_only_the_direction_differs():
    down = still_hand() + 0.5 * 3.0 * SECONDS**2 * DOWN
    aside = still_hand() + 0.5 * 3.0 * SECONDS**2 * DOWN.roll(1)
    norms = metrics.acc_norm(down, aside, reading="difference_of_norms", fps=FPS)
    vectors = metrics.acc_norm(down, aside, reading="norm_of_difference", over_joints="mean", fps=FPS)
    assert norms.item() == pytest.approx(0.0, abs=1e-9)
    assert vectors.item() == pytest.approx(3.0 * math.sqrt(2))


def test_acc_norm_is_by_default_the_norm_over_joints():
    strength = torch.arange(21, dtype=torch.float64)[None, :, None] / 1000
    pred = still_hand() + 0.5 * strength * (SECONDS * FPS) ** 2 * DOWN
    assert metrics.acc_norm(pred, still_hand()).item() == pytest.approx(strength.norm().item())
    assert metrics.acc_norm(pred, still_hand(), over_joints="mean").item() == pytest.approx(0.01)


def test_acc_norm_of_equal_joints_is_not_lowered_by_joints_that_do_not_count():
    pred = still_hand() + 0.001 * (SECONDS * FPS) ** 2 * DOWN
    weight = torch.ones(20, 21)
    weight[:, 10:] = 0
    torch.testing.assert_close(metrics.acc_norm(pred, still_hand(), weight), metrics.acc_norm(pred, still_hand()))


def test_norm_of_difference_over_the_mean_of_joints_is_the_acceleration_error():
    pred, target = shaky_hand(3), shaky_hand(4)
    torch.testing.assert_close(
        metrics.acc_norm(pred, target, reading="norm_of_difference", over_joints="mean", fps=FPS),
        metrics.acc_error(pred, target, fps=FPS),
    )


@settings(max_examples=20, deadline=None)
@given(start=triples, velocity=triples, turn=triples)
def test_acceleration_and_jerk_do_not_see_where_the_hand_starts_how_it_drifts_or_how_the_world_lies(
    start, velocity, turn
):
    start, velocity = torch.tensor(start), torch.tensor(velocity)
    rotation = rotation_from_aa(torch.tensor(turn, dtype=torch.float64))
    pred, target = shaky_hand(5), shaky_hand(6)
    drifted = (pred + start + velocity * SECONDS) @ rotation.T
    for metric in (metrics.acc_error, metrics.acc_norm):
        torch.testing.assert_close(metric(drifted, target @ rotation.T, fps=FPS), metric(pred, target, fps=FPS))
    torch.testing.assert_close(metrics.jerk(drifted, fps=FPS), metrics.jerk(pred, fps=FPS))


def test_motion_looks_the_same_backwards():
    pred, target = shaky_hand(7), shaky_hand(8)
    for metric in (metrics.acc_error, metrics.acc_norm):
        torch.testing.assert_close(metric(pred.flip(0), target.flip(0)), metric(pred, target))
    torch.testing.assert_close(metrics.jerk(pred.flip(0)), metrics.jerk(pred))


def test_no_acceleration_is_read_across_a_gap():
    pred, target = shaky_hand(9), shaky_hand(10)
    weight = torch.ones(20)
    weight[8] = 0
    apart = (6 * metrics.acc_error(pred[:8], target[:8]) + 9 * metrics.acc_error(pred[9:], target[9:])) / 15
    pred[8] = torch.nan
    torch.testing.assert_close(metrics.acc_error(pred, target, weight), apart)
    alone = (5 * metrics.jerk(pred[:8]) + 8 * metrics.jerk(pred[9:])) / 13
    torch.testing.assert_close(metrics.jerk(pred, weight), alone)
    unknown = metrics.frame_acc_errors(pred, target, weight).isnan().nonzero()[:, 0].tolist()
    assert unknown == [0, 7, 8, 9, 19]


def test_two_frames_have_no_acceleration_and_three_no_jerk():
    pred, target = shaky_hand(11), shaky_hand(12)
    for metric in (metrics.acc_error, metrics.acc_norm, metrics.frame_acc_errors):
        with pytest.raises(ValueError, match="no 3 consecutive frames count"):
            metric(pred[:2], target[:2])
    with pytest.raises(ValueError, match="no 4 consecutive frames count"):
        metrics.jerk(pred[:3])
    every_other = torch.arange(20) % 2 == 0
    with pytest.raises(ValueError, match="no 3 consecutive frames count"):
        metrics.acc_error(pred, target, every_other)


def test_frame_accelerations_average_to_the_acceleration_error():
    pred, target = shaky_hand(13), shaky_hand(14)
    errors = metrics.frame_acc_errors(pred, target, fps=FPS)
    assert errors.shape == (20,)
    torch.testing.assert_close(errors[1:-1].mean(), metrics.acc_error(pred, target, fps=FPS))


def test_a_path_walked_twice_as_far_misses_by_its_distance_from_the_middle():
    target = torch.tensor([1.0, 0, 0]) * torch.arange(5)[:, None]
    # About the middle, two steps become four: errors 2, 1, 0, 1, 2 over a path of 4.
    assert metrics.rte(2 * target, target).item() == pytest.approx(100 * (6 / 5) / 4)
    assert metrics.rte(2 * target, target, scale=True).item() == pytest.approx(0.0, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(turn=triples, shift=triples, unit=st.sampled_from([1.0, 1000.0]))
def test_the_wrist_path_error_sees_neither_frame_nor_unit(turn, shift, unit):
    target, pred = shaky_hand(15)[:, 0], shaky_hand(16)[:, 0]
    rotation = rotation_from_aa(torch.tensor(turn, dtype=torch.float64))
    moved = unit * (pred @ rotation.T + torch.tensor(shift))
    torch.testing.assert_close(metrics.rte(moved, unit * target), metrics.rte(pred, target), rtol=1e-7, atol=1e-9)


def test_the_wrist_path_runs_straight_over_frames_that_do_not_count():
    target, pred = shaky_hand(17)[:, 0], shaky_hand(18)[:, 0]
    keep = torch.arange(20) != 6
    expected = metrics.rte(pred[keep], target[keep])
    pred[6], target[6] = torch.nan, torch.nan
    torch.testing.assert_close(metrics.rte(pred, target, keep), expected)


def test_a_wrist_that_never_moves_has_no_path_to_compare_with():
    with pytest.raises(ValueError, match="true wrist does not move"):
        metrics.rte(shaky_hand(19)[:, 0], still_hand()[:, 0])


def test_frame_rates_must_be_positive():
    pred = shaky_hand(20)
    for fps in (0.0, -30.0, float("nan")):
        with pytest.raises(ValueError, match="fps is"):
            metrics.acc_error(pred, pred, fps=fps)


def recorded(shared_dir, name):
    with np.load(shared_dir / "golden" / name, allow_pickle=False) as archive:
        return {key: torch.from_numpy(np.array(archive[key])) for key in archive.files}


def test_both_readings_of_haptics_loss_are_met(shared_dir):
    gold = recorded(shared_dir, "geometry.npz")
    pred, target = gold["loss/p3"], gold["loss/q3"][..., :3]
    num_differences = 4 * 21  # the recorded losses are sums
    for reading, key in (("difference_of_norms", "acc_diffnorm"), ("norm_of_difference", "acc_normdiff")):
        value = num_differences * metrics.acc_norm(pred, target, reading=reading, over_joints="mean")
        torch.testing.assert_close(value, gold[f"loss/{key}"], rtol=1e-4, atol=0)


def test_hawors_acceleration_and_wrist_path_are_met_in_every_frame(shared_dir):
    gold = recorded(shared_dir, "world_metrics.npz")
    pred, target = gold["pred"], gold["gt"]
    # HaWoR drops the first and the last difference.
    accelerations = metrics.frame_acc_errors(pred, target, fps=30)[2:-2]
    torch.testing.assert_close(accelerations, gold["accel"], rtol=1e-4, atol=0)
    pred_wrist, wrist = pred[:, 0], target[:, 0]
    torch.testing.assert_close(metrics.rte(pred_wrist, wrist), gold["rte"].mean(), rtol=1e-4, atol=0)
    moved = metrics.align_sequence(pred_wrist[:, None], wrist[:, None], scale=False)
    in_percent = 100 * metrics.frame_errors(moved, wrist[:, None]) / wrist.diff(dim=0).norm(dim=-1).sum()
    torch.testing.assert_close(in_percent, gold["rte"], rtol=1e-4, atol=0)
