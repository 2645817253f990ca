"""Missing hands and bad input: every rule by its known answer, every refusal by its words."""

import math

import pytest
import torch

from haptic import metrics
from haptic.metrics import MissingRule, score

FIRST_METRICS = [
    metrics.mpjpe, metrics.mpvpe, metrics.c_mpjpe, metrics.ra_mpjpe, metrics.pa_mpjpe, metrics.pa_mpvpe,
    metrics.ga_mpjpe, metrics.fa_mpjpe, metrics.w_mpjpe, metrics.wa_mpjpe, metrics.g_mpjpe, metrics.acc_norm,
    metrics.acc_error, metrics.frame_errors, metrics.frame_acc_errors, metrics.align_frames, metrics.align_root,
    metrics.align_sequence,
]  # fmt: skip
ids = [metric.__name__ for metric in FIRST_METRICS]


def hand(seed: int, frames: int = 20) -> torch.Tensor:
    return 0.05 * torch.randn(frames, 21, 3, generator=torch.Generator().manual_seed(seed))


def predicted_but(*missing: int, frames: int = 20) -> torch.Tensor:
    known = torch.ones(frames, dtype=torch.bool)
    known[list(missing)] = False
    return known


def test_skipped_frames_do_not_count():
    target, pred = hand(0), hand(0) + 0.01
    known = predicted_but(3, 4, 19)
    pred[~known] = torch.nan
    error = score(metrics.mpjpe, pred, target, predicted=known, rule=MissingRule("skip"))
    assert error.item() == pytest.approx(0.01 * math.sqrt(3))
    assert metrics.coverage(known).item() == pytest.approx(17 / 20)


def test_skipping_aligns_over_the_gap_and_splitting_aligns_each_side_of_it():
    target = hand(1)
    pred = target.clone()
    pred[11:] += torch.tensor([0.0, 0.0, 0.1])  # the hand is lost in frame 10 and found again 10 cm further
    pred[10] = torch.nan
    known = predicted_but(10)
    across = score(metrics.fa_mpjpe, pred, target, predicted=known, rule=MissingRule("skip"))
    apart = score(metrics.fa_mpjpe, pred, target, predicted=known, rule=MissingRule("split"))
    assert across.item() == pytest.approx(0.1 * 9 / 19, rel=1e-5)
    assert apart.item() == pytest.approx(0.0, abs=1e-6)


def test_runs_are_weighted_by_their_frames_and_short_ones_left_out():
    target = hand(2)
    pred = target.clone()
    pred[:6] += torch.tensor([0.01, 0, 0])
    pred[7:15] += torch.tensor([0.02, 0, 0])
    pred[16:] += 5.0
    known = predicted_but(6, 15)
    both = score(metrics.mpjpe, pred, target, predicted=known, rule=MissingRule("split", min_run_frames=5))
    assert both.item() == pytest.approx((6 * 0.01 + 8 * 0.02) / 14, rel=1e-5)
    longest = score(metrics.mpjpe, pred, target, predicted=known, rule=MissingRule("split", min_run_frames=8))
    assert longest.item() == pytest.approx(0.02, rel=1e-5)
    with pytest.raises(ValueError, match="no run of them is 16 frames long"):
        score(metrics.mpjpe, pred, target, predicted=known, rule=MissingRule("split", min_run_frames=16))


def test_frames_unknown_to_truth_end_a_run_too():
    target = hand(3)
    pred = target.clone()
    pred[10:] += 0.5
    weight = torch.ones(20)
    weight[9] = 0
    error = score(metrics.fa_mpjpe, pred, target, weight, predicted=predicted_but(), rule=MissingRule("split"))
    assert error.item() == pytest.approx(0.0, abs=1e-6)


def test_without_gaps_skip_and_split_agree_with_the_metric_itself():
    pred, target = hand(4), hand(5)
    for kind in ("skip", "split"):
        value = score(
            metrics.w_mpjpe, pred, target, predicted=predicted_but(), rule=MissingRule(kind), segment_frames=7
        )
        torch.testing.assert_close(value, metrics.w_mpjpe(pred, target, segment_frames=7))


