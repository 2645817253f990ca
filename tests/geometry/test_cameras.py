"""Pixels, rays and rigid transforms agree with each other."""

import torch

from haptic.geometry.cameras import intrinsics, project, ray_directions, view_rotation
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import apply_transform, invert_transform, make_transform


def test_a_ray_projects_to_its_own_pixel():
    K = intrinsics(500.0, width=640, height=480)
    pixels = torch.tensor([[0.0, 0.0], [639.0, 479.0], [100.5, 7.25]])
    torch.testing.assert_close(project(3 * ray_directions(pixels, K), K), pixels, atol=1e-3, rtol=0)


def test_a_point_straight_ahead_is_the_middle_of_the_image():
    K = intrinsics(500.0, width=640, height=480)
    pixel = project(torch.tensor([[0.0, 0.0, 2.0]]), K)
    torch.testing.assert_close(pixel, torch.tensor([[319.5, 239.5]]))


def test_a_point_behind_the_camera_gives_a_finite_pixel():
    K = intrinsics(500.0, width=640, height=480)
    assert project(torch.tensor([[0.1, 0.0, -1.0]]), K).isfinite().all()


def test_a_transform_and_its_inverse_cancel():
    generator = torch.Generator().manual_seed(0)
    rotation = rotation_from_aa(torch.randn(4, 3, generator=generator))
    T_world_cam = make_transform(rotation, torch.randn(4, 3, generator=generator))
    points = torch.randn(4, 21, 3, generator=generator)
    back = apply_transform(invert_transform(T_world_cam), apply_transform(T_world_cam, points))
    torch.testing.assert_close(back, points, atol=1e-5, rtol=0)


def test_view_rotation_turns_the_cameras_axis_onto_the_pixels_ray():
    K = intrinsics(500.0, width=640, height=480)
    pixels = torch.tensor([[319.5, 239.5], [0.0, 0.0], [639.0, 100.0]])
    turn = view_rotation(pixels, K.expand(3, 3, 3))
    axis = torch.tensor([0.0, 0.0, 1.0])
    seen = project((turn @ axis)[:, None], K.expand(3, 3, 3))[:, 0]
    torch.testing.assert_close(seen, pixels, atol=1e-2, rtol=0)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(3, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(turn[0], torch.eye(3))
    cosine = (turn @ axis)[:, 2]  # the turn is the shortest: its angle is the ray's to the axis
    torch.testing.assert_close((turn.diagonal(dim1=-1, dim2=-2).sum(-1) - 1) / 2, cosine)
