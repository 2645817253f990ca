"""HaMeR's tars and evaluation files: several hands in a picture, png and jpg, filters, boxes, object arrays."""

import io
import json
import pickle
import tarfile

import cv2
import numpy as np
import pytest

from data_prep.datasets.hamer_eval import read_object_npz
from haptic.data.hamer_tars import HamerSet
from haptic.data.shards import ShardStore

SIZE = (300, 200)


def joints_at(x, y, seed):
    return np.random.default_rng(seed).uniform(-30, 30, size=(21, 2)) + np.array([x, y])


def record(points, *, right, beta=0.5, known=21, **changes):
    """One hand of `data.pyd`: side 160 px (scale is in 200ths), root-relative joints of a made-up hand."""
    confidence = (np.arange(21) < known).astype(float)
    return {
        "keypoints_2d": np.column_stack([points, confidence]).astype(np.float32),
        "keypoints_3d": np.column_stack([0.001 * (points - points[0]), np.zeros(21), np.ones(21)]).astype(np.float32),
        "center": points.mean(axis=0),
        "scale": np.array([0.6, 0.8]),
        "hand_pose": np.linspace(-0.5, 0.5, 48).astype(np.float32),
        "betas": np.full(10, beta, np.float32),
        "right": np.array(float(right)),
        "has_hand_pose": np.array(1.0),
        "has_betas": np.array(1.0),
        "extra_info": {"fitting_loss": np.array({"reprojection_loss": np.array(12.0)}), "detection_npz_idx": 0},
        **changes,
    }


@pytest.fixture(scope="module")
def tars(tmp_path_factory, picture):
    """Two pictures in one tar: a jpg with two hands, a png with five hands of which the filter drops two."""
    root = tmp_path_factory.mktemp("hamer")
    folder = root / "hamer_training_data" / "dataset_tars" / "h2o3d-train"
    folder.mkdir(parents=True)
    first = [joints_at(90, 100, 1), joints_at(210, 100, 2)]
    second = joints_at(150, 90, 3)
    several = [
        record(second, right=True, beta=3.5),  # |beta| > 3: neither shape nor pose is believed
        record(second, right=True, known=4),  # too few joints
        record(second, right=True, has_betas=np.array(0.0)),
        record(second, right=False),
        record(second, right=True, extra_info={"fitting_loss": np.array({"reprojection_loss": np.array(40000.0)})}),
    ]
    members = [
        ("a_0.jpg", encoded(picture(*SIZE, *first), ".jpg")),
        ("a_0.data.pyd", pickle.dumps([record(first[0], right=True), record(first[1], right=False)])),
        ("a_0.detection.npz", b"masks are not read"),
        ("b_0.png", encoded(picture(*SIZE, second), ".png")),
        ("b_0.data.pyd", pickle.dumps(several)),
    ]
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return root, first, second


def encoded(image, suffix):
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def test_tars_become_shards_with_every_hand_that_passes_the_filter(
    tars, to_shards, read_hands, assert_labels_hit_the_blobs
):
    root, first, _second = tars
    shards, tally = to_shards("hamer-tars", root, "h2o3d-train", partial=True)
    hands = read_hands(shards)
    # In b_0 one hand has four joints, one a bad fit; the other three stay.
    assert sorted(hands) == [
        "000000-a_0.left_0", "000000-a_0.right_0", "000000-b_0.left_0", "000000-b_0.right_0", "000000-b_0.right_1",
    ]  # fmt: skip
    assert tally.clips == 2
    with tarfile.open(shards[0]) as tar:
        assert json.load(tar.extractfile("000000-a_0.json"))["hand_model"] == "mano"  # whose betas they are
    for hand in hands.values():
        assert_labels_hit_the_blobs(hand)
        assert hand.labels.box_side_px.tolist() == pytest.approx([160.0])  # 200 * the larger scale, nothing added
        assert hand.labels.camera_weight.tolist() == hand.labels.place_weight.tolist() == [0.0]
    np.testing.assert_allclose(hands["000000-a_0.right_0"].labels.joints_img[0], first[0], atol=1e-4)
    left = hands["000000-a_0.left_0"].labels.joints_img[0]
    np.testing.assert_allclose(left, np.stack([299 - first[1][:, 0], first[1][:, 1]], axis=-1), atol=1e-4)
    # The first two of b_0's right hands: shape too large, shape unknown. Both are drawn to the mean, without a pose.
    for name in ("right_0", "right_1"):
        labels = hands[f"000000-b_0.{name}"].labels
        assert (labels.params_weight.item(), labels.betas_weight.item()) == (0.0, 1.0)
        assert labels.params.betas.abs().max() == 0


