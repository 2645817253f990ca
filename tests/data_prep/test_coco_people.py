"""COCO-WholeBody and Halpe: boxes that are no boxes, joints without v, people without hands, real samples."""

import json

import numpy as np
import pytest

from data_prep.dataset import DamagedError
from data_prep.json_stream import stream_lists

SIZE = (300, 200)


def hand(x, y, seed):
    return np.random.default_rng(seed).uniform(-25, 25, size=(21, 2)) + np.array([x, y])


def flat(points, confidence):
    return np.column_stack([points, confidence]).reshape(-1).tolist()


NO_HAND = [0.0] * 63


@pytest.fixture(scope="module")
def pictures(picture, save_picture):
    """Two people's hands in one picture (the second's left hand lies over two joints' width), nobody in the other."""
    points = {"first_right": hand(60, 60, 1), "first_left": hand(230, 70, 2), "second_right": hand(150, 140, 3)}

    def write(folder):
        save_picture(folder / "000000000785.jpg", picture(*SIZE, *points.values()))
        save_picture(folder / "000000000999.jpg", picture(*SIZE))

    return points, write


IMAGES = [
    {"id": 785, "file_name": "000000000785.jpg", "width": 300, "height": 200},
    {"id": 999, "file_name": "000000000999.jpg", "width": 300, "height": 200},
]


@pytest.fixture
def wholebody(tmp_path, pictures):
    """Four people: of two some hands are annotated, of one no hand is valid, one is in another picture, without."""
    root = tmp_path / "coco"
    points, write = pictures
    write(root / "train2017")
    some = np.ones(21)
    some[[2, 3]] = 0  # not annotated: x = y = 0
    some[4] = 0.25
    second = np.where(some[:, None] > 0, points["second_right"], 0.0)
    few = np.zeros(21)
    few[:4] = 1
    empty = {"lefthand_kpts": NO_HAND, "righthand_kpts": NO_HAND, "lefthand_box": [0.0] * 4, "righthand_box": [0.0] * 4}
    people = [
        empty | {"id": 1, "image_id": 785, "righthand_valid": True, "lefthand_valid": True,
                 "righthand_kpts": flat(points["first_right"], np.ones(21)), "righthand_box": [30.0, 30.0, 60.0, 60.0],
                 "lefthand_kpts": flat(points["first_left"], np.ones(21))},
        empty | {"id": 2, "image_id": 785, "righthand_valid": True, "lefthand_valid": True,
                 "righthand_kpts": flat(second, some), "righthand_box": [100.0, 90.0, 100.0, 104.0],
                 "lefthand_kpts": flat(points["first_left"], few)},
        empty | {"id": 3, "image_id": 785, "righthand_valid": False, "lefthand_valid": False,
                 "righthand_kpts": flat(points["first_right"], np.ones(21))},
        empty | {"id": 4, "image_id": 999, "righthand_valid": False, "lefthand_valid": False},
    ]  # fmt: skip
    (root / "annotations").mkdir()
    path = root / "annotations" / "coco_wholebody_train_v1.0.json"
    path.write_text(json.dumps({"info": {}, "images": IMAGES, "annotations": people}))
    return root, points


def test_every_valid_hand_of_every_person_in_a_picture_becomes_a_hand_of_one_clip(
    wholebody, to_shards, read_hands, assert_labels_hit_the_blobs
):
    root, points = wholebody
    hands = read_hands(to_shards("coco-wholebody", root, "train")[0])
    # Two right hands and a left one; the second person's left hand has four joints, the third's are not valid.
    assert sorted(hands) == ["000000000785.left_0", "000000000785.right_0", "000000000785.right_1"]
    for one in hands.values():
        assert_labels_hit_the_blobs(one)
        assert one.labels.joints_cam_weight.max() == 0
    labels = hands["000000000785.right_1"].labels
    assert labels.joints_img_weight[0, [2, 3]].tolist() == [0, 0]
    assert labels.joints_img_weight[0, 4] == 0.25
    assert labels.joints_img[0, 2].tolist() == [0, 0]
    # Joints are missing, so the annotated box counts too: it encloses them, 104 is its longer side.
    assert labels.box_side_px.tolist() == [3 * 104.0]
    # An invalid box is no box: that of the joints.
    left = hands["000000000785.left_0"].labels.box_side_px.item()
    assert left == pytest.approx(3 * np.ptp(points["first_left"], axis=0).max(), rel=1e-5)


