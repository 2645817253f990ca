"""FreiHAND in its official layout: four pictures of each hand, lists of the unique length, mean pose left out."""

import json
import shutil

import numpy as np
import pytest

from data_prep.dataset import Request
from data_prep.datasets.freihand import open_freihand

HANDS = 3
K = np.array([[480.0, 0, 112], [0, 479, 110], [0, 0, 1]])


@pytest.fixture(scope="module")
def download(tmp_path_factory, smplx_joints, motion, picture, save_picture):
    """Three hands, so pictures 0 to 11; picture 4 shows hand 1 before the second background."""
    root = tmp_path_factory.mktemp("freihand")
    joints, mano = [], []
    for number in range(HANDS):
        hand = motion(1, seed=20 + number, place=(0.01, 0.0, 0.7))
        # flat_hand_mean=False: smplx's own layer adds the mean pose to these 45 numbers.
        posed = smplx_joints(True, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False)[0]
        joints.append(posed)
        root_uv = (posed[9] @ K.T)[:2] / posed[9, 2]
        mano.append([np.concatenate([hand.global_aa[0], hand.finger[0], hand.betas[0], root_uv, [0.03]]).tolist()])
    for split, versions in (("training", 4), ("evaluation", 1)):
        (root / f"{split}_K.json").write_text(json.dumps([K.tolist()] * HANDS))
        (root / f"{split}_xyz.json").write_text(json.dumps([one.tolist() for one in joints]))
        (root / f"{split}_scale.json").write_text(json.dumps([0.03] * HANDS))
        (root / f"{split}_mano.json").write_text(json.dumps(mano))
        for number in range(HANDS * versions):
            pixels = joints[number % HANDS] @ K.T
            image = picture(224, 224, pixels[:, :2] / pixels[:, 2:])
            save_picture(root / split / "rgb" / f"{number:08d}.jpg", image)
    return root, np.stack(joints)


def test_all_four_pictures_of_a_hand_carry_its_joints(
    download, to_shards, read_hands, mano, assert_labels_hit_the_blobs, posed_joints
):
    root, truth = download
    shards, tally = to_shards("freihand", root, "training", mano=mano)
    hands = read_hands(shards)
    assert tally.clips == len(hands) == 4 * HANDS
    for number in range(4 * HANDS):
        hand = hands[f"training-{number:08d}.right_0"]
        np.testing.assert_allclose(hand.joints_cam[0], truth[number % HANDS], atol=1e-6)
        # Fails by centimetres if the mean pose is not added.
        np.testing.assert_allclose(posed_joints(hand)[0], truth[number % HANDS], atol=2e-5)
        assert_labels_hit_the_blobs(hand)
        assert hand.labels.camera_weight.tolist() == hand.labels.place_weight.tolist() == [1.0]


def test_without_mano_the_joints_stay_and_the_parameters_are_unknown(download, to_shards, read_hands):
    hands = read_hands(to_shards("freihand", download[0], "evaluation")[0])
    assert len(hands) == HANDS
    for hand in hands.values():
        assert hand.labels.params_weight.tolist() == hand.labels.betas_weight.tolist() == [0.0]
        assert hand.labels.joints_cam_weight.min() == 1


def test_missing_pictures_are_named_and_the_rest_can_be_converted(download, tmp_path, to_shards):
    root = tmp_path / "copy"
    shutil.copytree(download[0], root)
    (root / "training" / "rgb" / "00000007.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 12 pictures, the first is 00000007\.jpg"):
        to_shards("freihand", root, "training")
    assert to_shards("freihand", root, "training", partial=True)[1].clips == 11


def test_an_evaluation_set_without_its_truth_is_refused_in_words(download, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(download[0], root)
    (root / "evaluation_xyz.json").unlink()
    with pytest.raises(ValueError, match=r"evaluation_xyz\.json: no such file; the evaluation set's truth"):
        open_freihand(Request(root, "evaluation"))
