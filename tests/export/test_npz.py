"""trajectory.npz: what goes in comes out, under the documented names, and damaged files are refused in words."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from haptic.export.npz import read_npz, write_npz
from haptic.geometry.cameras import project
from haptic.hand.model import load_hand_model, trajectory_joints, trajectory_mesh
from haptic.records import Record


def assert_same(first, second):
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, Record):
            assert_same(one, other)
        else:
            assert one.dtype == other.dtype, field.name
            assert torch.equal(one, other), field.name


@pytest.mark.parametrize(
    "spans", [(), ((0, 1),), ((0, 20), (4, 16)), ((0, 5), (3, 9), (1, 4), (2, 8), (0, 9), (7, 20))]
)
@pytest.mark.parametrize("moving_camera", [False, True])
def test_a_reconstruction_that_is_written_and_read_is_the_same(spans, moving_camera, make_result, open_hand, tmp_path):
    result = make_result(spans, moving_camera=moving_camera)
    write_npz(tmp_path / "trajectory.npz", result, open_hand)
    back = read_npz(tmp_path / "trajectory.npz")
    assert list(back.hands) == list(result.hands)
    for name in result.hands:
        assert_same(result.hands[name], back.hands[name])
        assert_same(result.tracks[name], back.tracks[name])
    assert_same(result.camera, back.camera)
    assert torch.equal(result.frame_time_s, back.frame_time_s)
    assert (back.image_width_px, back.image_height_px, back.fps) == (320, 240, 30.0)
    assert back.hand_model == open_hand.name


def test_the_documented_arrays_are_there_and_mean_what_they_say(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)))
    write_npz(tmp_path / "trajectory.npz", result, open_hand, save_verts=True)
    with np.load(tmp_path / "trajectory.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert arrays["K"].shape == (3, 3)
    assert arrays["T_world_cam"].shape == (20, 4, 4)
    assert arrays["image_size"].tolist() == [320, 240]
    assert str(arrays["hand_model"]) == open_hand.name
    assert "K_frames" not in arrays, "K does not change here"
    for name, hand in result.hands.items():
        num_frames = len(hand.frame_index)
        shapes = {
            "frame_index": (), "time_s": (), "joints_cam": (21, 3), "joints_img": (21, 2), "detected_img": (21, 2),
            "detected_weight": (21,), "global_orient": (3, 3), "hand_pose": (15, 3, 3), "transl": (3,),
            "verts_cam": (778, 3), "confidence": (), "observed": (),
        }  # fmt: skip
        for key, shape in shapes.items():
            assert arrays[f"{name}/{key}"].shape == (num_frames, *shape), key
        assert arrays[f"{name}/betas"].shape == (10,)
        assert arrays[f"{name}/observed"].dtype == bool
        joints = torch.from_numpy(arrays[f"{name}/joints_cam"])
        torch.testing.assert_close(joints, trajectory_joints(open_hand, hand))
        expected_img = project(joints, torch.from_numpy(arrays["K"]).expand(num_frames, 3, 3))
        torch.testing.assert_close(torch.from_numpy(arrays[f"{name}/joints_img"]), expected_img)
        verts = torch.from_numpy(arrays[f"{name}/verts_cam"])
        torch.testing.assert_close(verts, trajectory_mesh(open_hand, hand).verts, atol=1e-6, rtol=0)


def test_joints_can_be_rebuilt_from_the_file_alone_for_both_sides(make_result, open_hand, tmp_path):
    write_npz(tmp_path / "trajectory.npz", make_result(((0, 20), (4, 16))), open_hand)
    model = load_hand_model(None)
    for name, hand in read_npz(tmp_path / "trajectory.npz").hands.items():
        with np.load(tmp_path / "trajectory.npz", allow_pickle=False) as file:
            stored = torch.from_numpy(file[f"{name}/joints_cam"])
        torch.testing.assert_close(trajectory_joints(model, hand), stored)


def test_a_lens_that_changes_is_kept_frame_by_frame(make_result, open_hand, tmp_path):
    result = make_result(((0, 20),))
    K = result.camera.K * torch.linspace(1, 1.5, 20)[:, None, None]
    K[:, 2, 2] = 1
    camera = replace(result.camera, K=K)
    hands = {name: replace(hand, camera=camera[hand.frame_index]) for name, hand in result.hands.items()}
    result = replace(result, camera=camera, hands=hands)
    write_npz(tmp_path / "trajectory.npz", result, open_hand)
    assert torch.equal(read_npz(tmp_path / "trajectory.npz").camera.K, K)


def test_a_hand_without_a_track_stays_without_one(make_result, open_hand, tmp_path):
    result = replace(make_result(((0, 20),)), tracks={})
    write_npz(tmp_path / "trajectory.npz", result, open_hand)
    assert read_npz(tmp_path / "trajectory.npz").tracks == {}
    with np.load(tmp_path / "trajectory.npz", allow_pickle=False) as file:
        assert not file["right_0/detected_weight"].any()


def test_nothing_is_left_when_writing_fails(make_result, open_hand, tmp_path):
    result = make_result(((0, 20),))
    track = result.tracks["right_0"][torch.arange(5)]
    with pytest.raises(AssertionError, match="different frames"):
        write_npz(tmp_path / "trajectory.npz", replace(result, tracks={"right_0": track}), open_hand)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format_version": np.array(99)}, "format_version is 99"),
        ({"right_0/transl": np.zeros((20, 4))}, "right_0/transl has the shape"),
        ({"right_0/transl": None}, "no array named right_0/transl"),
        ({"right_0/frame_index": np.arange(20) + 5}, "reaches from 5 to 24"),
        ({"T_world_cam": np.full((20, 4, 4), "x")}, "expected numbers"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_name(change, word, make_result, open_hand, tmp_path):
    path = tmp_path / "trajectory.npz"
    write_npz(path, make_result(((0, 20),)), open_hand)
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: value for key, value in {**file, **change}.items() if value is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=word) as caught:
        read_npz(path)
    assert str(path) in str(caught.value)


def test_a_file_of_pickled_objects_is_not_opened(tmp_path):
    path = tmp_path / "trajectory.npz"
    np.savez(path, format_version=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="not a readable"):
        read_npz(path)
    with pytest.raises(ValueError, match="no such file"):
        read_npz(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="not a readable"):
        read_npz(tmp_path / "text.npz")
