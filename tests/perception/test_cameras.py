"""Cameras: which source is used, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.perception.cameras import CameraConfig, parse_intrinsics, read_cameras, video_camera
from haptic.perception.video import VideoInfo

INFO = VideoInfo("clip", Path("clip.mp4"), width=640, height=480, fps=30.0, num_frames=5, focal_px=None)
K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])


def poses(count):
    angle = np.linspace(0, 1, count)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 0], T[:, 0, 2], T[:, 2, 0], T[:, 2, 2] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    T[:, :3, 3] = np.arange(count)[:, None] * 0.1
    return T


def test_without_knowledge_the_focal_length_is_the_diagonal_and_says_so():
    found = video_camera(INFO, 5)
    assert found.camera.K.shape == (5, 3, 3)
    assert found.camera.K[0, 0, 0] == found.camera.K[0, 1, 1] == 800
    assert found.camera.K[0, :2, 2].tolist() == [319.5, 239.5]
    torch.testing.assert_close(found.camera.T_world_cam, torch.eye(4).expand(5, 4, 4))
    assert "assumed" in found.source
    assert "diagonal" in found.source
    assert not found.has_poses


def test_metadata_comes_before_the_diagonal_and_the_user_before_both():
    info = VideoInfo("clip", Path("clip.mp4"), 640, 480, 30.0, 5, focal_px=700.0)
    assert video_camera(info, 2).camera.K[1, 0, 0] == 700
    assert "metadata" in video_camera(info, 2).source
    assert video_camera(info, 2, CameraConfig(focal_px=650)).camera.K[1, 0, 0] == 650


def test_a_field_of_view_spans_the_width():
    found = video_camera(INFO, 1, CameraConfig(fov_deg=90))
    assert found.camera.K[0, 0, 0] == pytest.approx(320)
    assert "90 degrees" in found.source


def test_four_intrinsics_fill_the_matrix():
    found = video_camera(INFO, 3, CameraConfig(intrinsics=parse_intrinsics("500, 510,319.5,239.5")))
    np.testing.assert_allclose(found.camera.K[2].numpy(), K)


@pytest.mark.parametrize(
    "text",
    [
        "500,500,320",
        "500,500,320,240,0",
        "a,b,c,d",
        "",
        "-500,500,320,240",
        "0,500,320,240",
        "nan,500,320,240",
        "500,inf,320,240",
        "500,500,-3,240",
    ],
)
def test_wrong_intrinsics_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"intrinsics .*expected .*fx,fy,cx,cy") as caught:
        parse_intrinsics(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"focal_px": 0.0},
        {"focal_px": -1.0},
        {"focal_px": math.nan},
        {"fov_deg": 0.0},
        {"fov_deg": 180.0},
        {"fov_deg": math.nan},
        {"focal_px": 500.0, "fov_deg": 60.0},
    ],
)
def test_wrong_focal_lengths_and_views_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        CameraConfig(**wrong)


def test_a_principal_point_of_another_image_size_is_refused():
    with pytest.raises(ValueError, match=r"960,540 .* outside the image of 640 x 480"):
        video_camera(INFO, 1, CameraConfig(intrinsics=(1000, 1000, 960, 540)))


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_a_cameras_file_gives_each_frame_its_camera(tmp_path, suffix):
    path, Ks = tmp_path / f"cameras.{suffix}", np.tile(K, (5, 1, 1))
    Ks[:, 0, 0] += np.arange(5)
    if suffix == "npz":
        np.savez(path, K=Ks, T_world_cam=poses(5))
    else:
        path.write_text(json.dumps({"K": Ks.tolist(), "T_world_cam": poses(5).tolist()}))
    found = video_camera(INFO, 5, CameraConfig(cameras=path))
    np.testing.assert_allclose(found.camera.K.numpy(), Ks, rtol=1e-6)
    np.testing.assert_allclose(found.camera.T_world_cam.numpy(), poses(5), atol=1e-6)
    assert found.has_poses
    assert str(path) in found.source


def test_poses_alone_leave_the_intrinsics_to_the_user(tmp_path):
    path = tmp_path / "cameras.npz"
    np.savez(path, T_world_cam=poses(5))
    found = video_camera(INFO, 5, CameraConfig(cameras=path, focal_px=600))
    assert found.camera.K[4, 0, 0] == 600
    assert found.has_poses


def test_one_matrix_stands_for_all_frames(tmp_path):
    path = tmp_path / "cameras.npz"
    np.savez(path, K=K)
    found = video_camera(INFO, 4, CameraConfig(cameras=path))
    np.testing.assert_allclose(found.camera.K.numpy(), np.tile(K, (4, 1, 1)))
    assert not found.has_poses


def test_two_sources_of_intrinsics_are_refused(tmp_path):
    path = tmp_path / "cameras.npz"
    np.savez(path, K=K)
    with pytest.raises(ValueError, match=r"focal_px is given, but .* has K too"):
        video_camera(INFO, 4, CameraConfig(cameras=path, focal_px=500))


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"K": np.tile(K, (4, 1, 1))}, r"K has shape \(4, 3, 3\); expected \(5, 3, 3\)"),
        ({"K": np.ones((5, 3))}, r"K has shape \(5, 3\)"),
        ({"K": changed(np.tile(K, (5, 1, 1)), (2, 0, 0), -1)}, "K of frame 2 .* positive fx"),
        ({"K": changed(np.tile(K, (5, 1, 1)), (3, 0, 2), np.nan)}, "K of frame 3"),
        ({"K": changed(np.tile(K, (5, 1, 1)), (3, 0, 2), 5000)}, "of frame 3 lies outside the image"),
        ({"T_world_cam": changed(poses(5), (1, 0, 0), 2.0)}, "T_world_cam of frame 1 .* a rotation"),
        ({"T_world_cam": poses(5) * np.array([-1, 1, 1, 1])[:, None]}, "T_world_cam of frame 0 .* a rotation"),
        ({"T_world_cam": changed(poses(5), (4, 3, 0), 1.0)}, "T_world_cam of frame 4"),
        ({"T_world_cam": changed(poses(5), (0, 1, 3), np.inf)}, "T_world_cam of frame 0"),
        ({"T_cam_world": poses(5)}, "unknown field T_cam_world"),
        ({"K": np.array([["a"] * 3] * 3)}, "K is not an array of numbers"),
        ({}, "no field at all"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:24],
)
def test_a_wrong_cameras_file_is_refused_by_name_field_and_frame(tmp_path, content, words):
    path = tmp_path / "cameras.npz"
    np.savez(path, **content)
    with pytest.raises(ValueError, match=words) as caught:
        video_camera(INFO, 5, CameraConfig(cameras=path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("it was executed",))


def test_nothing_in_a_hostile_file_is_executed(tmp_path):
    path = tmp_path / "cameras.npz"
    np.savez(path, K=np.array([Hostile()], dtype=object))
    with pytest.raises(ValueError, match="not plain arrays"):
        read_cameras(path, 5)


@pytest.mark.parametrize("content", ["", "text", "[1, 2]", '{"K": [[1, 2], [3]]}', '{"K": "abc"}', "[" * 100000])
def test_a_file_that_is_no_cameras_file_is_refused(tmp_path, content):
    for name in ("cameras.json", "cameras.npz"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=name):
            read_cameras(tmp_path / name, 5)


def test_a_missing_cameras_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such cameras file"):
        read_cameras(tmp_path / "cameras.npz", 5)
