"""Ray casting against a z-buffer written for clarity, and against shapes whose depth is known."""

import numpy as np
import pytest
import trimesh

from haptic.geometry.raster import (
    RayScene,
    interpolate,
    join_meshes,
    pixel_rays,
    raycast,
    render,
    silhouette,
    vertex_normals,
)

K = np.array([[120.0, 1.5, 31.0], [0.0, 110.0, 24.5], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 64, 48


def bumpy_ball(seed=0, radius=0.1, centre=(0.02, -0.01, 0.5)):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    bumps = 1 + 0.15 * np.random.default_rng(seed).standard_normal((len(ball.vertices), 1))
    return (ball.vertices * bumps + np.array(centre)).astype(np.float32), np.asarray(ball.faces)


def z_buffer(verts, faces, K, width, height):
    """Every face over every pixel: slow, plain, with no ray in it."""
    depth = np.full((height, width), np.inf)
    face_index = np.full((height, width), -1)
    points = verts.astype(np.float64) @ K.T
    points_img, z = points[:, :2] / points[:, 2:], points[:, 2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    for index, face in enumerate(faces):
        (ax, ay), (bx, by), (cx, cy) = points_img[face]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-12:
            continue
        b = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
        c = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
        inside = (b >= 0) & (c >= 0) & (b + c <= 1)
        inverse = (1 - b - c) / z[face[0]] + b / z[face[1]] + c / z[face[2]]  # 1/z is linear in the image
        here = np.where(inside, 1 / np.where(inside, inverse, 1), np.inf)
        face_index[here < depth] = index
        depth = np.minimum(depth, here)
    return depth, face_index


def test_depth_and_faces_agree_with_a_z_buffer():
    verts, faces = bumpy_ball()
    depth, face_index = z_buffer(verts, faces, K, WIDTH, HEIGHT)
    hits = raycast(verts, faces, K, width=WIDTH, height=HEIGHT)
    assert 500 < hits.is_hit.sum() < 0.9 * WIDTH * HEIGHT
    assert (hits.is_hit != np.isfinite(depth)).sum() <= 3  # a silhouette may pass through a pixel's very centre
    both = hits.is_hit & np.isfinite(depth)
    assert np.abs(hits.depth[both] - depth[both]).max() < 1e-5
    assert (hits.face_index != face_index)[both].mean() < 0.01
    assert np.isinf(hits.depth[~hits.is_hit]).all()
    assert (hits.barycentric[~hits.is_hit] == 0).all()


def test_a_slanted_triangle_has_the_depth_of_its_plane():
    verts = np.array([[-9.0, -9.0, 1.0], [9.0, -9.0, 1.0], [0.0, 18.0, 3.0]])
    hits = raycast(verts, np.array([[0, 1, 2]]), K, width=WIDTH, height=HEIGHT)
    rays = pixel_rays(np.argwhere(hits.is_hit)[:, ::-1].astype(float), K)
    points = rays * hits.depth[hits.is_hit][:, None]
    np.testing.assert_allclose(points[:, 2], 1 + 2 / 27 * (points[:, 1] + 9), atol=2e-5)


def test_a_ball_is_nearest_in_its_middle_and_as_wide_as_its_cone():
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.1)
    camera = np.array([[200.0, 0.0, 50.0], [0.0, 200.0, 50.0], [0.0, 0.0, 1.0]])
    hits = raycast(ball.vertices + np.array([0, 0, 0.5]), np.asarray(ball.faces), camera, width=101, height=101)
    assert hits.depth[50, 50] == pytest.approx(0.4, abs=2e-4)
    radius_px = 200 * 0.1 / np.sqrt(0.5**2 - 0.1**2)  # the tangent cone of the ball
    assert hits.is_hit.sum() == pytest.approx(np.pi * radius_px**2, rel=0.01)


def test_a_window_sees_what_the_whole_picture_sees_there():
    verts, faces = bumpy_ball()
    whole = raycast(verts, faces, K, width=WIDTH, height=HEIGHT)
    part = raycast(verts, faces, K, x0=20, y0=-5, width=30, height=40)
    np.testing.assert_array_equal(part.face_index[5:], whole.face_index[:35, 20:50])
    np.testing.assert_array_equal(part.depth[5:], whole.depth[:35, 20:50])


def test_a_window_beside_the_mesh_and_an_empty_mesh_are_empty():
    verts, faces = bumpy_ball()
    assert not raycast(verts, faces, K, x0=500, y0=0, width=8, height=8).is_hit.any()
    nothing = raycast(np.zeros((0, 3)), np.zeros((0, 3), int), K, width=8, height=8)
    assert not nothing.is_hit.any()
    assert interpolate(nothing, np.zeros((0, 3), int), np.zeros((0, 2))).shape == (8, 8, 2)


def test_a_mesh_around_the_camera_is_seen_everywhere_and_one_behind_it_nowhere():
    room = trimesh.creation.icosphere(subdivisions=2, radius=2.0)
    assert raycast(room.vertices, np.asarray(room.faces), K, width=WIDTH, height=HEIGHT).is_hit.all()
    verts, faces = bumpy_ball(centre=(0, 0, -0.5))
    assert not raycast(verts, faces, K, width=WIDTH, height=HEIGHT).is_hit.any()


def test_of_two_meshes_the_nearer_hides_the_other():
    near, far = bumpy_ball(radius=0.05, centre=(0, 0, 0.5)), bumpy_ball(radius=0.2, centre=(0, 0, 1.0))
    for near_index, order in enumerate([[near, far], [far, near]]):
        joined = join_meshes(order)
        hits = raycast(joined.verts, joined.faces, K, width=WIDTH, height=HEIGHT)
        seen = np.where(hits.is_hit, joined.mesh_index[hits.face_index], -1)
        near_alone = raycast(*near, K, width=WIDTH, height=HEIGHT)
        np.testing.assert_array_equal(seen == near_index, near_alone.is_hit)
        assert (seen == 1 - near_index).sum() > 100


def test_interpolated_vertex_places_are_the_hit_points():
    verts, faces = bumpy_ball()
    hits = raycast(verts, faces, K, width=WIDTH, height=HEIGHT)
    rays = pixel_rays(np.argwhere(hits.is_hit)[:, ::-1].astype(float), K)
    places = interpolate(hits, faces, verts)
    np.testing.assert_allclose(places[hits.is_hit], rays * hits.depth[hits.is_hit][:, None], atol=1e-5)
    assert (places[~hits.is_hit] == 0).all()


def test_vertex_normals_of_a_ball_point_outward():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    normals = vertex_normals(np.asarray(ball.vertices), np.asarray(ball.faces))
    np.testing.assert_allclose(normals, ball.vertices / 0.1, atol=0.02)


def test_rays_from_inside_a_closed_mesh_are_blocked_and_from_beside_it_only_towards_it():
    scene = RayScene(*bumpy_ball(centre=(0, 0, 0)))
    directions = np.random.default_rng(1).standard_normal((50, 3))
    assert scene.is_blocked(np.zeros((50, 3)), directions).all()
    beside = np.tile([1.0, 0.0, 0.0], (2, 1))
    np.testing.assert_array_equal(scene.is_blocked(beside, np.array([[-1.0, 0, 0], [1.0, 0, 0]])), [True, False])


def test_coverage_of_anti_aliased_edges_sums_to_the_area():
    """A rectangle whose sides lie between pixel centres: 10.3 x 7.6 pixels."""
    camera = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    left, top, right, bottom = 4.1, 5.3, 14.4, 12.9
    verts = np.array([[left, top, 1.0], [right, top, 1], [right, bottom, 1], [left, bottom, 1]])
    scene = RayScene(verts, np.array([[0, 1, 2], [0, 2, 3]]))

    def white(hits):
        return np.ones((len(hits.depth), 3), np.float32)

    smooth = render(scene, camera, width=24, height=20, shade=white, edge_samples=8)
    rough = render(scene, camera, width=24, height=20, shade=white, edge_samples=1)
    area = (right - left) * (bottom - top)
    assert smooth[..., 3].sum() == pytest.approx(area, rel=0.02)
    assert set(np.unique(rough[..., 3])) == {0.0, 1.0}
    np.testing.assert_allclose(smooth[..., :3], smooth[..., 3:].repeat(3, axis=-1))  # multiplied by the coverage
    assert smooth[9, 9, 3] == 1
    # the left side at x = 4.1 leaves pixel 4 (3.5 .. 4.5) four tenths covered
    assert smooth[9, 4, 3] == pytest.approx(0.4, abs=0.13)


def test_a_plane_seen_at_a_grazing_angle_has_no_silhouette_and_a_step_has_one():
    camera = np.array([[60.0, 0.0, 20.0], [0.0, 60.0, 0.0], [0.0, 0.0, 1.0]])
    floor = np.array([[-50.0, 0.3, 0.5], [50, 0.3, 0.5], [50, 0.3, 50], [-50, 0.3, 50]])
    plane = raycast(floor, np.array([[0, 1, 2], [0, 2, 3]]), camera, x0=0, y0=2, width=40, height=30)
    assert plane.is_hit.all()
    assert plane.depth.max() > 10 * plane.depth.min()
    assert not silhouette(plane).any()
    step = np.array(
        [
            [-5.0, -5, 1.0],
            [0.0, -5, 1.0],
            [0, 5, 1],
            [-5, 5, 1],
            [0, -5, 1.05],
            [5, -5, 1.05],
            [5, 5, 1.05],
            [0, 5, 1.05],
        ]
    )
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    edge = silhouette(raycast(step, faces, camera, width=40, height=30))
    assert set(np.unique(np.nonzero(edge)[1])) <= {19, 20, 21}
    assert edge[10].sum() >= 2


def test_nan_vertices_are_caught_before_embree_sees_them():
    verts, faces = bumpy_ball()
    verts[3] = np.nan
    with pytest.raises(AssertionError, match="NaN"):
        RayScene(verts, faces)
