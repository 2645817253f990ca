"""RHD in its official layout: left hands first, fingers from tip to base, hidden joints, hands out of the picture."""

import pickle
import shutil

import numpy as np
import pytest

K = np.array([[300.0, 0, 160], [0, 300, 160], [0, 0, 1]])
# By hand from the set's description: wrist, then four joints of each finger from the tip down.
TIP_TO_BASE = [0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17]


@pytest.fixture(scope="module")
def download(tmp_path_factory, smplx_joints, motion, picture, save_picture):
    """Picture 0: both hands, some joints hidden. Picture 3: of the right hand only four joints are seen."""
    root = tmp_path_factory.mktemp("RHD_published_v2")
    records, truth = {}, {}
    for number in (0, 3):
        joints = {}
        for is_right, x in ((False, 0.08), (True, -0.08)):
            hand = motion(1, seed=40 + number + is_right, place=(x, 0.0, 0.6))
            joints[is_right] = smplx_joints(
                is_right, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True
            )[0]  # fmt: skip
        xyz = np.concatenate([joints[False][TIP_TO_BASE], joints[True][TIP_TO_BASE]])
        uv = xyz @ K.T
        uv = uv[:, :2] / uv[:, 2:]
        visible = np.ones(42)
        visible[[1, 22]] = 0  # both thumbs' tips
        if number == 3:
            visible[21 + 4 :] = 0
        records[number] = {
            "uv_vis": np.column_stack([uv, visible]).astype(np.float32),
            "xyz": xyz.astype(np.float32),
            "K": K.astype(np.float32),
        }
        truth[number] = joints
        image = picture(320, 320, *((joints[side] @ K.T)[:, :2] / joints[side][:, 2:] for side in (True, False)))
        save_picture(root / "training" / "color" / f"{number:05d}.png", image)
    (root / "training" / "anno_training.pickle").write_bytes(pickle.dumps(records, protocol=2))
    return root, truth


def test_both_hands_have_openpose_order_and_their_own_side(
    download, to_shards, read_hands, assert_labels_hit_the_blobs
):
    root, truth = download
    hands = read_hands(to_shards("rhd", root, "training")[0])
    assert sorted(hands) == ["training-00000.left_0", "training-00000.right_0", "training-00003.left_0"]
    for name, hand in hands.items():
        number = int(name[9:14])
        np.testing.assert_allclose(hand.joints_cam[0], truth[number][hand.was_right], atol=1e-6)
        assert_labels_hit_the_blobs(hand)
        # The thumb's tip is OpenPose joint 4; it is hidden, and its 2D and 3D are exact all the same.
        assert hand.labels.joints_visible[0, 4] == 0
        assert hand.labels.joints_img_weight[0, 4] == 1
        assert hand.labels.joints_visible[0].sum() == 20


def test_fingers_grow_from_the_palm_outwards(download, to_shards, read_hands):
    hands = read_hands(to_shards("rhd", download[0], "training")[0])
    for hand in hands.values():
        joints = hand.joints_cam[0]
        for base in (1, 5, 9, 13, 17):
            steps = np.linalg.norm(np.diff(joints[[0, base, base + 1, base + 2, base + 3]], axis=0), axis=-1)
            assert steps.max() < 0.12  # no bone leads back across the hand


def test_a_record_of_wrong_shape_is_named(download, tmp_path, to_shards):
    root = tmp_path / "copy"
    shutil.copytree(download[0], root)
    path = root / "training" / "anno_training.pickle"
    records = pickle.loads(path.read_bytes())
    records[3]["xyz"] = records[3]["xyz"][:20]
    path.write_bytes(pickle.dumps(records))
    _shards, tally = to_shards("rhd", root, "training")
    assert tally.clips == 1
    assert "anno_training.pickle, picture 3: expected uv_vis" in tally.damaged[0]
