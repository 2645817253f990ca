"""Closing open meshes, and the space two meshes share, against shapes whose volumes are known."""

import math

import numpy as np
import pytest
import trimesh

from haptic.geometry.solids import close_holes, intersection_volume


def box(size, *, at=(0.0, 0.0, 0.0)):
    mesh = trimesh.creation.box(size)
    return np.asarray(mesh.vertices) + at, np.asarray(mesh.faces)


def ball(radius, *, at=(0.0, 0.0, 0.0)):
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return np.asarray(mesh.vertices) + at, np.asarray(mesh.faces)


def turned(verts, seed):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return verts @ (rotation * np.linalg.det(rotation)).T


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_boxes_share_the_slab_in_which_they_overlap(axis):
    shift = np.zeros(3)
    shift[axis] = 0.03
    volume = intersection_volume(*box((0.04,) * 3), *box((0.04,) * 3, at=shift), cell=0.003)
    assert volume == pytest.approx(0.01 * 0.04 * 0.04, rel=1e-6)


def test_bodies_apart_share_nothing_even_if_their_bounds_overlap():
    assert intersection_volume(*box((0.04,) * 3), *box((0.04,) * 3, at=(0.05, 0, 0)), cell=0.001) == 0.0
    assert intersection_volume(*ball(0.02), *ball(0.02, at=(0.03, 0.03, 0.03)), cell=0.001) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_two_balls_share_a_lens_however_they_are_turned(seed):
    (first, faces), (second, _) = ball(0.02), ball(0.02, at=(0.03, 0, 0))
    lens = math.pi * (4 * 0.02 + 0.03) * (2 * 0.02 - 0.03) ** 2 / 12
    volume = intersection_volume(turned(first, seed), faces, turned(second, seed), faces, cell=0.0005)
    assert volume == pytest.approx(lens, rel=0.02)


def test_a_ball_within_a_ball_is_shared_whole_and_either_way_round():
    small, large = ball(0.01, at=(0.003, 0, 0)), ball(0.03)
    volume = intersection_volume(*small, *large, cell=0.0005)
    assert volume == pytest.approx(trimesh.Trimesh(*small).volume, rel=5e-3)
    assert intersection_volume(*large, *small, cell=0.0005) == pytest.approx(volume, rel=1e-9)


def test_which_way_the_faces_turn_does_not_matter():
    (first, faces), (second, _) = ball(0.02), ball(0.02, at=(0.02, 0.01, 0))
    volume = intersection_volume(first, faces, second, faces, cell=0.001)
    assert volume > 0
    assert intersection_volume(first, faces[:, ::-1], second, faces, cell=0.001) == pytest.approx(volume, rel=1e-9)


def test_a_body_that_cuts_through_itself_counts_once():
    verts, faces = box((0.02,) * 3)
    twice = np.concatenate([verts, verts + np.array([0.01, 0, 0])])
    double = np.concatenate([faces, faces + len(verts)])
    volume = intersection_volume(twice, double, *box((1.0,) * 3), cell=0.001)
    assert volume == pytest.approx(0.03 * 0.02 * 0.02, rel=1e-6)


def test_an_opened_box_is_closed_again():
    verts, faces = box((0.04, 0.02, 0.03))
    up = np.cross(verts[faces[:, 1]] - verts[faces[:, 0]], verts[faces[:, 2]] - verts[faces[:, 0]])[:, 2] > 0
    closed = trimesh.Trimesh(verts, close_holes(faces[~up]), process=False)
    assert closed.is_watertight
    assert closed.is_winding_consistent
    assert closed.volume == pytest.approx(0.04 * 0.02 * 0.03)


def test_a_closed_mesh_is_left_as_it_is():
    _, faces = ball(0.02)
    np.testing.assert_array_equal(close_holes(faces), faces)


def test_faces_that_turn_both_ways_are_refused():
    _, faces = box((1.0,) * 3)
    faces = faces.copy()
    faces[0] = faces[0][::-1]
    with pytest.raises(ValueError, match="all turn the same way"):
        close_holes(faces)


def test_two_holes_that_touch_are_refused():
    _, faces = ball(1.0)
    around = np.flatnonzero((faces == faces[0, 0]).any(axis=1))
    opposite = next(f for f in around if set(faces[f]) & set(faces[around[0]]) == {faces[0, 0]})
    with pytest.raises(ValueError, match="two open rims touch"):
        close_holes(np.delete(faces, [around[0], opposite], axis=0))


def test_a_column_needs_a_width():
    with pytest.raises(ValueError, match="cell is 0"):
        intersection_volume(*box((1.0,) * 3), *box((1.0,) * 3), cell=0.0)
