"""Videos of synthetic hands with labels beside them: what is written fits together, and is read as a user's own."""

import json

import numpy as np
import pytest

from data_prep.dataset import Request
from data_prep.labels import project_joints
from data_prep.own_coco import read_coco
from data_prep.registry import find_data_set
from data_prep.synthetic_videos import OtherCamera, main, next_clip
from haptic.data.synthetic.fast import SyntheticClips
from haptic.perception.video import open_video

FRAMES = 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """One small video to train on and one to validate on."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = ["--train", "1", "--val", "1", "--frames", str(FRAMES), "--side-px", "160", "--seed", "3"]
    assert main(["--out", str(folder), *sizes]) == 0
    return folder


def test_labels_and_camera_of_a_video_fit_together(videos):
    video = open_video(videos / "train/clip-000.mp4")
    assert (video.info.width, video.info.height, video.info.fps) == (160, 120, 15)
    pictures = [frame.image for frame in video.frames()]
    assert len(pictures) == FRAMES
    # Grey but for what the codec adds; not one colour.
    assert np.abs(np.diff(pictures[0].astype(int), axis=-1)).max() < 12
    assert pictures[0].std() > 3
    cameras = json.loads((videos / "train/clip-000.cameras.json").read_text())
    K = np.tile(np.array(cameras["K"]), (FRAMES, 1, 1))
    assert K[0, 0, 0] == pytest.approx(0.4 * 160)
    T_world_cam = np.array(cameras["T_world_cam"])
    np.testing.assert_allclose(T_world_cam[0], np.eye(4), atol=1e-5)
    assert T_world_cam.shape == (FRAMES, 4, 4)
    hands = read_coco(videos / "train/clip-000.json", width=160, height=120, num_frames=FRAMES)
    assert max((hand.joints_img_weight > 0).any(axis=1).sum() for hand in hands) == FRAMES
    for hand in hands:
        off_px = np.linalg.norm(project_joints(hand.joints_cam, K) - hand.joints_img, axis=-1)
        assert np.nanmax(off_px) < 0.05
        assert set(np.unique(hand.joints_visible)) <= {-1, 0, 1}


def test_a_negative_is_dark_where_grey_is_light_and_no_continuation_of_it(videos, tmp_path, capsys):
    sizes = ["--train", "1", "--val", "0", "--frames", str(FRAMES), "--side-px", "160", "--seed", "3"]
    assert main(["--out", str(tmp_path), *sizes, "--look", "negative"]) == 0
    grey, negative = (
        next(iter(open_video(root / "train/clip-000.mp4").frames())).image.astype(int) for root in (videos, tmp_path)
    )
    assert np.abs(255 - grey - negative).mean() < 4  # the codec's
    assert main(["--out", str(tmp_path), *sizes]) == 1
    assert "made with other options (made_with.json); choose another --out" in capsys.readouterr().err


def test_a_camera_on_its_side_sees_the_same_hands_turned_by_a_quarter(open_hand):
    turned, upright = OtherCamera(), OtherCamera(turn_deg=0)
    clips = SyntheticClips(turned.clips_config(FRAMES), seed=3, model=open_hand)
    index, seen_turned = next_clip(clips, turned, -1)
    same, seen_upright = next_clip(clips, upright, index - 1)
    assert same == index
    center = np.array([319.5, 239.5])
    for name in seen_turned.hands.keys() & seen_upright.hands.keys():
        turned_joints, joints = (
            one.hands[name].joints_img.numpy()[0] - center
            for one in (seen_turned, seen_upright)
            if int(one.hands[name].frame_index[0]) == 0
        )
        quarter = joints[:, ::-1] * [1, -1]
        np.testing.assert_allclose(turned_joints, quarter, atol=0.01)


def test_they_become_shards_with_true_places(videos, to_shards, read_hands):
    shards, tally = to_shards("own-videos", videos, "val")
    assert tally.clips == 1
    hands = read_hands(shards)
    assert hands
    for hand in hands.values():
        assert hand.labels.place_weight.min() == hand.labels.camera_weight.min() == 1


def test_videos_to_validate_on_are_others_than_those_to_train_on(videos):
    names = [[unit.name for unit in find_data_set("own-videos").open(Request(videos, split)).units]
             for split in ("train", "val")]  # fmt: skip
    assert names == [["train/clip-000.mp4"], ["val/clip-000.mp4"]]
    labels = [(videos / split / "clip-000.json").read_text() for split in ("train", "val")]
    assert labels[0] != labels[1]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--fps", "0"], "fps is 0.0"),
    (["--focal", "0.1"], "focal_widths is (0.1, 0.1)"),
    (["--side-px", "10"], "side_px is 10"),
    (["--frames", "0"], "expected numbers of videos"),
])  # fmt: skip
def test_what_no_camera_does_is_refused_in_one_line(tmp_path, arguments, words, capsys):
    assert main(["--out", str(tmp_path / "x"), *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
