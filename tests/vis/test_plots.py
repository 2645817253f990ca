"""trajectory.png: lines that break where hands are not, and a picture for every kind of result."""

import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from haptic.vis.plots import measure_path, write_plot


@pytest.mark.parametrize(
    "spans", [(), ((0, 1),), ((0, 20), (4, 16)), ((0, 9), (2, 9), (0, 5), (3, 9), (1, 9), (5, 20))]
)
def test_every_result_gives_a_picture(spans, make_result, open_hand, tmp_path):
    result = make_result(spans, moving_camera=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # matplotlib's way to say that a picture is not as asked for
        write_plot(tmp_path / "trajectory.png", result, open_hand)
    assert cv2.imread(str(tmp_path / "trajectory.png")).shape == (860, 1300, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["trajectory.png"]


def test_a_one_frame_video_gives_a_picture(make_result, open_hand, tmp_path):
    write_plot(tmp_path / "trajectory.png", make_result(((0, 1),), num_frames=1), open_hand)
    assert (tmp_path / "trajectory.png").stat().st_size > 10_000


def test_places_are_those_of_the_first_camera_however_the_world_lies(make_result, open_hand):
    result = make_result(((0, 20),), moving_camera=True)
    before = measure_path("right_0", result, open_hand)
    turned = torch.eye(4)
    turned[:3, :3] = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    turned[:3, 3] = torch.tensor([3.0, -2.0, 1.0])
    camera = replace(result.camera, T_world_cam=turned @ result.camera.T_world_cam)
    hands = {name: replace(hand, camera=camera[hand.frame_index]) for name, hand in result.hands.items()}
    after = measure_path("right_0", replace(result, camera=camera, hands=hands), open_hand)
    np.testing.assert_allclose(after.wrist_first, before.wrist_first, atol=1e-5)
    np.testing.assert_allclose(after.depth_m, before.depth_m)


def test_filled_frames_are_not_drawn_as_observed_ones_and_carry_no_error(make_result, open_hand):
    result = make_result(((0, 20),))
    path = measure_path("right_0", result, open_hand)
    filled = ~result.hands["right_0"].observed.numpy()
    assert np.isnan(path.pieces(path.depth_m, observed=True)[filled]).all()
    assert not np.isnan(path.pieces(path.depth_m, observed=False)[filled]).any()
    assert np.isnan(path.error_px[filled]).all()
    assert 1 < np.nanmean(path.error_px) < 4, "two pixels of noise on each axis"
    side_px = result.tracks["right_0"].box_side_px.numpy()
    np.testing.assert_allclose(path.line_px[~filled], 0.1 * side_px[~filled], rtol=1e-5)


def test_expected_landmarks_take_the_place_of_joints(make_result, open_hand):
    result = make_result(((0, 20),))
    path = measure_path("right_0", result, open_hand, result.tracks["right_0"].joints_img)
    assert np.nanmax(path.error_px) == 0
