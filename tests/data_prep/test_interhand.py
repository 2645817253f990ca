"""InterHand2.6M in its official layout: millimetres, tip to base, invalid wrists, null MANO, portrait and landscape."""

import json
import shutil

import cv2
import numpy as np
import pytest

# Sixteen joints and tips of a hand, from OpenPose's order to the set's: thumb, index, ... from the tip, wrist last.
SET_FROM_OPENPOSE = [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17, 0]
CAMERAS = {  # portrait and landscape
    "400262": ((334, 512), [1261.5, 1261.7], [155.8, 258.8], [-0.1, -0.3, 0.05], [-400.0, 130.0, 60.0]),
    "410028": ((512, 334), [1100.0, 1102.0], [250.3, 160.2], [0.04, 0.25, 0.4], [300.0, -50.0, -100.0]),
}
FRAMES = [8533, 8536, 8539, 8545, 8548]  # every third picture; one is missing
INVALID_LEFT_WRIST, NULL_MANO = 8539, 8548


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr("data_prep.interhand_lists.CACHE", folder)
    return folder


@pytest.fixture
def download(tmp_path, smplx_joints, motion, picture, save_picture):
    root = tmp_path / "interhand"
    joints_m, numbers = {}, {}
    for side in ("right", "left"):
        hand = motion(
            len(FRAMES), seed=len(side), place=(0.02 if side == "right" else -0.02, 0.0, 1.1), is_right=side == "right"
        )
        # Independent: smplx's layer adds the mean; the authors mend MANO_LEFT's shape directions.
        joints_m[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False,
            published_left=False,
        )  # fmt: skip
        numbers[side] = hand
    joints_3d, mano = {}, {}
    for row, frame in enumerate(FRAMES):
        world = np.concatenate([joints_m[side][row][SET_FROM_OPENPOSE] * 1000 for side in ("right", "left")])
        valid = np.ones((42, 1), bool)
        if frame == INVALID_LEFT_WRIST:
            valid[41] = False
        valid[0] = frame != FRAMES[1]  # the tip of the right thumb
        joints_3d[str(frame)] = {
            "world_coord": world.tolist(), "joint_valid": valid.tolist(), "hand_type": "interacting",
            "hand_type_valid": True,
        }  # fmt: skip
        mano[str(frame)] = {
            side: {
                "pose": [*one.global_aa[row], *one.finger[row]], "shape": one.betas[row].tolist(),
                "trans": one.transl[row].tolist(),
            }
            for side, one in numbers.items()
        }  # fmt: skip
        if frame == NULL_MANO:
            mano[str(frame)]["left"] = None
    cameras = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
    in_camera = {}
    for name, (size, focal, middle, turn, place) in CAMERAS.items():
        rotation = cv2.Rodrigues(np.array(turn))[0]
        cameras["campos"][name], cameras["camrot"][name] = place, rotation.tolist()
        cameras["focal"][name], cameras["princpt"][name] = focal, middle
        for side in joints_m:
            in_camera[name, side] = (joints_m[side] - np.array(place) / 1000) @ rotation.T
        for row, frame in enumerate(FRAMES):
            seen = [in_camera[name, side][row] for side in joints_m]
            seen = [points[:, :2] / points[:, 2:] * focal + middle for points in seen]
            path = root / "images" / "train" / "Capture0" / "ROM01" / f"cam{name}" / f"image{frame}.jpg"
            save_picture(path, picture(*size, *seen))
    folder = root / "annotations" / "train"
    folder.mkdir(parents=True)
    for name, values in (("joint_3d", joints_3d), ("camera", cameras), ("MANO_NeuralAnnot", mano)):
        (folder / f"InterHand2.6M_train_{name}.json").write_text(json.dumps({"0": values}))
    return root, in_camera


def key(camera, first, hand):
    return f"train_Capture0_ROM01_{camera}_{first}.{hand}"


def test_both_hands_lie_where_portrait_and_landscape_pictures_show_them(
    download, to_shards, read_hands, mano, posed_joints, assert_labels_hit_the_blobs
):
    root, in_camera = download
    shards, tally = to_shards("interhand26m-30fps", root, "train", mano=mano)
    hands = read_hands(shards)
    assert tally.damaged == []
    for camera in CAMERAS:
        right = hands[key(camera, 8533, "right_0")]
        np.testing.assert_allclose(
            np.delete(right.joints_cam[1], 4, axis=0), np.delete(in_camera[camera, "right"][1], 4, axis=0), atol=2e-5
        )
        assert right.labels.joints_cam_weight[:, 4].tolist() == [1, 0, 1]
        np.testing.assert_allclose(posed_joints(right), in_camera[camera, "right"][:3], atol=3e-5)
        # The left hand's shapes are ours too: exact, after the missing picture.
        left = hands[key(camera, 8545, "left_0")]
        np.testing.assert_allclose(left.joints_cam, in_camera[camera, "left"][3:], atol=2e-5)
        np.testing.assert_allclose(posed_joints(left)[0], in_camera[camera, "left"][3], atol=3e-5)
        for hand in (right, left):
            assert_labels_hit_the_blobs(hand)


