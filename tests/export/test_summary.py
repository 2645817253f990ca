"""summary.json: plain values that agree with the reconstruction they sum up."""

import json

import numpy as np
import pytest
import torch

from haptic.export.summary import build_summary, write_summary
from haptic.hand.reprojection import measure_reprojection, trajectory_joints_img


def summed_up(result, model, **more):
    return build_summary(
        result,
        model,
        source="hands.mp4",
        intrinsics_source="image diagonal",
        seconds={"detect": 1.0, "refine": 2.5},
        **more,
    )


def test_the_summary_counts_what_is_there(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)))
    write_summary(tmp_path / "summary.json", summed_up(result, open_hand))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["hands_found"] == 2
    assert summary["frames_with_a_hand"] == 20
    assert summary["total_seconds"] == 3.5
    assert summary["video"]["duration_s"] == pytest.approx(20 / 30)
    left = summary["hands"]["left_0"]
    assert (left["side"], left["frames"], left["observed_frames"], left["filled_frames"]) == ("left", 12, 9, 3)
    assert (left["first_frame"], left["last_frame"], left["coverage"]) == (4, 15, 0.6)
    assert summary["camera"]["intrinsics_source"] == "image diagonal"
    assert summary["camera"]["horizontal_fov_deg"] == pytest.approx(np.degrees(2 * np.arctan(0.5 / 0.9)), abs=1e-3)
    assert summary["camera"]["has_world"] is False
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in summary["versions"]["torch"]


def test_reprojection_is_that_of_the_observed_joints(make_result, open_hand):
    result = make_result(((0, 20),))
    hand, track = result.hands["right_0"], result.tracks["right_0"]
    expected = (trajectory_joints_img(open_hand, hand) - track.joints_img).norm(dim=-1)[hand.observed]
    stated = summed_up(result, open_hand)["hands"]["right_0"]["reprojection"]
    assert stated["mean_px"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert stated["compared"] == "joints"
    exact = summed_up(result, open_hand, predicted_img={"right_0": track.joints_img})["hands"]["right_0"][
        "reprojection"
    ]
    assert exact["mean_px"] == 0
    assert exact["compared"] == "landmarks"


def test_joints_beyond_a_tenth_of_the_box_are_counted(make_result, open_hand):
    result = make_result(((0, 20),))
    hand, track = result.hands["right_0"], result.tracks["right_0"]
    moved = track.joints_img.clone()
    moved[:, :7, 0] += 0.2 * track.box_side_px[:, None]
    moved[:, 7:, 0] += 0.05 * track.box_side_px[:, None]
    found = measure_reprojection(open_hand, hand, track, moved)
    assert float((found.box_share[found.is_known] <= 0.1).double().mean()) == pytest.approx(14 / 21)
    assert not found.is_known[~hand.observed].any()
    assert not found.error_px[~hand.observed].any()


def test_numbers_that_are_none_become_null(make_result, open_hand, tmp_path):
    details = {"refine": {"jerk": float("nan"), "gain": np.float32(0.5), "steps": torch.tensor([1, 2])}}
    write_summary(tmp_path / "summary.json", summed_up(make_result(()), open_hand, details=details))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["details"]["refine"] == {"jerk": None, "gain": 0.5, "steps": [1, 2]}
    assert summary["hands"] == {}
