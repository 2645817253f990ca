"""Position errors of joints and vertices: known answers, recorded numbers, what must not change them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haptic import metrics
from haptic.geometry.rotations import rotation_from_aa

ALIGNED = [metrics.ga_mpjpe, metrics.wa_mpjpe, metrics.pa_mpjpe, metrics.fa_mpjpe, metrics.w_mpjpe, metrics.g_mpjpe]
ALL = [*ALIGNED, metrics.mpjpe, metrics.mpvpe, metrics.c_mpjpe, metrics.ra_mpjpe, metrics.pa_mpvpe]


def moving_hand(seed: int, frames: int = 40, points: int = 21) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    hand = 0.05 * torch.randn(frames, points, 3, generator=rng, dtype=torch.float64)
    path = 0.02 * torch.randn(frames, 1, 3, generator=rng, dtype=torch.float64).cumsum(dim=0)
    return hand + path + torch.tensor([0.1, 0.0, 0.6], dtype=torch.float64)


def similar(points: torch.Tensor, *, scale: float, turn: tuple[float, ...], shift: tuple[float, ...]) -> torch.Tensor:
    rotation = rotation_from_aa(torch.tensor(turn, dtype=points.dtype))
    return scale * points @ rotation.T + torch.tensor(shift, dtype=points.dtype)


numbers = st.floats(-2.0, 2.0)
triples = st.tuples(numbers, numbers, numbers)
movements = st.fixed_dictionaries({"scale": st.floats(0.2, 4.0), "turn": triples, "shift": triples})


def test_every_joint_three_and_four_centimetres_off_has_an_error_of_five():
    target = moving_hand(0)
    for metric in (metrics.mpjpe, metrics.mpvpe, metrics.c_mpjpe):
        assert metric(target + torch.tensor([0.03, 0.04, 0.0]), target).item() == pytest.approx(0.05)


def test_root_alignment_forgives_where_the_hand_is_but_not_its_pose():
    target = moving_hand(1)
    pred = target + torch.randn(40, 1, 3)
    assert metrics.ra_mpjpe(pred, target).item() == pytest.approx(0.0, abs=1e-12)
    pred[:, 8] += torch.tensor([0.0, 0.0, 0.021])
    assert metrics.ra_mpjpe(pred, target).item() == pytest.approx(0.001)


def test_root_alignment_moves_the_root_it_is_told():
    target = moving_hand(2)
    pred = target.clone()
    pred[:, 0] += 0.021 / math.sqrt(3)
    assert metrics.ra_mpjpe(pred, target, root=9).item() == pytest.approx(0.001)
    assert metrics.ra_mpjpe(pred, target, root=0).item() == pytest.approx(0.020)


def test_vertices_are_rooted_by_the_wrists_that_come_with_them():
    target, wrist = moving_hand(3, points=778), moving_hand(4)[:, 0]
    away = torch.randn(40, 1, 3)
    pred = target + away + torch.tensor([0.0, 0.002, 0.0])
    error = metrics.ra_mpvpe(pred, target, pred_root=wrist + away[:, 0], target_root=wrist)
    assert error.item() == pytest.approx(0.002)


def test_first_frame_alignment_sees_drift_that_global_alignment_spreads():
    target = moving_hand(5)
    drift = torch.linspace(0, 0.2, 40)[:, None, None] * torch.tensor([0.0, 0.0, 1.0])
    pred = target + drift
    assert metrics.fa_mpjpe(pred, target).item() == pytest.approx(0.1)  # the mean of 0 ... 0.2
    assert metrics.ga_mpjpe(pred, target, scale=False) < 0.06
    assert metrics.pa_mpjpe(pred, target).item() == pytest.approx(0.0, abs=1e-12)


def test_the_first_frame_is_the_first_that_counts():
    target = moving_hand(6)
    pred = target.clone()
    pred[0] = torch.nan
    weight = torch.ones(40)
    weight[0] = 0
    assert metrics.fa_mpjpe(pred, target, weight).item() == pytest.approx(0.0, abs=1e-12)


def test_one_and_two_first_frames_differ_when_the_second_is_off():
    target = moving_hand(7)
    pred = target.clone()
    pred[1] += 0.03
    assert metrics.fa_mpjpe(pred, target, first_frames=1).item() == pytest.approx(0.03 * math.sqrt(3) / 40)
    assert metrics.fa_mpjpe(pred, target, first_frames=2) > 0.01


def test_rigid_alignment_sees_a_hand_of_the_wrong_size():
    target = moving_hand(8)
    pred = similar(target, scale=1.2, turn=(0.3, 0.2, -1.0), shift=(1.0, 0.0, 2.0))
    for metric in (metrics.ga_mpjpe, metrics.fa_mpjpe, metrics.w_mpjpe, metrics.wa_mpjpe, metrics.g_mpjpe):
        assert metric(pred, target).item() == pytest.approx(0.0, abs=1e-10)
        assert metric(pred, target, scale=False) > 0.005


def test_a_mirrored_hand_cannot_be_aligned_away():
    target = moving_hand(9)
    pred = target * torch.tensor([-1.0, 1.0, 1.0])
    assert metrics.pa_mpjpe(pred, target) > 0.02
    assert metrics.ga_mpjpe(pred, target) > 0.02


def test_segments_are_scored_as_if_each_stood_alone():
    target = moving_hand(10, frames=70)
    pred = target + 0.01 * torch.randn(70, 21, 3, dtype=torch.float64)
    parts = [slice(0, 30), slice(30, 60), slice(60, 70)]
    for whole, alone in (
        (metrics.wa_mpjpe(pred, target, segment_frames=30), metrics.ga_mpjpe),
        (metrics.w_mpjpe(pred, target, segment_frames=30), lambda p, g: metrics.fa_mpjpe(p, g, first_frames=2)),
    ):
        expected = sum(alone(pred[part], target[part]) * len(target[part]) for part in parts) / 70
        torch.testing.assert_close(whole, expected)


def test_default_segments_are_those_of_the_papers():
    target = moving_hand(11, frames=128)
    pred = target + 0.01 * torch.randn(128, 21, 3, dtype=torch.float64)
    whole = metrics.fa_mpjpe(pred, target, first_frames=2)
    torch.testing.assert_close(metrics.g_mpjpe(pred, target), whole)
    assert not torch.isclose(metrics.w_mpjpe(pred, target), whole)
    torch.testing.assert_close(metrics.w_mpjpe(pred[:100], target[:100]), metrics.g_mpjpe(pred[:100], target[:100]))


@pytest.mark.parametrize("metric", ALIGNED, ids=lambda metric: metric.__name__)
@settings(max_examples=15, deadline=None)
@given(movement=movements)
def test_aligned_errors_do_not_care_how_the_prediction_lies_in_space(metric, movement):
    target = moving_hand(12)
    pred = target + 0.01 * moving_hand(13)
    torch.testing.assert_close(metric(similar(pred, **movement), target), metric(pred, target), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
@settings(max_examples=10, deadline=None)
@given(turn=triples, shift=triples, unit=st.sampled_from([1.0, 100.0, 1000.0]))
def test_moving_both_sides_together_changes_nothing_and_the_unit_carries_through(metric, turn, shift, unit):
    target = moving_hand(14)
    pred = target + 0.3 * moving_hand(15)
    together = [similar(points, scale=unit, turn=turn, shift=shift) for points in (pred, target)]
    torch.testing.assert_close(metric(*together), unit * metric(pred, target), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_the_order_of_joints_does_not_matter_as_long_as_both_share_it(metric):
    target = moving_hand(16)
    pred = target + 0.3 * moving_hand(17)
    order = torch.tensor([0, *(1 + torch.randperm(20)).tolist()])
    torch.testing.assert_close(metric(pred[:, order], target[:, order]), metric(pred, target))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_what_does_not_count_is_never_read(metric):
    target = moving_hand(18, frames=20)
    pred = target + 0.3 * moving_hand(19, frames=20)
    expected = metric(pred[:14, :19], target[:14, :19])
    weight = torch.ones(20, 21)
    weight[14:], weight[:, 19:] = 0, 0
    pred[14:], target[:, 19:] = torch.nan, torch.inf
    torch.testing.assert_close(metric(pred, target, weight), expected)


def test_a_joint_of_weight_three_counts_as_three_joints():
    target = moving_hand(20)
    pred = target + 0.3 * moving_hand(21)
    weight = torch.ones(40, 21)
    weight[:, 5] = 3
    thrice = torch.tensor([*range(21), 5, 5])
    for metric in ALL:
        torch.testing.assert_close(metric(pred, target, weight), metric(pred[:, thrice], target[:, thrice]))


def test_procrustes_error_is_the_least_of_the_position_errors_of_one_frame():
    target = moving_hand(22, frames=1)
    pred = similar(target + 0.01 * torch.randn(1, 21, 3), scale=0.9, turn=(0.2, 0, 0.1), shift=(0.1, 0, 0))
    least = metrics.pa_mpjpe(pred, target)
    torch.testing.assert_close(least, metrics.ga_mpjpe(pred, target))
    assert least < metrics.ra_mpjpe(pred, target)
    assert least < metrics.mpjpe(pred, target)


def test_the_answer_has_the_type_of_the_prediction():
    target = moving_hand(23).float()
    assert metrics.pa_mpjpe(target + 0.01, target).dtype == torch.float32
    assert metrics.ga_mpjpe(target.double() + 0.01, target.double()).dtype == torch.float64


def test_frame_errors_average_to_the_sequence_error_and_are_nan_where_nothing_counts():
    target = moving_hand(24)
    pred = target + 0.3 * moving_hand(25)
    weight = torch.ones(40)
    weight[7] = 0
    moved = metrics.align_sequence(pred, target, weight, segment_frames=30, first_frames=2)
    errors = metrics.frame_errors(moved, target, weight)
    assert errors.isnan().nonzero().tolist() == [[7]]
    torch.testing.assert_close(errors.nanmean(), metrics.w_mpjpe(pred, target, weight, segment_frames=30))
    rooted = metrics.frame_errors(metrics.align_root(pred, target), target)
    torch.testing.assert_close(rooted.mean(), metrics.ra_mpjpe(pred, target))


def recorded(shared_dir, name):
    with np.load(shared_dir / "golden" / name, allow_pickle=False) as archive:
        return {key: torch.from_numpy(np.array(archive[key])) for key in archive.files}


def test_frame_metrics_of_hamer_are_met(shared_dir):
    gold = recorded(shared_dir, "geometry.npz")
    pred, target = gold["metric/a"], gold["metric/b"]
    plain = 1000 * metrics.frame_errors(pred, target)
    aligned = 1000 * metrics.frame_errors(metrics.align_frames(pred, target), target)
    torch.testing.assert_close(plain, gold["metric/mpjpe_mm"].to(plain), rtol=1e-4, atol=0)
    torch.testing.assert_close(aligned, gold["metric/pa_mm"].to(plain), rtol=1e-4, atol=0)
    torch.testing.assert_close(1000 * metrics.mpjpe(pred, target), gold["metric/mpjpe_mm"].mean().to(plain))
    torch.testing.assert_close(1000 * metrics.pa_mpjpe(pred, target), gold["metric/pa_mm"].mean().to(plain))


def test_world_metrics_of_hawor_are_met_in_every_frame(shared_dir):
    gold = recorded(shared_dir, "world_metrics.npz")
    pred, target = gold["pred"], gold["gt"]

    def met(moved, metric_mm, key):
        errors = 1000 * metrics.frame_errors(moved, target)
        torch.testing.assert_close(errors, gold[key].to(errors), rtol=1e-4, atol=0)
        torch.testing.assert_close(1000 * metric_mm, gold[key].mean().to(errors), rtol=1e-4, atol=0)

    for frames in (30, 100):
        first = metrics.align_sequence(pred, target, segment_frames=frames, first_frames=2)
        met(first, metrics.w_mpjpe(pred, target, segment_frames=frames), f"w_{frames}")
        whole = metrics.align_sequence(pred, target, segment_frames=frames)
        met(whole, metrics.wa_mpjpe(pred, target, segment_frames=frames), f"wa_{frames}")
    met(metrics.align_frames(pred, target), metrics.pa_mpjpe(pred, target), "pa")
    met(pred, metrics.c_mpjpe(pred, target), "c")
