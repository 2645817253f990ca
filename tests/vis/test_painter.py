"""Painted hands: in the right place, the nearer one in front, filled ones hatched."""

import numpy as np
import pytest

from haptic.geometry.cameras import intrinsics
from haptic.hand.model import trajectory_faces, trajectory_joints, trajectory_mesh
from haptic.vis.painter import PaintedHand, paint_hands

K = intrinsics(300.0, width=320, height=240).numpy()
FINGERTIPS = [4, 8, 12, 16, 20]  # they lie on the very edge of the skin
RED, BLUE = (1.0, 0.2, 0.2), (0.2, 0.2, 1.0)


def square(depth_m, *, side_m=0.2, shift_m=0.0):
    """Return a square that faces the camera."""
    half = side_m / 2
    corners = np.array([[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]], np.float32)
    return corners + np.array([shift_m, 0, depth_m], np.float32), np.array([[0, 2, 1], [0, 3, 2]])


def painted(*hands, opacity=1.0):
    picture = np.full((240, 320, 3), 128, np.uint8)
    paint_hands(picture, list(hands), K, opacity=opacity)
    return picture


def test_the_nearer_hand_hides_the_other_whatever_the_order():
    near, far = PaintedHand(*square(0.5), RED, False), PaintedHand(*square(0.8, shift_m=0.2), BLUE, False)
    for order in ((near, far), (far, near)):
        picture = painted(*order).astype(int)
        assert picture[120, 160, 0] > picture[120, 160, 2] + 80
        assert picture[120, 250, 2] > picture[120, 250, 0] + 80, "the far hand shows where the near one ends"


def test_paint_lies_where_the_camera_projects_it():
    verts, faces = square(0.5, side_m=0.1)
    picture = painted(PaintedHand(verts, faces, RED, False))
    rows, columns = np.nonzero((picture != 128).any(axis=2))
    assert columns.min() == pytest.approx(159.5 - 30, abs=1)
    assert columns.max() == pytest.approx(159.5 + 30, abs=1)
    assert rows.mean() == pytest.approx(119.5, abs=0.6)


def test_the_video_shines_through():
    hand = PaintedHand(*square(0.5), RED, False)
    solid, half = painted(hand).astype(int), painted(hand, opacity=0.5).astype(int)
    np.testing.assert_allclose(half[120, 160], (solid[120, 160] + 128) / 2, atol=1.5)


def test_a_filled_hand_is_hatched_and_an_observed_one_is_not():
    verts, faces = square(0.5)
    observed = painted(PaintedHand(verts, faces, RED, False))[100:140, 140:180].astype(int)
    filled = painted(PaintedHand(verts, faces, RED, True))[100:140, 140:180].astype(int)
    assert observed.std(axis=(0, 1)).max() < 3
    assert filled.std(axis=(0, 1)).max() > 15


def test_hands_beside_and_behind_the_camera_paint_nothing_and_do_no_harm():
    assert (painted(PaintedHand(*square(-0.5), RED, False)) == 128).all()
    assert (painted(PaintedHand(*square(0.5, shift_m=5.0), RED, False)) == 128).all()
    verts, faces = square(0.5)
    assert (painted(PaintedHand(verts * np.nan, faces, RED, False)) == 128).all()


def test_the_hand_lies_under_its_own_joints(make_result, open_hand):
    result = make_result(((0, 20), (0, 20)))
    for hand in result.hands.values():
        verts = trajectory_mesh(open_hand, hand).verts[5].numpy()
        faces = trajectory_faces(open_hand, hand).numpy()
        picture = np.full((240, 320, 3), 128, np.uint8)
        camera_K = hand.camera.K[5].numpy()
        paint_hands(picture, [PaintedHand(verts, faces, RED, False)], camera_K, opacity=1.0)
        joints = trajectory_joints(open_hand, hand)[5].numpy() @ camera_K.T
        pixels = np.round(joints[:, :2] / joints[:, 2:]).astype(int)
        assert all((picture[y, x] != 128).any() for x, y in np.delete(pixels, FINGERTIPS, axis=0))