def test_a_hand_with_an_invalid_wrist_is_not_used(download, to_shards, read_hands):
    shards, _tally = to_shards("interhand26m-30fps", download[0], "train")
    hands = read_hands(shards)
    assert hands[key("400262", 8533, "left_0")].frame_index == [0, 1]
    assert hands[key("400262", 8533, "right_0")].frame_index == [0, 1, 2]


def test_a_null_fit_keeps_its_joints(download, to_shards, read_hands, mano):
    shards, _tally = to_shards("interhand26m-5fps", download[0], "train", mano=mano)
    left = read_hands(shards)[key("410028", 8545, "left_0")]
    assert left.labels.params_weight.tolist() == [1, 0]
    assert left.labels.joints_cam_weight.min() == 1


def test_annotations_are_read_once_and_anew_when_they_change(download, cache, to_shards, mano, monkeypatch):
    root, _in_camera = download
    shards, tally = to_shards("interhand26m-30fps", root, "train", mano=mano)
    lists = sorted(cache.glob("*.npz"))
    assert [path.name.split("-")[0] for path in lists] == ["InterHand2.6M_train_MANO_NeuralAnnot",
                                                          "InterHand2.6M_train_joint_3d"]  # fmt: skip
    before = [path.read_bytes() for path in shards]

    def never(_path):
        raise AssertionError("the JSON is read again")
        yield

    with monkeypatch.context() as patch:  # another process finds the lists
        patch.setattr("data_prep.interhand_lists.stream_entries", never)
        for path in shards:
            path.unlink()
        again, same = to_shards("interhand26m-30fps", root, "train", mano=mano)
    assert [path.read_bytes() for path in again] == before
    assert same.hands == tally.hands
    # A damaged entry is named and costs its frame only; the list is made anew, as the file is another.
    path = root / "annotations" / "train" / "InterHand2.6M_train_joint_3d.json"
    content = json.loads(path.read_text())
    content["0"]["8533"]["world_coord"] = [[1, 2, 3]]
    path.write_text(json.dumps(content))
    for shard in again:
        shard.unlink()
    _shards, fewer = to_shards("interhand26m-30fps", root, "train", mano=mano)
    assert fewer.hands == tally.hands - 2 * len(CAMERAS)
    assert len(fewer.damaged) == 1
    assert "joint_3d.json, 0, 8533: numbers are missing" in fewer.damaged[0]


def test_a_list_that_was_cut_off_is_made_anew(download, cache, to_shards):
    to_shards("interhand26m-30fps", download[0], "train")
    (path,) = cache.glob("*.npz")
    path.write_bytes(path.read_bytes()[:500])
    assert to_shards("interhand26m-5fps", download[0], "train")[1].damaged == []
    assert path.stat().st_size > 500


def test_annotations_that_end_too_early_are_named(download, to_shards):
    path = download[0] / "annotations" / "train" / "InterHand2.6M_train_joint_3d.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"joint_3d\.json: not readable as JSON at character \d+"):
        to_shards("interhand26m-30fps", download[0], "train")


def test_the_real_pictures_show_the_hands_where_the_labels_say(shared_dir, tmp_path, to_shards, read_hands):
    real = shared_dir / "realdata" / "interhand2.6m"
    data = json.loads((real / "test_interhand2.6m_data.json").read_text())
    folder = tmp_path / "annotations" / "test"
    folder.mkdir(parents=True)
    for name in ("joint_3d", "camera"):
        shutil.copy(real / f"test_interhand2.6m_{name}.json", folder / f"InterHand2.6M_test_{name}.json")
    for image in data["images"]:
        place = tmp_path / "images" / "test" / f"Capture{image['capture']}" / image["seq_name"]
        (place / f"cam{image['camera']}").mkdir(parents=True)
        shutil.copy(real / image["file_name"], place / f"cam{image['camera']}" / image["file_name"])
    shards, tally = to_shards("interhand26m-5fps", tmp_path, "test")
    hands = read_hands(shards)
    assert tally.damaged == []
    assert sorted(name.split(".")[1] for name in hands) == ["left_0", "right_0", "right_0"]
    for annotation, image in zip(data["annotations"], data["images"], strict=True):
        left, top, width, height = annotation["bbox"]
        mine = [hand for name, hand in hands.items() if str(image["frame_idx"]) in name]
        # The published box is about all joints of all hands, as the picture shows them, some pixels wider.
        points = []
        for hand in mine:
            x = hand.labels.joints_img[0, :, 0].numpy()
            x = x if hand.was_right else image["width"] - 1 - x
            points.append(np.stack([x, hand.labels.joints_img[0, :, 1].numpy()], axis=-1))
        points = np.concatenate(points)
        assert (points >= [left - 1, top - 1]).all()
        assert (points <= [left + width + 1, top + height + 1]).all()
        assert (np.ptp(points, axis=0) > [0.6 * width, 0.6 * height]).all()