def test_converted_tars_say_the_same_as_tars_that_are_read_as_they_are(tars, to_shards, read_hands):
    root, _first, _second = tars
    hands = read_hands(to_shards("hamer-tars", root, "h2o3d-train", partial=True)[0])
    tar = root / "hamer_training_data" / "dataset_tars" / "h2o3d-train" / "000000.tar"
    raw = HamerSet("raw", str(tar), store=ShardStore(cache_dir=root / "cache"))
    for track, name in ((0, "a_0.right_0"), (1, "a_0.left_0")):
        ours, theirs = hands[f"000000-{name}"].labels, raw.open(track).labels
        for field in (
            "joints_img",
            "joints_img_weight",
            "joints_cam",
            "box_center_img",
            "box_side_px",
            "params_weight",
        ):
            np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), atol=1e-5)
        np.testing.assert_allclose(ours.params.hand_pose, theirs.params.hand_pose, atol=1e-6)
        np.testing.assert_allclose(ours.params.global_orient, theirs.params.global_orient, atol=1e-6)
        np.testing.assert_allclose(ours.camera.K, theirs.camera.K, rtol=1e-6)


def test_a_tar_with_code_in_its_pickle_is_counted_as_damaged_and_not_run(tmp_path, to_shards, picture):
    folder = tmp_path / "freihand-train"
    folder.mkdir()
    members = [
        ("bad.jpg", encoded(picture(64, 64), ".jpg")),
        ("bad.data.pyd", b"cos\nsystem\n(S'touch ran'\ntR."),
        ("good.jpg", encoded(picture(*SIZE), ".jpg")),
        ("good.data.pyd", pickle.dumps([record(joints_at(150, 100, 1), right=True)])),
    ]
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    _shards, tally = to_shards("hamer-tars", tmp_path, "freihand-train", partial=True)
    assert tally.clips == 1
    assert "os.system" in tally.damaged[0]


def test_a_list_of_tars_with_holes_names_them(tars, to_shards):
    with pytest.raises(ValueError, match=r"lacks 60 parts:\s+h2o3d-train/000001\.tar"):
        to_shards("hamer-tars", tars[0], "h2o3d-train")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, picture, save_picture):
    """Two hands of HInt, names as bytes in an object array, boxes 80 x 100 px; one joint counts in OCC."""
    root = tmp_path_factory.mktemp("eval")
    folder = root / "hamer_evaluation_data"
    folder.mkdir()
    points = [joints_at(140, 100, 7), joints_at(150, 90, 8)]
    names = np.empty(2, object)
    names[:] = [b"x_l.jpg", b"x_r.jpg"]
    common = {
        "imgname": names,
        "center": np.array([[140.0, 100.0], [150.0, 90.0]]),
        "scale": np.array([[80.0, 100.0], [80.0, 100.0]]),
        "right": np.array([0.0, 1.0]),
        "extra_info": np.array([{}, {}], dtype=object),
    }
    for part, seen in (("all", range(21)), ("occ", [8])):
        confidence = np.isin(np.arange(21), list(seen)).astype(float)
        keypoints = np.stack([np.column_stack([one, confidence]) for one in points])
        np.savez(folder / f"TEST_newdays_img_{part}.npz", hand_keypoints_2d=keypoints, **common)
    for name, one in zip(("x_l.jpg", "x_r.jpg"), points, strict=True):
        save_picture(root / "HInt_annotation" / "TEST_newdays_img" / name, picture(*SIZE, one))
    return root, points


def test_evaluation_hands_keep_the_box_that_pck_scales_by(
    evaluation, to_shards, read_hands, assert_labels_hit_the_blobs
):
    root, points = evaluation
    hands = read_hands(to_shards("hamer-eval", root, "NEWDAYS-TEST-ALL")[0])
    assert sorted(hands) == ["NEWDAYS-TEST-ALL-0.left_0", "NEWDAYS-TEST-ALL-1.right_0"]
    for hand in hands.values():
        assert hand.labels.box_side_px.tolist() == [300.0]  # scale is in pixels: three times 100
        assert_labels_hit_the_blobs(hand)
    right = hands["NEWDAYS-TEST-ALL-1.right_0"].labels
    np.testing.assert_allclose(right.joints_img[0], points[1], atol=1e-4)
    assert right.box_center_img.tolist() == [[150.0, 90.0]]


def test_hands_of_which_one_joint_counts_are_kept(evaluation, to_shards, read_hands):
    hands = read_hands(to_shards("hamer-eval", evaluation[0], "NEWDAYS-TEST-OCC")[0])
    assert len(hands) == 2
    for hand in hands.values():
        assert np.flatnonzero(hand.labels.joints_img_weight[0]).tolist() == [8]
        assert hand.labels.box_side_px.tolist() == [300.0]


def test_an_npz_with_code_in_it_is_refused(tmp_path):
    class Shout:
        def __reduce__(self):
            return print, ("ran",)

    values = np.empty(1, object)
    values[0] = Shout()
    np.savez(tmp_path / "bad.npz", imgname=values)
    with pytest.raises(ValueError, match=r"bad\.npz, imgname\.npy: .*print.* not plain data"):
        read_object_npz(tmp_path / "bad.npz")