def test_penalised_frames_cost_what_the_fallback_costs():
    target = hand(6)
    pred = target.clone()
    known = predicted_but(0, 1, 2, 3, 4)
    pred[~known] = torch.nan
    fallback = target + torch.tensor([0.0, 0.04, 0.0])
    rule = MissingRule("penalise")
    error = score(metrics.mpjpe, pred, target, predicted=known, rule=rule, fallback=fallback)
    assert error.item() == pytest.approx(0.01, rel=1e-5)
    with pytest.raises(ValueError, match="fallback is none"):
        score(metrics.mpjpe, pred, target, predicted=known, rule=rule)


def test_a_missed_hand_costs_the_mean_pose():
    target, mean_pose = hand(7), hand(8, frames=1)[0]
    target[:, 0], mean_pose[0] = 0.3, 0.0
    pred = target + 2.0  # found hands are exact but for where they are
    known = predicted_but(*range(5))
    pred[~known] = torch.nan
    rooted_cost = metrics.ra_mpjpe(mean_pose.expand(5, 21, 3), target[:5])
    error = metrics.coverage_mpjpe(pred, target, predicted=known, mean_pose=mean_pose)
    torch.testing.assert_close(error, rooted_cost * 5 / 20, rtol=1e-4, atol=1e-6)
    aligned_cost = metrics.pa_mpjpe(mean_pose.expand(5, 21, 3), target[:5])
    error = metrics.coverage_pa_mpjpe(pred, target, predicted=known, mean_pose=mean_pose)
    torch.testing.assert_close(error, aligned_cost * 5 / 20, rtol=1e-4, atol=1e-6)


def test_a_system_that_predicts_nothing_scores_the_mean_pose():
    target, mean_pose = hand(9), hand(10, frames=1)[0]
    nothing = torch.full_like(target, torch.nan)
    error = metrics.coverage_mpjpe(nothing, target, predicted=~predicted_but(), mean_pose=mean_pose)
    torch.testing.assert_close(error, metrics.ra_mpjpe(mean_pose.expand(20, 21, 3), target))


def test_coverage_counts_only_what_truth_knows():
    weight = torch.zeros(20, 21)
    weight[:10, 3] = 1
    assert metrics.coverage(predicted_but(0, 15), weight).item() == pytest.approx(0.9)


def test_rules_work_for_wrists_pixels_and_meshes_too():
    known = predicted_but(4)
    for metric, shape, options in (
        (metrics.rte, (20, 3), {}),
        (metrics.epe_2d, (20, 21, 2), {}),
        (metrics.mrrpe, (20, 2, 3), {}),
        (metrics.f_score, (20, 30, 3), {"threshold": 0.5}),
    ):
        pred, target = torch.rand(shape), torch.rand(shape)
        expected = metric(pred, target, known.float(), **options)
        pred[4] = torch.nan
        value = score(metric, pred, target, predicted=known, rule=MissingRule("skip"), **options)
        torch.testing.assert_close(value, expected)
        parts = [metric(pred[part], target[part], **options) for part in (slice(0, 4), slice(5, 20))]
        value = score(metric, pred, target, predicted=known, rule=MissingRule("split"), **options)
        torch.testing.assert_close(value, (4 * parts[0] + 15 * parts[1]) / 19)


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="min_run_frames is 0"):
        MissingRule("split", min_run_frames=0)


@pytest.mark.parametrize("metric", FIRST_METRICS, ids=ids)
def test_a_nan_that_counts_is_refused_with_its_place(metric):
    pred, target = hand(11), hand(12)
    pred[7, 3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"prediction has NaN or infinity in frame 7, point 3"):
        metric(pred, target)
    with pytest.raises(ValueError, match=r"truth has NaN or infinity in frame 7, point 3"):
        metric(target, pred)


@pytest.mark.parametrize("metric", FIRST_METRICS, ids=ids)
def test_different_shapes_are_refused(metric):
    for pred, target in (
        (hand(13), hand(14)[:19]),
        (hand(13), hand(14)[:, :20]),
        (hand(13)[None], hand(14)[None]),
        (hand(13).flatten(1), hand(14).flatten(1)),
        (torch.zeros(5, 21, 4), torch.zeros(5, 21, 4)),
    ):
        with pytest.raises(ValueError, match="both must be frames x points x 3"):
            metric(pred, target)


