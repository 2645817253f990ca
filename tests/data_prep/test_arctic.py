"""ARCTIC in its official layout: offset picture numbers, two hands, a moving distorted head camera, the mean pose."""

import json

import cv2
import numpy as np
import pytest

OFFSET = 7  # the first row's picture number
ROWS = 24
KEPT = range(10, 14)  # ten at either end are left out
EXO_K = np.array([[300.0, 0, 170], [0, 310, 118], [0, 0, 1]])
EGO_K = np.array([[260.0, 0, 205], [0, 255, 144], [0, 0, 1]])
EGO_SIZE, EXO_SIZE = (420, 300), (320, 240)
DIST8 = np.array([0.35, -0.25, 0.002, -0.001, 0.05, 0.1, -0.08, 0.02])


def turn(aa):
    return cv2.Rodrigues(np.asarray(aa, np.float64))[0]


@pytest.fixture(scope="module")
def download(tmp_path_factory, smplx_joints, motion, picture, save_picture):
    root = tmp_path_factory.mktemp("arctic")
    world2cam = np.tile(np.eye(4), (8, 1, 1))
    # The third fixed camera (view 3) is turned and shifted.
    world2cam[2, :3, :3], world2cam[2, :3, 3] = turn([0.1, -0.4, 0.2]), [0.1, -0.05, 0.3]
    misc = {
        "s01": {
            "world2cam": world2cam.tolist(), "intris_mat": [EXO_K.tolist()] * 8, "ioi_offset": OFFSET,
            "image_size": [EGO_SIZE] + [EXO_SIZE] * 8, "gender": "male",
        }
    }  # fmt: skip
    (root / "meta").mkdir()
    (root / "meta" / "misc.json").write_text(json.dumps(misc))
    name = "s01/box_grab_01"
    (root / "raw_seqs" / "s01").mkdir(parents=True)
    stored, joints_world = {}, {}
    for side, place in (("right", (0.08, 0.0, 0.6)), ("left", (-0.08, 0.02, 0.65))):
        hand = motion(ROWS, seed=len(side), place=place, is_right=side == "right")
        stored[side] = {
            "rot": hand.global_aa, "pose": hand.finger, "trans": hand.transl, "shape": hand.betas[0],
            "fitting_err": np.zeros(ROWS),
        }  # fmt: skip
        # Independent: smplx's layer adds the mean pose itself and takes MANO_LEFT's shape directions as published.
        joints_world[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False
        )
    rotation = np.stack([turn([0.02 * row, -0.01 * row, 0.1]) for row in range(ROWS)])
    translation = np.stack([[0.002 * row, -0.01, 0.05] for row in range(ROWS)])[..., None]
    raw = root / "raw_seqs" / name
    save_object(f"{raw}.mano.npy", stored)
    save_object(
        f"{raw}.egocam.dist.npy",
        {"R_k_cam_np": rotation, "T_k_cam_np": translation, "intrinsics": EGO_K, "dist8": DIST8},
    )
    # Millimetres, and none of this converter's business.
    np.save(f"{raw}.object.npy", np.full((ROWS, 7), 450.0))
    in_camera = {}
    for row in range(ROWS):
        ego = {side: joints[row] @ rotation[row].T + translation[row, :, 0] for side, joints in joints_world.items()}
        exo = {
            side: joints[row] @ world2cam[2, :3, :3].T + world2cam[2, :3, 3] for side, joints in joints_world.items()
        }
        in_camera[row] = {"0": ego, "3": exo}
        seen = [cv2.projectPoints(joints, np.zeros(3), np.zeros(3), EGO_K, DIST8)[0][:, 0] for joints in ego.values()]
        save_picture(root / "images" / name / "0" / f"{row + OFFSET:05d}.jpg", picture(*EGO_SIZE, *seen))
        seen = [(joints @ EXO_K.T)[:, :2] / joints[:, 2:] for joints in exo.values()]
        save_picture(root / "images" / name / "3" / f"{row + OFFSET:05d}.jpg", picture(*EXO_SIZE, *seen))
    return root, in_camera, rotation, translation


def save_object(path, values):
    np.save(path, values, allow_pickle=True)


@pytest.mark.parametrize(
    ("data_set", "split", "view"), [("arctic-exo", "p1_train", "3"), ("arctic-ego", "p2_train", "0")]
)
def test_both_hands_lie_where_the_pictures_show_them(
    download, data_set, split, view, to_shards, read_hands, mano, assert_labels_hit_the_blobs
):
    root, in_camera, _rotation, _translation = download
    shards, tally = to_shards(data_set, root, split, mano=mano, partial=True)
    hands = read_hands(shards)
    assert tally.damaged == []
    for side in ("right", "left"):
        hand = hands[f"s01_box_grab_01_{view}.{side}_0"]
        assert hand.frame_index == list(KEPT)
        expected = np.stack([in_camera[row][view][side] for row in KEPT])
        np.testing.assert_allclose(hand.joints_cam, expected, atol=2e-5)
        # Straightened pictures: blobs were painted at distorted places by OpenCV's projection.
        assert_labels_hit_the_blobs(hand)


def test_parameters_give_the_joints_in_the_camera(download, to_shards, read_hands, mano, posed_joints):
    root, in_camera, _rotation, _translation = download
    shards, _tally = to_shards("arctic-exo", root, "p1_train", mano=mano, partial=True)
    hands = read_hands(shards)
    right = hands["s01_box_grab_01_3.right_0"]
    np.testing.assert_allclose(posed_joints(right), np.stack([in_camera[row]["3"]["right"] for row in KEPT]), atol=2e-5)
    left = hands["s01_box_grab_01_3.left_0"]
    off = np.linalg.norm(posed_joints(left) - np.stack([in_camera[row]["3"]["left"] for row in KEPT]), axis=-1)
    assert off[:, 0].max() < 1e-5  # the wrist, although the published left shapes are others
    assert off.mean() < 0.008


def test_the_head_camera_moves_through_the_world(download, to_shards, read_hands, mano):
    root, _in_camera, rotation, translation = download
    shards, _tally = to_shards("arctic-ego", root, "p2_train", mano=mano, partial=True)
    hand = read_hands(shards)["s01_box_grab_01_0.right_0"]
    T = hand.labels.camera.T_world_cam.double().numpy()
    for place, row in enumerate(KEPT):
        # The camera's centre in the world is -R^T t.
        np.testing.assert_allclose(T[place, :3, 3], -rotation[row].T @ translation[row, :, 0], atol=1e-6)


def test_joints_need_the_users_mano_and_say_so(download, to_shards):
    with pytest.raises(ValueError, match=r"MANO_RIGHT.pkl with --mano"):
        to_shards("arctic-exo", download[0], "p1_train", partial=True)


def test_missing_views_are_listed(download, to_shards, mano):
    with pytest.raises(ValueError, match=r"lacks .* parts:(.|\n)*images/s01/box_grab_01/1(.|\n)*--partial"):
        to_shards("arctic-exo", download[0], "p1_train", mano=mano)
