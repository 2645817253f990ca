"""From the network's answer to a place in the camera."""

from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.geometry.cameras import project
from haptic.geometry.lift import (
    hamer_lift,
    lift_at_depth,
    official_lift_at_depth,
    official_lift_weak,
    project_to_crop,
    translation_in_crop,
    weak_depth,
)

RECORDED = Path(__file__).parent.parent / "golden" / "geometry_small.npz"  # a strict subset of the full recording
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def recorded():
    return {key: torch.tensor(value) for key, value in np.load(RECORDED, allow_pickle=False).items()}


@pytest.fixture(scope="module")
def weak_camera(recorded):
    return recorded["cam/pred"][:, 0], recorded["cam/pred"][:, 1:]


def test_the_weak_camera_is_lifted_as_recorded(recorded, weak_camera):
    scale, shift = weak_camera
    lifted = official_lift_weak(scale, shift, recorded["cam/center"], recorded["cam/box"], recorded["cam/K"])
    torch.testing.assert_close(lifted, recorded["cam/w_pp"], atol=TOLERANCE, rtol=0)


def test_a_known_depth_is_lifted_as_recorded_and_square_pixels_make_both_ways_one(recorded, weak_camera):
    _, shift = weak_camera
    args = (shift, recorded["cam/center"], recorded["cam/depth"], recorded["cam/K"])
    torch.testing.assert_close(official_lift_at_depth(*args), recorded["cam/w_depth"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(lift_at_depth(*args), recorded["cam/w_depth"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("focal_px", [5000, 25000])
def test_hamers_full_camera_is_as_recorded(recorded, weak_camera, focal_px):
    scale, shift = weak_camera
    image_size = torch.stack([recorded["cam/W"], recorded["cam/H"]], dim=-1)
    lifted = hamer_lift(
        scale, shift, recorded["cam/center"], recorded["cam/box"], focal_px=focal_px, image_size=image_size
    )
    torch.testing.assert_close(lifted, recorded[f"cam/hamer_full_f{focal_px}"], atol=TOLERANCE, rtol=0)


def test_hamers_crop_camera_is_as_recorded(recorded, weak_camera):
    transl = translation_in_crop(*weak_camera)
    torch.testing.assert_close(transl, recorded["proj/t"], atol=TOLERANCE, rtol=0)
    seen = project_to_crop(recorded["proj/points"], transl)
    torch.testing.assert_close(seen, recorded["proj/out"], atol=TOLERANCE, rtol=0)


def test_a_lifted_hand_is_seen_where_the_crop_saw_it():
    """A small, distant hand: perspective inside the crop is then what the weak camera takes it for."""
    K = torch.tensor([[900.0, 0.0, 333.0], [0.0, 1100.0, 222.0], [0.0, 0.0, 1.0]])
    center, side_px = torch.tensor([500.0, 120.0]), torch.tensor(30.0)
    scale, shift = torch.tensor(5.0), torch.tensor([0.02, -0.03])
    depth = weak_depth(scale, side_px, K)
    transl = lift_at_depth(shift, center, depth, K)
    seen_img = project(transl[None], K)[0]
    seen_crop = project_to_crop(torch.zeros(1, 3), translation_in_crop(scale, shift))[0]
    # The true camera's pixels are 900 wide to 1100 high; one scale cannot serve both, their mean does.
    stretch = torch.tensor([900.0, 1100.0]) / (900 * 1100) ** 0.5
    torch.testing.assert_close(seen_img, center + seen_crop * side_px * stretch, atol=1e-3, rtol=0)


def test_only_the_official_lift_takes_the_first_focal_length_for_both_axes():
    K = torch.tensor([[900.0, 0.0, 320.0], [0.0, 450.0, 240.0], [0.0, 0.0, 1.0]])
    args = (torch.zeros(2), torch.tensor([410.0, 330.0]), torch.tensor(1.0), K)
    torch.testing.assert_close(lift_at_depth(*args), torch.tensor([0.1, 0.2, 1.0]))
    torch.testing.assert_close(official_lift_at_depth(*args), torch.tensor([0.1, 0.1, 1.0]))
