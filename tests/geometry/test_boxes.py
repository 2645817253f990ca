"""Boxes about hands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haptic.geometry.boxes import hamer_side, haptic_side, infill, seen_boxes, smooth_boxes_official, tight_box

RECORDED = Path(__file__).parent.parent / "golden" / "geometry_small.npz"


@pytest.fixture(scope="module")
def recorded():
    return {key: torch.tensor(value) for key, value in np.load(RECORDED, allow_pickle=False).items()}


def test_a_tight_box_holds_the_known_points_only():
    points = torch.tensor([[10.0, 20.0], [30.0, 100.0], [999.0, -999.0]])
    center, size = tight_box(points, torch.tensor([1.0, 0.2, 0.0]))
    torch.testing.assert_close(center, torch.tensor([20.0, 60.0]))
    torch.testing.assert_close(size, torch.tensor([20.0, 80.0]))


def test_no_known_point_makes_an_empty_box():
    center, size = tight_box(torch.rand(2, 21, 2), torch.zeros(2, 21))
    assert not center.any()
    assert not size.any()


def test_the_crop_is_three_times_the_longer_side_for_haptic():
    torch.testing.assert_close(haptic_side(torch.tensor([40.0, 100.0])), torch.tensor(300.0))


@pytest.mark.parametrize(("size", "side"), [
    ((100.0, 100.0), 800 / 3),  # twice as large, then as high as 3:4 asks
    ((100.0, 200.0), 400.0),    # higher than 3:4 already
    ((300.0, 100.0), 800.0),
])  # fmt: skip
def test_the_crop_is_twice_the_box_widened_to_three_by_four_for_hamer(size, side):
    torch.testing.assert_close(hamer_side(torch.tensor(size)), torch.tensor(side))


@pytest.mark.parametrize("name", ["center", "scale"])
def test_gaps_are_filled_as_recorded(recorded, name):
    filled = infill(recorded[f"infill/{name}_in"], recorded["infill/valid"].bool())
    torch.testing.assert_close(filled, recorded[f"infill/{name}"], atol=1e-9, rtol=0)


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any))
def test_filling_restores_a_straight_path_between_its_ends(valid):
    frames = torch.arange(len(valid), dtype=torch.float64)
    path = torch.stack([3 * frames - 1, 7 - frames], dim=1)
    known = torch.tensor(valid)
    filled = infill(torch.where(known[:, None], path, torch.nan).nan_to_num(), known)
    inside = slice(int(known.nonzero()[0]), int(known.nonzero()[-1]) + 1)
    torch.testing.assert_close(filled[inside], path[inside])
    torch.testing.assert_close(filled[0], path[inside][0])
    torch.testing.assert_close(filled[-1], path[inside][-1])


def test_nothing_to_fill_from_is_said():
    with pytest.raises(ValueError, match="none of the 3 boxes"):
        infill(torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool))


def test_official_smoothing_is_as_recorded_and_moves_no_centre_by_more_than_a_pixel(recorded):
    center, scale = recorded["infill/center"].float(), recorded["infill/scale"].float()
    smooth_center, smooth_scale = smooth_boxes_official(center, scale)
    torch.testing.assert_close(smooth_center, recorded["smooth/center"], atol=2e-4, rtol=0)
    torch.testing.assert_close(smooth_scale, recorded["smooth/scale"], atol=2e-5, rtol=0)
    assert (smooth_center - center).abs().max() < 1.0


def test_a_box_a_third_of_a_metre_wide_two_metres_away_is_seen_as_such():
    K = torch.tensor([[800.0, 0, 320], [0, 800, 240], [0, 0, 1]])
    # Its middle is 0.5 m to the right and 0.25 m up: 200 and 100 pixels at two metres; 1/3 m is 400/3 pixels.
    seen = seen_boxes(torch.tensor([520.0, 140.0]), torch.tensor(400 / 3), K)
    torch.testing.assert_close(seen, torch.tensor([0.25, -0.125, 1 / 6]))


@given(zoom=st.floats(0.3, 4), shift=st.floats(-200, 200))
def test_a_box_is_seen_alike_through_any_lens(zoom, shift):
    K = torch.tensor([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]], dtype=torch.float64)
    view = torch.tensor([[zoom, 0, shift], [0, zoom, -shift], [0, 0, 1]], dtype=torch.float64)
    center, side = torch.tensor([410.0, 77.0], dtype=torch.float64), torch.tensor(93.0, dtype=torch.float64)
    moved = zoom * center + torch.tensor([shift, -shift])
    torch.testing.assert_close(seen_boxes(center, side, K), seen_boxes(moved, zoom * side, view @ K))
