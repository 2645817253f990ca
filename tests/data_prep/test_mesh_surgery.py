"""Mesh surgery keeps a surface a surface."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from data_prep.mesh_surgery import (
    EdgeCollapse,
    bend,
    boundary_loop,
    close_loop,
    closest_on_mesh,
    cut_by_plane,
    edges_of,
    smoothed,
    volume,
    weld,
)


@pytest.fixture(scope="module")
def ball():
    """A ball of 4 cm radius."""
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.04)
    return np.array(mesh.vertices), np.array(mesh.faces)


@pytest.fixture(scope="module")
def open_ball(ball):
    return cut_by_plane(*ball, axis=0, limit=0.021, snap=0.001)


def test_a_cut_leaves_one_loop_on_the_plane(open_ball):
    verts, faces = open_ball
    loop = boundary_loop(faces)
    np.testing.assert_allclose(verts[loop, 0], 0.021)
    assert verts[:, 0].max() <= 0.021
    assert len(verts) - len(edges_of(faces)[0]) + len(faces) == 1  # a disc


def test_closing_the_loop_gives_a_body_with_faces_outwards(open_ball):
    verts, faces = open_ball
    cap_height = 0.04 - 0.021
    missing = np.pi * cap_height**2 * (3 * 0.04 - cap_height) / 3
    whole = 4 / 3 * np.pi * 0.04**3
    assert volume(verts, close_loop(faces)) == pytest.approx(whole - missing, rel=0.02)


def test_collapse_reaches_the_exact_counts_and_stays_on_the_surface(open_ball):
    verts, faces = open_ball
    is_kept = np.zeros(len(verts), bool)
    is_kept[verts[:, 0].argmin()] = True
    collapse = EdgeCollapse(verts, faces, is_kept, np.ones(len(verts)))
    fewer_verts, fewer_faces = collapse.run(num_verts=300, num_loop=16)
    assert fewer_verts.shape == (300, 3)
    assert len(boundary_loop(fewer_faces)) == 16
    assert len(fewer_faces) == 2 * 300 - 16 - 2
    _, _, distance = closest_on_mesh(fewer_verts, verts, faces)
    assert distance.max() < 0.001
    assert (fewer_verts == verts[is_kept]).all(axis=1).any(), "the vertex to keep is gone"


def test_bending_by_one_rotation_turns_the_whole_mesh(ball):
    verts, faces = ball
    turn = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix()
    bent = bend(verts, faces, np.tile(turn, (len(verts), 1, 1)), verts @ turn.T, anchor_weight=0.1)
    np.testing.assert_allclose(bent, verts @ turn.T, atol=1e-9)


def test_smoothing_keeps_shares_summing_to_one(ball):
    verts, faces = ball
    share = (verts[:, :1] > 0).astype(float)
    shares = smoothed(np.hstack([share, 1 - share]), faces, rounds=3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares.min() >= 0


def test_welding_joins_vertices_on_one_point():
    verts = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    first, faces = weld(verts, np.array([[0, 1, 2], [3, 4, 5]]))
    assert len(first) == 4
    np.testing.assert_array_equal(verts[first][faces], verts[np.array([[0, 1, 2], [3, 4, 5]])])