@pytest.fixture
def halpe(tmp_path, pictures):
    """A person whose right little fingertip is not annotated, and one without any point."""
    root = tmp_path / "halpe"
    points, write = pictures
    write(root / "val2017")
    keypoints = np.zeros((136, 3))
    keypoints[:94, 2] = 2  # body and face are elsewhere
    keypoints[94:115] = np.column_stack([points["first_left"], np.full(21, 2)])
    keypoints[115:136] = np.column_stack([points["first_right"], np.full(21, 1)])
    keypoints[115 + 20] = 0
    people = [
        {"id": 1, "image_id": 785, "keypoints": keypoints.reshape(-1).tolist()},
        {"id": 2, "image_id": 999, "keypoints": np.zeros(408).tolist()},
    ]
    path = root / "halpe_val_v1.json"
    path.write_text(json.dumps({"images": IMAGES, "annotations": people, "categories": []}))
    return root


def test_halpe_hands_start_at_points_94_and_115(halpe, to_shards, read_hands, assert_labels_hit_the_blobs):
    hands = read_hands(to_shards("halpe", halpe, "val")[0])
    assert sorted(hands) == ["000000000785.left_0", "000000000785.right_0"]
    for one in hands.values():
        assert_labels_hit_the_blobs(one)
    assert hands["000000000785.right_0"].labels.joints_img_weight[0].tolist() == [1.0] * 20 + [0.0]


def test_a_joint_list_of_other_length_is_refused_by_file(tmp_path, pictures, to_shards):
    pictures[1](tmp_path / "val2017")
    people = [{"id": 1, "image_id": 785, "keypoints": [0.0] * 78}]
    (tmp_path / "halpe_val_v1.json").write_text(json.dumps({"images": IMAGES, "annotations": people}))
    with pytest.raises(ValueError, match=r"halpe_val_v1\.json: not COCO's format as expected"):
        to_shards("halpe", tmp_path, "val")
    for content in ("", '{"images": [', "<html></html>"):
        (tmp_path / "halpe_val_v1.json").write_text(content)
        with pytest.raises(ValueError, match="not readable as JSON") as caught:
            to_shards("halpe", tmp_path, "val")
        assert str(caught.value).count("halpe_val_v1.json") == 1


@pytest.mark.parametrize("set_name", ["coco-wholebody", "halpe"])
def test_the_real_samples_convert(set_name, shared_dir, tmp_path, to_shards, read_hands):
    realdata = shared_dir / "realdata"
    (tmp_path / "val2017").mkdir()
    for picture in (realdata / "coco_wholebody").glob("*.jpg"):
        (tmp_path / "val2017" / picture.name).symlink_to(picture)
    if set_name == "halpe":
        (tmp_path / "halpe_val_v1.json").symlink_to(realdata / "halpe" / "test_halpe.json")
    else:
        (tmp_path / "coco_wholebody_val_v1.0.json").symlink_to(realdata / "coco_wholebody" / "test_coco_wholebody.json")
    hands = read_hands(to_shards(set_name, tmp_path, "val")[0])
    rights = [hand for name, hand in hands.items() if name.startswith("000000000785")]
    # Counted by hand in the files: hands with v above 0, of at least three joints.
    assert len(hands) == {"coco-wholebody": 6, "halpe": 8}[set_name]
    assert all(hand.was_right for hand in rights) == (set_name == "coco-wholebody")


def test_a_stream_gives_what_json_gives_whatever_the_chunks(tmp_path, monkeypatch):
    content = {
        "a": 12,
        "images": [{"id": 1}, {"id": 23, "name": "é]}"}],
        "none": [],
        "b": {"x": [1]},
        "nums": [1.5, -20],
    }
    path = tmp_path / "x.json"
    for chunk in (1, 2, 7, 1000):
        monkeypatch.setattr("data_prep.json_stream.CHUNK_CHARS", chunk)
        for indent in (None, 2):
            path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
            expected = [(name, item) for name in ("images", "none", "nums") for item in content[name]]
            assert list(stream_lists(path)) == expected
    path.write_text(json.dumps(content)[:-30])
    with pytest.raises(DamagedError, match=r"x\.json: not readable as JSON at character \d+"):
        list(stream_lists(path))