@pytest.mark.parametrize("metric", FIRST_METRICS, ids=ids)
def test_nothing_that_counts_is_no_zero(metric):
    pred, target = hand(15), hand(16)
    with pytest.raises(ValueError, match="none of 20 frames counts"):
        metric(pred, target, torch.zeros(20))
    with pytest.raises(ValueError, match="none of 0 frames counts"):
        metric(pred[:0], target[:0])


@pytest.mark.parametrize("metric", FIRST_METRICS, ids=ids)
def test_weights_must_fit_and_make_sense(metric):
    pred, target = hand(17), hand(18)
    with pytest.raises(ValueError, match="weight is 19;"):
        metric(pred, target, torch.ones(19))
    for bad in (-1.0, float("nan"), float("inf")):
        weight = torch.ones(20)
        weight[2] = bad
        with pytest.raises(ValueError, match="NaN, infinite or negative"):
            metric(pred, target, weight)


def test_refusals_are_one_line_that_names_the_metric():
    pred = hand(19)
    pred[0] = torch.nan
    for metric in FIRST_METRICS:
        with pytest.raises(ValueError, match=f"^{metric.__name__}: ") as caught:
            metric(pred, hand(20))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", [metrics.pa_mpjpe, metrics.ga_mpjpe, metrics.w_mpjpe, metrics.fa_mpjpe])
def test_a_truth_written_as_zeros_is_refused_where_it_would_align_to_nothing(metric):
    target = hand(21)
    target[0:2] = 0.0
    if metric is metrics.ga_mpjpe:
        target[:] = 0.0
    with pytest.raises(ValueError, match="all points of the truth coincide"):
        metric(hand(22), target)


def test_two_points_cannot_be_aligned():
    weight = torch.ones(20, 21)
    weight[5, 2:] = 0
    with pytest.raises(ValueError, match="from frame 5 on, fewer than 3 points count"):
        metrics.pa_mpjpe(hand(23), hand(24), weight)
    weight[5] = 0
    assert metrics.pa_mpjpe(hand(23), hand(24), weight) > 0


def test_joints_without_their_root_are_refused():
    weight = torch.ones(20, 21)
    weight[6, 0] = 0
    with pytest.raises(ValueError, match="in frame 6 joints count but their root, joint 0, does not"):
        metrics.ra_mpjpe(hand(25), hand(26), weight)
    assert metrics.ra_mpjpe(hand(25), hand(26), weight, root=9) > 0
    with pytest.raises(ValueError, match="root is 21"):
        metrics.ra_mpjpe(hand(25), hand(26), root=21)


def test_segments_and_first_frames_are_at_least_one():
    for options in ({"segment_frames": 0}, {"first_frames": 0}):
        with pytest.raises(ValueError, match="both must be at least 1"):
            metrics.w_mpjpe(hand(27), hand(28), **options)


def test_thresholds_that_make_no_sense_are_refused():
    pred, target = hand(29), hand(30)
    for call, words in (
        (lambda: metrics.pck(pred, target, threshold=0.0), "pck: threshold is 0.0"),
        (lambda: metrics.f_score(pred, target, threshold=float("nan")), "f_score: threshold is nan"),
        (lambda: metrics.pck_auc(pred, target, max_threshold=0.0), "the last above it"),
        (lambda: metrics.pck_auc(pred, target, max_threshold=0.05, steps=1), "two or more"),
        (
            lambda: metrics.hint_pck(pred[..., :2], target[..., :2], torch.ones(20, 21), box_side_px=torch.ones(3)),
            "20 pos",
        ),
        (
            lambda: metrics.hint_pck(pred[..., :2], target[..., :2], torch.ones(20), box_side_px=torch.zeros(20)),
            "20 pos",
        ),
        (
            lambda: metrics.hint_pck(pred[..., :2], target[..., :2], 0.1 * torch.ones(20), box_side_px=torch.ones(20)),
            "no joint has a confidence above 0.5",
        ),
        (lambda: metrics.mrrpe(pred, target), "two wrists per frame"),
        (lambda: metrics.rte(pred, target), "both must be frames x 3"),
        (lambda: metrics.f_score(pred, target[:19], threshold=0.1), "with the same frames"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
