"""OneHand10K, MPII+NZSL, MTC in their official layouts, and MMPose's files of four sets with the real samples."""

import json
import pickle

import cv2
import numpy as np
import pytest

from data_prep.dataset import Request
from data_prep.datasets import mtc
from data_prep.datasets.onehand10k import open_onehand10k
from data_prep.hand_side import SideJudge
from data_prep.registry import find_data_set
from haptic.perception.detector import detection_from_joints

SIZE = (300, 200)


def points_at(x, y, seed):
    return np.random.default_rng(seed).uniform(-25, 25, size=(21, 2)) + np.array([x, y])


class FakeDetector:
    """Sees the hands it is told of."""

    def __init__(self, *hands):
        self._hands = hands

    def detect_in(self, frame, _region):
        return self.detect(frame)

    def detect(self, frame):
        shape = frame.image.shape
        return [detection_from_joints(0, joints, p_right=p_right, image_shape=shape) for joints, p_right in self._hands]


def clips_of(source):
    return {clip.key: clip for unit in source.units for clip in source.clips(unit)}


# ---- OneHand10K


@pytest.fixture
def onehand10k(tmp_path, picture, save_picture):
    """A hand with two joints not annotated; a picture whose hand is not where a detector finds one; a mask beside."""
    root = tmp_path / "onehand10k"
    points = points_at(150, 100, 1)
    known = points.copy()
    known[[0, 7]] = -1
    rows = []
    for name, joints in (("9.jpg", known), ("33.jpg", points_at(60, 60, 2))):
        numbers = ",".join(f"{value:.0f}" for value in joints.reshape(-1))
        rows.append(f"{name},{SIZE[0]},{SIZE[1]},1,{numbers}")
        save_picture(root / "Train" / "source" / name, picture(*SIZE, joints))
        save_picture(root / "Train" / "mask" / name.replace("jpg", "png"), picture(*SIZE))
    (root / "Train" / "label_joint.txt").write_text("\n".join(rows) + "\n")
    return root, points


@pytest.mark.parametrize("p_right", [0.95, 0.05])
def test_onehand10k_takes_the_side_from_the_detector_and_minus_one_as_unknown(onehand10k, p_right):
    root, points = onehand10k
    source = open_onehand10k(Request(root, "Train"), SideJudge(FakeDetector((points, p_right))))
    assert sum(unit.num_counted for unit in source.units) == 2
    # The hand of 33.jpg is not where the detector sees one, so nobody knows its side: it is left out.
    (clip,) = clips_of(source).values()
    (hand,) = clip.hands
    assert clip.key == "Train-9"
    assert hand.is_right == (p_right > 0.5)
    assert np.flatnonzero(np.isnan(hand.joints_img[0, :, 0])).tolist() == [0, 7]
    np.testing.assert_allclose(hand.joints_img[0, 1], np.round(points[1]))


def test_a_doubtful_side_is_no_side(onehand10k):
    root, points = onehand10k
    assert clips_of(open_onehand10k(Request(root, "Train"), SideJudge(FakeDetector((points, 0.6))))) == {}


def test_a_short_line_of_onehand10k_is_named(onehand10k):
    path = onehand10k[0] / "Train" / "label_joint.txt"
    path.write_text(path.read_text() + "40.jpg,300,200,1,5,5\n")
    with pytest.raises(ValueError, match=r"label_joint\.txt, line 3: expected a name, width, height"):
        open_onehand10k(Request(onehand10k[0], "Train"))


# ---- MPII + NZSL


@pytest.fixture
def mpii(tmp_path, picture, save_picture):
    """A picture with two hands, there once for each; the tip of the little finger is not known."""
    root = tmp_path / "hand_labels"
    points = {"l": points_at(90, 100, 3), "r": points_at(200, 100, 4)}
    for side, joints in points.items():
        valid = np.ones(21)
        valid[20] = 0
        record = {
            "hand_pts": np.column_stack([np.where(valid[:, None] > 0, joints, 0), valid]).tolist(),
            "is_left": float(side == "l"),
            "hand_box_center": joints.mean(axis=0).tolist(),
            "head_box": [[140, 20], [170, 60]],
            "mpii_image": "ex2_2.flv_000040.jpg",
        }
        stem = f"ex2_2.flv_000040_{side}"
        folder = root / "manual_train"
        save_picture(folder / f"{stem}.jpg", picture(*SIZE, *points.values()))
        (folder / f"{stem}.json").write_text(json.dumps(record))
    return root


