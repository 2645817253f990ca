"""Your own videos: a trajectory or detections beside each, read back on the pictures they are of."""

import json

import cv2
import numpy as np
import pytest

from data_prep.convert import hand_model_name
from data_prep.dataset import Request
from data_prep.registry import find_data_set
from haptic.export.npz import write_npz
from haptic.geometry.cameras import project
from haptic.hand.model import trajectory_joints


@pytest.fixture
def filmed(tmp_path, make_result, open_hand, picture):
    """A film of two waving hands as blobs, 320 x 240, and the joints that were painted."""
    result = make_result(((0, 12), (2, 12)), num_frames=12)
    seen = {name: np.full((12, 21, 2), np.nan) for name in result.hands}
    for name, hand in result.hands.items():
        seen[name][hand.frame_index] = project(trajectory_joints(open_hand, hand), hand.camera.K).numpy()
    film = cv2.VideoWriter(str(tmp_path / "my kitchen.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (320, 240))
    for frame in range(12):
        film.write(picture(320, 240, *(joints[frame] for joints in seen.values()))[..., ::-1])
    film.release()
    return tmp_path, result, seen


@pytest.mark.parametrize("camera", ["assumed", "measured"])
def test_a_trajectory_labels_both_hands(
    filmed, camera, open_hand, to_shards, read_hands, assert_labels_hit_the_blobs, tmp_path
):
    root, result, _seen = filmed
    write_npz(root / "my kitchen" / "trajectory.npz", result, open_hand)
    shards, _tally = to_shards("own-videos", root, "all", camera=camera)
    hands = read_hands(shards)
    for name, trajectory in result.hands.items():
        mine = [hand for key, hand in sorted(hands.items()) if name.split("_")[0] in key]
        # Frames that were filled in are not labels.
        kept = [frame for hand in mine for frame in hand.frame_index]
        assert kept == trajectory.frame_index[trajectory.observed].tolist()
        truth = trajectory_joints(open_hand, trajectory).numpy()
        place = trajectory.frame_index.tolist().index(mine[0].frame_index[0])
        np.testing.assert_allclose(mine[0].joints_cam[0], truth[place], atol=1e-5)
        for hand in mine:
            assert (hand.labels.place_weight > 0).all() == (camera == "measured")
            assert_labels_hit_the_blobs(hand)
    assert hand_model_name(find_data_set("own-videos"), Request(root, "all")) == open_hand.name


def test_detections_give_the_2d_joints(filmed, to_shards, read_hands):
    root, _result, seen = filmed
    entries = [
        {
            "frame_index": frame, "hand": name.split("_")[0], "track_id": name,
            "joints_img": joints[frame].tolist(), "joints_img_weight": [0.0, *[1.0] * 20],
        }
        for name, joints in seen.items() for frame in range(2, 12)
    ]  # fmt: skip
    (root / "my kitchen.json").write_text(json.dumps({"format_version": 1, "detections": entries}))
    shards, _tally = to_shards("own-videos", root, "all")
    hands = read_hands(shards)
    assert sorted(hands) == ["my_kitchen.left_0", "my_kitchen.right_0"]
    right, left = hands["my_kitchen.right_0"].labels, hands["my_kitchen.left_0"].labels
    assert right.joints_img_weight[:, 0].max() == 0
    np.testing.assert_allclose(right.joints_img[:, 1:], seen["right_0"][2:, 1:], atol=1e-3)
    x = 319 - left.joints_img[:, 1:, 0].numpy()  # read as a right hand, so turned over
    np.testing.assert_allclose(x, seen["left_0"][2:, 1:, 0], atol=1e-3)
    assert left.camera_weight.max() == left.place_weight.max() == left.params_weight.max() == 0


def test_labels_of_another_video_are_named(filmed, make_result, open_hand, to_shards):
    root, _result, _seen = filmed
    write_npz(root / "my kitchen.npz", make_result(((0, 5),), num_frames=5, width_px=640), open_hand)
    _shards, tally = to_shards("own-videos", root, "all")
    assert "for a video of 640 x 240 pixels, but my kitchen.mp4 has 320 x 240" in tally.damaged[0]


def test_a_video_without_labels_is_listed(filmed, to_shards):
    with pytest.raises(ValueError, match=r"my kitchen\.npz, my kitchen/trajectory\.npz or my kitchen\.json"):
        to_shards("own-videos", filmed[0], "all")
