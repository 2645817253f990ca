"""Ego-Exo4D's raw download: named joints in the world, views, a film of a fisheye camera that lies sideways."""

import json
import shutil

import cv2
import numpy as np
import pytest

from data_prep.egoexo_hands import NAMES, believed, possible_joints

CAMERA, TAKE, UID = "aria01", "georgiatech_cooking_01_02_2", "uid-1"
K = np.array([[150.0, 0, 255.5], [0, 150, 255.5], [0, 0, 1]])
# f, cx, cy, six radial, two tangential, four prism numbers, as the preparation writes them for 1408 px.
LENS = [610.0, 703.5, 709.0, 0.4, -0.43, 0.25, 0.05, -0.1, 0.03, -0.0003, 0.0002, 0.0009, -0.0001, 0.0003, -0.00005]
FRAMES = (4, 30, 61)
# World to camera: a quarter turn about z, then a step; rows of numbers as in the file.
EXTRINSICS = np.array([[0.0, -1, 0, 0.1], [1, 0, 0, -0.2], [0, 0, 1, 0.05]])


def points(values):
    return {name: dict(zip("xyz", map(float, value), strict=False)) for name, value in values.items()}


@pytest.fixture(scope="module")
def download(tmp_path_factory, motion, smplx_joints, picture, save_picture):
    """Three annotated frames: in the second the left hand has no wrist, the third has no camera."""
    root = tmp_path_factory.mktemp("egoexo")
    frames, truth = {}, {}
    for row, number in enumerate(FRAMES):
        in_space, on_picture, seen = {}, {}, []
        for side in ("right", "left"):
            hand = motion(
                3, seed=len(side), place=(0.12 if side == "right" else -0.12, 0, 0.35), is_right=side == "right"
            )
            hand.finger[:] *= 0.3  # no angle that the preparation would not believe
            camera = smplx_joints(
                side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True
            )[row]  # fmt: skip
            truth[number, side] = camera
            pixels = camera[:, :2] / camera[:, 2:] * 150 + 255.5
            seen.append(pixels)
            # By hand: x_cam = -y + 0.1, y_cam = x - 0.2, z_cam = z + 0.05.
            world = np.stack([camera[:, 1] + 0.2, 0.1 - camera[:, 0], camera[:, 2] - 0.05], axis=-1)
            for joint, name in enumerate(NAMES):
                views = 2 if (side, joint) == ("right", 7) else 3
                if (number, side, joint) == (30, "left", 0):
                    views = 1
                in_space |= {f"{side}_{name}": {**points({"p": world[joint]})["p"], "num_views_for_3d": views}}
                if (side, joint) != ("right", 10):
                    on_picture |= points({f"{side}_{name}": pixels[joint]})
        frames[str(number)] = [{"annotation2D": {CAMERA: on_picture, "cam01": {}}, "annotation3D": in_space}]
        save_picture(root / "image" / "undistorted" / "train" / TAKE / f"{number:06d}.jpg", picture(512, 512, *seen))
    base = root / "annotations" / "ego_pose" / "train"
    poses = {
        CAMERA: {
            "camera_intrinsics": K.tolist(),
            "camera_extrinsics": {str(number): EXTRINSICS.tolist() for number in FRAMES[:2]},
        },
        "cam01": {"camera_intrinsics": K.tolist(), "camera_extrinsics": EXTRINSICS.tolist()},
    }
    for path, content in (
        (base / "hand" / "annotation" / f"{UID}.json", frames),
        (base / "camera_pose" / f"{UID}.json", poses),
        (root / "takes.json", [
            {"take_uid": UID, "root_dir": TAKE, "capture": {"cameras": [
                {"cam_id": "cam01", "is_ego": False}, {"cam_id": CAMERA, "is_ego": "True"}]}},
        ]),
        (root / "annotations" / "splits.json", {"split_to_take_uids": {"train": [UID], "val": []}}),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root, truth


def test_named_world_joints_lie_in_the_head_cameras_pictures(
    download, to_shards, read_hands, assert_labels_hit_the_blobs
):
    root, truth = download
    shards, tally = to_shards("egoexo4d-raw", root, "train")
    hands = read_hands(shards)
    assert tally.damaged == []
    # The second frame's left hand has no wrist; the third frame has no camera.
    assert sorted(hands) == [f"{UID}_000004.left_0", f"{UID}_000004.right_0", f"{UID}_000030.right_0"]
    for name, hand in hands.items():
        expected = truth[int(name.split("_")[1].split(".")[0]), name.split(".")[1].removesuffix("_0")]
        known = hand.labels.joints_cam_weight[0].numpy() > 0
        np.testing.assert_allclose(hand.joints_cam[0][known], expected[known], atol=1e-5)
        assert_labels_hit_the_blobs(hand)
        # Two views only, and no pixel to compare with: no 3D joint.
        assert np.flatnonzero(~known).tolist() == ([7, 10] if hand.was_right else [])
    T = hands[f"{UID}_000004.right_0"].labels.camera.T_world_cam[0].double().numpy()
    wrist = T[:3, :3] @ truth[4, "right"][0] + T[:3, 3]
    x, y, z = truth[4, "right"][0]
    np.testing.assert_allclose(wrist, [y + 0.2, 0.1 - x, z - 0.05], atol=1e-6)


def test_without_prepared_pictures_the_film_is_straightened(
    download, tmp_path, picture, to_shards, read_hands, assert_labels_hit_the_blobs, through_lens
):
    root, truth = download
    shutil.copytree(root, tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "image")
    with pytest.raises(ValueError, match=rf"{TAKE} \(or its film and calibration\)"):
        to_shards("egoexo4d-raw", tmp_path / "raw", "train")
    calibration = tmp_path / "raw" / "aria_calib_json" / f"{TAKE}.json"
    calibration.parent.mkdir()
    calibration.write_text(
        json.dumps({"CameraCalibrations": [{"Label": "camera-rgb", "Projection": {"Params": LENS}}]})
    )
    folder = tmp_path / "raw" / "takes" / TAKE / "frame_aligned_videos"
    folder.mkdir(parents=True)
    film = cv2.VideoWriter(str(folder / f"{CAMERA}_214-1.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (1408, 1408))
    for number in range(FRAMES[1] + 1):
        joints = [truth[number, side] for side in ("right", "left")] if number in FRAMES else []
        landscape = picture(1408, 1408, *(through_lens(one, LENS) for one in joints))
        film.write(np.ascontiguousarray(np.rot90(landscape, k=-1))[..., ::-1])  # upright, as films are
    film.release()
    hands = read_hands(to_shards("egoexo4d-raw", tmp_path / "raw", "train")[0])
    assert len(hands) == 3
    for hand in hands.values():
        assert_labels_hit_the_blobs(hand, atol_px=1.5)  # blobs are stretched


def test_both_folders_of_annotations_are_known(download, tmp_path, to_shards):
    root, _truth = download
    shutil.copytree(root, tmp_path / "old")
    base = tmp_path / "old" / "annotations" / "ego_pose"
    (base / "train" / "hand").rename(base / "hand")
    (base / "train" / "camera_pose").rename(base / "hand" / "camera_pose")
    (base / "train").rmdir()
    assert to_shards("egoexo4d-raw", tmp_path / "old", "train")[1].hands == 3
    with pytest.raises(ValueError, match="automatic: no such folder"):
        to_shards("egoexo4d-raw", root, "train", annotation="automatic")
    with pytest.raises(ValueError, match="expected manual or automatic"):
        to_shards("egoexo4d-raw", root, "train", annotation="both")


def straight_hand():
    """A flat hand in metres: every palm bone 80 mm, every other 30 mm, fingers straight."""
    joints = np.zeros((21, 3))
    for finger, angle in enumerate(np.radians([60, 20, 0, -15, -30])):
        way = np.array([np.sin(angle), np.cos(angle), 0])
        first = 0.04 if finger == 0 else 0.08
        for place in range(4):
            joints[1 + 4 * finger + place] = way * (first + 0.03 * place)
    return joints


def test_joints_that_no_hand_has_are_not_believed():
    hand = straight_hand()
    assert possible_joints(hand).all()
    long = hand.copy()
    long[8] += 0.06 * hand[8] / np.linalg.norm(hand[8])  # the index finger's last bone is 90 mm: above 80
    assert np.flatnonzero(~possible_joints(long)).tolist() == [8]
    folded = hand.copy()
    folded[12] = hand[10]  # the middle finger's tip lies on its middle joint: an angle of 0 at joint 11
    assert np.flatnonzero(~possible_joints(folded)).tolist() == [11]
    near = hand.copy()
    near[9:13] -= near[9] / 80 * 30  # the palm bone of the middle finger is 50 mm: below 60
    assert np.flatnonzero(~possible_joints(near)).tolist() == [9]
    without = hand.copy()
    without[0] = np.nan
    assert not possible_joints(without).any()


def test_joints_far_from_their_pixel_are_not_believed_but_the_wrist_may_be():
    hand = straight_hand() + np.array([0, 0, 0.4])
    pixels = hand[:, :2] / hand[:, 2:] * 150 + 255.5
    assert believed(hand, pixels, K, side_px=512).all()
    pixels[[0, 4]] += [31, 0]
    pixels[5] += [29, 0]
    pixels[6] = np.nan
    assert np.flatnonzero(~believed(hand, pixels, K, side_px=512)).tolist() == [4, 6]