def test_mpii_hands_have_their_side_and_unknown_points(mpii, to_shards, read_hands, assert_labels_hit_the_blobs):
    hands = read_hands(to_shards("mpii-nzsl", mpii, "manual_train")[0])
    assert len(hands) == 2  # the same picture twice, for one hand each; the dot in its name cannot be in a key
    for name, hand in hands.items():
        assert name.startswith("ex2_2-flv_000040_")
        assert hand.was_right == name.endswith("right_0")
        assert hand.labels.joints_img_weight[0].tolist() == [1.0] * 20 + [0.0]
        assert_labels_hit_the_blobs(hand)
    # PCKh scales by 0.7 of the head's box; it travels in the clip's source.
    for clip in clips_of(find_data_set("mpii-nzsl").open(Request(mpii, "manual_train"))).values():
        assert clip.source.endswith("head_box [[140, 20], [170, 60]]")


# ---- MTC


MTC_K = np.array([[1400.0, 0, 960], [0, 1400, 540], [0, 0, 1]])
DISTORTION = np.array([-0.25, 0.1, 0.001, -0.0005, 0.0])
# X_c = R X_w + t in centimetres: a camera that looks along -z of the world, upside down, 250 cm from its middle.
MTC_R, MTC_T = np.diag([1.0, -1.0, -1.0]), np.array([[10.0], [5.0], [250.0]])


@pytest.fixture(scope="module")
def dome(tmp_path_factory, smplx_joints, motion, picture, save_picture):
    """Camera 0 sees both hands, 1 has no 2D for the left, 2 has a hidden joint, 3 overlap, 4 no picture."""
    root = tmp_path_factory.mktemp("mtc")
    joints = {}
    for name, is_right, x in (("right_hand", True, -0.75), ("left_hand", False, 0.7)):
        hand = motion(1, seed=60 + is_right, place=(x, 0.1, 0.0))
        joints[name] = 100 * smplx_joints(
            is_right, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True
        )[0]  # fmt: skip
    whole = {"insideImg": np.ones(21, bool), "occluded": np.zeros(21, bool), "overlap": False}
    hidden = {**whole, "occluded": np.arange(21) == 5}
    outside = {**whole, "insideImg": np.arange(21) != 5}
    seen = {
        "right_hand": {0: whole, 1: whole, 2: hidden, 3: {**whole, "overlap": True}, 4: whole},
        "left_hand": {0: whole, 2: hidden, 3: outside},
    }
    frame = {"seqName": "171026_pose1", "frame_str": "00001234", "id": 0, "body": {}}
    frame |= {name: {"landmarks": joints[name].reshape(-1).tolist(), "2D": seen[name]} for name in joints}
    camera = {"K": MTC_K, "R": MTC_R, "t": MTC_T, "distCoef": DISTORTION}
    # A frame of a body without hands comes first.
    lists = {"training_data": [{"seqName": "171026_pose1", "frame_str": "00001000", "id": 0, "body": {}}, frame],
             "testing_data": []}  # fmt: skip
    (root / "annotation.pkl").write_bytes(pickle.dumps(lists))
    (root / "camera_data.pkl").write_bytes(pickle.dumps({"171026_pose1": dict.fromkeys(range(31), camera)}))
    # Independent: OpenCV's own projection with the lens.
    turn = cv2.Rodrigues(MTC_R)[0]
    pixels = [cv2.projectPoints(one, turn, MTC_T, MTC_K, DISTORTION)[0][:, 0] for one in joints.values()]
    for number in range(4):
        name = f"00_{number:02d}_00001234.jpg"
        save_picture(root / "hdImgs" / "171026_pose1" / "00001234" / name, picture(1920, 1080, *pixels))
    return root, joints, pixels


