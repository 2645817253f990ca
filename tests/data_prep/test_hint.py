"""HInt in its official layout: a list with one dict, occlusion flags, sides in names, Ego4D without pictures."""

import json
import shutil

import numpy as np
import pytest

from haptic.data.samples import KEY_PATTERN

EGO4D = "16ba692f-cb3a-4998-be66-f7e5e74b49f2_5875857b-41b0-46a9-9770-9faf9d1bb95d_4419_pre_15"


@pytest.fixture(scope="module")
def download(tmp_path_factory, picture, save_picture):
    """A left hand in a landscape picture, a right one in a portrait, and two of Ego4D of which one has a picture."""
    root = tmp_path_factory.mktemp("HInt_annotation_partial")
    rng = np.random.default_rng(3)
    truth = {}
    for split, stem, size in (
        ("TEST_newdays_img", "ND_1_frame000001_l", (320, 200)),
        ("TEST_newdays_img", "ND_1_frame000001_r", (200, 320)),
        ("TEST_ego4d_img", f"{EGO4D}_l", (300, 220)),
        ("TEST_ego4d_img", f"{EGO4D}_r", None),
    ):
        joints = rng.uniform(60, 140, size=(21, 2))
        hidden = np.zeros(21, int)
        hidden[[3, 4]] = 1
        box = [50.0, 40.0, 150.0, 160.0]  # not the joints' own box
        (root / split).mkdir(exist_ok=True)
        record = [{"keypoints": joints.tolist(), "occlusion": hidden.tolist(), "bbox": [box]}]
        (root / split / f"{stem}.json").write_text(json.dumps(record))
        if size is not None:
            save_picture(root / split / f"{stem}.jpg", picture(*size, joints))
        truth[stem] = (joints, hidden, size)
    return root, truth


def test_both_sides_lie_on_their_pictures_with_hidden_joints_marked(
    download, to_shards, read_hands, assert_labels_hit_the_blobs
):
    root, truth = download
    hands = read_hands(to_shards("hint", root, "TEST_newdays_img")[0])
    assert sorted(hands) == ["ND_1_frame000001_l.left_0", "ND_1_frame000001_r.right_0"]
    for name, hand in hands.items():
        joints, hidden, (width, _height) = truth[name.split(".")[0]]
        # Read back as a right hand: a left one is turned over, x -> W - 1 - x.
        expected = joints if hand.was_right else np.stack([width - 1 - joints[:, 0], joints[:, 1]], axis=-1)
        np.testing.assert_allclose(hand.labels.joints_img[0], expected, atol=1e-4)
        assert hand.labels.joints_visible[0].tolist() == (1 - hidden).tolist()
        assert hand.labels.joints_img_weight.min() == 1  # hidden joints are annotated too
        assert_labels_hit_the_blobs(hand)


def test_the_annotated_box_is_kept_since_pck_scales_by_it(download, to_shards, read_hands):
    hands = read_hands(to_shards("hint", download[0], "TEST_newdays_img")[0])
    hand = hands["ND_1_frame000001_r.right_0"]
    assert hand.labels.box_side_px.tolist() == [3 * 120.0]  # three times the longer side, 160 - 40
    assert hand.labels.box_center_img.tolist() == [[100.0, 100.0]]


def test_ego4d_without_pictures_says_how_to_get_them_and_long_names_become_keys(download, to_shards, read_hands):
    with pytest.raises(ValueError, match=r"1 of 2 pictures, the first is .*_r\.jpg .*prep_ego4d\.py"):
        to_shards("hint", download[0], "TEST_ego4d_img")
    (name,) = read_hands(to_shards("hint", download[0], "TEST_ego4d_img", partial=True)[0])
    key = name.split(".")[0]
    assert name.endswith(".left_0")
    assert key.startswith(EGO4D[:36])
    assert len(key) == 80
    assert KEY_PATTERN.fullmatch(key)


def test_a_damaged_annotation_and_a_damaged_picture_are_named_and_the_others_are_converted(
    download, tmp_path, to_shards
):
    root = tmp_path / "copy"
    shutil.copytree(download[0], root)
    (root / "TEST_newdays_img" / "ND_1_frame000001_l.json").write_text("[]")
    for suffix in ("jpg", "json"):
        source = root / "TEST_newdays_img" / f"ND_1_frame000001_r.{suffix}"
        shutil.copy(source, source.with_stem("ND_2_frame000001_r"))
    (root / "TEST_newdays_img" / "ND_2_frame000001_r.jpg").write_bytes(b"<html>not found</html>")
    _shards, tally = to_shards("hint", root, "TEST_newdays_img")
    assert tally.clips == 1
    assert len(tally.damaged) == 2
    assert "ND_2_frame000001_r.jpg: not a readable picture" in tally.damaged[1]
    assert "ND_1_frame000001_l.json: expected a list of one dict" in tally.damaged[0]
