"""HaPTIC's clip labels: lists of pickles, confidences, world-to-camera poses, pictures from elsewhere."""

import pickle

import numpy as np
import pytest

K = np.array([[500.0, 0, 320], [0, 505, 236], [0, 0, 1]])
FRAMES = 8


@pytest.fixture
def release(tmp_path, smplx_joints, motion, picture, save_picture):
    root = tmp_path / "release"
    folder = root / "labels" / "dexycb" / "clip"
    (folder / "s0_train").mkdir(parents=True)
    truth, names = {}, []
    for side in ("right", "left"):
        hand = motion(FRAMES, seed=len(side), place=(0, 0, 0.6), is_right=side == "right")
        # Independent: smplx's layer with a flat mean, HaMeR's convention; the left shapes are mirrored ones.
        joints = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True, published_left=False
        )
        pixels = (joints @ K.T)[..., :2] / joints[..., 2:]
        for frame in range(FRAMES):
            name = f"subject/{side}/{frame:06d}.jpg"
            save_picture(root / "pictures" / name, picture(640, 480, pixels[frame]))
        confidence = np.ones((FRAMES, 21, 1))
        confidence[2, 4] = 0.1
        cTw = np.tile(np.eye(4), (FRAMES, 1, 1))
        cTw[:, 0, 3] = 0.01 * np.arange(FRAMES)
        record = {
            "imgname": np.array([f"subject/{side}/{frame:06d}.jpg" for frame in range(FRAMES)]),
            "center": pixels.mean(axis=1), "scale": np.full(FRAMES, 3.0),
            "right": np.full(FRAMES, float(side == "right")),
            "hand_pose": np.concatenate([hand.global_aa, hand.finger], axis=1), "has_hand_pose": np.ones(FRAMES),
            "betas": hand.betas, "has_betas": np.ones(FRAMES),
            "hand_keypoints_2d": np.concatenate([pixels, confidence], axis=-1),
            "hand_keypoints_3d": np.concatenate([joints, np.ones((FRAMES, 21, 1))], axis=-1),
            "cTw": cTw, "intrinsics": np.tile(K, (FRAMES, 1, 1)),
        }  # fmt: skip
        name = f"s0_train/{side}.pkl"
        (folder / name).write_bytes(pickle.dumps(record))
        names.append(name)
        truth[side] = joints
    (folder / "dexycb_s0_train_clip.data.pyd").write_bytes(pickle.dumps(names))
    return root, truth, folder


def test_clips_of_both_sides_lie_where_the_pictures_show_them(
    release, to_shards, read_hands, mano, posed_joints, assert_labels_hit_the_blobs
):
    root, truth, _folder = release
    shards, tally = to_shards("haptic-clips", root / "labels", "train", mano=mano, images=str(root / "pictures"))
    hands = read_hands(shards)
    assert tally.damaged == []
    for number, side in enumerate(("right", "left")):
        hand = hands[f"dexycb_s0_train-00000-{number:03d}.{side}_0"]
        np.testing.assert_allclose(hand.joints_cam, truth[side], atol=1e-5)
        np.testing.assert_allclose(posed_joints(hand), truth[side], atol=3e-5)
        assert hand.labels.joints_img_weight[2, 4] == 0
        assert_labels_hit_the_blobs(hand)
        # World to camera moves points by +x, so the camera itself stands at -x of the world; the right hand's view.
        x = hand.labels.camera.T_world_cam[:, 0, 3].numpy() * (1 if side == "right" else -1)
        np.testing.assert_allclose(x, -0.01 * np.arange(FRAMES), atol=1e-6)


def test_a_clip_that_is_none_is_counted(release, to_shards):
    root, _truth, folder = release
    (folder / "s0_train" / "right.pkl").write_bytes(pickle.dumps(["not", "a", "clip"]))
    _shards, tally = to_shards("haptic-clips", root / "labels", "train", images=str(root / "pictures"))
    assert (tally.clips, len(tally.damaged)) == (1, 1)
    assert "right.pkl: not a clip" in tally.damaged[0]