def test_mtc_hands_are_metres_in_an_undistorted_picture(dome, to_shards, read_hands, assert_labels_hit_the_blobs):
    root, joints, pixels = dome
    hands = read_hands(to_shards("mtc", root, "training")[0])
    key = "171026_pose1-00001234-0"
    assert sorted(hands) == [f"{key}-00.left_0", f"{key}-00.right_0", f"{key}-01.right_0"]
    for name, one in (("right_0", joints["right_hand"]), ("left_0", joints["left_hand"])):
        hand = hands[f"{key}-00.{name}"]
        # By hand: x + 10, 5 - y, 250 - z, in centimetres.
        expected = np.stack([one[:, 0] + 10, 5 - one[:, 1], 250 - one[:, 2]], axis=-1) / 100
        np.testing.assert_allclose(hand.joints_cam[0], expected, atol=1e-5)
        assert_labels_hit_the_blobs(hand)
        T = hand.labels.camera.T_world_cam[0].double().numpy()
        own = hand.labels.joints_cam[0].double().numpy()
        in_world = own @ T[:3, :3].T + T[:3, 3]
        side = np.array([1.0 if hand.was_right else -1.0, 1, 1])
        np.testing.assert_allclose(in_world * side, one / 100, atol=1e-5)
    # The lens matters here: it moves these joints by several pixels.
    pinhole = hands[f"{key}-00.right_0"].labels.joints_img[0].double().numpy()
    assert np.linalg.norm(pinhole - pixels[0], axis=-1).max() > 3


def test_a_missing_sequence_of_mtc_is_named(dome, tmp_path, to_shards):
    for name in ("annotation.pkl", "camera_data.pkl"):
        (tmp_path / name).symlink_to(dome[0] / name)
    with pytest.raises(ValueError, match=r"lacks 1 parts:\s+hdImgs/171026_pose1"):
        to_shards("mtc", tmp_path, "training")
    assert mtc.usable_cameras(None) == set()


# ---- MMPose's files: the real samples


@pytest.fixture
def mmpose_root(shared_dir, tmp_path):
    """Lay a real sample out as MMPose's download: annotations/ beside the pictures."""

    def lay(folder, prefix):
        root = tmp_path / prefix
        (root / "annotations").mkdir(parents=True)
        real = shared_dir / "realdata" / folder
        (root / "annotations" / f"{prefix}_test.json").symlink_to(real / f"test_{folder}.json")
        for path in real.iterdir():
            if path.suffix in (".jpg", ".png"):
                (root / path.name).symlink_to(path)
        return root

    return lay


def test_real_freihand_pictures_convert(mmpose_root, to_shards, read_hands):
    hands = read_hands(to_shards("freihand-mmpose", mmpose_root("freihand", "freihand"), "test")[0])
    assert set(hands) == {f"test-{17620 + 32560 * k}.right_0" for k in range(4)}
    first = hands["test-17620.right_0"].labels
    np.testing.assert_allclose(first.joints_img[0, 0], [75.0901, 114.7904], atol=1e-3)
    # One hand before four backgrounds.
    np.testing.assert_allclose(hands["test-50180.right_0"].labels.joints_img, first.joints_img, atol=1e-3)


def test_real_rhd_hands_are_left_metres_and_in_openpose_order(mmpose_root, to_shards, read_hands):
    hands = read_hands(to_shards("rhd-mmpose", mmpose_root("rhd", "rhd"), "test")[0])
    assert sorted(hands) == ["test-111.left_0", "test-1111.left_0"]
    for hand in hands.values():
        joints = hand.joints_cam[0]
        assert 0.35 < joints[0, 2] < 0.55
        for base in (5, 9, 13, 17):  # a finger's first bone is its longest
            bones = np.linalg.norm(np.diff(joints[base : base + 4], axis=0), axis=-1)
            assert bones.argmax() == 0
            assert 0.01 < bones.min() < bones.max() < 0.06
    # Thumb's tip and base: the file's second and fifth rows, in millimetres.
    np.testing.assert_allclose(hands["test-111.left_0"].joints_cam[0, 4], [0.01709, -0.07371, 0.4895], atol=1e-6)
    np.testing.assert_allclose(hands["test-111.left_0"].joints_cam[0, 1], [0.08796, -0.1137, 0.4387], atol=1e-6)


def test_real_mpii_hands_take_their_side_from_the_name(mmpose_root, to_shards, read_hands):
    hands = read_hands(to_shards("mpii-nzsl-mmpose", mmpose_root("panoptic", "panoptic"), "test")[0])
    assert sorted(hands) == ["test-100520.left_0", "test-100521.right_0"]


@pytest.mark.slow
def test_real_onehand10k_hands_get_a_side_from_the_landmarker(mmpose_root, to_shards, read_hands):
    hands = read_hands(to_shards("onehand10k-mmpose", mmpose_root("onehand10k", "onehand10k"), "test")[0])
    # Looked at: the back of a right hand over a mouth; the index finger of the left arm, which is nearer, at the lips.
    assert sorted(hands) == ["test-33.left_0", "test-9.right_0"]
