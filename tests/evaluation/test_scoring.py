"""Numbers come out as their protocols say, and the hash knows what changes them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic import metrics
from haptic.evaluation.benchmarks import FIXED, NAMES, find_benchmark, find_shards, missing_sets
from haptic.evaluation.checks import pair_hands
from haptic.evaluation.protocols import (
    ACC_MM,
    COVERAGE,
    FA,
    GA,
    JERK,
    PA_AUC,
    PA_MM,
    RA_MM,
    RTE,
    Metric,
    Protocol,
    Split,
    w_metrics,
)
from haptic.evaluation.scoring import frame_scores, metric_value, score_hand, summarise
from haptic.evaluation.tables import load_published
from haptic.geometry.boxes import HAPTIC_EXPANSION
from haptic.metrics import MissingRule

METRICS = (GA, FA, PA_MM, RA_MM, PA_AUC, *w_metrics(8), RTE, ACC_MM, JERK, COVERAGE)


@pytest.fixture
def protocol():
    return Protocol(name="test", data_set="dexycb-s0-val", split="val", metrics=METRICS)


def test_truth_scores_zero_and_full_coverage(clip, perfect, protocol):
    for pair in pair_hands(clip, perfect(clip))[0]:
        ((score,), notes) = score_hand(pair, protocol, "truth")
        assert not notes
        for title in ("GA", "FA", "PA", "RA", "W8", "WA8", "RTE", "Acc"):
            assert score.values[title] == pytest.approx(0, abs=1e-3)
        assert score.values["AUC"] == pytest.approx(100, abs=1)
        assert score.values["Coverage"] == 100


def test_values_are_those_of_the_metrics_in_the_columns_unit(clip, noisy, protocol):
    pair = pair_hands(clip, noisy(clip))[0][1]
    ((score,), _notes) = score_hand(pair, protocol, "noisy")
    assert score.values["GA"] == pytest.approx(100 * float(metrics.ga_mpjpe(pair.pred, pair.target)))
    assert score.values["PA"] == pytest.approx(1000 * float(metrics.pa_mpjpe(pair.pred, pair.target)))
    world = pair.pred_world, pair.target_world
    assert score.values["W8"] == pytest.approx(1000 * float(metrics.w_mpjpe(*world, segment_frames=8)))
    assert score.values["RTE"] == pytest.approx(float(metrics.rte(world[0][:, 0], world[1][:, 0])))
    assert score.values["Jerk"] == pytest.approx(0.1 * float(metrics.jerk(world[0], fps=30.0)))
    assert 3 < score.values["PA"] < 8  # 4 mm in each axis


def test_a_hand_that_was_never_predicted_has_no_error_but_counts_in_coverage(clip, noisy, protocol):
    nothing = replace(noisy(clip), hands={})
    scores = [score_hand(pair, protocol, "none")[0][0] for pair in pair_hands(clip, nothing)[0]]
    assert all(math.isnan(score.values[title]) for score in scores for title in score.values if title != "Coverage")
    assert summarise(scores, "Coverage", protocol, seed=0).mean == 0
    assert summarise(scores, "GA", protocol, seed=0).num == 0


def test_truth_without_a_measured_camera_leaves_out_what_needs_one_and_says_so(clip, noisy, protocol):
    pair = replace(pair_hands(clip, noisy(clip))[0][0], has_place=False)
    ((score,), (note,)) = score_hand(pair, protocol, "noisy")
    assert math.isnan(score.values["GA"])
    assert score.values["PA"] > 0
    assert "GA, FA" in note
    assert "no measured camera" in note


def test_missing_frames_go_by_the_protocols_rule(clip, noisy, protocol):
    pair = pair_hands(clip, noisy(clip))[0][0]
    predicted = pair.predicted.clone()
    predicted[10:12] = False
    pair = replace(pair, predicted=predicted)
    skipped = metric_value(GA, pair, protocol)
    split = metric_value(GA, pair, replace(protocol, missing=MissingRule("split", min_run_frames=9)))
    runs = [metrics.ga_mpjpe(pair.pred[part], pair.target[part]) for part in (slice(0, 10),)]
    assert split == pytest.approx(100 * float(runs[0]))  # the run of eight is left out
    weight = pair.weight * predicted[:, None]
    assert skipped == pytest.approx(100 * float(metrics.ga_mpjpe(pair.pred, pair.target, weight)))
    assert metric_value(COVERAGE, pair, protocol) == pytest.approx(90)


def test_chunks_are_sequences_of_their_own(clip, noisy, protocol):
    pair = pair_hands(clip, noisy(clip))[0][0]
    chunked = replace(protocol, chunk_frames=8)
    scores, _notes = score_hand(pair, chunked, "noisy")
    assert [(score.first_frame, score.num_frames) for score in scores] == [(0, 8), (8, 8), (16, 4)]
    assert scores[1].values["GA"] == pytest.approx(100 * float(metrics.ga_mpjpe(pair.pred[8:16], pair.target[8:16])))


def test_a_split_scores_its_own_frames_only(clip, noisy, protocol):
    pair = pair_hands(clip, noisy(clip))[0][0]
    side = pair.clip.labels(pair.name).box_side_px
    middle = float(side.median())
    parts = (Split("small", "crop_px", 0, middle), Split("large", "crop_px", middle, 1e9))
    small, large = score_hand(pair, replace(protocol, splits=parts), "noisy")[0]
    assert small.num_frames + large.num_frames == len(side)
    errors = metrics.frame_errors(metrics.align_frames(pair.pred, pair.target), pair.target)
    assert small.values["PA"] == pytest.approx(1000 * float(errors[side < middle].mean()))


def test_hint_pck_counts_joints_of_the_whole_set_within_a_share_of_the_box(clip, perfect):
    metric = Metric("hint_pck", "PCK", "%", options=(("alpha", 0.05), ("min_confidence", 0.5)))
    protocol = Protocol(name="hint", data_set="x", split="test", metrics=(metric,))
    pairs = pair_hands(clip, perfect(clip))[0]
    shifted = []
    for pair in pairs:
        pred = pair.pred.clone()
        side_px = pair.clip.labels(pair.name).box_side_px.double() / HAPTIC_EXPANSION
        depth, focal = pair.target[:, 8, 2], pair.clip.labels(pair.name).camera.K[:, 0, 0].double()
        pred[:, 8, 0] += 0.06 * side_px * depth / focal  # beyond 0.05 of the box
        pred[:, 4, 0] += 0.03 * side_px * pair.target[:, 4, 2] / focal
        shifted.append(replace(pair, pred=pred))
    scores = [score_hand(pair, protocol, "shifted")[0][0] for pair in shifted]
    assert summarise(scores, "PCK", protocol, seed=0, resamples=5).mean == pytest.approx(100 * 20 / 21)


def test_the_interval_is_of_sequences_and_repeats(clips, noisy, protocol):
    scores = [score_hand(pair, protocol, "noisy")[0][0] for clip in clips for pair in pair_hands(clip, noisy(clip))[0]]
    cell = summarise(scores, "PA", protocol, seed=0)
    assert cell == summarise(scores, "PA", protocol, seed=0)
    assert cell.num == 3
    assert cell.mean == pytest.approx(np.mean([score.values["PA"] for score in scores]))
    per_sequence = [np.mean([s.values["PA"] for s in scores if s.sequence == name]) for name in ("one", "two")]
    assert cell.low == pytest.approx(min(per_sequence))
    assert cell.high == pytest.approx(max(per_sequence))
    only_one = [
        replace(s, values={**s.values, "PA": s.values["PA"] if s.sequence == "one" else np.nan}) for s in scores
    ]
    cell = summarise(only_one, "PA", protocol, seed=0)
    assert cell.mean > 0
    assert np.isnan([cell.low, cell.high]).all()  # one sequence says nothing of how sure it is


def test_numbers_per_frame_have_the_sequences_mean(clip, noisy):
    pair = pair_hands(clip, noisy(clip))[0][0]
    columns = frame_scores(pair, "noisy", "set").columns
    assert columns["ga_mm"].mean() == pytest.approx(1000 * float(metrics.ga_mpjpe(pair.pred, pair.target)))
    assert columns["c_mm"].mean() == pytest.approx(1000 * float(metrics.mpjpe(pair.pred, pair.target)))
    assert np.isnan(columns["acc_mm_frame2"][[0, -1]]).all()


def test_the_hash_changes_with_every_rule_and_not_with_words(protocol):
    changes = [
        {"split": "test"}, {"box_source": "own"}, {"missing": MissingRule("split")}, {"chunk_frames": 100},
        {"metrics": (replace(FA, options=(("first_frames", 2), ("scale", True))),)}, {"average": "frames"},
        {"hands": "right"}, {"metrics": (replace(GA, unit="mm"),)},
    ]  # fmt: skip
    hashes = {replace(protocol, **change).hash for change in changes} | {protocol.hash}
    assert len(hashes) == len(changes) + 1
    assert replace(protocol, sources="another word").hash == protocol.hash


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_is_missing(name):
    benchmark = find_benchmark(name, seed=0, is_quick=False)
    if benchmark.makes_own_data:
        assert missing_sets(benchmark, {}) == []
        return
    with pytest.raises(ValueError, match="no shards of"):
        missing_sets(benchmark, {})
    first, *others = benchmark.sets
    assert len(missing_sets(benchmark, {first: "x.tar"})) == len(others)
    with pytest.raises(ValueError, match="reads"):
        find_shards(benchmark, {"nonsense": "x.tar"}, None)


def test_published_numbers_stand_under_columns_and_sets_that_exist():
    for benchmark in FIXED.values():
        table = load_published(benchmark.published)
        sets = {
            name
            for protocol in benchmark.protocols
            for name in (protocol.data_set, *(f"{protocol.data_set}, {split.name}" for split in protocol.splits))
        }
        for row in table.get("rows", []):
            for name, values in row["values"].items():
                assert name in sets or (name == "dexycb" and "dexycb-s0-val" in sets), (benchmark.name, name)
                titles = {
                    metric.title
                    for protocol in benchmark.protocols
                    for metric in protocol.metrics
                    if name.split(",")[0] in protocol.data_set
                }
                assert set(values) <= titles, (benchmark.name, name, values)


def test_a_quick_recipe_is_another_protocol_than_a_full_one():
    quick, full = (find_benchmark("openhand", seed=0, is_quick=is_quick) for is_quick in (True, False))
    assert {protocol.hash for protocol in quick.protocols}.isdisjoint(protocol.hash for protocol in full.protocols)
    assert len(quick.protocols) == len(full.protocols) == 5


def test_world_metrics_of_a_system_without_cameras_use_the_true_ones(clip, noisy):
    pair = pair_hands(clip, noisy(clip))[0][0]
    cameras = pair.clip.labels(pair.name).camera.T_world_cam.double()
    expected = pair.pred @ cameras[:, :3, :3].mT + cameras[:, None, :3, 3]
    torch.testing.assert_close(pair.pred_world, expected)
